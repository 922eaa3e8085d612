"""The unroll and its meta-gradient, against a plain loop, central differences and closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax import backend
from dd_jax.base import Distilled
from dd_jax.distilled import noise
from dd_jax.estimates import meta_gradient, outer_objective, over_networks, perturbed
from dd_jax.inner.loop import trainer, unroll
from dd_jax.objectives import classification_loss, cross_entropy, mean_of, relabelled

KEY = jax.random.key(0)


def value_of(loss, distilled, theta, batch, objective=None):
    return outer_objective(trainer(loss), objective or loss)(KEY, distilled, theta, batch)


def gradient_of(loss, distilled, theta, batch, objective=None, **settings):
    return meta_gradient(trainer(loss), objective or loss, **settings)(KEY, distilled, theta, batch)


def mean_gradient_of(loss, distilled, thetas, batch, objective=None, normalise=False):
    estimate = meta_gradient(trainer(loss), objective or loss)
    return over_networks(estimate, normalise=normalise)(KEY, distilled, thetas, batch)


def perturbed_gradient_of(key, loss, distilled, theta, batch, scale, count, objective=None):
    estimate = meta_gradient(trainer(loss), objective or loss)
    return perturbed(estimate, scale=scale, count=count)(key, distilled, theta, batch)


def to_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def test_unroll_equals_a_python_loop_over_steps_and_epochs(x64, small_problem):
    network, theta, distilled, _ = small_problem
    loss = classification_loss(network.apply)
    expected = to_jax(theta)
    for t, step_size in enumerate(distilled.step_sizes):
        gradient = jax.grad(mean_of(loss))(expected, distilled.images[t % 3], distilled.labels[t % 3])
        expected = {name: w - step_size * gradient[name] for name, w in expected.items()}
    chex.assert_trees_all_close(unroll(loss, to_jax(theta), to_jax(distilled)), expected, rtol=1e-12)


def test_unroll_takes_a_number_of_steps_that_is_no_multiple_of_the_distinct_ones(x64, small_problem):
    network, theta, distilled, _ = small_problem
    loss = classification_loss(network.apply)
    five = to_jax(distilled._replace(step_sizes=distilled.step_sizes[:5]))
    theta = to_jax(theta)
    through_four = unroll(loss, theta, five._replace(step_sizes=five.step_sizes[:4]))
    last = Distilled(five.images[1:2], five.labels[1:2], five.step_sizes[4:])
    chex.assert_trees_all_close(unroll(loss, theta, five), unroll(loss, through_four, last), rtol=1e-12)


@pytest.mark.parametrize("field", ["images", "labels", "step_sizes"])
def test_meta_gradient_equals_central_differences(x64, small_problem, field):
    network, theta, distilled, batch = small_problem
    loss = classification_loss(network.apply)
    objective = jax.jit(lambda d: value_of(loss, d, theta, batch))
    gradient = getattr(gradient_of(loss, to_jax(distilled), theta, batch)[1], field)
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
    expected = jax.value_and_grad(value_of, argnums=1)(*arguments)
    chex.assert_trees_all_close(gradient_of(*arguments, chunk=chunk), expected, rtol=1e-11)


@pytest.mark.parametrize("steps", [1, 4])
def test_meta_gradient_on_linear_regression_equals_the_closed_form(x64, steps):
    """With ℓ = ½/M ‖xθ − y‖², a step is affine in θ, and the chain rule can be written out by hand."""
    rng = np.random.default_rng(3)
    inputs, targets, count, total = 4, 2, 3, 5
    x, y = rng.normal(size=(steps, count, inputs)), rng.normal(size=(steps, count, targets))
    theta = rng.normal(size=(inputs, targets))
    real_x, real_y = rng.normal(size=(total, inputs)), rng.normal(size=(total, targets))
    raw = rng.normal(size=steps)
    eta = np.log1p(np.exp(raw))

    def loss(theta, images, labels):
        return 0.5 * jnp.sum((images.reshape(len(images), -1) @ theta - labels) ** 2, axis=-1)

    # Forward, then v = ∂L/∂θ backwards: v ← (I − η xᵀx/M) v, collecting ∂/∂x and ∂/∂η of −η xᵀ(xθ − y)/M.
    weights = [theta]
    for t in range(steps):
        weights.append(weights[t] - eta[t] / count * x[t].T @ (x[t] @ weights[t] - y[t]))
    v = real_x.T @ (real_x @ weights[-1] - real_y) / total
    expected_x, expected_eta = np.zeros_like(x), np.zeros_like(raw)
    for t in reversed(range(steps)):
        residual = x[t] @ weights[t] - y[t]
        expected_eta[t] = -1 / count * np.sum(v * (x[t].T @ residual))
        expected_x[t] = -eta[t] / count * (residual @ v.T + x[t] @ v @ weights[t].T)
        v = v - eta[t] / count * x[t].T @ (x[t] @ v)
    distilled = to_jax(Distilled(x[..., None, None], y, eta))
    value, gradient = jax.jit(functools.partial(gradient_of, loss))(distilled, theta, (real_x[..., None, None], real_y))
    np.testing.assert_allclose(value, 0.5 * np.sum((real_x @ weights[-1] - real_y) ** 2) / total, rtol=1e-12)
    np.testing.assert_allclose(gradient.images[..., 0, 0], expected_x, rtol=1e-10)
    np.testing.assert_allclose(gradient.step_sizes, expected_eta, rtol=1e-10)


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
    with pytest.raises(ValueError, match=rf"^{name}: {value}"):
        noise(jax.random.key(0), (28, 28, 1), 10, **settings)


def test_smoothed_meta_gradient_is_the_mean_over_perturbed_images_and_shares_of_the_batch(x64, small_problem):
    network, theta, distilled, batch = small_problem
    loss, distilled = classification_loss(network.apply), to_jax(distilled)
    key, scale = jax.random.key(1), 0.3
    noise = np.array(jax.random.normal(key, (3, *distilled.images.shape), jnp.float64))
    noise -= noise.mean(0)
    parts = [
        gradient_of(
            loss, distilled._replace(images=distilled.images + scale * noise[k]), theta, (batch[0][s], batch[1][s])
        )
        for k, s in enumerate([slice(0, 3), slice(3, 6), slice(6, 9)])
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *parts)
    actual = perturbed_gradient_of(key, loss, distilled, theta, batch, scale=scale, count=3)
    chex.assert_trees_all_close(actual, expected, rtol=1e-10)
    # Without noise the shares add up to the whole batch.
    still = perturbed_gradient_of(key, loss, distilled, theta, batch, scale=0.0, count=3)
    chex.assert_trees_all_close(still, gradient_of(loss, distilled, theta, batch), rtol=1e-10)
    with pytest.raises(ValueError, match=r"perturbations: 2 does not divide the batch size, 9"):
        perturbed_gradient_of(key, loss, distilled, theta, batch, scale=scale, count=2)


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
        return mean_of(loss)(unroll(loss, to_jax(theta), d), batch[0], modified)

    objective = classification_loss(network.apply, relabelled({2: 0}, 3))
    value, gradient = jax.value_and_grad(written_out)(distilled)
    if samples == 1:
        ours = gradient_of(loss, distilled, to_jax(theta), batch, objective=objective, chunk=4)
        np.testing.assert_allclose(value_of(loss, distilled, theta, batch, objective=objective), value)
    else:
        ours = perturbed_gradient_of(
            jax.random.key(0), loss, distilled, to_jax(theta), batch, scale=0.0, count=samples, objective=objective
        )
    chex.assert_trees_all_close(ours, (value, gradient), rtol=1e-10)
    thetas = jax.tree.map(lambda a: jnp.stack([a, a]), to_jax(theta))
    mean = mean_gradient_of(loss, distilled, thetas, batch, objective=objective)
    chex.assert_trees_all_close(mean, (value, gradient), rtol=1e-10)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 9, 100, None])
def test_unequal_weights_of_examples_mean_the_same_in_every_chunk(x64, small_problem, chunk):
    network, theta, distilled, batch = small_problem
    weights = jnp.array([1.0, 9.0, 1.0])

    def weighted(logits, labels):
        return (labels @ weights) * cross_entropy(logits, labels)

    loss, objective = classification_loss(network.apply), classification_loss(network.apply, weighted)
    distilled, theta, batch = to_jax((distilled, theta, batch))
    expected = jax.value_and_grad(
        lambda d: jnp.sum(objective(unroll(loss, theta, d), *batch)) / 9  # of the whole batch
    )(distilled)
    ours = gradient_of(loss, distilled, theta, batch, objective=objective, chunk=chunk)
    chex.assert_trees_all_close(ours, expected, rtol=1e-11)
    value = value_of(loss, distilled, theta, batch, objective=objective)
    np.testing.assert_allclose(value, expected[0], rtol=1e-11)


@pytest.mark.parametrize("kind", ["one", "smoothed", "many", "many normalised"])
def test_an_accelerator_s_way_gives_the_numbers_of_a_cpu_s(x64, small_problem, kind, monkeypatch):
    """The whole batch at once and networks side by side, where a CPU takes chunks and turns."""
    network, theta, distilled, batch = small_problem
    loss, distilled, theta, batch = classification_loss(network.apply), *to_jax((distilled, theta, batch))
    thetas = jax.tree.map(lambda w: jnp.stack([w, 0.5 * w, -w]), theta)
    monkeypatch.setattr(backend, "_CPU_PIXELS", 12)  # two images at a time

    def gradient():
        if kind == "one":
            return gradient_of(loss, distilled, theta, batch)
        if kind == "smoothed":
            return perturbed_gradient_of(jax.random.key(0), loss, distilled, theta, batch, scale=0.2, count=3)
        return mean_gradient_of(loss, distilled, thetas, batch, normalise=kind != "many")

    on_cpu = gradient()
    programs = [str(jax.make_jaxpr(lambda: gradient())())]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    programs.append(str(jax.make_jaxpr(lambda: gradient())()))
    assert programs[0] != programs[1]
    chex.assert_trees_all_close(gradient(), on_cpu, rtol=1e-10, atol=1e-14)


def test_arrays_that_do_not_fit_each_other_are_refused(small_problem):
    network, theta, distilled, (images, labels) = small_problem
    loss, distilled, theta = classification_loss(network.apply), *to_jax((distilled, theta))
    thetas = jax.tree.map(lambda w: jnp.stack([w, w]), theta)
    for batch in ((images, labels[:8]), (images[:0], labels[:0])):
        for f in (value_of, gradient_of):
            with pytest.raises(ValueError, match=r"^batch: shapes .* are not accepted; use \[B, …\] and \[B, …\]"):
                f(loss, distilled, theta, batch)
        with pytest.raises(ValueError, match=r"^batch: shapes"):
            mean_gradient_of(loss, distilled, thetas, batch)
        with pytest.raises(ValueError, match=r"^batch: shapes"):
            perturbed_gradient_of(jax.random.key(0), loss, distilled, theta, batch, scale=0.1, count=2)
    batch = (images, labels)
    with pytest.raises(ValueError, match=r"^thetas: leading axes \[\(1,\), \(2,\)\] are not accepted"):
        mean_gradient_of(loss, distilled, thetas | {"b1": thetas["b1"][:1]}, batch)
    with pytest.raises(ValueError, match=r"^chunk: 0 is not accepted; use 1 or more"):
        gradient_of(loss, distilled, theta, batch, chunk=0)
    with pytest.raises(ValueError, match=r"^perturbations: 0 is not accepted; use 1 or more"):
        perturbed_gradient_of(jax.random.key(0), loss, distilled, theta, batch, scale=0.1, count=0)


def test_an_objective_of_one_number_is_refused(small_problem):
    network, theta, distilled, batch = small_problem
    loss, distilled, theta = classification_loss(network.apply), *to_jax((distilled, theta))
    for f in (value_of, gradient_of):
        with pytest.raises(ValueError, match=r"^loss: it must return one value per example, shape \(\d,\), got shape"):
            f(loss, distilled, theta, batch, objective=mean_of(loss))


def test_a_labels_gradient_of_integers_is_zero(small_problem):
    network, theta, distilled, (images, labels) = small_problem

    def loss(theta, images, classes):
        return -jnp.take_along_axis(jax.nn.log_softmax(network.apply(theta, images)), classes[:, None], axis=1)[:, 0]

    distilled, theta, batch = to_jax((distilled, theta, (images, labels.argmax(-1))))
    hard = distilled._replace(labels=distilled.labels.argmax(-1))
    _, gradient = gradient_of(loss, hard, theta, batch)
    assert gradient.labels.dtype == jnp.float32
    np.testing.assert_array_equal(gradient.labels, np.zeros((3, 4)))
    soft = hard._replace(labels=jnp.eye(3)[hard.labels])
    batch = (images, jnp.eye(3)[batch[1]])
    _, expected = gradient_of(classification_loss(network.apply), soft, theta, to_jax(batch))
    np.testing.assert_allclose(gradient.images, expected.images, rtol=1e-4, atol=1e-6)
