"""Checkpoints of a whole training state: atomic, the newest few kept, a damaged one passed over."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in one folder. Open with :func:`checkpoints`."""

    def __init__(self, checkpointer: ocp.training.Checkpointer):
        self._checkpointer = checkpointer

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest readable (step, state), or None. A damaged one is reported, removed and passed over.

        Args:
          like: a pytree of arrays with the structure, shapes and types of the state.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        for step in sorted((c.step for c in self._checkpointer.checkpoints), reverse=True):
            try:
                return step, self._checkpointer.load(step, abstract)
            except Exception as error:  # orbax raises many kinds for a damaged folder
                log.warning("checkpoint %d is damaged (%s); falling back to the one before", step, type(error).__name__)
                shutil.rmtree(Path(self._checkpointer.directory) / str(step), ignore_errors=True)
                self._checkpointer.reload()
        return None

    def save(self, step: int, state: Any) -> None:
        """Writes the state of a step, atomically; a step already there is left as it is."""
        if step not in (c.step for c in self._checkpointer.checkpoints):
            self._checkpointer.save(step, state)


@contextlib.contextmanager
def checkpoints(folder: Path, *, keep: int = 3) -> Iterator[Checkpoints]:
    """Opens a folder of checkpoints, made if it is missing, of which the newest ``keep`` are kept."""
    policy: Any = ocp.training.preservation_policies.LatestN(keep)
    with ocp.training.Checkpointer(str(folder.absolute()), preservation_policy=policy) as checkpointer:
        yield Checkpoints(checkpointer)
