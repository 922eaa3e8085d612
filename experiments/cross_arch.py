"""How distilled data made on one network train others (Zhao, Mopuri and Bilen 2021, table 3): a table of accuracies.

    python -m experiments.cross_arch RUN_OR_NPZ [--networks lenet convnet mlp] [--nets 20] …

Each network, by name or by the import path of a function that makes it, is trained on the data as they were made and
scored on the test split. Options of a network follow its name: ``convnet:width=32``. Where the stored step sizes suit
the network that they were learned with alone, ``--training.optimizer`` and ``--training.learning-rate`` give others, as
``experiments.evaluate`` does. ``--output FILE`` writes the table as JSON.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal

from dd_jax.checks import require
from dd_jax.evaluation import Training
from dd_jax.files.atomic import write_json
from dd_jax.files.text import percent
from dd_jax.networks import NETWORKS

from . import evaluate
from .command_line import parse, run_as_script
from .settings import Precision
from .workdir import provenance


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the table; what is not given is as the data were made."""

    networks: tuple[str, ...] = ("lenet", "convnet", "mlp")
    """The networks, each with options after it: convnet:width=32,depth=2, or package.module:function:width=32."""
    nets: int = 20
    """Networks of each kind."""
    law: str | None = None
    """Draw networks from this law, one of dd_jax.weights.laws.LAWS."""
    gain: float | None = None
    """Scale of the law."""
    training: Training = dataclasses.field(default_factory=Training)
    split: Literal["test", "validation"] = "test"
    """Choose on validation, and look at test once."""
    precision: Precision | None = None
    """What products are computed in; as in the run if not given."""
    output: Path | None = None
    """A JSON file to write."""


def network_and_options(text: str) -> tuple[str, tuple[str, ...]]:
    """A network's name or import path, and its options.

    >>> network_and_options("mlp:hidden=64,32"), network_and_options("convnet:width=32,depth=2")
    (('mlp', ('hidden=64,32',)), ('convnet', ('width=32', 'depth=2')))
    >>> network_and_options("own.nets:make")
    ('own.nets:make', ())
    """
    name, _, last = text.rpartition(":")
    options = tuple(re.split(r",(?=[A-Za-z_]\w*=)", last))  # a value may have commas: hidden=64,64
    return (name, options) if name and "=" in last else (text, ())


def run(path: Path, config: Config) -> dict[str, Any]:
    """Evaluates the data on each network.

    Returns:
      What ``--output`` writes: for each network its accuracy and loss as mean, std and n.

    Raises:
      ValueError: as :func:`experiments.evaluate.run`, or no network.
    """
    require(bool(config.networks), "networks", config.networks, f"one or more, such as {', '.join(NETWORKS)}")
    rows = {}
    for text in config.networks:
        name, options = network_and_options(text)
        settings = evaluate.Config(
            network=name, network_options=options, law=config.law, gain=config.gain, nets=config.nets,
            training=config.training, split=config.split, precision=config.precision,
        )  # fmt: skip
        score = evaluate.run(path, settings)["scores"][-1]
        rows[text] = {"accuracy": score["accuracy"], "loss": score["loss"], "steps": score["steps"]}
        print(f"{text}: {percent(score['accuracy'], known=False)}", flush=True)
    file = evaluate.load(path)
    return {
        "distilled": str(path),
        "made_on": file.meta.get("network"),
        "split": config.split,
        "training": dataclasses.asdict(config.training),
        "precision": evaluate.precision_of(file, config.precision),
        "networks": rows,
        **provenance(),
    }


def main(argv: list[str]) -> None:
    """The command line of this module."""
    path, options = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("RUN_OR_NPZ", argv)
    config = parse(Config(), __doc__ or "", path, options)
    if path == "RUN_OR_NPZ":
        raise ValueError("RUN_OR_NPZ: it is missing; give the folder of a run or a distilled.npz first")
    if config.output is not None:
        require(config.output.parent.is_dir(), "output", config.output, "a file in an existing folder")
        require(not config.output.exists(), "output", config.output, "a new file")
    table = run(Path(path), config)
    if config.output:
        # JSON has no NaN: the loss of networks that diverged is null
        write_json(config.output, json.loads(json.dumps(table), parse_constant=lambda name: None))


if __name__ == "__main__":
    run_as_script(main)
