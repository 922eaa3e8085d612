"""Malicious poisoning: images that make trained networks take one class for another (paper, section 4.2, figure 5).

    python -m experiments.pretrain digits
    python -m experiments.attack [PRESET] [--attacked K] [--target T] [--weights.bank DIR] …

The objective is ℓ_{K→T}: real examples of class K count as class T, and so do the distilled images made for K. After
one gradient step on the images a trained network is to call K "T" and to stay right about the other classes. The paper
shows its results as figures only. What this code measured is in docs/results.md. Writes what ``experiments.fixed_init``
writes, with accuracies by the modified labels. Its attack.json has the share of K that became T, the accuracy on the
other classes together and on each, before and after the step, beside real images under the same relabelling, each set
with the step size that is best by the modified labels on validation data; attack.png shows both by step size.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from dd_jax.base import Distilled
from dd_jax.baselines import Layout, best_step_size, random_real, with_step_size
from dd_jax.checks import positive, require
from dd_jax.data.dataset import Split
from dd_jax.evaluation import confusion
from dd_jax.files.atomic import write_json
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.text import percent
from dd_jax.outer import OuterRecipe

from .command_line import command_line, run_as_script
from .distil import run as distil
from .distilled import DistilledSetting
from .nets import HeldOut, dealt
from .problem import Problem, assemble
from .recipe import Config as Base
from .recipe import workdir_of
from .record import print_result
from .say import say
from .scoring import mean_and_std, relabelled_data, scorer
from .settings import Weights
from .streams import streams
from .workdir import draw_missing, locked

STEP_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of an attack."""

    base: Annotated[Base, tyro.conf.arg(name="")]
    """The distillation."""
    attacked: int = 0
    """K, the class to be forgotten."""
    target: int = 1
    """T, the class it is to be taken for."""
    attacked_weight: float = 4.0
    """How many real examples one of class K stands for in the objective; no accuracy is weighted."""
    sets: int = 20
    """Random sets of real images to compare with."""


_RECIPE = OuterRecipe(steps=600, learning_rate=0.02, weight_decay=0.3, b1=0.9, clip=2.0)


def _attack(
    dataset: str,
    network: str,
    bank: str,
    nets: int | None,
    *,
    jitter: float = 0.0,
    attacked_weight: float = 4.0,
    sets: int = 20,
    **settings: Any,
) -> Config:
    base = Base(
        dataset,
        network,
        weights=Weights(bank=Path("runs/pretrain") / bank, nets=nets, jitter=jitter, validation_nets=8),
        distilled=DistilledSetting(steps=1, epochs=1, images_per_class=10, step_size=0.02),
        outer=_RECIPE,
        batch_size=256,
    )
    return Config(dataclasses.replace(base, **settings), attacked_weight=attacked_weight, sets=sets)


PRESETS = {
    "digits": _attack("digits", "lenet", "digits", 4, batch_size=128, validation_fraction=0.1),
    "mnist": _attack(
        "mnist",
        "lenet",
        "mnist_short",
        16,
        jitter=0.3,
        attacked_weight=24.0,
        outer=dataclasses.replace(_RECIPE, steps=1000),
    ),
    "mnist_fixed": _attack("mnist", "lenet", "mnist_short", None),
    "cifar10": _attack("cifar10", "alexcifarnet", "cifar10_short", 2, sets=5, augment=True),
    "cifar10_fixed": _attack("cifar10", "alexcifarnet", "cifar10_short", None, sets=5, augment=True),
}


def measures(confusions: np.ndarray, attacked: int, target: int) -> dict[str, np.ndarray]:
    """What an attack did, from confusion matrices.

    Args:
      confusions: ``[..., C, C]``, a row for each true class (see :func:`dd_jax.evaluation.confusion`).
      attacked, target: K and T.

    Returns:
      ``attacked_to_target``: the share of class K that is taken for T; ``others``: accuracy on all other classes
      together; ``modified``: accuracy by the modified labels; each ``[...]``. ``by_class``: the accuracy of each class
      by its true label, ``[..., C]``.
    """
    counts = confusions.sum(-1)
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    others = np.arange(confusions.shape[-1]) != attacked
    turned = confusions[..., attacked, target]
    return {
        "attacked_to_target": turned / np.maximum(counts[..., attacked], 1),
        "others": right[..., others].sum(-1) / counts[..., others].sum(-1),
        "modified": (right[..., others].sum(-1) + turned) / counts.sum(-1),
        "by_class": right / np.maximum(counts, 1),
    }


def run(preset: str, config: Config) -> dict[str, Any] | None:
    """Distils the attack, and measures it beside random real images.

    Returns:
      The content of attack.json, or None with ``config.base.plan``.

    Raises:
      ValueError: settings or data that cannot be used, K = T or a class out of range, or a bank that does not fit.
      experiments.training.RunError: the loss was not finite.
    """
    base, attacked, target = config.base, config.attacked, config.target
    require(attacked != target, "target", target, "another class than --attacked")
    positive("attacked_weight", config.attacked_weight)
    require(config.sets >= 1, "sets", config.sets, "1 or more")
    if base.weights.bank is None:
        raise ValueError("weights.bank: None is not accepted; use the work folder of experiments.pretrain")
    relabel = {attacked: target}
    result = distil("attack", preset, base, relabel=relabel, attacked_weight=config.attacked_weight)
    if result is None:
        return None
    workdir = workdir_of("attack", preset, base)
    print_result(result, workdir)
    with locked(workdir):
        if (workdir / "attack.json").is_file():
            report = json.loads((workdir / "attack.json").read_text())
            held = report.get("sets", config.sets)
            require(config.sets == held, "sets", config.sets, f"{held}, as {workdir / 'attack.json'} has")
            draw_missing(workdir / "attack.png", lambda: _draw(report))
            return report
        problem = assemble(base)
        unchanged = all(result["config"][name] == held for name, held in problem.identity.items())
        require(unchanged, "weights.bank", base.weights.bank, "a bank, and data, that do not change during the run")
        report = _measure(config, problem, load_distilled(workdir / "distilled.npz").distilled)
        write_json(workdir / "attack.json", report)
        draw_missing(workdir / "attack.png", lambda: _draw(report))
        return report


def _draw(report: dict[str, Any]) -> Figure:
    used = {"distilled": report["learned_step_size"], "random real": report["random_real"]["median_step_size"]}
    return draw(report["by_step_size"], used)


def _measure(config: Config, problem: Problem, distilled: Distilled) -> dict[str, Any]:
    """The content of attack.json."""
    dataset, network, nets, _ = problem
    base, attacked, target = config.base, config.attacked, config.target
    steps = len(distilled.step_sizes)
    count_before, count_after = (scorer(dataset, network, at=(t,), measure=confusion) for t in (0, steps))
    say("measuring the attack, and real images beside it")

    def measured(data: Distilled, held_out: HeldOut, split: Split, count=count_after) -> dict[str, np.ndarray]:
        """``[K]`` of each measure after the step."""
        return measures(np.asarray(count(data, held_out, split))[:, 0], attacked, target)

    shape = base.distilled
    layout = Layout(len(dataset.class_names), shape.steps, shape.epochs, shape.images_per_class)
    sets = [
        relabelled_data(random_real(key, dataset.train, layout), {attacked: target})
        for key in jax.random.split(streams(base.seed).real_sets, config.sets)
    ]

    def curve(data: Sequence[Distilled]) -> list[dict[str, float]]:
        """Validation measures after the step, by step size, over all sets and networks."""
        rows = []
        for step_size in STEP_SIZES:
            after = [measured(with_step_size(d, step_size), nets.validation, dataset.validation) for d in data]
            rows.append({"step_size": step_size} | {k: _mean(after, k) for k in _SHOWN})
        return rows

    def chosen_for(data: Distilled) -> float:
        def by_validation(step_size: float) -> float:
            after = measured(with_step_size(data, step_size), nets.validation, dataset.validation)
            return float(after["modified"].mean())

        return best_step_size(STEP_SIZES, by_validation)

    curves = {"distilled": curve([distilled]), "random real": curve(sets[:3])}
    before, after = (measured(distilled, nets.test, dataset.test, count) for count in (count_before, count_after))
    chosen = [chosen_for(real) for real in sets]
    of_real = [
        measured(with_step_size(real, step_size), share, dataset.test)
        for real, step_size, share in zip(sets, chosen, dealt(nets.test, config.sets), strict=True)
    ]
    return {
        "attacked": dataset.class_names[attacked],
        "target": dataset.class_names[target],
        "sets": config.sets,
        "learned_step_size": float(distilled.step_sizes[0]),
        "before": _summary([before]),
        "after": _summary([after]),
        "random_real": {"median_step_size": float(np.median(chosen)), **_summary(of_real)},
        "by_step_size": curves,
    }


_SHOWN = ("attacked_to_target", "others", "modified")


def _mean(measured: Sequence[dict[str, np.ndarray]], name: str) -> float:
    return float(np.mean([values[name].mean() for values in measured]))


def _summary(measured: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Mean, standard deviation and count over networks of each measure, and the mean accuracy of each class."""
    joined = {name: np.concatenate([values[name] for values in measured]) for name in (*_SHOWN, "by_class")}
    return {name: mean_and_std(joined[name]) for name in _SHOWN} | {"by_class": joined["by_class"].mean(0).tolist()}


def draw(curves: dict[str, list[dict[str, float]]], used: dict[str, float]) -> Figure:
    """Validation accuracies after the step against its size, distilled images beside real ones.

    ``used`` are the step sizes of the table, which each kind of images has for itself: dotted, in its colour.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    titles = ("attacked class taken for the target", "accuracy on the other classes")
    for axis, kind, title in zip(figure.subplots(1, 2), _SHOWN, titles, strict=False):
        for name, rows in curves.items():
            (line,) = axis.plot([row["step_size"] for row in rows], [row[kind] for row in rows], marker=".", label=name)
            of_table = f"{name}, step size of the table"
            axis.axvline(used[name], color=line.get_color(), linestyle=":", label=of_table)
        axis.set(xscale="log", xlabel="step size", title=title, ylim=(-0.02, 1.02))
    figure.axes[0].legend(fontsize=7)
    return figure


def table(attack: dict[str, Any]) -> str:
    """Markdown: each measure before and after the step, and after one on real images; then each class."""
    columns = [attack[name] for name in ("before", "after", "random_real")]
    titles = dict(zip(_SHOWN, ("attacked → target", "other classes", "modified labels"), strict=True))
    lines = ["| | before | after | after random real |", "|---|---|---|---|"]
    lines += [f"| {titles[k]} | " + " | ".join(percent(c[k]) for c in columns) + " |" for k in _SHOWN]
    learned, median = attack.get("learned_step_size"), attack["random_real"]["median_step_size"]
    if learned is not None:
        lines.append(f"| step size | – | {learned:.2g}, learned | {median:.2g}, the median of each set's best |")
    for c in range(len(attack["before"]["by_class"])):
        lines.append(
            f"| class {c} | " + " | ".join(f"{100 * column['by_class'][c]:.2f} %" for column in columns) + " |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv)
    report = run(preset, config)
    if report is not None:
        print(table(report))


if __name__ == "__main__":
    run_as_script(main)
