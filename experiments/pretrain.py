"""Trains a bank of networks on real data, for the experiments that begin from trained ones (paper, section 3.5).

    python -m experiments.pretrain [PRESET] [--networks 64] [--held-out 16] [--recipe.epochs N] …

makes two banks under the work folder, ``train`` and ``held_out``: no network is in both, and which weights a network
begins with, and what it sees in which order, depends on its number alone. Networks are trained a group at a time, dealt
out over the devices or the cores of a CPU. The same command goes on where it was interrupted; with more networks asked
for, it trains those that are missing. Prints their accuracy on the test split and writes result.json.

``mnist``, ``usps``, ``svhn`` and ``cifar10`` are the recipes of the paper's code, with batches of 1,024 and a smaller
last one. Here a twelfth of the training images is kept for validation, so an epoch of MNIST has 54 steps, not 59. The
``*_128`` presets are ours, with batches of 128 and eight times as many steps; so are the ``*_short`` ones, and
``cifar10_first_half``, a network for ``experiments.transfer`` that sees five of the ten classes.

``--bank DIR`` begins from trained networks: fine-tuning. ``--head zeros`` gives them a new last layer.
"""

import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Network, Params
from dd_jax.checks import require
from dd_jax.data.augment import crop_and_flip
from dd_jax.data.batches import epoch_order
from dd_jax.data.dataset import Dataset, Split
from dd_jax.evaluation import evaluate
from dd_jax.files.atomic import write_atomically, write_json
from dd_jax.files.checkpoint import checkpoints
from dd_jax.files.text import percent
from dd_jax.networks import make_network, parse_options
from dd_jax.objectives import classification_loss
from dd_jax.weights.bank import Bank, fingerprint, read_shards, save_shard
from dd_jax.weights.laws import initial_weights
from dd_jax.weights.pretraining import PretrainRecipe, Training, pretraining

from .command_line import command_line, run_as_script
from .metrics import read_lines
from .nets import bank_of, check_weights, with_head_layers
from .precision import in_its_precision
from .problem import check_split, data_of
from .say import say
from .scoring import added_up, mean_and_std
from .settings import Images, Precision, Weights, jsonable
from .signals import signals
from .streams import streams
from .training import RunError, Stopped
from .workdir import claimed, provenance

if TYPE_CHECKING:
    from dd_jax.data.streamed.originals import Originals

PARTS = ("train", "held_out")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a bank."""

    dataset: str = "digits"
    """digits, a TFDS name, or a path, as for the other experiments."""
    network: str = "lenet"
    """One of dd_jax.networks.NETWORKS, or an import path of a function that makes one, package.module:function."""
    network_options: tuple[str, ...] = ()
    """Options of the network, name=value, such as width=32."""
    images: Images = dataclasses.field(default_factory=Images)
    law: str = "xavier_normal"
    """Their initial weights: one of dd_jax.weights.laws.LAWS."""
    gain: float = 1.0
    """Scale of the law."""
    bank: Path | None = None
    """Begin from the networks of this bank, in turn, in place of the law: fine-tuning. Those that are held out begin
    from its held-out ones, if it has any."""
    bank_size: int | None = None
    """Height and width of the images that this bank was trained on, where those here are of another size."""
    head: Literal["loaded", "zeros", "drawn"] = "loaded"
    """The last layer that they begin with: the bank's own, zeros with biases of one, or drawn by the law and gain (see
    experiments.settings.Weights)."""
    head_layers: tuple[str, ...] = ()
    """The weights that are new with it, as patterns of their names; those whose shape depends on the number of classes
    if not given."""
    recipe: PretrainRecipe = dataclasses.field(default_factory=PretrainRecipe)
    augment: bool = False
    """Crop and flip the examples at random, as the paper does for CIFAR-10."""
    validation_fraction: float = 1 / 12
    """Share of the training split that no network sees."""
    networks: int = 64
    """Networks to distil with."""
    held_out: int = 16
    """Networks to validate and test with; none for known networks."""
    group: int = 16
    """Networks trained at a time, one where the images are streamed; with another number, a group that was interrupted
    begins anew."""
    seed: int = 0
    """Draws everything about the networks, and the validation split."""
    precision: Precision = "float32"
    """What products are computed in (see experiments.settings.Setting)."""
    workdir: Path | None = None
    """Where the bank lives; runs/pretrain/PRESET if not given."""


def _lenets(dataset: str, epochs: int, halve_every: int, **settings: Any) -> Config:
    """The rates of the paper's code."""
    return Config(dataset, recipe=PretrainRecipe(epochs, 2e-4, halve_every), **settings)


_128 = {
    "mnist": _lenets("mnist", 40, 20),
    "usps": _lenets("usps", 130, 40, images=Images(size=28)),
    "usps_28": _lenets("usps_28", 130, 40),
    "svhn": _lenets("svhn_cropped", 65, 20),
    "cifar10": Config("cifar10", network="alexcifarnet", recipe=PretrainRecipe(50, 1e-3, 7), augment=True, group=4),
}


def _authors(config: Config) -> Config:
    """The paper's own: larger batches and a whole bank, of whose held-out networks 20 are for validation."""
    recipe = dataclasses.replace(config.recipe, batch_size=1024, keep_last=True)
    return dataclasses.replace(config, recipe=recipe, networks=2000, held_out=220)


_PAPER = {name: _authors(config) for name, config in _128.items()}


def _short(name: str, epochs: int, rate: float, halve_every: int, batch_size: int = 128, **settings: Any) -> Config:
    recipe = PretrainRecipe(epochs, rate, halve_every, batch_size=batch_size)
    return dataclasses.replace(_128[name], recipe=recipe, **settings)


_SHORT = {
    "digits": Config(
        validation_fraction=0.1, recipe=PretrainRecipe(20, 1e-3, 8, batch_size=64), networks=8, held_out=8, group=8
    ),
    "mnist_short": _short("mnist", 5, 2e-3, 2),
    "usps_short": _short("usps", 15, 2e-3, 4, 64),
    "usps_28_short": _short("usps_28", 15, 2e-3, 4, 64),
    "svhn_short": _short("svhn", 8, 2e-3, 3),
    "cifar10_short": _short("cifar10", 6, 1e-3, 2, networks=4, held_out=3, group=1),
}
_OURS = {
    "cifar10_first_half": Config(
        "cifar10",
        network="alexcifarnet",
        images=Images(classes=(0, 1, 2, 3, 4)),
        recipe=PretrainRecipe(16, 1e-3, 4),
        augment=True,
        networks=1,
        held_out=0,
        group=1,
    ),
}
PRESETS = _SHORT | _OURS | _PAPER | {f"{name}_128": config for name, config in _128.items()}


@in_its_precision
def run(preset: str, config: Config) -> dict[str, Any]:
    """Trains what is missing of both banks.

    Returns:
      The content of result.json.

    Raises:
      ValueError: settings or data that cannot be used; nothing has been written then.
      experiments.training.RunError: a network is not finite; the epochs done are saved.
      experiments.runner.Stopped: a signal asked to stop; the epochs done are saved.
    """
    for name, least in (("networks", 1), ("held_out", 0), ("group", 1)):
        require(getattr(config, name) >= least, name, getattr(config, name), f"{least} or more")
    with _as_given_here():
        check_weights(_begun(config))
    require(config.seed >= 0, "seed", config.seed, "0 or more")
    dataset, data, originals = data_of(config)
    check_split(config.bank, config, data)
    bank = _prepare(config, dataset, originals)
    workdir = config.workdir or Path("runs/pretrain") / preset
    begun = {} if config.bank is None else {"begun": fingerprint(*bank.begin.values())}
    of_every_network = _of_every_network(config, workdir) | {"data": data} | begun
    with claimed(workdir, {"experiment": "pretrain", **of_every_network}) as finished:
        before = {"networks": 0, "held_out": 0} if finished is None else finished["config"]  # a bank never shrinks
        networks, held_out = max(config.networks, before["networks"]), max(config.held_out, before["held_out"])
        counts = dict(zip(PARTS, (networks, held_out), strict=True))

        def shards_of(part):
            return read_shards(workdir / part, bank.network, dataset.image_shape, set_damaged_aside=True)

        group = config.group if originals is None else 1
        missing = {part: _missing(shards_of(part), count, group) for part, count in counts.items()}
        as_recorded = (networks, held_out) == (before["networks"], before["held_out"])  # not if growth was stopped
        if finished is not None and as_recorded and not any(missing.values()):
            return finished
        lines = "".join(json.dumps(line) + "\n" for line in read_lines(workdir / "metrics.jsonl"))
        write_atomically(workdir / "metrics.jsonl", lines)  # without a last line cut short by a crash
        say("compiling, and training networks")
        for part, groups in missing.items():
            for group in groups:
                _train(config, dataset, bank, workdir, part, group)
        result = {
            "experiment": "pretrain",
            "preset": preset,
            "dataset": config.dataset,
            "test_accuracy": {part: _scores(shards_of(part), count) for part, count in counts.items() if count},
            "wall_seconds": sum(line["seconds"] for line in read_lines(workdir / "metrics.jsonl")),
            "config": {**of_every_network, "networks": networks, "held_out": held_out},
            **provenance(),
        }
        write_json(workdir / "result.json", result)
        shutil.rmtree(workdir / "progress", ignore_errors=True)  # also of groups of another size, never ended
        return result


def _of_every_network(config: Config, workdir: Path) -> dict[str, Any]:
    """The settings that decide what becomes of a network, as files in its bank hold them."""
    some = {"networks", "held_out", "group", "workdir"}
    settings = {name: value for name, value in jsonable(config, workdir).items() if name not in some}
    if not config.recipe.keep_last:  # as in the files of banks that are older than this setting, which may grow
        del settings["recipe"]["keep_last"]
    return {name: value for name, value in settings.items() if name not in _OF_A_BANK or config.bank is not None}


_OF_A_BANK = ("bank", "bank_size", "head", "head_layers")  # settings; likewise


@contextlib.contextmanager
def _as_given_here() -> Iterator[None]:
    """While open, messages call these settings what they are called here."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("weights.", "")) from error


def _begun(config: Config) -> Weights:
    """The settings of the networks that these begin from, as the other experiments have them."""
    given = {name: getattr(config, name) for name in ("law", "gain", *_OF_A_BANK)}
    return Weights(**given)


class _Prepared(NamedTuple):
    """What trains and tests networks, jitted; each of many."""

    network: Network
    init: Callable[..., Training]
    epoch_of: Callable[
        [str, range], Callable[[Training], Training]
    ]  # a part and the numbers in it -> an epoch of these
    finite: Callable[[Params], jax.Array]
    accuracies: Callable[[Params], jax.Array]  # on the test split
    begin: dict[str, Bank]  # for each part, the networks that its own begin from; empty where they are drawn


def _prepare(config: Config, dataset: Dataset, originals: "Originals | None" = None) -> _Prepared:
    classes = len(dataset.class_names)
    options = parse_options(config.network_options)

    def network_of(classes: int) -> Network:
        return make_network(config.network, dataset.image_shape, classes, options=options)

    network, begin = network_of(classes), {}
    draw = initial_weights(network, config.law, config.gain)
    if config.bank is not None:
        weights = with_head_layers(_begun(config), network_of, classes)
        given = {part: part if (config.bank / part).is_dir() else PARTS[0] for part in PARTS}
        begin = {part: bank_of(weights, of, network, dataset.image_shape, config.seed) for part, of in given.items()}
    augment = crop_and_flip if config.augment else None
    init, epoch, batch = pretraining(classification_loss(network.apply), draw, dataset, config.recipe, augment=augment)

    @jax.jit
    def finite(thetas):
        return jnp.stack([jnp.isfinite(w).all(tuple(range(1, w.ndim))) for w in jax.tree.leaves(thetas)]).all(0)

    @jax.jit
    def scores(thetas, split):
        return jax.lax.map(lambda theta: evaluate(network.apply, theta, split, classes), thetas)

    def accuracies(thetas):
        if originals is None:
            return scores(thetas, dataset.test).accuracy
        return added_up(functools.partial(scores, thetas), dataset.test).accuracy

    if originals is None:
        epoch_of = _resident_epochs(dataset, jax.jit(epoch, donate_argnums=0))
    else:
        epoch_of = _streamed_epochs(config, dataset, originals, jax.jit(batch, donate_argnums=0))
    return _Prepared(network, jax.jit(init), epoch_of, finite, accuracies, begin)


Epochs = Callable[[str, range], Callable[[Training], Training]]
"""``(part, numbers in it) -> (training -> training)``: an epoch of these networks."""


def _resident_epochs(dataset: Dataset, epoch: Callable[[Training, Split], Training]) -> Epochs:
    """Epochs on images that are on the device; the batches of each network are its own."""
    return lambda part, group: lambda training: epoch(training, dataset.train)


def _streamed_epochs(
    config: Config, dataset: Dataset, originals: "Originals", batch: Callable[[Training, Split], Training]
) -> Epochs:
    """Epochs of batches that are made on the host, for one network at a time."""
    from dd_jax.data.streamed.ahead import batches_ahead

    require(not config.augment, "augment", config.augment, "it without images.streamed, which crops and flips already")
    recipe, train = config.recipe, dataset.train
    whole, left = divmod(len(train.labels), recipe.batch_size)
    count, taken = whole + (left > 0 and recipe.keep_last), whole + (left > 0)  # of an epoch; of its order

    def epoch_of(part: str, group: range) -> Callable[[Training], Training]:
        (key,) = _keys(config.seed, part, group)
        order = epoch_order(key, len(train.labels), recipe.batch_size)
        seed = int(jax.random.bits(key, dtype="uint32"))

        def index_at(step: int) -> np.ndarray:
            epoch, number = divmod(step, count)
            return order(epoch * taken + number)

        batch_at = batches_ahead(originals, index_at, dataset.image_shape[0], seed, last=count * recipe.epochs - 1)

        def epoch(training: Training) -> Training:
            done = int(training.epoch[0])
            for step in range(done * count, (done + 1) * count):
                training = batch(training, Split(*batch_at(step), train.normalisation))
            return training._replace(epoch=training.epoch + 1)

        return epoch

    return epoch_of


def _keys(seed: int, part: str, group: range) -> jax.Array:
    """Of each network, by its number in its bank."""
    of_part = streams(seed).bank if part == "train" else streams(seed).bank_held_out
    return jax.vmap(lambda i: jax.random.fold_in(of_part, i))(np.arange(group.start, group.stop))


def _train(config: Config, dataset: Dataset, bank: _Prepared, workdir: Path, part: str, group: range) -> None:
    """Trains networks in a row, from the newest epoch saved, and adds them to their bank."""
    state = bank.init(_keys(config.seed, part, group), *_loaded(bank, part, group))
    epoch = bank.epoch_of(part, group)
    progress = workdir / "progress" / f"{part}_{group.start}_{group.stop}"
    with (
        checkpoints(progress, keep=2) as saved,
        signals() as signalled,
        (workdir / "metrics.jsonl").open("a") as file,
    ):
        done, state, _ = saved.restore(state) or (0, state, {})
        for number in range(done + 1, config.recipe.epochs + 1):
            began = time.monotonic()
            state = jax.block_until_ready(epoch(state))
            for i, is_finite in zip(group, np.asarray(bank.finite(state.theta)), strict=True):
                if not is_finite:
                    raise RunError(f"{part} network {i} is not finite; lower --recipe.learning-rate")
            saved.save(number, state)
            line = {"part": part, "first": group.start, "networks": len(group), "epoch": number}
            print(json.dumps({**line, "seconds": round(time.monotonic() - began, 3)}), file=file, flush=True)
            print(f"{part} {group.start} … {group.stop - 1}: epoch {number} of {config.recipe.epochs}", flush=True)
            if stopping := signalled():
                raise Stopped("stopped; the same command goes on from the last epoch", stopping)
    shard = Bank(jax.device_get(state.theta), np.asarray(bank.accuracies(state.theta)))
    save_shard(workdir / part, group.start, dataset.image_shape, shard)
    shutil.rmtree(progress)


def _loaded(bank: _Prepared, part: str, group: range) -> list[Params]:
    """The weights that networks begin with, on a leading axis, where these are a bank's: by number, and in turn."""
    if part not in bank.begin:
        return []
    index = np.array(group) % len(bank.begin[part].accuracy)
    return [jax.tree.map(lambda leaf: leaf[index], bank.begin[part].weights)]


def _scores(shards: dict[range, Bank], count: int) -> dict[str, float]:
    accuracy = np.concatenate([shard.accuracy for shard in shards.values()])[:count]
    return {**mean_and_std(accuracy), "min": float(accuracy.min())}


def _missing(held: dict[range, Bank], count: int, group: int) -> list[range]:
    """What a bank lacks of its first ``count`` networks, in rows of at most ``group``."""
    have, rows = {i for numbers in held for i in numbers}, []
    for i in range(count):
        if i in have:
            continue
        if rows and rows[-1].stop == i and len(rows[-1]) < group:
            rows[-1] = range(rows[-1].start, i + 1)
        else:
            rows.append(range(i, i + 1))
    return rows


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv)
    result = run(preset, config)
    print("| bank | test accuracy | lowest |\n|---|---|---|")
    for part, score in result["test_accuracy"].items():
        print(f"| {part} | {percent(score)} | {100 * score['min']:.2f} % |")
    print(f"{result['wall_seconds']:.0f} s of training over all sessions")


if __name__ == "__main__":
    run_as_script(main)
