"""ReLU and maximum with smoothed switches: the same functions, but for the second derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.networks import make_network
from dd_jax.networks.surrogates import surrogates
from dd_jax.objectives import classification_loss, mean_of


def test_values_and_first_derivatives_are_unchanged():
    x, y = jax.random.normal(jax.random.key(0), (2, 50))
    x = x.at[0].set(0.0)
    smooth, sharp = surrogates(0.7), surrogates(0.0)
    for ours, theirs in ((smooth.relu, sharp.relu), (lambda x: smooth.maximum(x, y), lambda x: sharp.maximum(x, y))):
        np.testing.assert_array_equal(ours(x), theirs(x))
        np.testing.assert_array_equal(*(jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x) for f in (ours, theirs)))


@pytest.mark.parametrize(
    ("name", "shape", "options", "first"),
    [
        pytest.param("lenet", (28, 28, 1), {}, "Conv_0", marks=pytest.mark.slow),
        ("convnet", (6, 6, 3), {"width": 4, "depth": 1}, "Conv_0"),
        ("mlp", (3, 3, 2), {"hidden": (9, 8)}, "Dense_0"),
        pytest.param("resnet18", (4, 4, 3), {"width": 2, "groups": 1}, "Conv_0", marks=pytest.mark.slow),
        pytest.param("alexcifarnet", (32, 32, 3), {}, "Conv_0", marks=pytest.mark.slow),
    ],
)
def test_a_network_trains_the_same_and_only_its_second_derivative_changes(x64, name, shape, options, first):
    images, labels = jax.random.normal(jax.random.key(0), (2, *shape)), jnp.eye(10)[:2]

    def results(width):
        network = make_network(name, shape, 10, switch_width=width, options=options)
        loss = classification_loss(network.apply)
        theta = jax.tree.map(jnp.float64, network.init(jax.random.key(1)))

        @jax.jit
        def both(images):
            gradient, second = jax.jvp(
                lambda images: jax.grad(mean_of(loss))(theta, images, labels), (images,), (images,)
            )
            return gradient, second

        return both(images)

    (smooth, smooth_second), (sharp, sharp_second) = results(0.5), results(0.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), smooth, sharp)
    for ours in jax.tree.leaves(smooth_second):
        assert np.isfinite(ours).all()
    smooth_kernel, sharp_kernel = (second["params"][first]["kernel"] for second in (smooth_second, sharp_second))
    assert np.linalg.norm(smooth_kernel - sharp_kernel) > 0.01 * np.linalg.norm(sharp_kernel)


def test_the_second_derivative_is_a_gaussian_at_the_switch(x64):
    x, y = np.random.default_rng(0).normal(size=(2, 200))

    def density(x, scale):
        return np.exp(-0.5 * (x / scale) ** 2) / (scale * np.sqrt(2 * np.pi))

    relu, maximum = surrogates(0.3)
    second = jax.jvp(jax.grad(lambda x: relu(x).sum()), (x,), (np.ones_like(x),))[1]
    np.testing.assert_allclose(second, density(x, 0.3 * x.std()), rtol=1e-6)
    second = jax.jvp(jax.grad(lambda y: maximum(x, y).sum()), (y,), (np.ones_like(y),))[1]
    np.testing.assert_allclose(second, density(y - x, 0.3 * (y - x).std()), rtol=1e-6)


def test_the_slope_of_a_gradient_adds_up_to_its_change(x64):
    """∫ (df/dt) dt = f(5) − f(−5) for f a sum of ReLU derivatives; automatic differentiation alone gives zero."""
    rng = np.random.default_rng(0)
    thresholds, weights, times = rng.normal(size=20), rng.normal(size=20), np.linspace(-8, 8, 4001)

    def integral_and_change(width):
        relu = surrogates(width).relu

        def f(t):  # the gradient of one layer of ReLUs with respect to their common input
            return jax.grad(lambda t: jnp.dot(weights, relu(t - thresholds)))(t)

        slopes = jax.vmap(jax.grad(f))(times)
        return np.trapezoid(slopes, times), float(f(8.0) - f(-8.0))

    integral, change = integral_and_change(0.2)
    assert abs(change) > 1
    assert integral == pytest.approx(change, rel=1e-3)
    assert integral_and_change(0.0)[0] == 0


def test_a_constant_input_gives_no_nan():
    relu, maximum = surrogates(0.5)
    x = jnp.zeros(5)
    for f in (relu, lambda x: maximum(x, x)):
        assert jnp.isfinite(jax.jvp(jax.grad(lambda x, f=f: f(x).sum()), (x,), (x,))[1]).all()


@pytest.mark.parametrize("width", [-0.1, float("nan"), float("inf")])
def test_a_bad_width_is_refused(width):
    with pytest.raises(ValueError, match=r"^switch_width: .* is not accepted; use 0 or a positive number"):
        make_network("lenet", (28, 28, 1), 10, switch_width=width)
