"""Convolution as matrix products, and pooling as maxima of slices: fast to differentiate twice.

XLA's CPU convolution loses most of its speed in the backward passes that a meta-gradient is made of, and its window
maximum some; products and elementwise maxima do not. ``benchmarks/convolution.py`` compares them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Convolution = Callable[..., jax.Array]


def matmul_convolution(lhs, rhs, window_strides, padding, **options) -> jax.Array:
    """A drop-in for ``jax.lax.conv_general_dilated`` on NHWC images, HWIO kernels and unit strides.

    Blocks of neighbouring outputs of a row are computed by one product with a banded matrix that holds the kernel
    once per output, so that narrow convolutions still fill the product; a block of one is im2col. Other strides,
    dilations and groups go to ``conv_general_dilated`` itself.

    Args:
      lhs: ``[N, H, W, I]`` images.
      rhs: ``[KH, KW, I, O]`` kernel.
      window_strides: two strides; any but (1, 1) is passed on.
      padding: two (low, high) pairs, or a name ``conv_general_dilated`` takes (passed on).
      **options: the other arguments of ``conv_general_dilated``.

    Returns:
      ``[N, H', W', O]``.
    """
    dilations = [*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())]
    plain = all(s == 1 for s in (*window_strides, *dilations)) and options.get("feature_group_count", 1) == 1
    if isinstance(padding, str) or not plain:
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    lhs = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    images, in_height, in_width, _ = lhs.shape
    kernel_height, kernel_width, inputs, outputs = rhs.shape
    height, width = in_height - kernel_height + 1, in_width - kernel_width + 1
    block = _block_width(width, outputs)
    span, blocks = block + kernel_width - 1, width // block

    # tap[k, j, o] is one where input column j of a block meets output column o through the kernel's column k.
    tap = np.arange(span)[None, :, None] - np.arange(block) == np.arange(kernel_width)[:, None, None]
    band = jnp.einsum("hkio,kjq->hjiqo", rhs, tap.astype(rhs.dtype))
    if block == 1:
        columns = range(kernel_width)
        windows = [lhs[:, row : row + height, c : c + width] for row in range(kernel_height) for c in columns]
    else:  # the columns of a block are neighbours in memory: move them together
        lhs = jnp.stack([lhs[:, :, b * block : b * block + span] for b in range(blocks)], axis=2)
        windows = [lhs[:, row : row + height].reshape(images, height, blocks, -1) for row in range(kernel_height)]
    patches = jnp.concatenate(windows, axis=-1).reshape(images * height * blocks, -1)
    products = jnp.dot(
        patches,
        band.reshape(kernel_height * span * inputs, block * outputs),
        precision=options.get("precision"),
        preferred_element_type=options.get("preferred_element_type"),
    )
    return products.reshape(images, height, width, outputs)


def _block_width(width: int, outputs: int) -> int:
    """The widest block that divides a row and keeps the product narrow: wider, and the band is mostly zeros."""
    return max(b for b in range(1, width + 1) if width % b == 0 and (b == 1 or b * outputs <= 96))


def max_pool(
    x: jax.Array,
    window: int,
    stride: int,
    padding: int = 0,
    maximum: Callable[[jax.Array, jax.Array], jax.Array] = jnp.maximum,
) -> jax.Array:
    """Max-pooling over square windows, as the maximum of ``window``² strided slices.

    Equal maxima share the gradient, where ``flax.linen.max_pool`` gives it to the first; after a ReLU the only ties
    are at zero, where the ReLU stops it anyway.

    Args:
      x: ``[N, H, W, D]``.
      window: side of a window, in pixels.
      stride: pixels between windows.
      padding: pixels added on each side, less than ``window``; they repeat the edge, which leaves every maximum alone.
      maximum: of two arrays, elementwise.

    Returns:
      ``[N, H', W', D]``, H' = (H + 2·padding − window) // stride + 1.
    """
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge")

    def along(x, axis):
        last = x.shape[axis] - window
        slices = [jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(window)]
        return functools.reduce(maximum, slices)

    return along(along(x, 1), 2)


def default_convolution() -> Convolution:
    """Matrix products on CPU, ``jax.lax.conv_general_dilated`` elsewhere. Looked up when a network is traced."""
    return matmul_convolution if jax.default_backend() == "cpu" else jax.lax.conv_general_dilated
