"""Small data for tests of readers: twelve images of three classes."""

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)
LABELS = np.arange(12) % 3
FLOATS = (IMAGES / 255).astype(np.float32)
WITH_NAN = FLOATS.copy()
WITH_NAN[3, 1, 1] = np.nan
COLOUR = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


def write_classes(folder, suffix=".png", names=("cat", "dog", "eel")):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in np.flatnonzero(label == LABELS):
            Image.fromarray(IMAGES[i]).save(folder / name / f"{i:02}{suffix}")
