"""Writes a distilled set in a form that another library reads.

    python -m experiments.export RUN_OR_NPZ --to {pt,png,tfds,hf,ddranking,safetensors} [--output PATH]

RUN_OR_NPZ is the folder of a run, or its distilled.npz. docs/use_distilled.md says what each form holds. ``png`` has 8
bits for a pixel; how much accuracy that costs is measured, if the real data of the run are at hand.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dd_jax.checks import require
from dd_jax.files.atomic import first_line, write_json
from dd_jax.files.distilled_file import DistilledFile

from . import evaluate
from .command_line import parse, run_as_script
from .exports import ddranking, hf, png, pt, safetensors, tfds
from .say import say


class Form(NamedTuple):
    """A form, and what it is called where no name is given."""

    write: Callable[[Path, DistilledFile, Path], None]  # (distilled.npz, its content, target)
    name: str
    is_folder: bool = True


FORMS = {
    "pt": Form(pt.write, "distilled.pt", is_folder=False),
    "png": Form(png.write, "distilled_png"),
    "tfds": Form(tfds.write, "distilled_tfds"),
    "hf": Form(hf.write, "distilled_hf"),
    "ddranking": Form(ddranking.write, "distilled_ddranking"),
    "safetensors": Form(safetensors.write, "distilled.safetensors", is_folder=False),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of an export."""

    to: Literal["pt", "png", "tfds", "hf", "ddranking", "safetensors"] | None = None
    """pt: PyTorch tensors; png: PNG files by class; tfds: for tfds.builder_from_directory; hf: for Hugging Face's
    datasets; ddranking: for DD-Ranking; safetensors: the same arrays."""
    output: Path | None = None
    """The file or folder to write, which must not exist; beside distilled.npz if not given."""
    nets: int = 20
    """With png: networks to measure the loss of accuracy on, where they are random."""


def run(path: Path, config: Config) -> Path:
    """Exports a distilled set; returns the file or folder that it wrote.

    Raises:
      ValueError: data that cannot be used, a target that exists or cannot be written, or a library that is missing.
    """
    accepted = f"one of {', '.join(FORMS)}"
    require(config.to in FORMS, "to", config.to, accepted)
    assert config.to is not None
    form, source = FORMS[config.to], path / "distilled.npz" if path.is_dir() else path
    file = evaluate.load(source)
    target = config.output or source.parent / form.name
    require(not target.exists(), "output", target, "a new name; it exists")
    require(target.parent.is_dir(), "output", target, f"a name in an existing folder; there is no {target.parent}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        part = Path(folder) / target.name
        if form.is_folder:
            part.mkdir()
        form.write(source, file, part)
        if config.to == "png":
            _measure(source, file, part, config)
        part.rename(target)
    return target


def _measure(source: Path, file: DistilledFile, folder: Path, config: Config) -> None:
    """Adds to the index of PNG files what accuracy they cost, or why that is not known."""
    low, high = png.range_of(file)
    versions = {
        "exact": file,
        "in 8 bits": png.in_8_bits(file, low, high),
        "in 8 bits, cut off at [0, 1]": png.in_8_bits(file, 0.0, 1.0),
    }
    settings = evaluate.Config(nets=None if file.initial_weights else config.nets)
    try:
        accuracy: Any = {
            name: evaluate.evaluated(source, version, settings)["scores"][-1]["accuracy"]
            for name, version in versions.items()
        }
    except ValueError as error:
        say(f"the accuracy that 8 bits cost is not measured ({first_line(error)})")
        accuracy = None
    index = png.read_index(folder)
    write_json(folder / png.INDEX, {"accuracy": accuracy, **index})


def main(argv: list[str]) -> None:
    """The command line of this module."""
    path, options = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("RUN_OR_NPZ", argv)
    config = parse(Config(), __doc__ or "", path, options)
    if path == "RUN_OR_NPZ":
        raise ValueError("RUN_OR_NPZ: it is missing; give the folder of a run or a distilled.npz first")
    target = run(Path(path), config)
    if config.to == "png":
        _tell(png.read_index(target))
    print(f"wrote {target}")


def _tell(index: dict[str, Any]) -> None:
    beyond = index["beyond"]
    print(
        f"{100 * beyond['below 0']:.1f} % of the pixels lie below 0 and {100 * beyond['above 1']:.1f} % above 1; "
        f"levels 0 … 255 are {index['low']:.3f} … {index['high']:.3f}"
    )
    for name, accuracy in (index["accuracy"] or {}).items():
        print(f"test accuracy {name}: {100 * accuracy['mean']:.2f} %")


if __name__ == "__main__":
    run_as_script(main)
