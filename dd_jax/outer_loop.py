"""The loop of outer steps: the device works on the next one while Python looks at the last (paper, Algorithm 1)."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dd_jax.base import Loss, Parametrisation, Train
from dd_jax.outer import OuterInfo, OuterRecipe, OuterState, OuterStep, outer_optimizer, outer_step, recipe_estimate


def step_of_recipe(
    recipe: OuterRecipe,
    train_at: Callable[[jax.Array], Train],
    objective: Loss,
    learned: Parametrisation,
    *,
    many: bool,
    mesh: Mesh | None = None,
) -> OuterStep:
    """The outer step as the recipe has it.

    Args:
      recipe: the settings.
      train_at: the inner loop of an outer step, ``outer steps done -> train``.
      objective: the terms of ℓ on the real batch, ``(theta, images, labels) -> [B]``.
      learned: what is learned.
      many, mesh: as in :func:`dd_jax.outer.recipe_estimate`.

    Returns:
      The pair; it raises ``ValueError``, when traced, for a setting that is out of range or has no effect.
    """

    def estimate_at(step):
        return recipe_estimate(recipe, step, train_at(step), objective, learned.decode, many=many, mesh=mesh)

    return outer_step(estimate_at, outer_optimizer(recipe), fixed=learned.fixed)


def in_turn(outer: OuterStep) -> Callable[..., tuple[OuterState, OuterInfo]]:
    """The update of an outer step, ``(key, state, theta, batch, number) -> (state, info)``, refused out of turn.

    ``number`` is that of the step, 1, 2, …. A step is refused if the one before it was. So a step may be dispatched
    before it is known whether the last one was refused, and the state stays that before the refused one.
    """

    def update(key, state, theta, batch, number):
        moved, info = outer.update(key, state, theta, batch)
        follows = state.step == number - 1
        moved = jax.tree.map(lambda new, old: jnp.where(follows, new, old), moved, state)
        return moved, info._replace(finite=info.finite & follows)

    return update


class Done(NamedTuple):
    """An outer step whose numbers are there."""

    step: int  # 1, 2, …
    loss: float  # L before the step, nats
    gradient_norm: float  # of the meta-gradient
    finite: bool  # false where the step was refused: then the state is that before it
    state: Any  # of the newest step that was dispatched; the next one may take its memory
    rests: bool  # whether that is this step


def outer_loop(
    state: Any,
    update: Callable[[Any, int], tuple[Any, OuterInfo]],
    steps: int,
    *,
    start: int = 0,
    rests: Callable[[int], bool],
) -> Iterator[Done]:
    """Makes outer steps ``start + 1`` … ``steps``, one after the other.

    The numbers of a step are fetched only after the next one is dispatched, so that the device does not wait for
    Python. It does wait where the loop rests: then the state is that of the step, and may be looked at.

    Args:
      state: any pytree of arrays.
      update: ``(state, number of the step) -> (state, info)``; jitted, may donate.
      steps: outer steps in all.
      start: outer steps that are done.
      rests: whether to rest after a step. It is asked once for each, in turn, after the numbers of the step before were
        given. After the last step, the loop rests in any case.

    Yields:
      Each step in turn. Whoever asks for the next one has to stop at a step that was refused.
    """
    pending = None
    for step in range(start + 1, steps + 1):
        state, info = update(state, step)
        if pending is not None:
            yield _done(*pending, state, rests=False)
        pending = step, info
        if rests(step) or step == steps:
            yield _done(*pending, state, rests=True)
            pending = None


def _done(step: int, info: OuterInfo, state: Any, *, rests: bool) -> Done:
    loss, norm, finite = (number.item() for number in jax.device_get(info))
    return Done(step, loss, norm, finite, state, rests)
