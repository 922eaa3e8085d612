"""Pictures of distilled images, loss curves, and a self-contained HTML page of a run."""

import base64
import html
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dd_jax.unroll import DistilledData

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


def to_png(figure: Figure) -> bytes:
    """Renders a figure, as PNG bytes without a date or version in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


_COLUMNS = 20  # images side by side at most


def draw_images(distilled: DistilledData, class_names: Sequence[str]) -> Figure:
    """The distilled images: a row per gradient step, or several of 20, each image titled by its most likely class.

    Learned pixels go far beyond a screen's range, below black and above white; so mid-grey is zero in normalised units,
    and black and white lie two standard deviations of the pixels shown away from it.

    Args:
      distilled: images ``[S, M, H, W, D]``, D = 1 or 3.
      class_names: C names.
    """
    images = np.asarray(distilled.images)
    images = np.clip(0.5 + images / (4 * images.std() + np.finfo(np.float32).tiny), 0, 1)
    labels = np.asarray(distilled.labels).argmax(-1)
    step_sizes = np.asarray(distilled.step_sizes)
    steps, count = images.shape[:2]
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)  # of a step
    figure = Figure(figsize=(1 + 0.95 * columns, 0.45 + 1.05 * steps * lines))
    axes: Any = figure.subplots(steps * lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()  # what a step's last line leaves over
    for s in range(steps):
        for m in range(count):
            line, column = s * lines + m // columns, m % columns
            axis = axes[line, column]
            axis.set_axis_on()
            axis.imshow(images[s, m].squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if s == 0 or labels[s, m] != labels[0, m]:
                axis.set_title(class_names[labels[s, m]][:12], fontsize=8)
        sizes = ", ".join(f"{size:.3g}" for size in step_sizes[s::steps])
        label = f"step {s}\n{textwrap.fill(f'η̃ {sizes}', 40)}"
        axes[s * lines, 0].set_ylabel(label, fontsize=6, rotation=0, ha="right", va="center")
    return figure


def draw_curve(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """The outer loss by step (light: each step; dark: a running mean) and the validation accuracy."""
    steps, loss = np.array([(line["step"], line["loss"]) for line in metrics if "loss" in line]).T
    width = max(1, len(loss) // 50)
    smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
    figure = Figure(figsize=(8, 3.4))
    axis = figure.subplots()
    axis.plot(steps, loss, color="tab:blue", alpha=0.25, linewidth=0.8)
    axis.plot(steps[width - 1 :], smooth, color="tab:blue", label="loss on real batches")
    axis.set(xlabel="outer step", ylabel="loss (nats)", yscale="log")
    right = axis.twinx()
    points = [(line["step"], line["validation_accuracy"]) for line in metrics if "validation_accuracy" in line]
    if points:
        right.plot(*np.array(points).T, color="tab:orange", marker=".", label="validation accuracy")
    right.set(ylabel="validation accuracy", ylim=(0, 1))
    figure.legend(loc="upper center", ncols=2, frameon=False, fontsize=8)
    return figure


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
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><p class='note'>{made}</p>{accuracy}{images}"
        f"<h2>Learned step sizes</h2>{sizes}<h2>Configuration</h2><pre>{config}</pre></html>\n"
    )
