"""Data sets on the device: splits, normalisation, and minibatches drawn by key inside the jitted step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from sklearn.model_selection import train_test_split

from dd_jax.data.readers import RawData

TEST_FRACTION = 0.2  # held out where a source has no test split, always the same examples
_PADDING = 4  # pixels, of the random crop


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


def crop_and_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """CIFAR-10's augmentation: pad by 4 (reflect), crop at random, flip half of the images. ``[B, H, W, D]``."""
    crop_key, flip_key = jax.random.split(key)
    cropped = _padded_and_cropped(crop_key, images, _PADDING, "reflect")
    flip = jax.random.bernoulli(flip_key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flip, cropped[:, :, ::-1], cropped)


def shift(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Moves each image by up to so many pixels either way, its edges repeated. ``[B, H, W, D]``."""
    return _padded_and_cropped(key, images, pixels, "edge")


def _padded_and_cropped(key: jax.Array, images: jax.Array, pixels: int, mode: Any) -> jax.Array:
    count, height, width, depth = images.shape
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode=mode)
    corners = jax.random.randint(key, (count, 2), 0, 2 * pixels + 1)
    return jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, depth))
    )(padded, corners)


def batch_drawer(
    dataset: Dataset, size: int, *, augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
) -> Callable[[jax.Array, Split], tuple[jax.Array, jax.Array]]:
    """Draws real minibatches, with replacement: ``(key, split) -> (images [B, H, W, D], labels [B, C])``.

    The split is an argument rather than closed over, so that jit does not copy it into the program.

    Args:
      dataset: gives the normalisation and the number of classes.
      size: B.
      augment: ``(key, uint8 images) -> uint8 images``, such as :func:`crop_and_flip`.
    """
    mean, std, classes = dataset.mean, dataset.std, len(dataset.class_names)

    def draw(key, split):
        index_key, augment_key = jax.random.split(key)
        index = jax.random.randint(index_key, (size,), 0, split.labels.shape[0])
        images, labels = take(split, index)
        if augment is not None:
            images = augment(augment_key, images)
        return normalise(images, mean, std), jax.nn.one_hot(labels, classes)

    return draw
