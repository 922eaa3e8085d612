"""Criteria on logits, and the loss of a network built from one (paper, section 3: ℓ)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dd_jax.unroll import Loss

Criterion = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats; a single logit is class 1's, against 0 for class 0. Linear in the labels.

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
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
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


def relabelling(to: Mapping[int, int], classes: int) -> np.ndarray:
    """The class that each class is called, ``[C]`` integers: K becomes ``to[K]``, and the others stay as they are.

    >>> print(relabelling({0: 1}, 3))
    [1 1 2]

    Raises:
      ValueError: nothing to relabel, a class out of range, or one that stays what it is.
    """
    if not to:
        raise ValueError("relabel: it is empty; name at least one class and what it becomes")
    called = np.arange(classes)
    for attacked, target in to.items():
        for c in (attacked, target):
            if not 0 <= c < classes:
                raise ValueError(f"relabel: {attacked} → {target} has no class {c}; use 0 … {classes - 1}")
        if attacked == target:
            raise ValueError(f"relabel: {attacked} → {target} changes nothing; use two different classes")
        called[attacked] = target
    return called


def relabelled(to: Mapping[int, int], classes: int, criterion: Criterion = cross_entropy) -> Criterion:
    """ℓ_{K→T}: a criterion under which examples of class K count as class ``to[K]`` (paper, section 3.6).

    Args:
      to: what each class to be relabelled becomes; one or several.
      classes: C.
      criterion: on the relabelled examples.

    Returns:
      A criterion on the true labels.

    Raises:
      ValueError: as :func:`relabelling`.
    """
    matrix = np.eye(classes, dtype=np.float32)[relabelling(to, classes)]  # row K is class to[K], one-hot

    def of_relabelled(logits, labels):
        return criterion(logits, labels @ matrix)

    return of_relabelled
