"""Distributions of initial weights, θ₀ ~ p(θ₀) (paper, section 3.3 and the settings of its code).

A law draws new values for a network's kernels and keeps what the network itself gives its other weights: biases,
the scales of normalisation layers, embeddings. Kernels are the arrays named ``kernel``, as flax.linen's layers do; in
weights without that name, the arrays with two or more axes. Inputs and outputs are on a kernel's last two axes, the
receptive field before them. (Of a grouped convolution, I counts the inputs of a group and O all outputs, as in
PyTorch.)
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from dd_jax.losses import Params
from dd_jax.networks import Network

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
    ``zero``            0; takes no gain
    ``default``         whatever ``network.init`` draws; takes no gain
    ==================  ==================================================================

    Args:
      network: the pair whose weights are drawn; gives their shapes, and the weights that are no kernels.
      law: one of ``LAWS``.
      gain: positive scale of the law.

    Returns:
      ``key -> weights``, pure.

    Raises:
      ValueError: an unknown law, a gain that is not positive or not taken, or a kernel with three axes, such as
        attention's [D, heads, d]: which are inputs and which outputs is not known there.
    """
    if law not in LAWS:
        raise ValueError(f"weights.law: {law!r} is unknown; use one of {', '.join(LAWS)}")
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"weights.gain: {gain} is not positive")
    if law in ("default", "zero") and gain != 1:
        raise ValueError(f"weights.gain: {gain} has no meaning for the law {law!r}; leave it at 1")
    if law == "default":
        return network.init
    kernel = _KERNELS[law](gain)
    is_kernel = _which_are_kernels(jax.eval_shape(network.init, jax.random.key(0)), law)

    def draw(key):
        leaves, structure = jax.tree.flatten(network.init(key))
        keys = jax.random.split(key, len(leaves))
        drawn = (
            kernel(k, leaf.shape, leaf.dtype) if follows else leaf
            for k, leaf, follows in zip(keys, leaves, is_kernel, strict=True)
        )
        return jax.tree.unflatten(structure, drawn)

    return draw


def _which_are_kernels(shapes: Any, law: str) -> list[bool]:
    """Leaf by leaf, whether the law holds for it; ``ValueError`` where a kernel's fans are not known."""
    leaves = jax.tree.leaves_with_path(shapes)
    named = [bool(path) and getattr(path[-1], "key", None) == "kernel" for path, _ in leaves]
    kernels = named if any(named) else [leaf.ndim >= 2 for _, leaf in leaves]
    for (path, leaf), is_kernel in zip(leaves, kernels, strict=True):
        vector = not any(named) and math.prod(leaf.shape[:-1]) == 1  # such as a scale [1, 1, 1, C]
        if is_kernel and not (leaf.ndim == 2 or (leaf.ndim >= 4 and not vector)):
            raise ValueError(
                f"weights.law: {law!r} is not accepted for {jax.tree_util.keystr(path)} of shape {leaf.shape}, whose "
                "inputs and outputs are not known; use 'default', or kernels [in, out] or [H, W, in, out]"
            )
    return kernels
