"""Criteria, and the relabelling of ℓ_{K→T}."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dd_jax.objectives import classification_loss, cross_entropy, mean_of, predictions, relabelled, relabelling

RNG = np.random.default_rng(0)
LOGITS, CLASSES = jnp.array(RNG.normal(size=(12, 4)), jnp.float32), np.arange(12) % 4
LABELS = jnp.eye(4)[CLASSES]


@pytest.mark.parametrize("to", [{2: 0}, {0: 3}, {1: 0, 3: 2}, {0: 1, 1: 0}])
def test_relabelling_touches_the_classes_named_alone(to):
    """Each example's own loss: as if labelled ``to``'s class, or exactly what it was."""
    called = np.array([to.get(int(c), int(c)) for c in CLASSES])
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(LOGITS, called)
    np.testing.assert_allclose(relabelled(to, 4)(LOGITS, LABELS), expected, rtol=1e-6)
    np.testing.assert_array_equal(relabelling(to, 4), [to.get(c, c) for c in range(4)])


def test_per_example_weights_and_other_criteria_need_nothing_special():
    weights = jnp.array(RNG.uniform(size=(12, 1)), jnp.float32)

    def squared(logits, labels):
        return jnp.mean((logits - labels) ** 2, axis=-1)

    moved = jnp.eye(4)[np.where(CLASSES == 2, 0, CLASSES)]
    weighted = relabelled({2: 0}, 4)(LOGITS, weights * LABELS)
    np.testing.assert_allclose(weighted, weights[:, 0] * cross_entropy(LOGITS, moved), rtol=1e-6)
    np.testing.assert_allclose(relabelled({2: 0}, 4, squared)(LOGITS, LABELS), squared(LOGITS, moved), rtol=1e-6)


def test_two_classes_take_two_logits_and_see_their_difference():
    logits, labels = LOGITS[:, :2], jnp.eye(2)[CLASSES % 2]
    difference = logits[:, 1] - logits[:, 0]
    of_true_class = jax.nn.sigmoid((2 * labels[:, 1] - 1) * difference)
    np.testing.assert_allclose(cross_entropy(logits, labels), -jnp.log(of_true_class), rtol=1e-5)
    np.testing.assert_array_equal(predictions(logits), difference > 0)
    single = LOGITS[:, :1]
    for refused in (lambda: cross_entropy(single, labels), lambda: predictions(single)):
        with pytest.raises(ValueError, match=r"^logits: shape \(12, 1\) has a single logit.*jnp.concatenate"):
            refused()
    wrapped = jnp.concatenate([jnp.zeros_like(single), single], axis=-1)  # as the message says
    assert cross_entropy(wrapped, labels).shape == (12,)


@pytest.mark.parametrize("shape", [(12, 1), (12,), (1, 4), (4,), (12, 3), (12, 4, 1)])
def test_labels_of_another_shape_are_refused_and_not_broadcast(shape):
    with pytest.raises(ValueError, match=r"^labels: shape .* does not fit logits of shape \(12, 4\)"):
        cross_entropy(LOGITS, jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (12, 0)])
def test_logits_of_another_shape_are_refused(shape):
    for refused in (lambda: cross_entropy(jnp.zeros(shape), jnp.zeros(shape)), lambda: predictions(jnp.zeros(shape))):
        with pytest.raises(ValueError, match=r"^logits: shape .* is not accepted; use \[B, C\]"):
            refused()


def test_one_hot_integers_are_labels_like_any_other():
    np.testing.assert_array_equal(cross_entropy(LOGITS, LABELS.astype(jnp.int32)), cross_entropy(LOGITS, LABELS))


def test_the_mean_of_a_loss_is_over_its_examples():
    value = mean_of(classification_loss(lambda theta, images: theta * images))(1.0, LOGITS, LABELS)
    np.testing.assert_allclose(value, cross_entropy(LOGITS, LABELS).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda logits: logits.mean(), r"got shape \(\); the library takes the mean"),
        (lambda logits: logits, r"got shape \(12, 4\)"),
        (lambda logits: logits[:1, 0], r"got shape \(1,\)"),
        (lambda logits: 0.5, r"got shape \(\)"),
        (lambda logits: (logits[:, 0], logits[:, 1]), r"got shape \(\(12,\), \(12,\)\)"),
    ],
)
def test_a_loss_without_one_value_per_example_is_refused(value, said):
    mean = mean_of(lambda theta, images, labels: value(images))
    with pytest.raises(ValueError, match=rf"^loss: it must return one value per example, shape \(12,\), {said}"):
        mean(None, LOGITS, LABELS)
    with pytest.raises(ValueError, match=r"^loss: it must return floats, got int32"):
        mean_of(lambda theta, images, labels: images.argmax(-1).astype(jnp.int32))(None, LOGITS, LABELS)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ({}, "relabel: it is empty"),
        ({4: 0}, "relabel: 4 → 0 has no class 4; use 0 … 3"),
        ({0: -1}, "relabel: 0 → -1 has no class -1"),
        ({2: 2}, "relabel: 2 → 2 changes nothing"),
    ],
)
def test_a_relabelling_that_makes_no_sense_is_refused(to, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        relabelled(to, 4)
