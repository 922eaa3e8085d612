"""The linear case: the closed forms, the lower bound with its equality, and the experiment as a user runs it."""

import contextlib
import io
import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Distilled
from dd_jax.inner.loop import unroll
from dd_jax.linear import (
    closed_form,
    excess_loss_bound,
    expected_excess_loss,
    one_example,
    optimum,
    quadratic_loss,
)
from experiments import linear_case

D = 5


@pytest.fixture
def data(x64):
    """Real data d [20, D], t [20] with no perfect fit, and columns of unlike length."""
    rng = np.random.default_rng(11)
    d = rng.normal(size=(20, D)) * np.array([0.5, 1, 1.5, 2, 3])
    return jnp.asarray(d), jnp.asarray(d @ rng.normal(size=D) + rng.normal(size=20))


def best_choice(d, t, examples, step_size=1.0):
    """The M < D examples that the bound's proof names: the leading eigenvectors of dᵀd, with t̃ = d̃θ*."""
    leading = np.linalg.eigh(d.T @ d)[1][:, ::-1][:, :examples]
    images = jnp.asarray(np.sqrt(examples / step_size) * leading.T)
    return Distilled(images[None], (images @ optimum(d, t))[None], jnp.array([step_size]))


def test_one_step_is_the_papers_formula(x64):
    rng = np.random.default_rng(0)
    m, eta = 3, 0.37
    images, labels, theta = rng.normal(size=(m, D)), rng.normal(size=m), rng.normal(size=D)
    distilled = Distilled(jnp.asarray(images[None]), jnp.asarray(labels[None]), jnp.array([eta]))
    expected = (np.eye(D) - eta / m * images.T @ images) @ theta + eta / m * images.T @ labels
    np.testing.assert_allclose(unroll(quadratic_loss, jnp.asarray(theta), distilled), expected, rtol=1e-12)


def test_optimum_solves_the_normal_equations(data):
    d, t = data
    np.testing.assert_allclose(d.T @ (d @ optimum(d, t)), d.T @ t, rtol=1e-11)
    assert quadratic_loss(optimum(d, t), d, t).mean() > 0.1


@pytest.mark.parametrize("examples", [D, D + 1, 3 * D])
@pytest.mark.parametrize("step_size", [0.02, 1.0, 7.0])
def test_the_closed_form_leads_to_the_optimum_from_every_initialisation(data, examples, step_size):
    d, t = data
    distilled = closed_form(jax.random.key(1), d, t, examples, step_size=step_size)
    chex.assert_shape(list(distilled[:3]), [(1, examples, D), (1, examples), (1,)])
    np.testing.assert_allclose(distilled.step_sizes, step_size, rtol=1e-12)
    thetas = jnp.asarray(np.random.default_rng(2).normal(size=(50, D)) * 100)
    trained = jax.vmap(lambda theta: unroll(quadratic_loss, theta, distilled))(thetas)
    np.testing.assert_allclose(trained, np.tile(optimum(d, t), (50, 1)), atol=1e-10)
    another = closed_form(jax.random.key(2), d, t, examples, step_size=step_size)
    assert np.abs(another.images - distilled.images).max() > 0.1


def test_a_known_initialisation_takes_one_example_which_serves_no_other(data):
    d, t = data
    theta = jnp.asarray(np.random.default_rng(3).normal(size=D))
    distilled = one_example(theta, d, t, step_size=0.3)
    chex.assert_shape(list(distilled[:3]), [(1, 1, D), (1, 1), (1,)])
    np.testing.assert_allclose(unroll(quadratic_loss, theta, distilled), optimum(d, t), rtol=1e-11)
    other = unroll(quadratic_loss, theta + jnp.eye(D)[0], distilled)
    assert np.abs(other - optimum(d, t)).max() > 0.1


def test_expected_excess_loss_equals_the_trace_formula_and_a_sample_mean(data):
    """½ tr(C Π σ²I Πᵀ) + ½ ‖E θ_T − θ*‖²_C, Π and E θ_T of two unlike steps written out."""
    d, t = data
    rng = np.random.default_rng(4)
    images, labels, eta = rng.normal(size=(2, 3, D)), rng.normal(size=(2, 3)), np.array([0.2, 0.9])
    mean, scale, best, c = rng.normal(size=D), 1.7, optimum(d, t), d.T @ d / len(d)
    product, centre = np.eye(D), mean
    for x, y, step_size in zip(images, labels, eta, strict=True):
        step = np.eye(D) - step_size / 3 * x.T @ x
        product, centre = step @ product, step @ centre + step_size / 3 * x.T @ y
    expected = (scale**2 * np.trace(c @ product @ product.T) + (centre - best) @ c @ (centre - best)) / 2
    distilled = Distilled(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(eta))
    actual = expected_excess_loss(distilled, d, t, jnp.asarray(mean), scale=scale)
    np.testing.assert_allclose(actual, expected, rtol=1e-11)
    thetas = jnp.asarray(mean + scale * rng.normal(size=(20_000, D)))
    trained = jax.vmap(lambda theta: unroll(quadratic_loss, theta, distilled))(thetas)
    losses = jax.vmap(lambda theta: quadratic_loss(theta, d, t).mean())(trained) - quadratic_loss(best, d, t).mean()
    np.testing.assert_allclose(actual, losses.mean(), rtol=0.05)


@pytest.mark.parametrize("examples", range(1, D))
def test_the_bound_is_attained_by_the_leading_eigenvectors(data, examples):
    d, t = data
    actual = expected_excess_loss(best_choice(d, t, examples, 0.4), d, t, optimum(d, t), scale=1.3)
    np.testing.assert_allclose(actual, excess_loss_bound(d, examples, scale=1.3), rtol=1e-11)
    assert actual > 0.01


def test_the_bound_without_examples_is_the_loss_before_training_and_with_d_of_them_zero(data):
    d, t = data
    still = Distilled(jnp.zeros((1, 1, D)), jnp.zeros((1, 1)), jnp.array([1.0]))
    np.testing.assert_allclose(
        expected_excess_loss(still, d, t, optimum(d, t), scale=2.0), excess_loss_bound(d, 0, scale=2.0), rtol=1e-12
    )
    assert excess_loss_bound(d, D - 1) > 0
    assert excess_loss_bound(d, D) == excess_loss_bound(d, D + 3) == 0


@pytest.mark.parametrize("examples", range(1, D))
@pytest.mark.parametrize("spread", [1e-4, 1e-2, 0.3])
def test_no_other_data_go_below_the_bound(data, examples, spread):
    """Random moves of all parts of the best choice, and of the mean of θ₀: the bound is the least there is."""
    d, t = data
    rng = np.random.default_rng(5)

    def moved(array):
        return jnp.asarray(array[None] + spread * rng.normal(size=(200, *array.shape)))

    distilled = jax.tree.map(moved, best_choice(d, t, examples))
    expected = jax.vmap(lambda distilled, mean: expected_excess_loss(distilled, d, t, mean))
    assert np.all(expected(distilled, moved(optimum(d, t))) > excess_loss_bound(d, examples) * (1 - 1e-12))


@pytest.mark.parametrize(("steps", "examples"), [(1, 4), (2, 2), (4, 1)])
def test_many_steps_and_epochs_on_d_minus_one_examples_in_all_stay_above_the_bound(data, steps, examples):
    """Random moves of the best D − 1 examples, spread over steps and used for a few epochs: as many are too few."""
    d, t = data
    rng = np.random.default_rng(6)
    best = best_choice(d, t, D - 1)
    distilled = Distilled(
        best.images.reshape(1, steps, examples, D) + 0.05 * rng.normal(size=(200, steps, examples, D)),
        best.labels.reshape(1, steps, examples) + 0.05 * rng.normal(size=(200, steps, examples)),
        jnp.asarray(examples / (D - 1) * rng.uniform(0.9, 1.1, size=(200, 3 * steps + 1))),
    )
    expected = jax.vmap(lambda distilled: expected_excess_loss(distilled, d, t, optimum(d, t)))(distilled)
    assert np.all(expected > excess_loss_bound(d, D - 1))
    assert np.min(expected) < excess_loss_bound(d, D - 2)  # near enough for a bound set too high to show


def test_d_steps_of_one_example_reach_the_optimum_and_d_minus_one_only_the_bound(data):
    """Orthogonal rows, one a step: each step clears a direction of θ₀ − θ*, and a second epoch has none left."""
    d, t = data

    def one_by_one(whole):
        count = whole.images.shape[1]
        step_sizes = jnp.full(2 * count, 1 / count)  # η̃/M stays what it was
        return Distilled(whole.images.reshape(count, 1, D), whole.labels.reshape(count, 1), step_sizes)

    enough = one_by_one(closed_form(jax.random.key(0), d, t, D))
    assert expected_excess_loss(enough, d, t, jnp.zeros(D)) < 1e-24
    short = expected_excess_loss(one_by_one(best_choice(d, t, D - 1)), d, t, optimum(d, t))
    np.testing.assert_allclose(short, excess_loss_bound(d, D - 1), rtol=1e-11)


def test_refusals_name_the_setting_and_the_remedy(data):
    d, t = data
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=rf"^examples: M = {D - 1} .* D = {D} .* use {D} or more"):
        closed_form(key, d, t, D - 1)
    dependent = d.at[:, 0].set(d[:, 1] + d[:, 2])
    for refused, rank in ((dependent, D - 1), (d[:3], 3)):
        with pytest.raises(ValueError, match=rf"^data: d of rank {rank} .* use {D} independent columns"):
            closed_form(key, refused, t[: len(refused)], D)
        with pytest.raises(ValueError, match=rf"^data: d of rank {rank}"):
            one_example(jnp.zeros(D), refused, t[: len(refused)])
    for shape in ((19,), (20, 1)):
        with pytest.raises(ValueError, match=rf"^data: d of shape \(20, {D}\) and t of {re.escape(str(shape))}"):
            optimum(d, jnp.zeros(shape))
    for step_size in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"^step_size: {step_size} "):
            closed_form(key, d, t, D, step_size=step_size)
    with pytest.raises(ValueError, match=r"^examples: -1 "):
        excess_loss_bound(d, -1)
    with pytest.raises(ValueError, match=r"^data: d of shape \(20,\)"):
        excess_loss_bound(t, 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run through the command line's own entry: its folder and what it printed."""
    workdir, printed = tmp_path_factory.mktemp("run") / "linear", io.StringIO()
    with contextlib.redirect_stdout(printed):
        linear_case.main(["--dimension", "2", "--outer-steps", "1500", "--workdir", str(workdir)])
    return workdir, printed.getvalue()


@pytest.mark.slow
def test_learned_data_reach_the_optimum_from_d_examples_on_and_the_bound_below(finished):
    result = json.loads((finished[0] / "result.json").read_text())
    below, *enough = result["excess_loss"]
    assert [row["examples"] for row in result["excess_loss"]] == [1, 2, 3, 4]
    assert below["closed_form"] is None
    assert 0 < below["bound"] * (1 - 1e-12) <= below["learned"] < 1.02 * below["bound"]
    assert below["bound"] < result["excess_loss_before"]
    for row in enough:
        assert row["bound"] == 0
        assert 0 <= row["closed_form"] < 1e-24
        assert 0 <= row["learned"] < 1e-12
    assert 0 < result["largest_excess_loss"] < 1e-9
    assert result["examples_needed"] == result["reported_examples_needed"] == 2


@pytest.mark.slow
def test_the_run_writes_its_files_and_prints_a_row_for_every_m(finished):
    workdir, printed = finished
    written = sorted(p.name for p in workdir.iterdir() if p.name != ".lock")
    assert written == ["config.json", "excess_loss.png", "result.json"]
    assert (workdir / "excess_loss.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split()[0] for line in printed.splitlines()[1:6]] == ["M", "1", "2", "3", "4"]
    assert "reach the optimum: 2   (proved by the paper: D = 2)" in printed


@pytest.mark.parametrize(
    ("option", "value"),
    [("dimension", "0"), ("networks", "0"), ("outer-steps", "-1"), ("learning-rate", "0.0"), ("seed", "-1")],
)
def test_a_refused_setting_writes_nothing(tmp_path, option, value):
    with pytest.raises(ValueError, match=rf"^{option.replace('-', '_')}: {value} is not accepted"):
        linear_case.main([f"--{option}", value, "--workdir", str(tmp_path / "run")])
    assert not list(tmp_path.iterdir())
