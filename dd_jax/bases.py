"""Distilled images as learned combinations of fewer, smaller basis images, so that more of them fit one budget.

Image i is Σ_k c_ik b_k, enlarged bilinearly: the bases b and the coefficients c are learned in its place. The shared
bases follow Deng & Russakovsky 2022, "Remember the Past: Distilling Datasets into Addressable Memories for Neural
Networks" (https://arxiv.org/abs/2206.02916); the lower resolution follows Kim et al. 2022, "Dataset Condensation via
Efficient Synthetic-Data Parameterization" (https://arxiv.org/abs/2205.14959).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, int, int, int, int]


class Bases(NamedTuple):
    """What is learned in place of images ``[S, M, H, W, D]``. A pytree of floats, all of one type."""

    basis: jax.Array  # b, [K, h, w, D], h ≤ H and w ≤ W, normalised pixel units
    coefficients: jax.Array  # c, [S·M, K], one row for each image


def init_bases(key: jax.Array, images: jax.Array, *, count: int, size: tuple[int, int]) -> Bases:
    """The bases and coefficients whose decoded images are nearest to these, in the sum of squares over all pixels.

    With as many bases as images, each image has a basis of its own: the coefficients are the identity, and each basis
    is the small image that is nearest to the image once enlarged. At full resolution these are the images themselves.

    With fewer, the small images' leading directions are taken (a singular value decomposition), weighted so that what
    is nearest is nearest in the enlarged pixels. A random rotation of the directions, which the decoded images do not
    show, gives all bases about the same size: the mean square of an image, while a row of coefficients has on average
    the sum of squares 1, as a row of the identity has. Then one learning rate suits all bases.

    Runs in numpy, outside of ``jit``: programs with several matrix factorisations can hang on a CPU.

    Args:
      key: a JAX random key, for the rotation.
      images: ``[S, M, H, W, D]`` floats, such as noise or real images.
      count: K: S·M, or any smaller number up to h·w·D, the number of directions that there are.
      size: (h, w), each from 1 to the images' own.

    Raises:
      ValueError: a count or size out of range, or images of another shape or type.
    """
    images = jnp.asarray(images)
    if images.ndim != 5 or 0 in images.shape:
        raise ValueError(f"bases: images of shape {images.shape} are not accepted; use [S, M, H, W, D]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"bases: images of type {images.dtype} are not accepted; use floats, normalised")
    total = images.shape[0] * images.shape[1]
    _check_size(size, images.shape[2:4])
    most = min(total, math.prod(size) * images.shape[4])
    if not (1 <= count <= most or count == total):
        also = "" if most == total else f", or {total}"
        raise ValueError(
            f"bases.count: {count} is not accepted; use 1 … {most}{also}, for {total} images of {size[0]} × {size[1]} "
            f"× {images.shape[4]} numbers"
        )
    flat = np.asarray(images).reshape(total, *images.shape[2:])
    if count == total and tuple(size) == flat.shape[1:3]:
        return Bases(jnp.asarray(flat), jnp.eye(count, dtype=images.dtype))
    basis, coefficients = _nearest(key, flat.astype(np.float64), count, size)
    return Bases(jnp.asarray(basis, images.dtype), jnp.asarray(coefficients, images.dtype))


def _nearest(key: jax.Array, images: np.ndarray, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bases ``[K, h, w, D]`` and coefficients ``[N, K]`` for images ``[N, H, W, D]``, float64.

    With the enlargement A = Q R of one axis, Q orthonormal, ‖A z − x‖² is ‖R z − Qᵀ x‖² and a constant. So the
    combinations nearest to Qᵀ x are found (Eckart & Young 1936), and R⁻¹ turns them into small images.
    """
    total, depth = images.shape[0], images.shape[3]
    (q_rows, r_rows), (q_columns, r_columns) = (
        np.linalg.qr(_enlargement(small, large)) for small, large in zip(size, images.shape[1:3], strict=True)
    )
    inner = np.einsum("Hh,Ww,nHWd->nhwd", q_rows, q_columns, images, optimize=True)
    coefficients = np.eye(total)
    if count < total:
        left, singular, right = np.linalg.svd(inner.reshape(total, -1), full_matrices=False)
        rotation = np.linalg.qr(np.asarray(jax.random.normal(key, (count, count)), np.float64))[0]
        coefficients = math.sqrt(total / count) * left[:, :count] @ rotation.T
        inner = math.sqrt(count / total) * rotation @ (singular[:count, None] * right[:count])
    inner = inner.reshape(count, *size, depth)
    small = np.einsum("gh,vw,khwd->kgvd", np.linalg.inv(r_rows), np.linalg.inv(r_columns), inner, optimize=True)
    return small, coefficients


def decode_bases(bases: Bases, shape: Shape) -> jax.Array:
    """The images ``[S, M, H, W, D]``: combinations of the bases, enlarged bilinearly to H × W where they are smaller.

    Differentiable in bases and coefficients, linear in each of them, and good under ``jit`` and ``vmap``. It costs
    S·M·K·h·w·D multiplications for the combinations, and two small products an image to enlarge them.

    Args:
      bases: K bases ``[K, h, w, D]`` and coefficients ``[S·M, K]``.
      shape: (S, M, H, W, D).

    Raises:
      ValueError: bases that are not for images of this shape.
    """
    basis, coefficients = bases
    if basis.ndim != 4 or coefficients.ndim != 2 or basis.shape[0] != coefficients.shape[1]:
        raise ValueError(
            f"bases: shapes {basis.shape} and {coefficients.shape} are not accepted; use [K, h, w, D] and [S·M, K]"
        )
    if len(shape) != 5 or shape[0] * shape[1] != len(coefficients) or shape[4] != basis.shape[3]:
        raise ValueError(
            f"bases.shape: {tuple(shape)} is not accepted for {len(coefficients)} images of {basis.shape[3]} channels; "
            "use (S, M, H, W, D)"
        )
    _check_size(basis.shape[1:3], shape[2:4])
    # Full precision throughout: an accelerator's own would round the pixels to bfloat16.
    small = jnp.matmul(coefficients, basis.reshape(len(basis), -1), precision="highest")
    images = small.reshape(-1, *basis.shape[1:])
    for axis, product in ((1, "Hh,nhwd->nHwd"), (2, "Ww,nhwd->nhWd")):
        if images.shape[axis] != shape[axis + 1]:
            matrix = jnp.asarray(_enlargement(images.shape[axis], shape[axis + 1]), images.dtype)
            images = jnp.einsum(product, matrix, images, precision="highest")
    return images.reshape(shape)


def stored_floats(bases: Bases) -> int:
    """How many numbers are stored in place of the images: those of the bases and all coefficients."""
    return bases.basis.size + bases.coefficients.size


def _enlargement(small: int, large: int) -> np.ndarray:
    """Bilinear enlargement of one axis, ``[large, small]`` float64; beyond the outer pixels' centres it is constant."""
    places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(small)))


def _check_size(size: tuple[int, ...], image: tuple[int, ...]) -> None:
    if len(size) != 2 or not all(1 <= small <= large for small, large in zip(size, image, strict=True)):
        raise ValueError(
            f"bases.size: {tuple(size)} is not accepted; use (h, w) of 1 … {image[0]} and 1 … {image[1]} pixels"
        )
