"""The inner loop: a few steps on the distilled data (paper, equation 2, section 3.4 and Algorithm 1, lines 6–7)."""

import math
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from dd_jax.base import Augment, Distilled, Loss, Params, Train
from dd_jax.distilled import check_distilled, check_theta
from dd_jax.inner.modes import MODES, Carry, Data, Mode, Rule, Steps, run, step
from dd_jax.inner.optimizers import GRADIENT_DESCENT, InnerOptimizer, check_differentiable
from dd_jax.inner.schedule import Order, Window, cycle
from dd_jax.objectives import mean_of


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
    gradient = jax.grad(mean_of(loss))(theta, images, labels)
    return jax.tree.map(lambda w, g: w - step_size.astype(w.dtype) * g, theta, gradient)


class InnerLoop(NamedTuple):
    """A loop made ready: the rule of a step, where it starts, the data, and what each step takes."""

    rule: Rule
    carry: Carry
    data: Data
    steps: Steps


def inner_loop(
    loss: Loss,
    theta: Params,
    distilled: Distilled,
    *,
    key: jax.Array | None = None,
    optimizer: InnerOptimizer = GRADIENT_DESCENT,
    order: Order = cycle,
    augment: Augment | None = None,
    adjoint_clip: float | None = None,
) -> InnerLoop:
    """Makes a loop ready; the arguments are :func:`unroll`'s."""
    if adjoint_clip is not None and not 0 < adjoint_clip < math.inf:
        raise ValueError(f"adjoint_clip: {adjoint_clip} is not accepted; use a positive number")
    theta, distilled = jax.tree.map(jnp.asarray, (theta, distilled))
    check_theta(theta)
    check_distilled(distilled)
    images, labels, step_sizes, hyper = distilled
    total = step_sizes.shape[0]
    order_key, keys = jax.random.key(0), None
    if key is not None:
        order_key, step_key = jax.random.split(key)
        keys = None if augment is None else jax.random.split(step_key, total)
    elif augment is not None or order is not cycle:
        raise ValueError("key: None is not accepted with augmentation or a random order; give one")
    index = order(order_key, images.shape[0], images.shape[1], total)
    if index.ndim == 2:  # examples of all stored steps
        images, labels = (a.reshape(-1, *a.shape[2:]) for a in (images, labels))
    hyper = {name: jnp.broadcast_to(value, (total,)) for name, value in hyper.items()}
    steps = Steps(index, step_sizes, hyper, keys)

    def mean_loss(theta, images, labels, key):
        return mean_of(loss)(theta, images if augment is None else augment(key, images), labels)

    first = jax.tree.map(lambda a: a[0], steps)
    explicit, captured = _explicit(mean_loss, theta, images[first.rows], labels[first.rows], first.key)
    rule = Rule(explicit, optimizer, adjoint_clip)
    return InnerLoop(rule, Carry(theta, optimizer.init(theta)), Data(images, labels, captured), steps)


def _explicit(mean_loss, *arguments):
    """ℓ as ``(theta, images, labels, key, *captured) -> scalar``, and the traced values, of any type, it closes over.

    A custom derivative rule may not close over traced values; ``jax.closure_convert`` leaves integers and keys where
    they are.
    """
    closed = jax.make_jaxpr(mean_loss)(*arguments)
    traced = [isinstance(value, jax.core.Tracer) for value in closed.consts]

    def explicit(theta, images, labels, key, *captured):
        given = iter(captured)
        values = [next(given) if is_traced else v for is_traced, v in zip(traced, closed.consts, strict=True)]
        return jax.core.eval_jaxpr(closed.jaxpr, values, *jax.tree.leaves((theta, images, labels, key)))[0]

    return explicit, [value for is_traced, value in zip(traced, closed.consts, strict=True) if is_traced]


def unroll(
    loss: Loss,
    theta: Params,
    distilled: Distilled,
    *,
    key: jax.Array | None = None,
    optimizer: InnerOptimizer = GRADIENT_DESCENT,
    order: Order = cycle,
    augment: Augment | None = None,
    window: Window | None = None,
    mode: Mode = "forward_over_reverse",
    adjoint_clip: float | None = None,
) -> Params:
    """Trains on the distilled data: θ_{t+1} = θ_t − η̃_t ∇_θ ℓ(x̃_{t mod S}, ỹ_{t mod S}; θ_t), t = 0 … T−1.

    A pure ``lax.scan`` over weight updates, differentiable in every argument but functions, and in what ``loss`` closes
    over (Algorithm 1, lines 6–7, with several steps and epochs, section 3.4).

    Args:
      loss: the terms of ℓ, ``(theta, images, labels) -> [M]``.
      theta: θ₀, the initial weights, floats.
      distilled: x̃, ỹ and η̃; T is the number of step sizes and need not be a multiple of S. Labels may be of any shape
        ``[S, M, …]`` and type that ``loss`` takes, integers included.
      key: draws the order, the augmentation and the window, where they are random.
      optimizer: turns gradients into directions; gradient descent is the paper's.
      order: which examples each step takes (see :mod:`dd_jax.inner.schedule`); the stored steps in turn is the paper's.
      augment: ``(key, images [M, H, W, D]) -> images``, another draw at each step.
      window: differentiate these steps alone; θ is the weights after them, and then there is no gradient in θ₀.
      mode: how the loop is differentiated in reverse, one of ``MODES``; ``jax.jvp`` wants ``plain`` or ``remat``.
      adjoint_clip: if given, the adjoint ∂L/∂θ_t (with the optimizer's state) is clipped to this norm after every step,
        so that what is pulled back is no longer a gradient, but does not explode in a loop that is chaotic; then there
        is no ``jax.jvp``.

    Returns:
      θ_T, shaped like ``theta``.

    Raises:
      ValueError: an unknown mode, a bound that is not positive, a window longer than the loop, an optimizer that cannot
        be differentiated, no key where one is needed, data or weights of another shape or type, or a loss that does not
        return one value per example.
    """
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r} is unknown; use one of {', '.join(MODES)}")
    if not optimizer.is_plain:
        check_differentiable(optimizer)
    loop = inner_loop(
        loss, theta, distilled, key=key, optimizer=optimizer, order=order, augment=augment, adjoint_clip=adjoint_clip
    )
    if window is not None:
        if key is None:
            raise ValueError("key: None is not accepted with a window; give one, which draws where it starts")
        loop = _from_window(loop, window, key)
    return run(mode, *loop).theta


def _from_window(loop: InnerLoop, window: Window, key: jax.Array) -> InnerLoop:
    """The loop from the window's first step to its last; what comes before is made, and not differentiated."""
    total = loop.steps.step_sizes.shape[0]
    if not 1 <= window.length <= total:
        raise ValueError(f"window: {window.length} is not accepted; use 1 … {total}, the steps of the loop")
    begin = window.start(jax.random.fold_in(key, 1), total - window.length)
    carry, data, steps = jax.lax.stop_gradient((loop.carry, loop.data, loop.steps))

    def one(number, carry):
        return step(loop.rule, carry, data, jax.tree.map(lambda a: a[number], steps))

    carry = jax.lax.stop_gradient(jax.lax.fori_loop(0, begin, one, carry))
    taken = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, window.length), loop.steps)
    return loop._replace(carry=carry, steps=taken)


def trainer(loss: Loss, **how) -> Train:
    """:func:`unroll` as the outer code takes it, ``(key, theta, distilled) -> theta``; ``how`` are its options."""
    return lambda key, theta, distilled: unroll(loss, theta, distilled, key=key, **how)
