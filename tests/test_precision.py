"""Products are float32 on every backend, unless the user asks for less."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.data.dataset import Split
from dd_jax.data.normalisation import Normalisation
from dd_jax.distilled import noise
from dd_jax.estimates import meta_gradient
from dd_jax.evaluation import Training, confusion, evaluate, train_and_score
from dd_jax.inner.loop import trainer
from dd_jax.inner.modes import MODES
from dd_jax.networks import make_network
from dd_jax.networks.convolution import METHODS
from dd_jax.objectives import classification_loss
from dd_jax.parametrisations import PIXELS

SHAPE = (12, 12, 1)
STEPS = {"steps": 2, "epochs": 2, "step_size": 0.1}
SPLIT = Split(jnp.zeros((6, *SHAPE), jnp.uint8), jnp.arange(6) % 3, Normalisation(np.zeros(1), np.ones(1)))


def precisions(jaxpr):
    """What every product of a program is asked to be computed in, those of its inner programs included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(equation.params["precision"])
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: isinstance(v, jax.extend.core.ClosedJaxpr)
        ):
            inner = getattr(value, "jaxpr", value)
            if isinstance(inner, jax.extend.core.Jaxpr):
                found += precisions(inner)
    return found


def outer_step(mode, method):
    network = make_network("convnet", SHAPE, 3, convolution=method, options={"width": 4, "depth": 2})
    theta = jax.eval_shape(network.init, jax.random.key(0))
    learned = jax.eval_shape(lambda key: PIXELS.init(noise(key, SHAPE, 3, **STEPS)), jax.random.key(1))
    loss = classification_loss(network.apply)
    estimate = meta_gradient(trainer(loss, mode=mode), loss, PIXELS.decode)
    batch = (np.ones((6, *SHAPE), np.float32), np.eye(3, dtype=np.float32)[np.arange(6) % 3])
    return precisions(jax.make_jaxpr(estimate)(jax.random.key(2), learned, theta, batch).jaxpr)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_every_product_of_a_meta_gradient_is_float32(mode, method):
    found = outer_step(mode, method)
    assert len(found) > 10
    assert all(jax.lax.Precision.HIGHEST in (p if isinstance(p, tuple) else (p,)) for p in found), set(found)
    assert jax.lax.Precision.DEFAULT not in {q for p in found for q in (p if isinstance(p, tuple) else (p,))}


def test_another_precision_is_an_explicit_choice():
    with jax.default_matmul_precision("bfloat16"):
        found = outer_step(MODES[0], "matmul")
    assert {q for p in found for q in (p if isinstance(p, tuple) else (p,))} == {jax.lax.Precision.DEFAULT}


def test_every_product_of_an_evaluation_is_float32():
    network = make_network("lenet", (28, 28, 1), 3)
    split = SPLIT._replace(images=jnp.zeros((6, 28, 28, 1), jnp.uint8))
    theta = jax.eval_shape(network.init, jax.random.key(0))
    distilled = jax.eval_shape(lambda key: noise(key, (28, 28, 1), 3, **STEPS), jax.random.key(1))

    def scores(key, distilled, theta):
        def score(theta):
            return (evaluate(network.apply, theta, split, 3), confusion(network.apply, theta, split, 3))

        loss = classification_loss(network.apply)
        return train_and_score(key, loss, theta, distilled, Training(), score, (0, 4))

    found = precisions(jax.make_jaxpr(scores)(jax.random.key(2), distilled, theta).jaxpr)
    assert len(found) > 10
    assert {q for p in found for q in (p if isinstance(p, tuple) else (p,))} == {jax.lax.Precision.HIGHEST}
