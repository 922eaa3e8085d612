"""The whole run as one call: it makes the steps of its pieces, tells a callback, and refuses what it cannot use."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dd_jax as dd
from dd_jax import distillation
from dd_jax.data.batches import batch_drawer
from dd_jax.data.dataset import make_dataset
from dd_jax.data.readers import from_fields
from dd_jax.outer import OuterInfo
from dd_jax.outer_loop import in_turn, outer_loop

KEY = jax.random.key(3)
RECIPE = dd.OuterRecipe(steps=6, learning_rate=0.1)


def apply(theta, images):
    return images.reshape(len(images), -1) @ theta["w"] + theta["b"][None]


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (16, 2)), "b": jnp.zeros(2)}


NETWORK = dd.Network(init, apply)


@functools.cache
def stripes():
    """Images of 4×4 pixels, those of class 1 with bright rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = rng.uniform(0, 0.6, (80, 4, 4))
    images[labels == 1, ::2] += 0.3
    return {"images": images, "labels": labels}


def first(**fields):
    return dd.noise(jax.random.key(1), (4, 4, 1), 2, steps=2, epochs=2, step_size=0.1)._replace(**fields)


def distil(**settings):
    given = {"data": stripes(), "network": NETWORK, "first": first(), "recipe": RECIPE, "batch_size": 8, "test_nets": 3}
    given |= {"key": KEY, "validation_nets": 2, **settings}
    return dd.distil(**given)


def test_it_makes_the_steps_of_its_pieces():
    data, loss = make_dataset(from_fields("mine", stripes())), dd.classification_loss(apply)
    on_the_host = data.train._replace(images=np.asarray(data.train.images))
    run = distil(data=data._replace(train=on_the_host), networks=3)
    estimate = dd.over_networks(dd.meta_gradient(dd.trainer(loss), loss, dd.PIXELS.decode))
    outer = dd.outer_step(lambda step: estimate, dd.outer_optimizer(RECIPE), fixed=dd.PIXELS.fixed)
    state, draw = outer.init(dd.PIXELS.init(first())), batch_drawer(data, 8)
    train_key, validation_key, test_key = jax.random.split(KEY, 3)
    update = jax.jit(outer.update)
    for step in range(1, RECIPE.steps + 1):
        weights_key, batch_key, step_key = jax.random.split(jax.random.fold_in(train_key, step), 3)
        thetas = jax.vmap(init)(jax.random.split(weights_key, 3))
        state, info = update(step_key, state, thetas, draw(batch_key, data.train))
    distilled = dd.PIXELS.decode(state.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), run.distilled, distilled)
    last = [row for row in run.history if row["step"] == RECIPE.steps]
    assert last[0]["loss"] == pytest.approx(float(info.loss), rel=1e-4)

    @functools.partial(jax.jit, static_argnames=("at", "count"))
    def scored(key, count, split, at):
        keys = jax.random.split(key, count)
        of = functools.partial(dd.evaluate, apply, split=split, classes=2)
        return dd.evaluate_nets(keys, init, loss, distilled, dd.Training(), of, at)

    validated = scored(validation_key, 2, data.validation, (4,)).accuracy.mean()
    assert last[1]["validation_accuracy"] == pytest.approx(float(validated), abs=1e-6)
    tested = scored(test_key, 3, data.test, (0, 4))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), run.scores, tested)


def test_it_learns_data_for_networks_never_seen_and_a_callback_is_told_and_stops_it():
    moments = []

    def until_the_second(moment):
        moments.append(moment)
        return moment.step == 40

    run = distil(recipe=dd.OuterRecipe(steps=60, learning_rate=0.1), every=20, callback=until_the_second)
    before, after = run.scores.accuracy.T
    assert run.scores.accuracy.shape == run.scores.loss.shape == (3, 2)
    assert len(set(run.scores.loss[:, 0].tolist())) == 3  # three networks
    assert after.min() > 0.85 > before.min()
    assert run.distilled.images.shape == (2, 2, 4, 4, 1)
    assert (run.distilled.step_sizes != 0.1).all()
    np.testing.assert_array_equal(run.distilled.labels, first().labels)
    losses = {row["step"]: row["loss"] for row in run.history if "loss" in row}
    assert list(losses) == list(range(1, 41))
    assert np.mean(list(losses.values())[-5:]) < 0.6 * np.mean(list(losses.values())[:5])
    assert [(moment.step, moment.steps) for moment in moments] == [(20, 60), (40, 60)]
    assert [moment.loss for moment in moments] == [losses[20], losses[40]]
    told = {row["step"]: row["validation_accuracy"] for row in run.history if "validation_accuracy" in row}
    assert told == {moment.step: moment.validation_accuracy for moment in moments}
    jax.tree.map(np.testing.assert_array_equal, run.distilled, moments[1].distilled)
    assert (moments[0].distilled.images != moments[1].distilled.images).all()  # nor is one overwritten by the next


def test_in_a_thread_it_gives_the_same_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    start, theta, found = first(), init(jax.random.key(9)), []
    thread = threading.Thread(target=lambda: found.append(distil(first=start, theta=theta)))
    thread.start()
    thread.join()
    again = distil(first=start, theta=theta)  # neither array was given away
    jax.tree.map(np.testing.assert_array_equal, found[0].distilled, again.distilled)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    assert again.scores.accuracy.shape == (1, 2)
    untrained = dd.evaluate(apply, theta, again.dataset.test, classes=2)
    np.testing.assert_allclose(again.scores.loss[0, 0], untrained.loss, rtol=1e-5)


def test_all_its_pieces_may_be_one_s_own():
    seen = []

    def objective(logits, labels):
        seen.append("objective")
        return dd.cross_entropy(logits, labels)

    def real_augment(key, images):
        seen.append(images.shape)
        return images

    decay = {"decay": jnp.float32(0.5)}
    run = distil(
        first=first(hyper=decay),
        learned=dd.parametrisation(labels=dd.probabilities(), hyper={"decay": dd.UNIT}),
        inner=dd.Loop(dd.InnerOptimizer(optax.trace, decay), dd.shuffled, lambda key, images: 1.1 * images),
        window=dd.Window(2, dd.random_start),
        mode="remat",
        objective=objective,
        real_augment=real_augment,
    )
    assert {"objective", (8, 4, 4, 1)} <= set(seen)
    assert run.distilled.hyper["decay"] != 0.5
    assert (run.distilled.labels != first().labels).any()


def test_a_loss_that_is_not_finite_ends_it_with_the_data_from_before():
    recipe = dd.OuterRecipe(steps=6, learning_rate=1e30, clip=None)
    with pytest.raises(dd.Diverged, match=r"^step 2: the loss is .* lower recipe.learning_rate") as error:
        distil(theta=init(jax.random.key(9)), recipe=recipe, every=6)
    assert [row["step"] for row in error.value.history] == [1]
    moved = np.abs(error.value.distilled.images - first().images)
    assert 1e29 < moved.max() < 1e31  # by the one step that was made


def module_of_flax():
    import flax.linen as nn

    return nn.Dense(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": 0}, r"key: 0 is not accepted; use a JAX random key, such as jax.random.key\(0\)"),
        ({"data": [1]}, "data: list is not accepted; use a Dataset, or a mapping with 'images' and 'labels'"),
        ({"data": {"images": np.zeros((4, 2, 2))}}, "dataset: data has no array 'labels'"),
        (
            {"network": module_of_flax},
            r"network: Dense is not accepted; use a pair \(init, apply\), such as dd_jax.make",
        ),
        ({"network": (init, lambda theta, x: x)}, "network: it returns .* for 3 images, which is not accepted; return"),
        ({"network": (init, lambda theta, x: x @ x)}, r"network: on images of 4×4×1 \(H×W×D\) and 2 classes it fails"),
        ({"first": {"images": jnp.zeros((2, 2, 4, 5, 1))}}, r"first.images: shape .* use \[S, M, 4, 4, 1\]"),
        (
            {"first": {"labels": jnp.zeros((2, 2, 3))}},
            r"first.labels: shape .* is not accepted; use \(2, 2, 2\), \[S, M",
        ),
        ({"first": {"step_sizes": jnp.zeros(0)}}, r"first.step_sizes: shape \(0,\) is not accepted"),
        ({"theta": {"w": jnp.zeros((16, 2), int), "b": jnp.zeros(2)}}, "theta: leaf .* is not accepted; use floats"),
        ({"networks": 0}, "networks: 0 is not accepted; use 1 or more"),
        ({"validation_nets": 0}, "validation_nets: 0 is not accepted"),
        ({"test_nets": 0}, "test_nets: 0 is not accepted"),
        ({"every": 0}, "every: 0 is not accepted"),
        ({"recipe": dd.OuterRecipe(steps=0)}, "recipe.steps: 0 is not accepted; use 1 or more"),
        (
            {"recipe": dd.OuterRecipe(normalise_networks=True), "theta": {}},
            "recipe.normalise_networks: True has no eff",
        ),
        (
            {"recipe": dd.OuterRecipe(perturbations=3)},
            "batch_size: 8 .* use a positive multiple of recipe.perturbations, 3",
        ),
        ({"batch_size": 0}, "batch_size: 0 is not accepted"),
        ({"mode": "fast"}, "mode: 'fast' is not accepted; use one of "),
        ({"window": dd.Window(5, dd.random_start)}, "window: 5 is not accepted; use 1 … 4, the steps of the loop"),
        ({"inner": dd.Loop(dd.InnerOptimizer(optax.scale_by_sign))}, "inner.optimizer: its derivative is 0 everywhere"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_first_step(settings, message, monkeypatch):
    monkeypatch.setattr(distillation, "outer_loop", lambda *_, **__: pytest.fail("it began"))
    if isinstance(settings.get("first"), dict):
        settings = settings | {"first": first(**settings["first"])}
    if settings.get("network") is module_of_flax:
        settings = settings | {"network": module_of_flax()}
    with pytest.raises(ValueError, match=f"^{message}"):
        distil(**settings)


def test_data_without_a_test_split_are_refused_where_nothing_can_hold_one_out(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(
        ValueError, match=r"^data: sklearn.model_selection is not installed, .*; give 'test_images', 'val"
    ):
        distil()
    splits = {f"{role}_{kind}": stripes()[kind] for role in ("test", "validation") for kind in ("images", "labels")}
    with pytest.raises(ValueError, match=r"^every: 0"):  # the data are accepted
        distil(data=stripes() | splits, every=0)


def test_the_loop_is_one_step_ahead_but_where_it_rests():
    seen = []

    def update(state, step):
        seen.append(f"dispatched {step}")
        return state + 1, OuterInfo(jnp.float32(step), jnp.float32(0), jnp.array(True))

    for done in outer_loop(2, update, 5, start=2, rests=lambda step: step == 4):
        seen.append(f"done {done.step}{' at rest' if done.rests else ''}, loss {done.loss}, state {done.state}")
    assert seen == [
        "dispatched 3",
        "dispatched 4",
        "done 3, loss 3.0, state 4",
        "done 4 at rest, loss 4.0, state 4",
        "dispatched 5",
        "done 5 at rest, loss 5.0, state 5",
    ]


def test_a_step_after_a_refused_one_is_refused_too(small_problem):
    network, theta, distilled, batch = small_problem
    loss = dd.classification_loss(network.apply)
    estimate = dd.meta_gradient(dd.trainer(loss), loss, dd.PIXELS.decode)
    outer = dd.outer_step(lambda step: estimate, optax.sgd(0.1))
    update, state = jax.jit(in_turn(outer)), outer.init(dd.PIXELS.init(jax.tree.map(jnp.float32, distilled)))
    theta, batch = jax.tree.map(jnp.float32, (theta, batch))
    state, info = update(KEY, state, theta, batch, 1)
    assert (info.finite, state.step) == (True, 1)
    after, info = update(KEY, state, theta, batch, 3)
    assert (info.finite, after.step) == (False, 1)
    jax.tree.map(np.testing.assert_array_equal, after, state)
