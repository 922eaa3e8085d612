"""Data sets on the device: three disjoint splits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.data.normalisation import Normalisation, normalise
from dd_jax.data.readers.raw import RawData
from dd_jax.data.whitening import fit_zca

TEST_FRACTION = 0.2  # held out where a source has no test split, always the same examples


class Split(NamedTuple):
    """Labelled images as stored, and how they are normalised: all that it takes to train or to score on them."""

    images: Any  # [N, H, W, D] uint8, on the device; or a numpy array, which stays on the host
    labels: Any  # [N] int32
    normalisation: Normalisation


def take(split: Split, index: jax.Array) -> Split:
    """The examples of these numbers, ``[B]``."""
    # By rows of pixels: XLA's CPU code copies a row at once, but gathers from a 4-D array pixel by pixel.
    rows = split.images.reshape(split.images.shape[0], -1)[index]
    images = rows.reshape(index.shape[0], *split.images.shape[1:])
    return Split(images, split.labels[index], split.normalisation)


class Dataset(NamedTuple):
    """Three disjoint splits, all of them normalised by what the training split is like."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    held_out: tuple[str, ...] = ()  # which of test and validation are shares of the training images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, D)."""
        _, height, width, depth = self.train.images.shape
        return height, width, depth


def make_dataset(raw: RawData, *, validation_fraction: float = 0.1, seed: int = 0, zca: float | None = None) -> Dataset:
    """Puts three splits on the device; those that a source has not are held out of training, stratified by class.

    Args:
      raw: labelled images; without a test split of their own, ``TEST_FRACTION`` of them becomes one. A validation split
        of their own is used as it is, in place of one held out.
      validation_fraction: share of the training examples, in (0, 1).
      seed: chooses the validation examples, and nothing else.
      zca: whiten the images, with this regularisation (see :func:`dd_jax.data.whitening.fit_zca`); not if not given.

    Raises:
      ValueError: a fraction or a regularisation out of range, or a class with too few examples to be in every split
        that is made here.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction: {validation_fraction} is not between 0 and 1")
    train, test = (raw.images, raw.labels), (raw.test_images, raw.test_labels)
    validation = (raw.validation_images, raw.validation_labels)
    if raw.test_images is None:
        train, test = stratified(*train, TEST_FRACTION, 0, raw.class_names, "testing; give a test split")
    if raw.validation_images is None:
        use = "validation; take another validation_fraction"
        train, validation = stratified(*train, validation_fraction, seed, raw.class_names, use)
    normalisation = fitted(train[0], zca)
    return Dataset(
        *(Split(jnp.asarray(x), jnp.asarray(y), normalisation) for x, y in (train, validation, test)),
        class_names=raw.class_names,
        held_out=tuple(role for role in ("test", "validation") if getattr(raw, f"{role}_images") is None),
    )


def fitted(images: np.ndarray, zca: float | None) -> Normalisation:
    """The normalisation of uint8 training images ``[N, H, W, D]``."""
    # In float64 sums over uint8, without a copy of the whole set of another type.
    channels = np.zeros((images.shape[-1], 256), int)
    for first in range(0, len(images), 1024):
        some = images[first : first + 1024]
        channels += [np.bincount(some[..., d].ravel(), minlength=256) for d in range(some.shape[-1])]
    levels = np.arange(256) / 255
    mean = np.array([np.average(levels, weights=c) for c in channels])
    std = np.array([np.sqrt(np.average((levels - m) ** 2, weights=c)) for c, m in zip(channels, mean, strict=True)])
    if not std.all():
        raise ValueError("dataset: a colour channel is constant over all training images; it cannot be normalised")
    normalisation = Normalisation(mean.astype(np.float32), std.astype(np.float32))
    if zca is None:
        return normalisation
    return normalisation._replace(whitening=fit_zca(np.asarray(normalise(jnp.asarray(images), normalisation)), zca))


def stratified(images, labels, fraction, seed, names, use):
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
