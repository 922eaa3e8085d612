"""AlexNet in one tower (Krizhevsky 2014, arXiv:1404.5997), as torchvision has it (paper, section 4.2, table 3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.networks import description
from dd_jax.networks.convolution import Method
from dd_jax.networks.layers import Conv, max_pool
from dd_jax.networks.options import ImageShape
from dd_jax.networks.surrogates import surrogates

SIDE = 6  # pixels on each side of what the fully connected layers take
_LEAST = 63  # pixels of an image's side, of which the last pool makes one


class AlexNet(nn.Module):
    """Five convolutions, three of them with 3×3/2 max-pooling, then 6·6·4·``width``→``hidden``→``hidden``→``outputs``.

    The published network has ``width`` 64 and ``hidden`` 4096. It has no dropout: the paper's code trains without.
    """

    outputs: int = 1000
    width: int = 64
    hidden: int = 4096
    convolution: Method | None = None
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        relu, maximum = surrogates(self.switch_width)

        def conv(features, side, padding, strides=1):
            return Conv(features, (side, side), strides, padding, method=self.convolution)

        def pool(x):
            return max_pool(x, (3, 3), (2, 2), maximum=maximum)

        x = relu(pool(conv(self.width, 11, 2, strides=4)(x)))
        x = relu(pool(conv(3 * self.width, 5, 2)(x)))
        x = relu(conv(6 * self.width, 3, 1)(x))
        x = relu(conv(4 * self.width, 3, 1)(x))
        x = relu(pool(conv(4 * self.width, 3, 1)(x)))
        x = mean_of_bins(x, SIDE).reshape(x.shape[0], -1)
        for _ in range(2):
            x = relu(nn.Dense(self.hidden)(x))
        return nn.Dense(self.outputs)(x)


def mean_of_bins(x: jax.Array, side: int) -> jax.Array:
    """Means over ``side`` × ``side`` bins of nearly equal size, which overlap, or repeat pixels, where they must.

    Bin i of n pixels is ⌊i·n/side⌋ … ⌈(i+1)·n/side⌉ − 1, as in PyTorch's ``AdaptiveAvgPool2d``.

    Args:
      x: ``[N, H, W, D]``.
      side: bins on each axis.

    Returns:
      ``[N, side, side, D]``; ``x`` itself where that is its shape.
    """
    if x.shape[1:3] == (side, side):
        return x
    rows, columns = (_bins(size, side).astype(x.dtype) for size in x.shape[1:3])
    return jnp.einsum("hH,wW,nHWd->nhwd", rows, columns, x)


def _bins(size: int, side: int) -> np.ndarray:
    """The matrix ``[side, size]`` of means over bins along one axis."""
    bins, pixels = np.arange(side)[:, None], np.arange(size)[None]
    inside = (bins * size // side <= pixels) & (pixels < -(-(bins + 1) * size // side))
    return inside / inside.sum(1, keepdims=True)


def alexnet(
    image_shape: ImageShape,
    classes: int,
    *,
    width: int = 64,
    hidden: int = 4096,
    switch_width: float = 0.0,
    convolution: Method | None = None,
) -> AlexNet:
    """AlexNet for images of at least 63×63 pixels; its weights have the same shapes for all of them.

    Args:
      image_shape: (H, W, D).
      classes: C.
      width: channels of the first convolution, to which those of the others are in proportion.
      hidden: units of the fully connected layers.
      switch_width, convolution: as :func:`dd_jax.networks.make_network`'s.

    Raises:
      ValueError: images that are too small.
    """
    height, columns, _ = image_shape
    if min(height, columns) < _LEAST:
        accepted = f"images of at least {_LEAST}×{_LEAST} pixels"
        raise ValueError(f"network: alexnet takes {accepted}, not {height}×{columns}")
    return AlexNet(classes, width, hidden, convolution, switch_width)


def describe_alexnet(
    image_shape: ImageShape, classes: int, *, width: int = 64, hidden: int = 4096
) -> list[description.Layer]:
    """AlexNet as data (see :mod:`dd_jax.networks.description`); the arguments are those of :func:`alexnet`."""
    del image_shape
    pooled = [description.max_pool(3, 2), description.relu()]
    layers = [
        *(description.convolution(width, 11, stride=4, padding=2), *pooled),
        *(description.convolution(3 * width, 5, padding=2), *pooled),
        *(description.convolution(6 * width, 3, padding=1), description.relu()),
        *(description.convolution(4 * width, 3, padding=1), description.relu()),
        *(description.convolution(4 * width, 3, padding=1), *pooled),
        *(description.adaptive_avg_pool(SIDE), description.flatten()),
        *(description.dense(hidden), description.relu()) * 2,
    ]
    return description.with_names([*layers, description.dense(classes)])
