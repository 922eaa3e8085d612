"""Picture files of any format as arrays of uint8."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from dd_jax.files.atomic import first_line

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF's tags
_WHITE_IS_ZERO = 0


def read_picture(path: Path) -> np.ndarray:
    """A picture as ``[H, W, 1]`` (grey) or ``[H, W, 3]`` (any other kind) of uint8, upright as EXIF says.

    Of an animation or of several pages it is the first. Where it is transparent, white shows through. Grey of 16 bits
    becomes 8 bits, 65535 becoming 255; grey of floats is in [0, 1], 1 becoming 255.

    Raises:
      ValueError: no picture that Pillow reads, a damaged or enormous one, or levels of unknown range.
    """
    try:
        # Not by its path: then Pillow 13 maps uncompressed TIFFs into memory, and turns those wrongly.
        with path.open("rb") as file:
            return _picture_in(file)
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        remedy = "save it anew as an 8-bit PNG, or remove it"
        raise ValueError(f"dataset: {path} cannot be read as an image ({first_line(error)}); {remedy}") from error


def decoded(content: bytes, name: str) -> np.ndarray:
    """A picture from the content of its file, as :func:`read_picture`; ``name`` is for messages."""
    try:
        return _picture_in(io.BytesIO(content))
    except Exception as error:
        raise ValueError(f"dataset: {name} cannot be read as an image ({first_line(error)})") from error


def _picture_in(file: BinaryIO) -> np.ndarray:
    with Image.open(file) as image:
        levels = _levels(image)
        stored_grey = "LA;16B" in _stored(image)  # Pillow has no such mode, and opens it as RGBA
        upright = ImageOps.exif_transpose(image)
    if levels is not None:
        return _from_levels(np.asarray(upright), *levels)
    return shown(upright)[..., : 1 if stored_grey else None]


def shown(image: Image.Image) -> np.ndarray:
    """A picture of 8 bits in any of Pillow's modes as it looks on white: ``[H, W, 1 or 3]`` of uint8."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, straight.convert("RGBA"))
    return np.atleast_3d(np.asarray(image.convert("L" if grey else "RGB")))


def _levels(image: Image.Image) -> tuple[float, float] | None:
    """The levels of black and white of a picture with more than 8 bits; None for one with 8."""
    deep = image.mode == "F" or image.mode.startswith("I")
    # A PNG gives its transparent level in the units that it stores, and Pillow compares that with 8 bits.
    if "transparency" in image.info and image.mode in ("L", "RGB", "I", "I;16") and ";" in _stored(image):
        raise ValueError("one of its levels is transparent, which is read only where levels have 8 bits")
    if not deep:
        return None
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which have 16 bits at most
        raise ValueError("its levels are integers of 32 bits or signed, whose range is unknown")
    tags = getattr(image, "tag_v2", {})
    bits = tags[_BITS_PER_SAMPLE][0] if _BITS_PER_SAMPLE in tags else 16
    white = 1.0 if image.mode == "F" else 2.0**bits - 1
    return (white, 0.0) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else (0.0, white)


def _stored(image: Image.Image) -> str:
    """How a PNG's file holds its pixels, in Pillow's terms, such as ``L;4``; nothing for other files."""
    return str(getattr(image, "tile", "")) if image.format == "PNG" else ""


def _from_levels(levels: np.ndarray, black: float, white: float) -> np.ndarray:
    shares = (levels.astype(np.float64) - black) / (white - black)
    if not ((shares >= 0) & (shares <= 1)).all():  # NaN too
        raise ValueError(f"its levels are from {levels.min()} to {levels.max()}; floats must be in [0, 1]")
    return np.round(shares * 255).astype(np.uint8)[..., None]
