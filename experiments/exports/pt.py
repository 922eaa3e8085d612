"""PyTorch tensors: a dictionary for ``torch.load``, images and weights in PyTorch's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.files.distilled_file import DistilledFile

from .common import needed


def write(source: Path, file: DistilledFile, target: Path) -> None:
    """Images ``[S, M, D, H, W]``; kernels ``[out, in, height, width]`` and ``[out, in]``; the rest as in the file.

    ``flatten`` in the architecture still goes through rows, columns and channels: permute to ``[N, H, W, D]`` first.

    Raises:
      ValueError: PyTorch is not installed.
    """
    torch: Any = needed("torch", "pt")
    del source

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(np.ascontiguousarray(array))

    many = _leading_axes(file)
    held = {
        "images": tensor(np.moveaxis(file.images, -1, 2)),
        "labels": tensor(file.labels),
        "step_sizes": tensor(file.step_sizes),
        "mean": tensor(file.mean),
        "std": tensor(file.std),
        "hyper": {name: tensor(array) for name, array in file.hyper.items()},
        "initial_weights": {name: tensor(_torchs(name, a, many)) for name, a in file.initial_weights.items()},
        "whitening": {} if file.whitening is None else {n: tensor(a) for n, a in file.whitening._asdict().items()},
        "meta": json.dumps(file.meta),
    }
    torch.save(held, target)


def _leading_axes(file: DistilledFile) -> int:
    """1 where the weights are of several known networks, 0 where they are of one: biases have one axis."""
    return max((array.ndim - 1 for name, array in file.initial_weights.items() if name.endswith("/bias")), default=0)


def _torchs(name: str, array: np.ndarray, many: int) -> np.ndarray:
    """A weight in PyTorch's layout: ``kernel […, in, out]`` becomes ``[out, in, …]``."""
    if not name.endswith("/kernel"):
        return array
    return np.moveaxis(array, (-1, -2), (many, many + 1))
