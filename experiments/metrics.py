"""``metrics.jsonl``: the numbers of a run by outer step, with the seconds since it began."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from dd_jax.files.atomic import write_atomically
from dd_jax.hosts import is_first

from .tensorboard import Scalars, scalars


class Metrics:
    """The lines of a run, of which each is written at once, and its clock, which stands still between resumptions."""

    def __init__(self, lines: list[dict[str, float]], done: float, file: IO[str], tell: Scalars):
        self.lines = lines
        self._began = time.monotonic() - done
        self._file, self._tell = file, tell

    def seconds(self) -> float:
        """Seconds that the run has taken, over all resumptions."""
        return round(time.monotonic() - self._began, 3)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line."""
        self.lines.append({"step": step, **values, "seconds": self.seconds()})
        print(json.dumps(self.lines[-1]), file=self._file, flush=True)
        self._tell(step, values)

    def losses(self) -> list[float]:
        """Those of all outer steps so far."""
        return [line["loss"] for line in self.lines if "loss" in line]


@contextlib.contextmanager
def metrics(path: Path, start: int, seconds: float | None = None, tensorboard: Path | None = None) -> Iterator[Metrics]:
    """While open, the metrics of a run that goes on; of several processes, only the first has a file.

    Args:
      path: of the file. Lines of later steps than ``start``, and one cut short by a crash, are dropped.
      start: outer steps done.
      seconds: that they took; by the last line if not given.
      tensorboard: a folder for the same in TensorBoard's files; none are written if not given.
    """
    first = is_first()
    lines = [line for line in read_lines(path) if line["step"] <= start] if first else []
    if first:
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))
    if seconds is None:
        seconds = lines[-1]["seconds"] if lines else 0.0
    with (
        (path if first else Path(os.devnull)).open("a") as file,
        scalars(tensorboard if first else None, start) as tell,
    ):
        yield Metrics(lines, seconds, file, tell)


def read_lines(path: Path) -> list[dict[str, float]]:
    """The whole lines of a JSON-lines file; one cut short by a crash is dropped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines
