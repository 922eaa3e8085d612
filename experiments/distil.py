"""Distillation as an experiment: settings, the resumable run, and what it writes, for every kind of initial weights."""

import dataclasses
import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

import dd_jax
from dd_jax.data import Dataset, batch_drawer, crop_and_flip, make_dataset
from dd_jax.evaluation import Training, evaluate, evaluate_nets
from dd_jax.initial_weights import initial_weights
from dd_jax.losses import classification_loss
from dd_jax.networks import make_network
from dd_jax.outer import OuterRecipe, check_recipe, outer_step
from dd_jax.readers import read
from dd_jax.report import draw_curve, draw_images, html_report, percent, percent_reported, to_png
from dd_jax.storage import save_distilled, write_atomically, write_json
from dd_jax.unroll import DistilledData, Mode, noise
from experiments.reported import REPORTED
from experiments.runner import claim_workdir, command_line, memory_needed, positive, require, train


@dataclasses.dataclass(frozen=True)
class Weights:
    """p(θ₀), the distribution of initial weights."""

    law: str = "xavier_normal"
    """One of dd_jax.initial_weights.LAWS."""
    gain: float = 1.0
    """Scale of the law."""
    nets: int | None = None
    """Networks drawn anew for each outer step, N; if not given, one network drawn once, and known from the start."""
    test_nets: int = 200
    """Networks held out for the test, where they are random."""
    validation_nets: int = 10
    """Networks held out for validation, where they are random."""


@dataclasses.dataclass(frozen=True)
class Distilled:
    """The distilled data: S steps of M images, passed over E times."""

    steps: int = 1
    """S, distinct gradient steps."""
    epochs: int = 3
    """E, passes over them."""
    images_per_class: int = 1
    """Images per class and step; M is this times the number of classes."""
    noise: float = 0.1
    """Standard deviation of the first images' pixels, in normalised units."""
    step_size: float = 0.3
    """The step sizes' initial value."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run. Two runs with the same settings on the same kind of machine give the same images."""

    dataset: str = "digits"
    """digits, a TFDS name, or a path: an .npz file, a folder of IDX files, or a folder of images by class."""
    network: str = "lenet"
    """lenet or alexcifarnet."""
    weights: Weights = Weights()
    distilled: Distilled = Distilled()
    outer: OuterRecipe = dataclasses.field(default_factory=OuterRecipe)
    batch_size: int = 1024
    """Real examples per outer step, B."""
    switch_width: float = 0.6
    """Smooth the second derivative of ReLU and max-pooling over so many standard deviations; 0: plain autodiff."""
    augment: bool = False
    """Crop and flip the real examples at random, as the paper does for CIFAR-10."""
    validation_fraction: float = 1 / 12
    """Share of the training split held out of it for choosing settings."""
    mode: Mode = "forward_over_reverse"
    """How the inner loop is differentiated: the same numbers for different memory (see dd_jax.unroll.Mode)."""
    seed: int = 0
    """Draws θ₀, the first images, the batches and the validation split."""
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
    for name in ("nets", "test_nets", "validation_nets"):
        count = getattr(config.weights, name)
        require(count is None or count >= 1, f"weights.{name}", count, "1 or more")
    require(config.seed >= 0, "seed", config.seed, "0 or more")
    positive("checkpoint_seconds", config.checkpoint_seconds)


class Streams(NamedTuple):
    """The random keys of a run, each for one purpose; none is another's."""

    weights: jax.Array  # of the networks trained on
    noise: jax.Array  # the first images
    batches: jax.Array
    validation: jax.Array  # held-out networks
    test: jax.Array  # held-out networks


def streams(seed: int) -> Streams:
    """The keys that ``seed`` stands for."""
    return Streams(*(jax.random.fold_in(jax.random.key(seed), i) for i in range(len(Streams._fields))))


def run(experiment: str, preset: str, config: Config) -> dict[str, Any] | None:
    """Distils, evaluates once on the test set, and writes the results; or, with ``config.plan``, does none of that.

    Returns:
      The content of result.json, or None with ``config.plan``.

    Raises:
      ValueError: settings or data that cannot be used; nothing has been written then.
      experiments.runner.RunError: the loss was not finite.
    """
    _check(config)
    workdir = workdir_of(experiment, preset, config)
    settings = settings_of(config)
    dataset = make_dataset(read(config.dataset), validation_fraction=config.validation_fraction, seed=config.seed)
    image_shape, classes = dataset.image_shape, len(dataset.class_names)
    network = make_network(config.network, image_shape, classes, switch_width=config.switch_width)
    draw_weights = initial_weights(network, config.weights.law, config.weights.gain)
    keys = streams(config.seed)
    distilled = noise(
        keys.noise,
        image_shape,
        classes,
        steps=config.distilled.steps,
        epochs=config.distilled.epochs,
        images_per_class=config.distilled.images_per_class,
        scale=config.distilled.noise,
        step_size=config.distilled.step_size,
    )
    loss = classification_loss(network.apply)
    nets = config.weights.nets
    outer = outer_step(loss, config.outer, many=nets is not None, mode=config.mode)
    if not config.plan:
        claim_workdir(workdir, {"experiment": experiment, "preset": preset, **settings})

    theta = jax.jit(draw_weights)(keys.weights) if nets is None else None
    draw_batch = batch_drawer(dataset, config.batch_size, augment=crop_and_flip if config.augment else None)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, theta, split):
        outer_state, key = state
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, outer_state.step))
        if nets is not None:
            theta = jax.vmap(draw_weights)(jax.random.split(jax.random.fold_in(keys.weights, outer_state.step), nets))
        outer_state, info = outer.update(update_key, outer_state, theta, draw_batch(draw_key, split))
        return (outer_state, key), info

    state = (outer.init(distilled), keys.batches)
    compiled = update.lower(state, theta, dataset.train).compile()
    print(memory_needed(compiled, config.mode), flush=True)
    if config.plan:
        return None

    @functools.partial(jax.jit, static_argnames="count")
    def score(distilled, key, split, count):
        """Scores ``[K, 2]`` before any step and after the last, of one known network or ``count`` held-out ones."""

        def of(theta):
            return evaluate(network.apply, theta, split, dataset.mean, dataset.std, classes)

        at, draw = (0, distilled.raw_step_sizes.shape[0]), draw_weights if nets is not None else lambda _: theta
        return evaluate_nets(jax.random.split(key, count), draw, loss, distilled, Training(), of, at)

    def validate(state):
        count = 1 if nets is None else config.weights.validation_nets
        result = score(state[0].distilled, keys.validation, dataset.validation, count)
        return {
            "validation_accuracy": float(result.accuracy[:, 1].mean()),
            "validation_loss": float(result.loss[:, 1].mean()),
        }

    trained = train(
        workdir,
        state,
        lambda state: compiled(state, theta, dataset.train),
        steps=config.outer.steps,
        validate=validate,
        validate_every=max(1, config.outer.steps // 20),
        checkpoint_seconds=config.checkpoint_seconds,
        remedy="lower --outer.learning-rate or --distilled.step-size",
    )
    distilled = trained.state[0].distilled
    known = reported(experiment, config)
    tested = score(distilled, keys.test, dataset.test, 1 if nets is None else config.weights.test_nets)
    result = {
        "experiment": experiment,
        "preset": preset,
        "dataset": config.dataset,
        "seed": config.seed,
        "outer_steps": config.outer.steps,
        "wall_seconds": trained.seconds,
        "test_accuracy": {
            "before": mean_and_std(tested.accuracy[:, 0]),
            "after": mean_and_std(tested.accuracy[:, 1]),
        },
        **validate(trained.state),
        "reported": known.get("after"),
        "reported_std": known.get("std"),
        "reported_before": known.get("before"),
        "config": settings,
        "versions": {"dd_jax": dd_jax.__version__, "jax": jax.__version__},
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind} ({platform.machine()})",
    }
    _write(workdir, config, result, distilled, dataset, theta, trained.metrics)
    return result


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that decide a run's result, as result.json holds them."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_OF_THE_RESULT}


def workdir_of(experiment: str, preset: str, config: Config) -> Path:
    """The folder of a run."""
    return config.workdir or Path("runs") / experiment / preset


def mean_and_std(accuracy: ArrayLike) -> dict[str, float | int]:
    """Mean, standard deviation and count over networks; of a single one the deviation is 0."""
    values = np.asarray(accuracy, np.float64)
    return {"mean": float(values.mean()), "std": float(values.std(ddof=min(1, values.size - 1))), "n": values.size}


def reported(experiment: str, config: Config) -> dict[str, float]:
    """The paper's figures for this experiment, data set and shape of distilled data; empty where it has none."""
    shape = config.distilled
    return REPORTED.get((experiment, config.dataset, shape.steps, shape.epochs, shape.images_per_class), {})


def _write(workdir, config: Config, result, distilled: DistilledData, dataset: Dataset, theta, metrics) -> None:
    meta = {
        "experiment": result["experiment"],
        "dataset": config.dataset,
        "validation_fraction": config.validation_fraction,
        "network": config.network,
        "initialisation": {"law": config.weights.law, "gain": config.weights.gain, "seed": config.seed},
        "steps": config.distilled.steps,
        "epochs": config.distilled.epochs,
        "class_names": dataset.class_names,
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
    quoted = {
        "before": percent_reported(result["reported_before"]),
        "after": percent_reported(result["reported"], result["reported_std"]),
    }
    for when, score in result["test_accuracy"].items():
        print(f"test accuracy {when:>6} the steps: {percent(score)}   (reported by the paper: {quoted[when]})")
    page = workdir_of(experiment, preset, config) / "report.html"
    print(f"{result['outer_steps']} outer steps in {result['wall_seconds']:.0f} s; the report is {page}")
