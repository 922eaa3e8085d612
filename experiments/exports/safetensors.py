"""safetensors: the arrays by their names in the file, and ``meta`` among the metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.files.distilled_file import DistilledFile

from .common import needed


def write(source: Path, file: DistilledFile, target: Path) -> None:
    """The same arrays under the same names; ``meta`` and ``format_version`` are texts of the metadata.

    Raises:
      ValueError: safetensors is not installed.
    """
    save: Any = needed("safetensors.numpy", "safetensors").save_file
    with np.load(source) as held:
        arrays = {name: np.ascontiguousarray(held[name]) for name in held.files if name not in _TEXTS}
    save(arrays, target, {"meta": json.dumps(file.meta), "format_version": str(file.format_version)})


_TEXTS = ("meta", "format_version")
