"""AlexCifarNet, after cuda-convnet, as the paper uses it for CIFAR-10 (section 4 and its supplement)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.networks import description
from dd_jax.networks.convolution import Method
from dd_jax.networks.layers import Conv, max_pool
from dd_jax.networks.options import ImageShape, square
from dd_jax.networks.surrogates import surrogates

_SIZE, _ALPHA, _BETA, _K = 4, 0.001 / 9, 0.75, 1.0  # of its local response normalisation


class AlexCifarNet(nn.Module):
    """Two 5×5×64 convolutions with pooling and normalisation, then 4096→384→192→``outputs``; 32×32 images."""

    outputs: int = 10
    convolution: Method | None = None
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        relu, maximum = surrogates(self.switch_width)

        def pool(x):
            return max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), maximum=maximum)

        x = relu(pool(Conv(64, (5, 5), padding=2, method=self.convolution)(x)))
        x = relu(Conv(64, (5, 5), padding=2, method=self.convolution)(local_response_norm(x)))
        x = pool(local_response_norm(x))
        x = x.reshape(x.shape[0], -1)
        for features in (384, 192):
            x = relu(nn.Dense(features)(x))
        return nn.Dense(self.outputs)(x)


def local_response_norm(
    x: jax.Array, *, size: int = _SIZE, alpha: float = _ALPHA, beta: float = _BETA, k: float = _K
) -> jax.Array:
    """X / (k + α/size · Σ x²)^β over ``size`` neighbouring channels, c − size//2 … c + (size−1)//2.

    α is divided by the size, as PyTorch's ``LocalResponseNorm`` does; the defaults are AlexCifarNet's.

    Args:
      x: ``[..., D]``.
      size, alpha, beta, k: the constants above.

    Returns:
      An array like ``x``.
    """
    ahead = np.arange(x.shape[-1])[:, None] - np.arange(x.shape[-1])  # of channel c′ to channel c
    window = (-(size // 2) <= ahead) & (ahead <= (size - 1) // 2)
    total = (x * x) @ window.astype(x.dtype)  # XLA's CPU code for the derivatives of shifted sums is slow
    return x * jnp.exp(-beta * jnp.log(k + alpha / size * total))


def alexcifarnet(
    image_shape: ImageShape, classes: int, *, switch_width: float = 0.0, convolution: Method | None = None
) -> AlexCifarNet:
    """AlexCifarNet for images of 32×32 pixels.

    Args:
      image_shape: (H, W, D).
      classes: C.
      switch_width, convolution: as :func:`dd_jax.networks.make_network`'s.

    Raises:
      ValueError: another image size.
    """
    square("alexcifarnet", image_shape, 32)
    return AlexCifarNet(classes, convolution, switch_width)


def describe_alexcifarnet(image_shape: ImageShape, classes: int) -> list[description.Layer]:
    """AlexCifarNet as data (see :mod:`dd_jax.networks.description`)."""
    del image_shape
    conv, pool = description.convolution(64, 5, padding=2), description.max_pool(3, 2, padding=1)
    norm = description.local_response_norm(size=_SIZE, alpha=_ALPHA, beta=_BETA, k=_K)
    layers = [conv, pool, description.relu(), norm, conv, description.relu(), norm, pool, description.flatten()]
    for features in (384, 192):
        layers += [description.dense(features), description.relu()]
    return description.with_names([*layers, description.dense(classes)])
