"""Every way to differentiate the loop gives the same numbers; the lean ones really keep less."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Distilled, Network
from dd_jax.inner.loop import gradient_step, unroll
from dd_jax.inner.modes import MODES, _clip_adjoint
from dd_jax.networks.surrogates import surrogates
from dd_jax.objectives import classification_loss, mean_of


def slow(value):
    """A parameter of the tests that run apart from the rest."""
    return pytest.param(value, marks=pytest.mark.slow)


def objective(network, mode, temperature=1.0):
    """L in everything the loop depends on, a hyper-parameter that ``loss`` closes over included."""

    def loss(theta, images, labels):
        return classification_loss(lambda theta, images: network.apply(theta, images) / temperature)(
            theta, images, labels
        )

    return lambda distilled, theta, batch: mean_of(loss)(unroll(loss, theta, distilled, mode=mode), *batch)


def with_steps(problem, total):
    """The small problem with T = ``total`` steps over its three distinct ones (or fewer)."""
    network, theta, distilled, batch = problem
    rng = np.random.default_rng(1)
    distinct = min(total, 3)
    distilled = Distilled(
        distilled.images[:distinct], distilled.labels[:distinct], np.log1p(np.exp(rng.normal(size=total) - 0.5))
    )
    return network, *jax.tree.map(jnp.asarray, (theta, distilled, batch))


@pytest.mark.parametrize("total", [1, slow(2), 6, slow(11)])
def test_modes_agree_in_every_argument_under_jit(x64, small_problem, total):
    network, theta, distilled, batch = with_steps(small_problem, total)

    def gradients(mode):
        def value(distilled, theta, batch, temperature):
            return objective(network, mode, temperature)(distilled, theta, batch)

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3)))(distilled, theta, batch, 1.3)

    expected = gradients("plain")
    for mode in MODES:
        chex.assert_trees_all_close(gradients(mode), expected, rtol=1e-9, atol=1e-13)
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(expected[1][:2]))


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_every_mode_equals_central_differences(x64, small_problem, mode):
    """Along a random direction in images, labels, step sizes, initial weights and a captured temperature."""
    network, theta, distilled, batch = with_steps(small_problem, 7)

    def value(arguments):
        distilled, theta, temperature = arguments
        return objective(network, mode, temperature)(distilled, theta, batch)

    at = (distilled, theta, jnp.asarray(1.3))
    gradient = jax.jit(jax.grad(value))(at)
    leaves, structure = jax.tree.flatten(at)
    rng = np.random.default_rng(2)
    for index, leaf in enumerate(leaves):
        way = rng.normal(size=leaf.shape)
        moved = [[*leaves[:index], leaf + sign * 1e-5 * way, *leaves[index + 1 :]] for sign in (1, -1)]
        high, low = (value(jax.tree.unflatten(structure, m)) for m in moved)
        assert float(jnp.vdot(jax.tree.leaves(gradient)[index], way)) == pytest.approx(
            float(high - low) / 2e-5, rel=1e-6
        )


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_modes_under_vmap_over_nets(x64, small_problem, mode):
    network, theta, distilled, batch = with_steps(small_problem, 5)
    nets = jax.tree.map(lambda w: jnp.stack([w, 0.5 * w, -w]), theta)
    one = objective(network, mode)
    alone = [jax.grad(one)(distilled, jax.tree.map(lambda w, k=k: w[k], nets), batch) for k in range(3)]
    each = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0, None)))(distilled, nets, batch)
    chex.assert_trees_all_close(each, jax.tree.map(lambda *g: jnp.stack(g), *alone), rtol=1e-9)
    mean = jax.grad(lambda d: jax.vmap(one, in_axes=(None, 0, None))(d, nets, batch).mean())(distilled)
    chex.assert_trees_all_close(mean, jax.tree.map(lambda *g: sum(g) / 3, *alone), rtol=1e-9)


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_the_adjoint_is_clipped_after_every_step(x64, small_problem, mode):
    """Against a loop that pulls back step by step; some adjoints are longer than the bound, and some are not."""
    network, theta, distilled, batch = with_steps(small_problem, 7)
    loss, bound, distinct = classification_loss(network.apply), 0.3, len(distilled.images)

    def trained(distilled):
        return unroll(loss, theta, distilled, mode=mode, adjoint_clip=bound)

    final, pull_back = jax.vjp(trained, distilled)
    adjoint = jax.grad(mean_of(loss))(final, *batch)
    actual = pull_back(adjoint)[0]
    weights, pull_backs, expected, norms = theta, [], jax.tree.map(jnp.zeros_like, distilled), []
    for t in range(7):

        def one_step(theta, distilled, t=t):
            images, labels = distilled.images[t % distinct], distilled.labels[t % distinct]
            return gradient_step(loss, theta, images, labels, distilled.step_sizes[t])

        weights, pull = jax.vjp(one_step, weights, distilled)
        pull_backs.append(pull)
    for pull in reversed(pull_backs):
        norms.append(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(adjoint))))
        adjoint, part = pull(jax.tree.map(lambda u: u * min(1.0, bound / norms[-1]), adjoint))
        expected = jax.tree.map(jnp.add, expected, part)
    assert 0 < sum(norm > bound for norm in norms) < len(norms)
    chex.assert_trees_all_close(actual, expected, rtol=1e-9)
    chex.assert_trees_all_close(final, unroll(loss, theta, distilled), rtol=1e-12)


def test_lean_modes_keep_less(small_problem):
    """By XLA's own analysis: weights only instead of activations, and with nesting a fraction of the weights."""
    network, _, _, _ = small_problem
    total, examples = 100, 50
    rng = np.random.default_rng(0)
    theta = {"w1": rng.normal(size=(6, 64)), "b1": np.zeros(64), "w2": rng.normal(size=(64, 3))}
    distilled = Distilled(rng.normal(size=(1, examples, 2, 3, 1)), np.ones((1, examples, 3)) / 3, np.full(total, 0.7))
    batch = (np.ones((2, 2, 3, 1)), np.ones((2, 3)) / 3)
    arguments = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (distilled, theta, batch))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[1]))

    def memory(mode):
        compiled = jax.jit(jax.grad(objective(network, mode))).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    used = {mode: memory(mode) for mode in MODES}
    assert used["plain"] > 2 * used["forward_over_reverse"]
    assert used["forward_over_reverse"] > 1.5 * used["nested"]
    assert total * weights < used["remat"] < used["plain"]


def test_an_unknown_mode_is_refused(small_problem):
    network, theta, distilled, _ = small_problem
    with pytest.raises(ValueError, match=r"^mode: 'fast' is unknown; use one of forward_over_reverse, nested"):
        unroll(classification_loss(network.apply), theta, distilled, mode="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_an_adjoint_clip_that_is_not_positive_is_refused(small_problem, bound):
    network, theta, distilled, _ = small_problem
    with pytest.raises(ValueError, match=rf"^adjoint_clip: {bound} is not accepted; use a positive number"):
        unroll(classification_loss(network.apply), theta, distilled, adjoint_clip=bound)


def per_class(logits, classes):
    """Cross-entropy by hand, of integer labels."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], axis=1)[:, 0]


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
@pytest.mark.parametrize("context", ["eager", "jit", "vmap of grad", "grad of jit of vmap"])
def test_integer_labels_and_captured_integers_keys_and_floats_in_every_mode(x64, small_problem, mode, context):
    """Against soft labels and nothing captured: the loop written out in a loss of floats alone."""
    network, theta, distilled, batch = with_steps(small_problem, 5)
    classes, real = distilled.labels.argmax(-1), (batch[0], batch[1].argmax(-1))
    order, key, heat = jnp.array([2, 0, 1]), jax.random.key(3), jnp.asarray(1.3)
    shift = jax.random.normal(key, (3,), jnp.float64)

    def value(images, theta, order, key, heat):
        def loss(theta, images, labels):
            logits = network.apply(theta, images)[:, order] / heat
            return per_class(logits + jax.random.normal(key, (1, 3), jnp.float64), labels)

        data = distilled._replace(images=images, labels=classes)
        return loss(unroll(loss, theta, data, mode=mode), *real).mean()

    def plain(images):
        def loss(theta, images, labels):
            logits = network.apply(theta, images)[:, np.array([2, 0, 1])] / 1.3 + shift[None]
            return -jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1)

        data = distilled._replace(images=images, labels=jnp.eye(3)[classes])
        return loss(unroll(loss, theta, data, mode="plain"), real[0], jnp.eye(3)[real[1]]).mean()

    captured = (order, key, heat)
    many = tuple(jnp.stack([c, c]) for c in captured)
    axes = (None, None, 0, 0, 0)
    actual = {
        "eager": lambda x: jax.grad(value)(x, theta, *captured),
        "jit": lambda x: jax.jit(jax.grad(value))(x, theta, *captured),
        "vmap of grad": lambda x: jax.vmap(jax.grad(value), axes)(x, theta, *many)[1],
        "grad of jit of vmap": lambda x: jax.grad(
            jax.jit(lambda x, *many: jax.vmap(value, axes)(x, theta, *many).mean())
        )(x, *many),
    }[context](distilled.images)
    np.testing.assert_allclose(actual, jax.grad(plain)(distilled.images), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [0.0, 0.7])
def test_modes_agree_with_smoothed_switches_too(x64, mode, width):
    """Their second derivative, a rule of its own, must survive each way to differentiate the loop."""
    rng, switch = np.random.default_rng(4), surrogates(width)
    x, w1, w2 = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 3, 4), (4, 6), (3, 2)))

    def apply(theta, images):
        return switch.maximum(*jnp.split(switch.relu(images @ theta["w1"]), 2, axis=-1)) @ theta["w2"]

    distilled = Distilled(x, jnp.eye(2)[jnp.array([[0, 1, 0], [1, 0, 1]])], jnp.full(5, 0.7))
    theta, batch = {"w1": w1, "w2": w2}, (x[0] + 0.3, distilled.labels[0])
    network = Network(lambda key: theta, apply)
    ours, plain = (jax.jit(jax.grad(objective(network, m), (0, 1)))(distilled, theta, batch) for m in (mode, "plain"))
    chex.assert_trees_all_close(ours, plain, rtol=1e-9, atol=1e-13)


def test_smoothed_switches_matter_to_the_meta_gradient(x64):
    """Else the test above would compare what is the same anyway."""
    rng = np.random.default_rng(4)
    x, theta = jnp.asarray(rng.normal(size=(1, 3, 4))), jnp.asarray(rng.normal(size=(4, 2)))
    distilled = Distilled(x, jnp.eye(2)[jnp.array([[0, 1, 0]])], jnp.full(2, 0.7))

    def gradient(width):
        network = Network(lambda key: theta, lambda theta, images: surrogates(width).relu(images @ theta))
        return jax.grad(objective(network, "nested"))(distilled, theta, (x[0] + 0.3, distilled.labels[0])).images

    assert jnp.abs(gradient(0.7) - gradient(0.0)).max() > 1e-3


@pytest.mark.parametrize("mode", [MODES[0], *map(slow, MODES[1:])])
def test_weights_and_step_sizes_of_unequal_precision(x64, small_problem, mode):
    network, theta, distilled, batch = with_steps(small_problem, 4)
    expected = jax.grad(objective(network, mode))(distilled, theta, batch)
    images, labels, theta, batch = jax.tree.map(jnp.float32, (*distilled[:2], theta, batch))
    mixed = Distilled(images, labels, distilled.step_sizes)
    gradient = jax.grad(objective(network, mode))(mixed, theta, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, mixed)
    for ours, theirs in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((3, 5, 3))}, r"labels: shape \(3, 5, 3\) is not accepted; use \[3, 4, …\]"),
        ({"labels": np.zeros((1, 4, 3))}, r"labels: shape \(1, 4, 3\) is not accepted"),
        ({"labels": np.zeros(3)}, r"labels: shape \(3,\) is not accepted"),
        ({"labels": np.zeros((3, 4, 1))}, r"labels: shape \(4, 1\) does not fit logits of shape \(4, 3\)"),
        ({"labels": np.zeros((3, 4), int)}, r"labels: shape \(4,\) does not fit logits of shape \(4, 3\)"),
        ({"images": np.zeros((3, 4, 2, 3, 1), int)}, "images: type int.* is not accepted; use floats"),
        ({"images": np.zeros((3, 0, 2, 3, 1))}, r"images: shape \(3, 0, 2, 3, 1\) is not accepted"),
        ({"images": np.zeros(3)}, r"images: shape \(3,\) is not accepted"),
        ({"step_sizes": np.zeros((6, 1))}, r"step_sizes: shape \(6, 1\) is not accepted; use \[T\]"),
        ({"step_sizes": np.zeros(0)}, r"step_sizes: shape \(0,\) is not accepted"),
        ({"step_sizes": np.zeros(6, int)}, "step_sizes: type int.* is not accepted; use floats"),
    ],
)
def test_data_of_another_shape_or_type_are_refused_in_every_mode(small_problem, mode, change, message):
    network, theta, distilled, _ = small_problem
    distilled, theta = jax.tree.map(jnp.asarray, (distilled._replace(**change), theta))
    with pytest.raises(ValueError, match=f"^{message}"):
        unroll(classification_loss(network.apply), theta, distilled, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_loss_of_one_number_and_weights_that_are_integers_are_refused_in_every_mode(small_problem, mode):
    network, theta, distilled, _ = small_problem
    loss = classification_loss(network.apply)
    theta, distilled = jax.tree.map(jnp.asarray, (theta, distilled))
    with pytest.raises(ValueError, match=r"^loss: it must return one value per example, shape \(4,\), got shape \(\)"):
        unroll(mean_of(loss), theta, distilled, mode=mode)
    with pytest.raises(ValueError, match=r"^theta: leaf \['count'\] of type int32 is not accepted; use floats"):
        unroll(loss, {**theta, "count": jnp.zeros((), jnp.int32)}, distilled, mode=mode)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_an_adjoint_whose_squares_underflow_or_overflow_is_clipped_like_any_other(size):
    adjoint = jnp.asarray(size * np.array([3.0, 4.0]), jnp.float32)
    clipped = jax.vjp(lambda theta: _clip_adjoint(theta, 0.1 * size), jnp.ones(2))[1](adjoint)[0]
    np.testing.assert_allclose(clipped / size, [0.06, 0.08], rtol=1e-5)
