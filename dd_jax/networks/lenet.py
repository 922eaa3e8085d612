"""LeNet (LeCun et al. 1998), as the paper uses it for MNIST (section 4)."""

import flax.linen as nn
import jax.numpy as jnp

from dd_jax.networks import description
from dd_jax.networks.convolution import Method, convolution_pool_relu
from dd_jax.networks.options import ImageShape, square
from dd_jax.networks.surrogates import surrogates


class LeNet(nn.Module):
    """Two 5×5 convolutions with 2×2 max-pooling, then 400→120→84→``outputs``; 28×28 or 32×32 images."""

    outputs: int = 10
    convolution: Method | None = None
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        relu = surrogates(self.switch_width).relu
        for i, (features, padding) in enumerate(_convolutions(x.shape[1])):
            x = _ConvPoolRelu(features, padding, self.convolution, self.switch_width, name=f"Conv_{i}")(x)
        x = x.reshape(x.shape[0], -1)
        for features in (120, 84):
            x = relu(nn.Dense(features)(x))
        return nn.Dense(self.outputs)(x)


def _convolutions(height: int) -> tuple[tuple[int, int], ...]:
    """(features, padding) of each."""
    return (6, 2 if height == 28 else 0), (16, 0)


class _ConvPoolRelu(nn.Module):
    """The weights of a 5×5 ``flax.linen.Conv``, for the three layers in one."""

    features: int
    padding: int
    method: Method | None
    switch_width: float

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (5, 5, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        both = surrogates(self.switch_width)
        return convolution_pool_relu(x, kernel, bias, self.padding, both, method=self.method)


def lenet(
    image_shape: ImageShape, classes: int, *, switch_width: float = 0.0, convolution: Method | None = None
) -> LeNet:
    """LeNet for images of 28×28 or 32×32 pixels.

    Args:
      image_shape: (H, W, D).
      classes: C.
      switch_width, convolution: as :func:`dd_jax.networks.make_network`'s.

    Raises:
      ValueError: another image size.
    """
    square("lenet", image_shape, 28, 32)
    return LeNet(classes, convolution, switch_width)


def describe_lenet(image_shape: ImageShape, classes: int) -> list[description.Layer]:
    """LeNet as data (see :mod:`dd_jax.networks.description`)."""
    layers = []
    for features, padding in _convolutions(image_shape[0]):
        layers += [description.convolution(features, 5, padding=padding), description.max_pool(2, 2)]
        layers += [description.relu()]
    layers += [description.flatten()]
    for features in (120, 84):
        layers += [description.dense(features), description.relu()]
    return description.with_names([*layers, description.dense(classes)])
