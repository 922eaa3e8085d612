"""Pytrees as named arrays, the form in which files hold them."""

from collections.abc import Mapping
from typing import Any

import jax

from dd_jax.base import Params


def named_leaves(theta: Params) -> dict[str, Any]:
    """The leaves of a pytree by name, for example ``"params/Conv_0/kernel"``, in its own order."""
    leaves = jax.tree_util.tree_flatten_with_path(theta)[0]
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}


def restructured(arrays: Mapping[str, Any], like: Params, subject: str, *, many: bool = False) -> Params:
    """Named arrays as a pytree like ``like``; with ``many``, each with one more axis in front.

    Raises:
      ValueError: names or shapes that are not those of ``like``; the message begins with ``subject``.
    """
    named = named_leaves(like)
    wanted = {name: tuple(leaf.shape) for name, leaf in named.items()}
    held = {name: tuple(array.shape[many:]) for name, array in arrays.items()}
    if wanted != held:
        differing = sorted(dict(wanted.items() ^ held.items()))[0]
        raise ValueError(
            f"{subject} not fit the network ({differing} is {held.get(differing)} there and {wanted.get(differing)} "
            "in the network)"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in named])
