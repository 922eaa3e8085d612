"""The outer objective and its meta-gradient (paper, equations 4 and 6; Algorithm 1, lines 8–9)."""

import jax
import jax.numpy as jnp

from dd_jax.unroll import DistilledData, Loss, Params, unroll

Batch = tuple[jax.Array, jax.Array]


def outer_objective(loss: Loss, distilled: DistilledData, theta: Params, batch: Batch) -> jax.Array:
    """L(x̃, η̃; θ₀) = ℓ(x, y; θ_T): the loss on real data, after the last step on the distilled data only.

    Args:
      loss: ℓ, ``(theta, images, labels) -> scalar``; used both inside the loop and on the real batch.
      distilled: x̃, ỹ and η̃.
      theta: θ₀.
      batch: real images ``[B, H, W, D]`` and labels ``[B, C]``.

    Returns:
      A scalar in nats.
    """
    return loss(unroll(loss, theta, distilled), *batch)


def meta_gradient(loss: Loss, distilled: DistilledData, theta: Params, batch: Batch) -> tuple[jax.Array, DistilledData]:
    """The outer objective and its exact gradient in x̃, ỹ and raw η̃, by ``jax.grad`` through the scan.

    Args and units as in :func:`outer_objective`.

    Returns:
      The objective, and its gradient shaped like ``distilled``.
    """
    return jax.value_and_grad(outer_objective, argnums=1)(loss, distilled, theta, batch)


def smoothed_meta_gradient(
    key: jax.Array,
    loss: Loss,
    distilled: DistilledData,
    theta: Params,
    batch: Batch,
    *,
    scale: jax.Array | float,
    samples: int,
) -> tuple[jax.Array, DistilledData]:
    """The meta-gradient averaged over perturbed images, mean_k ∇L(x̃ + σ ε_k), ε_k ~ N(0, 1).

    The inner gradient jumps wherever a ReLU of the network on x̃ switches, so L is a jagged function of x̃: its gradient
    at a point says little about the loss a small step away. Averaging over a neighbourhood follows the trend instead.
    Each perturbation sees its own share of the real batch, so the real data cost what they did; ε sums to zero over k.

    Args:
      key: a JAX random key, for ε.
      loss, distilled, theta, batch: as in :func:`outer_objective`; ``samples`` must divide B.
      scale: σ, in normalised pixel units.
      samples: number of perturbations.

    Returns:
      The mean objective, and its mean gradient shaped like ``distilled``.

    Raises:
      ValueError: ``samples`` does not divide B.
    """
    size = batch[0].shape[0]
    if size % samples:
        raise ValueError(f"outer.samples: {samples} does not divide the batch size, {size}")
    noise = jax.random.normal(key, (samples, *distilled.images.shape), distilled.images.dtype)
    noise = scale * (noise - noise.mean(0))
    shares = jax.tree.map(lambda a: a.reshape(samples, size // samples, *a.shape[1:]), batch)

    def one(noise_and_share):
        noise, share = noise_and_share
        return meta_gradient(loss, distilled._replace(images=distilled.images + noise), theta, share)

    # One at a time keeps a CPU's caches warm; an accelerator wants them all at once.
    over_samples = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), over_samples(one, (noise, shares)))
