"""Layers that stand in for flax.linen's: the same weights, and the same numbers up to the second derivative."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.networks.convolution import METHODS, convolution
from dd_jax.networks.layers import Conv, GroupNorm, InstanceNorm, avg_pool, group_norm, max_pool


def through_second_derivatives(module, theta, x):
    """Output, gradients of a nonlinear function of it in weights and images, and these gradients' derivatives."""
    way = jax.tree.map(lambda a: np.random.default_rng(a.size).normal(size=a.shape), (theta, x))

    @jax.jit
    def results(theta, x):
        gradient = jax.grad(lambda theta, x: jnp.sum(jnp.sin(module.apply(theta, x))), argnums=(0, 1))
        return module.apply(theta, x), *jax.jvp(gradient, (theta, x), way)

    return results(theta, x)


def check_stands_in(ours, theirs, shape):
    x = np.random.default_rng(0).normal(size=shape)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # flax's own layers mix types
        drawn = theirs.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), x), drawn)
    theta = jax.tree.map(lambda w: w + 0.1 * np.random.default_rng(w.size).normal(size=w.shape), drawn)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = through_second_derivatives(theirs, theta, x)
    got = through_second_derivatives(ours, theta, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), got, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "features", "settings"),
    [
        ((2, 7, 6, 3), 4, {"kernel_size": (3, 3)}),
        ((2, 7, 8, 3), 4, {"kernel_size": (3, 2), "strides": (2, 3), "padding": "SAME"}),
        ((2, 8, 7, 2), 3, {"kernel_size": (4, 1), "strides": 2, "padding": "VALID", "use_bias": False}),
        ((2, 6, 6, 2), 3, {"kernel_size": (1, 1), "strides": 2, "padding": 0}),
        ((2, 5, 6, 2), 3, {"kernel_size": (3, 3), "strides": 2, "padding": 1}),
        ((1, 5, 6, 2), 3, {"kernel_size": (2, 3), "padding": (2, (0, 1))}),
        ((1, 7, 9, 32), 33, {"kernel_size": (3, 5)}),  # by Winograd's products
    ],
)
def test_convolution(x64, shape, features, settings, method):
    ours = Conv(features, **settings, method=method, param_dtype=jnp.float64)
    check_stands_in(ours, nn.Conv(features, **settings, param_dtype=jnp.float64), shape)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (InstanceNorm(), nn.InstanceNorm(param_dtype=jnp.float64)),
        (InstanceNorm(1e-2, use_scale=False), nn.InstanceNorm(epsilon=1e-2, use_scale=False, param_dtype=jnp.float64)),
        (GroupNorm(2), nn.GroupNorm(2, param_dtype=jnp.float64)),
        (GroupNorm(1, use_bias=False), nn.GroupNorm(1, use_bias=False, param_dtype=jnp.float64)),
        (GroupNorm(6), nn.GroupNorm(6, param_dtype=jnp.float64)),
    ],
)
def test_normalisation(x64, ours, theirs):
    check_stands_in(ours.copy(param_dtype=jnp.float64), theirs, (3, 4, 5, 6))


class Pool(nn.Module):
    pool: object
    settings: dict

    def __call__(self, x):
        return self.pool(x, **self.settings)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 6, 8, 3), {"window_shape": (2, 2), "strides": (2, 2)}),
        ((2, 7, 8, 3), {"window_shape": (2, 3), "strides": (2, 3)}),
        ((2, 7, 8, 3), {"window_shape": (3, 2)}),
        ((2, 8, 9, 2), {"window_shape": (3, 3), "strides": (2, 2), "padding": "SAME"}),
        ((2, 8, 7, 2), {"window_shape": (3, 4), "strides": (2, 1), "padding": ((1, 0), (2, 1))}),
    ],
)
@pytest.mark.parametrize(("ours", "theirs"), [(avg_pool, nn.avg_pool), (max_pool, nn.max_pool)])
def test_pooling(x64, ours, theirs, shape, settings):
    check_stands_in(Pool(ours, settings), Pool(theirs, settings), shape)


def test_an_average_without_the_padding(x64):
    settings = {"window_shape": (3, 2), "strides": (2, 2), "padding": "SAME", "count_include_pad": False}
    check_stands_in(Pool(avg_pool, settings), Pool(nn.avg_pool, settings), (2, 6, 7, 2))


IMAGES = jnp.ones((1, 4, 4, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: max_pool(IMAGES, (2, 2), padding=((2, 0), (0, 0))),
            r"^padding: \(2, 0\) is not accepted for windows of 2",
        ),
        (lambda: avg_pool(IMAGES, (5, 2)), "^windows: 5 pixels do not fit into 4 pixels"),
        (lambda: avg_pool(IMAGES, (2, 2), padding="same"), "^padding: 'same' is unknown; use SAME, VALID"),
        (lambda: convolution(IMAGES, jnp.ones((5, 1, 2, 1))), "^windows: 5 pixels do not fit into 4 pixels"),
        (lambda: group_norm(IMAGES, 3), "^groups: 3 is not accepted; use a divisor of the 2 channels"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
