"""Every law's mean and variance, per kernel, and what it does with biases."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Distilled, Network
from dd_jax.estimates import meta_gradient
from dd_jax.inner.loop import trainer
from dd_jax.networks import from_flax, make_network
from dd_jax.objectives import classification_loss
from dd_jax.weights.laws import LAWS, initial_weights, leaky_gain

LENET = make_network("lenet", (28, 28, 1), 10)
FANS = {"Conv_0": (25, 150), "Conv_1": (150, 400), "Dense_0": (400, 120), "Dense_1": (120, 84), "Dense_2": (84, 10)}
VARIANCE = {
    "xavier_normal": lambda i, o: 2 / (i + o),
    "xavier_uniform": lambda i, o: 2 / (i + o),
    "kaiming_fan_in": lambda i, o: 2 / i,
    "kaiming_fan_out": lambda i, o: 2 / o,
    "kaiming_leaky_fan_in": lambda i, o: 1 / i,
    "kaiming_leaky_fan_out": lambda i, o: 1 / o,
    "pytorch": lambda i, o: 1 / (3 * i),
    "normal": lambda i, o: 1.0,
    "zero": lambda i, o: 0.0,
    "default": lambda i, o: 1 / i,  # flax: LeCun's normal
}


def draws(law, gain=1.0, count=20):
    draw = initial_weights(LENET, law, gain)
    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(5), count))["params"]


@pytest.mark.parametrize(
    ("law", "gain"),
    [
        *((law, 1.0) for law in VARIANCE),
        pytest.param("xavier_normal", 0.5, marks=pytest.mark.slow),
        pytest.param("normal", 0.5, marks=pytest.mark.slow),
        pytest.param("kaiming_leaky_fan_in", leaky_gain(0.2), marks=pytest.mark.slow),
    ],
)
def test_mean_and_variance(law, gain):
    params = draws(law, gain)
    for layer, (fan_in, fan_out) in FANS.items():
        kernel = np.asarray(params[layer]["kernel"], np.float64)
        variance = gain**2 * VARIANCE[law](fan_in, fan_out)
        assert abs(kernel.mean()) <= 5 * np.sqrt(variance / kernel.size)
        assert kernel.var() == pytest.approx(variance, rel=6 * np.sqrt(2 / kernel.size))
        if law == "pytorch":
            check_uniform(params[layer]["bias"], 1 / np.sqrt(fan_in))
        else:
            assert not np.any(params[layer]["bias"])
        if layer == "Dense_0" and ("normal" in law or "kaiming" in law):  # a true normal, not a truncated one
            assert np.mean(kernel**4) / kernel.var() ** 2 == pytest.approx(3, rel=0.03)
        if law in ("xavier_uniform", "pytorch"):
            check_uniform(kernel, np.sqrt(3 * variance))


def check_uniform(drawn, bound):
    """As many in each third of the interval as there should be."""
    drawn = np.asarray(drawn, np.float64)
    assert np.abs(drawn).max() <= bound * (1 + 1e-6)
    thirds = np.histogram(drawn, 3, (-bound, bound))[0] / drawn.size
    np.testing.assert_allclose(thirds, 1 / 3, atol=5 * np.sqrt(2 / 9 / drawn.size))


def test_pytorch_s_biases_are_those_of_layers_with_a_kernel():
    """Its normalisation layers begin at one and zero, as those of flax do."""
    network = from_flax(Normed(), (4, 4, 1))
    key = jax.random.key(3)
    own, drawn = network.init(key)["params"], initial_weights(network, "pytorch")(key)["params"]
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), own, drawn)
    for path, is_same in jax.tree.leaves_with_path(same):
        layer, leaf = ("", *(part.key for part in path))[-2:]
        assert is_same == (not layer.startswith(("Conv", "Dense"))), (layer, leaf)
    grouped = drawn["Conv_1"]  # one input for each group
    assert np.abs(grouped["bias"]).max() <= 1 / 3


def test_pytorch_s_law_needs_the_names_of_kernels_and_biases():
    pair = Network(lambda key: [jnp.ones((3, 4)), jnp.ones(4)], lambda theta, x: x @ theta[0] + theta[1])
    with pytest.raises(
        ValueError, match=r"^law: 'pytorch' is not accepted for weights without names 'kernel' and 'bias'"
    ):
        initial_weights(pair, "pytorch")


@pytest.mark.parametrize(("slope", "gain"), [(1.0, 1.0), (0.0, np.sqrt(2)), (np.sqrt(5), np.sqrt(1 / 3))])
def test_the_gain_of_a_leaky_relu_s_slope(slope, gain):
    assert leaky_gain(slope) == pytest.approx(gain)
    with pytest.raises(ValueError, match=r"^slope: nan is not accepted; use a finite number"):
        leaky_gain(float("nan"))


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


@pytest.mark.parametrize("shape", [(400, 120), (10, 84), (5, 5, 6, 16), (7, 7), (1, 3)])
def test_orthogonal_kernels_are_those_of_jax(shape):
    network = Network(lambda key: {"kernel": jnp.zeros(shape)}, lambda theta, x: x @ theta["kernel"])
    key = jax.random.key(3)
    drawn = jax.jit(initial_weights(network, "orthogonal", gain=1.4))(key)["kernel"]
    expected = jax.nn.initializers.orthogonal(1.4)(jax.random.split(key, 1)[0], shape)
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


def test_orthogonal_kernels_need_no_lapack():
    """Two of its factorisations in one program can wait for each other for ever."""
    draw = jax.jit(initial_weights(LENET, "orthogonal"))
    assert "lapack" not in draw.lower(jax.random.key(0)).as_text()


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
    np.testing.assert_array_equal(bias, 1)  # as the pair itself gives it
    assert np.std(kernel) > 0.3


class Normed(nn.Module):
    """Every kind of weight that is no kernel, and kernels of every known form."""

    @nn.compact
    def __call__(self, x):
        x = nn.GroupNorm(2)(nn.Conv(4, (3, 3))(x))
        x = nn.LayerNorm()(nn.Conv(4, (3, 3), feature_group_count=4)(x))
        x = x * self.param("gamma", nn.initializers.ones, (1, 1, 1, 4)) + nn.Embed(3, 4)(
            jnp.zeros((1, 1, 1), jnp.int32)
        )
        return nn.Dense(3)(nn.relu(x).reshape(x.shape[0], -1))


def test_a_law_is_for_kernels_alone_so_that_normalised_networks_learn():
    network = from_flax(Normed(), (4, 4, 1))
    key = jax.random.key(3)
    own, drawn = network.init(key)["params"], initial_weights(network)(key)["params"]
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), own, drawn)
    for path, is_same in jax.tree.leaves_with_path(same):
        assert is_same == (path[-1].key != "kernel"), path
    images = jax.random.normal(jax.random.key(4), (6, 4, 4, 1))
    distilled = Distilled(images[None, :3], jnp.eye(3)[None], jnp.full(2, 0.7))
    loss = classification_loss(network.apply)
    batch = (images, jnp.eye(3)[jnp.arange(6) % 3])
    _, gradient = meta_gradient(trainer(loss), loss)(jax.random.key(0), distilled, {"params": drawn}, batch)
    assert jnp.abs(gradient.images).max() > 1e-6


def test_the_fans_of_a_grouped_convolution_are_a_group_s_inputs_and_all_outputs():
    network = from_flax(nn.Sequential([nn.Conv(64, (3, 3)), nn.Conv(64, (3, 3), feature_group_count=64)]), (8, 8, 3))
    kernel = initial_weights(network, "kaiming_fan_in")(jax.random.key(0))["params"]["layers_1"]["kernel"]
    assert kernel.shape == (3, 3, 1, 64)
    assert np.var(kernel) == pytest.approx(2 / 9, rel=0.2)


class Attending(nn.Module):
    """Heads of 8: queries are [16, 4, 8], the output [4, 8, 16], and a convolution along the tokens [3, 16, 64]."""

    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=32)(x.reshape(x.shape[0], -1, 16))
        return nn.Dense(3)(nn.Conv(64, (3,))(x).reshape(x.shape[0], -1))


def test_the_fans_of_kernels_with_three_axes_are_those_of_their_layer():
    network = from_flax(Attending(), (4, 4, 16))
    drawn = initial_weights(network, "kaiming_fan_in")(jax.random.key(0))["params"]
    attention = drawn["MultiHeadDotProductAttention_0"]
    for kernel, inputs in (
        (attention["query"]["kernel"], 16),
        (attention["out"]["kernel"], 32),
        (drawn["Conv_0"]["kernel"], 3 * 16),
    ):
        assert np.var(kernel) == pytest.approx(2 / inputs, rel=0.3)
    query = initial_weights(network, "orthogonal")(jax.random.key(0))["params"]["MultiHeadDotProductAttention_0"]
    matrix = query["query"]["kernel"].reshape(16, 32)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-5)


class General(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.DenseGeneral((2, 5))(x.reshape(x.shape[0], -1)).reshape(x.shape[0], -1))


def test_kernels_whose_fans_are_not_known_are_refused():
    network = from_flax(General(), (4, 4, 1))
    with pytest.raises(ValueError, match=r"^law: 'normal' is not accepted for .*DenseGeneral_0/kernel of shape"):
        initial_weights(network, "normal")
    assert initial_weights(network, "default") is network.init
    for shape in ((1, 1, 4), (2, 3, 4), (1, 1, 1, 4)):
        pair = Network(lambda key, shape=shape: {"w": jnp.ones((3, 4)), "gamma": jnp.ones(shape)}, lambda theta, x: x)
        with pytest.raises(ValueError, match=r"^law: 'normal' is not accepted for gamma of shape \(.*"):
            initial_weights(pair, "normal")


def test_lenet_s_kernels_are_those_of_recorded_results():
    """The leaves' keys are split over all leaves, biases included: another split would be another p(θ₀) by key."""
    drawn, key = initial_weights(LENET)(jax.random.key(1)), jax.random.key(1)
    leaves = jax.tree.leaves(drawn)
    for i, (k, leaf) in enumerate(zip(jax.random.split(key, len(leaves)), leaves, strict=True)):
        law = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
        expected = law(k, leaf.shape, leaf.dtype) if leaf.ndim > 1 else np.zeros(leaf.shape)
        np.testing.assert_array_equal(leaf, expected, err_msg=str(i))


@pytest.mark.parametrize(
    ("law", "gain", "message"),
    [
        ("xavier", 1.0, "law: 'xavier' is unknown; use one of xavier_normal"),
        ("normal", 0.0, "gain: 0.0 is not positive"),
        ("normal", float("inf"), "gain: inf is not positive"),
        ("default", 2.0, "no meaning for the law 'default'"),
        ("zero", 2.0, "no meaning for the law 'zero'"),
        ("pytorch", 2.0, "no meaning for the law 'pytorch'"),
    ],
)
def test_an_unknown_law_or_gain_is_refused(law, gain, message):
    with pytest.raises(ValueError, match=message):
        initial_weights(LENET, law, gain)
