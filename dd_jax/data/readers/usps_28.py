"""USPS as MNIST has its digits: 28×28 pixels with a margin, and all images split anew.

The paper's authors used a copy of USPS of 28×28 pixels with smaller digits and 7,438 and 1,860 images. It is not among
the public sources that we read. This one is near to it: it has as many images, but not the same ones in each part, and
other grey levels (mean 0.132, std 0.294; theirs 0.1597 and 0.2573). Digits stay where they are in their frame. Networks
trained on MNIST are then about as good on them as the paper says for its copy (docs/trials.md).
"""

import numpy as np

from dd_jax.data.forms import resize
from dd_jax.data.readers.raw import RawData
from dd_jax.data.readers.tfds import read_tfds

BOX, SIDE = 20, 28  # pixels: MNIST's digits, and its images
TRAIN_FRACTION = 0.8  # 7,438 of 9,298

HOW = (
    "of TFDS's usps, training and test images in a row: resized to 20×20 (bicubic, by Pillow) in the middle of 28×28 "
    "black ones; the last fifth of np.random.default_rng(0).permutation(9298) is for testing"
)


def read_usps_28() -> RawData:
    """All images of TFDS's ``usps`` with a margin, split at random, always in the same way.

    Raises:
      ValueError: ``usps`` cannot be read (see :func:`dd_jax.data.readers.tfds.read_tfds`).
    """
    return with_margin(read_tfds("usps"))


def with_margin(usps: RawData) -> RawData:
    """Gives digits that fill their images a margin, and splits all of them anew.

    Args:
      usps: images ``[N, n, n, 1]`` with a test split.

    Returns:
      ``[N, 28, 28, 1]`` images; four fifths of all examples for training, in an order of no meaning.
    """
    assert usps.test_images is not None
    assert usps.test_labels is not None
    images = framed(np.concatenate([usps.images, usps.test_images]))
    labels = np.concatenate([usps.labels, usps.test_labels])
    train, test = np.split(np.random.default_rng(0).permutation(len(labels)), [int(TRAIN_FRACTION * len(labels))])
    return RawData(images[train], labels[train], images[test], labels[test], usps.class_names)


def framed(images: np.ndarray) -> np.ndarray:
    """Images resized to 20×20 pixels, bicubic, in the middle of 28×28 black ones.

    Args:
      images: ``[N, n, n, 1]`` uint8, the digits bright.

    Returns:
      ``[N, 28, 28, 1]`` uint8.
    """
    margin = (SIDE - BOX) // 2
    return np.pad(resize(images, BOX), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
