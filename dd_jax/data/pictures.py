"""Pictures of any format as arrays of uint8, and arrays brought to one size and number of channels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dd_jax.files.storage import first_line

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm"),
    *(".pnm", ".tga", ".jp2", ".avif", ".heic", ".heif"),  # a picture that Pillow cannot read is refused, not skipped
)
_LUMA = (19595, 38470, 7471)  # (0.299, 0.587, 0.114) · 2¹⁶, of red, green and blue (ITU-R BT.601)
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
        with path.open("rb") as file, Image.open(file) as image:
            levels = _levels(image)
            stored_grey = "LA;16B" in _stored(image)  # Pillow has no such mode, and opens it as RGBA
            upright = ImageOps.exif_transpose(image)
        if levels is not None:
            return _from_levels(np.asarray(upright), *levels)
        return shown(upright)[..., : 1 if stored_grey else None]
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        remedy = "save it anew as an 8-bit PNG, or remove it"
        raise ValueError(f"dataset: {path} cannot be read as an image ({first_line(error)}); {remedy}") from error


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


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Bicubic resizing of uint8 images ``[N, H, W, D]`` to ``[N, size, size, D]``."""
    channels = [
        [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)) for plane in image]
        for image in np.moveaxis(images, -1, 1)
    ]
    return np.moveaxis(np.array(channels, np.uint8), 1, -1)


def check_form(size: int | None, channels: int | None) -> None:
    """Refuses (``ValueError``) a size below 1, and channels other than 1 or 3."""
    if size is not None and size < 1:
        raise ValueError(f"size: {size} is below 1; use a number of pixels, or None to keep the images' own")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: {channels} is not accepted; use 1 (grey), 3 (colour), or None to keep them")


def formed(images: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Images ``[N, H, W, 1 or 3]`` of uint8 as ``[N, size, size, channels]``, or as they are where these are None.

    Sizes change by bicubic resizing. Grey is repeated over three channels; colour becomes its luma, as in Pillow's "L".
    """
    if channels == 1 and images.shape[-1] == 3:
        images = ((images @ np.array(_LUMA, np.int32) + 2**15) >> 16).astype(np.uint8)[..., None]
    if size is not None and images.shape[1:3] != (size, size):
        images = resize(images, size)
    return np.repeat(images, 3, axis=-1) if channels == 3 and images.shape[-1] == 1 else images


class ImagesDiffer(ValueError):
    """Images of several sizes or numbers of channels, and none given to bring them to."""


def stack(
    named: Iterable[tuple[str, np.ndarray]], count: int, size: int | None = None, channels: int | None = None
) -> np.ndarray:
    """Images ``[H, W, 1 or 3]`` of uint8 brought to form one by one: ``[count, H, W, D]``, and no more memory.

    Args:
      named: each image with a name for messages; ``count`` of them, 1 or more.
      count: N.
      size: height and width; None for images that are of one size as they are.
      channels: 1 or 3; None for images that are all grey or all in colour.

    Raises:
      ImagesDiffer: images of several sizes or numbers of channels without one to bring them to.
    """
    stacked, first = np.empty(0, np.uint8), ""
    for i, (name, image) in enumerate(named):
        image = formed(image[None], size, channels)[0]
        if i == 0:
            stacked, first = np.empty((count, *image.shape), np.uint8), name
        if image.shape != stacked.shape[1:]:
            advice = form_advice(image.shape, stacked.shape[1:])
            raise ImagesDiffer(f"{name} is {_described(image)}, {first} {_described(stacked[0])}; {advice}")
        stacked[i] = image
    return stacked


def form_advice(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    """What to do about images of two shapes ``(H, W, D)``."""
    size = ["a size in pixels"] if shape[:2] != other[:2] else []
    channels = ["channels (1 for grey, 3 for colour)"] if shape[2] != other[2] else []
    return f"give {' and '.join(size + channels)} to bring all images to"


def _described(image: np.ndarray) -> str:
    return f"{image.shape[0]}×{image.shape[1]} {'grey' if image.shape[2] == 1 else 'colour'}"
