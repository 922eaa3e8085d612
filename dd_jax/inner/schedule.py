"""Which distilled examples each inner step takes, and which steps are differentiated."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Order = Callable[[jax.Array, int, int, int], jax.Array]
"""``(key, S, M, T) -> index``: int32 ``[T]``, the stored step (row) that each step takes, or ``[T, m]``, its examples
among the S·M, numbered row by row."""


def cycle(key: jax.Array, rows: int, size: int, total: int) -> jax.Array:
    """The stored steps in turn, t mod S: the paper's order."""
    del key, size
    return jnp.arange(total, dtype=jnp.int32) % rows


def shuffled(key: jax.Array, rows: int, size: int, total: int) -> jax.Array:
    """The stored steps, in a new random order in every epoch."""
    del size
    return _by_epoch(key, total, rows, lambda key: jax.random.permutation(key, rows))


def minibatches(batch: int) -> Order:
    """Examples of all stored steps mixed anew in every epoch, ``batch`` of them a step; what is left over is left out.

    Raises:
      ValueError: when called, a batch out of range.
    """

    def order(key, rows, size, total):
        if not 1 <= batch <= rows * size:
            raise ValueError(f"batch: {batch} is not accepted; use 1 … {rows * size}, the distilled images")
        per_epoch = rows * size // batch

        def epoch(key):
            return jax.random.permutation(key, rows * size)[: per_epoch * batch].reshape(per_epoch, batch)

        return _by_epoch(key, total, per_epoch, epoch)

    return order


def class_subsets(classes: Sequence[int], count: int) -> Order:
    """All examples of ``count`` random classes a step.

    Args:
      classes: the class of each of the S·M examples, row by row; all classes have equally many.
      count: classes a step.

    Raises:
      ValueError: classes of unequal sizes, or a count out of range.
    """
    sizes = np.bincount(np.asarray(classes))
    if len(set(sizes)) != 1:
        raise ValueError(f"classes: {sizes.tolist()} images of each are not accepted; use equally many of every class")
    if not 1 <= count <= len(sizes):
        raise ValueError(f"count: {count} is not accepted; use 1 … {len(sizes)}, the classes")
    members = np.argsort(np.asarray(classes), kind="stable").reshape(len(sizes), -1).astype(np.int32)

    def order(key, rows, size, total):
        del rows, size
        chosen = jax.vmap(lambda key: jax.random.permutation(key, len(members))[:count])(jax.random.split(key, total))
        return jnp.asarray(members)[chosen].reshape(total, -1)

    return order


def _by_epoch(key, total, per_epoch, epoch):
    keys = jax.random.split(key, -(-total // per_epoch))
    index = jax.vmap(epoch)(keys).astype(jnp.int32)
    return index.reshape(-1, *index.shape[2:])[:total]


class Window(NamedTuple):
    """The inner steps that are differentiated, M in a row; those before them are taken as given (Feng et al. 2024).

    θ is the weights after the window, so steps behind it are not made. Memory depends on M, not on T.
    """

    length: int  # M
    start: Callable[[jax.Array, int], jax.Array]  # (key, T − M) -> int32 in 0 … T − M


def fixed_start(start: int) -> Callable[[jax.Array, int], jax.Array]:
    """Always the same steps.

    Raises:
      ValueError: when called, a start beyond the last.
    """

    def at(key, latest):
        del key
        if not 0 <= start <= latest:
            raise ValueError(f"window.start: {start} is not accepted; use 0 … {latest}, the steps less the window")
        return jnp.asarray(start, jnp.int32)

    return at


def random_start(key: jax.Array, latest: int) -> jax.Array:
    """Every start equally likely."""
    return jax.random.randint(key, (), 0, latest + 1, jnp.int32)


def growing_start(progress: jax.Array | float) -> Callable[[jax.Array, int], jax.Array]:
    """A random start up to a limit that grows with ``progress``, a share in [0, 1] of the outer steps done."""

    def at(key, latest):
        limit = jnp.floor(jnp.asarray(progress, jnp.float32) * latest).astype(jnp.int32)
        return jax.random.randint(key, (), 0, limit + 1, jnp.int32)

    return at
