"""Trains networks on a distilled set, and scores them on real data (paper, section 4.1: 200 held-out networks).

    python -m experiments.evaluate RUN_OR_NPZ [--nets K] [--at 0 10 30] [--training.optimizer adam] …

RUN_OR_NPZ is the folder of a run, or its distilled.npz. By default the data are used as they were made: the stored
steps and step sizes, and the stored network, or 200 networks of its initialisation where it is random. Prints the mean
and the standard deviation over networks after each number of steps asked for; ``--output FILE`` writes them as JSON.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from dd_jax.base import Network
from dd_jax.checks import require
from dd_jax.data.dataset import Dataset
from dd_jax.data.readers import is_path
from dd_jax.evaluation import Training, evaluate, steps_of
from dd_jax.files.atomic import write_json
from dd_jax.files.distilled_file import DistilledFile, load_distilled
from dd_jax.files.text import BALANCED, percent
from dd_jax.networks import make_network, parse_options

from .command_line import parse, run_as_script
from .inner import inner_of, loop_of
from .nets import HeldOut, count_of, nets_of, with_head_layers
from .precision import products_in
from .problem import data_of
from .say import say
from .scoring import balanced, is_imbalanced, mean_and_std, relabelled_split, scorer, scores_and_counts
from .settings import Precision, Setting, Weights, images_of
from .streams import streams


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of an evaluation; what is not given is as the data were made."""

    dataset: str | None = None
    """The real data to score on; those the images were made of if not given."""
    network: str | None = None
    """One of dd_jax.networks.NETWORKS, or an import path, package.module:function; the run's own if not given."""
    network_options: tuple[str, ...] = ()
    """Options of that network, name=value."""
    law: str | None = None
    """Draw networks from this law, one of dd_jax.weights.laws.LAWS."""
    gain: float | None = None
    """Scale of the law."""
    bank: Path | None = None
    """Take the held-out networks of this bank, the work folder of experiments.pretrain, in place of a law."""
    bank_size: int | None = None
    """Height and width of the images that this bank was trained on; those of the images here if not given."""
    nets: int | None = None
    """Networks, 200 if not given; just the one where the data have a network of their own, and no other is given."""
    training: Training = dataclasses.field(default_factory=Training)
    at: tuple[int, ...] | None = None
    """Numbers of steps to score after; 0 and the last if not given."""
    split: Literal["test", "validation"] = "test"
    """Choose on validation, and look at test once."""
    validation_fraction: float | None = None
    """Share of the training split held out of it; the run's own if not given. Another holds examples trained on."""
    seed: int | None = None
    """Draws the networks, never ones that data of any run were made on; the run's own if not given."""
    precision: Precision | None = None
    """What products are computed in; as in the run if not given."""
    output: Path | None = None
    """A JSON file to write."""


def load(path: Path) -> DistilledFile:
    """The distilled data of a run's folder, or of a file.

    Raises:
      ValueError: there are none, or they cannot be used.
    """
    return load_distilled(path / "distilled.npz" if path.is_dir() else path)


def precision_of(file: DistilledFile, given: str | None) -> str:
    """What products are computed in: what is given, or as the data were made."""
    return given or file.meta.get("precision", "float32")


def run(path: Path, config: Config) -> dict[str, Any]:
    """Evaluates a distilled set.

    Returns:
      What ``--output`` writes: accuracy and loss as mean, std and n, for each number of steps; where the classes of the
      test split are of unequal sizes, balanced accuracy too.

    Raises:
      ValueError: data that cannot be used or do not fit the network or each other, or settings out of range.
    """
    require(config.nets is None or config.nets >= 1, "nets", config.nets, "1 or more")
    return evaluated(path, load(path), config)


def evaluated(path: Path, file: DistilledFile, config: Config) -> dict[str, Any]:
    """As :func:`run`, for the content of a file that was read from ``path``, or what has become of it."""
    precision = precision_of(file, config.precision)
    with products_in(precision):
        return _evaluated(path, file, config) | {"precision": precision}


def _evaluated(path: Path, file: DistilledFile, config: Config) -> dict[str, Any]:
    meta, distilled = file.meta, file.distilled
    name = config.dataset or _dataset_of(path, meta)
    known = meta.get("initialisation", {})
    seed = known.get("seed", 0) if config.seed is None else config.seed
    require(seed >= 0, "seed", seed, "0 or more")
    fraction = config.validation_fraction
    if fraction is None:
        fraction = meta.get("validation_fraction", 1 / 12)
    images = images_of(meta.get("images", {}))
    of_run = Setting(name, images=dataclasses.replace(images, zca=None), validation_fraction=fraction)
    dataset, data, _ = data_of(dataclasses.replace(of_run, seed=known.get("seed", 0)))
    if config.dataset is None and meta.get("data", data) != data:
        raise ValueError(f"dataset: {name} has changed since {path} was made; give --dataset to score on it as it is")
    _check_fit(path, file, name, dataset)
    network_of = _network_of(config, meta, dataset)
    network = network_of(len(dataset.class_names))
    held_out, networks = _held_out(path, config, file, network_of, dataset, seed)
    at = config.at or (0, steps_of(config.training, distilled))
    inner = loop_of(inner_of(meta.get("inner", {})), file.labels)
    unequal = is_imbalanced(dataset)
    measure = scores_and_counts if unequal else evaluate
    score = scorer(dataset, network, config.training, at, measure, inner)
    split = getattr(dataset, config.split)._replace(normalisation=file.normalisation)
    if relabel := {int(attacked): target for attacked, target in meta.get("relabel", {}).items()}:
        split = relabelled_split(split, relabel, len(dataset.class_names))
    say(f"training {count_of(held_out)} on the distilled data")
    scored = score(distilled, held_out, split)
    (accuracy, loss), right = scored if unequal else (scored, None)
    of_classes = None if right is None else balanced(right, split)
    return {
        "distilled": str(path),
        "dataset": name,
        "split": config.split,
        "seed": seed,
        "networks": networks,
        "training": dataclasses.asdict(config.training),
        "scores": [
            {
                "steps": t,
                "accuracy": mean_and_std(accuracy[:, i]),
                **({} if of_classes is None else {"balanced_accuracy": mean_and_std(of_classes[:, i])}),
                "loss": mean_and_std(loss[:, i]),
            }
            for i, t in enumerate(at)
        ],
    }


def _network_of(config: Config, meta: dict[str, Any], dataset: Dataset) -> Callable[[int], Network]:
    """The network asked for, or the one that the data were made with, for a number of classes."""
    if config.network is None and config.network_options:
        raise ValueError(f"network_options: {config.network_options} are not accepted without network; give both")
    name = config.network or meta.get("network", "lenet")
    options = config.network_options if config.network else meta.get("network_options", ())
    return lambda classes: make_network(name, dataset.image_shape, classes, options=parse_options(options))


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _dataset_of(path: Path, meta: dict[str, Any]) -> str:
    """The data set that distilled data were made of, where it is from here."""
    name = meta.get("dataset")
    if name is None:
        raise ValueError(f"dataset: {path} does not say what it was made of; give --dataset")
    if not is_path(name):
        return name
    found = (_folder(path) / name).resolve()
    if not found.exists():
        raise ValueError(f"dataset: {found}, which {path} was made of, is not there; give --dataset")
    return str(found)


def _check_fit(path: Path, file: DistilledFile, name: str, dataset: Dataset) -> None:
    """Refuses a data set of other images or classes than the distilled data are of."""
    for what, held, wanted in (
        ("images of shape", tuple(file.images.shape[2:]), dataset.image_shape),
        ("the classes", tuple(file.meta.get("class_names", dataset.class_names)), dataset.class_names),
        ("as many classes as", file.labels.shape[2], len(dataset.class_names)),
    ):
        if held != wanted:
            raise ValueError(
                f"dataset: {name} has {what} {_short(wanted)}, and {path} {_short(held)}; use another dataset"
            )


def _short(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, tuple) and isinstance(value[0], str) else str(value)
    return text if len(text) < 200 else f"{text[:200]} …"


def _held_out(
    path: Path,
    config: Config,
    file: DistilledFile,
    network_of: Callable[[int], Network],
    dataset: Dataset,
    seed: int,
) -> tuple[HeldOut, dict[str, Any]]:
    """The networks to train, and what they are, for the record."""
    classes = len(dataset.class_names)
    network = network_of(classes)
    known = file.meta.get("initialisation", {})
    given = (config.network, config.law, config.gain, config.bank)
    if file.initial_weights and all(choice is None for choice in given):
        own = f"nothing: {path} was made for networks of its own; for others give --law, --network or --bank"
        require(config.nets is None, "nets", config.nets, own)
        thetas = file.weights_like(jax.eval_shape(network.init, jax.random.key(0)))
        count, key = jax.tree.leaves(thetas)[0].shape[0], streams(seed).test
        return (key[None] if count == 1 else jax.random.split(key, count), thetas), {"known": True}
    if config.bank and (config.law or config.gain):
        raise ValueError(f"bank: {config.bank} is not accepted with a law or a gain; give one or the other")
    if config.bank_size is not None and config.bank is None:
        raise ValueError(f"bank_size: {config.bank_size} has no effect without bank; give both")
    validating, bank, count = config.split == "validation", config.bank, config.nets or 200
    if bank is None and known.get("bank") and config.law is None and config.gain is None:
        bank = (_folder(path) / known["bank"]).resolve()
        if not (bank / "train").is_dir():
            raise ValueError(f"bank: {bank}, which {path} was made for, is not there; give --bank, where it is now")
    head = {name: known[name] for name in ("head", "head_layers") if bank and name in known}
    drawn: dict[str, Any] = {} if bank else {"law": config.law or known.get("law", "xavier_normal")}
    if not bank:
        drawn["gain"] = known.get("gain", 1.0) if config.gain is None else config.gain
    elif head.get("head") == "drawn":
        drawn = {"law": known["law"], "gain": known["gain"]}
    weights = Weights(
        **drawn,
        **head,
        bank=bank,
        bank_size=(config.bank_size if config.bank else known.get("bank_size")) if bank else None,
        nets=1,
        test_nets=count,
        validation_nets=count if validating and bank is None else known.get("validation_nets", 10),
    )
    nets = nets_of(with_head_layers(weights, network_of, classes), network, dataset.image_shape, seed)
    if config.bank is None and bank is not None and known.get("fingerprint", nets.fingerprint) != nets.fingerprint:
        raise ValueError(f"bank: {bank} has changed since {path} was made; give --bank to use it as it is")
    source = {"bank": str(bank), "fingerprint": nets.fingerprint} if bank else drawn
    named: dict[str, Any] = {"network": config.network or file.meta.get("network", "lenet")}
    if options := config.network_options if config.network else file.meta.get("network_options"):
        named["network_options"] = options
    return nets.validation if validating else nets.test, {"known": False, **named, **source}


def nets_for(path: Path, count: int) -> int | None:
    """What ``Config.nets`` takes for distilled data: ``count``, or None where they have a network of their own."""
    return None if load(path).initial_weights else count


def _check_output(output: Path | None) -> None:
    """Refuses a file that could not be written, or that holds anything but an evaluation."""
    if output is None:
        return
    require(output.parent.is_dir(), "output", output, f"a file in an existing folder; there is no {output.parent}")
    if output.exists():
        try:
            is_evaluation = {"distilled", "scores"} <= json.loads(output.read_text()).keys()
        except (ValueError, AttributeError, OSError):
            is_evaluation = False
        require(is_evaluation, "output", output, "a new file, or that of an earlier evaluation")


def main(argv: list[str]) -> None:
    """The command line of this module."""
    path, options = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("RUN_OR_NPZ", argv)
    config = parse(Config(), __doc__ or "", path, options)
    if path == "RUN_OR_NPZ":
        raise ValueError("RUN_OR_NPZ: it is missing; give the folder of a run or a distilled.npz first")
    _check_output(config.output)
    result = run(Path(path), config)
    for score in result["scores"]:
        loss = score["loss"]
        known = result["networks"]["known"]
        accuracy = percent(score["accuracy"], known=known)
        if "balanced_accuracy" in score:
            accuracy += f" ({BALANCED}: {percent(score['balanced_accuracy'], known=known)})"
        print(f"after {score['steps']:>4} steps: accuracy {accuracy}, loss {loss['mean']:.3f} nats")
    if config.output:
        # JSON has no NaN: the loss of networks that diverged is null
        write_json(config.output, json.loads(json.dumps(result), parse_constant=lambda name: None))


if __name__ == "__main__":
    run_as_script(main)
