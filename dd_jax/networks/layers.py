"""Layers for anyone's flax.linen network: flax's names, weights and results, fast in a meta-gradient on a CPU.

``Conv``, ``GroupNorm`` and ``InstanceNorm`` stand in for ``flax.linen``'s, and ``avg_pool`` and ``max_pool`` for its
functions. A network that uses them has the same weights under the same names.

>>> import flax.linen as nn
>>> import jax
>>> module = nn.Sequential([Conv(4, (3, 3)), nn.relu, lambda x: avg_pool(x, (2, 2), (2, 2))])
>>> jax.eval_shape(lambda key: module.init_with_output(key, jax.numpy.ones((1, 8, 8, 3)))[0], jax.random.key(0)).shape
(1, 4, 4, 4)
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dd_jax.networks.convolution import Method, convolution
from dd_jax.networks.pooling import Padding, avg_pool, max_pool

__all__ = ["Conv", "GroupNorm", "InstanceNorm", "avg_pool", "group_norm", "max_pool"]

Initializer = Callable[..., Any]


class Conv(nn.Module):
    """``flax.linen.Conv`` on images, without dilation or groups: weights ``kernel`` and ``bias``, drawn as flax does.

    ``features`` are the channels of the output; ``kernel_size`` is (height, width). ``padding`` is ``"SAME"``,
    ``"VALID"``, pixels on every side, or of each axis pixels or (before, after). ``method`` is one of
    ``dd_jax.networks.convolution.METHODS``, what suits the backend if not given.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int | tuple[int, int] = 1
    padding: str | int | Sequence[int | tuple[int, int]] = "SAME"
    use_bias: bool = True
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    method: Method | None = None

    @nn.compact
    def __call__(self, x):
        height, width = self.kernel_size
        shape = (height, width, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        strides = (self.strides, self.strides) if isinstance(self.strides, int) else self.strides
        padding = self.padding if isinstance(self.padding, int) else _pairs(self.padding)
        return convolution(x, kernel, bias, padding, strides=strides, method=self.method)


def _pairs(padding: str | Sequence[int | tuple[int, int]]) -> Padding:
    return padding if isinstance(padding, str) else [(p, p) if isinstance(p, int) else p for p in padding]


class GroupNorm(nn.Module):
    """``flax.linen.GroupNorm``: groups of channels, each normalised over an image; weights ``scale`` and ``bias``.

    Raises:
      ValueError: groups that do not divide the channels.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    use_bias: bool = True
    use_scale: bool = True
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return _affine_group_norm(self, x, self.num_groups)


class InstanceNorm(nn.Module):
    """``flax.linen.InstanceNorm``: each channel normalised over an image; weights ``scale`` and ``bias``."""

    epsilon: float = 1e-6
    use_bias: bool = True
    use_scale: bool = True
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return _affine_group_norm(self, x, x.shape[-1])


def _affine_group_norm(module, x, groups):
    ones, zeros, kind = nn.initializers.ones, nn.initializers.zeros, module.param_dtype
    scale = module.param("scale", ones, x.shape[-1:], kind) if module.use_scale else None
    bias = module.param("bias", zeros, x.shape[-1:], kind) if module.use_bias else None
    return group_norm(x, groups, scale, bias, epsilon=module.epsilon)


def group_norm(
    x: jax.Array,
    groups: int,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    epsilon: float = 1e-6,
) -> jax.Array:
    """(x − mean) / √(variance + ε) · scale + bias, with the mean and variance of a group of channels over an image.

    Args:
      x: ``[N, …, C]``.
      groups: number of groups; divides C.
      scale, bias: ``[C]``; 1 and 0 if not given.
      epsilon: ε.

    Returns:
      An array like ``x``.

    Raises:
      ValueError: groups that do not divide C.
    """
    channels = x.shape[-1]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: {groups} is not accepted; use a divisor of the {channels} channels")
    images = x.reshape(x.shape[0], -1, channels)

    def mean(values):  # [N, P, C] -> [N, 1, C]
        total = values.mean(1, keepdims=True)
        if groups == channels:
            return total
        of_groups = total.reshape(-1, 1, groups, channels // groups).mean(3, keepdims=True)
        return jnp.broadcast_to(of_groups, (*of_groups.shape[:3], channels // groups)).reshape(total.shape)

    centred = images - mean(images)
    factor = jax.lax.rsqrt(mean(centred * centred) + epsilon)
    if scale is not None:
        factor *= scale[None, None]
    y = centred * factor
    return (y if bias is None else y + bias[None, None]).reshape(x.shape)
