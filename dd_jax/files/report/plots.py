"""The plots of a page: curves of a run or of several, step sizes, accuracy by class, the confusion matrix."""

import html
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dd_jax.files.report.svg import Axes, Scale, band, chart, dots, line, linear, logarithmic, number, of_accuracies
from dd_jax.files.scored import Scored
from dd_jax.files.text import one_line

COLOURS = 6  # series told apart by colour
_BINS = 120  # of a loss curve
_CELLS = 20  # classes of a matrix with a number in each cell
_NAMED = 500  # cells of a larger matrix that are named when pointed at
_SHADES = 10  # of its cells
_CLASSES = 100  # listed with a bar

Series = np.ndarray  # [2, N]: where, and what


def loss_chart(runs: Mapping[str, Series]) -> str:
    """The loss on real batches: the median over neighbouring steps; of a single run, also where four of five lie."""
    binned = {name: _binned(*series) for name, series in runs.items()}
    if not any(bins.size for bins in binned.values()):
        return ""
    values = np.concatenate([bins[1:] if len(binned) == 1 else bins[2:3] for bins in binned.values()], axis=None)
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    y = logarithmic(low, high) if low > 0 and high / low > 4 else linear(low, high)
    axes, marks = Axes(_steps_axis([bins[0] for bins in binned.values()]), y), []
    for i, (where, least, middle, most) in enumerate(binned.values()):
        marks += [band(axes, where, least, most, i)] if len(binned) == 1 else []
        marks.append(line(axes, where, middle, i % COLOURS))
    says = "Loss by outer step: " + "; ".join(
        f"{name}from {bins[2][0]:.3g} to {bins[2][-1]:.3g}" for name, bins in _named(binned) if bins.size
    )
    return chart(axes, marks, says=says, x_label="outer step", y_label="Loss on real batches (nats)")


def validation_chart(runs: Mapping[str, Series]) -> str:
    """The accuracy on the validation split during training."""
    return _accuracy_chart(
        runs, "outer step", "Validation accuracy during training", lambda x, y: f"outer step {x:,.0f}: {100 * y:.1f} %"
    )


def by_step_chart(runs: Mapping[str, Series], split: str = "validation") -> str:
    """The accuracy after each gradient step on the distilled images."""
    return _accuracy_chart(
        runs,
        "gradient steps on the distilled images",
        f"Accuracy after each gradient step ({split} images)",
        lambda x, y: f"after {x:.0f} steps: {100 * y:.1f} %",
    )


def _accuracy_chart(runs: Mapping[str, Series], x_label: str, y_label: str, text: Callable[[float, float], str]) -> str:
    runs = {name: series[:, np.isfinite(series[1])] for name, series in runs.items()}
    if not any(series.size for series in runs.values()):
        return ""
    y = of_accuracies(np.concatenate([series[1] for series in runs.values()]).tolist())
    axes, marks = Axes(_steps_axis([series[0] for series in runs.values()]), y), []
    for i, (xs, ys) in enumerate(runs.values()):
        marks += [line(axes, xs, ys, i % COLOURS)]
        marks += [dots(axes, xs, ys, [text(*point) for point in zip(xs, ys, strict=True)], i % COLOURS)]
    says = f"{y_label}: " + "; ".join(
        f"{name}from {100 * ys[0]:.1f} % to {100 * ys[-1]:.1f} %" for name, (_, ys) in _named(runs) if ys.size
    )
    return chart(axes, marks, says=says, x_label=x_label, y_label=y_label)


def step_sizes_chart(runs: Mapping[str, np.ndarray], distinct: int | None = None) -> str:
    """The learned step sizes ``[T]`` by gradient step; the epochs of a single run are told apart."""
    sizes = {name: np.asarray(values, float) for name, values in runs.items()}
    shown = np.concatenate(list(sizes.values()))
    shown = shown[np.isfinite(shown)]
    if not shown.size:
        return ""
    x = _steps_axis([np.arange(len(values)) for values in sizes.values()])
    axes, marks = Axes(x, linear(0.0, float(shown.max()) or 1.0)), []
    for i, values in enumerate(sizes.values()):
        where, epoch = np.arange(len(values)), len(values) if distinct in (None, 1) else distinct
        for begin in range(0, len(values), epoch):
            colour = (i + begin // epoch) % COLOURS
            part = slice(begin, begin + epoch)
            titles = [f"step {t}: {values[t]:.4g}" for t in where[part]]
            marks += [
                line(axes, where[part], values[part], colour),
                dots(axes, where[part], values[part], titles, colour),
            ]
    says = "Learned step sizes: " + "; ".join(
        f"{name}between {np.nanmin(values):.3g} and {np.nanmax(values):.3g}" for name, values in _named(sizes)
    )
    return chart(axes, marks, says=says, x_label="gradient step", y_label="Learned step sizes η̃")


def classes_list(scored: Scored, class_names: Sequence[str]) -> str:
    """A bar for each class, its accuracy after the steps, with a mark at that before; of many classes, the worst."""
    before, after = scored.by_class
    tested = np.flatnonzero(scored.examples > 0)
    if len(tested) > _CLASSES:
        tested = np.sort(tested[np.argsort(after[tested], kind="stable")[:_CLASSES]])
    rows = []
    for c in map(int, tested):
        name = html.escape(class_names[c])
        says = f"{name}: {100 * before[c]:.1f} % before, {100 * after[c]:.1f} % after"
        rows.append(
            f"<li title='{says}'><span class='name'>{name}</span>"
            f"<svg viewBox='0 0 100 10' preserveAspectRatio='none' role='img' aria-label='{says}'>"
            f"<rect class='bar back' y='1' width='100' height='8'/>"
            f"<rect class='bar after' y='1' width='{100 * after[c]:.1f}' height='8'/>"
            f"<rect class='bar before' x='{max(0.0, 100 * before[c] - 0.75):.1f}' width='1.5' height='10'/></svg>"
            f"<span class='value'>{100 * after[c]:.1f} %</span></li>"
        )
    return f"<ul class='classes'>{''.join(rows)}</ul>"


def confusion_chart(confusion: np.ndarray, class_names: Sequence[str]) -> str:
    """The confusion matrix ``[C, C]`` as shares of each true class, a row for each."""
    count = len(confusion)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shown = [one_line(name, 12) for name in class_names]
    cell, side = (30, 14 + 6 * max(map(len, shown))) if count <= _CELLS else (360 / count, 2)
    if count <= _CELLS:
        parts = [_numbered_cell(shares, class_names, i, j, cell, side) for i, j in np.argwhere(shares >= 0.0005)]
        for c, name in enumerate(shown):
            place, text = side + (c + 0.5) * cell, html.escape(name)
            parts.append(f"<text x='{side - 6}' y='{place + 3.5:.4g}' text-anchor='end'>{text}</text>")
            turned = f"transform='translate({place + 3.5:.4g} {side - 6}) rotate(-60)'"
            parts.append(f"<text {turned}>{text}</text>")
    else:
        scaled = f"transform='translate({side} {side}) scale({cell:.6g})'"
        parts = [f"<g {scaled}>{_shades(shares)}{_names_of_cells(shares, class_names)}</g>"]
    size = side + count * cell
    parts.append(f"<path class='edge' d='M{side} {side}h{size - side:.4g}v{size - side:.4g}H{side}z'/>")
    worst = [f"{true} taken for {answer}: {share}" for true, answer, share in mistakes(confusion, class_names, 5)]
    says = f"Confusion matrix of {count} classes. {'; '.join(worst)}"
    wide = size + (40 if count <= _CELLS else 2)  # for the turned names
    return (
        f"<figure class='matrix'><svg viewBox='0 0 {wide:.4g} {size + 2:.4g}' role='img' "
        f"aria-label='{html.escape(says)}'>{''.join(parts)}</svg></figure>"
    )


def _numbered_cell(
    shares: np.ndarray, class_names: Sequence[str], true: int, answer: int, cell: float, side: float
) -> str:
    """A cell with its number in it, and its name for those who point at it."""
    share, x, y = shares[true, answer], side + answer * cell, side + true * cell
    kind, middle = "cell" if true == answer else "cell wrong", f"x='{x + cell / 2:.4g}' y='{y + cell / 2 + 3.5:.4g}'"
    return (
        f"<rect class='{kind}' x='{x:.4g}' y='{y:.4g}' width='{cell:.4g}' height='{cell:.4g}' "
        f"fill-opacity='{0.1 + 0.75 * share**0.5:.2f}'><title>{_named_cell(shares, class_names, true, answer)}</title>"
        f"</rect><text class='strong' pointer-events='none' {middle} text-anchor='middle'>{_share(share)}</text>"
    )


def _named_cell(shares: np.ndarray, class_names: Sequence[str], true: int, answer: int) -> str:
    return html.escape(f"{class_names[true]} taken for {class_names[answer]}: {100 * shares[true, answer]:.1f} %")


def _shades(shares: np.ndarray) -> str:
    """All cells, of size 1, one path for each shade: a page has no place for ten thousand elements."""
    shade = np.where(shares >= 0.0005, np.rint(_SHADES * shares**0.5), -1)
    right, paths = np.eye(len(shares), dtype=bool), []
    for kind, where in (("cell", right), ("cell wrong", ~right)):
        for level in range(_SHADES + 1):
            cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(where & (shade == level)))
            opacity = 0.1 + 0.75 * level / _SHADES
            paths.append(f"<path class='{kind}' fill-opacity='{opacity:.2f}' d='{cells}'/>" if cells else "")
    return "".join(paths)


def _names_of_cells(shares: np.ndarray, class_names: Sequence[str]) -> str:
    """The names of the cells with the largest shares, for those who point at them."""
    largest = np.argsort(-shares, axis=None, kind="stable")[:_NAMED]
    cells = [(i, j) for i, j in zip(*np.unravel_index(largest, shares.shape), strict=True) if shares[i, j] >= 0.0005]
    named = "".join(
        f"<rect x='{j}' y='{i}' width='1' height='1'><title>{_named_cell(shares, class_names, i, j)}</title></rect>"
        for i, j in cells
    )
    return f"<g fill='none' pointer-events='all'>{named}</g>"


def mistakes(confusion: np.ndarray, class_names: Sequence[str], most: int) -> list[tuple[str, str, str]]:
    """The most frequent mistakes: the true class, the answer, and the share of that class."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    wrong = np.where(np.eye(len(confusion), dtype=bool), 0, shares)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(i), len(wrong)) for i in order]
    return [(class_names[t], class_names[a], f"{100 * wrong[t, a]:.1f} %") for t, a in pairs if wrong[t, a] > 0]


def _share(share: float) -> str:
    """A share in a small cell, in per cent."""
    return f"{100 * share:.0f}" if share >= 0.005 else "·"


def _steps_axis(steps: Sequence[np.ndarray]) -> Scale:
    every = np.concatenate(list(steps))
    low, high = float(every.min()), float(every.max())
    margin = 0.02 * (high - low or 1)
    scale = linear(low - margin, high + margin)
    return scale._replace(ticks=[(v, number(v)) for v, _ in scale.ticks if v == round(v)])


def _named(runs: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Names as they stand before what is said of each; none where there is one alone."""
    return [("" if len(runs) == 1 else f"{name} ", values) for name, values in runs.items()]


def _binned(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Steps, and the 10th, 50th and 90th percentiles of the values, ``[4, bins]``, over neighbouring steps."""
    whole = np.isfinite(values)
    steps, values = steps[whole], values[whole]
    if not steps.size:
        return np.full((4, 0), np.nan)
    parts = np.array_split(np.arange(len(steps)), min(_BINS, max(1, len(steps) // 4)))
    return np.array([[steps[p].mean(), *np.percentile(values[p], [10, 50, 90])] for p in parts]).T
