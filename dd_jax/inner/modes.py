"""How the inner loop is differentiated in reverse: four modes of the same numbers, for different memory and time."""

import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from dd_jax.base import Params
from dd_jax.inner.optimizers import InnerOptimizer
from dd_jax.norms import at_most

Mode = Literal["forward_over_reverse", "nested", "remat", "plain"]
"""How the loop is differentiated. All give the same numbers; with W the size of the weights, and of the optimizer's
state if it has one, the backward pass keeps

- ``forward_over_reverse``: the weights of every step, T·W, and differentiates each step by one JVP of its gradient;
- ``nested``: the same step, but only about 2√T·W, for one more pass through the loop;
- ``remat``: T·W, and differentiates the recomputed step in reverse, as JAX does it;
- ``plain``: T·W and every activation of every step, without recomputing any; the fastest where memory is no concern.
"""
MODES: tuple[Mode, ...] = typing.get_args(Mode)


class Carry(NamedTuple):
    """What a step hands to the next: weights, and the inner optimizer's state."""

    theta: Params
    state: Any


class Data(NamedTuple):
    """What the loss of a step depends on besides θ: x̃ and ỹ of all steps, and traced values that it closes over.

    Images and labels have the axis in front that ``Steps.rows`` counts along.
    """

    images: jax.Array
    labels: jax.Array
    captured: list[jax.Array]


class Steps(NamedTuple):
    """What each step takes: of every leaf one entry, or of all steps a leading axis T."""

    rows: jax.Array  # int32, a row of the data, or [m] of them
    step_sizes: jax.Array
    hyper: Mapping[str, jax.Array]
    key: jax.Array | None  # of the augmentation


class Rule(NamedTuple):
    """What is the same for all steps."""

    loss: Callable[..., jax.Array]  # ℓ, (theta, images, labels, key, *captured) -> scalar
    optimizer: InnerOptimizer
    adjoint_clip: float | None


def step(rule: Rule, carry: Carry, data: Data, taken: Steps) -> Carry:
    """θ − η̃ · direction: one step of the loop (paper, equation 2, where the direction is the gradient)."""
    row = _row(data, taken.rows)
    gradient = jax.grad(lambda theta: rule.loss(theta, row.images, row.labels, taken.key, *row.captured))(carry.theta)
    return _moved(rule, carry, gradient, taken)


def _moved(rule: Rule, carry: Carry, gradient: Params, taken: Steps) -> Carry:
    direction, state = gradient, carry.state
    if not rule.optimizer.is_plain:
        direction, state = rule.optimizer.direction(taken.hyper, gradient, state, carry.theta)
    return Carry(_descend(direction, carry.theta, taken.step_sizes), state)


def _descend(direction: Params, theta: Params, step_size: jax.Array) -> Params:
    return jax.tree.map(lambda w, d: w - step_size.astype(w.dtype) * d, theta, direction)


def _row(data: Data, index: jax.Array) -> Data:
    """The images and labels of one step."""
    return Data(_taken(data.images, index), _taken(data.labels, index), data.captured)


def _taken(array: jax.Array, index: jax.Array) -> jax.Array:
    if index.ndim == 0:
        return jax.lax.dynamic_index_in_dim(array, index, keepdims=False, allow_negative_indices=False)
    # By rows of numbers: XLA's CPU code copies a row at once, but gathers from more axes number by number.
    rows = array.reshape(array.shape[0], -1)
    return jnp.take(rows, index, axis=0, mode="clip").reshape(*index.shape, *array.shape[1:])


def _added(total: jax.Array, index: jax.Array, part: jax.Array) -> jax.Array:
    """``total`` with a step's part added where :func:`_taken` took it."""
    if index.ndim == 0:
        held = jax.lax.dynamic_index_in_dim(total, index, allow_negative_indices=False)
        return jax.lax.dynamic_update_index_in_dim(total, held + part[None], index, 0, allow_negative_indices=False)
    rows = total.reshape(total.shape[0], -1).at[index].add(part.reshape(len(index), -1), mode="clip")
    return rows.reshape(total.shape)


def run(mode: Mode, rule: Rule, carry: Carry, data: Data, steps: Steps) -> Carry:
    """All steps, differentiated as ``mode`` says."""
    if mode == "forward_over_reverse":
        return _lean(rule, carry, data, steps)
    if mode == "nested":
        return _nested(rule, carry, data, steps)

    def body(carry, taken):
        carry = step(rule, carry, data, taken)
        return carry if rule.adjoint_clip is None else _clip_adjoint(carry, rule.adjoint_clip), None

    body = body if mode == "plain" else jax.checkpoint(body, prevent_cse=False)
    return jax.lax.scan(body, carry, steps)[0]


def _clip_adjoint(carry: Any, longest: float) -> Any:
    """The identity; what is pulled back through it, the loss's gradient in its floats, is clipped to that norm."""
    floats = _Floats(carry)

    @jax.custom_vjp
    def clip(leaves):
        return leaves

    clip.defvjp(lambda leaves: (leaves, None), lambda _, u: (at_most(u, longest),))
    return floats.whole(clip(floats.leaves))


class _Floats:
    """The float leaves of a pytree, which have cotangents; integers and keys have none."""

    def __init__(self, tree: Any):
        self._all, self._structure = jax.tree.flatten(tree)
        self._where = [i for i, leaf in enumerate(self._all) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        self.leaves = [self._all[i] for i in self._where]

    def whole(self, leaves: list) -> Any:
        """The tree with these in the place of its floats."""
        by_number = dict(zip(self._where, leaves, strict=True))
        return self._structure.unflatten([by_number.get(i, leaf) for i, leaf in enumerate(self._all)])

    def of(self, tree: Any) -> list:
        """The leaves of another tree of this structure in the places of the floats."""
        leaves = self._structure.flatten_up_to(tree)
        return [leaves[i] for i in self._where]

    def cotangent(self, leaves: list) -> Any:
        """The tree with these in the place of its floats, and nothing elsewhere."""
        by_number = dict(zip(self._where, leaves, strict=True))
        return self._structure.unflatten([by_number.get(i) for i in range(len(self._all))])


def _all_steps(rule: Rule, carry: Carry, data: Data, steps: Steps) -> Carry:
    return jax.lax.scan(lambda carry, taken: (step(rule, carry, data, taken), None), carry, steps)[0]


def _forward(rule: Rule, carry: Carry, data: Data, steps: Steps) -> tuple[Carry, Any]:
    """The steps, and the weights and the state before each of them."""
    end, kept = jax.lax.scan(lambda carry, taken: (step(rule, carry, data, taken), carry), carry, steps)
    return end, (kept, data, steps)


def _backward(rule: Rule, saved: Any, u: Carry) -> tuple[Any, Any, Any]:
    """From the last step to the first, each adding its part of the data's cotangent where it took its examples."""
    kept, data, steps = saved
    floats_of_data = _Floats(data)
    sides = _Floats(data._replace(captured=[]))  # which of images and labels are floats
    count = len(sides.leaves)

    def back(pulled, taken):
        u, total = pulled
        carry, taken = taken
        u = u if rule.adjoint_clip is None else at_most(u, rule.adjoint_clip)
        u, part, of_step = _step_back(rule, carry, _row(data, taken.rows), taken, u)
        sides = [_added(t, taken.rows, p) for t, p in zip(total[:count], part[:count], strict=True)]
        rest = [t + p for t, p in zip(total[count:], part[count:], strict=True)]
        return (u, sides + rest), of_step

    floats = _Floats(jax.tree.map(lambda a: a[0], kept))
    start = (floats.of(u), [jnp.zeros_like(leaf) for leaf in floats_of_data.leaves])
    (u_first, total), of_steps = jax.lax.scan(back, start, (kept, steps), reverse=True)
    return floats.cotangent(u_first), floats_of_data.cotangent(total), _Floats(steps).cotangent(of_steps)


_lean = jax.custom_vjp(_all_steps, nondiff_argnums=(0,))
_lean.defvjp(_forward, _backward)


def _step_back(rule: Rule, carry: Carry, row: Data, taken: Steps, u: list) -> tuple[list, list, list]:
    """Pulls u, the cotangent of a step's floats, back to those of the carry, of the row, and of what the step took."""
    floats = _Floats(row)

    def gradients(theta):
        """∇ℓ in θ and in v, the floats of the row; and ℓ."""

        def at(theta, v):
            whole = floats.whole(v)
            return rule.loss(theta, whole.images, whole.labels, taken.key, *whole.captured)

        return jax.value_and_grad(at, argnums=(0, 1))(theta, floats.leaves)

    if rule.optimizer.is_plain:
        return _plain_step_back(gradients, carry.theta, taken, u)
    return _any_step_back(rule, gradients, carry, taken, u)


def _plain_step_back(gradients, theta, taken, u):
    """Forward over reverse: pulls u back through θ − η̃ g, g = ∇_θ ℓ.

    One JVP of ℓ and ∇ℓ along u on the weights (Pearlmutter 1994) gives ⟨g, u⟩, H u and ∂_v⟨g, u⟩, and θ̄ = u − η̃ H u,
    v̄ = −η̃ ∂_v⟨g, u⟩, η̄ = −⟨g, u⟩. That ⟨g, u⟩ is the slope of ℓ along u spares g.
    """
    u, eta = jax.tree.unflatten(jax.tree.structure(theta), u), taken.step_sizes
    slope, (hessian_u, mixed) = jax.jvp(gradients, (theta,), (u,))[1]
    theta_bar = jax.tree.leaves(_descend(hessian_u, u, eta))
    unused = [jnp.zeros_like(value) for value in jax.tree.leaves(taken.hyper)]
    return theta_bar, [-eta.astype(m.dtype) * m for m in mixed], [-slope.astype(eta.dtype), *unused]


def _any_step_back(rule, gradients, carry, taken, u):
    """The same for any optimizer: u goes back through its rule to ḡ, and one JVP along ḡ gives H ḡ and ∂_v⟨g, ḡ⟩.

    The Hessian is symmetric, so that H ḡ is what reverse mode would give.
    """
    (_, (gradient, _)), push = jax.linearize(gradients, carry.theta)
    carried, steps = _Floats(carry), _Floats(taken)

    def moved(carried_floats, gradient, step_floats):
        return carried.of(_moved(rule, carried.whole(carried_floats), gradient, steps.whole(step_floats)))

    _, pull = jax.vjp(moved, carried.leaves, gradient, steps.leaves)
    carry_bar, gradient_bar, steps_bar = pull(u)
    _, (hessian_g, mixed) = push(gradient_bar)
    theta_bar, *_ = whole = carried.whole(carry_bar)
    theta_bar = jax.tree.map(jnp.add, theta_bar, hessian_g)
    return carried.of(whole._replace(theta=theta_bar)), mixed, steps_bar


def _nested(rule: Rule, carry: Carry, data: Data, steps: Steps) -> Carry:
    """Segments of √T steps, of which one at a time is made again and differentiated (Griewank 1992)."""
    total = steps.step_sizes.shape[0]
    length = math.isqrt(total)
    whole = total - total % length

    @jax.checkpoint
    def segment(carry, steps):
        return _lean(rule, carry, data, steps)

    segments = jax.tree.map(lambda a: a[:whole].reshape(-1, length, *a.shape[1:]), steps)
    carry, _ = jax.lax.scan(lambda carry, steps: (segment(carry, steps), None), carry, segments)
    return segment(carry, jax.tree.map(lambda a: a[whole:], steps)) if whole < total else carry
