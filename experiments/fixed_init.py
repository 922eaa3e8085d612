"""Fixed initialisation: a few synthetic images that train one known network (paper, section 4.1, figure 2).

The paper reports 12.9 % → 93.8 % on MNIST's test set, with 10 images and 3 gradient steps on LeNet, and
8.8 % → 54.0 % on CIFAR-10's, with 100 images and 30 steps on AlexCifarNet. What this code measured is in README.md.

    python -m experiments.fixed_init [PRESET] [--workdir DIR] [--outer.steps N] [--seed K] …

writes result.json, distilled.npz, images.png, report.html, metrics.jsonl and checkpoints/ to the work folder. The same
command again goes on where it was interrupted.
"""

import dataclasses
import functools
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dd_jax
from dd_jax.data import Dataset, batch_drawer, crop_and_flip, make_dataset
from dd_jax.evaluation import evaluate
from dd_jax.initial_weights import initial_weights
from dd_jax.losses import classification_loss
from dd_jax.networks import make_network
from dd_jax.outer import OuterRecipe, check_recipe, outer_step
from dd_jax.readers import read
from dd_jax.report import draw_curve, draw_images, html_report, percent, to_png
from dd_jax.storage import save_distilled, write_atomically, write_json
from dd_jax.unroll import DistilledData, Mode, noise, unroll
from experiments.reported import FIXED_INIT
from experiments.runner import claim_workdir, command_line, memory_needed, positive, require, run_as_script, train


@dataclasses.dataclass(frozen=True)
class Weights:
    """p(θ₀), the distribution that the one known θ₀ is drawn from."""

    law: str = "xavier_normal"
    """One of dd_jax.initial_weights.LAWS."""
    gain: float = 1.0
    """Scale of the law."""


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
    """Where the run lives; runs/fixed_init/PRESET if not given."""
    plan: bool = False
    """Only say how much memory an outer step needs, without running any."""


_TEN = OuterRecipe(steps=2400, learning_rate=0.05, samples=16)
_HUNDRED = OuterRecipe(steps=6000, learning_rate=0.02)
_OURS = {
    "digits": Config(
        distilled=Distilled(epochs=5),
        outer=OuterRecipe(steps=1000, learning_rate=0.03),
        batch_size=128,
        validation_fraction=0.1,
    ),
    "mnist": Config("mnist", outer=_TEN),
    "mnist_long": Config("mnist", outer=dataclasses.replace(_TEN, steps=8000)),
    "mnist_100": Config("mnist", distilled=Distilled(steps=10, step_size=0.1), outer=_HUNDRED, batch_size=512),
    "fashion_mnist": Config("fashion_mnist", outer=_TEN),
    "cifar10": Config(
        "cifar10",
        "alexcifarnet",
        distilled=Distilled(steps=10, step_size=0.02),
        outer=_HUNDRED,
        batch_size=256,
        augment=True,
    ),
}


def _authors(config: Config, batches: int, step_size: float) -> Config:
    """The recipe of the paper's code: 400 epochs of ``batches`` batches of 1,024, the rate halved every 40 of them."""
    return dataclasses.replace(
        config,
        distilled=dataclasses.replace(config.distilled, epochs=3, noise=1.0, step_size=step_size),
        outer=OuterRecipe(400 * batches, 0.01, b1=0.5, b2=0.999, halve_every=40 * batches, clip=None, samples=1),
        batch_size=1024,
        switch_width=0.0,
    )


_AUTHORS = {
    "digits_authors": _authors(_OURS["digits"], 2, 0.02),
    "mnist_authors": _authors(_OURS["mnist"], 59, 0.02),
    "mnist_100_authors": _authors(_OURS["mnist_100"], 59, 0.02),
    "fashion_mnist_authors": _authors(_OURS["fashion_mnist"], 59, 0.02),
    "cifar10_authors": _authors(_OURS["cifar10"], 49, 0.001),
}
PRESETS = _OURS | _AUTHORS


_NOT_OF_THE_RESULT = ("workdir", "checkpoint_seconds", "plan")  # settings that do not change it


def _check(config: Config) -> None:
    """Refuses what can be refused before reading data; the library checks the rest of its arguments itself."""
    check_recipe(config.outer)
    samples = config.outer.samples
    require(config.batch_size >= 1, "batch_size", config.batch_size, "1 or more")
    require(
        config.batch_size % samples == 0, "batch_size", config.batch_size, f"a multiple of outer.samples, {samples}"
    )
    require(config.seed >= 0, "seed", config.seed, "0 or more")
    positive("checkpoint_seconds", config.checkpoint_seconds)


def run(preset: str, config: Config) -> dict[str, Any] | None:
    """Distils, evaluates once on the test set, and writes the results; or, with ``config.plan``, does none of that.

    Returns:
      The content of result.json, or None with ``config.plan``.

    Raises:
      ValueError: settings or data that cannot be used; nothing has been written then.
      experiments.runner.RunError: the loss was not finite.
    """
    _check(config)
    workdir = _workdir(preset, config)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_OF_THE_RESULT}
    dataset = make_dataset(read(config.dataset), validation_fraction=config.validation_fraction, seed=config.seed)
    image_shape, classes = dataset.image_shape, len(dataset.class_names)
    network = make_network(config.network, image_shape, classes, switch_width=config.switch_width)
    draw_weights = initial_weights(network, config.weights.law, config.weights.gain)
    weights_key, noise_key, batch_key = (jax.random.fold_in(jax.random.key(config.seed), i) for i in range(3))
    distilled = noise(
        noise_key,
        image_shape,
        classes,
        steps=config.distilled.steps,
        epochs=config.distilled.epochs,
        images_per_class=config.distilled.images_per_class,
        scale=config.distilled.noise,
        step_size=config.distilled.step_size,
    )
    loss = classification_loss(network.apply)
    outer = outer_step(loss, config.outer, mode=config.mode)
    if not config.plan:
        claim_workdir(workdir, {"experiment": "fixed_init", "preset": preset, **settings})

    theta = jax.jit(draw_weights)(weights_key)
    draw_batch = batch_drawer(dataset, config.batch_size, augment=crop_and_flip if config.augment else None)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, theta, split):
        outer_state, key = state
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, outer_state.step))
        outer_state, info = outer.update(update_key, outer_state, theta, draw_batch(draw_key, split))
        return (outer_state, key), info

    state = (outer.init(distilled), batch_key)
    compiled = update.lower(state, theta, dataset.train).compile()
    print(memory_needed(compiled, config.mode), flush=True)
    if config.plan:
        return None

    @jax.jit
    def score(theta, split):
        return evaluate(network.apply, theta, split, dataset.mean, dataset.std, classes)

    train_on = jax.jit(functools.partial(unroll, loss))

    def validate(state):
        result = score(train_on(theta, state[0].distilled), dataset.validation)
        return {"validation_accuracy": float(result.accuracy), "validation_loss": float(result.loss)}

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
    reported = _reported(config)
    before, after = (score(weights, dataset.test) for weights in (theta, train_on(theta, distilled)))
    result = {
        "experiment": "fixed_init",
        "preset": preset,
        "dataset": config.dataset,
        "seed": config.seed,
        "outer_steps": config.outer.steps,
        "wall_seconds": trained.seconds,
        "test_accuracy": {"before": _one(before), "after": _one(after)},
        **validate(trained.state),
        "reported": reported.get("after"),
        "reported_before": reported.get("before"),
        "config": settings,
        "versions": {"dd_jax": dd_jax.__version__, "jax": jax.__version__},
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind} ({platform.machine()})",
    }
    _write(workdir, config, result, distilled, dataset, theta, trained.metrics)
    return result


def _workdir(preset: str, config: Config) -> Path:
    return config.workdir or Path("runs/fixed_init") / preset


def _one(score) -> dict[str, float | int]:
    """A single network's accuracy, in the form that many networks' have."""
    return {"mean": float(score.accuracy), "std": 0.0, "n": 1}


def _reported(config: Config) -> dict[str, float]:
    """The paper's figures for this data set and shape of distilled data; empty where it has none."""
    shape = config.distilled
    return FIXED_INIT.get((config.dataset, shape.steps, shape.epochs, shape.images_per_class), {})


def _write(workdir, config: Config, result, distilled: DistilledData, dataset: Dataset, theta, metrics) -> None:
    meta = {
        "experiment": result["experiment"],
        "network": config.network,
        "initialisation": {**result["config"]["weights"], "seed": config.seed},
        "steps": config.distilled.steps,
        "epochs": config.distilled.epochs,
        "class_names": dataset.class_names,
        "versions": result["versions"],
        "use": "for t in range(E * S): gradient descent on images[t % S], labels[t % S] with step_sizes[t], "
        "mean cross-entropy, from initial_weights (flax layout: kernels [H, W, in, out] and [in, out], NHWC images)",
    }
    images = to_png(draw_images(distilled, dataset.class_names))
    pictures = {"Distilled images": images, "Training": to_png(draw_curve(metrics))}
    page = html_report(result, np.asarray(distilled.step_sizes), config.distilled.steps, pictures)
    save_distilled(workdir / "distilled.npz", distilled, dataset.mean, dataset.std, meta, theta)
    write_atomically(workdir / "images.png", images)
    write_atomically(workdir / "report.html", page)
    write_json(workdir / "result.json", result)


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv)
    result = run(preset, config)
    if result is None:
        return
    for when, reported in (("before", result["reported_before"]), ("after", result["reported"])):
        known = "" if reported is None else f"   (reported by the paper: {100 * reported:.1f} %)"
        print(f"test accuracy {when:>6} the steps: {percent(result['test_accuracy'][when])}{known}")
    page = _workdir(preset, config) / "report.html"
    print(f"{result['outer_steps']} outer steps in {result['wall_seconds']:.0f} s; the report is {page}")


if __name__ == "__main__":
    run_as_script(main)
