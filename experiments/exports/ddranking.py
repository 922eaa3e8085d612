"""The tensors that DD-Ranking's evaluators take (https://github.com/NUS-HPC-AI-Lab/DD-Ranking)."""

from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.files.distilled_file import DistilledFile

from .common import examples_of, needed, write_facts

NORMALISATION = {  # of DD-Ranking's real images, by the name of the TFDS set
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def write(source: Path, file: DistilledFile, target: Path) -> None:
    """``images.pt [N, D, H, W]`` class by class, ``labels.pt [N]`` or soft ones ``[N, C]``, and ``lr.pt``, the mean.

    The images are normalised as DD-Ranking normalises its real ones. Its evaluators mix the images of all steps, and
    have one learning rate and networks of their own, so they do not repeat our result.

    Raises:
      ValueError: PyTorch is not installed, or DD-Ranking does not evaluate this data set, or classes of unequal sizes.
    """
    torch: Any = needed("torch", "ddranking")
    name = file.meta.get("dataset")
    if name not in NORMALISATION:
        raise ValueError(f"to: ddranking is for {', '.join(NORMALISATION)}, and these images are of {name}; use pt")
    examples = sorted(examples_of(file), key=lambda example: example.target)
    counts = np.bincount([example.target for example in examples], minlength=file.labels.shape[2])
    if len(set(counts)) > 1:
        raise ValueError(f"to: ddranking takes equally many images of every class, not {counts.tolist()}; use pt")
    mean, std = np.array(NORMALISATION[name], np.float32)
    images = np.stack([(example.pixels - mean) / std for example in examples])
    labels = np.stack([example.label for example in examples])
    hard = bool((np.isin(labels, (0, 1))).all())
    held = {
        "images": torch.tensor(np.ascontiguousarray(np.moveaxis(images, -1, 1))),
        "labels": torch.tensor(labels.argmax(-1).astype(np.int64) if hard else labels),
        "lr": torch.tensor(float(file.step_sizes.mean())),
    }
    for tensor, values in held.items():
        torch.save(values, target / f"{tensor}.pt")
    write_facts(target, source, file)
