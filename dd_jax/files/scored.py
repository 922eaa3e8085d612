"""``scores.npz``: how a run's networks scored in detail, once and for all, and some real images; for its page."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dd_jax.files.atomic import write_atomically


class Scored(NamedTuple):
    """What the page of a run shows beyond its result; sums and means are over the networks."""

    examples: np.ndarray  # [C] test examples of each class
    networks: np.ndarray  # () networks that were tested
    right: np.ndarray  # [2, C] test examples named rightly, before and after the steps, summed over the networks
    confusion: np.ndarray  # [2, C, C] the same by true class and by answer; [2, 0, 0] where there are many classes
    steps: np.ndarray  # [P] numbers of gradient steps
    accuracy: np.ndarray  # [P] of some networks on the validation split after these, mean
    spread: np.ndarray  # [P] … and standard deviation
    real_images: np.ndarray  # [R, H, W, D] uint8, of the training split
    real_classes: np.ndarray  # [R]

    @property
    def by_class(self) -> np.ndarray:
        """Accuracy on each class before and after, ``[2, C]``; not a number where there are no examples."""
        with np.errstate(all="ignore"):
            return self.right / (self.networks * self.examples)


def save_scored(path: Path, scored: Scored) -> None:
    """Writes ``scores.npz`` atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **scored._asdict())
    write_atomically(path, buffer.getvalue())


def load_scored(path: Path) -> Scored | None:
    """Reads what :func:`save_scored` wrote; None where there is none, as of earlier runs, or it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Scored(*(file[name] for name in Scored._fields))
    except Exception:  # zipfile and numpy each raise their own kinds; a page does without
        return None
