"""Every reader, on small data written here, and what each says of bad input."""

import gzip
import io
import struct

import numpy as np
import pytest
from PIL import Image

from dd_jax import readers
from dd_jax.readers import read, resize

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)
LABELS = np.arange(12) % 3


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


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


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


FLOATS = (IMAGES / 255).astype(np.float32)
WITH_NAN = FLOATS.copy()
WITH_NAN[3, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "no array 'labels', only .'images'."),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images of shape \(0, 5, 4, 1\)"),
        ({"images": IMAGES[:, 0], "labels": LABELS}, r"images of shape \(12, 4\)"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"labels of shape \(5,\) .* use 12 integers"),
        ({"images": IMAGES, "labels": LABELS / 2}, "type float64; use 12 integers"),
        ({"images": IMAGES, "labels": LABELS - 1}, "label -1"),
        ({"images": IMAGES, "labels": LABELS * 2}, "no training example of class 1"),
        ({"images": IMAGES, "labels": LABELS * 0}, "only one class"),
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


def write_classes(folder, suffix=".png", names=("cat", "dog", "eel")):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in np.flatnonzero(label == LABELS):
            Image.fromarray(IMAGES[i]).save(folder / name / f"{i:02}{suffix}")


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
    """A small TFDS set made here and read back without TensorFlow."""

    @pytest.fixture
    def data_dir(self, tmp_path, monkeypatch):
        tfds = pytest.importorskip("tensorflow_datasets")

        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(5, 4, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            }
        )

        class TinyShapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            """Twelve random images, and their negatives for testing."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features, description="tiny")

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(IMAGES), "test": self._generate_examples(255 - IMAGES)}

            def _generate_examples(self, images):
                for i, (image, label) in enumerate(zip(images, LABELS, strict=True)):
                    Image.fromarray(image).save(png := io.BytesIO(), "png")
                    png.seek(0)
                    yield i, {"image": png, "label": int(label)}

        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        builder = TinyShapes(data_dir=str(tmp_path / "tfds"), file_format="array_record")
        builder.download_and_prepare()
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
            monkeypatch.setattr(readers, "_decode", None)  # the second time must not decode again

    def test_a_missing_set_says_what_to_do(self, data_dir, monkeypatch):
        monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"'mnist' is not in .*tfds build mnist --file_format=array_record"):
            read("mnist")
        with pytest.raises(ValueError, match="'no_such_set' is neither a TFDS set nor a path"):
            read("no_such_set")
