"""PNG files by class with an index in JSON, and what their 8 bits do to the images."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dd_jax.data.normalisation import normalise
from dd_jax.files.distilled_file import DistilledFile

from .common import class_names, examples_of, write_facts

INDEX = "index.json"


def write(source: Path, file: DistilledFile, target: Path) -> None:
    """``CLASS/step_S_image_M.png``, ``index.json``, and the distilled file itself.

    The levels 0 … 255 of a PNG are the range of all pixels, ``low`` to ``high`` in the index, so that none is cut off.
    """
    examples, names = examples_of(file), class_names(file)
    low, high = range_of(file)
    folders = [f"{number:0{len(str(len(names) - 1))}d}_{_plain(name)}" for number, name in enumerate(names)]
    images = []
    for example in examples:
        name = f"{folders[example.target]}/step_{example.step:03d}_image_{example.place:04d}.png"
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = levels_of(example.pixels, low, high)
        Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(path)
        label, target_class = example.label.tolist(), example.target
        where = {"step": example.step, "place": example.place}
        images.append({"file": name, "class": target_class, "class_name": names[target_class], **where, "label": label})
    pixels = np.stack([example.pixels for example in examples])
    index = {
        "pixel": "low + (high - low) * level / 255, in units of [0, 1]; then preprocess it as a real image",
        "low": low,
        "high": high,
        "beyond": {"below 0": float((pixels < 0).mean()), "above 1": float((pixels > 1).mean())},
        "images": images,
    }
    (target / INDEX).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", "utf-8")
    write_facts(target, source, file)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of PNG files that :func:`write` made."""
    return json.loads((folder / INDEX).read_text("utf-8"))


def range_of(file: DistilledFile) -> tuple[float, float]:
    """The smallest and the largest pixel, in units of [0, 1]; 0 and 1 where all pixels lie between them."""
    pixels = [example.pixels for example in examples_of(file)]
    return min(0.0, float(np.min(pixels))), max(1.0, float(np.max(pixels)))


def levels_of(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Pixels as uint8, 0 for ``low`` and below and 255 for ``high`` and above."""
    return np.round(np.clip((pixels - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def in_8_bits(file: DistilledFile, low: float, high: float) -> DistilledFile:
    """The same data, their images as PNG files with these ends hold them."""
    pixels = np.stack([example.pixels for example in examples_of(file)]).reshape(file.images.shape)
    read = low + (high - low) * levels_of(pixels, low, high).astype(np.float32) / 255
    again: Any = np.stack([np.asarray(normalise(255 * images, file.normalisation)) for images in read])
    return file._replace(images=again)


def _plain(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name)[:80].strip(".") or "_"
