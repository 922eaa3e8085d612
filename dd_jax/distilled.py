"""Distilled data before any learning, and the checks that all data pass (paper, section 3).

Notation, used in every module:

=============  ==================  ====================================================================
paper          here                shape and unit
=============  ==================  ====================================================================
x̃              ``images``          ``[S, M, H, W, D]`` float, normalised pixel units
ỹ              ``labels``          ``[S, M, C]`` float, class probabilities (one-hot in the paper)
η̃              ``step_sizes``      ``[T]`` float
S, M           –                   distinct gradient steps, images per step
E, T = E·S     –                   epochs over the S steps, gradient steps in all
θ₀ … θ_T       ``theta``           the network's weights, any pytree
x, y           ``batch``           a real minibatch: ``[B, H, W, D]`` and ``[B, C]``
ℓ              ``loss``            ``(theta, images, labels) -> [M]``, nats; ℓ is the mean of the values
=============  ==================  ====================================================================
"""

import math

import jax
import jax.numpy as jnp

from dd_jax.base import Distilled, Params


def noise(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    epochs: int,
    images_per_class: int = 1,
    images: int | None = None,
    scale: float = 1.0,
    step_size: float = 0.02,
) -> Distilled:
    """Distilled data before any learning: x̃ ~ N(0, scale²), labels of :func:`first_labels`, one η̃ for all steps.

    Args:
      key: a JAX random key.
      image_shape: (H, W, D).
      classes: C.
      steps: S, distinct gradient steps.
      epochs: E, passes over them; T = E·S.
      images_per_class: images of each class in each step, so M = C · images_per_class.
      images: M itself, in place of ``images_per_class``; any number, also fewer than classes.
      scale: standard deviation of the pixels, in normalised units (1 in the paper).
      step_size: the initial η̃ of every step, positive.

    Raises:
      ValueError: a count below one, or a scale or step size that is not positive.
    """
    for name, value, least in (("steps", steps, 1), ("epochs", epochs, 1), ("images_per_class", images_per_class, 1)):
        if value < least:
            raise ValueError(f"{name}: {value} is not accepted; use {least} or more")
    for name, value in (("scale", scale), ("step_size", step_size)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: {value} is not accepted; use a positive number")
    count = classes * images_per_class if images is None else images
    if count < 1:
        raise ValueError(f"images: {count} is not accepted; use 1 or more")
    return Distilled(
        images=scale * jax.random.normal(key, (steps, count, *image_shape)),
        labels=jnp.tile(first_labels(count, classes), (steps, 1, 1)),
        step_sizes=jnp.full(steps * epochs, step_size),
    )


def first_labels(images: int, classes: int) -> jax.Array:
    """Labels of the M images of a step before any learning, ``[M, C]``: one-hot, [0, 0, …, 1, 1, …].

    Where there are fewer images than classes, each has an equal share of neighbouring classes.

    >>> print(first_labels(2, 4))
    [[0.5 0.5 0.  0. ]
     [0.  0.  0.5 0.5]]
    """
    most = max(images, classes)
    image, label = (jnp.arange(most) * count // most for count in (images, classes))
    together = jnp.zeros((images, classes)).at[image, label].set(1.0)
    return together / together.sum(axis=1, keepdims=True)


def check_distilled(distilled: Distilled) -> None:
    """Raises ``ValueError``, naming the array, its shape or type and what is accepted, if one does not fit."""
    images, labels, step_sizes, hyper = distilled
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"images: shape {images.shape} is not accepted; use [S, M, …], no axis of length 0")
    if labels.shape[:2] != images.shape[:2]:
        wanted = ", ".join(map(str, images.shape[:2]))
        raise ValueError(f"labels: shape {labels.shape} is not accepted; use [{wanted}, …], as the images have")
    if step_sizes.ndim != 1 or not step_sizes.size:
        raise ValueError(f"step_sizes: shape {step_sizes.shape} is not accepted; use [T], T ≥ 1")
    for name, value in hyper.items():
        if value.shape not in ((), step_sizes.shape):
            raise ValueError(f"hyper.{name}: shape {value.shape} is not accepted; use () or {step_sizes.shape}")
    for name, array in {"images": images, "step_sizes": step_sizes, **hyper}.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: type {array.dtype} is not accepted; use floats")


def check_theta(theta: Params) -> None:
    """Raises ``ValueError``, naming the leaf and its type, if a weight is not a float."""
    for path, leaf in jax.tree.leaves_with_path(theta):
        kind = jnp.asarray(leaf).dtype
        if not jnp.issubdtype(kind, jnp.floating):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"theta: leaf {name} of type {kind} is not accepted; use floats")
