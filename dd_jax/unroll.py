"""The inner loop: a few steps of gradient descent on the distilled data (paper, section 3 and Algorithm 1).

Notation, used in every module:

=============  ==================  ====================================================================
paper          here                shape and unit
=============  ==================  ====================================================================
x̃              ``images``          ``[S, M, H, W, D]`` float, normalised pixel units
ỹ              ``labels``          ``[S, M, C]`` float, class probabilities (one-hot in the paper)
η̃ = softplus   ``step_sizes``      ``[T]`` positive; ``raw_step_sizes`` is what the outer optimizer moves
S, M           –                   distinct gradient steps, images per step
E, T = E·S     –                   epochs over the S steps, gradient steps in all
θ₀ … θ_T       ``theta``           the network's weights, any pytree
x, y           ``batch``           a real minibatch: ``[B, H, W, D]`` and ``[B, C]``
ℓ              ``loss``            ``(theta, images, labels) -> [M]``, nats; ℓ is the mean of the values
=============  ==================  ====================================================================
"""

import math
import typing
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from dd_jax.base import Loss, Params
from dd_jax.norms import at_most
from dd_jax.objectives import mean_of

Mode = Literal["forward_over_reverse", "nested", "remat", "plain"]
"""How the loop is differentiated. All give the same numbers; with W the size of the weights, the backward pass keeps

- ``forward_over_reverse``: the weights of every step, T·W, and differentiates each step by one JVP of its gradient;
- ``nested``: the same step, but only about 2√T·W, for one more pass through the loop;
- ``remat``: T·W, and differentiates the recomputed step in reverse, as JAX does it;
- ``plain``: T·W and every activation of every step, without recomputing any; the fastest where memory is no concern.
"""
MODES: tuple[Mode, ...] = typing.get_args(Mode)


class DistilledData(NamedTuple):
    """What is learned: x̃, ỹ and the step sizes before their softplus. Shapes as in the module's table."""

    images: jax.Array
    labels: jax.Array
    raw_step_sizes: jax.Array

    @property
    def step_sizes(self) -> jax.Array:
        """η̃ = softplus(raw), ``[T]``, always positive."""
        return jax.nn.softplus(self.raw_step_sizes)


def check_distilled(distilled: DistilledData) -> None:
    """Raises ``ValueError``, naming the array, its shape or type and what is accepted, if one does not fit."""
    images, labels, raw = distilled
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"images: shape {images.shape} is not accepted; use [S, M, …], no axis of length 0")
    if labels.shape[:2] != images.shape[:2]:
        wanted = ", ".join(map(str, images.shape[:2]))
        raise ValueError(f"labels: shape {labels.shape} is not accepted; use [{wanted}, …], as the images have")
    if raw.ndim != 1 or not raw.size:
        raise ValueError(f"raw_step_sizes: shape {raw.shape} is not accepted; use [T], T ≥ 1")
    for name, array in (("images", images), ("raw_step_sizes", raw)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: type {array.dtype} is not accepted; use floats")


def check_theta(theta: Params) -> None:
    """Raises ``ValueError``, naming the leaf and its type, if a weight is not a float."""
    for path, leaf in jax.tree.leaves_with_path(theta):
        kind = jnp.asarray(leaf).dtype
        if not jnp.issubdtype(kind, jnp.floating):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"theta: leaf {name} of type {kind} is not accepted; use floats")


def raw_step_size(step_size: float) -> float:
    """softplus⁻¹(η̃) = ln(exp η̃ − 1), of a positive η̃, in the form that neither overflows nor cancels."""
    return step_size + math.log(-math.expm1(-step_size))


def noise(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    epochs: int,
    images_per_class: int = 1,
    scale: float = 1.0,
    step_size: float = 0.02,
) -> DistilledData:
    """Distilled data before any learning: x̃ ~ N(0, scale²), hard labels [0, 0, …, 1, 1, …], one η̃ for all steps.

    Args:
      key: a JAX random key.
      image_shape: (H, W, D).
      classes: C.
      steps: S, distinct gradient steps.
      epochs: E, passes over them; T = E·S.
      images_per_class: images of each class in each step, so M = C · images_per_class.
      scale: standard deviation of the pixels, in normalised units (1 in the paper).
      step_size: the initial η̃ of every step, positive.

    Raises:
      ValueError: a count below one, or a scale or step size that is not positive.
    """
    for name, value, least in (("steps", steps, 1), ("epochs", epochs, 1), ("images_per_class", images_per_class, 1)):
        if value < least:
            raise ValueError(f"distilled.{name}: {value} is not accepted; use {least} or more")
    for name, value in (("scale", scale), ("step_size", step_size)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"distilled.{name}: {value} is not accepted; use a positive number")
    classes_of_step = jnp.repeat(jnp.eye(classes), images_per_class, axis=0)
    return DistilledData(
        images=scale * jax.random.normal(key, (steps, classes * images_per_class, *image_shape)),
        labels=jnp.tile(classes_of_step, (steps, 1, 1)),
        raw_step_sizes=jnp.full(steps * epochs, raw_step_size(step_size)),
    )


def gradient_step(loss: Loss, theta: Params, images: jax.Array, labels: jax.Array, step_size: jax.Array) -> Params:
    """One step of full-batch gradient descent, θ − η̃ ∇_θ ℓ(x̃, ỹ; θ) (paper, equation 2).

    Args:
      loss: the terms of ℓ, ``(theta, images, labels) -> [M]``.
      theta: the weights before the step.
      images: ``[M, H, W, D]``, the images of this step.
      labels: ``[M, C]``, their labels.
      step_size: η̃_t, a scalar.

    Returns:
      The weights after the step, shaped like ``theta``.

    Raises:
      ValueError: the loss does not return one value per example.
    """
    return _descend(jax.grad(mean_of(loss))(theta, images, labels), theta, step_size)


def _descend(gradient, theta, step_size):
    return jax.tree.map(lambda w, g: w - step_size.astype(w.dtype) * g, theta, gradient)


class _Data(NamedTuple):
    """What the loss of a step depends on besides θ: x̃ and ỹ of all steps, and traced values ``loss`` closed over."""

    images: jax.Array
    labels: jax.Array
    captured: list[jax.Array]


def _explicit(loss: Loss, theta: Params, images: jax.Array, labels: jax.Array) -> tuple[Callable, list[jax.Array]]:
    """ℓ as ``(theta, images, labels, *captured) -> scalar``, and the traced values, of any type, that it closes over.

    A custom derivative rule may not close over traced values; ``jax.closure_convert`` leaves integers and keys where
    they are.
    """
    closed = jax.make_jaxpr(mean_of(loss))(theta, images, labels)
    traced = [isinstance(value, jax.core.Tracer) for value in closed.consts]

    def explicit(theta, images, labels, *captured):
        given = iter(captured)
        values = [next(given) if is_traced else v for is_traced, v in zip(traced, closed.consts, strict=True)]
        return jax.core.eval_jaxpr(closed.jaxpr, values, *jax.tree.leaves((theta, images, labels)))[0]

    return explicit, [value for is_traced, value in zip(traced, closed.consts, strict=True) if is_traced]


def _loss_of_step(loss, theta, data, index):
    images, labels = (jax.lax.dynamic_index_in_dim(a, index, keepdims=False) for a in data[:2])
    return loss(theta, images, labels, *data.captured)


def _step(loss, theta, data, index, step_size):
    gradient = jax.grad(lambda theta: _loss_of_step(loss, theta, data, index))(theta)
    return _descend(gradient, theta, step_size)


def _step_forward(loss, theta, data, index, step_size):
    return _step(loss, theta, data, index, step_size), (theta, data, index, step_size)


def _step_backward(loss, kept, u):
    """Forward over reverse: pulls u, the cotangent of the new weights, back through θ − η̃ g, g = ∇_θ ℓ.

    With v all the arguments of ℓ but θ, one JVP of ℓ and ∇ℓ along u on the weights (Pearlmutter 1994) gives ⟨g, u⟩, H u
    and ∂_v⟨g, u⟩, and θ̄ = u − η̃ H u, v̄ = −η̃ ∂_v⟨g, u⟩, η̄ = −⟨g, u⟩. That ⟨g, u⟩ is the slope of ℓ along u spares g.
    Integers and keys among v have no cotangent.
    """
    theta, data, index, step_size = kept
    leaves, structure = jax.tree.flatten(data)
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def value_and_gradients(theta):
        def at(theta, moved):
            by_number = dict(zip(moving, moved, strict=True))
            whole = structure.unflatten([by_number.get(i, leaf) for i, leaf in enumerate(leaves)])
            return _loss_of_step(loss, theta, whole, index)

        return jax.value_and_grad(at, argnums=(0, 1))(theta, [leaves[i] for i in moving])

    slope, (hessian_u, mixed) = jax.jvp(value_and_gradients, (theta,), (u,))[1]
    theta_bar = _descend(hessian_u, u, step_size)
    bars = {i: -step_size.astype(m.dtype) * m for i, m in zip(moving, mixed, strict=True)}
    data_bar = structure.unflatten([bars.get(i) for i in range(len(leaves))])
    return theta_bar, data_bar, None, -slope.astype(step_size.dtype)


def _clip_adjoint(theta: Params, longest: float) -> Params:
    """The identity; what is pulled back through it, the loss's gradient in these weights, is clipped to that norm."""
    clip = jax.custom_vjp(lambda theta: theta)
    clip.defvjp(lambda theta: (theta, None), lambda _, u: (at_most(u, longest),))
    return clip(theta)


_lean_step = jax.custom_vjp(_step, nondiff_argnums=(0,))
_lean_step.defvjp(_step_forward, _step_backward)


def unroll(
    loss: Loss,
    theta: Params,
    distilled: DistilledData,
    *,
    mode: Mode = "forward_over_reverse",
    adjoint_clip: float | None = None,
) -> Params:
    """Trains on the distilled data: θ_{t+1} = θ_t − η̃_t ∇_θ ℓ(x̃_{t mod S}, ỹ_{t mod S}; θ_t), t = 0 … T−1.

    A pure ``lax.scan`` over weight updates, differentiable in every argument but ``loss``, and in what ``loss`` closes
    over (Algorithm 1, lines 6–7, with several steps and epochs, section 3.4).

    Args:
      loss: the terms of ℓ, ``(theta, images, labels) -> [M]``.
      theta: θ₀, the initial weights, floats.
      distilled: x̃, ỹ and η̃; T is the number of step sizes and need not be a multiple of S. Labels may be of any shape
        ``[S, M, …]`` and type that ``loss`` takes, integers included.
      mode: how the loop is differentiated in reverse, one of ``MODES``; ``jax.jvp`` wants ``plain`` or ``remat``.
      adjoint_clip: if given, the adjoint ∂L/∂θ_t is clipped to this norm after every step, so that what is pulled back
        is no longer a gradient, but does not explode in a loop that is chaotic; then there is no ``jax.jvp``.

    Returns:
      θ_T, shaped like ``theta``.

    Raises:
      ValueError: an unknown mode, a bound that is not positive, data or weights of another shape or type, or a loss
        that does not return one value per example.
    """
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r} is unknown; use one of {', '.join(MODES)}")
    if adjoint_clip is not None and not 0 < adjoint_clip < math.inf:
        raise ValueError(f"adjoint_clip: {adjoint_clip} is not accepted; use a positive number")
    theta, distilled = jax.tree.map(jnp.asarray, (theta, distilled))
    check_theta(theta)
    check_distilled(distilled)
    images, labels, step_sizes = distilled.images, distilled.labels, distilled.step_sizes
    explicit, captured = _explicit(loss, theta, images[0], labels[0])
    data = _Data(images, labels, captured)
    step = _step if mode in ("plain", "remat") else _lean_step

    def body(theta, index_and_step_size):
        theta = step(explicit, theta, data, *index_and_step_size)
        return theta if adjoint_clip is None else _clip_adjoint(theta, adjoint_clip), None

    if mode == "remat":
        body = jax.checkpoint(body, prevent_cse=False)
    total = step_sizes.shape[0]
    steps = (jnp.arange(total) % images.shape[0], step_sizes)
    return (_nested_scan if mode == "nested" else jax.lax.scan)(body, theta, steps)[0]


def _nested_scan(body, carry, xs):
    """``lax.scan`` without outputs that keeps √T carries, and recomputes √T more at a time (Griewank 1992)."""
    total = jax.tree.leaves(xs)[0].shape[0]
    length = math.isqrt(total)
    whole = total - total % length
    segment = jax.checkpoint(lambda carry, xs: jax.lax.scan(body, carry, xs), prevent_cse=False)
    segments = jax.tree.map(lambda a: a[:whole].reshape(-1, length, *a.shape[1:]), xs)
    carry, _ = jax.lax.scan(segment, carry, segments)
    return segment(carry, jax.tree.map(lambda a: a[whole:], xs))
