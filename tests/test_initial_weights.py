"""Every law's mean and variance, per kernel, and what it does with biases."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.initial_weights import LAWS, initial_weights
from dd_jax.networks import Network, make_network

LENET = make_network("lenet", (28, 28, 1), 10)
FANS = {"Conv_0": (25, 150), "Conv_1": (150, 400), "Dense_0": (400, 120), "Dense_1": (120, 84), "Dense_2": (84, 10)}
VARIANCE = {
    "xavier_normal": lambda i, o: 2 / (i + o),
    "xavier_uniform": lambda i, o: 2 / (i + o),
    "kaiming_fan_in": lambda i, o: 2 / i,
    "kaiming_fan_out": lambda i, o: 2 / o,
    "normal": lambda i, o: 1.0,
    "zero": lambda i, o: 0.0,
    "default": lambda i, o: 1 / i,  # flax: LeCun's normal
}


def draws(law, gain=1.0, count=20):
    draw = initial_weights(LENET, law, gain)
    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(5), count))["params"]


@pytest.mark.parametrize(("law", "gain"), [*((law, 1.0) for law in VARIANCE), ("xavier_normal", 0.5), ("normal", 0.5)])
def test_mean_and_variance(law, gain):
    params = draws(law, gain)
    for layer, (fan_in, fan_out) in FANS.items():
        kernel = np.asarray(params[layer]["kernel"], np.float64)
        variance = gain**2 * VARIANCE[law](fan_in, fan_out)
        assert abs(kernel.mean()) <= 5 * np.sqrt(variance / kernel.size)
        assert kernel.var() == pytest.approx(variance, rel=6 * np.sqrt(2 / kernel.size))
        assert not np.any(params[layer]["bias"])
        if layer == "Dense_0" and ("normal" in law or "kaiming" in law):  # a true normal, not a truncated one
            assert np.mean(kernel**4) / kernel.var() ** 2 == pytest.approx(3, rel=0.03)
        if law == "xavier_uniform":
            assert np.abs(kernel).max() <= np.sqrt(3 * variance) * (1 + 1e-6)


def test_orthogonal_kernels_have_orthogonal_rows_or_columns_of_length_gain():
    params = draws("orthogonal", gain=2.0, count=3)
    for layer, (fan_in, _) in FANS.items():
        kernel = np.asarray(params[layer]["kernel"])
        matrix = kernel.reshape(3, fan_in, -1)
        if matrix.shape[1] < matrix.shape[2]:
            matrix = matrix.swapaxes(1, 2)
        products = np.einsum("nij,nik->njk", matrix, matrix)
        np.testing.assert_allclose(products, np.broadcast_to(4 * np.eye(matrix.shape[2]), products.shape), atol=1e-5)
        assert kernel.var() == pytest.approx(4 / max(fan_in, kernel.shape[-1]), rel=0.1)


def test_every_law_is_tested():
    assert set(LAWS) == {*VARIANCE, "orthogonal"}


def test_layers_and_keys_are_independent():
    params = draws("xavier_normal", count=2)
    a, b = np.asarray(params["Dense_0"]["kernel"])
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03
    first, second = np.asarray(params["Dense_1"]["kernel"][0]), np.asarray(params["Dense_2"]["kernel"][0])
    assert not np.allclose(first.ravel()[: second.size] / first.std(), second.ravel() / second.std(), atol=0.1)


def test_a_user_s_own_pair_works():
    pair = Network(lambda key: [jnp.ones((3, 4)), jnp.ones(4)], lambda theta, x: x @ theta[0] + theta[1])
    kernel, bias = initial_weights(pair, "normal")(jax.random.key(0))
    chex.assert_shape(kernel, (3, 4))
    assert not np.any(bias)


@pytest.mark.parametrize(
    ("law", "gain", "message"),
    [
        ("xavier", 1.0, "weights.law: 'xavier' is unknown; use one of xavier_normal"),
        ("normal", 0.0, "weights.gain: 0.0 is not positive"),
        ("normal", float("inf"), "weights.gain: inf is not positive"),
        ("default", 2.0, "no meaning for the law 'default'"),
    ],
)
def test_an_unknown_law_or_gain_is_refused(law, gain, message):
    with pytest.raises(ValueError, match=message):
        initial_weights(LENET, law, gain)
