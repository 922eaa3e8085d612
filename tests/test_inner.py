"""The pieces of the inner loop in every mode: optimizers, orders, windows, augmentation, learned hyper-parameters.

Every member of a family meets the same laws; derivatives are compared with central differences and with a loop that is
written out.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dd_jax.inner.loop import inner_loop, trainer, unroll
from dd_jax.inner.modes import MODES
from dd_jax.inner.optimizers import (
    GRADIENT_DESCENT,
    INNER_OPTIMIZERS,
    InnerOptimizer,
    check_differentiable,
    inner_optimizer,
)
from dd_jax.inner.schedule import (
    Window,
    class_subsets,
    cycle,
    fixed_start,
    growing_start,
    minibatches,
    random_start,
    shuffled,
)
from dd_jax.objectives import classification_loss, mean_of

KEY = jax.random.key(5)
SETTINGS = {
    "plain": {"weight_decay": 0.03},
    "momentum": {"momentum": 0.7, "weight_decay": 0.02},
    "nesterov": {"momentum": 0.6, "weight_decay": 0.01},
    "adam": {"b1": 0.8, "b2": 0.9, "eps_root": 1e-2, "weight_decay": 0.05},
}


@pytest.fixture(autouse=True)
def usual_promotion():
    """optax's Adam takes powers of floats by integers, also in the derivative."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def problem_of(small_problem):
    network, theta, distilled, batch = small_problem
    return classification_loss(network.apply), *jax.tree.map(jnp.asarray, (theta, distilled, batch))


def shifted(key, images):
    """An augmentation that depends on its draw and is not linear."""
    return jnp.tanh(images + 0.3 * jax.random.normal(key, images.shape, images.dtype))


def value_of(loss, batch, **how):
    train = trainer(loss, **how)
    return lambda distilled, theta: mean_of(loss)(train(KEY, theta, distilled), *batch)


def test_every_optimizer_is_tried():
    assert set(SETTINGS) == set(INNER_OPTIMIZERS)


@pytest.mark.parametrize("name", ["adam", *(slow(name) for name in INNER_OPTIMIZERS if name != "adam")])
def test_every_mode_of_every_optimizer_gives_the_same_gradient(x64, small_problem, name):
    """In images, labels, step sizes, hyper-parameters (shared and per step) and θ₀, on minibatches, augmented."""
    loss, theta, distilled, batch = problem_of(small_problem)
    hyper = {key: jnp.full((), value) for key, value in SETTINGS[name].items()}
    first = next(iter(hyper))
    hyper[first] = jnp.linspace(0.8, 1.0, 6) * hyper[first]
    distilled = distilled._replace(hyper=hyper)

    def gradients(mode):
        how = {"optimizer": inner_optimizer(name, **SETTINGS[name]), "order": minibatches(5), "augment": shifted}
        return jax.jit(jax.value_and_grad(value_of(loss, batch, mode=mode, **how), (0, 1)))(distilled, theta)

    expected = gradients("plain")
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected))
    for mode in MODES:
        chex.assert_trees_all_close(gradients(mode), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["adam", *(slow(name) for name in INNER_OPTIMIZERS if name != "adam")])
@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_every_optimizer_in_every_mode_equals_central_differences(x64, small_problem, name, mode):
    loss, theta, distilled, batch = problem_of(small_problem)
    hyper = {key: jnp.full((), value) for key, value in SETTINGS[name].items()}
    at = (distilled._replace(hyper=hyper), theta)
    value = value_of(loss, batch, mode=mode, optimizer=inner_optimizer(name, **SETTINGS[name]))
    gradient, value = jax.jit(jax.grad(lambda at: value(*at)))(at), jax.jit(value)
    leaves, structure = jax.tree.flatten(at)
    rng = np.random.default_rng(2)
    for index, leaf in enumerate(leaves):
        way = rng.normal(size=leaf.shape)
        high, low = (
            value(*structure.unflatten([*leaves[:index], leaf + sign * 1e-5 * way, *leaves[index + 1 :]]))
            for sign in (1, -1)
        )
        slope = float(jnp.vdot(jax.tree.leaves(gradient)[index], way))
        assert slope == pytest.approx(float(high - low) / 2e-5, rel=1e-5, abs=1e-9)


def test_optimizers_are_those_of_optax(x64, small_problem):
    """The forward loop, against optax's own update written out."""
    loss, theta, distilled, _ = problem_of(small_problem)
    theirs = {
        "momentum": optax.chain(optax.add_decayed_weights(0.02), optax.trace(0.7)),
        "nesterov": optax.chain(optax.add_decayed_weights(0.01), optax.trace(0.6, nesterov=True)),
        "adam": optax.chain(optax.scale_by_adam(0.8, 0.9, 1e-8, 1e-2), optax.add_decayed_weights(0.05)),
        "plain": optax.add_decayed_weights(0.03),
    }
    for name, transformation in theirs.items():
        ours = unroll(loss, theta, distilled, optimizer=inner_optimizer(name, **SETTINGS[name]))
        weights, state = theta, transformation.init(theta)
        for t in range(6):
            gradient = jax.grad(mean_of(loss))(weights, distilled.images[t % 3], distilled.labels[t % 3])
            direction, state = transformation.update(gradient, state, weights)
            weights = jax.tree.map(lambda w, d, t=t: w - distilled.step_sizes[t] * d, weights, direction)
        chex.assert_trees_all_close(ours, weights, rtol=1e-12)


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_momentum_zero_is_plain(x64, small_problem, mode):
    loss, theta, distilled, batch = problem_of(small_problem)
    without = jax.value_and_grad(value_of(loss, batch, mode=mode), (0, 1))(distilled, theta)
    momentum = inner_optimizer("momentum", momentum=0.0, weight_decay=0.0)
    zero = jax.value_and_grad(value_of(loss, batch, mode=mode, optimizer=momentum), (0, 1))(distilled, theta)
    chex.assert_trees_all_close(zero, without, rtol=1e-12)
    assert inner_optimizer("plain") is GRADIENT_DESCENT


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_a_window_of_all_steps_is_the_whole_loop(x64, small_problem, mode):
    loss, theta, distilled, batch = problem_of(small_problem)
    how = {"mode": mode, "optimizer": inner_optimizer("momentum"), "augment": shifted, "order": shuffled}
    whole = jax.value_and_grad(value_of(loss, batch, **how))(distilled, theta)
    window = Window(6, random_start)
    chex.assert_trees_all_close(
        jax.value_and_grad(value_of(loss, batch, window=window, **how))(distilled, theta), whole, rtol=1e-12
    )


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
@pytest.mark.parametrize("start", [0, 3])
def test_a_window_takes_the_steps_before_it_as_given(x64, small_problem, mode, start):
    """Against a loop of the window's steps alone, from the weights that the steps before it reach."""
    loss, theta, distilled, batch = problem_of(small_problem)
    before = distilled._replace(step_sizes=distilled.step_sizes[:start])
    reached = unroll(loss, theta, before) if start else theta

    def alone(distilled):
        rolled = jax.tree.map(lambda a: jnp.roll(a, -start, axis=0), (distilled.images, distilled.labels))
        rest = distilled._replace(
            images=rolled[0], labels=rolled[1], step_sizes=distilled.step_sizes[start : start + 3]
        )
        return mean_of(loss)(unroll(loss, reached, rest), *batch)

    value = value_of(loss, batch, mode=mode, window=Window(3, fixed_start(start)))
    ours = jax.jit(jax.value_and_grad(value))(distilled, theta)
    chex.assert_trees_all_close(ours, jax.value_and_grad(alone)(distilled), rtol=1e-11, atol=1e-14)
    of_theta = jax.grad(value, argnums=1)(distilled, theta)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_theta))


def test_the_memory_of_a_window_is_that_of_a_loop_of_its_length(small_problem):
    network, theta, distilled, batch = small_problem
    to_float32 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)  # noqa: E731
    theta, distilled, batch = map(to_float32, (theta, distilled, batch))
    theta = {"w1": jnp.zeros((6, 64)), "b1": jnp.zeros(64), "w2": jnp.zeros((64, 3))}
    loss = classification_loss(network.apply)

    def memory(total, **how):
        data = distilled._replace(step_sizes=jnp.full(total, 0.1))

        def value(data, key):  # a traced key, so that the window's start is not known to the compiler
            return mean_of(loss)(trainer(loss, **how)(key, theta, data), *batch)

        step = jax.jit(jax.grad(value)).lower(data, KEY).compile()
        return step.memory_analysis().temp_size_in_bytes

    short, windowed = memory(20), memory(500, window=Window(20, random_start))
    assert windowed < 1.3 * short
    assert memory(500) > 5 * windowed


def test_starts_of_windows():
    keys = jax.random.split(KEY, 300)
    drawn = jax.vmap(lambda key: random_start(key, 4))(keys)
    assert set(np.asarray(drawn)) == {0, 1, 2, 3, 4}
    for progress, latest in ((0.0, 0), (0.5, 2), (1.0, 4)):
        assert set(np.asarray(jax.vmap(lambda key, p=progress: growing_start(p)(key, 4))(keys))) == set(
            range(latest + 1)
        )


def rows_taken(order, rows=3, size=4, total=7):
    return np.asarray(order(KEY, rows, size, total))


def test_orders():
    np.testing.assert_array_equal(rows_taken(cycle), np.arange(7) % 3)
    mixed = rows_taken(shuffled)
    assert sorted(mixed[:3]) == sorted(mixed[3:6]) == [0, 1, 2]
    batches = rows_taken(minibatches(5))
    assert batches.shape == (7, 5)
    for epoch in (batches[:2], batches[2:4]):  # two of five of twelve
        assert len(set(epoch.ravel())) == 10
    classes = np.tile([0, 1, 2, 1, 0, 2], 2)
    subsets = rows_taken(class_subsets(classes, 2), rows=2, size=6, total=9)
    assert subsets.shape == (9, 8)
    for taken in subsets:
        assert len(set(classes[taken])) == 2
        assert len(set(taken)) == 8
    assert len({frozenset(classes[taken]) for taken in subsets}) > 1


def test_minibatches_of_everything_are_the_rows(x64, small_problem):
    """One row, taken whole in another order: the same mean, and the same gradient."""
    loss, theta, distilled, batch = problem_of(small_problem)
    one = distilled._replace(images=distilled.images[:1], labels=distilled.labels[:1])
    whole = jax.value_and_grad(value_of(loss, batch))(one, theta)
    mixed = jax.value_and_grad(value_of(loss, batch, order=minibatches(4)))(one, theta)
    chex.assert_trees_all_close(mixed, whole, rtol=1e-11)


def test_the_augmentation_is_another_at_every_step_and_key(small_problem):
    loss, theta, distilled, _ = problem_of(small_problem)
    train = trainer(loss, augment=shifted)
    first, again, other = (train(key, theta, distilled) for key in (KEY, KEY, jax.random.key(6)))
    chex.assert_trees_all_equal(first, again)
    assert not np.allclose(first["w1"], other["w1"])
    loop = inner_loop(loss, theta, distilled, key=KEY, augment=shifted)
    assert len(np.unique(np.asarray(jax.random.key_data(loop.steps.key)), axis=0)) == 6


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_adjoints_of_weights_and_state_are_clipped(x64, small_problem, mode):
    """At so small a bound every part of the meta-gradient is in proportion to it."""
    loss, theta, distilled, batch = problem_of(small_problem)

    def gradient(bound):
        how = {"optimizer": inner_optimizer("momentum"), "mode": mode, "adjoint_clip": bound}
        return jax.grad(value_of(loss, batch, **how))(distilled, theta).images

    np.testing.assert_allclose(gradient(1e-6), 0.1 * gradient(1e-5), rtol=1e-6)
    assert np.abs(gradient(1e-5)).max() < 0.1 * np.abs(gradient(None)).max()


class _Refused:
    """Transformations that cannot be differentiated through."""

    adam = InnerOptimizer(lambda: optax.scale_by_adam())  # √v at 0
    sign = InnerOptimizer(lambda: optax.scale_by_sign())


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (_Refused.adam, "optimizer: its derivative at a gradient of 0 is not finite"),
        (_Refused.sign, "optimizer: its derivative is 0 everywhere"),
    ],
)
def test_a_transformation_without_a_derivative_is_refused_before_tracing(small_problem, optimizer, message):
    loss, theta, distilled, batch = problem_of(small_problem)
    with pytest.raises(ValueError, match=f"^{message}"):
        jax.jit(value_of(loss, batch, optimizer=optimizer))(distilled, theta)


def test_built_in_optimizers_can_be_differentiated():
    for name in INNER_OPTIMIZERS:
        check_differentiable(inner_optimizer(name))


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("sgd", {}, "optimizer: 'sgd' is unknown; use one of plain, momentum, nesterov, adam"),
        ("adam", {"eps_root": 0.0}, "eps_root: 0.0 is not accepted; use a positive number"),
        ("momentum", {"momentum": 1.0}, "momentum: 1.0 is not accepted; use at least 0 and below 1"),
        ("momentum", {"b1": 0.9}, "b1: 0.9 has no effect with the optimizer 'momentum'"),
        ("plain", {"weight_decay": -1.0}, "weight_decay: -1.0 is not accepted; use 0 or more"),
        ("adam", {"b2": float("nan")}, "b2: nan is not accepted"),
    ],
)
def test_settings_of_optimizers_out_of_range_are_refused(name, hyper, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        inner_optimizer(name, **hyper)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"window": Window(7, random_start)}, "window: 7 is not accepted; use 1 … 6, the steps of the loop"),
        ({"window": Window(0, random_start)}, "window: 0 is not accepted"),
        ({"window": Window(4, fixed_start(3))}, "window.start: 3 is not accepted; use 0 … 2"),
        ({"order": minibatches(13)}, "batch: 13 is not accepted; use 1 … 12, the distilled images"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(small_problem, how, message):
    loss, theta, distilled, batch = problem_of(small_problem)
    with pytest.raises(ValueError, match=f"^{message}"):
        value_of(loss, batch, **how)(distilled, theta)


def test_a_random_loop_needs_a_key(small_problem):
    loss, theta, distilled, _ = problem_of(small_problem)
    for how in ({"augment": shifted}, {"order": shuffled}, {"window": Window(2, random_start)}):
        with pytest.raises(ValueError, match=r"^key: None is not accepted"):
            unroll(loss, theta, distilled, **how)


def test_class_subsets_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match=r"^classes: \[2, 1\] images of each are not accepted"):
        class_subsets([0, 0, 1], 1)
    with pytest.raises(ValueError, match=r"^count: 3 is not accepted; use 1 … 2"):
        class_subsets([0, 1], 3)


def test_hyper_parameters_of_another_shape_or_type_are_refused(small_problem):
    loss, theta, distilled, _ = problem_of(small_problem)
    for value, message in ((jnp.zeros(5), r"hyper.momentum: shape \(5,\)"), (jnp.array(1), "momentum: type int")):
        with pytest.raises(ValueError, match=f"^{message}"):
            unroll(loss, theta, distilled._replace(hyper={"momentum": value}), optimizer=inner_optimizer("momentum"))
