"""The ℓ2 norm of a pytree where the squares of its entries would overflow or underflow."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def norm(tree: Any) -> jax.Array:
    """√Σ x² over all entries of all leaves, a scalar; not finite where an entry is not.

    >>> print(f"{norm([jnp.full(4, 3e-30), jnp.zeros(2)]):.1e}")
    6.0e-30
    """
    size, power = _norm_and_power(tree)
    return size * power


def with_norm(tree: Tree, wanted: jax.Array | float, *, of: Any = None) -> Tree:
    """The tree scaled to the norm ``wanted``, a scalar. A zero tree stays zero; one that is not finite stays so.

    Args:
      tree: floats.
      wanted: the norm.
      of: what has that norm then, where it is a part of the tree.

    >>> print(with_norm(jnp.array([3e30, 4e30]), 1.0).round(3))
    [0.6 0.8]
    """
    size, power = _norm_and_power(tree if of is None else of)
    factor = jnp.asarray(wanted, size.dtype) / jnp.where(size == 0, jnp.ones_like(size), size)
    return jax.tree.map(lambda x: x / power.astype(x.dtype) * factor.astype(x.dtype), tree)


def at_most(tree: Tree, longest: jax.Array | float) -> Tree:
    """The tree scaled down to the norm ``longest`` where its own is larger, else as it is."""
    return with_norm(tree, jnp.minimum(norm(tree), longest))


def _norm_and_power(tree: Any) -> tuple[jax.Array, jax.Array]:
    """The norm over a power of two near the largest entry, and that power: a division that rounds nothing."""
    leaves = [x if x.dtype.itemsize > 2 else x.astype(jnp.float32) for x in jax.tree.leaves(tree)]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in leaves]))
    power = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    return jnp.sqrt(sum(jnp.sum(jnp.square(x / power)) for x in leaves)), power
