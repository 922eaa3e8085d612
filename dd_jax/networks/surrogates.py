"""ReLU and maximum whose *second* derivative sees the switch, so that the meta-gradient does too.

A ReLU's derivative jumps from 0 to 1 where its input changes sign, so ∇_θ ℓ(x̃; θ) jumps as x̃ moves, and with it the
weights after a step and the outer objective. The exact second derivative is a Dirac delta at the switch; automatic
differentiation gives zero there, and so loses the sum of all those jumps, a large part of how L(x̃) changes over any
visible distance. Here the delta is spread over a Gaussian. Values and first derivatives are exactly those of ReLU and
maximum: the network and its training are unchanged, and only the direction in which x̃ is moved is. The idea is the
surrogate gradient of spiking networks (Neftci et al. 2019), one derivative higher. See docs/method.md.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Surrogates(NamedTuple):
    """The piecewise linear functions of a network, elementwise; of equal arguments, the first gets the gradient."""

    relu: Callable[[jax.Array], jax.Array]  # max(x, 0)
    maximum: Callable[[jax.Array, jax.Array], jax.Array]  # max(x, y)


def surrogates(width: float) -> Surrogates:
    """ReLU and maximum, the deltas of their second derivatives spread over a Gaussian.

    Args:
      width: standard deviation of the Gaussian, in units of the standard deviation, over the whole array, of the
        ReLU's input or the maximum's difference y − x; 0 gives a second derivative of zero, as automatic
        differentiation does.

    Raises:
      ValueError: a width that is negative or not finite.
    """
    if not (math.isfinite(width) and width >= 0):
        raise ValueError(f"switch_width: {width} is not accepted; use 0 or a positive number")
    if width == 0:
        return Surrogates(jax.nn.relu, _first_maximum)
    return Surrogates(functools.partial(_relu, width), functools.partial(_maximum, width))


@jax.custom_jvp
def _first_maximum(x, y):
    return jnp.maximum(x, y)


@_first_maximum.defjvp
def _first_maximum_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    return _first_maximum(x, y), jnp.where(y > x, dy, dx)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _relu(width, x):
    del width
    return jnp.maximum(x, 0)


@_relu.defjvp
def _relu_jvp(width, primals, tangents):
    (x,), (dx,) = primals, tangents
    return _relu(width, x), _positive(width, x) * dx


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _maximum(width, x, y):
    del width
    return jnp.maximum(x, y)


@_maximum.defjvp
def _maximum_jvp(width, primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    return _maximum(width, x, y), dx + _positive(width, y - x) * (dy - dx)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _positive(width, x):
    """1[x > 0], differentiated as the density of N(0, (width · std(x))²)."""
    del width
    return (x > 0).astype(x.dtype)


@_positive.defjvp
def _positive_jvp(width, primals, tangents):
    (x,), (dx,) = primals, tangents
    scale = width * jnp.std(x) + jnp.finfo(x.dtype).eps
    return _positive(width, x), jax.scipy.stats.norm.pdf(x, scale=scale) * dx
