"""Every way to learn a part of the data meets the same laws: back and forth, gradients, an outer step that learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.bases import decode_bases, init_bases
from dd_jax.estimates import meta_gradient
from dd_jax.inner.loop import trainer
from dd_jax.inner.optimizers import inner_optimizer
from dd_jax.objectives import classification_loss
from dd_jax.outer import OuterRecipe, outer_optimizer, outer_step
from dd_jax.parametrisations import (
    FIXED,
    FREE,
    PIXELS,
    POSITIVE,
    UNIT,
    Field,
    parametrisation,
    per_step,
    probabilities,
    shared,
)

KEY = jax.random.key(0)
SHAPE = (3, 4, 2, 3, 1)  # of the small problem's images
BASES = Field(lambda images: init_bases(KEY, images, count=12, size=(2, 3)), lambda bases: decode_bases(bases, SHAPE))
KINDS = {
    "pixels": PIXELS,
    "fixed images": parametrisation(images=FIXED, labels=FREE),
    "bases": parametrisation(images=BASES),
    "learned labels": parametrisation(labels=probabilities(1e-6)),
    "unconstrained labels": parametrisation(labels=FREE),
    "fixed step sizes": parametrisation(step_sizes=FIXED),
    "shared step size": parametrisation(step_sizes=shared(POSITIVE, 6)),
    "learned momentum": parametrisation(hyper={"momentum": UNIT, "weight_decay": POSITIVE}),
    "momentum by step": parametrisation(hyper={"momentum": per_step(UNIT, 6), "weight_decay": FIXED}),
}


def problem_of(small_problem, kind):
    network, theta, distilled, batch = small_problem
    theta, distilled, batch = jax.tree.map(jnp.asarray, (theta, distilled, batch))
    if kind == "shared step size":
        distilled = distilled._replace(step_sizes=jnp.full_like(distilled.step_sizes, 0.3))
    if "momentum" in kind:
        dtype = distilled.images.dtype
        distilled = distilled._replace(hyper={"momentum": jnp.array(0.6, dtype), "weight_decay": jnp.array(0.1, dtype)})
    loss = classification_loss(network.apply)
    optimizer = inner_optimizer("momentum") if "momentum" in kind else inner_optimizer("plain")
    return KINDS[kind], trainer(loss, optimizer=optimizer), loss, theta, distilled, batch


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_what_was_encoded_gives_the_data_back(x64, small_problem, kind):
    learned, _, _, _, distilled, _ = problem_of(small_problem, kind)
    back = learned.decode(learned.init(distilled))
    for name in ("images", "labels", "step_sizes"):
        np.testing.assert_allclose(getattr(back, name), getattr(distilled, name), rtol=1e-9, atol=2e-6)
    for name, value in distilled.hyper.items():
        np.testing.assert_allclose(back.hyper[name], np.broadcast_to(value, back.hyper[name].shape), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_outer_step_moves_what_is_learned_and_nothing_else(small_problem, kind):
    learned, train, loss, theta, distilled, batch = problem_of(small_problem, kind)
    gradient = meta_gradient(train, loss, learned.decode)
    recipe = OuterRecipe(steps=60, learning_rate=0.03)
    outer = outer_step(lambda step: gradient, outer_optimizer(recipe), fixed=learned.fixed)
    first = outer.init(learned.init(distilled))
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(outer.update, n=1))
    state, losses = first, []
    for step in range(60):
        state, info = update(jax.random.key(step), state, theta, batch)
        losses.append(float(info.loss))
    assert losses[-1] < 0.9 * losses[0]
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a != b))), state.params, first.params)
    assert jax.tree.leaves(moved) == [not stays for stays in jax.tree.leaves(learned.fixed(first.params))]
    decoded = learned.decode(state.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(decoded))
    if kind == "learned labels":
        np.testing.assert_allclose(decoded.labels.sum(-1), 1, rtol=1e-5)
        assert decoded.labels.min() >= 0
    assert decoded.step_sizes.shape == (6,)
    assert decoded.step_sizes.min() > 0


def test_frozen_labels_have_no_gradient_and_frozen_images_none(x64, small_problem):
    fixed = {"pixels": {"labels"}, "fixed images": {"images"}, "fixed step sizes": {"labels", "step_sizes"}}
    for kind, parts in fixed.items():
        learned, train, loss, theta, distilled, batch = problem_of(small_problem, kind)
        _, gradient = meta_gradient(train, loss, learned.decode)(KEY, learned.init(distilled), theta, batch)
        for name in ("images", "labels", "step_sizes"):
            assert np.any(getattr(gradient, name)) == (name not in parts)


def test_a_hyper_parameter_s_gradient_equals_central_differences(x64, small_problem):
    learned, train, loss, theta, distilled, batch = problem_of(small_problem, "momentum by step")
    estimate, at = jax.jit(meta_gradient(train, loss, learned.decode)), learned.init(distilled)
    way = jnp.asarray(np.random.default_rng(0).normal(size=6))

    def value(size):
        momentum = at.hyper["momentum"] + size * way
        return float(estimate(KEY, at._replace(hyper={**at.hyper, "momentum": momentum}), theta, batch)[0])

    slope = float(estimate(KEY, at, theta, batch)[1].hyper["momentum"] @ way)
    assert slope == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-6)
    assert abs(slope) > 1e-4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((1, 2, 3), 0.5), r"labels: values from 0.5 and sums from 1.5 to 1.5 are not accepted"),
        (np.array([[[1.5, -0.5, 0.0]]]), r"labels: values from -0.5 and"),
        (np.zeros((1, 2, 3), int), r"labels: type int.* is not accepted; use floats"),
    ],
)
def test_labels_that_are_no_probabilities_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        probabilities().encode(jnp.asarray(labels))
    with pytest.raises(ValueError, match=r"^floor: 1.0 is not accepted"):
        probabilities(1.0)


def test_the_first_probabilities_are_the_labels_but_for_the_floor():
    one_hot = jnp.eye(4)[None]
    field = probabilities(0.04)
    np.testing.assert_allclose(field.decode(field.encode(one_hot)), 0.96 * one_hot + 0.01, rtol=1e-5)
