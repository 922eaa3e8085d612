"""The outer objective and its meta-gradient (paper, equations 4 and 5; Algorithm 1, lines 8–9).

An estimate is a function ``(key, params, theta, batch) -> (value, gradient in params)``. :func:`meta_gradient` makes
one from a training function; :func:`over_networks` and :func:`perturbed` make another from one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dd_jax import backend
from dd_jax.base import Batch, Distilled, Estimate, Loss, Train
from dd_jax.norms import norm, with_norm
from dd_jax.objectives import mean_of

Decode = Callable[[Any], Distilled]


def outer_objective(
    train: Train, objective: Loss, decode: Decode = lambda distilled: distilled
) -> Callable[..., jax.Array]:
    """L(x̃, η̃; θ₀) = ℓ(x, y; θ_T): the loss on real data, after the last step on the distilled data only (equation 4).

    Args:
      train: the inner loop, ``(key, theta, distilled) -> theta`` (see :func:`dd_jax.inner.loop.trainer`).
      objective: the terms of ℓ on the real batch, ``(theta, images, labels) -> [B]``.
      decode: from what is learned to distilled data.

    Returns:
      ``(key, params, theta, batch) -> scalar``, nats; its errors are those of ``train``, or a ``ValueError`` for a
      batch or an objective of another shape.
    """

    def value(key, params, theta, batch):
        batch = _checked_batch(batch)
        return mean_of(objective)(train(key, theta, decode(params)), *batch)

    return value


def _checked_batch(batch: Batch) -> Batch:
    images, labels = (jnp.asarray(a) for a in batch)
    if not images.ndim or not images.size or labels.shape[:1] != images.shape[:1]:
        raise ValueError(f"batch: shapes {images.shape} and {labels.shape} are not accepted; use [B, …] and [B, …]")
    return images, labels


def meta_gradient(
    train: Train,
    objective: Loss,
    decode: Decode = lambda distilled: distilled,
    *,
    chunk: int | None = None,
    axis: str | None = None,
) -> Estimate:
    """The outer objective and its gradient in what is learned: ∇_{θ_T} ℓ(x, y; θ_T), pulled back through the loop.

    The same numbers as ``jax.value_and_grad`` of :func:`outer_objective`, the real batch taken in chunks.

    Args:
      train, objective, decode: as in :func:`outer_objective`.
      chunk: real examples at a time; what suits the backend if not given.
      axis: a mapped axis that the real batch is dealt out over, if it is: the mean is over all of it.

    Returns:
      The estimate; its gradient is zero for integers.

    Raises:
      ValueError: a chunk below one; when called or traced, as :func:`outer_objective`.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: {chunk} is not accepted; use 1 or more")

    def estimate(key, params, theta, batch):
        batch = _checked_batch(batch)
        trained, pull_back = jax.vjp(lambda params: train(key, theta, decode(params)), params)
        at_a_time = chunk or backend.examples_at_a_time(batch[0].shape)
        value, adjoint = _mean_along(axis, _gradient_in_chunks(mean_of(objective), trained, batch, at_a_time))
        (gradient,) = pull_back(adjoint)
        return value, jax.tree.map(lambda g: jnp.zeros(g.shape) if g.dtype == jax.dtypes.float0 else g, gradient)

    return estimate


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


def over_networks(estimate: Estimate, *, normalise: bool = False, axis: str | None = None) -> Estimate:
    """The mean over initial weights, for data that train any network (paper, equation 5).

    Args:
      estimate: of one network.
      normalise: scale each network's gradient to norm 1 first. The norms differ tenfold between networks, and without
        it the mean is that of the one or two largest. A network whose value or gradient is not finite is left out of
        both means; where none is finite, neither mean is.
      axis: a mapped axis that the networks are dealt out over, if they are: the mean is over all of them.

    Returns:
      An estimate of θ₀ of N networks, each leaf with a leading axis N. All of them get the same key. It raises
      ``ValueError`` for weights of unequal numbers of networks.
    """

    def mean(key, params, thetas, batch):
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(thetas)}
        if len(counts) != 1 or () in counts:
            raise ValueError(f"thetas: leading axes {sorted(counts)} are not accepted; use [N, …] for every leaf")

        def one(theta):
            value, gradient = estimate(key, params, theta, batch)
            if not normalise:
                return jnp.ones((), value.dtype), value, gradient
            finite = jnp.isfinite(norm(gradient)) & jnp.isfinite(value)
            kept = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros_like(g)), with_norm(gradient, 1.0))
            return finite.astype(value.dtype), jnp.where(finite, value, jnp.zeros_like(value)), kept

        share, value, gradient = _mean_over(one, thetas, axis)
        # 0/0, which is not finite, where no network is
        return jax.tree.map(lambda mean: mean / share.astype(mean.dtype), (value, gradient))

    return mean


def perturbed(estimate: Estimate, *, scale: jax.Array | float, count: int, axis: str | None = None) -> Estimate:
    """The mean over perturbed images, mean_k ∇L(x̃ + σ ε_k), ε_k ~ N(0, 1).

    The inner gradient jumps wherever a ReLU of the network on x̃ switches, so L is a jagged function of x̃: its gradient
    at a point says little about the loss a small step away. Averaging over a neighbourhood follows the trend instead.
    Each perturbation sees its own share of the real batch, so the real data cost what they did; ε sums to zero over k.

    Args:
      estimate: of params with a field ``images``, whose leaves are perturbed.
      scale: σ, in normalised pixel units.
      count: number of perturbations, K.
      axis: a mapped axis that the perturbations are dealt out over, each with its share of the batch, if they are.

    Returns:
      An estimate. It raises ``ValueError`` if K does not divide B, or the axis does not divide K.

    Raises:
      ValueError: a count below one.
    """
    if count < 1:
        raise ValueError(f"perturbations: {count} is not accepted; use 1 or more")

    def mean(key, params, theta, batch):
        batch = _checked_batch(batch)
        devices, number = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
        size, mine = batch[0].shape[0], count // devices
        if count % devices:
            raise ValueError(
                f"perturbations: {count} is not accepted; use a multiple of {devices}, the devices they are dealt over"
            )
        if size % mine:
            raise ValueError(f"perturbations: {count} does not divide the batch size, {size * devices}")
        leaves, structure = jax.tree.flatten(params.images)
        keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
        noise = structure.unflatten([_centred_noise(k, count, x, scale) for k, x in zip(keys, leaves, strict=True)])
        if devices > 1:
            noise = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, number * mine, mine), noise)
        shares = jax.tree.map(lambda a: a.reshape(mine, size // mine, *a.shape[1:]), batch)

        def one(noise_and_share):
            noise, share = noise_and_share
            moved = params._replace(images=jax.tree.map(jnp.add, params.images, noise))
            return estimate(key, moved, theta, share)

        return _mean_over(one, (noise, shares), axis)

    return mean


def _centred_noise(key, count, like, scale):
    noise = jax.random.normal(key, (count, *like.shape), like.dtype)
    return jnp.asarray(scale, noise.dtype) * (noise - noise.mean(0, keepdims=True))


def _mean_over(f, xs, axis):
    return _mean_along(axis, jax.tree.map(lambda a: jnp.mean(a, axis=0), backend.for_each_network(f, xs)))


def _mean_along(axis, tree):
    return tree if axis is None or jax.lax.axis_size(axis) == 1 else jax.lax.pmean(tree, axis)
