"""Trains networks on a distilled set, and scores them on real data (paper, section 4.1: 200 held-out networks).

    python -m experiments.evaluate RUN_OR_NPZ [--nets K] [--at 0 10 30] [--training.optimizer adam] …

RUN_OR_NPZ is the folder of a run, or its distilled.npz. By default the data are used as they were made: the stored
steps and step sizes, and the stored network, or 200 networks of its initialisation where it is random. Prints the mean
and the standard deviation over networks after each number of steps asked for; ``--output FILE`` writes them as JSON.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import jax

from dd_jax.data import make_dataset
from dd_jax.evaluation import Training, steps_of
from dd_jax.networks import make_network
from dd_jax.report import percent
from dd_jax.storage import DistilledFile, load_distilled, write_json

from .problem import Images, Weights, mean_and_std, nets_of, read_images, relabelled_split, scorer, streams
from .runner import parse, require, run_as_script, use_every_core


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of an evaluation; what is not given is as the data were made."""

    dataset: str | None = None
    """The real data to score on; those the images were made of if not given."""
    network: str | None = None
    """lenet or alexcifarnet."""
    law: str | None = None
    """Draw networks from this law, one of dd_jax.initial_weights.LAWS."""
    gain: float | None = None
    """Scale of the law."""
    bank: Path | None = None
    """Take the held-out networks of this bank, the work folder of experiments.pretrain, in place of a law."""
    nets: int = 200
    """Networks; a single one where the data have a network of their own, and neither it nor a law is given."""
    training: Training = dataclasses.field(default_factory=Training)
    at: tuple[int, ...] | None = None
    """Numbers of steps to score after; 0 and the last if not given."""
    split: Literal["test", "validation"] = "test"
    """Choose on validation, and look at test once."""
    validation_fraction: float | None = None
    """Share of the training split held out of it; the run's own if not given. Another holds examples trained on."""
    seed: int | None = None
    """Draws the networks, never ones that data of any run were made on; the run's own if not given."""
    output: Path | None = None
    """A JSON file to write."""


def load(path: Path) -> DistilledFile:
    """The distilled data of a run's folder, or of a file.

    Raises:
      ValueError: there are none, or they cannot be used.
    """
    return load_distilled(path / "distilled.npz" if path.is_dir() else path)


def run(path: Path, config: Config) -> dict[str, Any]:
    """Evaluates a distilled set.

    Returns:
      What ``--output`` writes: accuracy and loss as mean, std and n, for each number of steps.

    Raises:
      ValueError: data that cannot be used or do not fit the network or each other, or settings out of range.
    """
    require(config.nets >= 1, "nets", config.nets, "1 or more")
    file = load(path)
    meta, distilled = file.meta, file.distilled
    name = config.dataset or meta.get("dataset")
    if name is None:
        raise ValueError(f"dataset: {path} does not say what it was made of; give --dataset")
    known = meta.get("initialisation", {})
    seed = known.get("seed", 0) if config.seed is None else config.seed
    require(seed >= 0, "seed", seed, "0 or more")
    fraction = config.validation_fraction
    if fraction is None:
        fraction = meta.get("validation_fraction", 1 / 12)
    images = Images(**meta.get("images", {}))
    dataset = make_dataset(read_images(name, images), validation_fraction=fraction, seed=known.get("seed", 0))
    classes = len(dataset.class_names)
    for what, held, wanted in (
        ("images of shape", tuple(file.images.shape[2:]), dataset.image_shape),
        ("as many classes as", file.labels.shape[2], classes),
    ):
        if held != wanted:
            raise ValueError(f"dataset: {name} has {what} {wanted}, and the distilled data {held}; use another dataset")
    network = make_network(config.network or meta.get("network", "lenet"), dataset.image_shape, classes)
    given = (config.network, config.law, config.gain, config.bank)
    if file.initial_weights and all(choice is None for choice in given):
        theta = file.weights_like(jax.eval_shape(network.init, jax.random.key(0)))
        held_out = streams(seed).test[None], jax.tree.map(lambda leaf: leaf[None], theta)
    else:
        validating = config.split == "validation"
        bank = config.bank
        if bank is None and known.get("bank") and config.law is None and config.gain is None:
            bank = Path(known["bank"])
        if config.bank and (config.law or config.gain):
            raise ValueError(f"bank: {config.bank} is not accepted with a law or a gain; give one or the other")
        weights = Weights(
            law=config.law or known.get("law", "xavier_normal"),
            gain=known.get("gain", 1.0) if config.gain is None else config.gain,
            bank=bank,
            nets=1,
            test_nets=config.nets,
            validation_nets=config.nets if validating and bank is None else known.get("validation_nets", 10),
        )
        nets = nets_of(weights, network, dataset.image_shape, seed)
        held_out = nets.validation if validating else nets.test
    at = config.at or (0, steps_of(config.training, distilled))
    score = scorer(dataset._replace(mean=file.mean, std=file.std), network, config.training, at)
    split = getattr(dataset, config.split)
    if relabel := {int(attacked): target for attacked, target in meta.get("relabel", {}).items()}:
        split = relabelled_split(split, relabel, classes)
    accuracy, loss = score(distilled, held_out, split)
    return {
        "distilled": str(path),
        "dataset": name,
        "split": config.split,
        "training": dataclasses.asdict(config.training),
        "scores": [
            {"steps": t, "accuracy": mean_and_std(accuracy[:, i]), "loss": mean_and_std(loss[:, i])}
            for i, t in enumerate(at)
        ],
    }


def main(argv: list[str]) -> None:
    """The command line of this module."""
    path, options = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("RUN_OR_NPZ", argv)
    config = parse(Config(), __doc__ or "", path, options)
    if path == "RUN_OR_NPZ":
        raise ValueError("RUN_OR_NPZ: it is missing; give the folder of a run or a distilled.npz first")
    result = run(Path(path), config)
    for score in result["scores"]:
        loss = score["loss"]
        print(f"after {score['steps']:>4} steps: accuracy {percent(score['accuracy'])}, loss {loss['mean']:.3f} nats")
    if config.output:
        # JSON has no NaN: the loss of networks that diverged is null
        write_json(config.output, json.loads(json.dumps(result), parse_constant=lambda name: None))


if __name__ == "__main__":
    use_every_core()
    run_as_script(main)
