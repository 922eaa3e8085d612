"""Differentiable augmentation of images in normalised units: of distilled images within the loop, and of real ones.

The kinds and their ranges are those of differentiable siamese augmentation (DSA, Zhao & Bilen 2021, "Dataset
Condensation with Differentiable Siamese Augmentation", https://arxiv.org/abs/2102.08259):

==========  ==============================================================  =========================================
kind        at strength s                                                   cost for an image, side n, depth D
==========  ==============================================================  =========================================
``flip``    mirrors left and right with probability min(s, 1) / 2           one selection
``shift``   moves by whole pixels, up to 12.5 % · s of the side, each axis  one copy; no arithmetic
``rotate``  turns by up to ±15° · s                                         one gather of n² rows of 4D floats
``scale``   stretches each axis by 1/r … r, r = 1 + 0.2 s                   two products, 4 n³ D operations
``colour``  brightness ± 0.5 s; saturation · (1 ± s); contrast · (1 ± s/2)  a few operations per pixel, two means
``cutout``  sets a square to zero, 50 % · s of the side                     one selection
==========  ==============================================================  =========================================

Every range is drawn from evenly. Whatever comes from outside of the image is zero, the mean of the training images.
``crop`` is another name of ``shift``: a random crop after padding with zeros.

On two CPU cores, 100 images of 32 × 32 × 3 take 0.1 ms to shift, 0.6 ms to rotate and 0.9 ms to scale, and the gradient
of each takes 1.5 to 4 ms. The transpose of the gather is a scatter, so the gradient of ``rotate`` is the slowest.

Each function is linear or affine in the images for a given draw, but for none of them does the draw depend on the
images or on their type. All of them work under ``jit``, ``vmap`` and any mix of derivatives.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from dd_jax.base import Augment

NONE = "none"


def flip(key: jax.Array, images: jax.Array, *, probability: float = 0.5, shared: bool = False) -> jax.Array:
    """Mirrors images left and right.

    Args:
      key: a JAX random key.
      images: ``[B, H, W, D]`` floats.
      probability: of a mirrored image, 0 … 1.
      shared: whether one draw holds for all images of the batch.

    Raises:
      ValueError: a probability out of range, or images of another shape or type.
    """
    _check(images, "flip.probability", probability, 1)
    if probability == 0:
        return images
    (u,) = _uniform(key, images, shared, 1)
    return jnp.where(u < probability, images[:, :, ::-1], images)


def shift(key: jax.Array, images: jax.Array, *, share: float = 0.125, shared: bool = False) -> jax.Array:
    """Moves images by whole pixels, vertically and horizontally; zeros come in.

    Args:
      key: a JAX random key.
      images: ``[B, H, W, D]`` floats.
      share: of each side, the farthest move, 0 … 1, rounded to whole pixels.
      shared: whether one draw holds for all images of the batch.

    Raises:
      ValueError: a share out of range, or images of another shape or type.
    """
    _check(images, "shift.share", share, 1)
    count, height, width, depth = images.shape
    y, x = _whole(share * height), _whole(share * width)
    if y == x == 0:
        return images
    padded = jnp.pad(images, ((0, 0), (y, y), (x, x), (0, 0)))
    u, v = _uniform(key, images, shared, 2)
    top, left = _below(2 * y + 1, u).reshape(count), _below(2 * x + 1, v).reshape(count)
    whole = partial(jax.lax.dynamic_slice, slice_sizes=(height, width, depth))
    return jax.vmap(lambda image, top, left: whole(image, (top, left, jnp.zeros_like(top))))(padded, top, left)


def rotate(key: jax.Array, images: jax.Array, *, degrees: float = 15.0, shared: bool = False) -> jax.Array:
    """Turns images about their centres, with bilinear interpolation; zeros come in at the corners.

    Args:
      key: a JAX random key.
      images: ``[B, H, W, D]`` floats.
      degrees: the largest angle either way, 0 or more.
      shared: whether one draw holds for all images of the batch.

    Raises:
      ValueError: an angle that is negative or not finite, or images of another shape or type.
    """
    _check(images, "rotate.degrees", degrees)
    if degrees == 0:
        return images
    (u,) = _uniform(key, images, shared, 1)
    angle = math.radians(degrees) * (2 * u[..., 0] - 1)  # [B, 1, 1]
    y, x = _centred(images.shape[1])[None, :, None], _centred(images.shape[2])[None, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _sampled(images, cos * y - sin * x, sin * y + cos * x)


def scale(key: jax.Array, images: jax.Array, *, factor: float = 1.2, shared: bool = False) -> jax.Array:
    """Stretches images about their centres, each axis by its own factor, with bilinear interpolation.

    Args:
      key: a JAX random key.
      images: ``[B, H, W, D]`` floats.
      factor: r, 1 or more. A pixel at distance d from the centre is read at distance f·d, f in 1/r … r, as in DSA;
        f below 1 enlarges the picture, and zeros come in where f is above 1.
      shared: whether one draw holds for all images of the batch.

    Raises:
      ValueError: a factor that is below 1 or not finite, or images of another shape or type.
    """
    _check(images, "scale.factor", factor, least=1)
    if factor == 1:
        return images
    rows, columns = (
        _hat((1 / factor + (factor - 1 / factor) * u[..., 0]) * _centred(n)[None, :, None], n).astype(images.dtype)
        for u, n in zip(_uniform(key, images, shared, 2), images.shape[1:3], strict=True)
    )
    # Full precision: an accelerator's own would round the pixels to bfloat16.
    stretched = jnp.einsum("byi,bixd->byxd", rows, images, precision="highest")
    return jnp.einsum("bxj,byjd->byxd", columns, stretched, precision="highest")


def colour(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.5,
    saturation: float = 1.0,
    contrast: float = 0.5,
    shared: bool = False,
) -> jax.Array:
    """Changes brightness, then saturation, then contrast. The defaults are what DSA calls 1, 2 and 0.5.

    Args:
      key: a JAX random key.
      images: ``[B, H, W, D]`` floats.
      brightness: the largest number, in normalised units, added to all pixels of an image; 0 or more.
      saturation: the largest change of the factor, by itself 1, on each pixel's distance from the mean of its channels;
        0 or more. A factor is never below 0. With one channel there is nothing to change.
      contrast: the same for each pixel's distance from the mean of its image.
      shared: whether one draw holds for all images of the batch.

    Raises:
      ValueError: a range that is negative or not finite, or images of another shape or type.
    """
    for name, value in (("brightness", brightness), ("saturation", saturation), ("contrast", contrast)):
        _check(images, f"colour.{name}", value)
    u, v, w = _uniform(key, images, shared, 3)

    def change(u, largest, least):
        return (least + (largest - least) * u).astype(images.dtype)

    if brightness:
        images = images + change(u, brightness, -brightness)
    if saturation and images.shape[-1] > 1:
        images = images + change(v, saturation, max(-saturation, -1)) * (images - images.mean(-1, keepdims=True))
    if contrast:
        images = images + change(w, contrast, max(-contrast, -1)) * (images - images.mean((1, 2, 3), keepdims=True))
    return images


def cutout(key: jax.Array, images: jax.Array, *, share: float = 0.5, shared: bool = False) -> jax.Array:
    """Sets a square of each image to zero; its centre is any pixel, so a part of it may be outside of the image.

    Args:
      key: a JAX random key.
      images: ``[B, H, W, D]`` floats.
      share: of each side, the side of the square, 0 … 1, rounded to whole pixels.
      shared: whether one draw holds for all images of the batch.

    Raises:
      ValueError: a share out of range, or images of another shape or type.
    """
    _check(images, "cutout.share", share, 1)
    height, width = images.shape[1:3]
    sizes = _whole(share * height), _whole(share * width)
    if 0 in sizes:
        return images
    inside = []
    for axis, (u, n, size) in enumerate(zip(_uniform(key, images, shared, 2), (height, width), sizes, strict=True)):
        # An even square has its centre between two pixels, or at either edge of the image.
        first = _below(n + 1 - size % 2, u) - size // 2
        distance = jax.lax.broadcasted_iota(jnp.int32, (1, height, width, 1), 1 + axis) - first
        inside.append((distance >= 0) & (distance < size))
    return jnp.where(inside[0] & inside[1], 0, images)


def _of_strength(strength: float) -> dict[str, Callable[..., jax.Array]]:
    """Every kind by name, with the range it draws from at this strength."""
    share_moved, share_cut = min(0.125 * strength, 1.0), min(0.5 * strength, 1.0)
    return {
        "flip": partial(flip, probability=min(strength, 1.0) / 2),
        "shift": partial(shift, share=share_moved),
        "crop": partial(shift, share=share_moved),
        "rotate": partial(rotate, degrees=15 * strength),
        "scale": partial(scale, factor=1 + 0.2 * strength),
        "colour": partial(colour, brightness=0.5 * strength, saturation=strength, contrast=0.5 * strength),
        "cutout": partial(cutout, share=share_cut),
    }


KINDS: tuple[str, ...] = tuple(_of_strength(1.0))
"""The names that :func:`augmentation` takes."""


def parse(text: str) -> tuple[str, ...]:
    """The kinds of a text such as ``"shift,flip"``; of ``"none"``, that word alone.

    >>> parse("shift, flip")
    ('shift', 'flip')

    Raises:
      ValueError: a kind that is unknown, none at all, or ``none`` beside another.
    """
    return _known(tuple(kind.strip() for kind in text.split(",")) if text.strip() else ())


def augmentation(kinds: Sequence[str] | str, *, strength: float = 1.0, shared: bool = False) -> Augment:
    """One function that applies several kinds of augmentation, one after another.

    Args:
      kinds: their names, in this order, or a text that :func:`parse` takes; ``"none"`` makes the identity.
      strength: how much of the ranges in the module's table is drawn from; at 0 the images come back as they are.
      shared: whether one draw holds for all images of a batch, rather than one draw an image. The draw then depends
        on the key alone, so that two batches given the same key, such as real and distilled images in DSA, are
        augmented alike if their images are of one size.

    Returns:
      ``(key, images [B, H, W, D]) -> images``, differentiable in the images.

    Raises:
      ValueError: here, a kind that is unknown, none at all, or a strength that is negative or not finite; and when
        called, images of another shape or type.
    """
    kinds = parse(kinds) if isinstance(kinds, str) else _known(tuple(kinds))
    if not 0 <= strength < math.inf:
        raise ValueError(f"augment.strength: {strength} is not accepted; use 0 or a positive number")
    steps = [_of_strength(strength)[kind] for kind in kinds if kind != NONE]

    def augment(key, images):
        _check(images)
        keys = jax.random.split(key, max(len(steps), 1))
        for i, step in enumerate(steps):
            images = step(keys[i], images, shared=shared)
        return images

    return augment


def _known(kinds: tuple[str, ...]) -> tuple[str, ...]:
    names = ", ".join(KINDS)
    if not kinds:
        raise ValueError(f"augment: no kind is given; use {NONE!r}, or one or more of {names}")
    for kind in kinds:
        if kind not in KINDS and kind != NONE:
            raise ValueError(f"augment: {kind!r} is unknown; use {NONE!r}, or one or more of {names}")
    if NONE in kinds and len(kinds) > 1:
        raise ValueError(f"augment: {','.join(kinds)!r} is not accepted; use {NONE!r} alone, or leave it out")
    return kinds


def _check(images: jax.Array, name: str = "", value: float = 0.0, most: float = math.inf, least: float = 0) -> None:
    if images.ndim != 4:
        raise ValueError(f"augment: images of shape {images.shape} are not accepted; use [B, H, W, D]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"augment: images of type {images.dtype} are not accepted; use floats, normalised")
    if not (math.isfinite(value) and least <= value <= most):
        accepted = f"{least} … {most}" if most < math.inf else f"{least} or more"
        raise ValueError(f"augment.{name}: {value} is not accepted; use {accepted}")


def _whole(pixels: float) -> int:
    """The nearest whole number; a half is rounded up, as in DSA."""
    return int(pixels + 0.5)


def _uniform(key: jax.Array, images: jax.Array, shared: bool, numbers: int) -> jax.Array:
    """So many numbers in [0, 1) for each image, or for all alike, ``[numbers, B, 1, 1, 1]``, float32 for any images."""
    draws = jax.random.uniform(key, (numbers, 1 if shared else len(images), 1, 1, 1), jnp.float32)
    return jnp.broadcast_to(draws, (numbers, len(images), 1, 1, 1))


def _below(count: int, u: jax.Array) -> jax.Array:
    """A whole number, 0 … count − 1, int32, of a number in [0, 1)."""
    return jnp.floor(u * count).astype(jnp.int32)


def _centred(side: int) -> jax.Array:
    """Pixel centres of a side, measured from its middle, ``[side]`` float32."""
    return jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2


def _hat(at: jax.Array, side: int) -> jax.Array:
    """Weights of linear interpolation, ``[B, n, side]``, at places ``[B, n, 1]`` from the middle of a side."""
    return jnp.maximum(1 - jnp.abs(at - _centred(side)[None, None]), 0)


def _sampled(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """The images' values at places ``[B, H, W]`` from their centres, bilinearly; zero outside.

    The four neighbours of a place lie side by side in one row, so that there is one gather, forward and transposed.
    """
    count, height, width, depth = images.shape
    y = jnp.clip(y + (height - 1) / 2, -1, height)
    x = jnp.clip(x + (width - 1) / 2, -1, width)
    top, left = jnp.floor(y), jnp.floor(x)
    padded = jnp.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0)))
    neighbours = [padded[:, dy : height + 2 + dy, dx : width + 2 + dx] for dy in (0, 1) for dx in (0, 1)]
    rows = jnp.concatenate(neighbours, -1).reshape(-1, 4 * depth)
    first = jnp.arange(count, dtype=jnp.int32)[:, None, None] * ((height + 2) * (width + 2))
    index = first + (top.astype(jnp.int32) + 1) * (width + 2) + left.astype(jnp.int32) + 1
    # The clip keeps every index in bounds. The sum is written out: XLA's CPU code is ten times slower on a reduction.
    taken = rows.at[index.reshape(-1)].get(mode="promise_in_bounds").reshape(count, height, width, 4, depth)
    down, right = y - top, x - left
    weights = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
    return sum(
        (w[..., None].astype(images.dtype) * taken[..., i, :] for i, w in enumerate(weights)), jnp.zeros_like(images)
    )
