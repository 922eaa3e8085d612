"""Distillation as an experiment: settings, the resumable run, and what it writes, for every kind of initial weights."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.baselines import Layout, random_real
from dd_jax.data import Dataset, batch_drawer, crop_and_flip
from dd_jax.losses import classification_loss, relabelled
from dd_jax.outer import OuterRecipe, check_recipe, outer_step
from dd_jax.report import (
    accuracy_title,
    budget,
    draw_curve,
    draw_images,
    html_report,
    percent,
    percent_reported,
    to_png,
)
from dd_jax.storage import load_distilled, save_distilled, write_atomically, write_json
from dd_jax.unroll import DistilledData, Mode, noise

from .problem import (
    Setting,
    assemble,
    jsonable,
    mean_and_std,
    relabelled_data,
    relabelled_split,
    scorer,
    streams,
)
from .reported import REPORTED
from .runner import claim_workdir, command_line, memory_needed, positive, provenance, require, train


@dataclasses.dataclass(frozen=True)
class Distilled:
    """The distilled data: S steps of M images, passed over E times."""

    steps: int = 1
    """S, distinct gradient steps."""
    epochs: int = 3
    """E, passes over them."""
    images_per_class: int = 1
    """Images per class and step; M is this times the number of classes."""
    first: Literal["noise", "real"] | Path = "noise"
    """What the images are at first: noise, random real images of the training split, or those of a finished run, by its
    folder, which gives the first step sizes too."""
    noise: float = 0.1
    """Standard deviation of the noise, in normalised units."""
    step_size: float = 0.3
    """The step sizes' initial value, where no run gives it."""


@dataclasses.dataclass(frozen=True)
class Config(Setting):
    """Settings of a run. Two runs with the same settings on the same kind of machine give the same images."""

    distilled: Distilled = Distilled()
    outer: OuterRecipe = dataclasses.field(default_factory=OuterRecipe)
    batch_size: int = 1024
    """Real examples per outer step, B."""
    switch_width: float = 0.6
    """Smooth the second derivative of ReLU and max-pooling over so many standard deviations; 0: plain autodiff."""
    augment: bool = False
    """Crop and flip the real examples at random, as the paper does for CIFAR-10."""
    mode: Mode = "forward_over_reverse"
    """How the inner loop is differentiated: the same numbers for different memory (see dd_jax.unroll.Mode)."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints."""
    workdir: Path | None = None
    """Where the run lives; runs/EXPERIMENT/PRESET if not given."""
    plan: bool = False
    """Only say how much memory an outer step needs, without running any."""


def authors_recipe(config: Config, batches: int, step_size: float) -> Config:
    """The recipe of the paper's code: 400 epochs of ``batches`` batches of 1,024, the rate halved every 40 of them."""
    return dataclasses.replace(
        config,
        distilled=dataclasses.replace(config.distilled, epochs=3, noise=1.0, step_size=step_size),
        outer=OuterRecipe(400 * batches, 0.01, b1=0.5, b2=0.999, halve_every=40 * batches, clip=None, samples=1),
        batch_size=1024,
        switch_width=0.0,
    )


_NOT_OF_THE_RESULT = ("workdir", "checkpoint_seconds", "plan")  # settings that do not change it


def _check(config: Config) -> None:
    """Refuses what can be refused before reading data; the library checks the rest of its arguments itself."""
    check_recipe(config.outer)
    samples = config.outer.samples
    require(config.batch_size >= 1, "batch_size", config.batch_size, "1 or more")
    require(
        config.batch_size % samples == 0, "batch_size", config.batch_size, f"a multiple of outer.samples, {samples}"
    )
    positive("checkpoint_seconds", config.checkpoint_seconds)
    positive("distilled.noise", config.distilled.noise)


def run(
    experiment: str,
    preset: str,
    config: Config,
    *,
    relabel: Mapping[int, int] | None = None,
    attacked_weight: float = 1.0,
    known: Mapping[str, float] | None = None,
) -> dict[str, Any] | None:
    """Distils, evaluates once on the test set, and writes the results; or, with ``config.plan``, does none of that.

    Args:
      experiment, preset, config: what to run; they name the work folder too.
      relabel: classes that count as others (see :func:`dd_jax.losses.relabelled`), among the real examples, in the
        objective and in every accuracy, and among the distilled images.
      attacked_weight: how many examples one of a relabelled class stands for in the objective, and in its curve.
      known: the paper's figures: ``before``, ``after`` and ``std``; :func:`reported`'s if not given.

    Returns:
      The content of result.json, or None with ``config.plan``.

    Raises:
      ValueError: settings or data that cannot be used; nothing has been written then.
      experiments.runner.RunError: the loss was not finite.
    """
    _check(config)
    workdir = workdir_of(experiment, preset, config)
    settings = settings_of(config)
    dataset, network, nets = assemble(config, config.switch_width)
    if nets.fingerprint:
        settings["bank"] = nets.fingerprint
    if relabel:
        settings["relabel"] = {str(attacked): target for attacked, target in relabel.items()}
        settings["attacked_weight"] = attacked_weight
    loss = classification_loss(network.apply)
    classes, keys = len(dataset.class_names), streams(config.seed)
    objective, validation, test = None, dataset.validation, dataset.test
    if relabel:
        criterion = relabelled(relabel, classes)
        times = jnp.ones((1, classes)).at[0, jnp.array(list(relabel))].set(attacked_weight)
        objective = classification_loss(network.apply, lambda logits, labels: criterion(logits, times * labels))
        validation, test = (relabelled_split(split, relabel, classes) for split in (validation, test))
    distilled, earlier = _initial_data(keys.noise, config, dataset)
    if relabel:
        distilled = relabelled_data(distilled, relabel)
    outer = outer_step(loss, config.outer, objective=objective, many=nets.known is None, mode=config.mode)
    if not config.plan:
        claim_workdir(workdir, {"experiment": experiment, "preset": preset, **settings})
    draw_batch = batch_drawer(dataset, config.batch_size, augment=crop_and_flip if config.augment else None)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, step, theta, split):
        outer_state, key = state
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, outer_state.step))
        moved, info = outer.update(update_key, outer_state, theta, draw_batch(draw_key, split))
        in_turn = outer_state.step == step - 1  # not so if the step before, still in flight, was refused
        moved = jax.tree.map(lambda new, old: jnp.where(in_turn, new, old), moved, outer_state)
        return (moved, key), info._replace(finite=info.finite & in_turn)

    def theta_at(step):
        return nets.training(int(earlier["outer_steps"]) + step)  # none that an earlier run has had

    state = (outer.init(distilled), keys.batches)
    compiled = update.lower(state, jnp.int32(1), theta_at(1), dataset.train).compile()
    print(memory_needed(compiled, config.mode), flush=True)
    if config.plan:
        return None
    score = scorer(dataset, network)
    after = scorer(dataset, network, at=(len(distilled.raw_step_sizes),))

    def validate(state):
        return {"validation_accuracy": float(after(state[0].distilled, nets.validation, validation).accuracy.mean())}

    trained = train(
        workdir,
        state,
        lambda state, step: compiled(state, jnp.int32(step), theta_at(step), dataset.train),
        steps=config.outer.steps,
        validate=validate,
        validate_every=max(1, config.outer.steps // 20),
        checkpoint_seconds=config.checkpoint_seconds,
        remedy="lower --outer.learning-rate or --distilled.step-size",
    )
    distilled = trained.state[0].distilled
    known = reported(experiment, config) if known is None else known
    tested = score(distilled, nets.test, test)
    result = {
        "experiment": experiment,
        "preset": preset,
        "dataset": config.dataset,
        "seed": config.seed,
        "outer_steps": config.outer.steps,
        "wall_seconds": trained.seconds,
        "earlier": earlier,
        "test_accuracy": {
            "before": mean_and_std(tested.accuracy[:, 0]),
            "after": mean_and_std(tested.accuracy[:, 1]),
        },
        **validate(trained.state),
        "reported": known.get("after"),
        "reported_std": known.get("std"),
        "reported_before": known.get("before"),
        "config": settings,
        **provenance(),
    }
    _write(workdir, config, result, distilled, dataset, nets.known, trained.metrics)
    return result


_Budget = dict[str, float]  # outer_steps and wall_seconds


def _initial_data(key: jax.Array, config: Config, dataset: Dataset) -> tuple[DistilledData, _Budget]:
    """The distilled data before any learning here, and what learning they have had in the runs they are from."""
    settings, classes = config.distilled, len(dataset.class_names)
    shape = {"steps": settings.steps, "epochs": settings.epochs, "images_per_class": settings.images_per_class}
    distilled = noise(key, dataset.image_shape, classes, **shape, scale=settings.noise, step_size=settings.step_size)
    if isinstance(settings.first, Path):
        return _of_finished_run(settings.first, config, dataset, distilled)
    if settings.first == "real":
        real = random_real(key, dataset.train, dataset.mean, dataset.std, Layout(classes, **shape))
        distilled = distilled._replace(images=real.images)
    return distilled, {"outer_steps": 0, "wall_seconds": 0.0}


def _of_finished_run(run: Path, config: Config, dataset: Dataset, like: DistilledData) -> tuple[DistilledData, _Budget]:
    """The distilled data of a run, and its budget with that of the runs before it.

    Raises:
      ValueError: it is not finished, or its images are of another shape or kind, or have seen this validation split, or
        its step sizes are beyond the bound.
    """
    if not (run / "result.json").is_file():
        raise ValueError(f"distilled.first: {run} is not accepted; use noise, real, or the folder of a finished run")
    file, result = load_distilled(run / "distilled.npz"), json.loads((run / "result.json").read_text())
    for name, held, here in (
        ("images", file.images.shape, like.images.shape),
        ("step sizes", file.step_sizes.shape, like.raw_step_sizes.shape),
        ("data set", result["dataset"], config.dataset),
        ("seed", result["seed"], config.seed),
        ("validation fraction", file.meta.get("validation_fraction"), config.validation_fraction),
    ):
        if held != here:
            raise ValueError(f"distilled.first: {run} has {name} {held}, and this run {here}; they must be the same")
    bound, largest = config.outer.max_step_size, float(file.step_sizes.max())
    if bound is not None:
        accepted = f"at least {largest:.4g}, the largest step size of {run}"
        require(bound >= largest, "outer.max_step_size", bound, accepted)
    before = result.get("earlier", {"outer_steps": 0, "wall_seconds": 0.0})
    return file.distilled, {name: before[name] + result[name] for name in before}


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that decide a run's result, as result.json holds them."""
    return {k: v for k, v in jsonable(config).items() if k not in _NOT_OF_THE_RESULT}


def workdir_of(experiment: str, preset: str, config: Config) -> Path:
    """The folder of a run."""
    return config.workdir or Path("runs") / experiment / preset


def reported(experiment: str, config: Config) -> dict[str, float]:
    """The paper's figures for this experiment, data set and shape of distilled data; empty where it has none."""
    shape = config.distilled
    return REPORTED.get((experiment, config.dataset, shape.steps, shape.epochs, shape.images_per_class), {})


def _write(workdir, config: Config, result, distilled: DistilledData, dataset: Dataset, theta, metrics) -> None:
    bank = config.weights.bank
    meta = {
        "experiment": result["experiment"],
        "dataset": config.dataset,
        "validation_fraction": config.validation_fraction,
        "images": dataclasses.asdict(config.images),
        "network": config.network,
        "initialisation": {
            "law": config.weights.law,
            "gain": config.weights.gain,
            "seed": config.seed,
            **({} if bank is None else {"bank": str(bank), "validation_nets": config.weights.validation_nets}),
        },
        "steps": config.distilled.steps,
        "epochs": config.distilled.epochs,
        "class_names": dataset.class_names,
        "relabel": result["config"].get("relabel", {}),
        "versions": result["versions"],
        "use": "for t in range(E * S): gradient descent on images[t % S], labels[t % S] with step_sizes[t], "
        "mean cross-entropy, from initial_weights or, without them, any weights of the initialisation "
        "(flax layout: kernels [H, W, in, out] and [in, out], NHWC images)",
    }
    images = to_png(draw_images(distilled, dataset.class_names))
    pictures = {"Distilled images": images, "Training": to_png(draw_curve(metrics))}
    page = html_report(result, np.asarray(distilled.step_sizes), config.distilled.steps, pictures)
    save_distilled(workdir / "distilled.npz", distilled, dataset.mean, dataset.std, meta, theta)
    write_atomically(workdir / "images.png", images)
    write_atomically(workdir / "report.html", page)
    write_json(workdir / "result.json", result)


def run_from_command_line(
    experiment: str, presets: Mapping[str, Config], default: str, description: str, argv: list[str]
) -> None:
    """The command line that the experiments share: ``[PRESET] [--option value …]``."""
    preset, config = command_line(presets, default, description, argv)
    result = run(experiment, preset, config)
    if result is None:
        return
    print_result(result, workdir_of(experiment, preset, config))


def print_result(result: Mapping[str, Any], workdir: Path) -> None:
    """Accuracies beside the reported ones, the budget, and where the report is."""
    quoted = {
        "before": percent_reported(result["reported_before"]),
        "after": percent_reported(result["reported"], result["reported_std"]),
    }
    title = accuracy_title(result)
    for when, score in result["test_accuracy"].items():
        print(f"{title} {when:>6} the steps: {percent(score)}   (reported by the paper: {quoted[when]})")
    page = workdir / "report.html"
    print(f"{budget(result)}; the report is {page}")
