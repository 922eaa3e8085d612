"""What is learned: a pytree that distilled data are decoded from, once, before the inner loop.

Each part of the data has a field of its own, an invertible pair ``encode``/``decode``. The outer optimizer moves the
encoded parts, whatever pytrees they are.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Distilled, Parametrisation


class Field(NamedTuple):
    """How a part of the data is learned."""

    encode: Callable[[Any], Any]  # the part -> what is learned, any pytree
    decode: Callable[[Any], Any]  # and back, differentiable
    fixed: bool = False  # no gradient; the outer optimizer leaves it alone


class Learned(NamedTuple):
    """What the outer optimizer moves, by part."""

    images: Any
    labels: Any
    step_sizes: Any
    hyper: dict[str, Any]


def _softplus_inverse(x: jax.Array) -> jax.Array:
    """ln(exp x − 1) of a positive x, in the form that neither overflows nor cancels."""
    x = jnp.asarray(x)
    x = jnp.maximum(x, jnp.finfo(x.dtype).tiny)  # the softplus of a very negative number is 0
    return x + jnp.log(-jnp.expm1(-x))


FREE = Field(lambda x: x, lambda x: x)
"""As it is: pixels, or labels without any constraint."""
FIXED = Field(lambda x: x, jax.lax.stop_gradient, fixed=True)
"""Not learned."""
POSITIVE = Field(_softplus_inverse, jax.nn.softplus)
"""Through a softplus: the paper's step sizes, one for each step."""
UNIT = Field(jax.scipy.special.logit, jax.nn.sigmoid)
"""In (0, 1), through a sigmoid: momentum, β₁, β₂."""


def shared(field: Field, total: int) -> Field:
    """One value for all T = ``total`` steps, at first the mean of theirs."""
    return Field(
        lambda x: field.encode(jnp.mean(jnp.broadcast_to(x, (total,)), keepdims=True)),
        lambda one: jnp.broadcast_to(field.decode(one), (total,)),
        field.fixed,
    )


def per_step(field: Field, total: int) -> Field:
    """A value for each of T = ``total`` steps, of a hyper-parameter that is one number at first."""
    return Field(lambda x: field.encode(jnp.broadcast_to(x, (total,))), field.decode, field.fixed)


def probabilities(floor: float = 0.01) -> Field:
    """Labels through a softmax; at first the given ones with ``floor`` shared among all classes.

    Args:
      floor: in (0, 1); a one-hot label has no finite logits.

    Raises:
      ValueError: a floor out of range; when encoding, labels that are no probabilities.
    """
    if not 0 < floor < 1:
        raise ValueError(f"floor: {floor} is not accepted; use a number between 0 and 1")

    def encode(labels):
        _check_probabilities(labels)
        return jnp.log((1 - floor) * labels + floor / labels.shape[-1])

    return Field(encode, jax.nn.softmax)


def _check_probabilities(labels: jax.Array) -> None:
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise ValueError(f"labels: type {labels.dtype} is not accepted; use floats, class probabilities")
    if isinstance(labels, jax.core.Tracer):
        return
    sums = np.asarray(labels, np.float64).sum(-1)
    if float(labels.min()) < 0 or not np.allclose(sums, 1, atol=1e-3):
        raise ValueError(
            f"labels: values from {float(labels.min()):.3g} and sums from {sums.min():.3g} to {sums.max():.3g} are not "
            "accepted; use class probabilities"
        )


def parametrisation(
    *,
    images: Field = FREE,
    labels: Field = FIXED,
    step_sizes: Field = POSITIVE,
    hyper: Mapping[str, Field] | None = None,
) -> Parametrisation:
    """A field for each part. The default is the paper's: pixels and positive step sizes, with labels as they are.

    Args:
      images: of ``[S, M, H, W, D]``.
      labels: of ``[S, M, C]``.
      step_sizes: of ``[T]``.
      hyper: of each hyper-parameter of the inner optimizer, ``FIXED`` where none is given.

    Returns:
      ``init(distilled) -> Learned``, ``decode(Learned) -> distilled``, and which leaves are fixed.
    """
    fields = dict(hyper or {})

    def init(distilled: Distilled) -> Learned:
        encoded = {name: fields.get(name, FIXED).encode(value) for name, value in distilled.hyper.items()}
        return Learned(
            images.encode(distilled.images),
            labels.encode(distilled.labels),
            step_sizes.encode(distilled.step_sizes),
            encoded,
        )

    def decode(learned: Learned) -> Distilled:
        decoded = {name: fields.get(name, FIXED).decode(value) for name, value in learned.hyper.items()}
        return Distilled(
            images.decode(learned.images), labels.decode(learned.labels), step_sizes.decode(learned.step_sizes), decoded
        )

    def fixed(learned: Learned) -> Learned:
        of_hyper = {name: fields.get(name, FIXED).fixed for name in learned.hyper}
        parts = zip((images, labels, step_sizes), learned[:3], strict=True)
        return Learned(*(_everywhere(field.fixed, part) for field, part in parts), hyper=of_hyper)

    return Parametrisation(init, decode, fixed)


def _everywhere(value: bool, tree: Any) -> Any:
    return jax.tree.map(lambda _: value, tree)


PIXELS = parametrisation()
"""The paper's."""
