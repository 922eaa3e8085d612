"""Norms whose squares overflow or underflow, and scaling to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.norms import at_most, norm, with_norm

RNG = np.random.default_rng(0)
TREE = {"a": RNG.normal(size=(3, 4)).astype(np.float32), "b": RNG.normal(size=5).astype(np.float32)}
NORM = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in TREE.values()))


def times(factor):
    return jax.tree.map(lambda x: jnp.asarray(x * np.float32(factor)), TREE)


@pytest.mark.parametrize("factor", [1e-34, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e37])
def test_norms_of_every_size(factor):
    tree = times(factor)
    assert float(norm(tree)) == pytest.approx(factor * NORM, rel=1e-5)
    for scaled in (with_norm(tree, 0.5), at_most(tree, min(0.5, factor))):
        for ours, leaf in zip(jax.tree.leaves(scaled), TREE.values(), strict=True):
            np.testing.assert_allclose(ours, float(norm(scaled)) / NORM * leaf, rtol=1e-5)
    assert float(norm(with_norm(tree, 0.5))) == pytest.approx(0.5, rel=1e-6)
    jax.tree.map(np.testing.assert_array_equal, at_most(tree, 2 * factor * NORM), tree)


def test_an_ordinary_norm_is_bitwise_the_plain_one():
    for seed in range(5):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=257), jnp.float32)
        np.testing.assert_array_equal(norm(x), jnp.sqrt(jnp.sum(x * x)))


def test_zero_stays_zero_and_what_is_not_finite_shows():
    np.testing.assert_array_equal(with_norm(jnp.zeros(3), 2.0), 0)
    np.testing.assert_array_equal(at_most(jnp.zeros(3), 2.0), 0)
    assert norm(jnp.zeros(3)) == 0
    for bad in (np.nan, np.inf):
        x = jnp.array([1.0, bad])
        assert not jnp.isfinite(norm(x))
        assert not jnp.isfinite(with_norm(x, 1.0)).all()
        assert not jnp.isfinite(at_most(x, 1.0)).all()


def test_a_part_may_have_the_norm_and_types_are_kept():
    scaled = with_norm({"a": jnp.array([3.0, 4.0]), "b": jnp.array([10.0])}, 1.0, of=jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(scaled["b"], [2.0], rtol=1e-6)
    half = with_norm(jnp.array([3e4, 4e4], jnp.float16), 1.0)
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, [0.6, 0.8], rtol=1e-3)
