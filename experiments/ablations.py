"""What each choice of shape is worth: accuracy against one setting at a time (paper, section 4.1, ablations).

    python -m experiments.ablations [PRESET] [--axes steps epochs] [--base.outer.steps N] …

distils once for every value of a setting, the other settings as in the preset; and applies the preset's own images for
fewer and more epochs than they were made for. Each run has a folder under the work folder, the preset's own ``base``,
and a finished one is not repeated, nor is one that two settings share. Prints a table for each setting, and writes
result.json, and one plot for each. The paper's figures are

    --axes steps_two_epochs                        accuracy against GD steps, two epochs
    --axes epochs                                  accuracy against epochs, 10 steps of 10 images
    --axes steps_two_epochs one_step_two_epochs    one step against several, for the same number of images
    --axes test_epochs_fixed_rate                  more epochs at test time than trained for, with a fixed rate

for the presets ``mnist`` and ``cifar10``; the values on their axes are ours. Ours besides are ``images_per_class``,
``steps`` at the preset's epochs, ``gain`` of the initial weights, and ``test_epochs`` with the learned step sizes. The
fixed rate is the one that does best on validation data after as many epochs as the images were made for.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dd_jax.baselines import best_step_size
from dd_jax.evaluation import Training
from dd_jax.files.atomic import write_json
from dd_jax.files.text import percent

from . import evaluate, random_init
from .baselines import STEP_SIZES
from .command_line import command_line, run_as_script
from .distil import run as distil
from .recipe import Config as Base
from .recipe import settings_of
from .workdir import claimed, draw_missing

VALUES: dict[str, tuple[float, ...]] = {
    "images_per_class": (1, 2, 5),
    "steps": (1, 2, 5, 10),
    "steps_two_epochs": (1, 2, 5, 10, 20),
    "one_step_two_epochs": (1, 2, 5, 10, 20),  # as many images as in the line above
    "epochs": (1, 2, 3, 5),
    "gain": (0.5, 1.0, 1.5),
    "test_epochs": (1, 2, 3, 4, 6, 9),
    "test_epochs_fixed_rate": (1, 2, 3, 4, 6, 9),
}
TITLES = {
    "images_per_class": "images per class and step",
    "steps": "S, distinct gradient steps",
    "steps_two_epochs": "S, distinct gradient steps of one image per class, two epochs",
    "one_step_two_epochs": "images per class in one step, two epochs",
    "epochs": "E, epochs",
    "gain": "gain of the initial weights",
    "test_epochs": "epochs at test time",
    "test_epochs_fixed_rate": "epochs at test time, with a fixed rate",
}
SAME_IMAGES = {"steps_two_epochs": "one image per class in each step", "one_step_two_epochs": "all images in one step"}
"""Axes of one more figure, against the images per class in all steps together."""
_AT_TEST = ("test_epochs", "test_epochs_fixed_rate")  # for these nothing is distilled
PICTURES = (*VALUES, "same_images")
"""Names of the plots."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the ablations."""

    base: Base
    """The run that is varied."""
    axes: tuple[str, ...] = tuple(VALUES)
    """The settings to vary; see above."""
    workdir: Path | None = None
    """Where the runs live; runs/ablations/PRESET if not given."""


def _short(preset: str, steps: int, nets: int) -> Config:
    base = random_init.PRESETS[preset]
    weights = dataclasses.replace(base.weights, test_nets=nets)
    return Config(dataclasses.replace(base, weights=weights, outer=dataclasses.replace(base.outer, steps=steps)))


PRESETS = {
    "digits": _short("digits", 100, 50),
    "mnist": _short("mnist", 300, 50),
    "cifar10": _short("cifar10", 200, 50),
}


def _varied(base: Base, axis: str, value: float) -> Base:
    if axis == "gain":
        return dataclasses.replace(base, weights=dataclasses.replace(base.weights, gain=value))
    shape: dict[str, Any] = {
        "steps_two_epochs": {"steps": int(value), "epochs": 2, "images_per_class": 1},
        "one_step_two_epochs": {"steps": 1, "epochs": 2, "images_per_class": int(value)},
    }.get(axis, {axis: int(value)})
    return dataclasses.replace(base, distilled=dataclasses.replace(base.distilled, **shape))


def _runs(base: Base, axis: str) -> list[tuple[str, Base]]:
    """The folder and the settings of the run for each value of an axis; the first of several axes names a run."""
    folders, each = {base: "base"}, {}
    for some, values in VALUES.items():
        if some in _AT_TEST:
            continue
        each[some] = [_varied(base, some, value) for value in values]
        for value, varied in zip(values, each[some], strict=True):
            folders.setdefault(varied, f"{some}_{value:g}")
    return [(folders[varied], varied) for varied in each[axis]]


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
            print(f"\n| {title_of(axis, tables[axis])} | accuracy |\n|---|---|")
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
            draw_missing(workdir / f"{axis}.png", functools.partial(draw, title_of(axis, rows), {"": rows}))
        if tables.keys() >= SAME_IMAGES.keys():
            curves = {label: tables[axis] for axis, label in SAME_IMAGES.items()}
            title = "images per class in all steps together, two epochs"
            draw_missing(workdir / "same_images.png", functools.partial(draw, title, curves))
        return result


def _table(
    axis: str, base: Base, workdir: Path, accuracy: Callable[[str, Base], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of one axis: a run for each value, or the base's images applied for so many epochs."""
    values = VALUES[axis]
    if axis not in _AT_TEST:
        runs = zip(values, _runs(base, axis), strict=True)
        return [{"value": value, "accuracy": accuracy(*run)} for value, run in runs]
    training, facts = Training(epochs=int(max(values))), {}
    if axis == "test_epochs_fixed_rate":
        facts = {"rate": _fixed_rate(base, workdir)}
        training = dataclasses.replace(training, optimizer="sgd", learning_rate=facts["rate"])
    settings = evaluate.Config(
        nets=evaluate.nets_for(workdir / "base", base.weights.test_nets),
        training=training,
        at=tuple(int(e) * base.distilled.steps for e in values),
    )
    scores = evaluate.run(workdir / "base", settings)["scores"]
    return [{"value": v, "accuracy": score["accuracy"], **facts} for v, score in zip(values, scores, strict=True)]


def _fixed_rate(base: Base, workdir: Path) -> float:
    """The step size of the baselines' grid that does best on validation, after as many epochs as trained for."""
    nets, epochs = evaluate.nets_for(workdir / "base", base.weights.validation_nets), base.distilled.epochs

    def by_validation(rate: float) -> float:
        training, at = Training("sgd", rate, epochs=epochs), (epochs * base.distilled.steps,)
        settings = evaluate.Config(nets=nets, training=training, at=at, split="validation")
        return evaluate.run(workdir / "base", settings)["scores"][0]["accuracy"]["mean"]

    rate = best_step_size(STEP_SIZES, by_validation)
    print(f"the fixed rate is {rate:g}", flush=True)
    return rate


def title_of(axis: str, rows: Sequence[dict[str, Any]]) -> str:
    """What an axis is called, with the fixed rate where its rows have one."""
    return TITLES[axis] + (f" of {rows[0]['rate']:g}" if "rate" in rows[0] else "")


def draw(title: str, curves: Mapping[str, Sequence[dict[str, Any]]]) -> Figure:
    """Mean accuracy with its standard deviation over networks, against the values of one setting.

    Args:
      title: of the values.
      curves: the rows of a table for each line, by its label.
    """
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.subplots()
    for label, rows in curves.items():
        mean, std = ([row["accuracy"][kind] for row in rows] for kind in ("mean", "std"))
        axis.errorbar([row["value"] for row in rows], mean, std, marker="o", capsize=3, label=label)
    axis.set(xlabel=title, ylabel="test accuracy", ylim=(0, 1))
    if len(curves) > 1:
        axis.legend()  # where it hides no line
    return figure


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv)
    run(preset, config)


if __name__ == "__main__":
    run_as_script(main)
