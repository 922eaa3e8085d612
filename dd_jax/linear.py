"""The linear case: how few distilled examples can train linear regression from every θ₀ (paper, section 3.3).

The data need not be images here, so x̃ and ỹ of :class:`dd_jax.base.Distilled` are plain matrices and vectors, and
``unroll(quadratic_loss, theta, distilled)`` trains on them. For one step (S = T = 1) it computes

    θ₁ = (I − η̃/M d̃ᵀd̃) θ₀ + η̃/M d̃ᵀt̃.

=============  ==================  ====================================================================
paper          here                shape and unit
=============  ==================  ====================================================================
d, t           ``d``, ``t``        ``[N, D]`` and ``[N]``, the real data; D: the dimension, not an image's colours
d̃              ``images``          ``[S, M, D]``, units of d
t̃              ``labels``          ``[S, M]``, units of t
η̃              ``step_sizes``      ``[T]``, 1 / (units of d)²
θ              ``theta``           ``[D]``
ℓ(d, t; θ)     –                   1/(2N) ‖dθ − t‖², units of t²; the mean of ``quadratic_loss``, ``[N]``
θ*             ``optimum``         ``[D]``, dᵀd θ* = dᵀt
=============  ==================  ====================================================================

The excess loss of θ is ℓ(d, t; θ) − ℓ(d, t; θ*) = 1/(2N) ‖d(θ − θ*)‖² = ℓ(d, dθ*; θ). Proofs are in
docs/linear_case.md, a numerical check in experiments/linear_case.py. What looks at the rank of d cannot be traced in d.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Distilled
from dd_jax.inner.loop import unroll


def quadratic_loss(theta: jax.Array, d: jax.Array, t: jax.Array) -> jax.Array:
    """½ (dθ − t)² of each example, ``[N]``, from ``[D]``, ``[N, D]`` and ``[N]``; ℓ(d, t; θ) is their mean."""
    return 0.5 * (d @ theta - t) ** 2


def optimum(d: jax.Array, t: jax.Array) -> jax.Array:
    """θ*, ``[D]``, where dᵀd θ* = dᵀt.

    Args:
      d: ``[N, D]``, of independent columns.
      t: ``[N]``.

    Raises:
      ValueError: other shapes, or columns of d that depend on each other, so that θ* is not unique.
    """
    if d.ndim != 2 or t.shape != d.shape[:1]:
        raise ValueError(f"data: d of shape {d.shape} and t of {t.shape} are not accepted; use [N, D] and [N]")
    rank = np.linalg.matrix_rank(d)
    if rank < d.shape[1]:
        raise ValueError(f"data: d of rank {rank} is not accepted; use {d.shape[1]} independent columns")
    return jnp.linalg.lstsq(d, t)[0]


def closed_form(key: jax.Array, d: jax.Array, t: jax.Array, examples: int, *, step_size: float = 1.0) -> Distilled:
    """Distilled data whose one step leads from *every* θ₀ to θ*: d̃ᵀd̃ = (M/η̃) I and t̃ = d̃θ*.

    Args:
      key: a JAX random key, which chooses among all such d̃.
      d, t: the real data, as in :func:`optimum`.
      examples: M ≥ D.
      step_size: η̃, positive.

    Returns:
      d̃ ``[1, M, D]``, t̃ ``[1, M]`` and one step size.

    Raises:
      ValueError: data or a step size that is not accepted, or M < D, with which there are no such data.
    """
    best, step_sizes = optimum(d, t), _one(step_size)
    dimension = d.shape[1]
    if examples < dimension:
        raise ValueError(
            f"examples: M = {examples} is not accepted; a step on fewer than D = {dimension} examples cannot lead from "
            f"every initialisation to the optimum, so use {dimension} or more"
        )
    orthonormal = jnp.linalg.qr(jax.random.normal(key, (examples, dimension)))[0]
    images = math.sqrt(examples / step_size) * orthonormal
    return Distilled(images[None], (images @ best)[None], step_sizes)


def one_example(theta: jax.Array, d: jax.Array, t: jax.Array, *, step_size: float = 1.0) -> Distilled:
    """The single example (M = 1) whose one step leads from this *known* θ₀ to θ*: d̃ = (θ* − θ₀)ᵀ, t̃ = d̃θ₀ + 1/η̃.

    Args:
      theta: θ₀, ``[D]``.
      d, t: the real data, as in :func:`optimum`.
      step_size: η̃, positive.

    Returns:
      d̃ ``[1, 1, D]``, t̃ ``[1, 1]`` and one step size.

    Raises:
      ValueError: data or a step size that is not accepted.
    """
    image, step_sizes = optimum(d, t) - theta, _one(step_size)
    return Distilled(image[None, None], (image @ theta + 1 / step_size)[None, None], step_sizes)


def expected_excess_loss(
    distilled: Distilled, d: jax.Array, t: jax.Array, mean: jax.Array, *, scale: float = 1.0
) -> jax.Array:
    """E[ℓ(d, t; θ_T)] − ℓ(d, t; θ*) over θ₀ ~ N(μ, σ²I), exactly.

    θ_T is affine in θ₀ and ℓ is quadratic, so the mean over the 2D points μ ± σ√D eᵢ, which have the same first two
    moments as the normal law, is the expectation itself.

    Args:
      distilled: d̃ ``[S, M, D]``, t̃ ``[S, M]`` and η̃; any number of steps.
      d, t: the real data, as in :func:`optimum`.
      mean: μ, ``[D]``.
      scale: σ.

    Returns:
      A scalar. Zero means that every θ₀ ends at θ*.
    """
    best, dimension = optimum(d, t), d.shape[1]
    axes = scale * math.sqrt(dimension) * jnp.eye(dimension)

    def excess(theta):
        return quadratic_loss(unroll(quadratic_loss, theta, distilled), d, d @ best).mean()

    return jnp.mean(jax.vmap(excess)(mean[None] + jnp.concatenate([axes, -axes])))


def excess_loss_bound(d: jax.Array, examples: int, *, scale: float = 1.0) -> jax.Array:
    """What :func:`expected_excess_loss` cannot fall below: σ²/2 (λ_{K+1} + … + λ_D), λ₁ ≥ … of dᵀd/N.

    It holds for K = S·M distinct distilled examples, any number of steps and any μ; one step on the K leading
    eigenvectors attains it for μ = θ*. It is positive for K < D, and zero otherwise (docs/linear_case.md).

    >>> float(excess_loss_bound(jnp.diag(jnp.array([2.0, 1.0])), 1))  # λ = 2, ½
    0.25

    Args:
      d: ``[N, D]``.
      examples: K; 0 gives the excess loss before any step, for μ = θ*.
      scale: σ.

    Raises:
      ValueError: d is not a matrix, or K is negative.
    """
    if d.ndim != 2:
        raise ValueError(f"data: d of shape {d.shape} is not accepted; use [N, D]")
    if examples < 0:
        raise ValueError(f"examples: {examples} is not accepted; use 0 or more")
    singular_values = jnp.linalg.svd(d, compute_uv=False)  # in descending order; λ = their squares / N
    return 0.5 * scale**2 * jnp.sum(singular_values[examples:] ** 2) / d.shape[0]


def _one(step_size: float) -> jax.Array:
    """One step size, ``[1]``."""
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size: {step_size} is not accepted; use a positive number")
    return jnp.full(1, step_size)
