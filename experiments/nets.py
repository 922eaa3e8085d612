"""The networks that settings name: disjoint ones for training, validation and test, or known ones for all three."""

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Network, Params
from dd_jax.checks import require, within
from dd_jax.weights.bank import Bank, bank_sampler, fingerprint, load_bank
from dd_jax.weights.head import Fresh, bias_one, names_of_head
from dd_jax.weights.laws import initial_weights

from .settings import Weights
from .streams import streams

log = logging.getLogger(__name__)


HeldOut = tuple[jax.Array, Any]
"""Keys ``[K]``, and p(θ₀) by key or the weights of K networks: :func:`dd_jax.evaluation.evaluate_nets` takes both."""


class Nets(NamedTuple):
    """Disjoint networks of p(θ₀) for training, validation and test; or known ones for all three."""

    training: Callable[[int], Params]  # outer step -> θ₀ of one network, or of N on a leading axis
    many: bool  # whether it has that axis
    known: Params | None  # θ₀ of the known networks on a leading axis, if they are known
    validation: HeldOut
    test: HeldOut
    fingerprint: str = ""  # of the bank they are from: another, or one that has grown, is another p(θ₀)


def nets_of(weights: Weights, network: Network, image_shape: tuple[int, int, int], seed: int) -> Nets:
    """The networks that settings name. A new last layer is named in them (see :func:`with_head_layers`).

    Raises:
      ValueError: settings out of range or without effect, or a bank that is missing, does not fit the network, or has
        too few networks.
    """
    check_weights(weights)
    if weights.bank is not None:
        return _of_bank(weights, network, image_shape, seed)
    with within("weights"):
        draw = initial_weights(network, weights.law, weights.gain)
    keys, count = streams(seed), weights.nets
    if count is None:
        if weights.known == 1:
            return _known(jax.tree.map(lambda leaf: leaf[None], jax.jit(draw)(keys.weights)), seed)
        return _known(jax.jit(jax.vmap(draw))(jax.random.split(keys.weights, weights.known)), seed)

    @jax.jit
    def draw_many(step):
        return jax.vmap(draw)(jax.random.split(jax.random.fold_in(keys.weights, step), count))

    validation, test = (
        (jax.random.split(key, size), draw)
        for key, size in ((keys.validation, weights.validation_nets), (keys.test, weights.test_nets))
    )
    return Nets(draw_many, True, None, validation, test)


def _known(thetas: Params, seed: int) -> Nets:
    keys, count = streams(seed), jax.tree.leaves(thetas)[0].shape[0]
    many = count > 1
    training = thetas if many else jax.tree.map(lambda leaf: leaf[0], thetas)
    validation, test = (jax.random.split(key, count) if many else key[None] for key in (keys.validation, keys.test))
    return Nets(lambda step: training, many, thetas, (validation, thetas), (test, thetas))


def _of_bank(weights: Weights, network: Network, image_shape: tuple[int, int, int], seed: int) -> Nets:
    trained, *others = banks = banks_of(weights, network, image_shape, seed)
    if weights.nets is None:
        return _known(jax.tree.map(jnp.asarray, trained.weights), seed)._replace(fingerprint=fingerprint(*banks))
    held_out, count = others[0], len(trained.accuracy)
    require(weights.nets <= count, "weights.nets", weights.nets, f"1 … {count}, the networks of the bank")
    size = len(held_out.accuracy)
    require(size >= 2, "weights.bank", f"{weights.bank} with {size} held-out network", "2 or more of them")
    everyone = (jax.random.split(streams(seed).test, size), held_out.weights)
    first = min(weights.validation_nets, size // 2)  # for the test
    test = part_of(everyone, slice(first, first + weights.test_nets))
    if len(test[0]) == 1:
        log.warning("weights.bank: %s leaves one network for the test, so its result has no spread", weights.bank)
    draw = bank_sampler(trained, weights.nets, seed, weights.jitter)
    return Nets(draw, True, None, part_of(everyone, slice(first)), test, fingerprint(*banks))


def with_head_layers(weights: Weights, network_of: Callable[[int], Network], classes: int) -> Weights:
    """The same settings, with the weights of a new last layer by name where there is to be one.

    Args:
      weights: the settings.
      network_of: the network for a number of classes.
      classes: C.

    Raises:
      ValueError: the network has no weights that depend on the number of classes.
    """
    if weights.head == "loaded" or weights.head_layers:
        return weights
    with within("weights"):
        return dataclasses.replace(weights, head_layers=names_of_head(network_of, classes))


def bank_of(weights: Weights, part: str, network: Network, image_shape: tuple[int, int, int], seed: int) -> Bank:
    """One part of the bank that settings name, ``train`` or ``held_out``, with its new last layer if it is to have one.

    Raises:
      ValueError: as :func:`dd_jax.weights.bank.load_bank`, or patterns that match no weights.
    """
    assert weights.bank is not None
    side, fresh = weights.bank_size, None
    shape = image_shape if side is None else (side, side, image_shape[2])
    with within("weights"):
        if weights.head != "loaded":
            zeros = weights.head == "zeros"
            draw = bias_one(network) if zeros else initial_weights(network, weights.law, weights.gain)
            key = jax.random.fold_in(streams(seed).head, part == "held_out")
            fresh = Fresh(weights.head_layers, draw, key)
    return load_bank(weights.bank / part, network, shape, fresh=fresh)


def banks_of(weights: Weights, network: Network, image_shape: tuple[int, int, int], seed: int) -> list[Bank]:
    """Of networks to train on and held-out ones; or of the known networks, the first of those to train on."""
    trained = bank_of(weights, "train", network, image_shape, seed)
    if weights.nets is None:
        size = len(trained.accuracy)
        require(weights.known <= size, "weights.known", weights.known, f"1 … {size}, the networks of the bank")
        return [jax.tree.map(lambda leaf: leaf[: weights.known], trained)]
    return [trained, bank_of(weights, "held_out", network, image_shape, seed)]


def check_weights(weights: Weights) -> None:
    """Refuses, with ``ValueError``, settings that are out of range or without effect, or a bank that is not there."""
    for name in ("nets", "known", "test_nets", "validation_nets", "bank_size"):
        count = getattr(weights, name)
        require(count is None or count >= 1, f"weights.{name}", count, "1 or more")
    if weights.nets is not None and weights.known != 1:
        raise ValueError(f"weights.known: {weights.known} has no effect with weights.nets; leave it at 1")
    require(0 <= weights.jitter < math.inf, "weights.jitter", weights.jitter, "0 or more")
    if weights.bank is not None:
        train = weights.bank / "train"
        accepted = f"the work folder of experiments.pretrain; there is no {train.absolute()}"
        require(train.is_dir(), "weights.bank", weights.bank, accepted)
    if weights.bank_size is not None and weights.bank is None:
        raise ValueError(f"weights.bank_size: {weights.bank_size} has no effect without weights.bank; leave it out")
    if weights.head != "loaded" and weights.bank is None:
        raise ValueError(f"weights.head: {weights.head} has no effect without weights.bank; leave it out")
    if weights.head_layers and weights.head == "loaded":
        raise ValueError(f"weights.head_layers: {weights.head_layers} have no effect without weights.head; give both")
    if weights.jitter and (weights.bank is None or weights.nets is None):
        raise ValueError(f"weights.jitter: {weights.jitter} is not accepted without weights.bank and weights.nets")
    for name in ("law", "gain") if weights.bank is not None and weights.head != "drawn" else ():
        value, default = getattr(weights, name), getattr(Weights(), name)
        if value != default:
            raise ValueError(f"weights.{name}: {value} has no effect with weights.bank; use {default} there")


def part_of(held_out: HeldOut, index: Any) -> HeldOut:
    """Some of the held-out networks."""
    keys, nets = held_out
    return keys[index], nets if callable(nets) else jax.tree.map(lambda leaf: leaf[index], nets)


def count_of(held_out: HeldOut) -> str:
    """Their number, in words."""
    count = len(held_out[0])
    return f"{count} network{'' if count == 1 else 's'}"


def dealt(held_out: HeldOut, sets: int) -> list[HeldOut]:
    """A share of the networks for each set of images; some serve several sets where there are fewer than sets."""
    count = len(held_out[0])
    numbers = np.arange(max(count, sets)) % count
    return [part_of(held_out, share) for share in np.array_split(numbers, sets)]
