"""The contracts: what the parts of a distillation are to each other. Types alone; each row is one function or pytree.

=================  ============================================================  ==================================
contract           form                                                          paper
=================  ============================================================  ==================================
`Params`           any pytree of float arrays                                    θ
`Network`          ``init(key) -> θ₀``, ``apply(θ, images) -> logits``           section 3
`Criterion`        ``(logits [B, C], labels [B, C]) -> [B]``, nats               ℓ, one value per example
`Loss`             ``(θ, images [B, …], labels [B, …]) -> [B]``, nats            ℓ of a network, one value per example
`Distilled`        images, labels, step sizes and hyper-parameters               x̃, ỹ, η̃
`Train`            ``(key, θ₀, Distilled) -> θ_T``                               equation 2, T times
`Batch`            real images and labels                                        x, y
`Estimate`         ``(key, params, θ₀, Batch) -> (value, gradient)``             equations 4, 5 and their gradient
=================  ============================================================  ==================================

The library takes means over examples, so that chunks, shares of devices and evaluation add up by construction.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Params = Any
"""Any pytree of arrays."""

Criterion = Callable[[jax.Array, jax.Array], jax.Array]
"""``(logits [B, C], labels [B, C]) -> [B]``, nats; each value depends on its own example alone."""

Loss = Callable[[Params, jax.Array, jax.Array], jax.Array]
"""``(theta, images [B, …], labels [B, …]) -> [B]``, nats; each value depends on its own example alone."""

Batch = tuple[jax.Array, jax.Array]
"""Real images ``[B, H, W, D]`` and labels ``[B, C]``."""


class Network(NamedTuple):
    """A network without hidden state. A user's own pair of functions works wherever one of ours does."""

    init: Callable[[jax.Array], Params]  # key -> weights
    apply: Callable[[Params, jax.Array], jax.Array]  # weights, images [B, H, W, D] -> logits [B, C]


class Distilled(NamedTuple):
    """Distilled data as the inner loop takes them; what is learned may be something they are decoded from."""

    images: jax.Array  # x̃, [S, M, H, W, D] float, normalised pixel units
    labels: jax.Array  # ỹ, [S, M, C] float class probabilities, or whatever else the loss takes
    step_sizes: jax.Array  # η̃, [T] float
    hyper: Mapping[str, jax.Array] = {}  # of the inner optimizer, by name, each a scalar or [T]


class Parametrisation(NamedTuple):
    """What is learned in place of distilled data: the outer optimizer moves params, the loop sees them decoded."""

    init: Callable[[Distilled], Any]  # distilled data -> params, any pytree
    decode: Callable[[Any], Distilled]  # params -> distilled data, differentiable
    fixed: Callable[[Any], Any]  # params -> tree of bool, true for leaves that are not learned


Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""``(key, images [B, H, W, D]) -> images``, differentiable."""

Train = Callable[[jax.Array, Params, Distilled], Params]
"""``(key, theta, distilled) -> theta``: training on distilled data. The key draws whatever is random in it."""

Estimate = Callable[[jax.Array, Any, Params, Batch], tuple[jax.Array, Any]]
"""``(key, params, theta, batch) -> (value, gradient in params)`` of an outer objective, exact or estimated."""
