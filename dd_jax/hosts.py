"""What the processes of one program agree on. They all run the same code; alone, a process agrees with itself at once.

``jax.distributed`` is JAX's own way to run one program in several processes, on one host or many.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dd_jax.parallel import everywhere, spread

T = TypeVar("T")

_BLOCK = 1024  # bytes: texts are padded to a multiple of it, so that few programs are compiled


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes files and speaks to the user; so is one that is alone."""
    return not several() or jax.process_index() == 0


def everyones(value: Any) -> list[Any]:
    """Each process's value, in the order of their numbers. All must call this, in the same order.

    Args:
      value: what JSON can hold.
    """
    if not several():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(-(-int(sizes.max()) // _BLOCK) * _BLOCK, np.uint8)
    padded[: text.size] = text
    texts = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes, strict=True)]


def agreed(value: Any) -> Any:
    """The first process's value, in all of them; see :func:`everyones`."""
    return everyones(value)[0]


def from_first(f: Callable[[], T]) -> T:
    """Calls ``f`` in the first process alone; all wait for it, and get what it returned, which JSON must hold.

    Raises:
      ValueError: in the others, ``f`` has failed in the first, which raises what ``f`` did.
    """
    if not several():
        return f()
    told: dict[str, Any] = {}
    if is_first():
        try:
            told = {"value": f()}
        except Exception as error:
            agreed({"error": str(error)})
            raise
    told = agreed(told)
    if "error" in told:
        raise ValueError(f"the first process failed: {told['error']}")
    return told["value"]


def replicated(tree: Any) -> Any:
    """The same arrays on every device of every process. Those that are already on other processes' stay as they are.

    Args:
      tree: arrays of one process, with the same values in all; random keys too.
    """
    if not several():
        return tree
    whole = everywhere(Mesh(np.array(jax.devices()), ("devices",)))
    return jax.tree.map(lambda leaf: spread(leaf, whole) if leaf.is_fully_addressable else leaf, tree)
