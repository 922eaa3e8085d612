"""The outer step: one update of the distilled data, as a pure ``(init, update)`` pair (paper, Algorithm 1)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dd_jax.base import Batch, Loss, Params
from dd_jax.meta_gradient import mean_meta_gradient, meta_gradient, smoothed_meta_gradient
from dd_jax.norms import norm, with_norm
from dd_jax.unroll import DistilledData, Mode, raw_step_size


@dataclasses.dataclass(frozen=True)
class OuterRecipe:
    """Settings of the outer optimizer: Adam on x̃ and raw η̃, its rate on a schedule, its gradient clipped."""

    steps: int = 2400
    """Outer steps, each on one real batch."""
    learning_rate: float = 0.05
    """Adam's first rate, in normalised pixel units."""
    b1: float = 0.5
    """Adam's first decay, β₁."""
    b2: float = 0.999
    """Adam's second decay, β₂."""
    step_size_rate: float = 1.0
    """Adam's rate for raw η̃, as a share of that for the images."""
    weight_decay: float = 0.0
    """Decay of the images towards grey, as a share of the rate, as in AdamW."""
    halve_every: int | None = None
    """Halve the rate every so many steps, as the authors do; if not given, the rate follows a cosine to zero."""
    clip: float | None = 2.0
    """Clip the meta-gradient's norm at this multiple of its running mean; None: no clipping."""
    net_norm: float | None = None
    """With several networks, scale each one's meta-gradient to this norm before the mean; None: do not."""
    adjoint_clip: float | None = None
    """Clip ∂L/∂θ_t to this norm after each inner step that it is pulled back through; None: do not."""
    max_step_size: float | None = None
    """Keep every η̃ at or below this, by projection; None: no bound."""
    max_step_size_growth: float = 1.0
    """How many times that the bound is in the end: it grows as the learning rate falls."""
    samples: int = 1
    """Perturbations of the images that each meta-gradient is averaged over; 1: none."""
    smoothing: float = 0.1
    """Standard deviation of the perturbations at the start, in normalised pixel units; it shrinks with the rate."""


def check_recipe(recipe: OuterRecipe) -> None:
    """Raises ``ValueError``, naming the setting, its value and what is accepted.

    That is if one is out of range, or is not its default but has no effect beside the others.
    """
    for name, accepted, least, below in (
        ("steps", "1 or more", 1, math.inf),
        ("learning_rate", "a positive number", math.ulp(0), math.inf),
        ("step_size_rate", "a positive number", math.ulp(0), math.inf),
        ("weight_decay", "0 or more", 0, math.inf),
        ("b1", "at least 0 and below 1", 0, 1),
        ("b2", "at least 0 and below 1", 0, 1),
        ("halve_every", "1 or more", 1, math.inf),
        ("clip", "a positive number", math.ulp(0), math.inf),
        ("net_norm", "a positive number", math.ulp(0), math.inf),
        ("adjoint_clip", "a positive number", math.ulp(0), math.inf),
        ("max_step_size", "a positive number", math.ulp(0), math.inf),
        ("max_step_size_growth", "1 or more", 1, math.inf),
        ("samples", "1 or more", 1, math.inf),
        ("smoothing", "a positive number", math.ulp(0), math.inf),
    ):
        value = getattr(recipe, name)
        optional = name in ("halve_every", "clip", "net_norm", "adjoint_clip", "max_step_size")
        if not (optional and value is None) and not least <= value < below:
            raise ValueError(f"outer.{name}: {value} is not accepted; use {accepted}")
    if recipe.max_step_size is None:
        _refuse_idle(recipe, ("max_step_size_growth",), "without outer.max_step_size")
    if recipe.samples == 1:
        _refuse_idle(recipe, ("smoothing",), "with outer.samples 1")


def _refuse_idle(recipe: OuterRecipe, names: tuple[str, ...], where: str) -> None:
    """Raises ``ValueError`` if one of these settings, which have no effect there, is not its default."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in names and value != field.default:
            raise ValueError(f"outer.{field.name}: {value} has no effect {where}; leave it at {field.default}")


def relative_rate(recipe: OuterRecipe) -> optax.Schedule:
    """The schedule that Adam's rate and the smoothing follow: outer step -> factor, 1 at first."""
    if recipe.halve_every is None:
        return optax.cosine_decay_schedule(1.0, recipe.steps)
    return optax.exponential_decay(1.0, recipe.halve_every, 0.5, staircase=True)


def outer_optimizer(recipe: OuterRecipe) -> optax.GradientTransformation:
    """The optimizer of Algorithm 1's last line, over a ``DistilledData``; the labels stay as they are."""
    relative = relative_rate(recipe)

    def decay_and_slow(updates: Any, params: Any) -> Any:
        return updates._replace(
            images=updates.images + recipe.weight_decay * params.images,
            raw_step_sizes=recipe.step_size_rate * updates.raw_step_sizes,
        )

    learned = optax.chain(
        optax.scale_by_adam(recipe.b1, recipe.b2),
        optax.stateless(decay_and_slow),
        optax.scale_by_learning_rate(lambda step: recipe.learning_rate * relative(step)),
    )
    if recipe.clip is not None:
        learned = optax.chain(clip_by_running_norm(recipe.clip), learned)
    kinds = DistilledData._make(("learned", "fixed", "learned"))  # images, labels, raw step sizes
    return optax.partition({"learned": learned, "fixed": optax.set_to_zero()}, kinds)


class RunningNorm(NamedTuple):
    """State of :func:`clip_by_running_norm`: the running mean of the clipped norms, zero before the first."""

    mean: jax.Array


def clip_by_running_norm(factor: float, decay: float = 0.9) -> optax.GradientTransformation:
    """Scales an update down to ``factor`` times the running mean of the norms so far (Feng et al. 2024, appendix).

    Long unrolls give rare, huge meta-gradients; this keeps each from moving the data, or Adam's memory, too far. The
    mean is over clipped norms, so that a single outlier moves it by at most a factor; norms that are zero or not finite
    do not count.

    Args:
      factor: positive multiple of the running mean.
      decay: of the running mean, in [0, 1).
    """

    def init(params):
        del params
        return RunningNorm(jnp.zeros(()))

    def update(updates, state, params=None):
        del params
        size = norm(updates).astype(state.mean.dtype)
        first = state.mean == 0
        clipped = jnp.where(first, size, jnp.minimum(size, factor * state.mean))
        mean = jnp.where(first, size, decay * state.mean + (1 - decay) * clipped)
        counts = jnp.isfinite(size) & (size > 0)  # neither of the others says how long updates are
        return with_norm(updates, clipped), RunningNorm(jnp.where(counts, mean, state.mean))

    return optax.GradientTransformation(init, update)


class OuterState(NamedTuple):
    """What the next outer step needs."""

    step: jax.Array  # int32, outer steps done
    distilled: DistilledData
    optimizer: optax.OptState


class OuterInfo(NamedTuple):
    """What one outer step measured."""

    loss: jax.Array  # L before the update, nats
    gradient_norm: jax.Array  # ℓ2 norm of the meta-gradient in x̃ and raw η̃, before clipping
    finite: jax.Array  # bool: false where the step was refused


class OuterStep(NamedTuple):
    """``init(distilled) -> state`` and ``update(key, state, theta, batch) -> (state, info)``, both pure."""

    init: Callable[[DistilledData], OuterState]
    update: Callable[[jax.Array, OuterState, Params, Batch], tuple[OuterState, OuterInfo]]


def outer_step(
    loss: Loss,
    recipe: OuterRecipe,
    *,
    objective: Loss | None = None,
    many: bool = False,
    optimizer: optax.GradientTransformation | None = None,
    mode: Mode = "forward_over_reverse",
) -> OuterStep:
    """Algorithm 1's loop body. Nothing is jitted here: the caller decides, and may donate the state.

    A step whose loss or gradient is not finite leaves the state as it was, and says so in ``OuterInfo.finite``.

    Args:
      loss: the terms of ℓ, ``(theta, images, labels) -> [M]``.
      recipe: the settings.
      objective: ℓ on the real batch, where it is another (paper, section 3.6); ``loss`` if not given.
      many: ``update`` takes θ₀ of N networks, each leaf with a leading axis N, and follows their mean (equation 5);
        else those of one network (equation 4).
      optimizer: moves a ``DistilledData``, instead of :func:`outer_optimizer`'s.
      mode: how the inner loop is differentiated (see :data:`dd_jax.unroll.Mode`).

    Returns:
      The pair. ``update`` takes a random key (used for the smoothing alone), the state, θ₀ and a real batch.

    Raises:
      ValueError: a setting of the recipe is out of range or has no effect, or asks for perturbations with many
        networks.
    """
    check_recipe(recipe)
    if not many:
        _refuse_idle(recipe, ("net_norm",), "on one network")
    if optimizer is not None:
        own = ("learning_rate", "b1", "b2", "step_size_rate", "weight_decay", "clip")
        _refuse_idle(recipe, own, "with another optimizer")
    if many and recipe.samples != 1:
        raise ValueError(f"outer.samples: {recipe.samples} is not accepted with many networks; use 1")
    optimizer = optimizer or outer_optimizer(recipe)
    relative = relative_rate(recipe)

    def init(distilled):
        return OuterState(jnp.zeros((), jnp.int32), distilled, optimizer.init(distilled))

    def update(key, state, theta, batch):
        inner: dict[str, Any] = {"objective": objective, "mode": mode, "adjoint_clip": recipe.adjoint_clip}
        if many:
            net_norm = recipe.net_norm
            value, gradient = mean_meta_gradient(loss, state.distilled, theta, batch, net_norm=net_norm, **inner)
        elif recipe.samples == 1:
            value, gradient = meta_gradient(loss, state.distilled, theta, batch, **inner)
        else:
            smoothing: dict[str, Any] = {"scale": recipe.smoothing * relative(state.step), "samples": recipe.samples}
            value, gradient = smoothed_meta_gradient(key, loss, state.distilled, theta, batch, **smoothing, **inner)
        size = norm(gradient._replace(labels=None))
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.distilled)
        distilled = jax.tree.map(lambda d, u: d + u.astype(d.dtype), state.distilled, updates)
        if recipe.max_step_size is not None:
            first, last = (raw_step_size(recipe.max_step_size * f) for f in (1.0, recipe.max_step_size_growth))
            bound = last + (first - last) * relative(state.step)
            raw = distilled.raw_step_sizes
            distilled = distilled._replace(raw_step_sizes=jnp.minimum(raw, jnp.asarray(bound, raw.dtype)))
        moved = OuterState(state.step + 1, distilled, optimizer_state)
        finite = jnp.isfinite(value) & jnp.isfinite(size)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return state, OuterInfo(value, size, finite)

    return OuterStep(init, update)
