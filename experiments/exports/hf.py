"""A folder for Hugging Face's ``datasets.load_dataset``: parquet, with exact images and ones to look at."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dd_jax.files.distilled_file import DistilledFile

from .common import class_names, examples_of, needed, write_facts
from .png import levels_of

_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---

Distilled images. `values` are what networks train on, and `image` is a picture of them, cut off at [0, 1]. The order,
the step sizes and the network are part of the result: see `distilled.json` and `distilled.npz`.
"""


def write(source: Path, file: DistilledFile, target: Path) -> None:
    """One split, ``train``: ``image`` in 8 bits, ``values`` float32 as the file has them, ``label``, ``class``, ….

    Raises:
      ValueError: ``datasets`` is not installed.
    """
    datasets: Any = needed("datasets", "hf")
    examples, classes = examples_of(file), class_names(file)
    levels = [levels_of(example.pixels, 0.0, 1.0) for example in examples]
    columns = {
        "image": [Image.fromarray(level[..., 0] if level.shape[-1] == 1 else level) for level in levels],
        "values": file.images.reshape(-1, *file.images.shape[2:]).astype(np.float32),
        "label": file.labels.reshape(-1, len(classes)).astype(np.float32).tolist(),
        "class": [example.target for example in examples],
        "step": [example.step for example in examples],
        "place": [example.place for example in examples],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "values": datasets.Array3D(file.images.shape[2:], "float32"),
            "label": datasets.List(datasets.Value("float32"), length=len(classes)),
            "class": datasets.ClassLabel(names=classes),
            "step": datasets.Value("int32"),
            "place": datasets.Value("int32"),
        }
    )
    (target / "data").mkdir()
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(target / "data" / "train-00000-of-00001.parquet")
    (target / "README.md").write_text(_CARD, "utf-8")
    write_facts(target, source, file)
