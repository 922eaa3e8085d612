"""TensorBoard files of a run, which tensorboardX writes: what metrics.jsonl has, but for the seconds."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Scalars = Callable[[int, Mapping[str, float]], None]
"""Writes numbers of an outer step, by name: ``(step, numbers)``."""

_SECONDS = 10  # after which TensorBoard sees what was written


def writer() -> Callable[..., Any]:
    """TensorboardX's ``SummaryWriter``.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module("tensorboardX").SummaryWriter
    except ImportError as error:
        accepted = "pip install 'dd-jax[tensorboard]'"
        raise ValueError(f"tensorboard: it needs tensorboardX, which is not installed; {accepted}") from error


@contextlib.contextmanager
def scalars(folder: Path | None, start: int) -> Iterator[Scalars]:
    """While open, writes numbers by name.

    Args:
      folder: of the files; without one, nothing is written.
      start: outer steps done. What TensorBoard has of later ones is of a run that was cut short, and is hidden.

    Raises:
      ValueError: tensorboardX is not installed.
    """
    if folder is None:
        yield lambda step, numbers: None
        return
    of_its_own = f".{start}"  # a name; else two runs of one second have the same
    events = writer()(str(folder), purge_step=start + 1, flush_secs=_SECONDS, filename_suffix=of_its_own)

    def write(step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            events.add_scalar(name, number, step)

    try:
        yield write
    finally:
        events.close()
