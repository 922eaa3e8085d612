"""Malicious poisoning: images that make trained networks take one class for another (paper, section 4.2, figure 5).

    python -m experiments.pretrain digits
    python -m experiments.attack [PRESET] [--attacked K] [--target T] [--weights.bank DIR] …

The objective is ℓ_{K→T}: real examples of class K count as class T. After one gradient step on the images, a trained
network is to call K "T" and to stay right about the other classes. The paper reports that the accuracy of CIFAR-10's
class "plane" falls from 82 % to 7 % after a step on 300 images (checked); its other results are figures only. What this
code measured is in docs/results.md.

The ``*_authors`` presets are the paper's attack, with the recipe of its code: every distilled image keeps its own
label, K's included, and every real example counts once. The others are ours. They differ in three ways: the images made
for K carry the label T, an example of K counts several times (``attacked_weight``), and the outer recipe is another,
with fewer outer steps and 100 images for every data set. There are presets for networks of a bank, and (``*_fixed``)
for one known network of it. With ``--distilled.steps 5 --distilled.images-per-class 2``, as many images take five
gradient steps, which spares the other classes. That is ours too.

Writes what ``experiments.fixed_init`` writes, with accuracies by the modified labels. Its attack.json has, before and
after the steps, the accuracy on K, the share of K that became T, the accuracy on the other classes together and on
each, and the accuracy by the true and by the modified labels. Beside them stand the four baselines, their images of K
labelled T: real images at random, the best of many random sets by the modified labels, k-means centres and class
averages. Each of their sets has the step size that is best by the modified labels on validation data. attack.png shows
the measures by step size, the same for all steps, and report.html has the table. Of several learned step sizes, they
show the median.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from dd_jax.base import Distilled
from dd_jax.baselines import (
    Layout,
    Score,
    average_image,
    best_step_size,
    k_means,
    optimized_real,
    random_real,
    with_step_size,
)
from dd_jax.checks import positive, require
from dd_jax.data.dataset import Dataset, Split
from dd_jax.evaluation import confusion
from dd_jax.files.atomic import write_json
from dd_jax.files.distilled_file import load_distilled
from dd_jax.outer import OuterRecipe

from .attack_table import SHOWN, table
from .baselines import _some
from .command_line import command_line, run_as_script
from .distil import run as distil
from .distilled import DistilledSetting
from .nets import HeldOut, dealt
from .precision import in_its_precision
from .problem import Problem, assemble
from .recipe import Config as Base
from .recipe import authors_recipe, is_papers_method, workdir_of
from .record import draw_page, print_result
from .relabelled import Relabelled
from .reported import ATTACK, Reported
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
    keep_labels: bool = False
    """The distilled images made for K keep its label, as the authors' do; else they carry T's, which is ours."""
    attacked_weight: float = 4.0
    """How many real examples one of class K stands for in the objective, 1 for the authors; no accuracy is weighted."""
    sets: int = 20
    """Random sets of real images to compare with."""
    candidates: int = 50
    """Random sets of which the best fifth counts as optimized."""


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
    candidates: int = 50,
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
    base = dataclasses.replace(base, **settings)
    return Config(base, attacked_weight=attacked_weight, sets=sets, candidates=candidates)


_OURS = {
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
    "cifar10": _attack("cifar10", "alexcifarnet", "cifar10_short", 2, sets=5, candidates=10, augment=True),
    "cifar10_fixed": _attack("cifar10", "alexcifarnet", "cifar10_short", None, sets=5, candidates=10, augment=True),
}


def _authors(preset: str, bank: str, batches: int, images_per_class: int) -> Config:
    """The attack of the paper, with the recipe of its code: its rate is twice that of the other experiments.

    Of a bank it draws 4 networks for each outer step. The number of images is known for CIFAR-10 alone.
    """
    base = authors_recipe(_OURS[preset].base, batches, 0.02)
    nets = None if base.weights.nets is None else 4
    base = dataclasses.replace(
        base,
        weights=dataclasses.replace(base.weights, bank=Path("runs/pretrain") / bank, nets=nets, jitter=0.0),
        distilled=dataclasses.replace(base.distilled, epochs=1, images_per_class=images_per_class),
        outer=dataclasses.replace(base.outer, learning_rate=0.02),
    )
    return Config(base, keep_labels=True, attacked_weight=1.0)


_AUTHORS = {
    "digits_authors": _authors("digits", "digits", 2, 10),
    "mnist_authors": _authors("mnist", "mnist", 59, 10),
    "mnist_fixed_authors": _authors("mnist_fixed", "mnist", 59, 10),
    "cifar10_authors": _authors("cifar10", "cifar10", 49, 30),
    "cifar10_fixed_authors": _authors("cifar10_fixed", "cifar10", 49, 30),
}
PRESETS = _OURS | _AUTHORS


def reported(config: Config) -> Reported:
    """The paper's accuracies on class K, where this is its attack; else empty."""
    base, shape = config.base, config.base.distilled
    if not (config.keep_labels and is_papers_method(base) and isinstance(shape.images_per_class, int)):
        return {}
    key = (base.dataset, config.attacked, shape.steps, shape.epochs, shape.images_per_class)
    return ATTACK.get(key, {})


def measures(confusions: np.ndarray, attacked: int, target: int) -> dict[str, np.ndarray]:
    """What an attack did, from confusion matrices.

    Args:
      confusions: ``[..., C, C]``, a row for each true class (see :func:`dd_jax.evaluation.confusion`).
      attacked, target: K and T.

    Returns:
      ``attacked``: accuracy on class K by its true label; ``attacked_to_target``: the share of class K that is taken
      for T; ``others``: accuracy on all other classes together; ``true`` and ``modified``: accuracy by the true and by
      the modified labels; each ``[...]``. ``by_class``: the accuracy of each class by its true label, ``[..., C]``.
    """
    counts = confusions.sum(-1)
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    others = np.arange(confusions.shape[-1]) != attacked
    turned = confusions[..., attacked, target]
    by_class = right / np.maximum(counts, 1)
    return {
        "attacked": by_class[..., attacked],
        "attacked_to_target": turned / np.maximum(counts[..., attacked], 1),
        "others": right[..., others].sum(-1) / counts[..., others].sum(-1),
        "true": right.sum(-1) / counts.sum(-1),
        "modified": (right[..., others].sum(-1) + turned) / counts.sum(-1),
        "by_class": by_class,
    }


@in_its_precision
def run(preset: str, config: Config) -> dict[str, Any] | None:
    """Distils the attack, and measures it beside the baselines.

    Returns:
      The content of attack.json, or None with ``config.base.plan``.

    Raises:
      ValueError: settings or data that cannot be used, K = T or a class out of range, or a bank that does not fit.
      experiments.training.RunError: the loss was not finite.
    """
    base, attacked, target = config.base, config.attacked, config.target
    require(attacked != target, "target", target, "another class than --attacked")
    positive("attacked_weight", config.attacked_weight)
    for name in ("sets", "candidates"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "1 or more")
    if base.weights.bank is None:
        raise ValueError("weights.bank: None is not accepted; use the work folder of experiments.pretrain")
    how = Relabelled({attacked: target}, config.attacked_weight, config.keep_labels)
    result = distil("attack", preset, base, attack=how)
    if result is None:
        return None
    workdir = workdir_of("attack", preset, base)
    print_result(result, workdir)
    with locked(workdir):
        if (workdir / "attack.json").is_file():
            report = json.loads((workdir / "attack.json").read_text())
            for name in ("sets", "candidates"):
                asked, held = getattr(config, name), report.get(name, getattr(config, name))
                require(asked == held, name, asked, f"{held}, as {workdir / 'attack.json'} has")
            draw_missing(workdir / "attack.png", lambda: _draw(report))
            return report
        problem = assemble(base)
        unchanged = all(result["config"][name] == held for name, held in problem.identity.items())
        require(unchanged, "weights.bank", base.weights.bank, "a bank, and data, that do not change during the run")
        report = _measure(config, problem, load_distilled(workdir / "distilled.npz").distilled)
        write_json(workdir / "attack.json", report)
        draw_page(workdir)  # with the baselines
        draw_missing(workdir / "attack.png", lambda: _draw(report))
        return report


def _draw(report: dict[str, Any]) -> Figure:
    used = {"distilled": report["learned_step_size"], "random real": report["random_real"]["median_step_size"]}
    return draw(report["by_step_size"], used)


_SCORED_ON = 1024  # training images that candidates are scored on, as in the paper

_Measured = Callable[[Distilled, HeldOut, Split], dict[str, np.ndarray]]  # [K] of each measure


def _measure(config: Config, problem: Problem, distilled: Distilled) -> dict[str, Any]:
    """The content of attack.json."""
    dataset, network, nets, *_ = problem
    attacked, target = config.attacked, config.target
    say("measuring the attack, and the baselines beside it")

    def after_steps(count: int) -> _Measured:
        confusions = scorer(dataset, network, at=(count,), measure=confusion)
        return lambda *of: measures(np.asarray(confusions(*of))[:, 0], attacked, target)

    before, after = (after_steps(count) for count in (0, len(distilled.step_sizes)))

    def on_validation(data: Distilled, step_size: float) -> dict[str, np.ndarray]:
        return after(with_step_size(data, step_size), nets.validation, dataset.validation)

    def by_step_size(sets: Sequence[Distilled]) -> list[dict[str, float]]:
        rows = []
        for step_size in STEP_SIZES:
            measured = [on_validation(data, step_size) for data in sets]
            rows.append({"step_size": step_size} | {name: _mean(measured, name) for name in SHOWN})
        return rows

    def tested(sets: Sequence[Distilled]) -> dict[str, Any]:
        """On each set's share of the test networks, with its own best step size."""
        chosen = [
            best_step_size(STEP_SIZES, lambda step_size, data=data: _mean([on_validation(data, step_size)], "modified"))
            for data in sets
        ]
        shares = zip(sets, chosen, dealt(nets.test, len(sets)), strict=True)
        measured = [after(with_step_size(data, step_size), share, dataset.test) for data, step_size, share in shares]
        return {"median_step_size": float(np.median(chosen)), **_summary(measured)}

    sets = _random_sets(config, dataset)
    random_real = tested(sets)

    def by_modified_labels(candidate: Distilled) -> float:
        as_random = with_step_size(candidate, random_real["median_step_size"])
        return _mean([after(as_random, nets.validation, _some(dataset.train, _SCORED_ON))], "modified")

    others = _other_baselines(config, dataset, by_modified_labels)
    return {
        "attacked": dataset.class_names[attacked],
        "target": dataset.class_names[target],
        "sets": config.sets,
        "candidates": config.candidates,
        "learned_step_size": float(np.median(distilled.step_sizes)),
        "reported": reported(config),
        "before": _summary([before(distilled, nets.test, dataset.test)]),
        "after": _summary([after(distilled, nets.test, dataset.test)]),
        "random_real": random_real,
        **{name: tested(of_kind) for name, of_kind in others.items()},
        "by_step_size": {"distilled": by_step_size([distilled]), "random real": by_step_size(sets[:3])},
    }


def _layout(config: Config, dataset: Dataset) -> Layout:
    shape = config.base.distilled
    return Layout(len(dataset.class_names), shape.steps, shape.epochs, shape.images_per_class)


def _random_sets(config: Config, dataset: Dataset) -> list[Distilled]:
    """Sets of random real images, those of K labelled T."""
    keys = jax.random.split(streams(config.base.seed).real_sets, config.sets)
    drawn = (random_real(key, dataset.train, _layout(config, dataset)) for key in keys)
    return [relabelled_data(data, {config.attacked: config.target}) for data in drawn]


def _other_baselines(config: Config, dataset: Dataset, score: Score) -> dict[str, list[Distilled]]:
    """The sets of each baseline but the random one, the images of K labelled T; ``score`` is of such a set."""
    of_training = (dataset.train, _layout(config, dataset))
    key = jax.random.fold_in(streams(config.base.seed).real_sets, config.sets)

    def relabelled(data: Distilled) -> Distilled:
        return relabelled_data(data, {config.attacked: config.target})

    optimized = optimized_real(key, *of_training, lambda data: score(relabelled(data)), candidates=config.candidates)
    kinds = {
        "optimized_real": optimized,
        "k_means": [k_means(*of_training, seed=config.base.seed)],
        "average_real": [average_image(*of_training)],
    }
    return {name: [relabelled(data) for data in sets] for name, sets in kinds.items()}


def _mean(measured: Sequence[Mapping[str, np.ndarray]], name: str) -> float:
    return float(np.mean([values[name].mean() for values in measured]))


def _summary(measured: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Mean, standard deviation and count over networks of each measure, and the mean accuracy of each class."""
    joined = {name: np.concatenate([values[name] for values in measured]) for name in (*SHOWN, "by_class")}
    return {name: mean_and_std(joined[name]) for name in SHOWN} | {"by_class": joined["by_class"].mean(0).tolist()}


def draw(curves: dict[str, list[dict[str, float]]], used: dict[str, float]) -> Figure:
    """Validation accuracies after the steps against their size, distilled images beside real ones.

    ``used`` are the step sizes of the table, which each kind of images has for itself: dotted, in its colour.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    shown = {"attacked_to_target": "attacked class taken for the target", "others": "accuracy on the other classes"}
    axes = figure.subplots(1, 2)
    for axis, (kind, title) in zip(axes, shown.items(), strict=True):
        for name, rows in curves.items():
            (line,) = axis.plot([row["step_size"] for row in rows], [row[kind] for row in rows], marker=".", label=name)
            of_table = f"{name}, step size of the table"
            axis.axvline(used[name], color=line.get_color(), linestyle=":", label=of_table)
        axis.set(xscale="log", xlabel="step size", title=title, ylim=(-0.02, 1.02))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return figure


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv, "attack")
    report = run(preset, config)
    if report is not None:
        print(table(report))


if __name__ == "__main__":
    run_as_script(main)
