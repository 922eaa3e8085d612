"""Real minibatches, made inside the jitted step: with replacement by key, or without, by the number of the step."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from dd_jax.base import Batch
from dd_jax.checks import require
from dd_jax.data.dataset import Dataset, Split, take
from dd_jax.data.normalisation import normalise

Augmented = Callable[[jax.Array, jax.Array], jax.Array]
"""``(key, uint8 images [B, H, W, D]) -> uint8 images``, such as :func:`dd_jax.data.augment.crop_and_flip`."""


def batch_drawer(
    dataset: Dataset, size: int, *, augment: Augmented | None = None
) -> Callable[[jax.Array, Split], Batch]:
    """Draws real minibatches, with replacement: ``(key, split) -> (images [B, H, W, D], labels [B, C])``.

    The split is an argument rather than closed over, so that jit does not copy it into the program.

    Args:
      dataset: gives the number of classes.
      size: B.
      augment: of the uint8 images, if given.

    Raises:
      ValueError: a size below one.
    """
    require(size >= 1, "size", size, "1 or more")
    batch_of = batch_maker(dataset, augment=augment)

    def draw(key, split):
        index_key, augment_key = jax.random.split(key)
        index = jax.random.randint(index_key, (size,), 0, split.labels.shape[0])
        return batch_of(augment_key, split, index)

    return draw


def batch_maker(
    dataset: Dataset, *, augment: Augmented | None = None
) -> Callable[[jax.Array, Split, jax.Array], Batch]:
    """Makes the minibatch of given examples: ``(key, split, index [B]) -> (images [B, H, W, D], labels [B, C])``.

    Args:
      dataset, augment: as in :func:`batch_drawer`; the key is for the augmentation.
    """
    classes = len(dataset.class_names)

    def batch_of(key, split, index):
        images, labels, normalisation = take(split, index)
        if augment is not None:
            images = augment(key, images)
        return normalise(images, normalisation), jax.nn.one_hot(labels, classes)

    return batch_of


def epoch_order(key: jax.Array, examples: int, size: int) -> Callable[[int], np.ndarray]:
    """Which examples each outer step takes, without replacement: ``step -> index [b]``, for steps 0, 1, ….

    Every epoch is another permutation of all examples, cut into batches of B. The last batch has what is left, as in
    the authors' code. So there are two sizes, and jit compiles a program for each. What a step takes depends on the
    key, the step and the sizes alone: a run that is resumed takes what it would have taken.

    Args:
      key: draws the permutations.
      examples: how many there are.
      size: B.

    Raises:
      ValueError: a size below one or above the number of examples.
    """
    require(1 <= size <= examples, "size", size, f"1 … {examples}, the examples of an epoch")
    batches = -(-examples // size)

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), examples))

    def index_at(step: int) -> np.ndarray:
        epoch, batch = divmod(step, batches)
        return order(epoch)[batch * size : (batch + 1) * size]

    return index_at
