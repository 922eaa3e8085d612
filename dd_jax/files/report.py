"""Pictures of distilled images, loss curves, and a self-contained HTML page of a run."""

import base64
import html
import io
import itertools
import json
import math
import textwrap
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from dd_jax.base import Distilled

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: white; border-radius: 4px; }
table { border-collapse: collapse; }
td, th { padding: .3rem .9rem; border-bottom: 1px solid #8884; text-align: left; }
td { font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; background: #8881; padding: 1rem; border-radius: 4px; }
.note { opacity: .75; }
"""


_FONTS = (  # in turn, where they are installed: one has what another lacks
    *("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Segoe UI Emoji", "Segoe UI Symbol", "Noto Emoji", "Symbola", "Unifont"),
)


def text_style() -> dict[str, Any]:
    """Settings of a Matplotlib text that show a user's words as they are: ``$`` is no formula, and fonts fall back."""
    installed = set(font_manager.get_font_names())
    return {"parse_math": False, "family": [name for name in _FONTS if name in installed] or ["sans-serif"]}


def one_line(name: str, width: int) -> str:
    """A user's word on one line of at most ``width`` columns, an ellipsis where it is cut.

    White space is one space, other control characters are dropped, and bytes that were no text (a file's name may have
    some) are question marks. A Chinese, Japanese or Korean character, or an emoji, takes two columns, and an M or W one
    and a half.
    """
    words = "".join(c for c in _encodable(name) if c.isspace() or unicodedata.category(c) != "Cc").split()
    columns = [
        (c, 2 if unicodedata.east_asian_width(c) in "WF" else 1.5 if c in "MW@%mw" else 1) for c in " ".join(words)
    ]
    ends = list(itertools.accumulate(size for _, size in columns))
    if not ends or ends[-1] <= width:
        return "".join(c for c, _ in columns)
    return "".join(c for (c, _), end in zip(columns, ends, strict=True) if end < width) + "…"


def _encodable(text: str) -> str:
    """Text with a question mark for what UTF-8 has no code for, a lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8")


def to_png(figure: Figure) -> bytes:
    """Renders a figure, as PNG bytes without a date or version in it; a character that no font has is a box."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively")
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


_COLUMNS = 20  # images side by side at most
_LINES = 40  # of images, one below the other, at most
_GAP = (0.32, 0.22)  # below and beside an image, in heights and widths of one; a title fits below
_SIZE_LINES = 8  # of step sizes at most; the report's table has them all


def spread(count: int, most: int) -> np.ndarray:
    """Which of ``count`` things to show where there is place for ``most``: all, or evenly from the first on."""
    shown = min(count, most)
    return np.arange(shown) * count // shown


def screen_values(images: np.ndarray) -> np.ndarray:
    """Normalised pixels ``[…, 1 or 3]`` as red, green and blue, ``[…, 3]`` uint8.

    Mid-grey is zero, and black and white lie two standard deviations of all pixels away from it. A pixel that is not a
    number is mid-grey, and an infinite one black or white; neither counts for the deviation.
    """
    finite = images[np.isfinite(images)].astype(np.float64)
    whole = 4 * (finite.std() if finite.size else 0.0) + np.finfo(np.float32).tiny
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
    chosen = spread(steps, _LINES)
    columns = min(count, _COLUMNS)
    lines = min(-(-count // columns), _LINES // len(chosen))  # of a step
    members = spread(count, lines * columns)
    images = screen_values(np.asarray(distilled.images)[np.ix_(chosen, members)])
    labels = np.asarray(distilled.labels)[np.ix_(chosen, members)].argmax(-1)
    step_sizes, style = np.asarray(distilled.step_sizes), text_style()

    blank = lines * columns - len(members)  # what a step's last line leaves over
    gap = (math.ceil(_GAP[0] * height), math.ceil(_GAP[1] * width))
    down, across = height + gap[0], width + gap[1]
    places = np.pad(images, ((0, 0), (0, blank), (0, 0), (0, 0), (0, 0)), constant_values=255)
    picture = mosaic(places.reshape(-1, height, width, 3), columns, gap)
    figure = Figure(figsize=(0.95 * picture.shape[1] / across, 0.95 * picture.shape[0] / across))
    axis: Any = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.set_axis_off()
    axis.imshow(picture, interpolation="nearest")

    corners = []
    for row, s in enumerate(chosen):
        first = row * lines * down - 0.5  # the step's upper edge, in the picture's pixels
        sizes = textwrap.fill(
            "η̃ " + ", ".join(f"{size:.3g}" for size in step_sizes[s::steps]),
            40,
            max_lines=_SIZE_LINES,
            placeholder=" …",
        )
        axis.text(-0.5 - gap[1] / 2, first + height / 2, f"step {s}\n{sizes}", fontsize=6, ha="right", va="center")
        for m in range(len(members)):
            top, left = first + m // columns * down, m % columns * across - 0.5
            corners.append([(left, top), (left + width, top), (left + width, top + height), (left, top + height)])
            if row == 0 or labels[row, m] != labels[0, m]:
                title = one_line(class_names[int(labels[row, m])], 12)
                axis.text(left + width / 2, top - gap[0] / 8, title, fontsize=8, ha="center", va="bottom", **style)
    axis.add_collection(PolyCollection(corners, facecolors="none", edgecolors="black", linewidths=0.8, clip_on=False))
    if len(corners) < steps * count:
        note = f"{len(corners):,} of {steps * count:,} images shown"
        axis.text(-0.5, len(chosen) * lines * down - 0.5, note, fontsize=8, ha="left", va="top")
    return figure


def draw_curve(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """The outer loss by step (light: each step; dark: a running mean) and the validation accuracy.

    The loss has a logarithmic axis, on which values that are not positive have no place.
    """
    steps, loss = _series(metrics, "loss")
    width = max(1, len(loss) // 50)
    smooth = np.convolve(loss, np.ones(width) / width, mode="valid") if len(loss) else loss
    figure = Figure(figsize=(8, 3.4))
    axis = figure.subplots()
    axis.plot(steps, _positive(loss), color="tab:blue", alpha=0.25, linewidth=0.8)
    axis.plot(steps[width - 1 :], _positive(smooth), color="tab:blue", label="loss on real batches")
    scale = "log" if np.isfinite(_positive(loss)).any() else "linear"
    axis.set(xlabel="outer step", ylabel="loss (nats)", yscale=scale)
    right = axis.twinx()
    points = _series(metrics, "validation_accuracy")
    if points.size:
        right.plot(*points, color="tab:orange", marker=".", label="validation accuracy")
    right.set(ylabel="validation accuracy", ylim=(0, 1))
    figure.legend(loc="upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _series(metrics: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    """Steps and values of one metric, ``[2, N]``, from the lines that have it."""
    return np.array([(line["step"], line[name]) for line in metrics if name in line], float).reshape(-1, 2).T


def _positive(values: np.ndarray) -> np.ndarray:
    """The values that a logarithmic axis can show; the others are not numbers."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def percent(score: Mapping[str, float], *, known: bool = True) -> str:
    """``{mean, std, n}`` of fractions as "93.80 ± 0.40 % (n = 200)"; without a spread where n is 1.

    That n is 1 is told where that is not a matter of course: where the network is not ``known``.
    """
    if score["n"] == 1:
        return f"{100 * score['mean']:.2f} %" + ("" if known else " (n = 1)")
    return f"{100 * score['mean']:.2f} ± {100 * score['std']:.2f} % (n = {score['n']})"


def percent_reported(fraction: float | None, std: float | None = None) -> str:
    """A figure of the paper, with its spread where it gives one, or a dash where it has none."""
    if fraction is None:
        return "–"
    return f"{100 * fraction:.1f} %" if std is None else f"{100 * fraction:.1f} ± {100 * std:.1f} %"


def accuracy_title(result: Mapping[str, Any]) -> str:
    """What the accuracies of a ``result.json`` are: by the modified labels where some were modified."""
    return "test accuracy by the modified labels" if result["config"].get("relabel") else "test accuracy"


def budget(result: Mapping[str, Any]) -> str:
    """How many outer steps a run made in what time, and how many it began after."""
    earlier = result.get("earlier", {}).get("outer_steps")
    after = f", after {earlier} of the run it began from" if earlier else ""
    return f"{result['outer_steps']} outer steps in {result['wall_seconds']:.0f} s{after}"


def html_report(result: Mapping[str, Any], step_sizes: np.ndarray, distinct: int, pictures: Mapping[str, bytes]) -> str:
    """One self-contained page: accuracy, images, step sizes, curves and the exact configuration.

    Args:
      result: the content of ``result.json``.
      step_sizes: ``[E·S]``.
      distinct: S.
      pictures: PNG bytes by title.
    """

    def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><tr>{head}</tr>{body}</table>"

    test, known = result["test_accuracy"], result.get("networks", "known") == "known"
    reported = percent_reported(result["reported"], result.get("reported_std"))
    accuracy = table(
        (accuracy_title(result), "measured", "reported by the paper"),
        [
            ("before any step", percent(test["before"], known=known), percent_reported(result["reported_before"])),
            (f"after {len(step_sizes)} steps", percent(test["after"], known=known), reported),
        ],
    )
    epochs = [step_sizes[i : i + distinct] for i in range(0, len(step_sizes), distinct)]
    sizes = table(
        ("epoch", *(f"step {s}" for s in range(distinct))),
        [(str(e), *(f"{size:.4f}" for size in epoch)) for e, epoch in enumerate(epochs)],
    )
    images = "".join(
        f"<h2>{html.escape(title)}</h2><img alt='{html.escape(title)}' "
        f"src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
        for title, png in pictures.items()
    )
    title = html.escape(f"{result['experiment']} · {result['preset']}")
    versions = result["versions"]
    made = html.escape(
        f"{budget(result)} on {result['device']}, seed {result['seed']}, "
        f"dd_jax {versions['dd_jax']}, jax {versions['jax']}"
    )
    config = html.escape(json.dumps(result["config"], indent=2, ensure_ascii=False))
    return _encodable(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><p class='note'>{made}</p>{accuracy}{images}"
        f"<h2>Learned step sizes</h2>{sizes}<h2>Configuration</h2><pre>{config}</pre></html>\n"
    )
