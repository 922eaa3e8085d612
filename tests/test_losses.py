"""Criteria, and the relabelling of ℓ_{K→T}."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dd_jax.losses import cross_entropy, relabelled, relabelling

RNG = np.random.default_rng(0)
LOGITS, CLASSES = jnp.array(RNG.normal(size=(12, 4)), jnp.float32), np.arange(12) % 4
LABELS = jnp.eye(4)[CLASSES]


@pytest.mark.parametrize("to", [{2: 0}, {0: 3}, {1: 0, 3: 2}, {0: 1, 1: 0}])
def test_relabelling_touches_the_classes_named_alone(to):
    """Each example's own loss: as if labelled ``to``'s class, or exactly what it was."""
    each = jax.vmap(lambda logit, label: relabelled(to, 4)(logit[None], label[None]))(LOGITS, LABELS)
    called = np.array([to.get(int(c), int(c)) for c in CLASSES])
    np.testing.assert_allclose(each, optax.losses.softmax_cross_entropy_with_integer_labels(LOGITS, called), rtol=1e-6)
    np.testing.assert_array_equal(relabelling(to, 4), [to.get(c, c) for c in range(4)])


def test_per_example_weights_and_other_criteria_need_nothing_special():
    weights = jnp.array(RNG.uniform(size=(12, 1)), jnp.float32)

    def squared(logits, labels):
        return jnp.mean((logits - labels) ** 2)

    moved = jnp.eye(4)[np.where(CLASSES == 2, 0, CLASSES)]
    np.testing.assert_allclose(
        relabelled({2: 0}, 4)(LOGITS, weights * LABELS), cross_entropy(LOGITS, weights * moved), rtol=1e-6
    )
    np.testing.assert_allclose(relabelled({2: 0}, 4, squared)(LOGITS, LABELS), squared(LOGITS, moved), rtol=1e-6)


def test_two_classes_share_a_logit():
    logits, labels = LOGITS[:, :1], jnp.eye(2)[CLASSES % 2]
    expected = cross_entropy(logits, jnp.eye(2)[np.zeros(12, int)])
    np.testing.assert_allclose(relabelled({1: 0}, 2)(logits, labels), expected, rtol=1e-6)
    of_true_class = jax.nn.sigmoid((2 * labels[:, 1:] - 1) * logits)
    np.testing.assert_allclose(cross_entropy(logits, labels), -jnp.log(of_true_class).mean(), rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(logits, 4 * labels), 4 * cross_entropy(logits, labels), rtol=1e-6)


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
