"""ZCA whitening: images whose pixels are uncorrelated and of like variance, and that still look like themselves.

Kernel inducing points and its successors distil CIFAR-10 so (Nguyen et al. 2021, "Dataset Distillation with Infinitely
Wide Convolutional Networks", https://arxiv.org/abs/2107.13034, appendix; the regularisation is that of Shankar et al.
2020, "Neural Kernels Without Tangents", https://arxiv.org/abs/2003.02237).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_CHUNK_BYTES = 2**25  # of float64 images at a time


class Whitening(NamedTuple):
    """An affine map of flattened images and its inverse. Give it to ``jit`` as an argument: its matrices are large."""

    mean: Any  # [P], P = H·W·D; float32 unless fitted to float64 images
    matrix: Any  # [P, P], symmetric
    inverse: Any  # [P, P], symmetric, of ``matrix``


def fit_zca(images: Any, regularisation: float = 0.1) -> Whitening:
    """Fits the whitening to images, such as the normalised training images.

    With the covariance of the N flattened images, C = 1/N Σ (x − mean)(x − mean)ᵀ = U diag(s) Uᵀ, and the mean of its P
    eigenvalues, s̄ = tr C / P, the matrix is

      U diag((s + λ s̄)^(−1/2)) Uᵀ.

    So λ is relative: it does not depend on the units of the pixels. (Some code of others adds its number to s without
    s̄; that number is λ s̄ here.) The covariance of the whitened images has the eigenvalues s / (s + λ s̄), all below 1:
    near 1 where s is much larger than λ s̄, and near 0 where s is much smaller.

    Runs in numpy, float64, outside of ``jit``: it makes a P × P eigendecomposition, of order P³. Images are taken in
    chunks, so that the memory on top of them is a few P × P matrices.

    Args:
      images: ``[N, H, W, D]`` floats, N of 2 or more, not all the same.
      regularisation: λ, positive; 0.1 in the literature. The smaller it is, the more noise is amplified.

    Raises:
      ValueError: a λ that is not positive or not finite; images of another shape or type, fewer than 2, not finite, or
        all the same.
    """
    if not 0 < regularisation < math.inf:
        raise ValueError(f"whitening.regularisation: {regularisation} is not accepted; use a positive number")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"whitening: images of shape {images.shape} are not accepted; use [N, H, W, D]")
    if len(images) < 2:
        raise ValueError(f"whitening: {len(images)} image is not accepted; use 2 or more")
    _check_type(images)
    mean, covariance = _moments(images)
    average = np.trace(covariance) / len(covariance)
    if not np.isfinite(average):
        raise ValueError("whitening: images that are not finite are not accepted")
    if average <= (1e-12 * np.abs(mean).max()) ** 2:  # what rounding of the mean leaves
        raise ValueError("whitening: images that are all the same are not accepted; there is no variance to whiten")
    eigenvalues, vectors = np.linalg.eigh(covariance)
    # Rounding can make those near 0 slightly negative.
    deviations = np.sqrt(np.maximum(eigenvalues, 0) + regularisation * average)
    dtype = np.float64 if images.dtype == np.float64 else np.float32
    matrix, inverse = (vectors * deviations**power @ vectors.T for power in (-1.0, 1.0))
    return Whitening(mean.astype(dtype), matrix.astype(dtype), inverse.astype(dtype))


def _moments(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[P]`` and covariance ``[P, P]``, float64; the mean first, as a difference of large sums would cancel."""
    count, pixels = len(images), math.prod(images.shape[1:])
    size = max(1, _CHUNK_BYTES // (8 * pixels))

    def chunks():
        for start in range(0, count, size):
            yield np.asarray(images[start : start + size]).reshape(-1, pixels).astype(np.float64)

    mean = sum((chunk.sum(0) for chunk in chunks()), np.zeros(pixels)) / count
    covariance = np.zeros((pixels, pixels))
    for chunk in chunks():
        covariance += (chunk - mean).T @ (chunk - mean)
    return mean, covariance / count


def whiten(whitening: Whitening, images: jax.Array) -> jax.Array:
    """The whitened images, shaped and typed like these, ``[…, H, W, D]`` floats in the units of the fitted ones.

    Differentiable, and good under ``jit`` and ``vmap``.

    Raises:
      ValueError: images that are no floats or not of the fitted number of pixels.
    """
    mean, flat = _flat(whitening, images)
    return _product(flat - mean, whitening.matrix).reshape(images.shape)


def unwhiten(whitening: Whitening, images: jax.Array) -> jax.Array:
    """The images of which these are the whitened ones; the inverse of :func:`whiten`, with the same arguments."""
    mean, flat = _flat(whitening, images)
    return (_product(flat, whitening.inverse) + mean).reshape(images.shape)


def _check_type(images: Any) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"whitening: images of type {images.dtype} are not accepted; use floats, normalised")


def _flat(whitening: Whitening, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean ``[1, P]`` and the images ``[B, P]``, both of the images' type."""
    images = jnp.asarray(images)
    _check_type(images)
    pixels = len(whitening.mean)
    if images.ndim < 3 or math.prod(images.shape[-3:]) != pixels:
        raise ValueError(
            f"whitening: images of shape {images.shape} are not accepted; use […, H, W, D] with H·W·D = {pixels}"
        )
    return jnp.asarray(whitening.mean, images.dtype)[None], images.reshape(-1, pixels)


def _product(flat: jax.Array, matrix: Any) -> jax.Array:
    # Full precision: an accelerator's own would leave the round trip with errors of a percent.
    return jnp.matmul(flat, jnp.asarray(matrix, flat.dtype), precision="highest")
