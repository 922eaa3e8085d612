"""Real minibatches, drawn by key inside the jitted step."""

from collections.abc import Callable

import jax

from dd_jax.checks import require
from dd_jax.data.dataset import Dataset, Split, take
from dd_jax.data.normalisation import normalise


def batch_drawer(
    dataset: Dataset, size: int, *, augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
) -> Callable[[jax.Array, Split], tuple[jax.Array, jax.Array]]:
    """Draws real minibatches, with replacement: ``(key, split) -> (images [B, H, W, D], labels [B, C])``.

    The split is an argument rather than closed over, so that jit does not copy it into the program.

    Args:
      dataset: gives the number of classes.
      size: B.
      augment: ``(key, uint8 images) -> uint8 images``, such as :func:`dd_jax.data.augment.crop_and_flip`.

    Raises:
      ValueError: a size below one.
    """
    require(size >= 1, "size", size, "1 or more")
    classes = len(dataset.class_names)

    def draw(key, split):
        index_key, augment_key = jax.random.split(key)
        index = jax.random.randint(index_key, (size,), 0, split.labels.shape[0])
        images, labels, normalisation = take(split, index)
        if augment is not None:
            images = augment(augment_key, images)
        return normalise(images, normalisation), jax.nn.one_hot(labels, classes)

    return draw
