"""ResNet-18 (He et al. 2016) in its form for small images, with GroupNorm (Wu and He 2018) in place of BatchNorm."""

from functools import partial

import flax.linen as nn

from dd_jax.networks import description
from dd_jax.networks.convolution import Method
from dd_jax.networks.layers import Conv, GroupNorm
from dd_jax.networks.options import ImageShape
from dd_jax.networks.surrogates import surrogates

_EPSILON = 1e-5  # PyTorch's
_BLOCKS = ((1, 1), (2, 1), (2, 1), (2, 1))  # strides of the blocks of each stage


class ResNet(nn.Module):
    """A 3×3 convolution, four stages of two residual blocks, ``width`` to 8·``width`` channels, and the mean pixel."""

    outputs: int = 10
    width: int = 64
    groups: int = 32
    convolution: Method | None = None
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        relu = surrogates(self.switch_width).relu
        x = Conv(self.width, (3, 3), padding=1, use_bias=False, method=self.convolution)(x)
        x = relu(GroupNorm(self.groups, _EPSILON)(x))
        for stage, all_strides in enumerate(_BLOCKS):
            for strides in all_strides:
                features = self.width * 2**stage
                x = _Block(features, strides, self.groups, self.convolution, self.switch_width)(x)
        return nn.Dense(self.outputs)(x.mean((1, 2)))


class _Block(nn.Module):
    """Two 3×3 convolutions beside the identity, or beside a 1×1 convolution where the shape changes."""

    features: int
    strides: int
    groups: int
    convolution: Method | None
    switch_width: float

    @nn.compact
    def __call__(self, x):
        relu = surrogates(self.switch_width).relu
        conv = partial(Conv, self.features, use_bias=False, method=self.convolution)
        norm = partial(GroupNorm, self.groups, _EPSILON)
        y = relu(norm()(conv((3, 3), strides=self.strides, padding=1)(x)))
        y = norm()(conv((3, 3), padding=1)(y))
        if x.shape != y.shape:
            x = norm()(conv((1, 1), strides=self.strides, padding=0)(x))
        return relu(x + y)


def resnet18(
    image_shape: ImageShape,
    classes: int,
    *,
    width: int = 64,
    groups: int = 32,
    switch_width: float = 0.0,
    convolution: Method | None = None,
) -> ResNet:
    """ResNet-18 for images of any size.

    Args:
      image_shape: (H, W, D).
      classes: C.
      width: channels of the first stage; each next one has twice as many.
      groups: of each normalisation; they divide the width.
      switch_width, convolution: as :func:`dd_jax.networks.make_network`'s.

    Raises:
      ValueError: groups that do not divide the width.
    """
    del image_shape
    if width % groups:
        raise ValueError(f"network: resnet18 with groups={groups} is not accepted; use a divisor of the width, {width}")
    return ResNet(classes, width, groups, convolution, switch_width)


def describe_resnet18(
    image_shape: ImageShape, classes: int, *, width: int = 64, groups: int = 32
) -> list[description.Layer]:
    """ResNet-18 as data (see :mod:`dd_jax.networks.description`)."""
    del image_shape
    norm, relu = description.group_norm(groups, _EPSILON), description.relu()
    layers = [description.convolution(width, 3, padding=1, bias=False), norm, relu]
    channels = width
    for stage, all_strides in enumerate(_BLOCKS):
        features = width * 2**stage
        for stride in all_strides:
            conv = partial(description.convolution, features, bias=False)
            branch = [conv(3, stride=stride, padding=1), norm, relu, conv(3, padding=1), norm]
            shortcut = [] if (channels, stride) == (features, 1) else [conv(1, stride=stride), norm]
            layers += [description.residual(branch, shortcut, scope=_Block.__name__), relu]
            channels = features
    return description.with_names([*layers, description.mean_pixel(), description.dense(classes)])
