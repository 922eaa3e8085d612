"""The outer objective and its meta-gradient (paper, equations 4 and 6; Algorithm 1, lines 8–9)."""

import functools
import math

import jax
import jax.numpy as jnp

from dd_jax.base import Batch, Loss, Params
from dd_jax.norms import norm, with_norm
from dd_jax.objectives import mean_of
from dd_jax.unroll import DistilledData, Mode, unroll

_CPU_CHUNK = 2**17  # pixels of real images at a time: their activations stay in cache


def outer_objective(
    loss: Loss,
    distilled: DistilledData,
    theta: Params,
    batch: Batch,
    *,
    objective: Loss | None = None,
    mode: Mode = "forward_over_reverse",
) -> jax.Array:
    """L(x̃, η̃; θ₀) = ℓ(x, y; θ_T): the loss on real data, after the last step on the distilled data only.

    Args:
      loss: the terms of ℓ inside the loop, ``(theta, images, labels) -> [M]``.
      distilled: x̃, ỹ and η̃.
      theta: θ₀.
      batch: real images ``[B, H, W, D]`` and labels ``[B, C]``.
      objective: ℓ on the real batch, where it is another (paper, section 3.6); ``loss`` if not given.
      mode: how the loop is differentiated (see :data:`dd_jax.unroll.Mode`).

    Returns:
      A scalar in nats.

    Raises:
      ValueError: as :func:`dd_jax.unroll.unroll`, or a batch or an objective of another shape.
    """
    batch = _checked_batch(batch)
    return mean_of(objective or loss)(unroll(loss, theta, distilled, mode=mode), *batch)


def _checked_batch(batch: Batch) -> Batch:
    images, labels = (jnp.asarray(a) for a in batch)
    if not images.ndim or not images.size or labels.shape[:1] != images.shape[:1]:
        raise ValueError(f"batch: shapes {images.shape} and {labels.shape} are not accepted; use [B, …] and [B, …]")
    return images, labels


def meta_gradient(
    loss: Loss,
    distilled: DistilledData,
    theta: Params,
    batch: Batch,
    *,
    objective: Loss | None = None,
    mode: Mode = "forward_over_reverse",
    adjoint_clip: float | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, DistilledData]:
    """The outer objective and its gradient in x̃, ỹ and raw η̃: ∇_{θ_T} ℓ(x, y; θ_T), pulled back through the loop.

    The same numbers as ``jax.value_and_grad(outer_objective, argnums=1)``, the real batch taken in chunks.

    Args:
      loss, distilled, theta, batch, objective: as in :func:`outer_objective`.
      mode, adjoint_clip: how the loop is differentiated (see :func:`dd_jax.unroll.unroll`).
      chunk: real examples at a time; if not given, what fits a CPU's cache there, and the whole batch elsewhere.

    Returns:
      The objective, and its gradient shaped like ``distilled``; zeros for labels that are integers.

    Raises:
      ValueError: as :func:`outer_objective`, or a chunk below one.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: {chunk} is not accepted; use 1 or more")
    batch = _checked_batch(batch)
    trained_on = functools.partial(unroll, loss, theta, mode=mode, adjoint_clip=adjoint_clip)
    trained, pull_back = jax.vjp(trained_on, distilled)
    if chunk is None:
        chunk = _default_chunk(batch[0].shape)
    value, adjoint = _gradient_in_chunks(mean_of(objective or loss), trained, batch, chunk)
    (gradient,) = pull_back(adjoint)
    if gradient.labels.dtype == jax.dtypes.float0:
        gradient = gradient._replace(labels=jnp.zeros(gradient.labels.shape, gradient.images.dtype))
    return value, gradient


def _default_chunk(shape: tuple[int, ...]) -> int:
    """Elsewhere than on a CPU the whole batch; there the largest power of two of images within ``_CPU_CHUNK``."""
    if jax.default_backend() != "cpu":
        return shape[0]
    return 1 << max(1, _CPU_CHUNK // math.prod(shape[1:])).bit_length() - 1


def _gradient_in_chunks(mean_loss, theta, batch, chunk):
    """``jax.value_and_grad(mean_loss)(theta, *batch)``, accumulated over chunks of the batch and a smaller last one."""
    size = batch[0].shape[0]
    chunk = min(chunk, size)
    whole = size - size % chunk
    of_chunk = jax.value_and_grad(mean_loss)

    def add(total, part):
        share = part[0].shape[0] / size
        return jax.tree.map(lambda t, p: t + share * p, total, of_chunk(theta, *part)), None

    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of_chunk, theta, *batch))
    parts = jax.tree.map(lambda a: a[:whole].reshape(-1, chunk, *a.shape[1:]), batch)
    total, _ = jax.lax.scan(add, total, parts)
    return total if whole == size else add(total, jax.tree.map(lambda a: a[whole:], batch))[0]


def smoothed_meta_gradient(
    key: jax.Array,
    loss: Loss,
    distilled: DistilledData,
    theta: Params,
    batch: Batch,
    *,
    scale: jax.Array | float,
    samples: int,
    objective: Loss | None = None,
    mode: Mode = "forward_over_reverse",
    adjoint_clip: float | None = None,
) -> tuple[jax.Array, DistilledData]:
    """The meta-gradient averaged over perturbed images, mean_k ∇L(x̃ + σ ε_k), ε_k ~ N(0, 1).

    The inner gradient jumps wherever a ReLU of the network on x̃ switches, so L is a jagged function of x̃: its gradient
    at a point says little about the loss a small step away. Averaging over a neighbourhood follows the trend instead.
    Each perturbation sees its own share of the real batch, so the real data cost what they did; ε sums to zero over k.

    Args:
      key: a JAX random key, for ε.
      loss, distilled, theta, batch, objective: as in :func:`outer_objective`; ``samples`` must divide B.
      scale: σ, in normalised pixel units.
      samples: number of perturbations.
      mode, adjoint_clip: how the loop is differentiated.

    Returns:
      The mean objective, and its mean gradient shaped like ``distilled``.

    Raises:
      ValueError: as :func:`outer_objective`, or ``samples`` is not positive or does not divide B.
    """
    batch = _checked_batch(batch)
    size = batch[0].shape[0]
    if samples < 1:
        raise ValueError(f"outer.samples: {samples} is not accepted; use 1 or more")
    if size % samples:
        raise ValueError(f"outer.samples: {samples} does not divide the batch size, {size}")
    noise = jax.random.normal(key, (samples, *distilled.images.shape), distilled.images.dtype)
    noise = jnp.asarray(scale, noise.dtype) * (noise - noise.mean(0, keepdims=True))
    shares = jax.tree.map(lambda a: a.reshape(samples, size // samples, *a.shape[1:]), batch)

    def one(noise_and_share):
        noise, share = noise_and_share
        perturbed = distilled._replace(images=distilled.images + noise)
        return meta_gradient(loss, perturbed, theta, share, objective=objective, mode=mode, adjoint_clip=adjoint_clip)

    return _mean_over(one, (noise, shares))


def mean_meta_gradient(
    loss: Loss,
    distilled: DistilledData,
    thetas: Params,
    batch: Batch,
    *,
    objective: Loss | None = None,
    net_norm: float | None = None,
    mode: Mode = "forward_over_reverse",
    adjoint_clip: float | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, DistilledData]:
    """The meta-gradient averaged over initial weights, for data that train any network (paper, equation 5).

    Args:
      loss, distilled, batch, objective, mode, adjoint_clip, chunk: as in :func:`meta_gradient`.
      thetas: θ₀ of N networks, each leaf with a leading axis N.
      net_norm: if given, each network's gradient in x̃ and raw η̃ is first scaled to this norm. The norms differ tenfold
        between networks, and without it the mean is that of the one or two largest. A network whose gradient is not
        finite is left out of both means; where none is finite, neither mean is.

    Returns:
      The mean objective, and its gradient shaped like ``distilled``.

    Raises:
      ValueError: as :func:`meta_gradient`, weights of unequal numbers of networks, or a norm that is not positive.
    """
    if net_norm is not None and not 0 < net_norm < math.inf:
        raise ValueError(f"net_norm: {net_norm} is not accepted; use a positive number")
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(thetas)}
    if len(counts) != 1 or () in counts:
        raise ValueError(f"thetas: leading axes {sorted(counts)} are not accepted; use [N, …] for every leaf")

    def one(theta):
        value, gradient = meta_gradient(
            loss, distilled, theta, batch, objective=objective, mode=mode, adjoint_clip=adjoint_clip, chunk=chunk
        )
        if net_norm is None:
            return jnp.ones((), value.dtype), value, gradient
        of = gradient._replace(labels=None)
        finite = jnp.isfinite(norm(of)) & jnp.isfinite(value)
        scaled = with_norm(gradient, net_norm, of=of)
        kept = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros_like(g)), scaled)
        return finite.astype(value.dtype), jnp.where(finite, value, jnp.zeros_like(value)), kept

    share, value, gradient = _mean_over(one, thetas)
    # 0/0, which is not finite, where no network is
    return jax.tree.map(lambda mean: mean / share.astype(mean.dtype), (value, gradient))


def _mean_over(f, xs):
    """The mean of ``f`` over the leading axis: in turn on a CPU, to keep its caches warm, else all at once."""
    each = jax.lax.map(f, xs) if jax.default_backend() == "cpu" else jax.vmap(f)(xs)
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), each)
