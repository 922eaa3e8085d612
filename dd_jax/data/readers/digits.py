"""scikit-learn's digits, which need no download."""

from typing import Any

import numpy as np

from dd_jax.data.forms import resize
from dd_jax.data.readers.raw import RawData, checked

HOW = (
    "scikit-learn's load_digits(): its 8×8 levels of 0 … 16 become np.round(level * 255 / 16), uint8, and are resized "
    "to 28×28 by Pillow (bicubic); of each class, every fifth example, from the fifth on, is for testing"
)


def read_digits() -> RawData:
    """scikit-learn's digits: 1,797 grey images of 8×8, resized to 28×28; every fifth of each class is for testing."""
    from sklearn.datasets import load_digits  # here: slow to import, and only this reader wants it

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    raw = checked("digits", {"train": (resize(images, 28), digits.target)}, digits.target_names)
    rank = np.zeros(len(raw.labels), int)  # of an example among those of its class
    for label in range(10):
        members = np.flatnonzero(raw.labels == label)
        rank[members] = np.arange(len(members))
    test = rank % 5 == 4
    return RawData(raw.images[~test], raw.labels[~test], raw.images[test], raw.labels[test], raw.class_names)
