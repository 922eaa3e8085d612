"""A new last layer for trained networks: some weights are loaded by name, and the rest are fresh.

The same step serves a new task for a published network, fine-tuning, and a user's own bank.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Network, Params
from dd_jax.files.trees import named_leaves


class Fresh(NamedTuple):
    """Weights that are not loaded but drawn, each network's by its number."""

    patterns: Sequence[str]  # of their names, such as "params/Dense_2/*", as fnmatch has them
    draw: Callable[[jax.Array], Params]  # key -> weights of a whole network, of which these alone are taken
    key: jax.Array


def bias_one(network: Network) -> Callable[[jax.Array], Params]:
    """Weights zero and biases one: with such a last layer, a first gradient step moves that layer alone.

    Through zero weights no gradient passes. This is the last layer of the paper's code for ImageNet's networks.

    Args:
      network: gives the shapes. Its weights with one axis count as biases.

    Returns:
      ``key -> weights``; the key has no effect.
    """
    like = jax.eval_shape(network.init, jax.random.key(0))

    def draw(key: jax.Array) -> Params:
        del key
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, float(leaf.ndim == 1), leaf.dtype), like)

    return draw


def names_of_head(network_of: Callable[[int], Network], classes: int) -> tuple[str, ...]:
    """The names of the weights whose shapes depend on the number of classes: those of the last layer.

    Args:
      network_of: the network for a number of classes.
      classes: C.

    Raises:
      ValueError: there are none.
    """

    def shapes(classes: int) -> dict[str, Any]:
        return {
            name: leaf.shape
            for name, leaf in named_leaves(jax.eval_shape(network_of(classes).init, jax.random.key(0))).items()
        }

    here, there = shapes(classes), shapes(classes + 1)
    names = tuple(name for name, shape in here.items() if there.get(name) != shape)
    if not names:
        raise ValueError("head: no weights of this network depend on the number of classes; name those that are new")
    return names


def renewed(arrays: Mapping[str, Any], fresh: Fresh, numbers: range) -> dict[str, Any]:
    """Loaded weights of several networks, with the fresh ones in place of those whose names match.

    Args:
      arrays: the loaded ones by name, each with a leading axis of the networks.
      fresh: what is not loaded.
      numbers: of the networks, by which their keys are drawn: a network's new weights do not depend on the others.

    Raises:
      ValueError: a pattern that matches no weights of the network.
    """
    like = named_leaves(jax.eval_shape(fresh.draw, fresh.key))

    def is_new(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in fresh.patterns)

    for pattern in fresh.patterns:
        if not fnmatch.filter(like, pattern):
            raise ValueError(f"head_layers: {pattern!r} matches no weights; use patterns of {', '.join(like)}")

    @jax.jit
    def drawn(keys: jax.Array) -> dict[str, jax.Array]:
        def one(key: jax.Array) -> dict[str, jax.Array]:
            return {name: leaf for name, leaf in named_leaves(fresh.draw(key)).items() if is_new(name)}

        return jax.vmap(one)(keys)

    keys = jax.vmap(lambda number: jax.random.fold_in(fresh.key, number))(np.arange(numbers.start, numbers.stop))
    loaded = {name: array for name, array in arrays.items() if not is_new(name)}
    return loaded | jax.device_get(drawn(keys))
