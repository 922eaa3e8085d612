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

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Distilled, Params
from dd_jax.checks import positive, require


def noise(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    epochs: int,
    images_per_class: int | Sequence[int] = 1,
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
      images_per_class: images of each class in each step, so M = C · images_per_class; or a number for each class,
        whose sum is M.
      images: M itself, in place of ``images_per_class``; any number, also fewer than classes.
      scale: standard deviation of the pixels, in normalised units (1 in the paper).
      step_size: the initial η̃ of every step, positive.

    Raises:
      ValueError: a count below one, numbers of images for other than C classes, or a scale or step size that is not
        positive.
    """
    counts = images_of_classes(images_per_class, classes)
    for name, value in (("steps", steps), ("epochs", epochs)):
        require(value >= 1, name, value, "1 or more")
    for name, value in (("scale", scale), ("step_size", step_size)):
        positive(name, value)
    if images is None:
        labels = one_hot_labels(counts)
    else:
        require(images >= 1, "images", images, "1 or more")
        labels = first_labels(images, classes)
    return Distilled(
        images=scale * jax.random.normal(key, (steps, len(labels), *image_shape)),
        labels=jnp.tile(labels, (steps, 1, 1)),
        step_sizes=jnp.full(steps * epochs, step_size),
    )


def images_of_classes(images_per_class: int | Sequence[int], classes: int) -> tuple[int, ...]:
    """How many images of each class there are: C numbers, of one for all classes or one for each.

    >>> images_of_classes(2, classes=3), images_of_classes((3, 1, 1), classes=3)
    ((2, 2, 2), (3, 1, 1))

    Raises:
      ValueError: another number of them than C, or one below 1.
    """
    counts = tuple(images_per_class) if isinstance(images_per_class, Sequence) else (images_per_class,) * classes
    accepted = f"a number for all classes, or {classes}, one for each"
    require(len(counts) == classes, "images_per_class", images_per_class, accepted)
    require(min(counts, default=1) >= 1, "images_per_class", images_per_class, "1 or more")
    return counts


def one_hot_labels(counts: Sequence[int]) -> jax.Array:
    """Labels of so many images of each class, ``[M, C]``, one-hot, class after class."""
    return jnp.asarray(np.repeat(np.eye(len(counts), dtype=jnp.result_type(float)), counts, axis=0))


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
