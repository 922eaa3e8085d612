"""Data sets on the device: three disjoint splits, and their normalisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dd_jax.data.readers.raw import RawData

TEST_FRACTION = 0.2  # held out where a source has no test split, always the same examples


class Split(NamedTuple):
    """Labelled images as stored: ``[N, H, W, D]`` uint8 and ``[N]`` int32."""

    images: jax.Array
    labels: jax.Array


def take(split: Split, index: jax.Array) -> Split:
    """The examples of these numbers, ``[B]``."""
    # By rows of pixels: XLA's CPU code copies a row at once, but gathers from a 4-D array pixel by pixel.
    rows = split.images.reshape(split.images.shape[0], -1)[index]
    return Split(rows.reshape(index.shape[0], *split.images.shape[1:]), split.labels[index])


class Dataset(NamedTuple):
    """Three disjoint splits, and the training split's mean and std per channel, ``[D]``, in units of [0, 1]."""

    train: Split
    validation: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, D)."""
        _, height, width, depth = self.train.images.shape
        return height, width, depth


def make_dataset(raw: RawData, *, validation_fraction: float = 0.1, seed: int = 0) -> Dataset:
    """Puts three splits on the device; those that a source has not are held out of training, stratified by class.

    Args:
      raw: labelled images; without a test split of their own, ``TEST_FRACTION`` of them becomes one. A validation split
        of their own is used as it is, in place of one held out.
      validation_fraction: share of the training examples, in (0, 1).
      seed: chooses the validation examples, and nothing else.

    Raises:
      ValueError: a fraction out of range, or a class with too few examples to be in every split that is made here.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction: {validation_fraction} is not between 0 and 1")
    train, test = (raw.images, raw.labels), (raw.test_images, raw.test_labels)
    validation = (raw.validation_images, raw.validation_labels)
    if raw.test_images is None:
        train, test = _stratified(*train, TEST_FRACTION, 0, raw.class_names, "testing; give a test split")
    if raw.validation_images is None:
        use = "validation; take another validation_fraction"
        train, validation = _stratified(*train, validation_fraction, seed, raw.class_names, use)
    # In float64 sums over uint8, without a float copy of the whole set.
    channels = [np.bincount(train[0][..., d].ravel(), minlength=256) for d in range(train[0].shape[-1])]
    levels = np.arange(256) / 255
    mean = np.array([np.average(levels, weights=c) for c in channels])
    std = np.array([np.sqrt(np.average((levels - m) ** 2, weights=c)) for c, m in zip(channels, mean, strict=True)])
    if not std.all():
        raise ValueError("dataset: a colour channel is constant over all training images; it cannot be normalised")
    return Dataset(
        *(Split(jnp.asarray(images), jnp.asarray(labels)) for images, labels in (train, validation, test)),
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        class_names=raw.class_names,
    )


def _stratified(images, labels, fraction, seed, names, use):
    """Splits a share off, with examples of every class on both sides."""
    from sklearn.model_selection import train_test_split  # here: slow to import, and the algorithm does without

    try:
        keep, held = train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed, shuffle=True
        )
    except ValueError:  # fewer examples on a side than classes, or a class of one
        keep, held = np.empty((2, 0), int)
    keep, held = np.sort(keep), np.sort(held)
    counts, kept, out = (np.bincount(part, minlength=len(names)) for part in (labels, labels[keep], labels[held]))
    lacking = np.flatnonzero((kept == 0) | (out == 0))
    if lacking.size:
        rare = lacking[counts[lacking].argmin()]
        raise ValueError(
            f"dataset: class {names[rare]!r} has {counts[rare]} of {len(labels)} training examples, too few to hold "
            f"{fraction:.3g} of every class out for {use}, or add examples of it"
        )
    return (images[keep], labels[keep]), (images[held], labels[held])


def normalise(images: jax.Array, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """uint8 ``[..., D]`` to float32 with mean 0 and std 1 over the training split."""
    mean, std = (jnp.asarray(a, jnp.float32).reshape((1,) * (images.ndim - 1) + (-1,)) for a in (mean, std))
    return images.astype(jnp.float32) * (1 / (255 * std)) - mean / std
