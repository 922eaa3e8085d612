"""The outer step: learns, compiles once, stands still on a non-finite loss, clips what it says it clips."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dd_jax.estimates import meta_gradient, over_networks, perturbed
from dd_jax.inner.loop import trainer
from dd_jax.objectives import classification_loss
from dd_jax.outer import (
    OuterRecipe,
    bound_step_sizes,
    clip_by_running_norm,
    outer_optimizer,
    outer_step,
    recipe_estimate,
    relative_rate,
)
from dd_jax.parametrisations import PIXELS

KEY = jax.random.key(0)


def no_loss(theta, images, labels):
    return jnp.zeros(len(images))


def outer_of(loss, recipe, many=False, optimizer=None):
    train = trainer(loss, adjoint_clip=recipe.adjoint_clip)

    def estimate_at(step):
        return recipe_estimate(recipe, step, train, loss, PIXELS.decode, many=many)

    estimate_at(jnp.int32(0))  # refuses settings
    return outer_step(estimate_at, optimizer or outer_optimizer(recipe), fixed=PIXELS.fixed)


def gradient_of(loss, distilled, theta, batch):
    return meta_gradient(trainer(loss), loss)(KEY, distilled, theta, batch)


def mean_of_nets(loss, distilled, thetas, batch, objective=None, normalise=False):
    estimate = meta_gradient(trainer(loss), objective or loss)
    return over_networks(estimate, normalise=normalise)(KEY, distilled, thetas, batch)


def make(small_problem, **recipe):
    network, theta, distilled, batch = small_problem
    theta, distilled, batch = jax.tree.map(jnp.asarray, (theta, distilled, batch))
    recipe = OuterRecipe(**{"steps": 300, "perturbations": 1, **recipe})
    outer = outer_of(classification_loss(network.apply), recipe)
    return outer, outer.init(PIXELS.init(distilled)), theta, batch


@pytest.mark.parametrize("samples", [1, 3])
def test_outer_steps_lower_the_loss_compile_once_and_leave_the_labels(small_problem, samples):
    smoothing = {"smoothing": 0.05} if samples > 1 else {}
    outer, state, theta, batch = make(small_problem, perturbations=samples, **smoothing)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(outer.update, n=1), donate_argnums=0)
    labels, losses = np.asarray(state.params.labels), []
    for step in range(100):
        state, info = update(jax.random.key(step), state, theta, batch)
        losses.append(float(info.loss))
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.step) == 100
    np.testing.assert_array_equal(state.params.labels, labels)


def test_first_adam_step_moves_every_learned_entry_by_the_rate(small_problem):
    outer, state, theta, batch = make(small_problem, learning_rate=0.03)
    moved, _ = outer.update(KEY, state, theta, batch)
    for field in ("images", "step_sizes"):
        change = getattr(moved.params, field) - getattr(state.params, field)
        np.testing.assert_allclose(np.abs(change), 0.03, rtol=1e-2)


def test_images_decay_and_step_sizes_move_at_their_own_rate(small_problem):
    plain, state, theta, batch = make(small_problem, learning_rate=0.03)
    decayed, *_ = make(small_problem, learning_rate=0.03, weight_decay=0.5, step_size_rate=0.2)
    start = state.params
    first, second = (outer.update(KEY, state, theta, batch)[0].params for outer in (plain, decayed))
    np.testing.assert_allclose(second.images, first.images - 0.03 * 0.5 * start.images, atol=1e-6)
    moves = [d.step_sizes - start.step_sizes for d in (first, second)]
    np.testing.assert_allclose(moves[1], 0.2 * moves[0], rtol=1e-3)


def test_a_non_finite_batch_leaves_the_state_as_it_was(small_problem):
    outer, state, theta, (images, labels) = make(small_problem)
    state, _ = outer.update(KEY, state, theta, (images, labels))
    stuck, info = outer.update(KEY, state, theta, (images.at[0, 0, 0, 0].set(jnp.nan), labels))
    assert not info.finite
    assert not jnp.isfinite(info.loss)
    chex.assert_trees_all_equal(stuck, state)


def test_the_rate_is_halved_as_often_as_asked(small_problem):
    outer, state, theta, batch = make(small_problem, learning_rate=0.04, halve_every=1, b1=0.0, b2=0.0, clip=None)
    second, _ = outer.update(KEY, outer.update(KEY, state, theta, batch)[0], theta, batch)
    first, _ = outer.update(KEY, state, theta, batch)
    # With both decays at zero Adam moves by the rate times the gradient's sign.
    np.testing.assert_allclose(np.abs(second.params.images - first.params.images), 0.02, rtol=1e-2)


def test_clip_by_running_norm_scales_only_outliers():
    clip = clip_by_running_norm(2.0, decay=0.9)
    state = clip.init(None)
    first, state = clip.update({"a": jnp.array([3.0, 4.0])}, state)
    np.testing.assert_allclose(first["a"], [3.0, 4.0])  # the first sets the mean
    huge, state = clip.update({"a": jnp.array([300.0, 400.0])}, state)
    assert float(optax.tree.norm(huge)) == pytest.approx(2 * 5.0)
    assert float(state.mean) == pytest.approx(0.9 * 5 + 0.1 * 10)  # by the clipped norm
    small, _ = clip.update({"a": jnp.array([0.3, 0.4])}, state)
    np.testing.assert_allclose(small["a"], [0.3, 0.4])
    zero, after = clip.update({"a": jnp.zeros(2)}, state)
    np.testing.assert_array_equal(zero["a"], 0.0)
    assert after == state


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_clip_by_running_norm_at_every_size(size):
    """Squares that underflow or overflow change nothing, and a first update of zeros or NaNs sets no mean."""
    clip = clip_by_running_norm(2.0, decay=0.9)
    state = clip.init(None)
    for useless in (0.0, np.nan):
        passed, state = clip.update({"a": jnp.full(2, useless)}, state)
        np.testing.assert_array_equal(passed["a"], np.full(2, useless))
    first, state = clip.update({"a": size * jnp.array([3.0, 4.0])}, state)
    np.testing.assert_allclose(first["a"] / size, [3.0, 4.0], rtol=1e-6)
    second, _ = clip.update({"a": size * jnp.array([300.0, 400.0])}, state)
    np.testing.assert_allclose(second["a"] / size, [6.0, 8.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("learning_rate", 0.0), ("learning_rate", float("nan")), ("b1", 1.0), ("b2", -0.1),
     ("halve_every", 0), ("clip", -1.0), ("perturbations", 0), ("smoothing", 0.0),
     ("adjoint_clip", 0.0), ("max_step_size", -0.5), ("step_size_rate", 0.0), ("weight_decay", -1.0)],
)  # fmt: skip
def test_a_recipe_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: {value}"):
        outer_of(no_loss, OuterRecipe(**{name: value}))


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ({"max_step_size_growth": 2.0}, {}, "max_step_size_growth: 2.0 has no effect without max_step_size"),
        ({"smoothing": 0.2}, {}, "smoothing: 0.2 has no effect with perturbations 1; leave it at 0.1"),
        ({"normalise_networks": True}, {}, "normalise_networks: True has no effect on one network; leave it at False"),
    ],
)
def test_a_setting_without_effect_is_refused(recipe, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        outer_of(no_loss, OuterRecipe(**recipe), **settings)


def many_nets(problem, count=4):
    network, theta, distilled, batch = problem
    thetas = jax.tree.map(lambda w: jnp.stack([w * (1 + k / 3) for k in range(count)]), theta)
    return classification_loss(network.apply), *jax.tree.map(jnp.asarray, (distilled, thetas, batch))


def test_the_mean_over_nets_is_that_of_a_loop_over_them(x64, small_problem):
    loss, distilled, thetas, batch = many_nets(small_problem)
    each = [gradient_of(loss, distilled, jax.tree.map(lambda w, k=k: w[k], thetas), batch) for k in range(4)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *each)
    chex.assert_trees_all_close(mean_of_nets(loss, distilled, thetas, batch), mean, rtol=1e-10)

    def scaled(gradient):
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        return jax.tree.map(lambda g: g / norm, gradient)

    gradients = [scaled(gradient) for _, gradient in each]
    value, gradient = jax.jit(functools.partial(mean_of_nets, loss, normalise=True))(distilled, thetas, batch)
    np.testing.assert_allclose(value, mean[0], rtol=1e-10)
    chex.assert_trees_all_close(gradient, jax.tree.map(lambda *g: sum(g) / 4, *gradients), rtol=1e-10)


def test_a_network_that_diverges_is_left_out_of_the_mean_of_scaled_gradients(x64, small_problem):
    loss, distilled, thetas, batch = many_nets(small_problem, 3)
    broken = jax.tree.map(lambda w: w.at[1].set(jnp.nan), thetas)
    others = jax.tree.map(lambda w: w[jnp.array([0, 2])], thetas)
    ours, theirs = (mean_of_nets(loss, distilled, t, batch, normalise=True) for t in (broken, others))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12)
    nothing = mean_of_nets(loss, distilled, jax.tree.map(lambda w: w * jnp.nan, thetas), batch, normalise=True)
    assert not jnp.isfinite(nothing[0])


def test_outer_steps_on_many_nets_lower_the_loss_within_the_step_size_s_bound(small_problem):
    loss, distilled, thetas, batch = many_nets(small_problem)
    recipe = OuterRecipe(steps=60, learning_rate=0.05, clip=None, normalise_networks=True, max_step_size=0.6)
    outer = outer_of(loss, recipe, many=True)
    state, update = outer.init(PIXELS.init(distilled)), jax.jit(outer.update)
    losses = []
    for step in range(60):
        state, info = update(jax.random.key(step), state, thetas, batch)
        losses.append(float(info.loss))
    assert losses[-1] < 0.7 * losses[0]
    assert float(PIXELS.decode(state.params).step_sizes.max()) == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize("kind", ["one", "smoothed", "many"])
def test_the_recipe_s_adjoint_clip_reaches_the_loop(x64, small_problem, kind):
    """At so small a bound every part of the meta-gradient is in proportion to it."""
    loss, distilled, thetas, batch = many_nets(small_problem)
    theta = thetas if kind == "many" else jax.tree.map(lambda w: w[0], thetas)

    def norm(adjoint_clip):
        recipe = OuterRecipe(perturbations=3 if kind == "smoothed" else 1, adjoint_clip=adjoint_clip)
        outer = outer_of(loss, recipe, many=kind == "many")
        return float(outer.update(KEY, outer.init(PIXELS.init(distilled)), theta, batch)[1].gradient_norm)

    assert norm(1e-4) == pytest.approx(0.1 * norm(1e-3), rel=1e-3)
    assert norm(1e-3) < 0.1 * norm(None)


def test_perturbations_and_networks_compose(x64, small_problem):
    """The mean over networks of the mean over perturbations is that of a loop over both."""
    loss, distilled, thetas, batch = many_nets(small_problem, 2)
    one = perturbed(meta_gradient(trainer(loss), loss), scale=0.1, count=3)
    each = [one(KEY, distilled, jax.tree.map(lambda w, k=k: w[k], thetas), batch) for k in range(2)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *each)
    chex.assert_trees_all_close(over_networks(one)(KEY, distilled, thetas, batch), mean, rtol=1e-10)


def test_the_bound_on_step_sizes_grows_as_the_rate_falls(small_problem):
    _, _, distilled, _ = small_problem
    state = PIXELS.init(jax.tree.map(jnp.asarray, distilled))
    recipe = OuterRecipe(steps=4, max_step_size=0.2, max_step_size_growth=2.0)
    bound = bound_step_sizes(recipe.max_step_size, recipe.max_step_size_growth, relative_rate(recipe))
    memory, largest = bound.init(state), []
    for _ in range(4):
        updates, memory = bound.update(
            jax.tree.map(jnp.zeros_like, state)._replace(step_sizes=jnp.full(6, 9.0)), memory, state
        )
        state = optax.apply_updates(state, updates)
        largest.append(float(state.step_sizes.max()))
    first, last = (np.log(np.expm1(size)) for size in (0.2, 0.4))
    relative = [(1 + np.cos(np.pi * step / 4)) / 2 for step in range(4)]
    np.testing.assert_allclose(largest, [last + (first - last) * r for r in relative], rtol=1e-5)


def test_a_network_without_a_gradient_adds_nothing_to_the_mean_of_scaled_ones(small_problem):
    """Images of one network see a gradient whose squares underflow, another's is exactly zero."""
    _, distilled, _, batch = many_nets(small_problem)

    def loss(theta, images, labels):  # each step moves θ by η̃ times the mean image's first pixel
        del labels
        return theta["a"] * images[:, 0, 0, 0]

    def objective(theta, images, labels):
        del labels
        return theta["size"] * theta["a"] * jnp.ones(len(images))

    def gradient(*sizes):
        nets = {"a": jnp.ones(len(sizes)), "size": jnp.array(sizes, jnp.float32)}
        return mean_of_nets(loss, distilled, nets, batch, objective, normalise=True)[1].images

    one = gradient(1.0)
    assert jnp.abs(one).max() > 0.05
    np.testing.assert_allclose(gradient(1e-25), one, rtol=1e-4)
    np.testing.assert_allclose(gradient(1e25), one, rtol=1e-4)
    np.testing.assert_allclose(gradient(1.0, 1e-25), one, rtol=1e-4)
    np.testing.assert_allclose(gradient(1.0, 0.0), 0.5 * one, rtol=1e-4)


def test_integer_labels_stay_what_they_are(small_problem):
    network, theta, distilled, (images, labels) = small_problem
    theta, distilled, images = jax.tree.map(jnp.asarray, (theta, distilled, images))
    distilled, batch = distilled._replace(labels=distilled.labels.argmax(-1)), (images, jnp.asarray(labels).argmax(-1))

    def loss(theta, images, labels):
        return optax.softmax_cross_entropy_with_integer_labels(network.apply(theta, images), labels)

    thetas = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), theta)
    for weights, many, settings in ((theta, False, {"perturbations": 3}), (thetas, True, {"normalise_networks": True})):
        outer = outer_of(loss, OuterRecipe(steps=30, **settings), many=many)
        state, update = outer.init(PIXELS.init(distilled)), jax.jit(outer.update)
        first, losses = state, []
        for step in range(30):
            state, info = update(jax.random.key(step), state, weights, batch)
            losses.append(float(info.loss))
        assert losses[-1] < 0.9 * losses[0]
        chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
        np.testing.assert_array_equal(state.params.labels, distilled.labels)
