"""SVHN and MNIST side by side, from TFDS folders to batches: small random images in the true sets' own format."""

import jax
import numpy as np
import pytest
from PIL import Image

from dd_jax.data.batches import batch_drawer
from dd_jax.data.dataset import make_dataset
from dd_jax.data.readers import conform, read

RNG = np.random.default_rng(2)
SVHN, SVHN_TEST, SVHN_EXTRA = (RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (60, 20, 30))
MNIST, MNIST_TEST = (RNG.integers(0, 256, (n, 28, 28, 1), dtype=np.uint8) for n in (60, 20))


def digits(images):
    return np.arange(len(images)) * 3 % 10


def prepare(monkeypatch, folder, name, **splits):
    """Prepares a TFDS set by its own builder, of the images given in place of the downloaded ones."""
    tfds = pytest.importorskip("tensorflow_datasets")
    builder_class = tfds.builder_cls(name)

    def examples(split, images):
        for i, (image, digit) in enumerate(zip(images, digits(images), strict=True)):
            example = {"image": Image.fromarray(np.squeeze(image)), "label": int(digit)}
            yield i, example | ({"id": f"{split}_{i:06d}"} if name == "svhn_cropped" else {})

    with monkeypatch.context() as patch:
        patch.setattr(
            builder_class,
            "_split_generators",
            lambda self, dl_manager: {split: examples(split, images) for split, images in splits.items()},
        )
        builder_class(data_dir=str(folder), file_format="array_record").download_and_prepare()


@pytest.fixture
def raws(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(monkeypatch, tmp_path / "tfds", "svhn_cropped", train=SVHN, test=SVHN_TEST, extra=SVHN_EXTRA)
    prepare(monkeypatch, tmp_path / "tfds", "mnist", train=MNIST, test=MNIST_TEST)
    return read("svhn_cropped"), read("mnist")


def by_image(images, labels):
    return {image.tobytes(): label for image, label in zip(np.asarray(images), np.asarray(labels), strict=True)}


def test_svhn_and_grey_digits_become_batches_of_the_same_shape(raws):
    svhn, mnist = raws
    assert by_image(svhn.images, svhn.labels) == by_image(SVHN, digits(SVHN))  # nothing of the split "extra"
    assert by_image(svhn.test_images, svhn.test_labels) == by_image(SVHN_TEST, digits(SVHN_TEST))
    assert by_image(mnist.images, mnist.labels) == by_image(MNIST, digits(MNIST))
    colours = conform(mnist, 32, 3)
    np.testing.assert_array_equal(colours.images, np.repeat(conform(mnist, 32).images, 3, -1))
    assert colours.test_images is not None
    assert colours.test_images.shape == (20, 32, 32, 3)
    for source in (conform(svhn, 32, 3), colours):
        data = make_dataset(source, validation_fraction=0.25)
        assert data.image_shape == (32, 32, 3)
        assert data.class_names == tuple("0123456789")
        parts = [by_image(split.images, split.labels) for split in (data.train, data.validation, data.test)]
        assert [len(part) for part in parts] == [45, 15, 20]
        assert parts[0] | parts[1] == by_image(source.images, source.labels)
        np.testing.assert_allclose(
            data.train.normalisation.mean, np.asarray(data.train.images / 255).mean((0, 1, 2)), rtol=1e-4
        )
        images, labels = jax.jit(batch_drawer(data, 64))(jax.random.key(0), data.train)
        assert images.shape == (64, 32, 32, 3)
        assert labels.shape == (64, 10)
        pixels = np.round(
            (np.asarray(images) * data.train.normalisation.std + data.train.normalisation.mean) * 255
        ).astype(np.uint8)
        drawn = zip(pixels, np.asarray(labels).argmax(-1), strict=True)
        assert all(parts[0][image.tobytes()] == label for image, label in drawn)
    grey = make_dataset(colours, validation_fraction=0.25)
    assert len(set(grey.train.normalisation.mean)) == len(set(grey.train.normalisation.std)) == 1
