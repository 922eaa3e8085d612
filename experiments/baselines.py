"""Every baseline of the paper beside distilled data: the same gradient steps on other images (paper, table 1).

    python -m experiments.baselines [PRESET] [--against RUN …] [--weights.test-nets K] …

trains held-out networks on random real images, on the best of many such sets, on k-means centres and on class averages,
and classifies by k nearest neighbours. Each kind of set has the fixed step size and number of epochs that do best on
validation data; the best of many sets are chosen on training data; the test split is touched once, at the end. Prints
the table, with the paper's figures beside ours, and writes it to the work folder as result.json and table.md.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax import baselines
from dd_jax.base import Distilled
from dd_jax.baselines import Layout, best_step_size, with_step_size
from dd_jax.checks import require
from dd_jax.data.dataset import Dataset, Split
from dd_jax.data.normalisation import normalise
from dd_jax.files.atomic import write_atomically, write_json
from dd_jax.files.text import percent, percent_reported
from dd_jax.weights.bank import load_bank

from . import evaluate as evaluate_experiment
from .command_line import command_line, run_as_script, use_every_core
from .nets import HeldOut, Nets, dealt
from .problem import Problem, assemble, identity
from .reported import BASELINES, fields
from .say import say
from .scoring import mean_and_std, scorer
from .settings import Setting, Weights, jsonable
from .streams import streams
from .workdir import claimed, is_finished, provenance

STEP_SIZES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
FINER = (1.0, 0.7, 0.84, 1.19, 1.41)  # times the best of these


@dataclasses.dataclass(frozen=True)
class Config(Setting):
    """Settings of a table."""

    weights: Weights = dataclasses.field(default_factory=lambda: Weights(nets=1))
    """p(θ₀), and how many networks are held out of it."""
    steps: int = 10
    """S, distinct gradient steps."""
    epochs: tuple[int, ...] = (1, 3, 5)
    """E, passes over them: the number of these that does best."""
    images_per_class: int = 1
    """Images per class and step."""
    sets: int = 20
    """Random sets, of real images and of first k-means centres for the nearest neighbours."""
    candidates: int = 50
    """Random sets of which the best fifth counts as optimized."""
    scoring_examples: int = 1000
    """Validation examples that step sizes and k are chosen on, and training examples that candidates are scored on."""
    against: tuple[Path, ...] = ()
    """Runs or distilled.npz files to put beside the baselines."""
    full: Path | None = None
    """A bank trained on the whole of the data set, to put beside the baselines."""
    workdir: Path | None = None
    """Where the table goes; runs/baselines/PRESET if not given."""


PRESETS = {
    "digits": Config(sets=5, candidates=10, weights=Weights(nets=1, test_nets=50), validation_fraction=0.1),
    "mnist": Config("mnist", weights=Weights(nets=1, validation_nets=30)),
    "fashion_mnist": Config("fashion_mnist", weights=Weights(nets=1, validation_nets=30)),
    "cifar10": Config("cifar10", "alexcifarnet", weights=Weights(nets=1, test_nets=20, validation_nets=2), sets=5),
}


def _some(split: Split, count: int) -> Split:
    """So many of its examples, or all; at random, since they may be in order of class."""
    some = np.random.default_rng(0).permutation(len(split.labels))[:count]
    return Split(split.images[some], split.labels[some], split.normalisation)


# (…, numbers of epochs) -> accuracies [K, len(epochs)] after each of them
Scorer = Callable[[Distilled, HeldOut, Split, tuple[int, ...]], np.ndarray]


def check(config: Config) -> None:
    """Refuses what can be refused before reading data."""
    for name in ("sets", "candidates", "scoring_examples"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "1 or more")
    require(
        bool(config.epochs) and config.epochs[0] >= 1 and list(config.epochs) == sorted(set(config.epochs)),
        "epochs",
        config.epochs,
        "increasing numbers, each 1 or more",
    )
    if config.full is not None:
        require((config.full / "held_out").is_dir(), "full", config.full, "the work folder of experiments.pretrain")
        held, here = json.loads((config.full / "config.json").read_text()), jsonable(config, config.full)
        for name in ("dataset", "network"):
            bank = f"{config.full}, with {name} {held[name]},"
            require(held[name] == here[name], "full", bank, f"a bank with {here[name]}, as here")


def run(preset: str, config: Config, *, reported: str | None = None) -> dict[str, Any]:
    """Measures every row.

    Args:
      preset, config: what to measure.
      reported: whose figures of the paper to put beside it, a first key of ``BASELINES``; the data set's if not given.

    Returns:
      The content of result.json.

    Raises:
      ValueError: settings or data that cannot be used; nothing has been written then.
    """
    check(config)
    for path in config.against:
        evaluate_experiment.load(path)
    workdir = _workdir(preset, config)

    settings = {k: v for k, v in jsonable(config, workdir).items() if k != "workdir"}
    head = {"experiment": "baselines", "preset": preset}
    if is_finished(workdir):
        with claimed(workdir, head | settings | identity(config)) as finished:
            assert finished is not None
            print(table(finished["rows"]), flush=True)
            return finished
    problem = assemble(config)
    settings |= problem.identity
    if config.full is not None:
        held, data = json.loads((config.full / "config.json").read_text()).get("data"), problem.identity["data"]
        require(held in (None, data), "full", f"{config.full}, of other data,", f"a bank of {config.dataset}")
    with claimed(workdir, head | settings) as finished:
        if finished is not None:  # by another process meanwhile
            return finished
        began = time.monotonic()
        rows = []
        print(_HEADING, flush=True)
        for name, accuracy, facts in _rows(config, problem):
            quoted = BASELINES.get((config.dataset if reported is None else reported, name), {})
            rows.append({"name": name, "accuracy": accuracy, **fields(quoted), **facts})
            print(_line(rows[-1]), flush=True)
        result = {
            **head,
            "dataset": config.dataset,
            "wall_seconds": time.monotonic() - began,
            "rows": rows,
            "config": settings,
            **provenance(),
        }
        write_atomically(workdir / "table.md", f"{table(rows)}\n")
        write_json(workdir / "result.json", result)
        return result


_HEADING = "| | measured | reported | chosen |\n|---|---|---|---|"
_Row = tuple[str, dict[str, Any], dict[str, Any]]  # name, accuracy, facts


def _rows(config: Config, problem: Problem) -> Iterator[_Row]:
    """Measures every row, in the order of the table."""
    dataset, network, nets, _ = problem
    layout = Layout(len(dataset.class_names), config.steps, config.epochs[-1], config.images_per_class)
    say("compiling, and training networks on sets of images")

    @functools.cache
    def scorer_after(epochs):
        return scorer(dataset, network, at=tuple(config.steps * number for number in epochs))

    def score(distilled, held_out, split, epochs):
        return np.asarray(scorer_after(epochs)(distilled, held_out, split).accuracy)

    def as_it_is(held_out):
        anything = baselines.average_image(dataset.train, layout)
        return mean_and_std(scorer(dataset, network, at=(0,))(anything, held_out, dataset.test).accuracy[:, 0])

    if config.weights.bank is not None:
        yield "no adaptation", as_it_is(nets.test), {}
    for name, accuracies, facts in _trained(config, dataset, layout, nets, score):
        yield name, mean_and_std(accuracies), facts
    yield from _neighbours(config, dataset, layout)
    if config.full is not None:
        full = load_bank(config.full / "held_out", network, dataset.image_shape)
        yield "full training", as_it_is((jax.random.split(jax.random.key(0), len(full.accuracy)), full.weights)), {}
    for path in config.against:
        count = evaluate_experiment.nets_for(path, config.weights.test_nets)
        settings = evaluate_experiment.Config(dataset=config.dataset, nets=count)
        yield f"distilled: {path}", evaluate_experiment.run(path, settings)["scores"][-1]["accuracy"], {}


def _trained(config: Config, dataset: Dataset, layout: Layout, nets: Nets, score: Scorer):
    """Yields (name, test accuracies, step size and epochs) of each baseline that trains networks."""
    set_keys = jax.random.split(streams(config.seed).real_sets, config.sets + 1)
    of_training = (dataset.train, layout)
    choosing, scoring = (_some(split, config.scoring_examples) for split in (dataset.validation, dataset.train))

    def accuracies(sets: Sequence[Distilled], step_size: float, held_out: HeldOut, split: Split, *epochs: int):
        """``[K, len(epochs)]``, each set on its share of the networks."""
        shares = zip(sets, dealt(held_out, len(sets)), strict=True)
        return np.concatenate([score(with_step_size(data, step_size), share, split, epochs) for data, share in shares])

    def tested(name: str, sets: Sequence[Distilled]):
        """All sets with the one step size and number of epochs that do best on validation data."""

        @functools.cache
        def by_validation(step_size: float) -> np.ndarray:
            return accuracies(sets, step_size, nets.validation, choosing, *config.epochs).mean(0)

        def best(step_sizes: Sequence[float]) -> float:
            return best_step_size(step_sizes, lambda step_size: by_validation(step_size).max())

        step_size = best([best(STEP_SIZES) * factor for factor in FINER])
        epochs = config.epochs[by_validation(step_size).argmax()]
        accuracy = accuracies(sets, step_size, nets.test, dataset.test, epochs)[:, 0]
        return name, accuracy, {"step_size": step_size, "epochs": epochs}

    name, of_random, chosen = tested("random real", [baselines.random_real(key, *of_training) for key in set_keys[1:]])
    yield name, of_random, chosen

    def on_training(candidate: Distilled) -> float:
        return float(accuracies([candidate], chosen["step_size"], nets.validation, scoring, chosen["epochs"]).mean())

    optimized = baselines.optimized_real(set_keys[0], *of_training, on_training, candidates=config.candidates)
    yield tested("optimized real", optimized)
    yield tested("k-means", [baselines.k_means(*of_training, seed=config.seed)])
    yield tested("average real", [baselines.average_image(*of_training)])


def _neighbours(config: Config, dataset: Dataset, layout: Layout):
    """Yields (name, accuracy, facts) of k nearest neighbours, k and p chosen on validation data."""
    of_training = (dataset.train, layout)
    keys = jax.random.split(streams(config.seed).neighbours, config.sets)

    def accuracy(distilled: Distilled, split: Split, k: int, p: int) -> float:
        images = normalise(split.images, split.normalisation)
        return float(np.mean(baselines.nearest_neighbours(distilled, images, k=k, p=p) == np.asarray(split.labels)))

    def tested(name: str, sets: Sequence[Distilled]):
        few = _some(dataset.validation, config.scoring_examples)
        references = sets[0].images.shape[0] * sets[0].images.shape[1]
        choices = [(k, p) for k in (1, 3) if k <= references for p in (1, 2)]
        k, p = max(choices, key=lambda kp: np.mean([accuracy(d, few, *kp) for d in sets[:5]]))
        accuracies = jnp.array([accuracy(distilled, dataset.test, k, p) for distilled in sets])
        return name, mean_and_std(accuracies), {"k": k, "p": p}

    yield tested("random k-NN", [baselines.random_real(key, *of_training) for key in keys])
    seeds = range(config.seed, config.seed + min(config.sets, 3))
    yield tested("k-means k-NN", [baselines.k_means(*of_training, seed=seed) for seed in seeds])


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown: the rows of a result.json."""
    return "\n".join([_HEADING, *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    if "k" in row:
        chosen = f"k = {row['k']}, ℓ{row['p']}"
    else:
        chosen = f"η̃ = {row['step_size']:.2g}, E = {row['epochs']}" if "step_size" in row else "–"
    reported = percent_reported(row["reported"], row["reported_std"], checked=row.get("reported_checked"))
    return f"| {row['name']} | {percent(row['accuracy'])} | {reported} | {chosen} |"


def _workdir(preset: str, config: Config) -> Path:
    return config.workdir or Path("runs/baselines") / preset


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv)
    result = run(preset, config)
    print(f"{result['wall_seconds']:.0f} s; the table is {_workdir(preset, config) / 'table.md'}")


if __name__ == "__main__":
    use_every_core()
    run_as_script(main)
