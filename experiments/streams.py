"""The random keys of all experiments."""

from typing import NamedTuple

import jax


class Streams(NamedTuple):
    """The random keys of all experiments, one for each purpose. New ones go to the end: a key depends on its place."""

    weights: jax.Array  # of the networks trained on
    noise: jax.Array  # the first images
    batches: jax.Array
    validation: jax.Array  # held-out networks
    test: jax.Array  # held-out networks
    bank: jax.Array  # networks of a bank, to distil with
    bank_held_out: jax.Array  # networks of a bank, to validate and test with
    real_sets: jax.Array  # real images that distilled ones are compared with
    neighbours: jax.Array  # real images for the nearest neighbours
    bases: jax.Array  # the first basis images
    augmented_sets: jax.Array  # crops and flips of the real images that baselines are made of
    epochs: jax.Array  # the order of the real examples, where they are taken without replacement
    head: jax.Array  # new last layers of trained networks


def streams(seed: int) -> Streams:
    """The keys that ``seed`` stands for."""
    return Streams(*(jax.random.fold_in(jax.random.key(seed), i) for i in range(len(Streams._fields))))
