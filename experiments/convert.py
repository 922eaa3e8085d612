"""Makes a bank of a public PyTorch checkpoint: the known network that an experiment begins from (paper, table 3).

    python -m experiments.convert alexnet-owt-7be5be79.pth --workdir runs/pretrain/imagenet_alexnet

reads the file, a ``.pth`` by PyTorch's weights-only loader or a ``.safetensors`` file, and stores its weights as a bank
of one network. Experiments take it by ``--weights.bank runs/pretrain/imagenet_alexnet``, and ``--weights.head zeros``
gives it a new last layer. Nothing is downloaded, and nothing in the file is executed.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dd_jax.checks import require
from dd_jax.files.atomic import write_json
from dd_jax.networks import make_network, parse_options
from dd_jax.weights.bank import Bank, save_shard
from dd_jax.weights.converted import from_pytorch, read_state_dict

from .command_line import parse, run_as_script
from .workdir import claimed, provenance


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a conversion."""

    network: str = "alexnet"
    """One of dd_jax.weights.converted.PUBLISHED."""
    network_options: tuple[str, ...] = ()
    """Options of the network, name=value."""
    classes: int = 1000
    """Classes that it was trained on."""
    size: int = 224
    """Height and width of the images that it was trained on."""
    channels: int = 3
    """Their channels."""
    workdir: Path | None = None
    """Where the bank goes; runs/pretrain/NETWORK if not given."""


def workdir_of(config: Config) -> Path:
    """The folder of the bank."""
    return config.workdir or Path("runs/pretrain") / config.network


def run(checkpoint: Path, config: Config) -> dict[str, Any]:
    """Converts a checkpoint.

    Returns:
      The content of result.json.

    Raises:
      ValueError: a file that is no checkpoint or does not fit the network; nothing has been written then.
    """
    for name in ("size", "channels"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "1 or more")
    shape = (config.size, config.size, config.channels)
    network = make_network(config.network, shape, config.classes, options=parse_options(config.network_options))
    theta = from_pytorch(config.network, network, read_state_dict(checkpoint))
    workdir = workdir_of(config)
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "workdir"}
    content = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    head = {"experiment": "convert", **settings, "checkpoint": checkpoint.name, "sha256": content}
    with claimed(workdir, head) as finished:
        if finished is not None:
            return finished
        if not (workdir / "train").is_dir():
            unknown = np.full(1, np.nan)  # how good it is, on data that are not here
            save_shard(workdir / "train", 0, shape, Bank(jax.tree.map(lambda leaf: leaf[None], theta), unknown))
        weights = sum(leaf.size for leaf in jax.tree.leaves(theta))
        result = {**head, "weights": weights, "config": head, **provenance()}
        write_json(workdir / "result.json", result)
        return result


def main(argv: list[str]) -> None:
    """The command line of this module."""
    path, options = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("CHECKPOINT", argv)
    config = parse(Config(), __doc__ or "", path, options)
    if path == "CHECKPOINT":
        raise ValueError("CHECKPOINT: it is missing; give a .pth or .safetensors file first")
    result = run(Path(path), config)
    print(f"{result['weights']:,} weights of {result['network']}, {result['classes']} classes, in {workdir_of(config)}")


if __name__ == "__main__":
    run_as_script(main)
