"""Every way to differentiate the loop gives the same numbers; the lean ones really keep less."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.losses import classification_loss
from dd_jax.unroll import MODES, DistilledData, gradient_step, unroll


def objective(network, mode, temperature=1.0):
    """L in everything the loop depends on, a hyper-parameter that ``loss`` closes over included."""

    def loss(theta, images, labels):
        return classification_loss(lambda theta, images: network.apply(theta, images) / temperature)(
            theta, images, labels
        )

    return lambda distilled, theta, batch: loss(unroll(loss, theta, distilled, mode=mode), *batch)


def with_steps(problem, total):
    """The small problem with T = ``total`` steps over its three distinct ones (or fewer)."""
    network, theta, distilled, batch = problem
    rng = np.random.default_rng(1)
    distinct = min(total, 3)
    distilled = DistilledData(distilled.images[:distinct], distilled.labels[:distinct], rng.normal(size=total) - 0.5)
    return network, *jax.tree.map(jnp.asarray, (theta, distilled, batch))


@pytest.mark.parametrize("total", [1, 2, 6, 11])
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


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_central_differences(x64, small_problem, mode):
    """Along a random direction in images, labels, raw step sizes, initial weights and a captured temperature."""
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


@pytest.mark.parametrize("mode", MODES)
def test_modes_under_vmap_over_nets(x64, small_problem, mode):
    network, theta, distilled, batch = with_steps(small_problem, 5)
    nets = jax.tree.map(lambda w: jnp.stack([w, 0.5 * w, -w]), theta)
    one = objective(network, mode)
    alone = [jax.grad(one)(distilled, jax.tree.map(lambda w, k=k: w[k], nets), batch) for k in range(3)]
    each = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0, None)))(distilled, nets, batch)
    chex.assert_trees_all_close(each, jax.tree.map(lambda *g: jnp.stack(g), *alone), rtol=1e-9)
    mean = jax.grad(lambda d: jax.vmap(one, in_axes=(None, 0, None))(d, nets, batch).mean())(distilled)
    chex.assert_trees_all_close(mean, jax.tree.map(lambda *g: sum(g) / 3, *alone), rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_adjoint_is_clipped_after_every_step(x64, small_problem, mode):
    """Against a loop that pulls back step by step; some adjoints are longer than the bound, and some are not."""
    network, theta, distilled, batch = with_steps(small_problem, 7)
    loss, bound, distinct = classification_loss(network.apply), 0.3, len(distilled.images)

    def trained(distilled):
        return unroll(loss, theta, distilled, mode=mode, adjoint_clip=bound)

    final, pull_back = jax.vjp(trained, distilled)
    adjoint = jax.grad(loss)(final, *batch)
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
    distilled = DistilledData(rng.normal(size=(1, examples, 2, 3, 1)), np.ones((1, examples, 3)) / 3, np.zeros(total))
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
