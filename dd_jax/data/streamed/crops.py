"""A picture of any size as one of ``size`` × ``size`` pixels: as a whole, or a part of it at random."""

import math

import numpy as np
from PIL import Image

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""The share of a picture's area that a random crop has, and its width over its height: torchvision's."""
_TRIES = 10


def resized(picture: np.ndarray, size: int, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Bicubic resizing to ``[size, size, 3]``, whatever the shape of the picture; grey is repeated.

    Args:
      picture: ``[H, W, 1 or 3]`` uint8.
      size: height and width in pixels.
      box: (left, top, right, bottom) of the part to take, in pixels; the whole picture if not given.
    """
    if picture.shape[-1] == 1:
        picture = picture[..., 0]
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box)
    return np.asarray(image.convert("RGB"))


def cropped_and_flipped(rng: np.random.Generator, picture: np.ndarray, size: int) -> np.ndarray:
    """A part of the picture at random, resized, and in half of the cases mirrored: the paper's augmentation at 224.

    As torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip``.

    Args:
      rng: draws the part.
      picture, size: as in :func:`resized`.
    """
    part = resized(picture, size, random_box(rng, *picture.shape[:2]))
    return part[:, ::-1] if rng.random() < 0.5 else part


def random_box(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a part whose area and shape are at random within ``SCALE`` and ``RATIO``."""
    for _ in range(_TRIES):
        area = height * width * rng.uniform(SCALE[0], SCALE[1])
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            return int(left), int(top), int(left) + columns, int(top) + rows
    # A picture that is too narrow: the middle of it, of a shape as near as there is.
    columns = min(width, round(height * RATIO[1]))
    rows = min(height, round(width / RATIO[0]))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows
