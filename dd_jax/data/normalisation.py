"""How uint8 images become what a network is given, and back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dd_jax.data.whitening import Whitening, unwhiten, whiten


class Normalisation(NamedTuple):
    """Mean 0 and standard deviation 1 in each channel of the training split, and whitened then, if asked for."""

    mean: Any  # [D], in units of [0, 1]
    std: Any  # [D]
    whitening: Whitening | None = None  # of the normalised images


def normalise(images: jax.Array, normalisation: Normalisation) -> jax.Array:
    """Images ``[..., H, W, D]`` of 0 … 255 to normalised float32 ones."""
    mean, std, whitening = normalisation
    mean, std = _per_channel(mean, images), _per_channel(std, images)
    images = images.astype(jnp.float32) * (1 / (255 * std)) - mean / std
    return images if whitening is None else whiten(whitening, images)


def denormalise(images: jax.Array, normalisation: Normalisation) -> jax.Array:
    """Normalised images ``[..., H, W, D]`` to pixels in units of [0, 1], which learned ones may lie beyond."""
    mean, std, _ = normalisation
    return unwhitened(images, normalisation) * _per_channel(std, images) + _per_channel(mean, images)


def unwhitened(images: jax.Array, normalisation: Normalisation) -> jax.Array:
    """Normalised images ``[..., H, W, D]`` as they were before they were whitened, if they were."""
    return images if normalisation.whitening is None else unwhiten(normalisation.whitening, images)


def _per_channel(values: Any, images: jax.Array) -> jax.Array:
    return jnp.asarray(values, jnp.float32).reshape((1,) * (images.ndim - 1) + (-1,))
