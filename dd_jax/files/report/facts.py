"""What a page is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dd_jax.files.scored import Scored
from dd_jax.files.snapshots import Snapshot


class Shown(NamedTuple):
    """Distilled data as people see them."""

    images: np.ndarray  # [S, M, H, W, D] normalised, not whitened
    labels: np.ndarray  # [S, M, C]
    step_sizes: np.ndarray  # [T]


class Facts(NamedTuple):
    """A finished run, as its files have it. What an earlier run has not kept is empty."""

    name: str  # such as "fixed_init · mnist"
    result: Mapping[str, Any]  # the content of result.json
    distilled: Shown
    class_names: list[str]
    metrics: Sequence[Mapping[str, float]] = ()  # the lines of metrics.jsonl
    snapshots: Sequence[Snapshot] = ()  # of the same images, in turn
    scored: Scored | None = None
    baselines: Sequence[Mapping[str, Any]] = ()  # name, accuracy, reported, reported_std, reported_checked
    attack: Sequence[Sequence[str]] = ()  # the lines of the table of an attack, its heading first
    command: str = ""  # that makes the run again
    changed: Sequence[tuple[str, str, str]] = ()  # settings: name, the preset's value, this run's

    def series(self, name: str) -> np.ndarray:
        """Steps and values of one metric, ``[2, N]``, from the lines that have it."""
        return np.array([(line["step"], line[name]) for line in self.metrics if name in line], float).reshape(-1, 2).T

    @property
    def known(self) -> bool:
        """Whether the networks are known ones, which earlier results do not say."""
        drawn = self.result["config"].get("weights", {}).get("nets") is not None
        return self.result.get("networks", "random" if drawn else "known") == "known"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """S, M and T."""
        steps, count = self.distilled.images.shape[:2]
        return steps, count, len(self.distilled.step_sizes)
