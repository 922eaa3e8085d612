"""Convolution and max-pooling, by matrix products on a CPU and by XLA's own convolution elsewhere.

XLA's CPU convolution loses most of its speed in the backward passes that a meta-gradient is made of; matrix products
do not. The products here are of the kind that suits the layer:

- wide to wide (32 channels or more on both sides): Winograd's minimal filtering (Winograd 1980; Lavin and Gray 2016) of
  4×4 outputs at a time, for 5×5 kernels 6¼ times fewer multiplications than the definition;
- narrow, and followed by 2×2 max-pooling: blocks of outputs by one product with a banded matrix, in an order that
  makes the four members of every pool four contiguous arrays;
- else im2col: one product of all patches with the kernel.

All are the same bilinear map, made of products, slices and concatenations, so that every derivative is too. A GPU or
TPU has convolutions of its own that are differentiated by other convolutions, so ``lax`` is the choice there; for a
batch of small nets under ``vmap``, where those become grouped convolutions, ``matmul`` may be worth trying.
"""

import functools
import typing
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.networks.surrogates import Switches

Method = Literal["matmul", "lax"]
METHODS: tuple[Method, ...] = typing.get_args(Method)

_WIDE = 32  # channels from which on Winograd's products are large enough to pay for its transforms
_POINTS = (0, 1, -1, 2, -2, 1 / 2, -1 / 2)  # Winograd's, from the mildest on: they decide the rounding errors
_BLOCK_OUTPUTS = 96  # of a banded product: more, and most of the band is zeros


def default_method() -> Method:
    """``matmul`` on a CPU, ``lax`` elsewhere."""
    return "matmul" if jax.default_backend() == "cpu" else "lax"


def convolution(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: int = 0, *, method: Method | None = None
) -> jax.Array:
    """Convolution with unit strides, as ``flax.linen.Conv``'s.

    Args:
      x: ``[N, H, W, I]``.
      kernel: ``[K, K, I, O]``.
      bias: ``[O]``.
      padding: zeros added on each side, in pixels.
      method: one of ``METHODS``; :func:`default_method`'s if not given. The same numbers up to rounding.

    Returns:
      ``[N, H', W', O]``, H' = H + 2·padding − K + 1.
    """
    bias = bias.reshape(1, 1, 1, -1)
    if (method or default_method()) == "lax":
        pads, numbers = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=numbers) + bias
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    wide = min(kernel.shape[2:]) >= _WIDE and kernel.shape[0] + 2 <= len(_POINTS)
    return (_winograd if wide else _im2col)(x, kernel) + bias


def convolution_pool_relu(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    padding: int,
    switches: Switches,
    *,
    method: Method | None = None,
) -> jax.Array:
    """ReLU of the 2×2 max-pooled :func:`convolution`: the maximum of the ReLUs, in a quarter of the work.

    Args:
      x, kernel, bias, padding, method: as in :func:`convolution`.
      switches: the ReLU and the maximum.

    Returns:
      ``[N, H'//2, W'//2, O]``, with H' as there.
    """
    block = 0
    if (method or default_method()) == "matmul":
        sides = [size + 2 * padding - kernel.shape[0] + 1 for size in x.shape[1:3]]
        fits = (b for b in (4, 2) if not any(s % b for s in sides) and b * b * kernel.shape[3] <= _BLOCK_OUTPUTS)
        block = next(fits, 0)
    if not block:
        x = max_pool(convolution(x, kernel, bias, padding, method=method), 2, 2, maximum=switches.maximum)
        return switches.relu(x)
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return _banded_pool_relu(x, kernel, bias, switches, block)


def _windows(x: jax.Array, count: int, axis: int, out: int) -> jax.Array:
    """``x`` from 0, 1 … ``count`` − 1 on along ``axis``, that much shorter, side by side along ``out``."""
    size = x.shape[axis] - count + 1
    return jnp.concatenate([jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(count)], out)


def _im2col(x, kernel):
    size = kernel.shape[0]
    patches = _windows(_windows(x, size, 2, 3), size, 1, 3)  # [N, H', W', K·K·I]
    return patches @ kernel.reshape(-1, kernel.shape[3])


def _whole_blocks(x, kernel_size, block):
    """``[N, H, W, I]`` -> ``[N, h, block, w, block, I]``, with zeros below and on the right where they are needed."""
    h, w = (-(-(side - kernel_size + 1) // block) + -(-(kernel_size - 1) // block) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (0, max(0, h * block - x.shape[1])), (0, max(0, w * block - x.shape[2])), (0, 0)))
    return x[:, : h * block, : w * block].reshape(x.shape[0], h, block, w, block, -1)


def _winograd(x, kernel, block=4):
    """Products of transformed tiles with the transformed kernel, one for each of the tile's points.

    In one dimension y = Aᵀ[(G k) ⊙ (Bᵀ d)] for ``block`` outputs y of a kernel k on a tile d; here on both sides.
    """
    images, height, width, inputs = x.shape
    size, outputs = kernel.shape[0], kernel.shape[3]
    tile = block + size - 1
    from_output, from_kernel, from_tile = (_both_sides(m, x.dtype) for m in _winograd_matrices(block, size))
    x = _whole_blocks(x, size, block).transpose(2, 4, 1, 3, 0, 5)
    reach = -(-tile // block)
    x = _windows(_windows(x, reach, 2, 0), reach, 3, 1)[:tile, :tile]  # [tile, tile, h, w, N, I]
    _, _, h, w, _, _ = x.shape
    tiles = (from_tile @ x.reshape(tile**2, -1)).reshape(tile**2, -1, inputs)
    kernels = (from_kernel @ kernel.reshape(size**2, -1)).reshape(tile**2, inputs, outputs)
    # Two halves, since XLA gives a batch of products to one thread of a CPU, but two batches to two.
    halves = zip(*(jax.lax.split(a, (tile**2 // 2, tile**2 - tile**2 // 2)) for a in (tiles, kernels)), strict=True)
    products = jnp.concatenate([a @ b for a, b in halves]).reshape(tile**2, -1)
    y = (from_output @ products).reshape(block, block, h, w, images, outputs).transpose(4, 2, 0, 3, 1, 5)
    return y.reshape(images, h * block, w * block, outputs)[:, : height - size + 1, : width - size + 1]


@functools.cache
def _winograd_matrices(outputs: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ, G and Bᵀ of the Cook–Toom construction: products at points, and one at infinity (Lavin and Gray 2016)."""
    count = outputs + size - 1
    points = np.array(_POINTS[: count - 1])
    others = [np.delete(points, j) for j in range(count - 1)]
    a_t, g, b_t = np.zeros((outputs, count)), np.zeros((count, size)), np.zeros((count, count))
    a_t[:, :-1], a_t[-1, -1] = points ** np.arange(outputs)[:, None], 1
    g[:-1] = points[:, None] ** np.arange(size) / [[np.prod(p - o)] for p, o in zip(points, others, strict=True)]
    g[-1, -1] = 1
    b_t[:-1, :-1], b_t[-1] = [np.poly(o)[::-1] for o in others], np.poly(points)[::-1]
    scale = np.abs(b_t).max(1, keepdims=True)
    return a_t, g * scale, b_t / scale


def _both_sides(matrix: np.ndarray, dtype) -> jax.Array:
    """The matrix that applies ``matrix`` to the rows and to the columns of a flattened square."""
    return jnp.asarray(np.kron(matrix, matrix), dtype)


def _banded_pool_relu(x, kernel, bias, switches, block):
    """Blocks of ``block``² outputs by one product; its rows are ordered (member of a pool, place in a block, O)."""
    images, size, outputs = x.shape[0], kernel.shape[0], kernel.shape[3]
    half, reach = block // 2, -(-(size - 1) // block) + 1
    x = _whole_blocks(x, size, block)
    if x.shape[5] == 1:  # the pixels of a row are neighbours in memory: [h, w, N, K]
        x = x.transpose(1, 3, 0, 2, 4, 5).reshape(x.shape[1], x.shape[3], images, -1)
        patches = _windows(_windows(x, reach, 1, 3), reach, 0, 3)
        (h, w), patches = patches.shape[:2], patches.reshape(-1, patches.shape[3]).T
    else:  # channels are: [K, h, w, N]; the barrier keeps XLA from computing the first windows again in the second
        x = x.transpose(2, 4, 5, 1, 3, 0).reshape(-1, x.shape[1], x.shape[3], images)
        patches = _windows(jax.lax.optimization_barrier(_windows(x, reach, 2, 0)), reach, 1, 0)
        (h, w), patches = patches.shape[1:3], patches.reshape(patches.shape[0], -1)
    # tap[k, A, a, p, m] is one where row a of input block A meets row 2 p + m of the output block through row k.
    tap = np.arange(reach * block)[:, None] - np.arange(block) == np.arange(size)[:, None, None]
    tap = tap.astype(kernel.dtype).reshape(size, reach, block, half, 2)
    band = jnp.einsum("hAapm,wBbqn,hwio->mnpqoABabi", tap, tap, kernel).reshape(block**2 * outputs, -1)
    y = band @ patches
    for _ in range(2):  # the upper and lower members, then the left and right
        y = switches.maximum(*jax.lax.split(y, (y.shape[0] // 2,) * 2))
    y = switches.relu(y.reshape(half**2, outputs, -1) + bias.reshape(1, -1, 1))
    y = y.reshape(half, half, outputs, h, w, images)
    return y.transpose(5, 3, 0, 4, 1, 2).reshape(images, h * half, w * half, outputs)


def max_pool(
    x: jax.Array,
    window: int,
    stride: int,
    padding: int = 0,
    maximum: Callable[[jax.Array, jax.Array], jax.Array] = jnp.maximum,
) -> jax.Array:
    """Max-pooling over square windows, as the maximum of slices.

    Args:
      x: ``[N, H, W, D]``.
      window: side of a window, in pixels.
      stride: pixels between windows.
      padding: pixels added on each side, less than ``window``; they repeat the edge, which leaves every maximum alone.
      maximum: of two arrays, elementwise.

    Returns:
      ``[N, H', W', D]``, H' = (H + 2·padding − window) // stride + 1.
    """

    def along(x, axis):
        size = (x.shape[axis] + 2 * padding - window) // stride + 1
        length = size + (window - 1) // stride  # of each phase: every ``stride``-th pixel from some first one on
        before, after = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        missing = max(0, length * stride - x.shape[axis] - padding)
        x = jnp.concatenate([before] * padding + [x] + [after] * missing, axis)
        x = jax.lax.slice_in_dim(x, 0, length * stride, axis=axis)
        x = x.reshape(*x.shape[:axis], length, stride, *x.shape[axis + 1 :])
        phases = [phase.squeeze(axis + 1) for phase in jax.lax.split(x, (1,) * stride, axis + 1)]
        starts = ((i % stride, i // stride) for i in range(window))
        return functools.reduce(
            maximum, [jax.lax.slice_in_dim(phases[p], start, start + size, axis=axis) for p, start in starts]
        )

    return along(along(x, 1), 2)
