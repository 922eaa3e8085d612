"""Images as arrays of uint8, brought to one size and number of channels."""

from collections.abc import Iterable

import numpy as np

from dd_jax.checks import require

_LUMA = (19595, 38470, 7471)  # (0.299, 0.587, 0.114) · 2¹⁶, of red, green and blue (ITU-R BT.601)


def check_form(size: int | None, channels: int | None) -> None:
    """Refuses (``ValueError``) a size below 1, and channels other than 1 or 3."""
    if size is not None and size < 1:
        raise ValueError(f"size: {size} is below 1; use a number of pixels, or None to keep the images' own")
    require(channels in (None, 1, 3), "channels", channels, "1 (grey), 3 (colour), or None to keep them")


def formed(images: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Images ``[N, H, W, 1 or 3]`` of uint8 as ``[N, size, size, channels]``, or as they are where these are None.

    Sizes change by bicubic resizing. Grey is repeated over three channels; colour becomes its luma, as in Pillow's "L".
    """
    if channels == 1 and images.shape[-1] == 3:
        images = ((images @ np.array(_LUMA, np.int32) + 2**15) >> 16).astype(np.uint8)[..., None]
    if size is not None and images.shape[1:3] != (size, size):
        images = resize(images, size)
    return np.repeat(images, 3, axis=-1) if channels == 3 and images.shape[-1] == 1 else images


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Bicubic resizing of uint8 images ``[N, H, W, D]`` to ``[N, size, size, D]``."""
    from PIL import Image  # here: the algorithm imports this module, and does without Pillow

    channels = [
        [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)) for plane in image]
        for image in np.moveaxis(images, -1, 1)
    ]
    return np.moveaxis(np.array(channels, np.uint8), 1, -1)


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
