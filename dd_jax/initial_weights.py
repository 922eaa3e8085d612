"""Distributions of initial weights, θ₀ ~ p(θ₀) (paper, section 3.3 and the settings of its code).

A law draws new values for the weights of any network: arrays with two or more axes are kernels, with inputs and
outputs on the last two axes and the receptive field before them, and follow the law; arrays with fewer are biases
and become zero.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import initializers

from dd_jax.networks import Network
from dd_jax.unroll import Params

# gain -> initializer of one kernel. Fan-in and fan-out count the receptive field.
_KERNELS: dict[str, Callable[[float], jax.nn.initializers.Initializer]] = {
    "xavier_normal": lambda gain: initializers.variance_scaling(gain**2, "fan_avg", "normal"),
    "xavier_uniform": lambda gain: initializers.variance_scaling(gain**2, "fan_avg", "uniform"),
    "kaiming_fan_in": lambda gain: initializers.variance_scaling(2 * gain**2, "fan_in", "normal"),
    "kaiming_fan_out": lambda gain: initializers.variance_scaling(2 * gain**2, "fan_out", "normal"),
    "orthogonal": initializers.orthogonal,
    "normal": initializers.normal,
    "zero": lambda gain: initializers.zeros,
}
LAWS = (*_KERNELS, "default")


def initial_weights(network: Network, law: str = "xavier_normal", gain: float = 1.0) -> Callable[[jax.Array], Params]:
    """The distribution p(θ₀) of a network's initial weights.

    With fan-in I and fan-out O (receptive field included), a kernel's entries have mean zero and variance

    ==================  ==================================================================
    ``xavier_normal``   gain² · 2 / (I + O), normal (the paper's choice, gain 1)
    ``xavier_uniform``  gain² · 2 / (I + O), uniform
    ``kaiming_fan_in``  gain² · 2 / I, normal
    ``kaiming_fan_out`` gain² · 2 / O, normal
    ``orthogonal``      gain² / max(I, outputs): orthogonal rows or columns of length gain
    ``normal``          gain², normal
    ``zero``            0
    ``default``         whatever ``network.init`` draws, biases included; takes no gain
    ==================  ==================================================================

    Args:
      network: the pair whose weights are drawn; gives their shapes.
      law: one of ``LAWS``.
      gain: positive scale of the law.

    Returns:
      ``key -> weights``, pure.

    Raises:
      ValueError: an unknown law, or a gain that is not positive or not taken.
    """
    if law not in LAWS:
        raise ValueError(f"weights.law: {law!r} is unknown; use one of {', '.join(LAWS)}")
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"weights.gain: {gain} is not positive")
    if law == "default":
        if gain != 1:
            raise ValueError(f"weights.gain: {gain} has no meaning for the law 'default'; leave it at 1")
        return network.init
    kernel = _KERNELS[law](gain)
    shapes = jax.eval_shape(network.init, jax.random.key(0))

    def draw(key):
        leaves, structure = jax.tree.flatten(shapes)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            structure,
            [
                kernel(k, leaf.shape, leaf.dtype) if leaf.ndim >= 2 else jnp.zeros(leaf.shape, leaf.dtype)
                for k, leaf in zip(keys, leaves, strict=True)
            ],
        )

    return draw
