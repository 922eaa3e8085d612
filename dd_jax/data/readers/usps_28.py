"""USPS as MNIST has its digits: 28×28 pixels with a margin, and all images split anew.

The paper's authors used a copy of USPS of 28×28 pixels with smaller digits and 7,438 and 1,860 images. It is not among
the public sources that we read. This one is the nearest to it that can be made of the official images: it has as many,
but not the same ones in each part, and other grey levels (mean 0.132, std 0.294; theirs 0.1597 and 0.2573).
"""

import numpy as np

from dd_jax.data.forms import resize
from dd_jax.data.readers.raw import RawData
from dd_jax.data.readers.tfds import read_tfds

BOX, SIDE = 20, 28  # pixels: MNIST's digits, and the images they are centred in
TRAIN_FRACTION = 0.8  # 7,438 of 9,298


def read_usps_28() -> RawData:
    """All images of TFDS's ``usps`` with a margin, split at random, always in the same way.

    Raises:
      ValueError: ``usps`` cannot be read (see :func:`dd_jax.data.readers.tfds.read_tfds`).
    """
    return with_margin(read_tfds("usps"))


def with_margin(usps: RawData) -> RawData:
    """Brings digits that fill their images to :func:`centred` ones, and splits all of them anew.

    Args:
      usps: images ``[N, n, n, 1]`` with a test split.

    Returns:
      ``[N, 28, 28, 1]`` images; four fifths of all examples for training, in an order of no meaning.
    """
    assert usps.test_images is not None
    assert usps.test_labels is not None
    images = centred(np.concatenate([usps.images, usps.test_images]))
    labels = np.concatenate([usps.labels, usps.test_labels])
    train, test = np.split(np.random.default_rng(0).permutation(len(labels)), [int(TRAIN_FRACTION * len(labels))])
    return RawData(images[train], labels[train], images[test], labels[test], usps.class_names)


def centred(images: np.ndarray) -> np.ndarray:
    """Digits of 20×20 pixels on black, with the centre of mass of each in the middle of 28×28 (LeCun et al. 1998).

    They are resized bicubically. A digit that is too far off its own middle for that goes as far as the edge.

    Args:
      images: ``[N, n, n, 1]`` uint8, the digits bright.

    Returns:
      ``[N, 28, 28, 1]`` uint8.
    """
    small = resize(images, BOX)
    placed = np.zeros((len(images), SIDE, SIDE, 1), np.uint8)
    mass = np.maximum(small.sum((1, 2, 3), dtype=np.int64), 1)
    at = np.arange(BOX) + 0.5
    corners = [
        np.clip(np.round(SIDE / 2 - small.sum(axis, dtype=np.int64) @ at / mass), 0, SIDE - BOX).astype(int)
        for axis in ((2, 3), (1, 3))  # rows, then columns
    ]
    for target, digit, top, left in zip(placed, small, *corners, strict=True):
        target[top : top + BOX, left : left + BOX] = digit
    return placed
