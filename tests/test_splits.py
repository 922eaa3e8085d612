"""Splits of any names, in every kind of source."""

import numpy as np
import pytest
from sources import IMAGES, LABELS, npz, write_classes

from dd_jax.data.dataset import make_dataset
from dd_jax.data.readers import Chosen, read


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "Val"])
def test_a_validation_folder_is_the_validation_split_or_for_want_of_another_the_test_split(tmp_path, name):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / name)
    (tmp_path / name / "cat" / "00.png").unlink()
    raw = read(str(tmp_path))
    assert raw.test_labels is not None
    assert (len(raw.labels), len(raw.test_labels)) == (12, 11)
    assert raw.validation_images is None
    assert raw.validation_labels is None
    write_classes(tmp_path / "test")
    (tmp_path / "test" / "dog" / "01.png").unlink()
    (tmp_path / "test" / "dog" / "04.png").unlink()
    (tmp_path / "unlabelled").mkdir()
    raw = read(str(tmp_path))
    assert raw.test_labels is not None
    assert raw.validation_labels is not None
    np.testing.assert_array_equal(np.bincount(raw.test_labels), [4, 2, 4])
    np.testing.assert_array_equal(np.bincount(raw.validation_labels), [3, 4, 4])
    data = make_dataset(raw)
    assert [len(split.labels) for split in (data.train, data.validation, data.test)] == [12, 11, 10]
    np.testing.assert_array_equal(data.validation.images, raw.validation_images)


def test_folders_named_like_splits_are_splits_or_classes_but_never_taken_for_the_other(tmp_path):
    write_classes(tmp_path / "a" / "Training")
    write_classes(tmp_path / "a" / "Testing")
    raw = read(str(tmp_path / "a"))
    assert raw.class_names == ("cat", "dog", "eel")
    assert raw.test_images is not None
    write_classes(tmp_path / "vehicles", names=("bus", "car", "train"))
    assert read(str(tmp_path / "vehicles")).class_names == ("bus", "car", "train")
    for folders, message in (
        (("train", "holdout"), "no split for testing .*, but 'holdout'; say which is for training"),
        (("test", "validation"), "folders 'test', 'validation'; give one split for training"),
        (("testing", "other"), "folders 'other', 'testing'; give one split for training"),
        (("train", "training"), "folders 'train', 'training'; give one split for training"),
        (("train", "val", "valid"), "'val', 'valid'; give one split"),
    ):
        for folder in folders:
            write_classes(tmp_path / "-".join(folders) / folder)
        with pytest.raises(ValueError, match=message):
            read(str(tmp_path / "-".join(folders)))
    write_classes(tmp_path / "flat", names=("train", "test"))  # pictures whose classes are not told
    with pytest.raises(ValueError, match="flat/train holds 0 class folders"):
        read(str(tmp_path / "flat"))
    for name in ("bottle", "nut"):
        write_classes(tmp_path / "inside" / name / "test", names=("good", "broken"))
    with pytest.raises(ValueError, match=r"bottle/test is a split within a class"):
        read(str(tmp_path / "inside"))


def counts_of(raw):
    """Examples for training, validation and testing; None where there is no such split."""
    return tuple(None if a is None else len(a) for a in (raw.labels, raw.validation_labels, raw.test_labels))


NAMED = {"good": IMAGES, "fresh": IMAGES[:6], "validation": IMAGES[:3], "unlabelled": IMAGES[:9]}


class NamedSplits:
    """A source of each kind with the splits of ``NAMED``."""

    def npz(self, folder, prepare):
        fields = {f"{name}_images": images for name, images in NAMED.items()}
        labels = {f"{name}_labels": LABELS[: len(images)] for name, images in NAMED.items() if name != "unlabelled"}
        return npz(folder, **fields, **labels)

    def keras(self, folder, prepare):
        fields = {f"x_{name}": images for name, images in NAMED.items()}
        return npz(folder, **fields, **{f"y_{name}": LABELS[: len(images)] for name, images in NAMED.items()})

    def folder(self, folder, prepare):
        for name, images in NAMED.items():
            write_classes(folder / "named" / name)
            for i in range(len(images), 12):
                next((folder / "named" / name).glob(f"*/{i:02}.png")).unlink()
        return str(folder / "named")

    def tfds(self, folder, prepare):
        prepare(**NAMED)
        return "tiny_shapes"

    def function(self, folder, prepare):
        text = f"from numpy import array\ndef f(): return {{'good_images': array({IMAGES.tolist()}, 'uint8'), "
        text += f"'good_labels': array({LABELS.tolist()}), 'fresh_images': array({IMAGES[:6].tolist()}, 'uint8'), "
        (folder / "with_splits.py").write_text(text + f"'fresh_labels': array({LABELS[:6].tolist()})}}")
        return "with_splits:f"


@pytest.mark.parametrize("kind", ["npz", "keras", "folder", "tfds", "function"])
def test_splits_of_any_names_are_chosen_and_those_that_are_not_there_name_what_is(kind, tmp_path, prepare, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = getattr(NamedSplits(), kind)(tmp_path, prepare)
    validation = None if kind == "function" else 3
    raw = read(source, chosen=Chosen("good", "fresh"))
    assert counts_of(raw) == (12, validation, 6)
    assert {image.tobytes() for image in raw.images} == {image.tobytes() for image in IMAGES}
    if kind != "function":
        assert counts_of(read(source, chosen=Chosen("good"))) == (12, None, 3)  # validation, for want of a test split
        assert counts_of(read(source, chosen=Chosen("good", "validation"))) == (12, None, 3)
    for chosen, message in (
        (Chosen("good", "none"), r"has the .*('fresh', 'good'|'good', 'fresh').*; use one of them for test_split"),
        (Chosen("none"), r"'fresh'.*; use one of them for train_split"),
        (Chosen("good", "good"), "'good' for training and for testing; use different"),
        (
            Chosen(None, "fresh"),
            "say which is for training and which for testing|has no array 'images', only .*good",
        ),
    ):
        with pytest.raises(ValueError, match=f"^dataset: .*({message})"):
            read(source, chosen=chosen)


def test_splits_that_are_chosen_need_labels_and_a_source_with_names(tmp_path):
    source = npz(tmp_path, images=IMAGES, labels=LABELS, more_images=IMAGES)
    with pytest.raises(ValueError, match=r"has no array 'more_labels', only"):
        read(source, chosen=Chosen("more", "train"))
    assert counts_of(read(source, chosen=Chosen("train"))) == (12, None, None)
    write_classes(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"flat has the folders 'cat', 'dog', 'eel'; use one of them for test_split"):
        read(str(tmp_path / "flat"), chosen=Chosen(None, "test"))
    with pytest.raises(ValueError, match=r"^dataset: digits has fixed splits; leave out train_split"):
        read("digits", chosen=Chosen("train"))


def test_npz_splits_go_by_the_same_names(tmp_path):
    held = {"images": IMAGES, "labels": LABELS, "val_images": IMAGES[:3], "val_labels": LABELS[:3]}
    raw = read(npz(tmp_path, **held))
    np.testing.assert_array_equal(raw.test_images, IMAGES[:3, ..., None])
    assert raw.validation_images is None
    raw = read(npz(tmp_path, **held, test_images=IMAGES[:6], test_labels=LABELS[:6], mean=0.5))
    np.testing.assert_array_equal(raw.validation_images, IMAGES[:3, ..., None])
    np.testing.assert_array_equal(raw.test_images, IMAGES[:6, ..., None])
    with pytest.raises(ValueError, match=r"no split for testing \(.*\), but 'holdout'; say which"):
        read(npz(tmp_path, images=IMAGES, labels=LABELS, holdout_images=IMAGES, holdout_labels=LABELS))
    with pytest.raises(ValueError, match="validation images or validation labels without the other"):
        read(npz(tmp_path, images=IMAGES, labels=LABELS, val_labels=LABELS))


def test_keras_and_medmnist_s_layouts_are_read(tmp_path):
    column = LABELS[:, None]
    raw = read(npz(tmp_path, x_train=IMAGES, y_train=column, x_test=IMAGES[:6], y_test=column[:6]))
    np.testing.assert_array_equal(raw.labels, LABELS)
    np.testing.assert_array_equal(raw.test_images, IMAGES[:6, ..., None])
    of_val = {"val_images": IMAGES[:3], "val_labels": column[:3]}
    of_test = {"test_images": IMAGES[:6], "test_labels": column[:6]}
    raw = read(npz(tmp_path, train_images=IMAGES, train_labels=column, **of_val, **of_test))
    np.testing.assert_array_equal(raw.test_labels, LABELS[:6])
    np.testing.assert_array_equal(raw.validation_labels, LABELS[:3])
    with pytest.raises(ValueError, match=r"labels of shape \(12, 2\)"):
        read(npz(tmp_path, train_images=IMAGES, train_labels=np.repeat(column, 2, 1)))


def test_parts_of_splits_are_chosen_where_they_have_no_example_in_common(prepare):
    prepare(train=IMAGES, extra=255 - IMAGES)
    raw = read("tiny_shapes", chosen=Chosen("train[:75%]+extra", "train[75%:]"))
    assert counts_of(raw) == (21, None, 3)
    both = np.concatenate([raw.images[:9], raw.test_images])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in IMAGES}
    assert counts_of(read("tiny_shapes", chosen=Chosen("train[:9]", "extra[:3]"))) == (9, None, 3)
    assert counts_of(read("tiny_shapes", chosen=Chosen("train[3:]"))) == (9, None, None)
    for test in ("train", "train[70%:]", "extra[:1]+train[:1]"):
        with pytest.raises(ValueError, match=r"'train\[:75%\]' for train and .* for test, with common examples"):
            read("tiny_shapes", chosen=Chosen("train[:75%]", test))
    for part in ("train[:0]", "train[", "trian[:5]", "train[:5", "nothing"):
        with pytest.raises(ValueError, match=r"has the splits 'train', 'extra'.*; use one of them for test_split"):
            read("tiny_shapes", chosen=Chosen("train[:75%]", part))
