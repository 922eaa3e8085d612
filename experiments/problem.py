"""What the settings of an experiment name, assembled: the data, the network, p(θ₀), and how held-out networks score."""

import dataclasses
import functools
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from dd_jax.base import Distilled, Network, Params
from dd_jax.data.dataset import Dataset, Split, make_dataset
from dd_jax.data.readers import RawData, content_fingerprint, is_path, read
from dd_jax.evaluation import Inner, Training, evaluate, evaluate_nets, steps_of
from dd_jax.networks import make_network, parse_options
from dd_jax.objectives import classification_loss, relabelling
from dd_jax.parallel import sharded
from dd_jax.weights.bank import Bank, bank_sampler, fingerprint, load_bank
from dd_jax.weights.laws import initial_weights

from .runner import require, say

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Images:
    """The form that real images are brought to."""

    size: int | None = None
    """Resize to this many pixels squared; as they are if not given."""
    channels: int | None = None
    """1 for grey or 3 for colour; as they are if not given."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """p(θ₀), the distribution of initial weights."""

    law: str = "xavier_normal"
    """One of dd_jax.weights.laws.LAWS."""
    gain: float = 1.0
    """Scale of the law."""
    bank: Path | None = None
    """Draw from a bank of trained networks, the work folder of experiments.pretrain, in place of the law."""
    nets: int | None = None
    """Networks drawn anew for each outer step, N; if not given, one network, known from the start: drawn once, or the
    first of the bank."""
    jitter: float = 0.0
    """Noise on the weights of networks drawn from a bank, as a share of each layer's standard deviation."""
    test_nets: int = 200
    """Networks held out for the test, where they are random."""
    validation_nets: int = 10
    """Networks held out for validation, where they are random."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the experiments share: the real data, the network and its initial weights."""

    dataset: str = "digits"
    """digits; a TFDS name; a path: an .npz file, a folder of IDX files, or a folder of images by class; or the import
    path of a function that reads them, package.module:function."""
    network: str = "lenet"
    """One of dd_jax.networks.NETWORKS, or an import path of a function that makes one, package.module:function."""
    network_options: tuple[str, ...] = ()
    """Options of the network, name=value, such as width=32."""
    images: Images = dataclasses.field(default_factory=Images)
    weights: Weights = dataclasses.field(default_factory=Weights)
    validation_fraction: float = 1 / 12
    """Share of the training split held out of it for choosing settings."""
    seed: int = 0
    """Draws whatever is random, and the validation split."""


class Streams(NamedTuple):
    """The random keys of all experiments, one for each purpose. New ones go to the end: a key depends on its place."""

    weights: jax.Array  # of the networks trained on
    noise: jax.Array  # the first images
    batches: jax.Array
    validation: jax.Array  # held-out networks
    test: jax.Array  # held-out networks
    bank: jax.Array  # networks of a bank, to distil with
    bank_held_out: jax.Array  # networks of a bank, to validate and test with
    real_sets: jax.Array  # real images that distilled ones are compared with
    neighbours: jax.Array  # real images for the nearest neighbours
    bases: jax.Array  # the first basis images


def streams(seed: int) -> Streams:
    """The keys that ``seed`` stands for."""
    return Streams(*(jax.random.fold_in(jax.random.key(seed), i) for i in range(len(Streams._fields))))


HeldOut = tuple[jax.Array, Any]
"""Keys ``[K]``, and p(θ₀) by key or the weights of K networks: :func:`dd_jax.evaluation.evaluate_nets` takes both."""


class Nets(NamedTuple):
    """Disjoint networks of p(θ₀) for training, validation and test."""

    training: Callable[[int], Params]  # outer step -> θ₀ of one network, or of N on a leading axis
    known: Params | None  # θ₀ where there is one network, for training, validation and test alike
    validation: HeldOut
    test: HeldOut
    fingerprint: str = ""  # of the bank they are from: another, or one that has grown, is another p(θ₀)


def nets_of(weights: Weights, network: Network, image_shape: tuple[int, int, int], seed: int) -> Nets:
    """The networks that settings name.

    Raises:
      ValueError: settings out of range or without effect, or a bank that is missing, does not fit the network, or has
        too few networks.
    """
    _check_weights(weights)
    keys, count = streams(seed), weights.nets

    def known(theta: Params) -> Nets:
        only = jax.tree.map(lambda leaf: leaf[None], theta)
        return Nets(lambda step: theta, theta, (keys.validation[None], only), (keys.test[None], only))

    if weights.bank is None:
        draw = initial_weights(network, weights.law, weights.gain)
        if count is None:
            return known(jax.jit(draw)(keys.weights))

        @jax.jit
        def draw_many(step):
            return jax.vmap(draw)(jax.random.split(jax.random.fold_in(keys.weights, step), count))

        validation, test = (
            (jax.random.split(key, size), draw)
            for key, size in ((keys.validation, weights.validation_nets), (keys.test, weights.test_nets))
        )
        return Nets(draw_many, None, validation, test)
    trained, *others = banks = _banks(weights, network, image_shape)
    if count is None:
        first = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), trained.weights)
        return known(first)._replace(fingerprint=fingerprint(*banks))
    held_out = others[0]
    size = len(held_out.accuracy)
    require(size >= 2, "weights.bank", f"{weights.bank} with {size} held-out network", "2 or more of them")
    everyone = (jax.random.split(keys.test, size), held_out.weights)
    first = min(weights.validation_nets, size // 2)  # for the test
    test = part_of(everyone, slice(first, first + weights.test_nets))
    if len(test[0]) == 1:
        log.warning("weights.bank: %s leaves one network for the test, so its result has no spread", weights.bank)
    validation = part_of(everyone, slice(first))
    return Nets(bank_sampler(trained, count, seed, weights.jitter), None, validation, test, fingerprint(*banks))


def _banks(weights: Weights, network: Network, image_shape: tuple[int, int, int]) -> list[Bank]:
    """Of networks to train on and held-out ones; or of the one known network."""
    assert weights.bank is not None
    trained = load_bank(weights.bank / "train", network, image_shape)
    if weights.nets is None:
        return [jax.tree.map(lambda leaf: leaf[:1], trained)]
    return [trained, load_bank(weights.bank / "held_out", network, image_shape)]


def _check_weights(weights: Weights) -> None:
    for name in ("nets", "test_nets", "validation_nets"):
        count = getattr(weights, name)
        require(count is None or count >= 1, f"weights.{name}", count, "1 or more")
    require(0 <= weights.jitter < math.inf, "weights.jitter", weights.jitter, "0 or more")
    if weights.bank is not None:
        train = weights.bank / "train"
        accepted = f"the work folder of experiments.pretrain; there is no {train.absolute()}"
        require(train.is_dir(), "weights.bank", weights.bank, accepted)
    if weights.jitter and (weights.bank is None or weights.nets is None):
        raise ValueError(f"weights.jitter: {weights.jitter} is not accepted without weights.bank and weights.nets")
    for name in ("law", "gain") if weights.bank is not None else ():
        value, default = getattr(weights, name), getattr(Weights(), name)
        if value != default:
            raise ValueError(f"weights.{name}: {value} has no effect with weights.bank; use {default} there")


def part_of(held_out: HeldOut, index: Any) -> HeldOut:
    """Some of the held-out networks."""
    keys, nets = held_out
    return keys[index], nets if callable(nets) else jax.tree.map(lambda leaf: leaf[index], nets)


def count_of(held_out: HeldOut) -> str:
    """Their number, in words."""
    count = len(held_out[0])
    return f"{count} network{'' if count == 1 else 's'}"


def dealt(held_out: HeldOut, sets: int) -> list[HeldOut]:
    """A share of the networks for each set of images; some serve several sets where there are fewer than sets."""
    count = len(held_out[0])
    numbers = np.arange(max(count, sets)) % count
    return [part_of(held_out, share) for share in np.array_split(numbers, sets)]


class Problem(NamedTuple):
    """What settings name, assembled."""

    dataset: Dataset
    network: Network
    nets: Nets
    identity: dict[str, str]  # see :func:`identity`


def read_images(dataset: str, images: Images) -> RawData:
    """Reads labelled images and brings them to their form."""
    say(f"reading {dataset}")
    return read(dataset, images.size, images.channels)


def assemble(setting: Setting, switch_width: float = 0.0) -> Problem:
    """Reads the data, and draws or loads the networks.

    Raises:
      ValueError: settings or data that cannot be used.
    """
    _check_setting(setting)
    raw = read_images(setting.dataset, setting.images)
    data = content_fingerprint(raw)
    _check_split(setting, data)
    dataset = make_dataset(raw, validation_fraction=setting.validation_fraction, seed=setting.seed)
    classes = len(dataset.class_names)
    network = network_of(setting, dataset.image_shape, classes, switch_width)
    nets = nets_of(setting.weights, network, dataset.image_shape, setting.seed)
    return Problem(dataset, network, nets, _identity(data, nets.fingerprint))


def network_of(setting: Setting, image_shape: tuple[int, int, int], classes: int, switch_width: float = 0.0) -> Network:
    """The network that the settings name.

    Raises:
      ValueError: see :func:`dd_jax.networks.make_network`.
    """
    options = parse_options(setting.network_options)
    return make_network(setting.network, image_shape, classes, switch_width=switch_width, options=options)


def _check_setting(setting: Setting) -> None:
    """Refuses what can be refused before reading data."""
    require(setting.seed >= 0, "seed", setting.seed, "0 or more")
    _check_weights(setting.weights)


def identity(setting: Setting) -> dict[str, str]:
    """What tells the data of a setting, and its bank if it has one, by their content: :func:`assemble` in brief."""
    _check_setting(setting)
    raw = read_images(setting.dataset, setting.images)
    bank, shape = "", raw.images.shape
    if setting.weights.bank is not None:
        network = network_of(setting, (shape[1], shape[2], shape[3]), len(raw.class_names))
        bank = fingerprint(*_banks(setting.weights, network, (shape[1], shape[2], shape[3])))
    return _identity(content_fingerprint(raw), bank)


def _identity(data: str, bank: str) -> dict[str, str]:
    return {"data": data, **({"bank": bank} if bank else {})}


def _check_split(setting: Setting, data: str) -> None:
    """Refuses a bank whose networks were trained on images that would be held out here for validation."""
    config = None if setting.weights.bank is None else setting.weights.bank / "config.json"
    if config is None or not config.is_file():  # where it is not a bank at all, loading it says so
        return
    held = json.loads(config.read_text())
    if held.get("dataset") != setting.dataset and held.get("data") != data:
        return
    for name in ("seed", "validation_fraction"):
        here, there = getattr(setting, name), held.get(name)
        accepted = f"{there}, as {setting.weights.bank} has: its networks have seen what another split holds out"
        require(here == there, name, here, accepted)


def relabelled_split(split: Split, relabel: Mapping[int, int], classes: int) -> Split:
    """The same images under the labels they are to be given."""
    return Split(split.images, jnp.asarray(relabelling(relabel, classes))[split.labels])


def relabelled_data(distilled: Distilled, relabel: Mapping[int, int]) -> Distilled:
    """The same images and step sizes under the labels they are to be given."""
    classes = distilled.labels.shape[-1]
    return distilled._replace(labels=distilled.labels @ jnp.eye(classes)[relabelling(relabel, classes)])


def scorer(
    dataset: Dataset,
    network: Network,
    training: Training | None = None,
    at: Sequence[int] | None = None,
    measure: Callable[..., Any] = evaluate,
    inner: Inner | None = None,
) -> Callable[[Distilled, HeldOut, Split], Any]:
    """Scores ``[K, len(at)]`` of held-out networks trained on given data: ``(distilled, held_out, split) -> scores``.

    The networks are dealt out over the devices.

    Args:
      dataset: gives the normalisation and the classes.
      network: their kind.
      training: how; as the data were made for if not given.
      at: numbers of steps to score after; 0 and the last if not given.
      measure: :func:`dd_jax.evaluation.evaluate` or :func:`dd_jax.evaluation.confusion`.
      inner: the loop that the data were made with; the paper's if not given.
    """
    classes, training = len(dataset.class_names), training or Training()
    loss = classification_loss(network.apply)

    @functools.partial(jax.jit, static_argnames="draw")
    def scores(distilled, keys, thetas, split, draw):
        def of_share(keys, thetas, distilled, split):
            def of(theta):
                return measure(network.apply, theta, split, dataset.mean, dataset.std, classes)

            steps = at or (0, steps_of(training, distilled))
            return evaluate_nets(keys, draw or thetas, loss, distilled, training, of, steps, inner)

        specs = (P("networks"), P("networks"), P(), P())
        return sharded(of_share, len(keys), *specs)(keys, thetas, distilled, split)

    def score(distilled, held_out, split):
        keys, nets = held_out
        distilled = jax.device_get(distilled)  # a checkpoint's are tied to one device
        return (
            scores(distilled, keys, None, split, nets) if callable(nets) else scores(distilled, keys, nets, split, None)
        )

    return score


def mean_and_std(accuracy: ArrayLike) -> dict[str, float | int]:
    """Mean, standard deviation and count over networks; of a single one the deviation is 0."""
    values = np.asarray(accuracy, np.float64)
    return {"mean": float(values.mean()), "std": float(values.std(ddof=min(1, values.size - 1))), "n": values.size}


def jsonable(config: Any, folder: Path = Path()) -> dict[str, Any]:
    """A dataclass as a JSON file in ``folder`` holds it, its paths from there on: see :func:`path_from`."""
    content = json.loads(json.dumps(dataclasses.asdict(config), default=lambda path: path_from(folder, path)))
    return content | ({"dataset": dataset_from(folder, content["dataset"])} if "dataset" in content else {})


def path_from(folder: Path, path: Path | str) -> str:
    """A path as a file in ``folder`` holds it: relative to that folder, so that both may move together."""
    try:
        relative = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))  # a link's .. is elsewhere
    except ValueError:  # on another drive
        return str(Path(path).absolute())
    return relative if relative.startswith(".") else os.path.join(".", relative)


def dataset_from(folder: Path, dataset: str) -> str:
    """The name of a data set as a file in ``folder`` holds it: :func:`path_from` for a path."""
    return path_from(folder, Path(dataset).expanduser()) if is_path(dataset) else dataset
