"""Small images on a page, each with its name: one sheet of pixels for all of them, at each moment of training."""

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dd_jax.files.figures import spread

FRAME_BYTES = 640_000  # of the pixels of the images shown, at most
ALL_BYTES = 2_000_000  # of those of all moments before the last together, at most, but for a few moments
EXACT_BYTES = 40_000  # of the pixels of a moment before the last that is shown exactly
_FEWEST, _MOST = 4, 21  # moments
_QUALITY = 80  # of a JPEG


def chosen(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which steps, and which images of each, are shown of images ``[S, M, H, W, D]``: all, or evenly as many as fit.

    >>> [len(a) for a in chosen((1, 10, 28, 28, 1))], [len(a) for a in chosen((10, 100, 32, 32, 3))]
    ([1, 10], [2, 100])
    """
    steps, count = shape[:2]
    fit = max(1, FRAME_BYTES // math.prod(shape[2:]))
    kept = spread(steps, max(1, fit // count))
    return kept, spread(count, max(1, fit // len(kept)))


def moments(count: int, frame_bytes: int) -> np.ndarray:
    """Which of the moments of training are shown, the first and the last among them, in all a megabyte or two.

    >>> moments(21, 7840).tolist() == list(range(21)), moments(21, 640_000).tolist()
    (True, [0, 7, 13, 20])
    """
    most = min(_MOST, max(_FEWEST, 1 + ALL_BYTES // max(1, frame_bytes)))
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def sheet(images: np.ndarray, *, exact: bool = True) -> tuple[bytes, int]:
    """All images on one picture, and how many lie side by side.

    Each has its own edge around it once more, so that nothing of its neighbours shows when a browser scales it.

    Args:
      images: ``[N, H, W, 1 or 3]`` uint8, N ≥ 1.
      exact: a PNG; else a JPEG, of a third of its size where images are like noise, whose colours are as fine as its
        greys.
    """
    columns = math.ceil(math.sqrt(len(images)))
    images = np.pad(images, ((0, -len(images) % columns), (0, 0), (0, 0), (0, 0)))
    edged = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    _, height, width, depth = edged.shape
    lines = edged.reshape(-1, columns, height, width, depth).swapaxes(1, 2)
    pixels = lines.reshape(-1, columns * width, depth)
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if depth == 1 else pixels)
    if exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue(), columns


def rule(selector: str, picture: bytes) -> str:
    """The style of the tiles that a sheet is for."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"{selector}{{background-image:url(data:image/{kind};base64,{base64.b64encode(picture).decode()})}}"


def size_rule(selector: str, count: int, columns: int, height: int, width: int) -> str:
    """The style of tiles cut from a sheet of ``count`` images."""
    lines = -(-count // columns)
    across, down = (100 * n * (size + 2) / size for n, size in ((columns, width), (lines, height)))
    return f"{selector}{{aspect-ratio:{width}/{height};background-size:{across:.3f}% {down:.3f}%}}"


def tile(index: int, count: int, columns: int, height: int, width: int, name: str, caption: str) -> str:
    """One image of a sheet, with its name for those who point at it or do not see it, and a caption below."""
    lines, (line, column) = -(-count // columns), divmod(index, columns)
    x = 100 * (column * (width + 2) + 1) / (columns * (width + 2) - width)
    y = 100 * (line * (height + 2) + 1) / (lines * (height + 2) - height)
    name = html.escape(name)
    return (
        f"<figure><i role='img' aria-label='{name}' title='{name}' style='background-position:{x:.3f}% {y:.3f}%'></i>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def label_in_words(label: np.ndarray, class_names: Sequence[str]) -> str:
    """A label ``[C]`` as a class's name, or the likeliest few where it is shared.

    >>> label_in_words(np.array([0, 1.0]), ["cat", "dog"]), label_in_words(np.array([0.3, 0.7]), ["cat", "dog"])
    ('dog', 'dog 0.70, cat 0.30')
    """
    best = [int(c) for c in np.argsort(-label, kind="stable")[:3]]
    if label[best[0]] == 1 and np.abs(label).sum() == 1:
        return class_names[best[0]]
    return ", ".join(f"{class_names[c]} {label[c]:.2f}" for c in best if abs(label[c]) >= 0.005)
