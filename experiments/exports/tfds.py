"""A TFDS set in array_record, for ``tfds.builder_from_directory``; neither needs TensorFlow."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.files.distilled_file import DistilledFile

from .common import Example, class_names, examples_of, write_facts


def write(source: Path, file: DistilledFile, target: Path) -> None:
    """One split, ``train``: ``image`` float32 as the file has it, ``label``, ``class``, ``step`` and ``place``."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        builder = _builder(file, folder)
        builder.download_and_prepare()
        shutil.copytree(builder.data_path, target, dirs_exist_ok=True)
    write_facts(target, source, file)


def _builder(file: DistilledFile, folder: str) -> Any:
    import tensorflow_datasets as tfds  # here: slow to import

    examples, images = examples_of(file), file.images
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=images.shape[2:], dtype=np.float32),
            "label": tfds.features.Tensor(shape=file.labels.shape[2:], dtype=np.float32),
            "class": tfds.features.ClassLabel(names=class_names(file)),
            "step": np.int32,
            "place": np.int32,
        }
    )

    def row(example: Example) -> dict[str, Any]:
        image = images[example.step, example.place].astype(np.float32)
        label = example.label.astype(np.float32)
        place = {"step": np.int32(example.step), "place": np.int32(example.place)}
        return {"image": image, "label": label, "class": example.target, **place}

    class Distilled(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = "Distilled images; distilled.json and distilled.npz beside it say how to train on them."
            return tfds.core.DatasetInfo(builder=self, description=text, features=features)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, example in enumerate(examples):
                yield number, row(example)

    return Distilled(data_dir=folder, file_format="array_record")
