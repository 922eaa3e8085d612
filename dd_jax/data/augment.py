"""Random changes to images that keep their classes: ``(key, images) -> images``, ``[B, H, W, D]`` of any type."""

from typing import Any

import jax
import jax.numpy as jnp

_PADDING = 4  # pixels, of the random crop


def crop_and_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """CIFAR-10's augmentation: pad by 4 (reflect), crop at random, flip half of the images. ``[B, H, W, D]``."""
    crop_key, flip_key = jax.random.split(key)
    cropped = _padded_and_cropped(crop_key, images, _PADDING, "reflect")
    flip = jax.random.bernoulli(flip_key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flip, cropped[:, :, ::-1], cropped)


def shift(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Moves each image by up to so many pixels either way, its edges repeated. ``[B, H, W, D]``."""
    return _padded_and_cropped(key, images, pixels, "edge")


def _padded_and_cropped(key: jax.Array, images: jax.Array, pixels: int, mode: Any) -> jax.Array:
    count, height, width, depth = images.shape
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode=mode)
    corners = jax.random.randint(key, (count, 2), 0, 2 * pixels + 1)
    return jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, depth))
    )(padded, corners)
