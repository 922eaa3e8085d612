"""Networks layer by layer, and every way to compute a convolution, against their definitions."""

import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Distilled
from dd_jax.distilled import noise
from dd_jax.estimates import meta_gradient
from dd_jax.inner.loop import trainer
from dd_jax.networks import NETWORKS, make_network
from dd_jax.networks.alexcifarnet import local_response_norm
from dd_jax.networks.convolution import METHODS, convolution, convolution_pool_relu
from dd_jax.networks.pooling import max_pool
from dd_jax.networks.surrogates import surrogates
from dd_jax.objectives import classification_loss
from dd_jax.weights.laws import LAWS, initial_weights


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


def reference_convolution(x, layer, padding, stride=1):
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer["bias"][None, None, None]


def reference_pool(x, size, stride, padding):
    """Max-pooling by plain loops over windows."""
    x = np.pad(np.asarray(x), ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
    rows, columns = (range(0, side - size + 1, stride) for side in x.shape[1:3])
    return np.stack([np.stack([x[:, i : i + size, j : j + size].max((1, 2)) for j in columns], 1) for i in rows], 1)


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
        x = np.maximum(x @ p[layer]["kernel"] + p[layer]["bias"][None], 0)
    expected = x @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"][None]
    np.testing.assert_allclose(jax.jit(network.apply)(params, images), expected, rtol=1e-10)


@pytest.mark.slow
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
        x = np.maximum(x @ p[layer]["kernel"] + p[layer]["bias"][None], 0)
    expected = x @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"][None]
    np.testing.assert_allclose(jax.jit(network.apply)(params, images), expected, rtol=1e-9)


def reference_bins(x, side):
    """PyTorch's AdaptiveAvgPool2d, by plain loops over bins."""
    ends = [[(i * n // side, math.ceil((i + 1) * n / side)) for i in range(side)] for n in x.shape[1:3]]
    return np.stack([np.stack([x[:, a:b, c:d].mean((1, 2)) for c, d in ends[1]], 1) for a, b in ends[0]], 1)


@pytest.mark.parametrize("shape", [(63, 96), (200, 160), (224, 224)])  # of which the last pool makes 1×2, 5×4, 6×6
def test_alexnet_computes_its_specification(x64, shape):
    network = make_network("alexnet", (*shape, 3), 7, options={"width": 2, "hidden": 5})
    like = jax.eval_shape(network.init, jax.random.key(0))["params"]
    p = jax.tree.map(lambda w: np.random.default_rng(w.size).normal(size=w.shape) / math.sqrt(w.shape[0]), like)
    x = images = jax.random.normal(jax.random.key(2), (2, *shape, 3))
    for i, (padding, stride, pools) in enumerate([(2, 4, 1), (2, 1, 1), (1, 1, 0), (1, 1, 0), (1, 1, 1)]):
        x = np.maximum(reference_convolution(x, p[f"Conv_{i}"], padding, stride), 0)
        x = reference_pool(x, 3, 2, 0) if pools else x
    assert x.shape[1:3] == {63: (1, 2), 200: (5, 4), 224: (6, 6)}[shape[0]]
    x = reference_bins(np.asarray(x), 6).reshape(2, 6 * 6 * 8)
    for layer in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ p[layer]["kernel"] + p[layer]["bias"][None], 0)
    expected = x @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"][None]
    np.testing.assert_allclose(jax.jit(network.apply)({"params": p}, images), expected, rtol=1e-9)


def test_alexnet_has_the_published_weights():
    network = make_network("alexnet", (224, 224, 3), 1000)
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)))]
    assert sum(sizes) == 61_100_840  # as torchvision counts them
    with pytest.raises(ValueError, match=r"^network: alexnet takes images of at least 63×63 pixels, not 62×99"):
        make_network("alexnet", (62, 99, 3), 10)


def test_convnet_computes_its_specification(x64):
    """By PyTorch's definitions of its layers, written out: an odd side loses its last pixel in the pool."""
    network = make_network("convnet", (7, 6, 3), 4, options={"width": 5, "depth": 2})
    params = draw(network, 1)
    p = jax.tree.map(lambda w: np.random.default_rng(w.size).normal(size=w.shape), params["params"])
    x = images = jax.random.normal(jax.random.key(2), (2, 7, 6, 3))
    for i in range(2):
        x = np.asarray(reference_convolution(x, p[f"Conv_{i}"], 1))
        x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
        x = np.maximum(x * p[f"InstanceNorm_{i}"]["scale"] + p[f"InstanceNorm_{i}"]["bias"], 0)
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    expected = x.reshape(2, 5) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    np.testing.assert_allclose(jax.jit(network.apply)({"params": p}, images), expected, rtol=1e-9)


def test_resnet18_has_its_layers():
    network = make_network("resnet18", (32, 32, 3), 10)
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)))]
    assert sum(sizes) == 11_173_962  # as published implementations for CIFAR-10 count it


def test_local_response_norm_with_a_visible_alpha():
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    total = np.array([1 + 4, 1 + 4 + 9, 1 + 4 + 9 + 16, 4 + 9 + 16 + 25, 9 + 16 + 25])
    np.testing.assert_allclose(local_response_norm(jnp.array(x), alpha=2.0), x / (1 + 0.5 * total) ** 0.75, rtol=1e-6)


def through_second_derivatives(f, arguments, ways):
    """The value of ``f``, the gradient of a nonlinear function of it, and that gradient's derivative along ``ways``."""
    gradient = jax.grad(lambda *arguments: jnp.sum(jnp.sin(f(*arguments))), argnums=range(len(arguments)))
    return jax.jit(lambda: (f(*arguments), *gradient(*arguments), *jax.jvp(gradient, arguments, ways)[1]))()


@pytest.mark.parametrize(
    ("height", "width", "kernel", "inputs", "outputs", "padding"),
    [(9, 11, 5, 2, 3, 2), (8, 8, 3, 3, 40, 0), (16, 16, 5, 32, 32, 2), (11, 6, 5, 33, 40, 1), (9, 7, 3, 32, 32, 1)],
)
def test_convolution_equals_flax_in_value_gradient_and_second_derivative(
    x64, height, width, kernel, inputs, outputs, padding
):
    rng = np.random.default_rng(0)
    shapes = (3, height, width, inputs), (kernel, kernel, inputs, outputs), (outputs,)
    arguments, ways = (tuple(rng.normal(size=shape) for shape in shapes) for _ in range(2))

    def flax(x, kernel, bias):
        layer = nn.Conv(outputs, kernel.shape[:2], padding=padding, param_dtype=jnp.float64)
        return layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    theirs = through_second_derivatives(flax, arguments, ways)
    for method in METHODS:
        ours = through_second_derivatives(partial(convolution, padding=padding, method=method), arguments, ways)
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("height", "width", "inputs", "outputs", "padding"),
    [(28, 28, 1, 6, 2), (14, 14, 6, 16, 0), (10, 8, 3, 2, 2), (9, 11, 2, 3, 1), (8, 8, 2, 40, 2)],
)
@pytest.mark.parametrize("width_of_switch", [0.0, 0.5])
def test_convolution_pool_relu_is_the_three_one_after_another(
    x64, height, width, inputs, outputs, padding, width_of_switch
):
    rng = np.random.default_rng(0)
    shapes = (2, height, width, inputs), (5, 5, inputs, outputs), (outputs,)
    arguments, ways = (tuple(rng.normal(size=shape) for shape in shapes) for _ in range(2))
    switch = surrogates(width_of_switch)

    def plain(x, kernel, bias):
        y = convolution(x, kernel, bias, padding, method="lax")
        return switch.relu(max_pool(y, (2, 2), (2, 2), maximum=switch.maximum))

    theirs = through_second_derivatives(plain, arguments, ways)
    if not width_of_switch:
        y = reference_convolution(arguments[0], {"kernel": arguments[1], "bias": arguments[2]}, padding)
        np.testing.assert_allclose(theirs[0], np.maximum(reference_pool(y, 2, 2, 0), 0), rtol=1e-12)
    for method in METHODS:
        layer = partial(convolution_pool_relu, padding=padding, surrogates=switch, method=method)
        for our, their in zip(through_second_derivatives(layer, arguments, ways), theirs, strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-8, atol=1e-8)


FAMILY = {  # small members
    "lenet": ((28, 28, 1), {}),
    "alexcifarnet": ((32, 32, 3), {}),
    "alexnet": ((64, 65, 3), {"width": 2, "hidden": 8}),
    "convnet": ((9, 10, 3), {"width": 8, "depth": 2}),
    "mlp": ((3, 5, 2), {"hidden": (6, 7)}),
    "resnet18": ((6, 7, 3), {"width": 2, "groups": 2}),
}


def test_every_network_of_ours_is_under_the_laws():
    assert set(FAMILY) == set(NETWORKS)


def marked(*slow):
    """The family by name; the members that take long to compile are marked."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in FAMILY]


def member(name):
    """A small network with 5 classes, and the shape of its images."""
    shape, options = FAMILY[name]
    return make_network(name, shape, 5, options=options), shape


@pytest.mark.parametrize("name", marked("alexnet", "resnet18"))
def test_logits_are_of_each_image_alone_also_for_many_networks_at_once(name):
    network, shape = member(name)
    thetas = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(0), 2))
    images = jax.random.normal(jax.random.key(1), (3, *shape))

    @jax.jit
    def results(thetas, images):
        second = jax.tree.map(lambda w: w[1], thetas)
        return jax.vmap(network.apply, (0, None))(thetas, images), network.apply(second, images[2:])

    both, alone = results(thetas, images)
    assert both.shape == (2, 3, 5) and alone.shape == (1, 5) and alone.dtype == jnp.float32
    assert np.isfinite(both).all() and np.ptp(both[0] - both[1]) > 0
    np.testing.assert_allclose(both[1, 2], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_every_law_of_weights_applies(name):
    network, _ = member(name)
    own = jax.eval_shape(network.init, jax.random.key(0))
    for law in LAWS:
        drawn = jax.eval_shape(initial_weights(network, law), jax.random.key(0))
        chex.assert_trees_all_equal_shapes_and_dtypes(drawn, own)
    zero = jax.jit(initial_weights(network, "zero"))(jax.random.key(0))
    matrices = [leaf for leaf in jax.tree.leaves(zero) if leaf.ndim > 1]
    assert len(matrices) > 2 and not any(np.any(matrix) for matrix in matrices)  # all of them are kernels


@pytest.mark.parametrize("name", marked("alexcifarnet", "alexnet", "resnet18"))
def test_the_meta_gradient_is_finite_and_reaches_the_images(name):
    network, shape = member(name)
    theta = jax.jit(network.init)(jax.random.key(0))
    distilled = noise(jax.random.key(1), shape, 5, steps=1, epochs=1)
    batch = (jax.random.normal(jax.random.key(2), (4, *shape)), jnp.eye(5)[:4])
    loss = classification_loss(network.apply)
    value, gradient = jax.jit(meta_gradient(trainer(loss), loss))(jax.random.key(0), distilled, theta, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))
    assert np.abs(gradient.images).max() > 0


@pytest.mark.parametrize("name", ["lenet", pytest.param("alexcifarnet", marks=pytest.mark.slow)])
def test_an_accelerator_s_networks_give_the_numbers_of_a_cpu_s(x64, name, monkeypatch):
    shape = (28, 28, 1) if name == "lenet" else (32, 32, 3)
    network, images = make_network(name, shape, 10), jax.random.normal(jax.random.key(2), (2, *shape))
    theta = draw(network)
    on_cpu = jax.jit(network.apply)(theta, images)
    for accelerator in ("gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda accelerator=accelerator: accelerator)
        there = jax.jit(make_network(name, shape, 10).apply)(theta, images)
        np.testing.assert_allclose(there, on_cpu, rtol=1e-9)


def test_winograd_s_rounding_errors_in_float32_are_small():
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.float32(rng.normal(size=s)) for s in ((8, 16, 16, 64), (5, 5, 64, 64), (64,)))
    ours, theirs = (convolution(x, kernel, bias, 2, method=method) for method in ("matmul", "lax"))
    assert 0 < np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    "name", ["lenet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("alexcifarnet", "alexnet", "convnet"))]
)
def test_networks_give_the_same_meta_gradient_by_every_method(x64, name):
    shape, options = FAMILY[name]
    rng = np.random.default_rng(0)
    distilled = Distilled(rng.normal(size=(2, 3, *shape)), np.stack([np.eye(10)[:3]] * 2), np.full(4, 0.05))
    batch = (rng.normal(size=(5, *shape)), np.eye(10)[:5])
    networks = [make_network(name, shape, 10, convolution=method, options=options) for method in METHODS]
    theta = draw(networks[0])
    gradients = (
        jax.jit(meta_gradient(trainer(loss := classification_loss(net.apply)), loss))(
            jax.random.key(0), distilled, theta, batch
        )
        for net in networks
    )
    chex.assert_trees_all_close(*gradients, rtol=1e-7, atol=1e-10)


def test_ties_in_a_pool_give_the_gradient_to_one_of_them():
    """A constant background makes all four members of a pool equal, and its gradient must not be counted four times."""
    x, kernel, bias = jnp.ones((1, 12, 12, 1)), jnp.ones((5, 5, 1, 2)), jnp.zeros(2)
    for method in METHODS:
        layer = partial(convolution_pool_relu, padding=0, surrogates=surrogates(0.0), method=method)
        slope = jax.grad(lambda bias, layer=layer: jnp.sum(layer(x, kernel, bias)))(bias)
        np.testing.assert_array_equal(slope, [16.0, 16.0])
        slope = jax.grad(lambda kernel, layer=layer: jnp.sum(layer(x, kernel, bias)))(kernel)
        np.testing.assert_array_equal(slope, np.full(kernel.shape, 16.0))


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"), [(8, 2, 2, 0), (9, 2, 2, 0), (9, 3, 2, 1), (7, 3, 1, 0)]
)
def test_max_pool_equals_flax_in_value_gradient_and_second_derivative(x64, size, window, stride, padding):
    x, way = np.random.default_rng(0).normal(size=(2, 3, size, size, 2))

    def results(pool):
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x)) ** 2))
        return pool(x), gradient(x), jax.jvp(gradient, (x,), (way,))[1]

    theirs = results(lambda x: nn.max_pool(x, (window,) * 2, (stride,) * 2, padding=((padding,) * 2,) * 2))
    for our, their in zip(
        results(lambda x: max_pool(x, (window,) * 2, (stride,) * 2, ((padding,) * 2,) * 2)), theirs, strict=True
    ):
        np.testing.assert_allclose(our, their, rtol=1e-12)
