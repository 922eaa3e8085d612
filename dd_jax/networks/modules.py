"""Modules of flax.linen, flax.nnx and equinox as plain ``(init, apply)`` pairs.

A network here has no hidden state: whatever its forward pass depends on besides the images is among its weights. A
module that keeps statistics, or draws random numbers, is refused with the remedy.
"""

import sys
from collections.abc import Callable
from typing import Any, cast

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from dd_jax.base import Network, Params
from dd_jax.files.trees import named_leaves
from dd_jax.networks.options import ImageShape

_NO_STATE = "use layers without it (GroupNorm or LayerNorm instead of BatchNorm)"


def from_flax(module: nn.Module, image_shape: ImageShape) -> Network:
    """Wraps a flax.linen module as a pair.

    Args:
      module: called as ``module(images)``, images ``[B, H, W, D]``; must hold no state but its parameters.
      image_shape: (H, W, D).

    Raises:
      ValueError: the module has collections besides ``params``, such as BatchNorm's statistics: they change in
        the forward pass, and treating them as constants would silently give another network; or its forward pass draws
        random numbers, as Dropout's does.
    """
    name = type(module).__name__
    image = jnp.zeros((1, *image_shape), jnp.float32)  # flax's type of weights
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    state = sorted(set(shapes) - {"params"})
    if state:
        raise ValueError(f"network: {name} keeps state {state} that changes in the forward pass; {_NO_STATE}")
    try:
        jax.eval_shape(module.apply, shapes, image)
    except flax.errors.InvalidRngError as error:
        raise _random(name, "Dropout(…, deterministic=True)") from error
    return Network(
        init=lambda key: module.init(key, image),
        apply=lambda theta, images: cast(jax.Array, module.apply(theta, images)),
    )


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module], image_shape: ImageShape) -> Network:
    """Wraps a flax.nnx module as a pair; its weights are its ``nnx.Param``s, by name.

    Args:
      make: ``rngs -> module``, called as ``module(images)``, images ``[B, H, W, D]``; a module that depends on ``rngs``
        alone.
      image_shape: (H, W, D).

    Raises:
      ValueError: the module keeps state, such as BatchNorm's statistics, or draws random numbers in its forward pass.
    """
    module = make(nnx.Rngs(0))
    name = type(module).__name__
    graph, like, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
    if state:
        kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(state)})
        raise ValueError(f"network: {name} keeps state {kinds} that changes in the forward pass; {_NO_STATE}")

    def apply(theta, images):
        weights = jax.tree.map(lambda leaf: leaf, like)  # a copy, of which the next line replaces the arrays
        nnx.replace_by_pure_dict(weights, theta)
        return cast(Any, nnx.merge(graph, weights, streams))(images)

    network = Network(lambda key: nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param)), apply)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    try:
        jax.eval_shape(apply, shapes, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    except flax.errors.TraceContextError as error:  # a stream of random numbers cannot advance here
        raise _random(name, "nnx.Dropout(…, deterministic=True)") from error
    return network


def from_equinox(make: Callable[[jax.Array], Any]) -> Network:
    """Wraps an equinox module as a pair; its weights are its arrays of floats, by name.

    As equinox's layers do, the module takes one image with its channels first, ``[D, H, W]``, and returns logits
    ``[C]``. The weights of its ``Linear`` and ``Conv`` layers are held as flax.linen holds them, ``kernel […, I, O]``,
    so that laws of weights find the inputs and outputs.

    Args:
      make: ``key -> module``.

    Raises:
      ValueError: the module keeps state, such as BatchNorm's statistics, or draws random numbers in its forward pass.
    """
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    module = make(jax.random.key(0))
    name = type(module).__name__
    if any(isinstance(part, eqx.nn.StateIndex) for part in _parts(module, eqx.nn.StateIndex)):
        raise ValueError(f"network: {name} keeps state that changes in the forward pass; {_NO_STATE}")
    dropouts = [part for part in _parts(module, eqx.nn.Dropout) if isinstance(part, eqx.nn.Dropout)]
    if any(dropout.p > 0 and not dropout.inference for dropout in dropouts):
        raise _random(name, "eqx.nn.Dropout(…, inference=True)")
    weights, static = eqx.partition(module, eqx.is_inexact_array)
    structure = jax.tree.structure(weights)
    names = list(named_leaves(weights))
    of_layers = _names_of_weights(module, (eqx.nn.Linear, eqx.nn.Conv))

    def init(key):
        leaves = jax.tree.leaves(eqx.partition(make(key), eqx.is_inexact_array)[0])
        named = zip(names, leaves, strict=True)
        return dict(_as_flax(name, leaf) if name in of_layers else (name, leaf) for name, leaf in named)

    def apply(theta, images):
        leaves = [_as_equinox(theta, name) if name in of_layers else theta[name] for name in names]
        called = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        return jax.vmap(called)(jnp.moveaxis(images, -1, 1))

    return Network(init, apply)


def _as_flax(name: str, weight: jax.Array) -> tuple[str, jax.Array]:
    """``weight [O, I, …]`` as ``kernel […, I, O]``."""
    return name.removesuffix("weight") + "kernel", jnp.moveaxis(weight, (0, 1), (-1, -2))


def _as_equinox(theta: Params, name: str) -> jax.Array:
    return jnp.moveaxis(theta[name.removesuffix("weight") + "kernel"], (-1, -2), (0, 1))


def _names_of_weights(module: Any, kinds: tuple[type, ...]) -> set[str]:
    """The names of the weights of those layers, as ``named_leaves`` gives them."""
    parts = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda part: isinstance(part, kinds))[0]
    layers = (jax.tree_util.keystr(path, simple=True, separator="/") for path, part in parts if isinstance(part, kinds))
    return {f"{layer}/weight".removeprefix("/") for layer in layers}


def _parts(module: Any, kind: Any) -> list[Any]:
    """The parts of a module that are of a kind, and its leaves elsewhere."""
    return jax.tree.leaves(module, is_leaf=lambda part: isinstance(part, kind))


def is_equinox(made: Any) -> bool:
    """Whether this is an equinox module; equinox is not imported for it."""
    equinox = sys.modules.get("equinox")  # whoever made an equinox module has imported it
    return equinox is not None and isinstance(made, equinox.Module)


def _random(name: str, remedy: str) -> ValueError:
    return ValueError(
        f"network: {name} draws random numbers in its forward pass, which has no key; "
        f"leave dropout out, or make it {remedy}"
    )
