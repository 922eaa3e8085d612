"""The unroll and its meta-gradient, against a plain loop, central differences and closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.losses import classification_loss, relabelled
from dd_jax.meta import mean_meta_gradient, meta_gradient, outer_objective, smoothed_meta_gradient
from dd_jax.unroll import DistilledData, noise, unroll


def to_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def test_unroll_equals_a_python_loop_over_steps_and_epochs(x64, small_problem):
    network, theta, distilled, _ = small_problem
    loss = classification_loss(network.apply)
    step_sizes = np.log1p(np.exp(distilled.raw_step_sizes))
    expected = to_jax(theta)
    for t, step_size in enumerate(step_sizes):
        gradient = jax.grad(loss)(expected, distilled.images[t % 3], distilled.labels[t % 3])
        expected = {name: w - step_size * gradient[name] for name, w in expected.items()}
    chex.assert_trees_all_close(unroll(loss, to_jax(theta), to_jax(distilled)), expected, rtol=1e-12)


def test_unroll_takes_a_number_of_steps_that_is_no_multiple_of_the_distinct_ones(x64, small_problem):
    network, theta, distilled, _ = small_problem
    loss = classification_loss(network.apply)
    five = to_jax(distilled._replace(raw_step_sizes=distilled.raw_step_sizes[:5]))
    theta = to_jax(theta)
    through_four = unroll(loss, theta, five._replace(raw_step_sizes=five.raw_step_sizes[:4]))
    last = DistilledData(five.images[1:2], five.labels[1:2], five.raw_step_sizes[4:])
    chex.assert_trees_all_close(unroll(loss, theta, five), unroll(loss, through_four, last), rtol=1e-12)


@pytest.mark.parametrize("field", ["images", "labels", "raw_step_sizes"])
def test_meta_gradient_equals_central_differences(x64, small_problem, field):
    network, theta, distilled, batch = small_problem
    loss = classification_loss(network.apply)
    objective = jax.jit(lambda d: outer_objective(loss, d, theta, batch))
    gradient = getattr(meta_gradient(loss, to_jax(distilled), theta, batch)[1], field)
    start = np.asarray(getattr(distilled, field))
    numeric, width = np.zeros_like(start), 1e-5
    for index in np.ndindex(start.shape):
        shifted = [start.copy(), start.copy()]
        shifted[0][index] -= width
        shifted[1][index] += width
        low, high = (objective(distilled._replace(**{field: value})) for value in shifted)
        numeric[index] = (high - low) / (2 * width)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-9)
    assert np.abs(numeric).min() > 0  # each entry matters, so a missing one would show


@pytest.mark.parametrize("chunk", [1, 3, 4, 9, 100])
def test_meta_gradient_in_chunks_equals_jax_grad_through_the_scan(x64, small_problem, chunk):
    network, theta, distilled, batch = small_problem
    arguments = (classification_loss(network.apply), to_jax(distilled), to_jax(theta), batch)
    expected = jax.value_and_grad(outer_objective, argnums=1)(*arguments)
    chex.assert_trees_all_close(meta_gradient(*arguments, chunk=chunk), expected, rtol=1e-11)


@pytest.mark.parametrize("steps", [1, 4])
def test_meta_gradient_on_linear_regression_equals_the_closed_form(x64, steps):
    """With ℓ = ½/M ‖xθ − y‖², a step is affine in θ, and the chain rule can be written out by hand."""
    rng = np.random.default_rng(3)
    inputs, targets, count, total = 4, 2, 3, 5
    x, y = rng.normal(size=(steps, count, inputs)), rng.normal(size=(steps, count, targets))
    theta = rng.normal(size=(inputs, targets))
    real_x, real_y = rng.normal(size=(total, inputs)), rng.normal(size=(total, targets))
    raw = rng.normal(size=steps)
    eta, eta_slope = np.log1p(np.exp(raw)), 1 / (1 + np.exp(-raw))

    def loss(theta, images, labels):
        return 0.5 * jnp.sum((images.reshape(len(images), -1) @ theta - labels) ** 2) / len(images)

    # Forward, then v = ∂L/∂θ backwards: v ← (I − η xᵀx/M) v, collecting ∂/∂x and ∂/∂η of −η xᵀ(xθ − y)/M.
    weights = [theta]
    for t in range(steps):
        weights.append(weights[t] - eta[t] / count * x[t].T @ (x[t] @ weights[t] - y[t]))
    v = real_x.T @ (real_x @ weights[-1] - real_y) / total
    expected_x, expected_raw = np.zeros_like(x), np.zeros_like(raw)
    for t in reversed(range(steps)):
        residual = x[t] @ weights[t] - y[t]
        expected_raw[t] = -eta_slope[t] / count * np.sum(v * (x[t].T @ residual))
        expected_x[t] = -eta[t] / count * (residual @ v.T + x[t] @ v @ weights[t].T)
        v = v - eta[t] / count * x[t].T @ (x[t] @ v)
    distilled = to_jax(DistilledData(x[..., None, None], y, raw))
    value, gradient = jax.jit(functools.partial(meta_gradient, loss))(
        distilled, theta, (real_x[..., None, None], real_y)
    )
    np.testing.assert_allclose(value, 0.5 * np.sum((real_x @ weights[-1] - real_y) ** 2) / total, rtol=1e-12)
    np.testing.assert_allclose(gradient.images[..., 0, 0], expected_x, rtol=1e-10)
    np.testing.assert_allclose(gradient.raw_step_sizes, expected_raw, rtol=1e-10)


def test_noise_has_the_scale_labels_and_step_size_asked_for():
    distilled = noise(
        jax.random.key(0), (28, 28, 1), 3, steps=4, epochs=2, images_per_class=5, scale=0.5, step_size=0.02
    )
    chex.assert_shape(distilled.images, (4, 15, 28, 28, 1))
    assert float(jnp.std(distilled.images)) == pytest.approx(0.5, rel=0.02)
    np.testing.assert_allclose(distilled.step_sizes, np.full(8, 0.02), rtol=1e-5)
    np.testing.assert_array_equal(distilled.labels.argmax(-1), np.tile(np.repeat(np.arange(3), 5), (4, 1)))
    np.testing.assert_array_equal(distilled.labels.sum(-1), 1)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("epochs", -1), ("images_per_class", 0), ("scale", 0.0), ("step_size", -0.1)]
)
def test_noise_refuses_counts_and_sizes_out_of_range(name, value):
    settings = {"steps": 1, "epochs": 1, name: value}
    with pytest.raises(ValueError, match=rf"^distilled\.{name}: {value}"):
        noise(jax.random.key(0), (28, 28, 1), 10, **settings)


def test_smoothed_meta_gradient_is_the_mean_over_perturbed_images_and_shares_of_the_batch(x64, small_problem):
    network, theta, distilled, batch = small_problem
    loss, distilled = classification_loss(network.apply), to_jax(distilled)
    key, scale = jax.random.key(1), 0.3
    noise = np.array(jax.random.normal(key, (3, *distilled.images.shape), jnp.float64))
    noise -= noise.mean(0)
    parts = [
        meta_gradient(
            loss, distilled._replace(images=distilled.images + scale * noise[k]), theta, (batch[0][s], batch[1][s])
        )
        for k, s in enumerate([slice(0, 3), slice(3, 6), slice(6, 9)])
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *parts)
    actual = smoothed_meta_gradient(key, loss, distilled, theta, batch, scale=scale, samples=3)
    chex.assert_trees_all_close(actual, expected, rtol=1e-10)
    # Without noise the shares add up to the whole batch.
    still = smoothed_meta_gradient(key, loss, distilled, theta, batch, scale=0.0, samples=3)
    chex.assert_trees_all_close(still, meta_gradient(loss, distilled, theta, batch), rtol=1e-10)
    with pytest.raises(ValueError, match=r"outer\.samples: 2 does not divide the batch size, 9"):
        smoothed_meta_gradient(key, loss, distilled, theta, batch, scale=scale, samples=2)


@pytest.mark.parametrize("samples", [1, 3])
def test_another_objective_counts_on_the_real_batch_alone(x64, small_problem, samples):
    """ℓ_{K→T} outside the loop and ℓ within it: against jax.grad of the two written out."""
    network, theta, distilled, batch = small_problem
    distilled = to_jax(distilled)
    loss = classification_loss(network.apply)
    modified = batch[1].copy()
    modified[batch[1][:, 2] == 1] = [1.0, 0.0, 0.0]
    assert (modified != batch[1]).any()

    def written_out(d):
        return loss(unroll(loss, to_jax(theta), d), batch[0], modified)

    objective = classification_loss(network.apply, relabelled({2: 0}, 3))
    value, gradient = jax.value_and_grad(written_out)(distilled)
    if samples == 1:
        ours = meta_gradient(loss, distilled, to_jax(theta), batch, objective=objective, chunk=4)
        np.testing.assert_allclose(outer_objective(loss, distilled, theta, batch, objective=objective), value)
    else:
        ours = smoothed_meta_gradient(
            jax.random.key(0), loss, distilled, to_jax(theta), batch, scale=0.0, samples=samples, objective=objective
        )
    chex.assert_trees_all_close(ours, (value, gradient), rtol=1e-10)
    thetas = jax.tree.map(lambda a: jnp.stack([a, a]), to_jax(theta))
    mean = mean_meta_gradient(loss, distilled, thetas, batch, objective=objective)
    chex.assert_trees_all_close(mean, (value, gradient), rtol=1e-10)
