"""Distributions of initial weights, θ₀ ~ p(θ₀) (paper, section 3.3 and the settings of its code).

A law draws new values for a network's kernels and keeps what the network itself gives its other weights: biases,
the scales of normalisation layers, embeddings. One law, ``pytorch``, draws biases too. Kernels are the arrays named
``kernel``, as flax.linen's layers do; in weights without that name, the arrays with two or more axes. Inputs and
outputs are on a kernel's last two axes, the receptive field before them; attention's kernels, [D, heads, d] and
[heads, d, D], count as the matrices they are. (Of a grouped convolution, I counts the inputs of a group and O all
outputs, as in PyTorch.)
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from dd_jax.base import Network, Params
from dd_jax.checks import require
from dd_jax.files.trees import named_leaves

# gain -> initializer of one kernel. Fan-in and fan-out count the receptive field.
_KERNELS: dict[str, Callable[[float], Callable[..., jax.Array]]] = {
    "xavier_normal": lambda gain: initializers.variance_scaling(gain**2, "fan_avg", "normal"),
    "xavier_uniform": lambda gain: initializers.variance_scaling(gain**2, "fan_avg", "uniform"),
    "kaiming_fan_in": lambda gain: initializers.variance_scaling(2 * gain**2, "fan_in", "normal"),
    "kaiming_fan_out": lambda gain: initializers.variance_scaling(2 * gain**2, "fan_out", "normal"),
    "kaiming_leaky_fan_in": lambda gain: initializers.variance_scaling(gain**2, "fan_in", "normal"),
    "kaiming_leaky_fan_out": lambda gain: initializers.variance_scaling(gain**2, "fan_out", "normal"),
    "pytorch": lambda gain: initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "orthogonal": lambda gain: functools.partial(_orthogonal, gain),
    "normal": initializers.normal,
    "zero": lambda gain: initializers.zeros,
}
LAWS = (*_KERNELS, "default")
_WITHOUT_GAIN = ("pytorch", "zero", "default")


def leaky_gain(slope: float = 1.0) -> float:
    """The gain that makes the laws ``kaiming_leaky_*`` those of a leaky ReLU of this slope, √(2 / (1 + slope²)).

    In the authors' code, the parameter of ``kaiming`` is this slope, 1 by default; that of their other laws is a gain.
    So their default is the law of a linear network. A ReLU has slope 0 (He et al. 2015, "Delving deep into
    rectifiers", arXiv:1502.01852, equation 15; ``torch.nn.init.calculate_gain``).

    Raises:
      ValueError: a slope that is not finite.

    >>> leaky_gain()
    1.0
    >>> round(leaky_gain(0), 4)
    1.4142
    """
    require(math.isfinite(slope), "slope", slope, "a finite number")
    return math.sqrt(2 / (1 + slope**2))


def initial_weights(network: Network, law: str = "xavier_normal", gain: float = 1.0) -> Callable[[jax.Array], Params]:
    """The distribution p(θ₀) of a network's initial weights.

    With fan-in I and fan-out O (receptive field included), a kernel's entries have mean zero and variance

    =========================  ==================================================================
    ``xavier_normal``          gain² · 2 / (I + O), normal (the paper's choice, gain 1)
    ``xavier_uniform``         gain² · 2 / (I + O), uniform
    ``kaiming_fan_in``         gain² · 2 / I, normal
    ``kaiming_fan_out``        gain² · 2 / O, normal
    ``kaiming_leaky_fan_in``   gain² / I, normal (the authors' ``kaiming``; see :func:`leaky_gain`)
    ``kaiming_leaky_fan_out``  gain² / O, normal (the authors' ``kaiming_out``)
    ``pytorch``                1 / (3 I), uniform, and so are biases; takes no gain
    ``orthogonal``             gain² / max(I, outputs): orthogonal rows or columns of length gain
    ``normal``                 gain², normal
    ``zero``                   0; takes no gain
    ``default``                whatever ``network.init`` draws; takes no gain
    =========================  ==================================================================

    ``pytorch`` is what ``torch.nn.Linear`` and ``torch.nn.Conv2d`` draw: U(−1/√I, 1/√I) for kernels, there written as
    ``kaiming_uniform_(a=√5)``, and for biases. The authors offer it as ``default``.

    Args:
      network: the pair whose weights are drawn; gives their shapes, and the weights that are no kernels.
      law: one of ``LAWS``.
      gain: positive scale of the law.

    Returns:
      ``key -> weights``, pure.

    Raises:
      ValueError: an unknown law, a gain that is not positive or not taken, a kernel of three axes in a layer of another
        name than flax's convolutions and attention have (which are inputs and outputs is not known there), or, for
        ``pytorch``, weights without the names ``kernel`` and ``bias``.
    """
    if law not in LAWS:
        raise ValueError(f"law: {law!r} is unknown; use one of {', '.join(LAWS)}")
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"gain: {gain} is not positive")
    if law in _WITHOUT_GAIN and gain != 1:
        raise ValueError(f"gain: {gain} has no meaning for the law {law!r}; use 1")
    if law == "default":
        return network.init
    kernel = _KERNELS[law](gain)
    weights = jax.eval_shape(network.init, jax.random.key(0))
    drawn_as = _shapes_of_kernels(weights, law)
    bounds = _bounds_of_biases(weights, drawn_as) if law == "pytorch" else [None] * len(drawn_as)

    def one(key, leaf, shape, bound):
        if bound is not None:
            return jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)
        return leaf if shape is None else kernel(key, shape, leaf.dtype).reshape(leaf.shape)

    def draw(key):
        leaves, structure = jax.tree.flatten(network.init(key))
        drawn = map(one, jax.random.split(key, len(leaves)), leaves, drawn_as, bounds)
        return jax.tree.unflatten(structure, drawn)

    return draw


def _orthogonal(gain: float, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """What ``jax.nn.initializers.orthogonal`` draws, without LAPACK.

    Several of LAPACK's factorisations in one program can wait for each other's threads for ever on a CPU. Classical
    Gram-Schmidt done twice is as accurate (Giraud et al., 2005, "twice is enough").
    """
    rows, columns = math.prod(shape[:-1]), shape[-1]
    gaussian = jax.random.normal(key, (max(rows, columns), min(rows, columns)), dtype)

    def next_column(j, q):  # the columns of q from j on are still zero
        column = gaussian[:, j]
        for _ in range(2):
            column -= jnp.matmul(q, jnp.matmul(column, q, precision="highest"), precision="highest")
        return q.at[:, j].set(column / jnp.linalg.norm(column))

    q = jax.lax.fori_loop(0, gaussian.shape[1], next_column, jnp.zeros_like(gaussian))
    return gain * (q if rows >= columns else q.T).reshape(shape)


def _shapes_of_kernels(weights: Any, law: str) -> list[tuple[int, ...] | None]:
    """Leaf by leaf the shape ``[…, I, O]`` to draw it in; None where the law does not hold for it."""
    leaves = [(name.split("/"), leaf) for name, leaf in named_leaves(weights).items()]
    if any(path[-1:] == ["kernel"] for path, _ in leaves):
        return [_as_drawn(path, leaf.shape, law) if path[-1:] == ["kernel"] else None for path, leaf in leaves]
    for path, leaf in leaves:
        if leaf.ndim >= 3 and math.prod(leaf.shape[:-1]) == 1:  # such as a scale [1, 1, 1, C]
            raise _unknown(path, leaf.shape, law)
    return [_as_drawn(path, leaf.shape, law) if leaf.ndim >= 2 else None for path, leaf in leaves]


def _bounds_of_biases(weights: Any, drawn_as: list[tuple[int, ...] | None]) -> list[float | None]:
    """Leaf by leaf 1/√I, the bound of PyTorch's biases; None for what is no bias, or of no layer with a kernel."""
    names = [name.rpartition("/") for name in named_leaves(weights)]
    kernels = [(layer, shape) for (layer, _, leaf), shape in zip(names, drawn_as, strict=True) if leaf == "kernel"]
    if not kernels:
        raise ValueError("law: 'pytorch' is not accepted for weights without names 'kernel' and 'bias'; use another")
    fans = {layer: math.prod(shape[:-1]) for layer, shape in kernels if shape is not None}
    return [1 / math.sqrt(fans[layer]) if leaf == "bias" and layer in fans else None for layer, _, leaf in names]


def _as_drawn(path: list[str], shape: tuple[int, ...], law: str) -> tuple[int, ...]:
    layer = path[-2] if len(path) > 1 else ""
    if len(shape) == 3 and layer in ("query", "key", "value"):
        return shape[0], shape[1] * shape[2]
    if len(shape) == 3 and layer == "out":
        return shape[0] * shape[1], shape[2]
    if len(shape) == 2 or len(shape) >= 4 or (len(shape) == 3 and layer.startswith("Conv")):
        return shape
    raise _unknown(path, shape, law)


def _unknown(path: list[str], shape: tuple[int, ...], law: str) -> ValueError:
    return ValueError(
        f"law: {law!r} is not accepted for {'/'.join(path)} of shape {shape}, whose inputs and outputs are not "
        "known; use 'default', or kernels [in, out] or [H, W, in, out]"
    )
