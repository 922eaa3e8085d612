"""The outer objective and its meta-gradient (paper, equations 4 and 6; Algorithm 1, lines 8–9)."""

import jax

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


def meta_gradient(
    loss: Loss, distilled: DistilledData, theta: Params, batch: Batch
) -> tuple[jax.Array, DistilledData]:
    """The outer objective and its exact gradient in x̃, ỹ and raw η̃, by ``jax.grad`` through the scan.

    Args and units as in :func:`outer_objective`.

    Returns:
      The objective, and its gradient shaped like ``distilled``.
    """
    return jax.value_and_grad(outer_objective, argnums=1)(loss, distilled, theta, batch)
