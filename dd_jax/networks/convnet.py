"""ConvNet, the network of most work on dataset distillation after the paper (Gidaris and Komodakis 2018)."""

import typing
from typing import Literal

import flax.linen as nn

from dd_jax.networks import description
from dd_jax.networks.convolution import Method
from dd_jax.networks.layers import Conv, GroupNorm, InstanceNorm, avg_pool, max_pool
from dd_jax.networks.options import ImageShape
from dd_jax.networks.surrogates import surrogates

Norm = Literal["instance", "group", "layer", "none"]
Pooling = Literal["avg", "max", "none"]
_EPSILON = 1e-5  # PyTorch's, with which the field's results were made
_GROUPS = 4


class ConvNet(nn.Module):
    """``depth`` blocks of 3×3 convolution, normalisation, ReLU and 2×2 pooling, then a linear layer."""

    outputs: int = 10
    width: int = 128
    depth: int = 3
    norm: Norm = "instance"
    pooling: Pooling = "avg"
    convolution: Method | None = None
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        relu, maximum = surrogates(self.switch_width)
        for _ in range(self.depth):
            x = Conv(self.width, (3, 3), padding=1, method=self.convolution)(x)
            x = relu(self._normalised(x))
            if self.pooling == "avg":
                x = avg_pool(x, (2, 2), (2, 2))
            elif self.pooling == "max":
                x = max_pool(x, (2, 2), (2, 2), maximum=maximum)
        return nn.Dense(self.outputs)(x.reshape(x.shape[0], -1))

    def _normalised(self, x):
        if self.norm == "none":
            return x
        if self.norm == "instance":
            return InstanceNorm(_EPSILON)(x)
        return GroupNorm(_GROUPS if self.norm == "group" else 1, _EPSILON)(x)


def convnet(
    image_shape: ImageShape,
    classes: int,
    *,
    width: int = 128,
    depth: int = 3,
    norm: Norm = "instance",
    pooling: Pooling = "avg",
    switch_width: float = 0.0,
    convolution: Method | None = None,
) -> ConvNet:
    """ConvNet for images of any size that its pooling leaves a pixel of; an odd side loses its last pixel.

    Args:
      image_shape: (H, W, D).
      classes: C.
      width: channels of every convolution.
      depth: number of blocks.
      norm: ``instance``, each channel by itself; ``group``, 4 groups of channels; ``layer``, all channels; or ``none``.
        Mean and variance are of one image; a scale and a bias for each channel follow.
      pooling: ``avg``, ``max`` or ``none``.
      switch_width, convolution: as :func:`dd_jax.networks.make_network`'s.

    Raises:
      ValueError: an unknown norm or pooling, a width without 4 groups, or images that are too small.
    """
    for name, value, known in (("norm", norm, Norm), ("pooling", pooling, Pooling)):
        if value not in (names := typing.get_args(known)):
            raise ValueError(f"network: convnet with {name}={value!r} is not accepted; use one of {', '.join(names)}")
    if norm == "group" and width % _GROUPS:
        raise ValueError(f"network: convnet with norm='group' takes a width that {_GROUPS} divides, not {width}")
    least = 1 if pooling == "none" else 2**depth
    if min(image_shape[:2]) < least:
        height, width, _ = image_shape
        raise ValueError(
            f"network: convnet of depth {depth} takes images of at least {least}×{least} pixels, not {height}×{width}; "
            "use less depth, or pooling='none'"
        )
    return ConvNet(classes, width, depth, norm, pooling, convolution, switch_width)


def describe_convnet(
    image_shape: ImageShape,
    classes: int,
    *,
    width: int = 128,
    depth: int = 3,
    norm: Norm = "instance",
    pooling: Pooling = "avg",
) -> list[description.Layer]:
    """ConvNet as data (see :mod:`dd_jax.networks.description`); the arguments are those of :func:`convnet`."""
    del image_shape
    norms = {
        "instance": [description.instance_norm(_EPSILON)],
        "group": [description.group_norm(_GROUPS, _EPSILON)],
        "layer": [description.group_norm(1, _EPSILON)],
        "none": [],
    }
    pools = {"avg": [description.avg_pool(2, 2)], "max": [description.max_pool(2, 2)], "none": []}
    block = [description.convolution(width, 3, padding=1), *norms[norm], description.relu(), *pools[pooling]]
    return description.with_names([*(block * depth), description.flatten(), description.dense(classes)])
