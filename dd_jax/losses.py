"""Criteria on logits, and the loss of a network built from one (paper, section 3: ℓ)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dd_jax.unroll import Loss

Criterion = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats; with a single logit, the sigmoid cross-entropy of class 1.

    Args:
      logits: ``[B, C]``, or ``[B, 1]`` for two classes.
      labels: ``[B, C]`` class probabilities (``[B, 2]`` with a single logit).

    Returns:
      A scalar.

    >>> import jax.numpy as jnp
    >>> print(f"{cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.0, 1.0, 0.0, 0.0]])):.4f}")
    1.3863
    """
    if logits.shape[-1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[..., 0], labels[..., 1]).mean()
    return optax.softmax_cross_entropy(logits, labels).mean()


def predictions(logits: jax.Array) -> jax.Array:
    """The most likely class, int32 ``[B]``, of logits ``[B, C]``, or ``[B, 1]`` for two classes."""
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.int32)
    return logits.argmax(-1).astype(jnp.int32)


def classification_loss(apply: Callable[..., jax.Array], criterion: Criterion = cross_entropy) -> Loss:
    """ℓ for a network: ``(theta, images, labels) -> criterion(apply(theta, images), labels)``."""

    def loss(theta, images, labels):
        return criterion(apply(theta, images), labels)

    return loss
