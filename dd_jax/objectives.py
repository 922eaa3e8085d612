"""Losses, one value for each example: their contract, the mean the library takes of them, and criteria on logits.

ℓ of the paper (section 3) is a mean over examples. A loss here returns its terms, and the library takes the mean, so
that the parts of a batch, be they chunks or shares of devices, always add up to the whole.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dd_jax import backend
from dd_jax.base import Criterion, Loss, Params


def per_example(values: jax.Array, count: int, name: str = "loss") -> jax.Array:
    """The values of a loss or criterion, ``[B]``, once their shape is checked.

    Args:
      values: what it returned.
      count: B.
      name: what it is, for the message.

    Raises:
      ValueError: other than ``[B]`` floats.
    """
    shape = jax.tree.map(jnp.shape, values)
    if shape != (count,):
        raise ValueError(
            f"{name}: it must return one value per example, shape {(count,)}, got shape {shape}; "
            "the library takes the mean"
        )
    if not jnp.issubdtype(jnp.result_type(values), jnp.floating):
        raise ValueError(f"{name}: it must return floats, got {jnp.result_type(values)}")
    return jnp.asarray(values)


def mean_of(loss: Loss) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
    """ℓ as the paper has it, ``(theta, images [B, …], labels [B, …]) -> scalar``: the mean over the examples.

    Its products are float32 (see :func:`dd_jax.backend.full_precision`), and so are those of its derivatives.

    Raises:
      ValueError: when called or traced, if the loss does not return one value per example.
    """

    def mean(theta, images, labels):
        with backend.full_precision():
            return per_example(loss(theta, images, labels), images.shape[0]).mean()

    return mean


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example in nats. Linear in the labels.

    Args:
      logits: ``[B, C]``, C ≥ 2.
      labels: ``[B, C]`` class probabilities.

    Returns:
      ``[B]``.

    Raises:
      ValueError: other shapes.

    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.0, 1.0, 0.0, 0.0]])))
    [1.3862944]
    """
    _check_logits(logits)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels: shape {labels.shape} does not fit logits of shape {logits.shape}; "
            "use class probabilities [B, C], such as jax.nn.one_hot(classes, C)"
        )
    return optax.softmax_cross_entropy(logits, labels.astype(logits.dtype))


def predictions(logits: jax.Array) -> jax.Array:
    """The most likely class, int32 ``[B]``, of logits ``[B, C]``.

    Raises:
      ValueError: other shapes, or fewer than two classes.
    """
    _check_logits(logits)
    return logits.argmax(-1).astype(jnp.int32)


def _check_logits(logits: jax.Array) -> None:
    if logits.ndim == 2 and logits.shape[1] == 1:
        raise ValueError(
            f"logits: shape {logits.shape} has a single logit, and two classes take two; "
            "put zeros before it: jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits: shape {logits.shape} is not accepted; use [B, C]")


def classification_loss(apply: Callable[..., jax.Array], criterion: Criterion = cross_entropy) -> Loss:
    """The loss of a network: ``(theta, images, labels) -> criterion(apply(theta, images), labels)``, ``[B]``."""

    def loss(theta, images, labels):
        return criterion(apply(theta, images), labels)

    return loss


def check_network(
    apply: Callable[..., jax.Array], theta: Params, image_shape: tuple[int, ...], classes: int, name: str = "it"
) -> None:
    """Traces a network on some images, to see that it returns logits.

    Args:
      apply: ``(theta, images [B, H, W, D]) -> logits [B, C]``.
      theta: its weights, or their shapes and types.
      image_shape: (H, W, D).
      classes: C.
      name: the network's, for the message.

    Raises:
      ValueError: it returns something else. What it raises itself is passed on.
    """
    count = classes + 1  # other than C, so that the two axes are not mistaken
    logits = jax.eval_shape(apply, theta, jax.ShapeDtypeStruct((count, *image_shape), jnp.float32))
    shape = getattr(logits, "shape", None)
    if shape != (count, classes):
        raise ValueError(
            f"network: {name} returns {shape or type(logits).__name__} for {count} images, which is not accepted; "
            f"return logits [B, C], here {(count, classes)}"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"network: {name} returns {logits.dtype}, which is not accepted; return floats")


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
        return criterion(logits, labels @ matrix.astype(labels.dtype))

    return of_relabelled
