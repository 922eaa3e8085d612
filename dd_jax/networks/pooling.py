"""Pooling with flax.linen's signatures, made of slices, reshapes and products, so that every derivative is too.

XLA's own ``reduce_window`` is slow in the second derivatives that a meta-gradient is made of.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Padding = str | Sequence[tuple[int, int]]
"""``"SAME"``, ``"VALID"``, or (before, after) in pixels of each axis."""


def max_pool(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int] | None = None,
    padding: Padding = "VALID",
    *,
    maximum: Callable[[jax.Array, jax.Array], jax.Array] = jnp.maximum,
) -> jax.Array:
    """Max-pooling, as ``flax.linen.max_pool``'s, as the maximum of slices.

    Args:
      x: ``[N, H, W, D]``.
      window_shape: (height, width) of a window, in pixels.
      strides: pixels between windows on each axis; 1 if not given.
      padding: see :data:`Padding`; less than a window on each side.
      maximum: of two arrays, elementwise.

    Returns:
      ``[N, H', W', D]``, H' = (H + padding − height) // stride + 1.

    Raises:
      ValueError: padding as wide as a window, which would leave windows without a pixel, or windows that do not fit.
    """
    strides = strides or (1, 1)
    pads = pads_of(x, window_shape, strides, padding)
    for axis, (window, stride, pad) in enumerate(zip(window_shape, strides, pads, strict=True), start=1):
        if max(pad) >= window or min(pad) < 0:
            raise ValueError(f"padding: {pad} is not accepted for windows of {window} pixels; use 0 … {window - 1}")
        x = _max_along(x, axis, window, stride, pad, maximum)
    return x


def _max_along(x, axis, window, stride, pad, maximum):
    """The maximum of windows along one axis. The padding repeats the edge, which leaves every maximum alone."""
    size = (x.shape[axis] + sum(pad) - window) // stride + 1
    length = size + (window - 1) // stride  # of each phase: every ``stride``-th pixel from some first one on
    before, after = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
    missing = max(0, length * stride - x.shape[axis] - pad[0])
    x = jnp.concatenate([before] * pad[0] + [x] + [after] * missing, axis)
    x = jax.lax.slice_in_dim(x, 0, length * stride, axis=axis)
    x = x.reshape(*x.shape[:axis], length, stride, *x.shape[axis + 1 :])
    phases = [phase.squeeze(axis + 1) for phase in jax.lax.split(x, (1,) * stride, axis + 1)]
    starts = ((i % stride, i // stride) for i in range(window))
    slices = [jax.lax.slice_in_dim(phases[p], start, start + size, axis=axis) for p, start in starts]
    return functools.reduce(maximum, slices)


def avg_pool(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Average pooling, as ``flax.linen.avg_pool``'s: a mean over axes of its own, or products where windows overlap.

    Args:
      x: ``[N, H, W, D]``.
      window_shape: (height, width) of a window, in pixels.
      strides: pixels between windows on each axis; 1 if not given.
      padding: see :data:`Padding`.
      count_include_pad: whether padding counts as pixels of value 0.

    Returns:
      ``[N, H', W', D]``, H' = (H + padding − height) // stride + 1.

    Raises:
      ValueError: windows that do not fit.
    """
    strides = strides or (1, 1)
    pads = pads_of(x, window_shape, strides, padding)
    if tuple(window_shape) == tuple(strides) and not any(map(any, pads)):
        (height, width), (rows, columns) = window_shape, (x.shape[i] // w for i, w in enumerate(window_shape, start=1))
        x = x[:, : rows * height, : columns * width].reshape(x.shape[0], rows, height, columns, width, x.shape[3])
        return x.mean((2, 4))
    sides = zip(x.shape[1:3], window_shape, strides, pads, strict=True)
    rows, columns = (_means(*side, count_include_pad).astype(x.dtype) for side in sides)
    return jnp.einsum("hH,wW,nHWd->nhwd", rows, columns, x)


def _means(size, window, stride, pad, count_include_pad) -> np.ndarray:
    """The matrix ``[size', size]`` of means over windows along one axis."""
    first = np.arange((size + sum(pad) - window) // stride + 1)[:, None] * stride - pad[0]
    pixels = np.arange(size)[None]
    inside = (first <= pixels) & (pixels < first + window)
    return inside / (window if count_include_pad else np.maximum(inside.sum(1, keepdims=True), 1))


def pads_of(
    x: jax.Array, window_shape: Sequence[int], strides: Sequence[int], padding: Padding
) -> list[tuple[int, int]]:
    """(before, after) of each axis, in pixels.

    Args:
      x: ``[N, H, W, D]``.
      window_shape, strides: of the windows, in pixels.
      padding: see :data:`Padding`.

    Raises:
      ValueError: another padding, or windows larger than the padded image.
    """
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding: {padding!r} is unknown; use SAME, VALID, or (before, after) of each axis")
        pads = jax.lax.padtype_to_pads(x.shape[1:3], window_shape, strides, padding)
    else:
        pads = [(before, after) for before, after in padding]
    for size, window, pad in zip(x.shape[1:3], window_shape, pads, strict=True):
        if size + sum(pad) < window:
            raise ValueError(f"windows: {window} pixels do not fit into {size} pixels with padding {tuple(pad)}")
    return [(int(before), int(after)) for before, after in pads]
