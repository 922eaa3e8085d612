"""Every reader, on small data written here, and what each says of bad input."""

import gzip
import os
import re
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from sources import COLOUR, FLOATS, IMAGES, LABELS, WITH_NAN, npz, write_classes

from dd_jax.data.forms import resize
from dd_jax.data.readers import READERS, RawData, content_fingerprint, is_path, read, tfds, usps_28


def write_idx(path, array, packed=False):
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_folder(tmp_path, packed):
    end = ".gz" if packed else ""
    write_idx(tmp_path / f"train-images-idx3-ubyte{end}", IMAGES, packed)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{end}", LABELS, packed)
    raw = read(str(tmp_path))
    np.testing.assert_array_equal(raw.images, IMAGES[..., None])
    np.testing.assert_array_equal(raw.labels, LABELS)
    assert raw.test_images is None
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{end}", IMAGES[:6] // 2, packed)
    write_idx(tmp_path / f"t10k-labels-idx1-ubyte{end}", LABELS[:6], packed)
    np.testing.assert_array_equal(read(str(tmp_path)).test_images, IMAGES[:6, ..., None] // 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file of unsigned bytes: it begins with nothing"),
        (b"\x00\x00\x0d\x03" + bytes(20), "it begins with 00000d03"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 12, 5, 4) + bytes(239), "truncated or too long"),
        (b"\x00\x00\x08\x03\x00", "truncated or too long"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.*{message}"):
        read(str(tmp_path))


def test_a_damaged_gzip_and_a_missing_file_are_refused(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", IMAGES, packed=True)
    with pytest.raises(ValueError, match=r"has no train-labels-idx1-ubyte\[.gz\]"):
        read(str(tmp_path))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        read(str(tmp_path))


def test_npz(tmp_path):
    raw = read(npz(tmp_path, images=IMAGES, labels=LABELS, class_names=["a", "b", "c"]))
    np.testing.assert_array_equal(raw.images[..., 0], IMAGES)
    np.testing.assert_array_equal(raw.labels, LABELS)
    assert raw.class_names == ("a", "b", "c")
    floats = np.stack([IMAGES / 255] * 3, -1)
    raw = read(npz(tmp_path, images=floats, labels=LABELS, test_images=floats[:3], test_labels=LABELS[:3]))
    np.testing.assert_array_equal(raw.images[..., 2], IMAGES)
    assert raw.test_images is not None
    assert raw.test_images.shape == (3, 5, 4, 3)
    assert raw.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "no array 'labels', only .'images'."),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images of shape \(0, 5, 4, 1\)"),
        ({"images": IMAGES[:, 0], "labels": LABELS}, r"images of shape \(12, 4\)"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"labels of shape \(5,\) .* use 12 integers"),
        ({"images": IMAGES, "labels": LABELS / 2}, "type float64; use 12 integers"),
        ({"images": IMAGES, "labels": LABELS - 1}, "label -1"),
        ({"images": IMAGES, "labels": LABELS * 0}, "only one class"),
        ({"images": IMAGES, "labels": LABELS, "x_train": IMAGES}, "the arrays 'images' and 'x_train'; give one"),
        ({"x_train": IMAGES, "y_test": LABELS}, "no array 'labels', only"),
        ({"images": IMAGES.astype(np.uint16), "labels": LABELS}, "type uint16; use uint8"),
        ({"images": IMAGES > 99, "labels": LABELS}, "type bool; use uint8"),
        ({"images": IMAGES, "labels": LABELS, "class_names": ["a", "b"]}, "a label 2; accepted are 0 to 1"),
        ({"images": WITH_NAN, "labels": LABELS}, "1 NaN or infinite pixels"),
        ({"images": FLOATS * 255, "labels": LABELS}, r"floats must be in \[0, 1\]"),
        ({"images": IMAGES.astype(int), "labels": LABELS}, "type int64; use uint8"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES}, "without the other"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES[:, 1:], "test_labels": LABELS}, "test images of"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES, "test_labels": LABELS + 1}, "test label 3"),
    ],
)
def test_npz_files_that_cannot_be_used_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=f"data.npz has .*{message}"):
        read(npz(tmp_path, **arrays))


def test_truncated_missing_and_pickled_npz_files_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    for content in (b"", b"PK\x03\x04rubbish"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is no readable .npz file"):
            read(str(path))
    with pytest.raises(ValueError, match="does not exist"):
        read(str(tmp_path / "other.npz"))
    np.savez(path, images=IMAGES, labels=np.array([{}] * 12, object))
    with pytest.raises(ValueError, match=r"is no readable .npz file .*allow_pickle"):
        read(str(path))


def test_folder_by_class(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    raw = read(str(tmp_path))
    order = np.argsort(LABELS, kind="stable")
    np.testing.assert_array_equal(raw.images[..., 0], IMAGES[order])
    np.testing.assert_array_equal(raw.labels, LABELS[order])
    assert raw.class_names == ("cat", "dog", "eel")


def test_folder_with_train_and_test(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    raw = read(str(tmp_path))
    np.testing.assert_array_equal(raw.test_images, raw.images)
    write_classes(tmp_path / "other" / "train")
    write_classes(tmp_path / "other" / "test", names=("cat", "dog", "emu"))
    with pytest.raises(ValueError, match=r"/test has classes that training has not: 'emu'"):
        read(str(tmp_path / "other"))


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds 0 class folders"):
        read(str(tmp_path))
    write_classes(tmp_path)
    Image.fromarray(IMAGES[0][1:]).save(tmp_path / "eel" / "odd.png")
    with pytest.raises(
        ValueError, match=r"eel/odd.png is 4×4 grey, .*cat/00.png 5×4 grey; give a size in pixels to bring"
    ):
        read(str(tmp_path))
    (tmp_path / "eel" / "odd.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"odd.png cannot be read as an image"):
        read(str(tmp_path))
    with pytest.raises(ValueError, match="is no folder"):
        read(str(tmp_path / "nowhere"))


def damaged(path):
    """The path, of a file that now ends half way."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


class Sources:
    """A small source of each reader, and one of the same kind that cannot be read; None where there is none."""

    def __init__(self, folder, prepare, monkeypatch):
        self.folder, self.prepare, self.monkeypatch = folder, prepare, monkeypatch

    def digits(self):
        return "digits", None

    def function(self):
        arrays = f"images=np.arange(240, dtype=np.uint8).reshape(12, 5, 4), labels=np.array({LABELS.tolist()})"
        text = f"import numpy as np\n\ndef good():\n    return dict({arrays})\n\ndef bad():\n    return 1 / 0\n"
        (self.folder / "mine_of_the_laws.py").write_text(text)
        return "mine_of_the_laws:good", "mine_of_the_laws:bad"

    def tfds(self):
        self.prepare(train=IMAGES, test=255 - IMAGES)
        return "tiny_shapes", "no_such_set"

    def usps_28(self):
        images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 1), np.uint8)
        labels = (np.arange(30) % 3).astype(np.int32)
        usps = RawData(images[:20], labels[:20], images[20:], labels[20:], tuple("012"))
        self.monkeypatch.setattr(usps_28, "read_tfds", lambda name: usps)
        return "usps_28", None

    def npz(self):
        held = {"images": IMAGES, "labels": LABELS, "test_images": IMAGES[:6], "test_labels": LABELS[:6]}
        for name in ("good", "bad"):
            np.savez(self.folder / f"{name}.npz", **held)
        return str(self.folder / "good.npz"), str(damaged(self.folder / "bad.npz"))

    def idx(self):
        for name in ("good", "bad"):
            (self.folder / name).mkdir()
            write_idx(self.folder / name / "train-images-idx3-ubyte", IMAGES)
            write_idx(self.folder / name / "train-labels-idx1-ubyte", LABELS)
        return str(self.folder / "good"), str(damaged(self.folder / "bad" / "train-images-idx3-ubyte").parent)

    def folder_by_class(self):
        for name in ("good", "bad"):
            write_classes(self.folder / name)
        damaged(self.folder / "bad" / "cat" / "00.png")
        return str(self.folder / "good"), str(self.folder / "bad")

    def of(self, reader):
        return getattr(self, "folder_by_class" if reader == "folder" else reader)()


@pytest.fixture
def sources(tmp_path, prepare, monkeypatch):
    folder = tmp_path / "sources"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Sources(folder, prepare, monkeypatch)


def check_labelled(images, labels, shape, classes):
    """The contract of one split."""
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert images.shape == (*labels.shape, *shape)
    assert labels.min() >= 0
    assert labels.max() < classes


@pytest.mark.parametrize("name", READERS)
class TestLaws:
    """What every reader does. A new one needs a source in :class:`Sources`, and nothing else."""

    def test_its_source_is_its_own(self, name, sources):
        for source in filter(None, sources.of(name)):
            assert next(reader for reader, row in READERS.items() if row.takes(source)) == name

    @pytest.mark.parametrize(("size", "channels"), [(None, None), (7, 3), (6, 1)])
    def test_what_it_reads_has_the_types_shapes_and_ranges_of_raw_data(self, name, sources, size, channels):
        source, _ = sources.of(name)
        raw = read(source, size, channels)
        shape, classes = raw.images.shape[1:], len(raw.class_names)
        assert len(shape) == 3
        assert shape == (size or shape[0], size or shape[1], channels or 1)
        check_labelled(raw.images, raw.labels, shape, classes)
        np.testing.assert_array_equal(np.unique(raw.labels), np.arange(classes))  # each is there
        assert len(set(raw.class_names)) == classes >= 2
        assert all(type(text) is str for text in raw.class_names)
        for images, labels in (
            (raw.test_images, raw.test_labels),
            (raw.validation_images, raw.validation_labels),
        ):
            assert (images is None) == (labels is None)
            if images is not None:
                check_labelled(images, labels, shape, classes)

    def test_it_reads_the_same_again(self, name, sources):
        source, _ = sources.of(name)
        assert content_fingerprint(read(source)) == content_fingerprint(read(source))

    def test_what_it_cannot_read_is_refused_in_one_line_that_names_it(self, name, sources):
        _, source = sources.of(name)
        if source is None:
            pytest.skip("it is part of scikit-learn")
        with pytest.raises(ValueError, match=f"^dataset: [^\n]*{re.escape(source)}[^\n]*$"):
            read(source)


OWN = """
import numpy as np
from dd_jax.data.readers import RawData
images, labels = np.arange(240, dtype=np.uint8).reshape(12, 5, 4), np.arange(12) % 3
def named():
    return {"images": images / 255, "labels": labels, "test_images": images, "test_labels": labels}
def raw():
    return RawData(images[..., None], labels, images[:3, ..., None], labels[:3], ("a", "b", "c"))
def pair():
    return images, labels
def negative():
    return {"images": images, "labels": labels - 1}
def fails():
    raise KeyError("no such thing")
"""


def test_a_function_of_ones_own_is_read_from_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry not in ("", os.getcwd())])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_reader.py").write_text(OWN)
    named, raw = read("own_reader:named"), read("own_reader:raw", 7)
    np.testing.assert_array_equal(named.images.ravel(), np.arange(240))
    np.testing.assert_array_equal(named.test_images, named.images)
    assert raw.images.shape == (12, 7, 7, 1)
    assert raw.class_names == ("a", "b", "c")
    assert str(tmp_path) not in sys.path
    for source, message in (
        ("own_reader:pair", "own_reader:pair returns tuple; use a mapping with 'images' and 'labels'"),
        ("own_reader:negative", "own_reader:negative has a label -1 in labels"),
        ("own_reader:fails", "own_reader:fails fails with KeyError: 'no such thing'"),
        ("own_reader:images", "'own_reader:images' is no function, but ndarray; use an import path"),
        ("own_reader:other", "'own_reader:other' is not found: own_reader has no 'other'"),
        ("no_such_package.there:other", "is not found: there is no module 'no_such_package'"),
    ):
        with pytest.raises(ValueError, match=f"^dataset: .*{message}"):
            read(source)


def test_what_else_lies_in_folders_is_skipped(tmp_path):
    write_classes(tmp_path)
    expected = read(str(tmp_path))
    for folder in (tmp_path, tmp_path / "cat"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._01.png", ".hidden.png", "notes.txt"):
            (folder / name).write_bytes(b"no image")
        for name in (".git", "__MACOSX", "@eaDir", ".ipynb_checkpoints"):
            (folder / name).mkdir()
            (folder / name / "thumb.png").write_bytes(b"no image")
    (tmp_path / "stray.png").write_bytes(b"no image")
    raw = read(str(tmp_path))
    assert raw.class_names == expected.class_names
    np.testing.assert_array_equal(raw.images, expected.images)


def test_upper_case_suffixes_nested_folders_and_links_are_read(tmp_path):
    write_classes(tmp_path / "data")
    expected = read(str(tmp_path / "data"))
    (tmp_path / "data/cat/00.png").rename(tmp_path / "data/cat/00.PNG")
    (tmp_path / "data/dog").rename(tmp_path / "elsewhere")
    (tmp_path / "data/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/eel/more/of").mkdir(parents=True)
    (tmp_path / "data/eel/11.png").rename(tmp_path / "data/eel/more/of/11.png")
    raw = read(str(tmp_path / "data"))
    np.testing.assert_array_equal(raw.images, expected.images)
    np.testing.assert_array_equal(raw.labels, expected.labels)
    (tmp_path / "data/eel/more/round").symlink_to(tmp_path / "data/eel")
    with pytest.raises(ValueError, match="eel/more/round is a link to a folder that it is in"):
        read(str(tmp_path / "data"))


def test_a_class_without_pictures_is_refused_by_name(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "list.csv").touch()
    with pytest.raises(ValueError, match=r"fox holds no images; accepted are .png"):
        read(str(tmp_path))
    (tmp_path / "fox" / "photo.heic").write_bytes(b"a picture that Pillow does not read")
    with pytest.raises(ValueError, match=r"photo.heic cannot be read as an image"):
        read(str(tmp_path))


def test_pictures_of_several_sizes_and_kinds_are_brought_to_form_one_by_one(tmp_path):
    write_classes(tmp_path)
    Image.fromarray(COLOUR).save(tmp_path / "eel" / "12.png")
    for form, message in (
        (
            (None, None),
            r"12.png is 6×7 colour, .*00.png 5×4 grey; give a size in pixels and channels \(1 .*\) to bring",
        ),
        ((8, None), r"12.png is 8×8 colour, .*00.png 8×8 grey; give channels \(1 for grey, 3 for colour\) to bring"),
        ((None, 3), r"12.png is 6×7 colour, .*00.png 5×4 colour; give a size in pixels to bring"),
    ):
        with pytest.raises(ValueError, match=message):
            read(str(tmp_path), *form)
    order = np.argsort(LABELS, kind="stable")
    for channels in (1, 3):
        raw = read(str(tmp_path), 8, channels)
        images = [Image.fromarray(image) for image in (*IMAGES[order], COLOUR)]
        if channels == 1:
            images[-1] = images[-1].convert("L")
        resized = [
            image.resize((8, 8), Image.Resampling.BICUBIC).convert("L" if channels == 1 else "RGB") for image in images
        ]
        np.testing.assert_array_equal(raw.images, np.stack([np.atleast_3d(np.asarray(image)) for image in resized]))
        np.testing.assert_array_equal(raw.labels, [*LABELS[order], 2])


def test_splits_of_several_forms_name_the_remedy(tmp_path):
    write_classes(tmp_path / "train")
    for label, name in enumerate(("cat", "dog", "eel")):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(COLOUR[label:]).save(tmp_path / "test" / name / "0.png")
        Image.fromarray(COLOUR[:3]).save(tmp_path / "test" / name / "1.png")
    with pytest.raises(ValueError, match=r"1.png is 3×7 colour, .*0.png 6×7 colour; give a size in pixels to bring"):
        read(str(tmp_path))
    with pytest.raises(ValueError, match=r"test images of \(4, 4, 3\), not .*; give channels .* to bring"):
        read(str(tmp_path), 4)
    test_images = read(str(tmp_path), 4, 1).test_images
    assert test_images is not None
    assert test_images.shape == (6, 4, 4, 1)


@pytest.mark.parametrize("source", ["digits", "./nothing"])
def test_a_form_that_no_image_has_is_refused_before_reading(source):
    with pytest.raises(ValueError, match="size: 0 is below 1"):
        read(source, 0)
    with pytest.raises(ValueError, match="channels: 2 is not accepted"):
        read(source, 5, 2)


def test_every_source_is_brought_to_form(tmp_path):
    assert read("digits", 12, 3).images.shape[1:] == (12, 12, 3)
    raw = read(npz(tmp_path, images=IMAGES, labels=LABELS, test_images=IMAGES, test_labels=LABELS), 6)
    assert raw.test_images is not None
    assert raw.images.shape[1:] == raw.test_images.shape[1:] == (6, 6, 1)


@pytest.mark.parametrize(
    "names", [[str(n) for n in range(1, 13)], [f"class{n}x" for n in range(8, 13)], ["07", "8", "10"]]
)
def test_classes_are_numbered_by_the_numbers_in_their_names(tmp_path, names):
    write_classes(tmp_path, names=names)
    for name in names:
        Image.fromarray(IMAGES[0]).save(tmp_path / name / "0.png")
    assert read(str(tmp_path)).class_names == tuple(names)


@pytest.mark.parametrize(
    ("labels", "given", "names"),
    [
        (LABELS + 1, None, ("1", "2", "3")),
        (LABELS + 1, ["a", "b", "c"], ("a", "b", "c")),
        (LABELS + 1, ["no", "a", "b", "c"], ("a", "b", "c")),
        (LABELS * 2, None, ("0", "2", "4")),
        (LABELS * 2, ["a", "x", "b", "y", "c"], ("a", "b", "c")),
        (LABELS + 2**32, None, ("4294967296", "4294967297", "4294967298")),
    ],
)
def test_classes_are_the_labels_that_there_are_numbered_anew(tmp_path, labels, given, names):
    named = {} if given is None else {"class_names": given}
    raw = read(npz(tmp_path, images=IMAGES, labels=labels, test_images=IMAGES[:6], test_labels=labels[:6], **named))
    assert raw.class_names == names
    np.testing.assert_array_equal(raw.labels, LABELS)
    np.testing.assert_array_equal(raw.test_labels, LABELS[:6])


def test_class_names_are_shown_as_given(tmp_path):
    for names in (np.array(["cat", "dog", "éel".encode()], "S"), np.array(["cat", "dog", "éel"])):
        if names.dtype.kind == "S":
            names = np.array([b"cat", b"dog", "éel".encode()])
        assert read(npz(tmp_path, images=IMAGES, labels=LABELS, class_names=names)).class_names == ("cat", "dog", "éel")
    raw = read(npz(tmp_path, images=IMAGES, labels=LABELS, class_names=[3, 5, 8]))
    assert raw.class_names == ("3", "5", "8")
    for names, message in (
        ([0.1, 0.2, 0.3], r"class_names of shape \(3,\) and type float64; use one text"),
        ("cat", r"class_names of shape \(\) and type <U3"),
        ([["a"], ["b"], ["c"]], r"class_names of shape \(3, 1\)"),
        (["a", "b", "a"], "two classes called 'a'"),
        ([b"a", b"\xff", b"c"], "class_names that are not UTF-8"),
    ):
        with pytest.raises(ValueError, match=message):
            read(npz(tmp_path, images=IMAGES, labels=LABELS, class_names=names))


def test_paths_are_told_from_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_classes(tmp_path / "runs" / "mine")
    for source in ("runs/mine", "runs/mine/", "./runs/mine", "~/runs/mine", str(tmp_path / "runs/mine")):
        assert is_path(source)
        assert read(source).class_names == ("cat", "dog", "eel")
    for source in ("digits", "mnist", "runs", "emnist/letters", "mnist:3.0.1", ""):
        assert not is_path(source)
    np.savez(tmp_path / "data.NPZ.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "data.NPZ.npz").rename(tmp_path / "data.NPZ")
    assert len(read("data.NPZ").labels) == 12
    for source, message in (
        ("runs\\mine", r"runs.mine is no folder; write / in place of \\; use a TFDS name"),
        ("mnist/", "mnist/ is no folder"),
        ("~nobody/there", "~nobody/there is no folder"),
        ("./nothing", "./nothing is no folder"),
    ):
        assert is_path(source)
        with pytest.raises(ValueError, match=message):
            read(source)


def test_the_fingerprint_tells_content_apart_and_nothing_else(tmp_path):
    raw = read(npz(tmp_path, images=IMAGES, labels=LABELS, test_images=IMAGES[:3], test_labels=LABELS[:3]))
    known = content_fingerprint(raw)
    assert re.fullmatch("[0-9a-f]{12}", known)
    (tmp_path / "data.npz").rename(tmp_path / "other.npz")
    assert content_fingerprint(read(str(tmp_path / "other.npz"))) == known
    assert content_fingerprint(raw._replace(images=np.asfortranarray(raw.images))) == known
    pixel, labels = raw.images.copy(), raw.labels.copy()
    pixel[3, 2, 1, 0] ^= 1
    labels[[0, 1]] = labels[[1, 0]]
    others = [
        raw._replace(images=pixel),
        raw._replace(labels=labels),
        raw._replace(class_names=("0", "1", "3")),
        raw._replace(test_images=None, test_labels=None),
        raw._replace(test_images=raw.images[3:6], test_labels=raw.labels[3:6]),
        raw._replace(images=raw.images[1:], labels=raw.labels[1:]),
        raw._replace(images=raw.images.reshape(12, 4, 5, 1)),
        raw._replace(
            test_images=None, test_labels=None, validation_images=raw.test_images, validation_labels=LABELS[:3]
        ),
    ]
    assert len({known, *map(content_fingerprint, others)}) == 1 + len(others)


def test_digits_have_a_fixed_stratified_test_split():
    raw = read("digits")
    assert raw.images.shape[1:] == (28, 28, 1)
    assert raw.test_labels is not None
    assert len(raw.labels) + len(raw.test_labels) == 1797
    train, test = np.bincount(raw.labels), np.bincount(raw.test_labels)
    np.testing.assert_array_equal(test, (train + test) // 5)
    assert raw.images.max() == 255


def test_resize_keeps_constant_images_and_the_orientation():
    images = np.full((2, 8, 8, 3), 7, np.uint8)
    images[1, :4, :, 0] = 200
    out = resize(images, 28)
    assert out.shape == (2, 28, 28, 3)
    np.testing.assert_array_equal(out[0], 7)
    assert (out[1, 2, :, 0] > 190).all()
    assert (out[1, -3, :, 0] < 20).all()


class TestTfds:
    """Small TFDS sets made here and read back without TensorFlow."""

    @pytest.fixture
    def data_dir(self, prepare, tmp_path):
        """Twelve random images, and their negatives for testing."""
        prepare(train=IMAGES, test=255 - IMAGES)
        return tmp_path / "tfds"

    def test_reads_what_was_written_and_again_from_the_cache(self, data_dir, monkeypatch):
        for _ in range(2):
            raw = read("tiny_shapes")
            order = [np.flatnonzero((image[..., 0] == IMAGES).all((1, 2)))[0] for image in raw.images]
            assert sorted(order) == list(range(12))
            np.testing.assert_array_equal(raw.labels, LABELS[order])
            assert raw.test_images is not None
            assert {image.tobytes() for image in raw.test_images} == {(255 - image).tobytes() for image in IMAGES}
            assert raw.class_names == ("cat", "dog", "eel")
            monkeypatch.setattr(tfds, "_decode", None)  # the second time must not decode again

    def test_a_missing_set_says_what_to_do(self, data_dir, monkeypatch):
        monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"'mnist' is not in .*tfds build mnist --file_format=array_record"):
            read("mnist")
        with pytest.raises(ValueError, match="'no_such_set' is neither a TFDS set nor a path"):
            read("no_such_set")
        with pytest.raises(ValueError, match=r"with pip install -e '.\[prepare\]' in a checkout"):
            read("mnist")
        (data_dir / "no_such_set").mkdir()
        monkeypatch.chdir(data_dir)
        with pytest.raises(ValueError, match=r"'no_such_set' is neither .*; give ./no_such_set for what is here"):
            read("no_such_set")

    def test_images_of_several_sizes_are_brought_to_form(self, prepare):
        images = [image[: 5 - i % 2] for i, image in enumerate(IMAGES)]
        prepare((None, None, 1), train=images)
        message = (
            r"not of one form: train image \d+ is \d×4 grey, train image 0 \d×4 grey; give a size in pixels to bring"
        )
        with pytest.raises(ValueError, match=message):
            read("tiny_shapes")
        for size, channels in ((6, None), (7, 3), (6, None)):
            raw = read("tiny_shapes", size, channels)
            resized = [resize(image[None, ..., None], size) for image in images]
            expected = {np.repeat(image, channels or 1, -1).tobytes() for image in resized}
            assert {image.tobytes() for image in raw.images} == expected
            assert raw.images.shape == (12, size, size, channels or 1)

    def test_validation_is_the_test_split_for_want_of_another(self, prepare):
        prepare(train=IMAGES, validation=IMAGES[:6])
        raw = read("tiny_shapes")
        assert raw.test_labels is not None
        assert len(raw.test_labels) == 6
        assert raw.validation_images is None

    def test_validation_and_test_are_used_as_named(self, prepare):
        prepare(train=IMAGES, validation=IMAGES[:6], test=IMAGES[:3], extra=IMAGES)
        raw = read("tiny_shapes")
        assert raw.test_labels is not None
        assert raw.validation_labels is not None
        assert [len(labels) for labels in (raw.labels, raw.validation_labels, raw.test_labels)] == [12, 6, 3]

    def test_a_set_with_unknown_splits_beside_train_is_refused(self, prepare):
        prepare(train=IMAGES, extra=IMAGES)
        with pytest.raises(ValueError, match=r"set 'tiny_shapes' has no split for testing .*, but 'extra'; say which"):
            read("tiny_shapes")

    def test_a_set_without_train_is_refused(self, prepare):
        prepare(test=IMAGES)
        with pytest.raises(
            ValueError, match=r"TFDS set 'tiny_shapes' has the splits 'test'; give one split for training"
        ):
            read("tiny_shapes")
