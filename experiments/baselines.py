"""Every baseline of the paper beside distilled data: the same gradient steps on other images (paper, table 1).

    python -m experiments.baselines [PRESET] [--against RUN …] [--weights.test-nets K] …

trains held-out networks on random real images, on the best of many such sets, on k-means centres and on class averages,
and classifies by k nearest neighbours. Each kind of set has the step sizes and the number of epochs that do best on
validation data: a fixed step size, or the learned ones of a run given with ``--against``. The best of many sets are
chosen on training data; the test split is touched once, at the end. Prints the table, with the paper's figures beside
ours, and writes it to the work folder as result.json and table.md.

    python -m experiments.baselines cifar10 --against results/random_init/cifar10

is the paper's table for CIFAR-10. It wants an accelerator; a CPU takes --weights.test-nets 20
--weights.validation-nets 4 --sets 5.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax import baselines
from dd_jax.base import Distilled
from dd_jax.baselines import Layout, best_step_size, with_step_sizes
from dd_jax.checks import require
from dd_jax.data.augment import crop_and_flip
from dd_jax.data.dataset import Dataset, Split
from dd_jax.data.normalisation import Normalisation, normalise
from dd_jax.files.atomic import write_atomically, write_json
from dd_jax.files.text import percent, percent_reported
from dd_jax.weights.bank import load_bank

from . import evaluate as evaluate_experiment
from .command_line import command_line, run_as_script
from .inner import Inner, inner_of
from .nets import HeldOut, Nets, dealt
from .precision import in_its_precision
from .problem import Problem, assemble, identity
from .reported import BASELINES, fields
from .say import say
from .scoring import mean_and_std, scorer
from .settings import Setting, Weights, jsonable
from .streams import streams
from .workdir import claimed, is_finished, provenance

STEP_SIZES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # the paper's
FINER = (1.0, 0.56, 0.75, 1.33, 1.78)  # times the best of these: ours, in favour of the baselines
MARGIN = 1.2
"""On a known network, step sizes must do well also when they are this much larger. One loop alone is not averaged over
networks, and at the edge of divergence a rounding decides where it ends."""


@dataclasses.dataclass(frozen=True)
class Config(Setting):
    """Settings of a table."""

    weights: Weights = dataclasses.field(default_factory=lambda: Weights(nets=1))
    """p(θ₀), and how many networks are held out of it."""
    steps: int = 10
    """S, distinct gradient steps."""
    epochs: tuple[int, ...] = (1, 3, 5)
    """E, passes over them: the number of these that does best."""
    images_per_class: int | tuple[int, ...] = 1
    """Images per class and step; or a number for each class."""
    sets: int = 20
    """Random sets of real images, for training and for the nearest neighbours."""
    candidates: int = 50
    """Random sets of which the best fifth counts as optimized."""
    k_means_sets: int = 3
    """Sets of k-means centres, for training and for the nearest neighbours."""
    k_means_starts: int = 1
    """Starts of each, of which the one with the least inertia is kept."""
    augment: bool = False
    """Make the sets of images that are cropped and flipped at random, as the paper does for CIFAR-10."""
    scoring_examples: int = 1024
    """Validation examples that step sizes and k are chosen on, and training examples that candidates are scored on."""
    against: tuple[Path, ...] = ()
    """Runs or distilled.npz files to put beside the baselines. The learned step sizes of those that have as many steps,
    by plain gradient descent, are tried on the baselines too."""
    full: Path | None = None
    """A bank trained on the whole of the data set, to put beside the baselines."""
    workdir: Path | None = None
    """Where the table goes; runs/baselines/PRESET if not given."""


PRESETS = {
    "digits": Config(sets=5, candidates=10, weights=Weights(nets=1, test_nets=50), validation_fraction=0.1),
    "mnist": Config("mnist", weights=Weights(nets=1, validation_nets=30)),
    "fashion_mnist": Config("fashion_mnist", weights=Weights(nets=1, validation_nets=30)),
    "cifar10": Config(
        "cifar10", "alexcifarnet", weights=Weights(nets=1, validation_nets=20), augment=True, k_means_starts=3
    ),
}


def _some(split: Split, count: int) -> Split:
    """So many of its examples, or all; at random, since they may be in order of class."""
    some = np.random.default_rng(0).permutation(len(split.labels))[:count]
    return Split(split.images[some], split.labels[some], split.normalisation)


# (…, numbers of epochs) -> accuracies [K, len(epochs)] after each of them
Scorer = Callable[[Distilled, HeldOut, Split, tuple[int, ...]], np.ndarray]


def check(config: Config) -> None:
    """Refuses what can be refused before reading data."""
    for name in ("sets", "candidates", "k_means_sets", "k_means_starts", "scoring_examples"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "1 or more")
    require(
        bool(config.epochs) and config.epochs[0] >= 1 and list(config.epochs) == sorted(set(config.epochs)),
        "epochs",
        config.epochs,
        "increasing numbers, each 1 or more",
    )
    if config.full is not None:
        require((config.full / "train").is_dir(), "full", config.full, "the work folder of experiments.pretrain")
        held, here = json.loads((config.full / "config.json").read_text()), jsonable(config, config.full)
        for name in ("dataset", "network"):
            bank = f"{config.full}, with {name} {held[name]},"
            require(held[name] == here[name], "full", bank, f"a bank with {here[name]}, as here")


@in_its_precision
def run(preset: str, config: Config, *, reported: str | None = None, note: str = "") -> dict[str, Any]:
    """Measures every row.

    Args:
      preset, config: what to measure.
      reported: whose figures of the paper to put beside it, a first key of ``BASELINES``; the data set's if not given.
      note: a line that belongs under the table.

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
            print(table(finished["rows"], note), end="", flush=True)
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
        own = "" if config.images.classes else config.dataset
        paper_s = own if reported is None else reported
        for name, accuracy, facts in _rows(config, problem):
            quoted = BASELINES.get((paper_s, name), {})
            rows.append({"name": name, "accuracy": accuracy, **fields(quoted), **facts})
            print(_line(rows[-1]), flush=True)
        print(f"\n{note}\n" if note else "", end="", flush=True)
        result = {
            **head,
            "dataset": config.dataset,
            "wall_seconds": time.monotonic() - began,
            "rows": rows,
            "config": settings,
            **provenance(),
        }
        write_atomically(workdir / "table.md", table(rows, note))
        write_json(workdir / "result.json", result)
        return result


_HEADING = "| | measured | reported | chosen |\n|---|---|---|---|"
_Row = tuple[str, dict[str, Any], dict[str, Any]]  # name, accuracy, facts


class _StepSizes(NamedTuple):
    """Step sizes to try."""

    name: str  # of the run that learned them; empty for a fixed one
    values: np.ndarray  # [T] of a run, [1] of a fixed one

    def on(self, distilled: Distilled, factor: float = 1.0) -> Distilled:
        """The same images under these step sizes, each times ``factor``."""
        return with_step_sizes(distilled, self.values * factor)

    def facts(self, epochs: int) -> dict[str, Any]:
        """What result.json says of them."""
        fixed = {"step_size": float(self.values[0])}
        return (fixed if not self.name else {"step_sizes_of": self.name}) | {"epochs": epochs}


def _fixed(step_size: float) -> _StepSizes:
    return _StepSizes("", np.array([step_size]))


def _learned(config: Config) -> list[_StepSizes]:
    """The learned step sizes of the runs beside the baselines, where they are of this loop."""
    learned = []
    for path in config.against:
        file = evaluate_experiment.load(path)
        loop = dataclasses.replace(inner_of(file.meta.get("inner", {})), window=None, window_start="random")
        if len(file.images) != config.steps or loop != Inner():
            say(f"the step sizes of {path} are not tried on the baselines: it has another loop")
            continue
        learned.append(_StepSizes(str(path), np.asarray(file.step_sizes, np.float64)))
    return learned


class _Sets(NamedTuple):
    """The sets of images that the baselines are made of."""

    random: list[Distilled]
    k_means: list[Distilled]
    average: Distilled
    optimized: Callable[[Callable[[Distilled], float]], list[Distilled]]  # by a score
    neighbours: list[Distilled]  # random ones for the nearest neighbours


def _sets(config: Config, dataset: Dataset, layout: Layout) -> _Sets:
    keys, source = streams(config.seed), dataset.train
    if config.augment:
        source = source._replace(images=jax.jit(crop_and_flip)(keys.augmented_sets, source.images))
    of_training = (source, layout)
    first, *others = jax.random.split(keys.real_sets, config.sets + 1)
    seeds = range(config.seed, config.seed + config.k_means_sets)
    resident = not config.images.streamed
    say("looking for k-means centres" if resident else "drawing sets of images")
    return _Sets(
        [baselines.random_real(key, *of_training) for key in others],
        [baselines.k_means(*of_training, seed=seed, n_init=config.k_means_starts) for seed in seeds if resident],
        baselines.average_image(*of_training),
        lambda score: baselines.optimized_real(first, *of_training, score, candidates=config.candidates),
        [baselines.random_real(key, *of_training) for key in jax.random.split(keys.neighbours, config.sets)],
    )


def _rows(config: Config, problem: Problem) -> Iterator[_Row]:
    """Measures every row, in the order of the table."""
    dataset, network, nets, *_ = problem
    layout = Layout(len(dataset.class_names), config.steps, config.epochs[-1], config.images_per_class)
    learned, sets = _learned(config), _sets(config, dataset, layout)
    say("compiling, and training networks on sets of images")

    @functools.cache
    def scorer_after(epochs):
        return scorer(dataset, network, at=tuple(config.steps * number for number in epochs))

    def score(distilled, held_out, split, epochs):
        return np.asarray(scorer_after(epochs)(distilled, held_out, split).accuracy)

    def as_it_is(held_out):
        return mean_and_std(scorer(dataset, network, at=(0,))(sets.average, held_out, dataset.test).accuracy[:, 0])

    if config.weights.bank is not None:
        yield "no adaptation", as_it_is(nets.test), {}
    for name, accuracies, facts in _trained(config, dataset, sets, nets, score, learned):
        yield name, mean_and_std(accuracies), facts
    if not config.images.streamed:  # neighbours of 150,000 numbers, and centres, are of no use, and slow
        yield from _neighbours(config, dataset, sets)
    if config.full is not None:
        part = next(config.full / part for part in ("held_out", "train") if (config.full / part).is_dir())
        full = load_bank(part, network, dataset.image_shape)
        held = json.loads((config.full / "config.json").read_text())
        name = "full fine-tuning" if held.get("bank") else "full training"
        yield name, as_it_is((jax.random.split(jax.random.key(0), len(full.accuracy)), full.weights)), {}
    for path in config.against:
        count = evaluate_experiment.nets_for(path, config.weights.test_nets)
        settings = evaluate_experiment.Config(dataset=config.dataset, nets=count, precision=config.precision)
        yield f"distilled: {path}", evaluate_experiment.run(path, settings)["scores"][-1]["accuracy"], {}


def _trained(
    config: Config, dataset: Dataset, sets: _Sets, nets: Nets, score: Scorer, learned: Sequence[_StepSizes] = ()
) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """Yields (name, test accuracies, step sizes and epochs) of each baseline that trains networks."""
    choosing, scoring = (_some(split, config.scoring_examples) for split in (dataset.validation, dataset.train))

    def accuracies(
        sets: Sequence[Distilled], sizes: _StepSizes, held_out: HeldOut, split: Split, *epochs: int, factor: float = 1.0
    ) -> np.ndarray:
        """``[K, len(epochs)]``, each set on its share of the networks."""
        shares = zip(sets, dealt(held_out, len(sets)), strict=True)
        return np.concatenate([score(sizes.on(data, factor), share, split, epochs) for data, share in shares])

    def steady(sets: Sequence[Distilled], sizes: _StepSizes, split: Split, *epochs: int) -> np.ndarray:
        """``[len(epochs)]``: means on the validation networks; on a known one, of the worse at two sizes."""
        at = accuracies(sets, sizes, nets.validation, split, *epochs)
        if nets.known is None:
            return at.mean(0)
        return np.minimum(at, accuracies(sets, sizes, nets.validation, split, *epochs, factor=MARGIN)).mean(0)

    def chosen_for(sets: Sequence[Distilled]) -> tuple[_StepSizes, int]:
        """The step sizes and number of epochs that do best on validation data, for all sets together."""
        by_validation = functools.cache(lambda size: steady(sets, _fixed(size), choosing, *config.epochs))

        def best(step_sizes: Sequence[float]) -> float:
            return best_step_size(step_sizes, lambda size: by_validation(size).max())

        size = best([best(STEP_SIZES) * factor for factor in FINER])
        choices = [(_fixed(size), by_validation(size))]
        choices += [(sizes, steady(sets, sizes, choosing, *config.epochs)) for sizes in learned]
        sizes, scores = max(choices, key=lambda choice: choice[1].max())
        return sizes, config.epochs[scores.argmax()]

    def tested(name: str, sets: Sequence[Distilled], sizes: _StepSizes, epochs: int):
        accuracy = accuracies(sets, sizes, nets.test, dataset.test, epochs)[:, 0]
        return name, accuracy, sizes.facts(epochs)

    sizes, epochs = chosen_for(sets.random)
    yield tested("random real", sets.random, sizes, epochs)
    for those in learned:
        yield tested(f"random real, step sizes of {those.name}", sets.random, those, _epochs_of(those, config))
    optimized = sets.optimized(lambda candidate: float(steady([candidate], sizes, scoring, epochs)[0]))
    for name, some in (("optimized real", optimized), ("k-means", sets.k_means), ("average real", [sets.average])):
        if some:
            yield tested(name, some, *chosen_for(some))


def _epochs_of(learned: _StepSizes, config: Config) -> int:
    """How many epochs step sizes were learned for."""
    return len(learned.values) // config.steps


def _neighbours(config: Config, dataset: Dataset, sets: _Sets) -> Iterator[_Row]:
    """Yields (name, accuracy, facts) of k nearest neighbours, k and p chosen on validation data."""
    few = _some(dataset.validation, config.scoring_examples)

    def tested(name: str, sets: Sequence[Distilled], normalisation: Normalisation):
        def accuracy(distilled: Distilled, split: Split, k: int, p: int) -> float:
            guesses = baselines.nearest_neighbours(distilled, normalise(split.images, normalisation), k=k, p=p)
            return float(np.mean(guesses == np.asarray(split.labels)))

        references = sets[0].images.shape[0] * sets[0].images.shape[1]
        choices = [(k, p) for k in (1, 3) if k <= references for p in (1, 2)]
        k, p = max(choices, key=lambda kp: np.mean([accuracy(d, few, *kp) for d in sets[:5]]))
        accuracies = jnp.array([accuracy(distilled, dataset.test, k, p) for distilled in sets])
        return name, mean_and_std(accuracies), {"k": k, "p": p}

    yield tested("random k-NN", sets.neighbours, dataset.train.normalisation)
    yield tested("k-means k-NN", sets.k_means, dataset.train.normalisation)
    for path in config.against:
        file = evaluate_experiment.load(path)
        yield tested(f"distilled k-NN: {path}", [file.distilled], file.normalisation)


def table(rows: Iterable[dict[str, Any]], note: str = "") -> str:
    """Markdown: the rows of a result.json, and a line under them."""
    return "\n".join([_HEADING, *map(_line, rows), *(["", note] if note else [])]) + "\n"


def _line(row: dict[str, Any]) -> str:
    if "k" in row:
        chosen = f"k = {row['k']}, ℓ{row['p']}"
    elif "step_size" in row:
        chosen = f"η̃ = {row['step_size']:.2g}, E = {row['epochs']}"
    else:
        chosen = f"η̃ of {row['step_sizes_of']}, E = {row['epochs']}" if "step_sizes_of" in row else "–"
    reported = percent_reported(row["reported"], row["reported_std"], checked=row.get("reported_checked"))
    return f"| {row['name']} | {percent(row['accuracy'])} | {reported} | {chosen} |"


def _workdir(preset: str, config: Config) -> Path:
    return config.workdir or Path("runs/baselines") / preset


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv, "baselines")
    result = run(preset, config)
    print(f"{result['wall_seconds']:.0f} s; the table is {_workdir(preset, config) / 'table.md'}")


if __name__ == "__main__":
    run_as_script(main)
