"""The outer step: one update of the distilled data, as a pure ``(init, update)`` pair (paper, Algorithm 1)."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dd_jax.base import Batch, Distilled, Estimate, Loss, Params, Train
from dd_jax.estimates import meta_gradient, over_networks, perturbed
from dd_jax.norms import norm, with_norm
from dd_jax.parallel import BATCH, NETS, over_devices
from dd_jax.parametrisations import POSITIVE


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
    normalise_networks: bool = False
    """With several networks, scale each one's meta-gradient to norm 1 before the mean."""
    adjoint_clip: float | None = None
    """Clip ∂L/∂θ_t to this norm after each inner step that it is pulled back through; None: do not."""
    max_step_size: float | None = None
    """Keep every η̃ at or below this, by projection; None: no bound."""
    max_step_size_growth: float = 1.0
    """How many times that the bound is in the end: it grows as the learning rate falls."""
    perturbations: int = 1
    """Perturbations of the images that each meta-gradient is averaged over; 1: none."""
    smoothing: float = 0.1
    """Standard deviation of the perturbations at the start, in normalised pixel units; it shrinks with the rate."""


def check_recipe(recipe: OuterRecipe, *, many: bool) -> None:
    """Raises ``ValueError``, naming the setting, its value and what is accepted.

    That is if one is out of range, or is not its default but has no effect beside the others.

    Args:
      recipe: the settings.
      many: whether an outer step is on several networks.
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
        ("adjoint_clip", "a positive number", math.ulp(0), math.inf),
        ("max_step_size", "a positive number", math.ulp(0), math.inf),
        ("max_step_size_growth", "1 or more", 1, math.inf),
        ("perturbations", "1 or more", 1, math.inf),
        ("smoothing", "a positive number", math.ulp(0), math.inf),
    ):
        value = getattr(recipe, name)
        optional = name in ("halve_every", "clip", "adjoint_clip", "max_step_size")
        if not (optional and value is None) and not least <= value < below:
            raise ValueError(f"{name}: {value} is not accepted; use {accepted}")
    if recipe.max_step_size is None:
        _refuse_idle(recipe, ("max_step_size_growth",), "without max_step_size")
    if recipe.perturbations == 1:
        _refuse_idle(recipe, ("smoothing",), "with perturbations 1")
    if not many:
        _refuse_idle(recipe, ("normalise_networks",), "on one network")


def _refuse_idle(recipe: OuterRecipe, names: tuple[str, ...], where: str) -> None:
    """Raises ``ValueError`` if one of these settings, which have no effect there, is not its default."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in names and value != field.default:
            raise ValueError(f"{field.name}: {value} has no effect {where}; leave it at {field.default}")


def relative_rate(recipe: OuterRecipe) -> optax.Schedule:
    """The schedule that Adam's rate and the smoothing follow: outer step -> factor, 1 at first."""
    if recipe.halve_every is None:
        return optax.cosine_decay_schedule(1.0, recipe.steps)
    return optax.exponential_decay(1.0, recipe.halve_every, 0.5, staircase=True)


def outer_optimizer(recipe: OuterRecipe) -> optax.GradientTransformation:
    """The optimizer of Algorithm 1's last line, over a :class:`dd_jax.parametrisations.Learned`."""
    relative = relative_rate(recipe)

    def decay_and_slow(updates: Any, params: Any) -> Any:
        slow = functools.partial(jax.tree.map, lambda u: recipe.step_size_rate * u)
        decayed = jax.tree.map(lambda u, x: u + recipe.weight_decay * x, updates.images, params.images)
        return updates._replace(images=decayed, step_sizes=slow(updates.step_sizes), hyper=slow(updates.hyper))

    optimizer = optax.chain(
        optax.scale_by_adam(recipe.b1, recipe.b2),
        optax.stateless(decay_and_slow),
        optax.scale_by_learning_rate(lambda step: recipe.learning_rate * relative(step)),
    )
    if recipe.clip is not None:
        optimizer = optax.chain(clip_by_running_norm(recipe.clip), optimizer)
    if recipe.max_step_size is not None:
        optimizer = optax.chain(
            optimizer, bound_step_sizes(recipe.max_step_size, recipe.max_step_size_growth, relative)
        )
    return optimizer


def bound_step_sizes(first: float, growth: float, relative: optax.Schedule) -> optax.GradientTransformation:
    """Keeps every η̃ = softplus(raw) at or below a bound, by projection.

    Args:
      first: the bound at first.
      growth: how many times that it is in the end, where ``relative`` has fallen from 1 to 0.
      relative: outer step -> factor.
    """
    lowest, highest = (float(POSITIVE.encode(np.float64(first * f))) for f in (1.0, growth))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        bound = highest + (lowest - highest) * relative(state.count)

        def kept(update, raw):
            return jnp.minimum(update, jnp.asarray(bound, raw.dtype) - raw)

        step_sizes = jax.tree.map(kept, updates.step_sizes, params.step_sizes)
        return updates._replace(step_sizes=step_sizes), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


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


def recipe_estimate(
    recipe: OuterRecipe,
    step: jax.Array,
    train: Train,
    objective: Loss,
    decode: Callable[[Any], Distilled],
    *,
    many: bool,
    mesh: Mesh | None = None,
) -> Estimate:
    """The meta-gradient of an outer step as the recipe has it: its mean over perturbations, and over networks.

    Args:
      recipe: the settings.
      step: outer steps done.
      train, objective, decode: as in :func:`dd_jax.estimates.meta_gradient`.
      many: θ₀ is of N networks, each leaf with a leading axis N (equation 5); else of one (equation 4).
      mesh: the devices that networks and real examples are dealt out over (see :mod:`dd_jax.parallel`); one if not
        given.

    Raises:
      ValueError: a setting of the recipe is out of range or has no effect.
    """
    check_recipe(recipe, many=many)
    nets, batch = (None, None) if mesh is None else (NETS, BATCH)
    if recipe.perturbations == 1:
        estimate = meta_gradient(train, objective, decode, axis=batch)
    else:
        scale = jnp.asarray(recipe.smoothing * relative_rate(recipe)(step))
        estimate = meta_gradient(train, objective, decode)
        estimate = perturbed(estimate, scale=scale, count=recipe.perturbations, axis=batch)
    if many:
        estimate = over_networks(estimate, normalise=recipe.normalise_networks, axis=nets)
    return estimate if mesh is None else over_devices(estimate, mesh, many=many)


class OuterState(NamedTuple):
    """What the next outer step needs."""

    step: jax.Array  # int32, outer steps done
    params: Any  # what is learned
    optimizer: optax.OptState  # what the outer optimizer remembers


class OuterInfo(NamedTuple):
    """What one outer step measured."""

    loss: jax.Array  # L before the update, nats
    gradient_norm: jax.Array  # ℓ2 norm of the meta-gradient in what is learned, before clipping
    finite: jax.Array  # bool: false where the step was refused


class OuterStep(NamedTuple):
    """Algorithm 1's loop body, as a pair of pure functions."""

    init: Callable[[Any], OuterState]  # params -> state
    update: Callable[[jax.Array, OuterState, Params, Batch], tuple[OuterState, OuterInfo]]  # of key, state, θ₀, batch


def outer_step(
    estimate_at: Callable[[jax.Array], Estimate],
    optimizer: optax.GradientTransformation,
    *,
    fixed: Callable[[Any], Any] | None = None,
) -> OuterStep:
    """Algorithm 1's loop body. Nothing is jitted here: the caller decides, and may donate the state.

    A step whose loss or gradient is not finite leaves the state as it was, and says so in ``OuterInfo.finite``.

    Args:
      estimate_at: the estimate of an outer step, ``step -> estimate``: what is smoothed, or which steps are
        differentiated, may depend on how many are done.
      optimizer: moves the params.
      fixed: ``params -> tree of bool``, true for leaves that stay as they are; none if not given.

    Returns:
      The pair. ``update`` takes a random key, the state, θ₀ and a real batch.
    """
    if fixed is not None:
        kinds = functools.partial(jax.tree.map, lambda stays: "fixed" if stays else "learned")
        transformations: dict[Any, Any] = {"learned": optimizer, "fixed": optax.set_to_zero()}
        optimizer = optax.partition(transformations, lambda params: kinds(fixed(params)))

    def init(params):
        return OuterState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    def update(key, state, theta, batch):
        value, gradient = estimate_at(state.step)(key, state.params, theta, batch)
        size = norm(gradient)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = jax.tree.map(lambda x, u: x + u.astype(x.dtype), state.params, updates)
        moved = OuterState(state.step + 1, params, optimizer_state)
        finite = jnp.isfinite(value) & jnp.isfinite(size)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return state, OuterInfo(value, size, finite)

    return OuterStep(init, update)
