"""The picture of a run's distilled images."""

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import font_manager
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from dd_jax.base import Distilled
from dd_jax.files.text import one_line

_FONTS = (  # in turn, where they are installed: one has what another lacks
    *("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Segoe UI Emoji", "Segoe UI Symbol", "Noto Emoji", "Symbola", "Unifont"),
)
_COLUMNS = 20  # images side by side at most
_LINES = 40  # of images, one below the other, at most
_GAP = (0.32, 0.22)  # below and beside an image, in heights and widths of one; a title fits below
_SIZE_LINES = 8  # of step sizes at most; the report's table has them all


def text_style() -> dict[str, Any]:
    """Settings of a Matplotlib text that show a user's words as they are: ``$`` is no formula, and fonts fall back."""
    installed = set(font_manager.get_font_names())
    return {"parse_math": False, "family": [name for name in _FONTS if name in installed] or ["sans-serif"]}


def to_png(figure: Figure) -> bytes:
    """Renders a figure, as PNG bytes without a date or version in it; a character that no font has is a box."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively")
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def draw_images(distilled: Distilled, class_names: Sequence[str]) -> Figure:
    """The distilled images: a row per gradient step, or several of 20, each image titled by its most likely class.

    Learned pixels go far beyond a screen's range, below black and above white; so mid-grey is zero in normalised units,
    and black and white lie two standard deviations of the pixels shown away from it. Where there are more than fit 40
    rows, steps and images are shown that lie evenly among all, and a line says how many of them.

    Args:
      distilled: images ``[S, M, H, W, D]``, D = 1 or 3.
      class_names: C names.
    """
    steps, count, height, width, _ = distilled.images.shape
    grid = _grid(steps, count, height, width)
    images, labels = (np.asarray(a)[np.ix_(grid.steps, grid.members)] for a in (distilled.images, distilled.labels))
    classes, step_sizes, style = labels.argmax(-1), np.asarray(distilled.step_sizes), text_style()
    picture = grid.laid_out(screen_values(images))
    figure = Figure(figsize=(0.95 * picture.shape[1] / grid.period[1], 0.95 * picture.shape[0] / grid.period[1]))
    axis: Any = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.set_axis_off()
    axis.imshow(picture, interpolation="nearest")
    for row, step in enumerate(grid.steps):
        _name_step(axis, grid, row, step, step_sizes[step::steps])
        for member in range(len(grid.members)):
            if row == 0 or classes[row, member] != classes[0, member]:
                _name_image(axis, grid, row, member, class_names[int(classes[row, member])], style)
    _frame_images(axis, grid)
    shown = len(grid.steps) * len(grid.members)
    if shown < steps * count:
        note = f"{shown:,} of {steps * count:,} images shown"
        axis.text(*grid.corner(len(grid.steps)), note, fontsize=8, ha="left", va="top")
    return figure


class _Grid(NamedTuple):
    """Which images are shown, and where they lie in the picture."""

    steps: np.ndarray  # the numbers of the steps shown
    members: np.ndarray  # the numbers of the images shown of each step
    columns: int  # images side by side
    lines: int  # of images, of each step
    size: tuple[int, int]  # (H, W)
    gap: tuple[int, int]  # pixels below and beside an image

    @property
    def period(self) -> tuple[int, int]:
        """Pixels from one image to the next below and beside it."""
        return self.size[0] + self.gap[0], self.size[1] + self.gap[1]

    def corner(self, row: int, member: int = 0) -> tuple[float, float]:
        """The left and upper edges of an image of a row of steps, in the picture's pixels."""
        down, across = self.period
        line, column = row * self.lines + member // self.columns, member % self.columns
        return column * across - 0.5, line * down - 0.5

    def laid_out(self, images: np.ndarray) -> np.ndarray:
        """The picture of the images shown, ``[steps, members, H, W, 3]``."""
        blank = self.lines * self.columns - len(self.members)  # what a step's last line leaves over
        places = np.pad(images, ((0, 0), (0, blank), (0, 0), (0, 0), (0, 0)), constant_values=255)
        return mosaic(places.reshape(-1, *images.shape[2:]), self.columns, self.gap)


def _grid(steps: int, count: int, height: int, width: int) -> _Grid:
    """Places for as many images of as many steps as fit."""
    shown = spread(steps, _LINES)
    columns = min(count, _COLUMNS)
    lines = min(-(-count // columns), _LINES // len(shown))
    gap = (math.ceil(_GAP[0] * height), math.ceil(_GAP[1] * width))
    return _Grid(shown, spread(count, lines * columns), columns, lines, (height, width), gap)


def _name_step(axis: Any, grid: _Grid, row: int, step: int, step_sizes: np.ndarray) -> None:
    """Writes a step's number and step sizes, one an epoch, beside its first line of images."""
    listed = "η̃ " + ", ".join(f"{size:.3g}" for size in step_sizes)
    sizes = textwrap.fill(listed, 40, max_lines=_SIZE_LINES, placeholder=" …")
    left, top = grid.corner(row)
    place = (left - grid.gap[1] / 2, top + grid.size[0] / 2)
    axis.text(*place, f"step {step}\n{sizes}", fontsize=6, ha="right", va="center")


def _name_image(axis: Any, grid: _Grid, row: int, member: int, name: str, style: dict[str, Any]) -> None:
    """Writes a class's name above an image."""
    left, top = grid.corner(row, member)
    place = (left + grid.size[1] / 2, top - grid.gap[0] / 8)
    axis.text(*place, one_line(name, 12), fontsize=8, ha="center", va="bottom", **style)


def _frame_images(axis: Any, grid: _Grid) -> None:
    """Draws a line around each image."""
    height, width = grid.size
    corners = []
    for row in range(len(grid.steps)):
        for member in range(len(grid.members)):
            left, top = grid.corner(row, member)
            corners.append([(left, top), (left + width, top), (left + width, top + height), (left, top + height)])
    axis.add_collection(PolyCollection(corners, facecolors="none", edgecolors="black", linewidths=0.8, clip_on=False))


def spread(count: int, most: int) -> np.ndarray:
    """Which of ``count`` things to show where there is place for ``most``: all, or evenly from the first on."""
    shown = min(count, most)
    return np.arange(shown) * count // shown


def screen_range(images: np.ndarray) -> float:
    """How far black and white lie from mid-grey where these pixels are shown: two standard deviations of them all."""
    finite = images[np.isfinite(images)].astype(np.float64)
    return 2 * float(finite.std()) if finite.size else 0.0


def screen_values(images: np.ndarray) -> np.ndarray:
    """Normalised pixels ``[…, 1 or 3]`` as red, green and blue, ``[…, 3]`` uint8.

    Mid-grey is zero, and black and white lie two standard deviations of all pixels away from it. A pixel that is not a
    number is mid-grey, and an infinite one black or white; neither counts for the deviation.
    """
    whole = 2 * screen_range(images) + float(np.finfo(np.float32).tiny)
    grey_or_colour = np.nan_to_num(np.clip(0.5 + images.astype(np.float64) / whole, 0, 1), nan=0.5)
    return np.broadcast_to(np.rint(255 * grey_or_colour).astype(np.uint8), (*images.shape[:-1], 3))


def mosaic(images: np.ndarray, columns: int, gap: tuple[int, int]) -> np.ndarray:
    """Lays images out in lines, on white.

    Args:
      images: ``[N, H, W, 3]`` uint8; ``columns`` divides N.
      columns: images side by side.
      gap: white pixels between an image and those below and beside it.

    Returns:
      ``[N / columns · (H + gap) − gap, columns · (W + gap) − gap, 3]``.
    """
    padded = np.pad(images, ((0, 0), (0, gap[0]), (0, gap[1]), (0, 0)), constant_values=255)
    _, height, width, depth = padded.shape
    lines = padded.reshape(-1, columns, height, width, depth).swapaxes(1, 2)
    return lines.reshape(-1, columns * width, depth)[: -gap[0], : -gap[1]]
