"""Convolution, by matrix products on a CPU and for small layers on a TPU, and by XLA's own convolution elsewhere.

XLA's CPU convolution loses most of its speed in the backward passes that a meta-gradient is made of; matrix products
do not. The products of ``matmul`` are of the kind that suits the layer on a CPU:

- wide to wide (32 channels or more on both sides): Winograd's minimal filtering (Winograd 1980; Lavin and Gray 2016) of
  4×4 outputs at a time, for 5×5 kernels 6¼ times fewer multiplications than the definition;
- narrow, and followed by 2×2 max-pooling: blocks of outputs by one product with a banded matrix, in an order that
  makes the four members of every pool four contiguous arrays;
- else im2col: one product of all patches with the kernel.

``rows`` is for a TPU, whose products are cheap and whose operations and layouts are not: whole rows of inputs times
a banded matrix are whole rows of outputs, and images stay in the layout ``[N, H, W·D]`` from layer to layer.
XLA's own convolutions take minutes to compile there in a meta-gradient of small images.

All are the same bilinear map, made of products, slices and concatenations, so that every derivative is too. A GPU has
convolutions of its own that are differentiated by other convolutions, so ``lax`` is the choice there, and on a TPU
where the banded matrix would be large; for a batch of small nets under ``vmap``, where those become grouped
convolutions, another method may be worth trying.
"""

import functools
import math
import typing
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax import backend
from dd_jax.networks.pooling import Padding, max_pool, pads_of
from dd_jax.networks.surrogates import Surrogates

Method = Literal["matmul", "rows", "lax"]
METHODS: tuple[Method, ...] = typing.get_args(Method)

_WIDE = 32  # channels from which on Winograd's products are large enough to pay for its transforms
_POINTS = (0, 1, -1, 2, -2, 1 / 2, -1 / 2)  # Winograd's, from the mildest on: they decide the rounding errors
_BLOCK_OUTPUTS = 96  # of a banded product: more, and most of the band is zeros


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    padding: int | Padding = 0,
    *,
    strides: tuple[int, int] = (1, 1),
    method: Method | None = None,
) -> jax.Array:
    """Convolution, as ``flax.linen.Conv``'s.

    Args:
      x: ``[N, H, W, I]``.
      kernel: ``[K, L, I, O]``.
      bias: ``[O]``; none if not given.
      padding: zeros added, in pixels: on each side, or (before, after) of each axis; or ``"SAME"`` or ``"VALID"``.
      strides: pixels between outputs on each axis.
      method: one of ``METHODS``; what suits the backend and the shapes if not given. The same numbers up to rounding.

    Returns:
      ``[N, H', W', O]``, H' = (H + padding − K) // stride + 1.

    Raises:
      ValueError: another padding, or a kernel larger than the padded image.
    """
    pads = pads_of(x, kernel.shape[:2], strides, _both(padding))
    method = method or default_method(x, kernel, pads, strides)
    if method == "lax":
        y = jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    elif method == "rows":
        y = _rows(x, kernel, pads, strides)
        y = y.reshape(*y.shape[:2], -1, kernel.shape[3])
    else:
        x = _padded(x, pads)
        y = _winograd(x, kernel) if _suits_winograd(kernel.shape, strides) else _im2col(x, kernel, strides)
    return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def default_method(
    x: jax.Array, kernel: jax.Array, pads: Sequence[tuple[int, int]], strides: tuple[int, int] = (1, 1)
) -> Method:
    """What suits the backend and these shapes; the arguments are those of :func:`convolution`."""
    outputs = (x.shape[2] + sum(pads[1]) - kernel.shape[1]) // strides[1] + 1
    return backend.convolution_method(kernel.shape, x.shape[2], outputs)


def _both(padding):
    return ((padding, padding),) * 2 if isinstance(padding, int) else padding


def _padded(x, pads):
    """Zeros around the image; none of them is laid out where a side has none."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])


def _suits_winograd(shape, strides):
    """Whether a kernel ``[K, L, I, O]`` is wide and small enough for Winograd's products to pay for its transforms."""
    sizes = shape[:2]
    return strides == (1, 1) and min(shape[2:]) >= _WIDE and min(sizes) > 1 and max(sizes) + 2 <= len(_POINTS)


def convolution_pool_relu(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    padding: int,
    surrogates: Surrogates,
    *,
    method: Method | None = None,
) -> jax.Array:
    """ReLU of the 2×2 max-pooled :func:`convolution`: the maximum of the ReLUs, in a quarter of the work.

    Args:
      x, kernel, bias, padding, method: as in :func:`convolution`.
      surrogates: the ReLU and the maximum.

    Returns:
      ``[N, H'//2, W'//2, O]``, with H' as there.
    """
    method, block = method or default_method(x, kernel, _both(padding)), 0
    sides = [size + 2 * padding - kernel.shape[0] + 1 for size in x.shape[1:3]]
    if method == "rows" and not any(side % 2 for side in sides):
        return _rows_pool_relu(x, kernel, bias, _both(padding), surrogates)
    if method == "matmul":
        fits = (b for b in (4, 2) if not any(s % b for s in sides) and b * b * kernel.shape[3] <= _BLOCK_OUTPUTS)
        block = next(fits, 0)
    if not block:
        y = convolution(x, kernel, bias, padding, method=method)
        return surrogates.relu(max_pool(y, (2, 2), (2, 2), maximum=surrogates.maximum))
    return _banded_pool_relu(_padded(x, _both(padding)), kernel, bias, surrogates, block)


def _windows(x: jax.Array, count: int, axis: int, out: int, stride: int = 1) -> jax.Array:
    """``x`` from 0, 1 … ``count`` − 1 on along ``axis``, every ``stride``-th, side by side along ``out``."""
    size = x.shape[axis] - count + 1
    return jnp.concatenate([jax.lax.slice_in_dim(x, i, i + size, stride, axis) for i in range(count)], out)


def _im2col(x, kernel, strides):
    height, width = kernel.shape[:2]
    patches = _windows(_windows(x, width, 2, 3, strides[1]), height, 1, 3, strides[0])  # [N, H', W', K·L·I]
    return patches @ kernel.reshape(-1, kernel.shape[3])


def _whole_blocks(x, kernel_sizes, block):
    """``[N, H, W, I]`` -> ``[N, h, block, w, block, I]``, with zeros below and on the right where they are needed."""
    sides = zip(x.shape[1:3], kernel_sizes, strict=True)
    h, w = (-(-(side - size + 1) // block) + -(-(size - 1) // block) for side, size in sides)
    x = jnp.pad(x, ((0, 0), (0, max(0, h * block - x.shape[1])), (0, max(0, w * block - x.shape[2])), (0, 0)))
    return x[:, : h * block, : w * block].reshape(x.shape[0], h, block, w, block, -1)


def _winograd(x, kernel, block=4):
    """Products of transformed tiles with the transformed kernel, one for each of the tile's points.

    In one dimension y = Aᵀ[(G k) ⊙ (Bᵀ d)] for ``block`` outputs y of a kernel k on a tile d; here on both sides.
    """
    images, height, width, inputs = x.shape
    *sizes, _, outputs = kernel.shape
    tiles = [block + size - 1 for size in sizes]
    points = math.prod(tiles)
    of_sides = (_winograd_matrices(block, size) for size in sizes)
    from_output, from_kernel, from_tile = (jnp.asarray(np.kron(*pair), x.dtype) for pair in zip(*of_sides, strict=True))
    x = _whole_blocks(x, sizes, block).transpose(2, 4, 1, 3, 0, 5)
    reaches = [-(-tile // block) for tile in tiles]
    x = _windows(_windows(x, reaches[0], 2, 0), reaches[1], 3, 1)[: tiles[0], : tiles[1]]  # [tile, tile, h, w, N, I]
    _, _, h, w, _, _ = x.shape
    transformed = (from_tile @ x.reshape(points, -1)).reshape(points, -1, inputs)
    kernels = (from_kernel @ kernel.reshape(math.prod(sizes), -1)).reshape(points, inputs, outputs)
    # Two halves, since XLA gives a batch of products to one thread of a CPU, but two batches to two.
    halves = zip(*(jax.lax.split(a, (points // 2, points - points // 2)) for a in (transformed, kernels)), strict=True)
    products = jnp.concatenate([a @ b for a, b in halves]).reshape(points, -1)
    y = (from_output @ products).reshape(block, block, h, w, images, outputs).transpose(4, 2, 0, 3, 1, 5)
    return y.reshape(images, h * block, w * block, outputs)[:, : height - sizes[0] + 1, : width - sizes[1] + 1]


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


def _rows(x, kernel, pads, strides, pool=1):
    """Whole rows of outputs by one product of rows with a banded matrix: images keep the layout [N, H, W·D] throughout.

    Args:
      x: ``[N, H, W, I]``.
      kernel: ``[K, L, I, O]``.
      pads: zeros above and below, left and right.
      strides: of the convolution.
      pool: side of the windows that its outputs are pooled in, without overlap.

    Returns:
      ``[N, H'//pool, pool²·(W'//pool)·O]``: the members of the windows of a pool one after another, the upper first.
    """
    step = strides[0] * pool  # rows of inputs from one product to the next
    reach = kernel.shape[0] + strides[0] * (pool - 1)
    steps, count = -(-reach // step), (x.shape[1] + sum(pads[0]) - reach) // step + 1
    band = _band(kernel, x.shape[2], pads[1], strides[1], pool)
    shifts = [strides[0] * p for p in range(pool)]  # of the window's rows
    band = [jnp.pad(band, ((s, steps * step - kernel.shape[0] - s), (0, 0), (0, 0))) for s in shifts]
    band = band[0] if pool == 1 else jnp.concatenate(band, 2)
    below = (count + steps - 1) * step - x.shape[1] - pads[0][0]  # cuts where it is negative
    x = x.reshape(*x.shape[:2], -1)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (pads[0][0], below, 0), (0, 0, 0)])
    x = x.reshape(x.shape[0], -1, step * x.shape[2])
    return _windows(x, steps, 1, 2) @ band.reshape(-1, band.shape[2])


def _rows_pool_relu(x, kernel, bias, pads, surrogates):
    y = _rows(x, kernel, pads, (1, 1), pool=2)
    for _ in range(2):  # the upper and lower members, then the left and right
        y = surrogates.maximum(*jax.lax.split(y, (y.shape[2] // 2,) * 2, 2))
    windows = y.shape[2] // kernel.shape[3]
    y = surrogates.relu(y + (bias[None] @ _beside(windows, bias))[None])
    return y.reshape(*y.shape[:2], windows, -1)


def _beside(copies, like):
    """The matrix that puts a row like that beside itself.

    By a product, the copies are a TPU's lanes from the outset; by a broadcast, XLA lays them out anew.
    """
    return np.tile(np.eye(like.shape[-1], dtype=like.dtype), copies)


def _band(kernel, width, pad, stride, pool):
    """``[K, W·I, W'·O]``: from a row of inputs to a row of outputs, ordered (member of a pool, window, O)."""
    rows, columns, inputs, outputs = kernel.shape
    windows = ((width + sum(pad) - columns) // stride + 1) // pool
    first = (np.arange(windows) * pool + np.arange(pool)[:, None]).ravel() * stride - pad[0]  # input of an output
    tap = np.arange(width)[:, None] - first == np.arange(columns)[:, None, None]  # [L, W, W']
    tap = np.repeat(tap, outputs, 2)[:, :, None].astype(kernel.dtype)
    beside = (kernel @ _beside(pool * windows, kernel)).reshape(rows, columns, 1, inputs, -1)
    return (tap[None] * beside).sum(1).reshape(rows, width * inputs, -1)


def _banded_pool_relu(x, kernel, bias, surrogates, block):
    """Blocks of ``block``² outputs by one product; its rows are ordered (member of a pool, place in a block, O)."""
    images, size, outputs = x.shape[0], kernel.shape[0], kernel.shape[3]
    half, reach = block // 2, -(-(size - 1) // block) + 1
    x = _whole_blocks(x, (size, size), block)
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
        y = surrogates.maximum(*jax.lax.split(y, (y.shape[0] // 2,) * 2))
    y = surrogates.relu(y.reshape(half**2, outputs, -1) + bias.reshape(1, -1, 1))
    y = y.reshape(half, half, outputs, h, w, images)
    return y.transpose(5, 3, 0, 4, 1, 2).reshape(images, h * half, w * half, outputs)
