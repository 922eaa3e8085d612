"""The inner loop: a few steps of gradient descent on the distilled data (paper, section 3 and Algorithm 1).

Notation, used in every module:

=============  ==================  ====================================================================
paper          here                shape and unit
=============  ==================  ====================================================================
x̃              ``images``          ``[S, M, H, W, D]`` float, normalised pixel units
ỹ              ``labels``          ``[S, M, C]`` float, class probabilities (one-hot in the paper)
η̃ = softplus   ``step_sizes``      ``[T]`` positive; ``raw_step_sizes`` is what the outer optimizer moves
S, M           –                   distinct gradient steps, images per step
E, T = E·S     –                   epochs over the S steps, gradient steps in all
θ₀ … θ_T       ``theta``           the network's weights, any pytree
x, y           ``batch``           a real minibatch: ``[B, H, W, D]`` and ``[B, C]``
ℓ              ``loss``            ``(theta, images, labels) -> scalar``, nats
=============  ==================  ====================================================================
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any  # any pytree of arrays
Loss = Callable[[Params, jax.Array, jax.Array], jax.Array]


class DistilledData(NamedTuple):
    """What is learned: x̃, ỹ and the step sizes before their softplus. Shapes as in the module's table."""

    images: jax.Array
    labels: jax.Array
    raw_step_sizes: jax.Array

    @property
    def step_sizes(self) -> jax.Array:
        """η̃ = softplus(raw), ``[T]``, always positive."""
        return jax.nn.softplus(self.raw_step_sizes)


def noise(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    epochs: int,
    images_per_class: int = 1,
    scale: float = 1.0,
    step_size: float = 0.02,
) -> DistilledData:
    """Distilled data before any learning: x̃ ~ N(0, scale²), hard labels [0, 0, …, 1, 1, …], one η̃ for all steps.

    Args:
      key: a JAX random key.
      image_shape: (H, W, D).
      classes: C.
      steps: S, distinct gradient steps.
      epochs: E, passes over them; T = E·S.
      images_per_class: images of each class in each step, so M = C · images_per_class.
      scale: standard deviation of the pixels, in normalised units (1 in the paper).
      step_size: the initial η̃ of every step, positive.

    Raises:
      ValueError: a count below one, or a scale or step size that is not positive.
    """
    for name, value, least in (("steps", steps, 1), ("epochs", epochs, 1), ("images_per_class", images_per_class, 1)):
        if value < least:
            raise ValueError(f"distilled.{name}: {value} is not accepted; use {least} or more")
    for name, value in (("scale", scale), ("step_size", step_size)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"distilled.{name}: {value} is not accepted; use a positive number")
    classes_of_step = jnp.repeat(jnp.eye(classes), images_per_class, axis=0)
    return DistilledData(
        images=scale * jax.random.normal(key, (steps, classes * images_per_class, *image_shape)),
        labels=jnp.tile(classes_of_step, (steps, 1, 1)),
        raw_step_sizes=jnp.full(steps * epochs, step_size + math.log(-math.expm1(-step_size))),  # softplus⁻¹
    )


def gradient_step(loss: Loss, theta: Params, images: jax.Array, labels: jax.Array, step_size: jax.Array) -> Params:
    """One step of full-batch gradient descent, θ − η̃ ∇_θ ℓ(x̃, ỹ; θ) (paper, equation 2).

    Args:
      loss: ℓ, ``(theta, images, labels) -> scalar``.
      theta: the weights before the step.
      images: ``[M, H, W, D]``, the images of this step.
      labels: ``[M, C]``, their labels.
      step_size: η̃_t, a scalar.

    Returns:
      The weights after the step, shaped like ``theta``.
    """
    gradient = jax.grad(loss)(theta, images, labels)
    return jax.tree.map(lambda w, g: w - step_size * g, theta, gradient)


def unroll(loss: Loss, theta: Params, distilled: DistilledData) -> Params:
    """Trains on the distilled data: θ_{t+1} = θ_t − η̃_t ∇_θ ℓ(x̃_{t mod S}, ỹ_{t mod S}; θ_t), t = 0 … T−1.

    A pure ``lax.scan`` over weight updates, differentiable in every argument but ``loss`` (Algorithm 1, lines 6–7,
    with several steps and epochs, section 3.4).

    Args:
      loss: ℓ, ``(theta, images, labels) -> scalar``.
      theta: θ₀, the initial weights.
      distilled: x̃, ỹ and η̃; T is the number of step sizes and need not be a multiple of S.

    Returns:
      θ_T, shaped like ``theta``.
    """
    distinct, total = distilled.images.shape[0], distilled.raw_step_sizes.shape[0]
    order = jnp.arange(total) % distinct

    def body(theta, step):
        return gradient_step(loss, theta, *step), None

    steps = (distilled.images[order], distilled.labels[order], distilled.step_sizes)
    return jax.lax.scan(body, theta, steps)[0]
