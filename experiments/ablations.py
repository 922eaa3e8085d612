"""What each choice of shape is worth: accuracy against one setting at a time (paper, section 4.1, ablations).

    python -m experiments.ablations [PRESET] [--axes steps epochs] [--base.outer.steps N] …

distils once for every value of images per class and step, of distinct steps, of epochs, and of the spread of the
initial weights, the other settings as in the preset; and applies the preset's own images for fewer and more epochs than
they were made for. Each run has a folder under the work folder, the preset's own ``base``, and a finished one is not
repeated. Prints a table for each setting, and writes result.json, and one plot for each.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dd_jax.evaluation import Training
from dd_jax.files.atomic import write_json
from dd_jax.files.text import percent

from . import evaluate, random_init
from .command_line import command_line, run_as_script
from .distil import run as distil
from .recipe import Config as Base
from .recipe import settings_of
from .workdir import claimed, draw_missing

VALUES: dict[str, tuple[float, ...]] = {
    "images_per_class": (1, 2, 5),
    "steps": (1, 2, 5, 10),
    "epochs": (1, 2, 3, 5),
    "gain": (0.5, 1.0, 1.5),
    "test_epochs": (1, 2, 3, 4, 6, 9),
}
TITLES = {
    "images_per_class": "images per class and step",
    "steps": "S, distinct gradient steps",
    "epochs": "E, epochs",
    "gain": "gain of the initial weights",
    "test_epochs": "epochs at test time",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the ablations."""

    base: Base
    """The run that is varied."""
    axes: tuple[str, ...] = tuple(VALUES)
    """The settings to vary, of images_per_class, steps, epochs, gain and test_epochs."""
    workdir: Path | None = None
    """Where the runs live; runs/ablations/PRESET if not given."""


def _short(preset: str, steps: int, nets: int) -> Config:
    base = random_init.PRESETS[preset]
    weights = dataclasses.replace(base.weights, test_nets=nets)
    return Config(dataclasses.replace(base, weights=weights, outer=dataclasses.replace(base.outer, steps=steps)))


PRESETS = {"digits": _short("digits", 100, 50), "mnist": _short("mnist", 300, 50)}


def _varied(base: Base, axis: str, value: float) -> Base:
    if axis == "gain":
        return dataclasses.replace(base, weights=dataclasses.replace(base.weights, gain=value))
    return dataclasses.replace(base, distilled=dataclasses.replace(base.distilled, **{axis: int(value)}))


def run(preset: str, config: Config) -> dict[str, Any]:
    """Distils and evaluates for every value of every axis.

    Returns:
      The content of result.json.

    Raises:
      ValueError: an unknown axis, or settings that cannot be used.
    """
    for axis in config.axes:
        if axis not in VALUES:
            raise ValueError(f"axes: {axis!r} is unknown; use {', '.join(VALUES)}")
    workdir = config.workdir or Path("runs/ablations") / preset
    of_every_axis = {"experiment": "ablations", "preset": preset, "base": settings_of(config.base, workdir)}
    with claimed(workdir, of_every_axis) as finished:

        def accuracy(name: str, varied: Base) -> dict[str, Any]:
            result = distil("ablations", name, dataclasses.replace(varied, workdir=workdir / name, plan=False)) or {}
            return result["test_accuracy"]["after"]

        accuracy("base", config.base)  # every axis has it; where it is finished, this says if the data have changed
        tables: dict[str, list[dict[str, Any]]] = {} if finished is None else dict(finished["tables"])
        for axis in config.axes:
            if axis not in tables:
                tables[axis] = _table(axis, config.base, workdir, accuracy)
            print(f"\n| {TITLES[axis]} | accuracy |\n|---|---|")
            print("\n".join(f"| {row['value']:g} | {percent(row['accuracy'])} |" for row in tables[axis]), flush=True)
        result = {
            "experiment": "ablations",
            "preset": preset,
            "outer_steps": config.base.outer.steps,
            "tables": tables,
        }
        if finished is None or tables.keys() != finished["tables"].keys():
            write_json(workdir / "result.json", result)
        for axis, rows in tables.items():
            draw_missing(workdir / f"{axis}.png", functools.partial(draw, TITLES[axis], rows))
        return result


def _table(
    axis: str, base: Base, workdir: Path, accuracy: Callable[[str, Base], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of one axis: a run for each value, or the base's images applied for so many epochs."""
    values = VALUES[axis]
    if axis != "test_epochs":
        each = [(value, _varied(base, axis, value)) for value in values]
        return [{"value": v, "accuracy": accuracy("base" if b == base else f"{axis}_{v:g}", b)} for v, b in each]
    settings = evaluate.Config(
        nets=evaluate.nets_for(workdir / "base", base.weights.test_nets),
        training=Training(epochs=int(max(values))),
        at=tuple(int(e) * base.distilled.steps for e in values),
    )
    scores = evaluate.run(workdir / "base", settings)["scores"]
    return [{"value": v, "accuracy": score["accuracy"]} for v, score in zip(values, scores, strict=True)]


def draw(title: str, rows: Sequence[dict[str, Any]]) -> Figure:
    """Mean accuracy with its standard deviation over networks, against the values of one setting."""
    figure = Figure(figsize=(5, 3.2))
    axis = figure.subplots()
    mean, std = ([row["accuracy"][kind] for row in rows] for kind in ("mean", "std"))
    axis.errorbar([row["value"] for row in rows], mean, std, marker="o", capsize=3)
    axis.set(xlabel=title, ylabel="test accuracy", ylim=(0, 1))
    return figure


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv)
    run(preset, config)


if __name__ == "__main__":
    run_as_script(main)
