"""Networks as data: a list of layers in JSON's types, from which anyone can build the network in any framework.

Each network of ours has a function ``describe_NAME`` beside its module. docs/distilled_file.md says what every kind of
layer computes, with an interpreter of thirty lines; the tests run that interpreter, so a description cannot differ from
its network.

>>> layers = with_names([flatten(), dense(4), relu(), dense(2)])
>>> [layer["kind"] for layer in layers], layers[3]["weights"]["kernel"]
(['flatten', 'dense', 'relu', 'dense'], 'params/Dense_1/kernel')
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Layer = Mapping[str, Any]
"""``kind``, the constants of that kind, and ``weights``: the names of its arrays among the network's."""

_FLAX = {"convolution": "Conv", "dense": "Dense", "group_norm": "GroupNorm", "instance_norm": "InstanceNorm"}


def convolution(features: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True) -> Layer:
    """A square convolution, padded with zeros: cross-correlation, as every framework's."""
    window = _window(kernel, stride, padding)
    weights = ("kernel", "bias") if bias else ("kernel",)
    return {"kind": "convolution", "features": features, **window, "weights": weights}


def dense(features: int) -> Layer:
    """Every feature times its weights, and a bias: x · kernel + bias."""
    return {"kind": "dense", "features": features, "weights": ("kernel", "bias")}


def group_norm(groups: int, epsilon: float) -> Layer:
    """Groups of neighbouring channels, each normalised over an image; then a scale and a bias for each channel."""
    return {"kind": "group_norm", "groups": groups, "epsilon": epsilon, "weights": ("scale", "bias")}


def instance_norm(epsilon: float) -> Layer:
    """Each channel normalised over an image; then a scale and a bias for each channel."""
    return {"kind": "instance_norm", "epsilon": epsilon, "weights": ("scale", "bias")}


def local_response_norm(*, size: int, alpha: float, beta: float, k: float) -> Layer:
    """X / (k + alpha / size · Σ x²)^beta over ``size`` channels, c − size//2 … c + (size−1)//2."""
    return {"kind": "local_response_norm", "size": size, "alpha": alpha, "beta": beta, "k": k}


def relu() -> Layer:
    """The larger of x and 0."""
    return {"kind": "relu"}


def max_pool(window: int, stride: int, *, padding: int = 0) -> Layer:
    """The largest of each square window; padding never wins."""
    return {"kind": "max_pool", **_window(window, stride, padding)}


def avg_pool(window: int, stride: int) -> Layer:
    """The mean of each square window."""
    return {"kind": "avg_pool", **_window(window, stride, 0)}


def adaptive_avg_pool(side: int) -> Layer:
    """Means over ``side`` × ``side`` bins of nearly equal size (see :func:`dd_jax.networks.alexnet.mean_of_bins`)."""
    return {"kind": "adaptive_avg_pool", "size": [side, side]}


def mean_pixel() -> Layer:
    """The mean over height and width."""
    return {"kind": "mean_pixel"}


def flatten() -> Layer:
    """One axis of features for all three of an image, channels running fastest, then columns, then rows."""
    return {"kind": "flatten", "order": ["height", "width", "channels"]}


def residual(branch: Sequence[Layer], shortcut: Sequence[Layer] = (), *, scope: str) -> Layer:
    """The sum of two sequences of layers, each of which is given the same input; no layers are the identity.

    Args:
      branch, shortcut: the layers.
      scope: the name of the flax module that holds both; they are numbered within it, the branch's first.
    """
    return {"kind": "residual", "branch": list(branch), "shortcut": list(shortcut), "scope": scope}


def with_names(layers: Sequence[Layer], scope: str = "params") -> list[Layer]:
    """The layers with ``weights`` by the names that flax.linen gives them: kind by kind, in the order of their use."""
    return _named(layers, scope, Counter())


def _named(layers: Sequence[Layer], scope: str, used: Counter[str]) -> list[Layer]:
    return [_with_its_names(layer, scope, used) for layer in layers]


def _with_its_names(layer: Layer, scope: str, used: Counter[str]) -> Layer:
    if "weights" not in layer and layer["kind"] != "residual":
        return layer
    name = layer.get("scope") or _FLAX[layer["kind"]]
    place = f"{scope}/{name}_{used[name]}"
    used[name] += 1
    if layer["kind"] == "residual":
        within: Counter[str] = Counter()
        return {"kind": "residual"} | {part: _named(layer[part], place, within) for part in ("branch", "shortcut")}
    return {**layer, "weights": {weight: f"{place}/{weight}" for weight in layer["weights"]}}


def _window(size: int, stride: int, padding: int) -> dict[str, Any]:
    """Of height and width; padding is (before, after) of each."""
    return {"window": [size, size], "stride": [stride, stride], "padding": [[padding, padding], [padding, padding]]}
