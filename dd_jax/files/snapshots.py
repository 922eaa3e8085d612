"""Snapshots of the images during training: small, for people, one file for each moment."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dd_jax.files.atomic import write_atomically
from dd_jax.files.figures import screen_range, screen_values
from dd_jax.files.report.tiles import chosen


class Snapshot(NamedTuple):
    """The images of one moment, as a screen shows them."""

    step: int  # outer steps done
    images: np.ndarray  # [S', M', H, W, D] uint8, those that are shown
    reach: float  # how far black and white lie from mid-grey, in normalised units


def snapshot(step: int, images: np.ndarray) -> Snapshot:
    """The images ``[S, M, H, W, D]`` of a moment, normalised, not whitened; of many, some."""
    kept = np.asarray(images)[np.ix_(*chosen(images.shape))]
    return Snapshot(step, screen_values(kept)[..., : kept.shape[-1]], screen_range(kept))


def save_snapshot(folder: Path, moment: Snapshot) -> None:
    """Writes a file of a folder, which is made if it is missing."""
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=moment.images, reach=np.float64(moment.reach))
    write_atomically(folder / f"{moment.step:08d}.npz", buffer.getvalue())


def load_snapshots(folder: Path, last: int, shape: Sequence[int]) -> list[Snapshot]:
    """The snapshots of a folder by step, up to step ``last``; those of another shape or damaged are left out."""
    moments = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                moment = Snapshot(int(path.stem), file["images"], float(file["reach"]))
        except Exception:  # zipfile and numpy each raise their own kinds; a page does without
            continue
        if moment.step <= last and moment.images.shape == tuple(shape) and moment.images.dtype == np.uint8:
            moments.append(moment)
    return moments
