"""Networks layer by layer, and convolution as matrix products, against their definitions."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.convolution import matmul_convolution, max_pool
from dd_jax.networks import from_flax, local_response_norm, make_network

CONVOLUTIONS = (matmul_convolution, jax.lax.conv_general_dilated)


def draw(network, seed=0):
    """Weights in the ambient precision."""
    params = jax.jit(network.init)(jax.random.key(seed))
    return jax.tree.map(lambda w: w.astype(jnp.result_type(float)), params)


def shapes(network):
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    return {layer: tuple(params[layer]["kernel"].shape) for layer in params}


@pytest.mark.parametrize(("size", "depth", "weights"), [(28, 1, 61_706), (32, 1, 61_706), (32, 3, 62_006)])
def test_lenet_has_the_paper_s_weights(size, depth, weights):
    network = make_network("lenet", (size, size, depth), 10)
    params = draw(network)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == weights
    assert jax.eval_shape(network.apply, params, jnp.zeros((3, size, size, depth))).shape == (3, 10)
    assert shapes(network) == {
        "Conv_0": (5, 5, depth, 6), "Conv_1": (5, 5, 6, 16),
        "Dense_0": (400, 120), "Dense_1": (120, 84), "Dense_2": (84, 10),
    }  # fmt: skip


def reference_convolution(x, layer, padding):
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer["bias"]


def reference_pool(x, size, stride, padding):
    """Max-pooling by plain loops over windows."""
    x = np.pad(np.asarray(x), ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
    positions = range(0, x.shape[1] - size + 1, stride)
    return np.stack(
        [np.stack([x[:, i : i + size, j : j + size].max((1, 2)) for j in positions], 1) for i in positions], 1
    )


def reference_lrn(x):
    """PyTorch's LocalResponseNorm(4, alpha=0.001/9, beta=0.75, k=1), by plain loops over channels."""
    x = np.asarray(x)
    out = np.empty_like(x)
    for c in range(x.shape[-1]):
        total = (x[..., max(0, c - 2) : c + 2] ** 2).sum(-1)
        out[..., c] = x[..., c] / (1 + 0.001 / 9 / 4 * total) ** 0.75
    return out


def test_lenet_computes_its_specification(x64):
    network = make_network("lenet", (28, 28, 1), 10)
    params = draw(network, 1)
    x = images = jax.random.normal(jax.random.key(2), (2, 28, 28, 1))
    p = params["params"]
    for layer, padding in (("Conv_0", 2), ("Conv_1", 0)):
        x = reference_pool(np.maximum(reference_convolution(x, p[layer], padding), 0), 2, 2, 0)
    x = x.reshape(2, 400)
    for layer in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ p[layer]["kernel"] + p[layer]["bias"], 0)
    expected = x @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"]
    np.testing.assert_allclose(jax.jit(network.apply)(params, images), expected, rtol=1e-10)


def test_alexcifarnet_computes_its_specification(x64):
    network = make_network("alexcifarnet", (32, 32, 3), 10)
    assert shapes(network) == {
        "Conv_0": (5, 5, 3, 64), "Conv_1": (5, 5, 64, 64),
        "Dense_0": (4096, 384), "Dense_1": (384, 192), "Dense_2": (192, 10),
    }  # fmt: skip
    params = draw(network, 1)
    p = params["params"]
    images = 3 * jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
    x = np.maximum(reference_convolution(images, p["Conv_0"], 2), 0)
    x = reference_lrn(reference_pool(x, 3, 2, 1))
    x = np.maximum(reference_convolution(x, p["Conv_1"], 2), 0)
    x = reference_pool(reference_lrn(x), 3, 2, 1).reshape(2, 4096)
    for layer in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ p[layer]["kernel"] + p[layer]["bias"], 0)
    expected = x @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"]
    np.testing.assert_allclose(jax.jit(network.apply)(params, images), expected, rtol=1e-9)


def test_local_response_norm_with_a_visible_alpha():
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    total = np.array([1 + 4, 1 + 4 + 9, 1 + 4 + 9 + 16, 4 + 9 + 16 + 25, 9 + 16 + 25])
    np.testing.assert_allclose(local_response_norm(jnp.array(x), alpha=2.0), x / (1 + 0.5 * total) ** 0.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "inputs", "outputs", "padding"), [(9, 11, 2, 3, 2), (8, 8, 3, 64, 0), (7, 9, 1, 40, 1)]
)
def test_matmul_convolution_equals_lax_in_value_gradient_and_second_derivative(
    x64, height, width, inputs, outputs, padding
):
    rng = np.random.default_rng(0)
    x, x_way = rng.normal(size=(2, 3, height, width, inputs))
    w, w_way = rng.normal(size=(2, 5, 5 if height > 5 else 3, inputs, outputs))
    options = {"dimension_numbers": jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))}

    def results(convolution):
        def value(x, w):
            return jnp.sum(jnp.sin(convolution(x, w, (1, 1), [(padding, padding)] * 2, **options)))

        gradient = jax.grad(value, argnums=(0, 1))
        second = jax.jvp(gradient, (x, w), (x_way, w_way))[1]
        return convolution(x, w, (1, 1), [(padding, padding)] * 2, **options), *gradient(x, w), *second

    ours_and_theirs = (jax.jit(functools.partial(results, c))() for c in CONVOLUTIONS)
    for ours, theirs in zip(*ours_and_theirs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_matmul_convolution_hands_other_strides_on():
    x, w = jnp.ones((1, 9, 9, 2)), jnp.ones((3, 3, 2, 4))
    numbers = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    out = matmul_convolution(x, w, (2, 2), [(0, 0)] * 2, dimension_numbers=numbers)
    np.testing.assert_array_equal(out, jnp.full((1, 4, 4, 4), 18.0))


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"), [(8, 2, 2, 0), (9, 2, 2, 0), (9, 3, 2, 1), (7, 3, 1, 0)]
)
def test_max_pool_equals_flax_in_value_gradient_and_second_derivative(x64, size, window, stride, padding):
    x, way = np.random.default_rng(0).normal(size=(2, 3, size, size, 2))

    def results(pool):
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x)) ** 2))
        return pool(x), gradient(x), jax.jvp(gradient, (x,), (way,))[1]

    theirs = results(lambda x: nn.max_pool(x, (window,) * 2, (stride,) * 2, padding=((padding,) * 2,) * 2))
    for our, their in zip(results(lambda x: max_pool(x, window, stride, padding)), theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-12)


def test_two_classes_get_a_single_logit():
    network = make_network("lenet", (28, 28, 1), 2)
    assert jax.eval_shape(network.apply, draw(network), jnp.zeros((5, 28, 28, 1))).shape == (5, 1)


def test_a_network_with_changing_state_is_refused():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.BatchNorm(use_running_average=False)(x.reshape(x.shape[0], -1)))

    with pytest.raises(ValueError, match=r"^network: Normed keeps state \['batch_stats'\]"):
        from_flax(Normed(), (4, 4, 1))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        ("resnet", (28, 28, 1), 10, "network: 'resnet' is unknown; use one of lenet, alexcifarnet"),
        ("lenet", (30, 30, 1), 10, "lenet takes images of 28×28 or 32×32 pixels, not 30×30"),
        ("lenet", (28, 32, 1), 10, "not 28×32"),
        ("alexcifarnet", (28, 28, 3), 10, "alexcifarnet takes images of 32×32 pixels"),
        ("lenet", (28, 28, 1), 1, "classes: 1"),
    ],
)
def test_an_unknown_network_or_a_wrong_size_is_refused(name, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        make_network(name, shape, classes)
