"""What several forms share: the images as a list, their classes, and libraries that may be missing."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dd_jax.data.normalisation import denormalise
from dd_jax.files.distilled_file import DistilledFile


class Example(NamedTuple):
    """One distilled image, and where it stands among the others."""

    step: int  # the stored step that it belongs to
    place: int  # within that step
    pixels: np.ndarray  # [H, W, D] float32 in units of [0, 1], which it may lie beyond
    label: np.ndarray  # [C]
    target: int  # the class of the largest label


def examples_of(file: DistilledFile) -> list[Example]:
    """All images, step after step."""
    pixels = np.stack([np.asarray(denormalise(images, file.normalisation)) for images in file.distilled.images])
    steps, size = pixels.shape[:2]
    places = [(step, place) for step in range(steps) for place in range(size)]
    labels = file.labels
    return [Example(s, m, pixels[s, m], labels[s, m], int(labels[s, m].argmax())) for s, m in places]


def class_names(file: DistilledFile) -> list[str]:
    """C names."""
    return list(file.meta.get("class_names") or map(str, range(file.labels.shape[2])))


def facts(file: DistilledFile) -> dict[str, Any]:
    """What a form with an index holds beside the images."""
    return {"step_sizes": file.step_sizes.tolist(), "mean": file.mean.tolist(), "std": file.std.tolist(), **file.meta}


def write_facts(folder: Path, source: Path, file: DistilledFile) -> None:
    """The facts as ``distilled.json``, and the file itself, which has the weights, hyper-parameters and whitening."""
    (folder / "distilled.json").write_text(json.dumps(facts(file), indent=2, ensure_ascii=False) + "\n", "utf-8")
    shutil.copyfile(source, folder / "distilled.npz")


def needed(library: str, to: str) -> Any:
    """An optional library.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        package = library.partition(".")[0]
        raise ValueError(f"to: {to} needs {package}, which is not installed; pip install {package}") from error
