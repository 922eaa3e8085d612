"""Distillation as an experiment: settings, the resumable run, and what it writes, for every kind of initial weights."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dd_jax.base import Criterion, Distilled, Loss, Network, Params
from dd_jax.baselines import Layout, random_real
from dd_jax.checks import positive, require
from dd_jax.data.augment import crop_and_flip, shift
from dd_jax.data.batches import batch_drawer
from dd_jax.data.dataset import Dataset, Split
from dd_jax.distilled import noise
from dd_jax.estimates import meta_gradient
from dd_jax.evaluation import Inner as Loop
from dd_jax.evaluation import Score
from dd_jax.files.atomic import write_atomically, write_json
from dd_jax.files.distilled_file import load_distilled, save_distilled
from dd_jax.files.figures import draw_curve, draw_images, to_png
from dd_jax.files.page import html_report
from dd_jax.files.text import accuracy_title, budget, percent, percent_reported
from dd_jax.imports import imported
from dd_jax.inner.loop import trainer
from dd_jax.inner.modes import Mode
from dd_jax.objectives import classification_loss, cross_entropy, relabelled
from dd_jax.outer import OuterRecipe, OuterState, averaged, check_recipe, outer_optimizer, outer_step

from .command_line import command_line
from .distilled import DistilledSetting, check_distilled_setting, parametrisation_of, stored_floats
from .inner import Inner, check_inner, loop_of, optimizer_of, window_of
from .nets import count_of
from .problem import Problem, assemble, identity
from .reported import REPORTED
from .say import say
from .scoring import mean_and_std, relabelled_data, relabelled_split, scorer
from .settings import Setting, dataset_from, jsonable, path_from
from .streams import streams
from .training import Trained, memory_needed, read_lines, train
from .workdir import claimed, is_finished, provenance, told_if_it_fails


@dataclasses.dataclass(frozen=True)
class Config(Setting):
    """Settings of a run. Two runs with the same settings on the same kind of machine give the same images."""

    distilled: DistilledSetting = dataclasses.field(default_factory=DistilledSetting)
    inner: Inner = dataclasses.field(default_factory=Inner)
    outer: OuterRecipe = dataclasses.field(default_factory=OuterRecipe)
    batch_size: int = 1024
    """Real examples per outer step, B."""
    switch_width: float = 0.6
    """Smooth the second derivative of ReLU and max-pooling over so many standard deviations; 0: plain autodiff."""
    augment: bool = False
    """Crop and flip the real examples at random, as the paper does for CIFAR-10."""
    shift: int = 0
    """Move the real examples at random by up to so many pixels either way, against overfitting a small set."""
    objective: str | None = None
    """The import path of a criterion on the real examples, package.module:function, which takes logits and labels,
    [B, C] each, and returns [B]; cross-entropy if not given."""
    mode: Mode = "forward_over_reverse"
    """How the inner loop is differentiated: the same numbers for different memory (see dd_jax.inner.modes.Mode)."""
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
    require(config.shift >= 0, "shift", config.shift, "0 or more")
    positive("checkpoint_seconds", config.checkpoint_seconds)
    check_distilled_setting(config.distilled)
    optimizer_of(config.inner)


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
      relabel: classes that count as others (see :func:`dd_jax.objectives.relabelled`), among the real examples, in the
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
    attack = _Attack(dict(relabel or {}), attacked_weight)
    settings = settings_of(config, workdir) | attack.settings()
    head = {"experiment": experiment, "preset": preset}
    if is_finished(workdir) and not config.plan:  # then nothing needs to be compiled
        with claimed(workdir, head | settings | identity(config)) as finished:
            assert finished is not None
            _draw_missing(workdir, config, finished)
            return finished
    problem = assemble(config, config.switch_width)
    settings |= problem.identity
    prepared = _prepare(config, settings, problem, attack)
    if config.plan:
        _compile(config, problem, prepared)
        return None
    known = reported(experiment, config) if known is None else known
    with claimed(workdir, head | settings) as finished:  # by another process meanwhile, if at all
        return finished or _distil(workdir, config, head, settings, problem, attack, prepared, known)


class _Attack(NamedTuple):
    """What is relabelled, if anything is (paper, section 3.6)."""

    relabel: dict[int, int]
    weight: float  # of an example of a relabelled class, in the objective

    def settings(self) -> dict[str, Any]:
        """As result.json holds them."""
        if not self.relabel:
            return {}
        return {"relabel": {str(k): target for k, target in self.relabel.items()}, "attacked_weight": self.weight}

    def objective(self, network: Network, classes: int, criterion: Criterion) -> Loss:
        """ℓ_{K→T} on the real batch, its examples weighted; ℓ where nothing is relabelled."""
        if not self.relabel:
            return classification_loss(network.apply, criterion)
        relabelled_criterion = relabelled(self.relabel, classes, criterion)
        times = jnp.ones((1, classes)).at[0, jnp.array(list(self.relabel))].set(self.weight)
        return classification_loss(network.apply, lambda logits, labels: relabelled_criterion(logits, times * labels))

    def split(self, split: Split, classes: int) -> Split:
        """Under the labels by which accuracy counts."""
        return relabelled_split(split, self.relabel, classes) if self.relabel else split


class _Prepared(NamedTuple):
    """The outer step of a run, and what it starts from."""

    update: Any  # jitted: (state, step, θ₀, training split) -> (state, info)
    state: tuple[OuterState, jax.Array]
    theta_at: Callable[[int], Params]
    decode: Callable[[Any], Distilled]  # from what is learned
    inner: Loop
    total: int  # T
    earlier: "_Budget"


def _prepare(config: Config, settings: dict[str, Any], problem: Problem, attack: _Attack) -> _Prepared:
    dataset, network, nets, _ = problem
    keys = streams(config.seed)
    distilled, earlier = _initial_data(keys.noise, config, settings, problem)
    steps, images, total, classes = *distilled.images.shape[:2], len(distilled.step_sizes), len(dataset.class_names)
    check_inner(config.inner, total, steps * images, classes)
    before = int(earlier["outer_steps"])  # whose networks and real batches are not taken again
    if attack.relabel and not isinstance(config.distilled.first, Path):  # those of a run are relabelled already
        distilled = relabelled_data(distilled, attack.relabel)
    learned, distilled = parametrisation_of(keys.bases, config.distilled, config.inner, distilled)
    inner = loop_of(config.inner, distilled.labels)
    loss = classification_loss(network.apply)
    objective = attack.objective(network, classes, criterion_of(config.objective))

    def estimate_at(step):
        window = window_of(config.inner, step / config.outer.steps)
        how = {"mode": config.mode, "adjoint_clip": config.outer.adjoint_clip, "window": window}
        train = trainer(loss, optimizer=inner.optimizer, order=inner.order, augment=inner.augment, **how)
        return averaged(config.outer, meta_gradient(train, objective, learned.decode), many=nets.known is None)(step)

    outer = outer_step(estimate_at, outer_optimizer(config.outer), fixed=learned.fixed)
    draw_batch = batch_drawer(dataset, config.batch_size, augment=_augmentation(config))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, step, theta, split):
        outer_state, key = state
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, before + outer_state.step))
        moved, info = outer.update(update_key, outer_state, theta, draw_batch(draw_key, split))
        in_turn = outer_state.step == step - 1  # not so if the step before, still in flight, was refused
        moved = jax.tree.map(lambda new, old: jnp.where(in_turn, new, old), moved, outer_state)
        return (moved, key), info._replace(finite=info.finite & in_turn)

    state = (outer.init(learned.init(distilled)), keys.batches)
    return _Prepared(update, state, lambda step: nets.training(before + step), learned.decode, inner, total, earlier)


def _augmentation(config: Config) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Of real examples."""

    def augment(key, images):
        if config.shift:
            images, key = shift(key, images, config.shift), jax.random.fold_in(key, 1)
        return crop_and_flip(key, images) if config.augment else images

    return augment


def _compile(config: Config, problem: Problem, prepared: _Prepared) -> Callable:
    """``(state, step) -> (state, info)``, and a line on the memory it needs."""
    update, state, theta_at, *_ = prepared
    say("compiling the outer step")
    train = problem.dataset.train
    compiled = update.lower(state, jnp.int32(1), theta_at(1), train).compile()
    print(memory_needed(compiled, config.mode), flush=True)
    return lambda state, step: compiled(state, jnp.int32(step), theta_at(step), train)


def _distil(
    workdir: Path,
    config: Config,
    head: dict[str, Any],
    settings: dict[str, Any],
    problem: Problem,
    attack: _Attack,
    prepared: _Prepared,
    known: Mapping[str, float],
) -> dict[str, Any]:
    """Runs the outer steps, evaluates, and writes the results; returns the content of result.json."""
    dataset, network, nets, _ = problem
    after = scorer(dataset, network, at=(prepared.total,), inner=prepared.inner)
    validation, test = (attack.split(s, len(dataset.class_names)) for s in (dataset.validation, dataset.test))

    def validate(state):
        return {
            "validation_accuracy": float(
                after(prepared.decode(state[0].params), nets.validation, validation).accuracy.mean()
            )
        }

    trained = train(
        workdir,
        prepared.state,
        _compile(config, problem, prepared),
        steps=config.outer.steps,
        validate=validate,
        validate_every=max(1, config.outer.steps // 20),
        checkpoint_seconds=config.checkpoint_seconds,
        remedy="lower --outer.learning-rate or --distilled.step-size",
    )
    distilled = prepared.decode(trained.state[0].params)
    say(f"testing on {count_of(nets.test)}")
    tested = scorer(dataset, network, inner=prepared.inner)(distilled, nets.test, test)
    result = {
        **head,
        **_measured(config, prepared, trained, tested, nets.known is not None),
        **validate(trained.state),
        "reported": known.get("after"),
        "reported_std": known.get("std"),
        "reported_before": known.get("before"),
        "config": settings,
        **provenance(),
    }
    meta = _meta(workdir, config, result, dataset)
    save_distilled(workdir / "distilled.npz", distilled, dataset.mean, dataset.std, meta, nets.known)
    write_json(workdir / "result.json", result)
    _draw_missing(workdir, config, result)
    return result


def _measured(config: Config, prepared: _Prepared, trained: Trained, tested: Score, known: bool) -> dict[str, Any]:
    """The facts and figures of a run; ``tested`` is ``[K, 2]``, before and after the steps."""
    return {
        "dataset": config.dataset,
        "seed": config.seed,
        "outer_steps": config.outer.steps,
        "stored_floats": stored_floats(trained.state[0].params),
        "wall_seconds": trained.seconds,
        "earlier": prepared.earlier,
        "networks": "known" if known else "random",
        "test_accuracy": {
            "before": mean_and_std(tested.accuracy[:, 0]),
            "after": mean_and_std(tested.accuracy[:, 1]),
        },
    }


_Budget = dict[str, float]  # outer_steps and wall_seconds


def _initial_data(
    key: jax.Array, config: Config, settings: dict[str, Any], problem: Problem
) -> tuple[Distilled, _Budget]:
    """The distilled data before any learning here, and what learning they have had in the runs they are from."""
    distil, dataset, classes = config.distilled, problem.dataset, len(problem.dataset.class_names)
    shape = {"steps": distil.steps, "epochs": distil.epochs, "images_per_class": distil.images_per_class}
    values = {"images": distil.images, "scale": distil.noise, "step_size": distil.step_size}
    distilled = noise(key, dataset.image_shape, classes, **shape, **values)
    if isinstance(distil.first, Path):
        return _of_finished_run(distil.first, config, settings, dataset, distilled)
    if distil.first == "real":
        real = random_real(key, dataset.train, dataset.mean, dataset.std, Layout(classes, **shape))
        distilled = distilled._replace(images=real.images)
    return distilled, {"outer_steps": 0, "wall_seconds": 0.0}


_SAME = (  # settings that a run must share with the one it goes on from, besides the data
    "images",
    "network",
    "weights.law",
    "weights.gain",
    "bank",
    "relabel",
    "validation_fraction",
    "seed",
)


def _of_finished_run(
    run: Path, config: Config, settings: dict[str, Any], dataset: Dataset, like: Distilled
) -> tuple[Distilled, _Budget]:
    """The distilled data of a run, and its budget with that of the runs before it.

    Raises:
      ValueError: it is not finished, or its images are of another shape, class or kind, or made for other networks, or
        have seen this validation split, or its step sizes are beyond the bound.
    """
    if not (run / "result.json").is_file():
        raise ValueError(f"distilled.first: {run} is not accepted; use noise, real, or the folder of a finished run")
    file, result = load_distilled(run / "distilled.npz"), json.loads((run / "result.json").read_text())
    held = result["config"]
    here_known, held_known = (w["nets"] is None for w in (settings["weights"], held["weights"]))
    compared = [
        ("images", file.images.shape, like.images.shape),
        ("step sizes", file.step_sizes.shape, like.step_sizes.shape),
        ("classes", tuple(file.meta["class_names"]), dataset.class_names),
        ("known networks", held_known, here_known),
    ]
    same = ("dataset" if held.get("data") is None else "data", *_SAME)  # a run may be from before data were known
    compared += [(name, _setting(held, name), _setting(settings, name)) for name in same]
    for name, there, here in compared:
        if there != here:
            raise ValueError(f"distilled.first: {run} has {name} {there}, and this run {here}; they must be the same")
    bound, largest = config.outer.max_step_size, float(file.step_sizes.max())
    if bound is not None:  # but for a rounding: the bound is kept before the softplus
        accepted = f"at least {largest:.4g}, the largest step size of {run}"
        require(largest <= bound * (1 + 1e-6), "outer.max_step_size", bound, accepted)
    before = result.get("earlier", {"outer_steps": 0, "wall_seconds": 0.0})
    return file.distilled, {name: before[name] + result[name] for name in before}


def _setting(settings: Any, name: str) -> Any:
    """A setting by its dotted name; None where it is not there."""
    for part in name.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def criterion_of(path: str | None) -> Criterion:
    """The criterion of an import path; cross-entropy where there is none.

    Raises:
      ValueError: a path that does not lead to a function.
    """
    return cross_entropy if path is None else imported("objective", path)


def settings_of(config: Config, workdir: Path) -> dict[str, Any]:
    """The settings that decide a run's result, as result.json in its folder holds them."""
    return {k: v for k, v in jsonable(config, workdir).items() if k not in _NOT_OF_THE_RESULT}


def workdir_of(experiment: str, preset: str, config: Config) -> Path:
    """The folder of a run."""
    return config.workdir or Path("runs") / experiment / preset


def reported(experiment: str, config: Config) -> dict[str, float]:
    """The paper's figures for this experiment, data set and shape of distilled data; empty where it has none."""
    shape = config.distilled
    return REPORTED.get((experiment, config.dataset, shape.steps, shape.epochs, shape.images_per_class), {})


def _meta(workdir: Path, config: Config, result: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """What distilled.npz says of itself. Paths in it are from its own folder on."""
    weights = config.weights
    bank = {} if weights.bank is None else {"bank": path_from(workdir, weights.bank)}
    if weights.bank is not None:
        bank |= {"validation_nets": weights.validation_nets, "fingerprint": result["config"]["bank"]}
    return {
        "experiment": result["experiment"],
        "dataset": dataset_from(workdir, config.dataset),
        "data": result["config"]["data"],
        "validation_fraction": config.validation_fraction,
        "images": dataclasses.asdict(config.images),
        "network": config.network,
        "network_options": config.network_options,
        "inner": result["config"]["inner"],
        "objective": config.objective,
        "initialisation": {"law": weights.law, "gain": weights.gain, "seed": config.seed, **bank},
        "steps": config.distilled.steps,
        "epochs": config.distilled.epochs,
        "class_names": dataset.class_names,
        "relabel": result["config"].get("relabel", {}),
        "versions": result["versions"],
        "use": "for t in range(E * S): gradient descent on images[t % S], labels[t % S] with step_sizes[t], "
        "mean cross-entropy, from initial_weights or, without them, any weights of the initialisation "
        "(flax layout: kernels [H, W, in, out] and [in, out], NHWC images)",
    }


def _draw_missing(workdir: Path, config: Config, result: Mapping[str, Any]) -> None:
    """The picture and the page of a result, where they are not there; what cannot be made costs no more than itself."""
    images, page = workdir / "images.png", workdir / "report.html"
    if images.exists() and page.exists():
        return
    file, pictures = load_distilled(workdir / "distilled.npz"), {}
    with told_if_it_fails(images):
        pictures["Distilled images"] = to_png(draw_images(file.distilled, file.meta["class_names"]))
        write_atomically(images, pictures["Distilled images"])
    with told_if_it_fails(page):
        pictures["Training"] = to_png(draw_curve(read_lines(workdir / "metrics.jsonl")))
        write_atomically(page, html_report(result, file.step_sizes, config.distilled.steps, pictures))


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
        measured = percent(score, known=result["networks"] == "known")
        print(f"{title} {when:>6} the steps: {measured}   (reported by the paper: {quoted[when]})")
    page = workdir / "report.html"
    print(f"{budget(result)}; the report is {page}")
