"""Evaluation of many networks: against a plain loop over nets and steps, and in every way to train."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import confusion_matrix

from dd_jax.data.dataset import Split
from dd_jax.data.normalisation import Normalisation, normalise
from dd_jax.evaluation import (
    Score,
    Training,
    balanced_accuracy,
    confusion,
    evaluate,
    evaluate_nets,
    steps_of,
    train_and_score,
)
from dd_jax.objectives import classification_loss, cross_entropy, mean_of
from experiments.streams import streams

RNG = np.random.default_rng(0)
NORMAL = Normalisation(np.array([0.4], np.float32), np.array([0.3], np.float32))


@pytest.fixture
def problem(small_problem):
    """The small problem's network, weights drawn by key, distilled data, and a real split of 23 examples."""
    network, theta, distilled, _ = small_problem
    plain = network.apply
    network = network._replace(apply=lambda theta, images: plain(theta, images.astype(theta["w1"].dtype)))
    split = Split(
        jnp.asarray(RNG.integers(0, 256, (23, 2, 3, 1), np.uint8)), jnp.asarray(RNG.integers(0, 3, 23)), NORMAL
    )

    def draw(key):
        leaves, structure = jax.tree.flatten(theta)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            structure, [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        )

    def score(theta):
        return evaluate(network.apply, theta, split, 3, chunk=5)

    return network, draw, jax.tree.map(jnp.asarray, distilled), split, score


def plain_score(network, theta, split):
    logits = np.asarray(network.apply(theta, normalise(split.images, split.normalisation)), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = np.asarray(split.labels)
    return np.mean(logits.argmax(1) == labels), -np.mean(log_p[np.arange(len(labels)), labels])


@pytest.mark.parametrize("chunk", [1, 5, 23, 100])
def test_evaluate_is_the_mean_over_every_example_whatever_the_chunk(x64, problem, chunk):
    network, draw, _, split, _ = problem
    theta = draw(jax.random.key(3))
    score = jax.jit(lambda: evaluate(network.apply, theta, split, 3, chunk=chunk))()
    np.testing.assert_allclose(score, plain_score(network, theta, split), rtol=1e-6)  # images are float32


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_confusion_is_scikit_learn_s(problem, chunk):
    network, draw, _, split, _ = problem
    theta = draw(jax.random.key(3))
    matrix = jax.jit(lambda: confusion(network.apply, theta, split, 3, chunk=chunk))()
    guesses = network.apply(theta, normalise(split.images, split.normalisation)).argmax(1)
    np.testing.assert_array_equal(matrix, confusion_matrix(split.labels, guesses))
    assert (np.asarray(matrix) != np.asarray(matrix).T).any()


@pytest.mark.parametrize("chunk", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_given_weights_are_scored_like_drawn_ones(problem, chunk):
    network, draw, distilled, _, score = problem
    loss, keys, at = classification_loss(network.apply), jax.random.split(jax.random.key(5), 3), (0, 6)
    thetas = jax.vmap(lambda key: draw(jax.random.split(key)[0]))(keys)
    of_drawn = evaluate_nets(keys, draw, loss, distilled, Training(), score, at, chunk=chunk)
    of_given = evaluate_nets(keys, thetas, loss, distilled, Training(), score, at, chunk=chunk)
    chex.assert_trees_all_close(of_given, of_drawn, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, pytest.param(2, marks=pytest.mark.slow), 5])
def test_evaluate_nets_equals_a_plain_loop_over_nets_and_steps(x64, problem, chunk):
    network, draw, distilled, split, score = problem
    loss = classification_loss(network.apply)
    keys = jax.random.split(jax.random.key(5), 5)
    at = (0, 2, 6)
    scores = jax.jit(lambda: evaluate_nets(keys, draw, loss, distilled, Training(), score, at, chunk=chunk))()
    for key, accuracy, value in zip(keys, *scores, strict=True):
        theta, expected = draw(jax.random.split(key)[0]), []
        for t in range(7):
            if t in at:
                expected.append(plain_score(network, theta, split))
            if t < 6:
                gradient = jax.grad(mean_of(loss))(theta, distilled.images[t % 3], distilled.labels[t % 3])
                theta = jax.tree.map(lambda w, g, t=t: w - distilled.step_sizes[t] * g, theta, gradient)
        np.testing.assert_allclose(np.stack([accuracy, value], 1), expected, rtol=1e-6)


def final_weights(key, loss, theta, distilled, training):
    """θ_T, through a score that hands the weights out."""
    total = steps_of(training, distilled)
    return train_and_score(
        key, loss, theta, distilled, training, lambda theta: Score(theta, jnp.zeros(())), [total]
    ).accuracy


def test_adam_and_sgd_take_optax_s_steps_in_stored_order(x64, problem):
    network, draw, distilled, _, _ = problem
    loss, theta = classification_loss(network.apply), draw(jax.random.key(1))
    for name, optimizer in (("adam", optax.adam(0.1)), ("sgd", optax.sgd(0.1))):
        expected, state = theta, optimizer.init(theta)
        for t in range(9):
            gradient = jax.grad(mean_of(loss))(expected, distilled.images[t % 3], distilled.labels[t % 3])
            updates, state = optimizer.update(gradient, state)
            expected = optax.apply_updates(expected, updates)
        ours = final_weights(jax.random.key(0), loss, theta, distilled, Training(name, 0.1, epochs=3))
        chex.assert_trees_all_close(jax.tree.map(lambda w: w[0], ours), expected, rtol=1e-10)


def seen(key, distilled, training):
    """Which images each step sees: a linear loss whose gradient is the mean of the images' numbers."""
    steps, count = distilled.images.shape[:2]
    numbered = distilled._replace(
        images=jnp.arange(steps * count, dtype=float).reshape(steps, count, 1, 1, 1) + jnp.zeros(distilled.images.shape)
    )
    order = []

    def loss(theta, images, labels):
        del labels
        jax.debug.callback(lambda images: order.append(np.asarray(images)), images[:, 0, 0, 0], ordered=True)
        return theta * images.mean((1, 2, 3))

    final_weights(key, loss, jnp.zeros(()), numbered, training)
    jax.effects_barrier()
    return np.stack(order).astype(int)


def test_shuffled_order_takes_every_step_once_an_epoch_and_differs_by_key(problem):
    distilled = problem[2]
    rows = [tuple(range(4 * s, 4 * s + 4)) for s in range(3)]
    orders = [seen(jax.random.key(k), distilled, Training(order="shuffled")) for k in range(4)]
    for order in orders:
        assert sorted(map(tuple, order[:3])) == sorted(map(tuple, order[3:])) == rows
    assert len({order.tobytes() for order in orders}) > 1
    np.testing.assert_array_equal(seen(jax.random.key(0), distilled, Training())[3:], rows)


def test_minibatches_take_every_image_at_most_once_an_epoch(problem):
    distilled = problem[2]
    training = Training("sgd", 0.1, "minibatch", batch_size=5, epochs=2)
    order = seen(jax.random.key(0), distilled, training)
    assert order.shape == (4, 5) == (steps_of(training, distilled), 5)
    for epoch in (order[:2].ravel(), order[2:].ravel()):
        assert len(set(epoch)) == 10
    assert set(order[:2].ravel()) != set(range(10))


def test_more_epochs_repeat_the_last_step_sizes(x64, problem):
    network, draw, distilled, _, _ = problem
    loss, theta = classification_loss(network.apply), draw(jax.random.key(1))
    longer = distilled._replace(step_sizes=jnp.concatenate([distilled.step_sizes, *[distilled.step_sizes[3:]] * 2]))
    ours = final_weights(jax.random.key(0), loss, theta, distilled, Training(epochs=4))
    theirs = final_weights(jax.random.key(0), loss, theta, longer, Training())
    chex.assert_trees_all_equal(ours, theirs)
    fewer = final_weights(jax.random.key(0), loss, theta, distilled, Training(epochs=1))
    first = distilled._replace(step_sizes=distilled.step_sizes[:3])
    chex.assert_trees_all_equal(fewer, final_weights(jax.random.key(0), loss, theta, first, Training()))


def test_the_keys_of_a_run_are_never_shared():
    """Networks trained on in 50 outer steps, those of validation and of the test, for two seeds."""
    keys = []
    for seed in (0, 1):
        run = streams(seed)
        keys += [jax.random.split(jax.random.fold_in(run.weights, step), 4) for step in range(50)]
        keys += [
            jax.random.split(jax.random.split(held, 60)[k]) for held in (run.validation, run.test) for k in range(60)
        ]
    data = np.concatenate([np.asarray(jax.random.key_data(k)) for k in keys])
    assert len(np.unique(data, axis=0)) == len(data) == 2 * (200 + 240)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (Training("sgd"), "training.learning_rate: None with the optimizer 'sgd'; give one"),
        (Training("stored", 0.1), "training.learning_rate: 0.1 with the optimizer 'stored'; leave it out"),
        (Training("adam", float("nan")), "training.learning_rate: nan is not accepted"),
        (Training("adam", 0.1, "minibatch", 13), r"training.batch_size: 13 is not accepted; use 1 … 12"),
        (Training("adam", 0.1, "stored", 3), "training.batch_size: 3 is not accepted"),
        (Training("adamw", 0.1), "training.optimizer: 'adamw' is unknown; use one of stored, sgd, momentum, adam"),  # type: ignore
        (Training(order="random"), "training.order: 'random' is unknown; use one of stored, shuffled"),  # type: ignore
        (Training(epochs=0), "training.epochs: 0 is not accepted"),
        (Training(order="minibatch"), "training.order: 'minibatch' has no stored step sizes"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(problem, training, message):
    network, _, distilled, _, score = problem
    with pytest.raises(ValueError, match=f"^{message}"):
        train_and_score(jax.random.key(0), classification_loss(network.apply), None, distilled, training, score, [0])


@pytest.mark.parametrize("at", [[], [2, 1], [0, 7], [-1], [1, 1]])
def test_steps_out_of_order_or_range_are_refused(problem, at):
    network, _, distilled, _, score = problem
    with pytest.raises(ValueError, match=r"^at: .* is not accepted; use increasing numbers of steps within 0 … 6"):
        train_and_score(jax.random.key(0), classification_loss(network.apply), None, distilled, Training(), score, at)


def test_an_accelerator_s_way_gives_the_numbers_of_a_cpu_s(x64, problem, monkeypatch):
    """Networks side by side instead of in turn."""
    network, draw, distilled, _, score = problem
    loss, keys = classification_loss(network.apply), jax.random.split(jax.random.key(5), 5)

    def scores(keys):
        return evaluate_nets(keys, draw, loss, distilled, Training(), score, (0, 6))

    on_cpu, programs = scores(keys), [str(jax.make_jaxpr(lambda keys: scores(keys))(keys))]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    programs.append(str(jax.make_jaxpr(lambda keys: scores(keys))(keys)))
    assert programs[0] != programs[1]
    chex.assert_trees_all_close(scores(keys), on_cpu, rtol=1e-6)  # images are float32


@pytest.mark.parametrize("chunk", [1, 5, 23])
def test_any_criterion_is_averaged_over_examples(problem, chunk):
    network, draw, _, split, _ = problem
    theta, weights = draw(jax.random.key(3)), jnp.array([1.0, 9.0, 1.0])

    def weighted(logits, labels):
        return (labels @ weights) * cross_entropy(logits, labels)

    loss = evaluate(network.apply, theta, split, 3, criterion=weighted, chunk=chunk).loss
    logits = network.apply(theta, normalise(split.images, split.normalisation))
    each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, split.labels)
    np.testing.assert_allclose(loss, np.mean(np.asarray(each) * np.where(split.labels == 1, 9, 1)), rtol=1e-5)


def test_criteria_losses_weights_and_chunks_that_do_not_fit_are_refused(problem):
    network, draw, distilled, split, score = problem
    theta, keys = draw(jax.random.key(3)), jax.random.split(jax.random.key(5), 3)
    loss = classification_loss(network.apply)

    def scored(**settings):
        return evaluate(network.apply, theta, split, 3, **settings)

    def mean(logits, labels):
        return cross_entropy(logits, labels).mean()

    with pytest.raises(ValueError, match=r"^criterion: it must return one value per example, shape \(5,\), got shape"):
        scored(criterion=mean, chunk=5)
    with pytest.raises(ValueError, match=r"^chunk: 0 is not accepted; use 1 or more"):
        scored(chunk=0)

    def trained(loss=loss, draw=draw, distilled=distilled, **settings):
        return evaluate_nets(keys, draw, loss, distilled, Training(), score, [0, 6], **settings)

    with pytest.raises(ValueError, match=r"^loss: it must return one value per example, shape \(4,\), got shape \(\)"):
        trained(mean_of(loss))
    with pytest.raises(ValueError, match=r"^draw: weights for 3 keys must have a leading axis of 3"):
        trained(draw=jax.tree.map(lambda w: jnp.stack([w, w]), theta))
    with pytest.raises(ValueError, match=r"^labels: shape \(3, 3, 3\) is not accepted; use \[3, 4, …\]"):
        trained(distilled=distilled._replace(labels=distilled.labels[:, :3]))
    with pytest.raises(ValueError, match=r"^chunk: 0 is not accepted; use 1 or more"):
        trained(chunk=0)


@pytest.mark.parametrize("order", ["stored", "shuffled"])
def test_scores_at_many_steps_are_those_at_few(small_problem, order):
    """More than three numbers of steps are one program with a loop, fewer are unrolled."""
    network, theta, distilled, _ = small_problem
    distilled, theta = jax.tree.map(jnp.asarray, (distilled, theta))
    distilled = distilled._replace(step_sizes=distilled.step_sizes.astype(distilled.images.dtype))
    loss, training = classification_loss(network.apply), Training(order=order)

    def at(*steps):
        score = lambda theta: jnp.sum(theta["w2"] ** 2)  # noqa: E731
        return train_and_score(jax.random.key(1), loss, theta, distilled, training, score, steps)

    many = at(0, 1, 2, 4, 6)
    assert len(set(np.asarray(many).tolist())) == 5
    np.testing.assert_allclose(many, np.concatenate([at(0, 1, 2), at(4, 6)]), rtol=1e-5)


def test_balanced_accuracy_is_scikit_learn_s():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    labels = rng.choice(4, 200, p=[0.7, 0.2, 0.1, 0])  # none of class 3
    guesses = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 4, 200))
    right = np.bincount(labels[labels == guesses], minlength=4)
    found = balanced_accuracy([right, 0 * right], np.bincount(labels, minlength=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer that is no true class
        np.testing.assert_allclose(found, [balanced_accuracy_score(labels, guesses), 0])
