"""Checkpoints of a whole training state: atomic, the newest few kept, a damaged one set aside and passed over.

Several processes that run one program open, save and restore together, in a folder that all of them see. What is saved
does not depend on their number, nor on the devices': another number can restore it.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from dd_jax import hosts
from dd_jax.files.atomic import first_line, set_aside, whole_or_absent
from dd_jax.files.trees import named_leaves

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint that was read."""

    step: int
    state: Any
    facts: dict[str, Any]  # what was saved beside the state


class Checkpoints:
    """The checkpoints of one run, in one folder. Open with :func:`checkpoints`."""

    def __init__(self, checkpointer: ocp.training.Checkpointer):
        self._checkpointer = checkpointer

    def restore(self, like: Any) -> Restored | None:
        """The newest readable checkpoint, or None where there is none at all.

        A damaged one is reported, and renamed once an older one has been read. Nothing is ever deleted.

        Args:
          like: a pytree of arrays with the structure, shapes, types and devices of the state.

        Raises:
          ValueError: the newest readable checkpoint holds a state of another structure, shape or type.
          OSError: there are checkpoints, and none of them can be read; or processes do not see the same ones.
        """
        folder = Path(self._checkpointer.directory)
        shared = hosts.replicated(like)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), shared)
        unreadable: dict[int, str] = {}
        steps = sorted((c.step for c in self._checkpointer.checkpoints), reverse=True)
        if steps != (there := hosts.agreed(steps)):
            raise OSError(
                f"checkpoints: this process sees those of steps {steps} in {folder}, and the first one {there}; use a "
                "folder that all processes see"
            )
        for step in steps:
            try:
                held = self._checkpointer.metadata(step)
                if held.metadata is None:  # what orbax gives where it cannot read the arrays' own
                    raise OSError("its metadata cannot be read")
            except Exception as error:  # orbax raises many kinds for a damaged folder
                unreadable[step] = first_line(error)
                continue
            _check_structure(folder / str(step), held.metadata, like)
            try:
                state = self._checkpointer.load(step, abstract)
            except Exception as error:
                unreadable[step] = first_line(error)
                continue
            if unreadable:
                hosts.from_first(lambda: _set_aside(folder, unreadable))
                self._checkpointer.reload()
            facts: Any = held.custom_metadata or {}
            return Restored(step, jax.tree.map(_back_on, like, state), dict(facts))
        if unreadable:
            step, why = next(iter(unreadable.items()))
            raise OSError(
                f"checkpoints: none of {len(unreadable)} in {folder} can be read (step {step}: {why}); nothing was "
                "changed. Try again, or move that folder away to begin anew"
            )
        return None

    def save(self, step: int, state: Any, facts: Mapping[str, Any] | None = None) -> None:
        """Writes the state of a step, and JSON facts beside it, atomically; a step already there is left as it is."""
        if step not in (c.step for c in self._checkpointer.checkpoints):
            with whole_or_absent(Path(self._checkpointer.directory)):
                self._checkpointer.save(step, hosts.replicated(state), custom_metadata=dict(facts or {}))


def _set_aside(folder: Path, unreadable: Mapping[int, str]) -> None:
    """Renames damaged checkpoints, each with why it cannot be read."""
    for step, why in unreadable.items():
        where = set_aside(folder / str(step), folder.with_name(f"{folder.name}-damaged"))
        log.warning("checkpoint %d cannot be read (%s); it is now %s", step, why, where)


def _back_on(like: jax.Array, leaf: jax.Array) -> jax.Array:
    """A leaf on the devices of ``like``: of several processes, each may hold a copy of its own."""
    if leaf.is_fully_addressable or not like.is_fully_addressable:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(leaf).addressable_data(0)
        return jax.device_put(jax.random.wrap_key_data(data, impl=jax.random.key_impl(like)), like.sharding)
    return jax.device_put(leaf.addressable_data(0), like.sharding)


def _check_structure(path: Path, held: Any, like: Any) -> None:
    """Compares the leaves by name: orbax itself would pass over a missing one, and convert types."""

    def kinds(tree):
        return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(tree).items()}

    there, here = kinds(held), kinds(jax.tree.map(_as_stored, like))
    if there != here:
        name = sorted(name for name in there | here if there.get(name) != here.get(name))[0]
        raise ValueError(
            f"checkpoints: {path} holds another kind of state ({name} is {_told(there, name)} there and "
            f"{_told(here, name)} here); nothing was changed. Go on with the version that made it, or choose another "
            "folder"
        )


def _as_stored(leaf):
    """A random key is stored as the integers it is made of."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _told(kinds, name):
    return "absent" if name not in kinds else "{1} {0}".format(*kinds[name])


@contextlib.contextmanager
def checkpoints(folder: Path, *, keep: int = 3) -> Iterator[Checkpoints]:
    """Opens a folder of checkpoints, made if it is missing, of which the newest ``keep`` are kept."""
    policy: Any = ocp.training.preservation_policies.LatestN(keep)
    with ocp.training.Checkpointer(str(folder.absolute()), preservation_policy=policy) as checkpointer:
        yield Checkpoints(checkpointer)
