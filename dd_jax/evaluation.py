"""Accuracy and loss of given weights on a whole split."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.data import Split, normalise
from dd_jax.losses import Criterion, cross_entropy, predictions
from dd_jax.unroll import Params


class Score(NamedTuple):
    """Means over a split: accuracy as a fraction in [0, 1], loss in nats."""

    accuracy: jax.Array
    loss: jax.Array


def evaluate(
    apply: Callable[[Params, jax.Array], jax.Array],
    theta: Params,
    split: Split,
    mean: np.ndarray,
    std: np.ndarray,
    classes: int,
    *,
    criterion: Criterion = cross_entropy,
    chunk: int = 250,
) -> Score:
    """Scores a network on every example of a split, ``chunk`` at a time. Pure; jit it at the edge.

    Args:
      apply: ``(theta, images [B, H, W, D]) -> logits``.
      theta: the weights.
      split: uint8 images and labels, ``[N]`` of each.
      mean, std: ``[D]``, the normalisation the network was trained with.
      classes: C.
      criterion: ``(logits, labels [B, C]) -> scalar``.
      chunk: examples in memory at a time.
    """

    def example(image_and_label):
        image, label = image_and_label
        logits = apply(theta, normalise(image, mean, std)[None])
        labels = jax.nn.one_hot(label, classes)[None]
        return predictions(logits)[0] == label, criterion(logits, labels)

    correct, loss = jax.lax.map(example, (split.images, split.labels), batch_size=chunk)
    return Score(jnp.mean(correct, dtype=jnp.float32), jnp.mean(loss))
