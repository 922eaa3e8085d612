"""Plots as inline SVG: sharp at any size, coloured by the page's style, without a library."""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 360, 220  # of a plot; a phone shows it at about this size
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 36  # margins
_NEAR = 0.08  # ticks nearer than this share of an axis are thinned
_SIZE = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM


def _down(up: np.ndarray) -> np.ndarray:
    """How far below the upper edge a share of the upright axis lies, with some room beyond both of its ends."""
    return (0.96 - 0.92 * up) * _SIZE[1]


class Scale(NamedTuple):
    """An axis: where values lie on it, 0 … 1, and the values that are written beside it."""

    place: Callable[[np.ndarray], np.ndarray]
    ticks: Sequence[tuple[float, str]]  # value and text


class Axes(NamedTuple):
    """Both axes of a plot."""

    x: Scale
    y: Scale

    def points(self, xs, ys) -> np.ndarray:
        """Places in the plot's own units, ``[N, 2]``; not numbers where a value has none."""
        with np.errstate(all="ignore"):
            across, up = (s.place(np.asarray(v, float)) for s, v in ((self.x, xs), (self.y, ys)))
        across, up = np.broadcast_arrays(across, up)
        return np.stack([across * _SIZE[0], _down(up)], -1)


def linear(low: float, high: float, text: Callable[[float], str] | None = None) -> Scale:
    """An even axis from ``low`` to ``high``."""
    low, high = _apart(low, high)
    step = _round_step((high - low) / 5)
    ticks = step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return Scale(lambda v: (v - low) / (high - low), [(float(t), (text or number)(float(t))) for t in ticks])


def logarithmic(low: float, high: float) -> Scale:
    """A logarithmic axis between positive values; smaller ones have no place."""
    low, high = (low / 1.5, high * 1.5) if low == high else (low, high)
    place = _by(lambda v: np.log10(np.where(v > 0, v, np.nan)), low, high)
    fine = (1, 2, 5) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return Scale(place, _thinned(place, [m * 10.0**d for d in decades for m in fine], low, high, number))


def of_accuracies(values: Sequence[float]) -> Scale:
    """An axis for accuracies, fractions: of the logarithm of the error where they come near 1, else an even one.

    So the way from 95 to 97 % is seen beside the one from 10 to 95 %.
    """
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = _apart(min(known), max(known), least=0.02)
    if high < 0.9:
        return linear(max(0.0, low), min(1.0, high), percents)
    least = max(1 - high, 1e-4) * 0.8  # the smallest error that has a place
    place = _by(lambda v: -np.log10(np.maximum(1 - v, least)), low, 1 - least)
    ticks = [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999]
    return Scale(place, _thinned(place, ticks, low, 1 - least, percents))


def number(value: float) -> str:
    """A number beside an axis.

    >>> number(2000.0), number(0.05), number(-0.0)
    ('2,000', '0.05', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"


def percents(value: float) -> str:
    """A fraction beside an axis.

    >>> percents(0.955), percents(0.1)
    ('95.5 %', '10 %')
    """
    return f"{round(100 * value, 6):g} %"


def _apart(low: float, high: float, least: float = 0.0) -> tuple[float, float]:
    """A range that is not empty."""
    size = max(high - low, least, 1e-9, 1e-6 * abs(low))
    return (low, high) if high - low >= size else ((low + high - size) / 2, (low + high + size) / 2)


def _round_step(least: float) -> float:
    size = 10.0 ** math.floor(math.log10(least))
    return next(m * size for m in (1, 2, 5, 10) if m * size >= least * 0.999)


def _by(f: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    bottom, top = f(np.asarray(low, float)), f(np.asarray(high, float))
    return lambda v: (f(np.asarray(v, float)) - bottom) / (top - bottom)


def _thinned(place, values, low, high, text) -> list[tuple[float, str]]:
    """Those of the values that lie in a range, none too near the one before."""
    kept: list[float] = []
    for value in values:
        near = bool(kept) and place(value) - place(kept[-1]) < _NEAR
        if low * (1 - 1e-9) - 1e-12 <= value <= high * (1 + 1e-9) and not near:
            kept.append(value)
    return [(v, text(v)) for v in kept]


def line(axes: Axes, xs, ys, series: int = 0) -> str:
    """A line through points; it breaks where a value is not a number."""
    return f"<path class='line s{series}' d='{_path(axes.points(xs, ys))}'/>"


def band(axes: Axes, xs, low, high, series: int = 0) -> str:
    """The area between two lines, where both have a place."""
    lower, upper = axes.points(xs, low), axes.points(xs, high)
    whole = np.isfinite(lower).all(-1) & np.isfinite(upper).all(-1)
    if not whole.any():
        return ""
    around = np.concatenate([lower[whole], upper[whole][::-1]])
    return f"<path class='band s{series}' d='{_path(around)}z'/>"


def dots(axes: Axes, xs, ys, titles: Sequence[str], series: int = 0) -> str:
    """A dot for each point, which says its title when pointed at."""
    drawn = [
        f"<circle class='dot s{series}' cx='{x:.1f}' cy='{y:.1f}' r='3'><title>{html.escape(title)}</title></circle>"
        for (x, y), title in zip(axes.points(xs, ys), titles, strict=True)
        if np.isfinite([x, y]).all()
    ]
    return "".join(drawn)


def _path(points: np.ndarray) -> str:
    pieces, broken = [], True
    for x, y in np.clip(points, -1e4, 1e4):
        if not (np.isfinite(x) and np.isfinite(y)):
            broken = True
            continue
        pieces.append(f"{'M' if broken else 'L'}{x:.1f} {y:.1f}")
        broken = False
    return "".join(pieces)


def chart(axes: Axes, marks: Sequence[str], *, says: str, x_label: str, y_label: str) -> str:
    """A plot.

    Args:
      axes: its axes.
      marks: what is drawn, from :func:`line`, :func:`band` and :func:`dots`; cut at the edges.
      says: in words, for those who do not see it.
      x_label, y_label: what the axes are.
    """
    (width, height), parts = _SIZE, []
    for value, text in axes.x.ticks:
        x = _LEFT + float(axes.x.place(np.asarray(value))) * width
        parts.append(f"<text x='{x:.1f}' y='{_TOP + height + 14}' text-anchor='middle'>{html.escape(text)}</text>")
    for value, text in axes.y.ticks:
        y = _TOP + float(_down(axes.y.place(np.asarray(value))))
        parts.append(f"<path class='grid' d='M{_LEFT} {y:.1f}h{width}'/>")
        parts.append(f"<text x='{_LEFT - 5}' y='{y + 3.5:.1f}' text-anchor='end'>{html.escape(text)}</text>")
    inner = f"<svg x='{_LEFT}' y='{_TOP}' width='{width}' height='{height}'>{''.join(marks)}</svg>"
    edge = f"<path class='edge' d='M{_LEFT} {_TOP}v{height}h{width}'/>"
    below = f"<text x='{_LEFT + width / 2}' y='{HEIGHT - 6}' text-anchor='middle'>{html.escape(x_label)}</text>"
    return (
        f"<figure class='plot'><figcaption>{html.escape(y_label)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{html.escape(says)}'>"
        f"{''.join(parts)}{edge}{inner}{below}</svg></figure>"
    )
