"""Shared fixtures. Numbers are compared in float64 where a test asks for it, with ``jax.enable_x64``."""

import functools
import os

import jax
import numpy as np
import optax
import pytest

from dd_jax.base import Distilled, Network

# Most of the tests' time goes into compiling programs that run once or twice: LLVM optimises them less than a user's.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 2)


def promoting(function):
    """The function of another package with JAX's usual promotion of types, where it is not strict itself."""

    @functools.wraps(function)
    def call(*args):
        with jax.numpy_dtype_promotion("standard"):
            result = function(*args)
        return promoting(result) if callable(result) else result

    return call


# Of what we call, these two alone mix types: a float to an integer power, and an integer's minimum with a float.
optax.tree.bias_correction = promoting(optax.tree.bias_correction)  # where optax.scale_by_adam looks it up
optax.cosine_decay_schedule = promoting(optax.cosine_decay_schedule)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Programs that take long to compile are compiled once, for all tests that run an experiment."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def small_problem():
    """An asymmetric problem: a tiny tanh network, 3 distinct steps × 2 epochs, soft labels, unequal step sizes."""
    rng = np.random.default_rng(7)

    def apply(theta, images):
        hidden = jax.numpy.tanh(images.reshape(images.shape[0], -1) @ theta["w1"] + theta["b1"][None])
        return hidden @ theta["w2"]

    theta = {
        "w1": rng.normal(size=(6, 5)) * 0.6,
        "b1": rng.normal(size=5) * 0.1,
        "w2": rng.normal(size=(5, 3)) * 0.7,
    }
    labels = rng.dirichlet(np.ones(3), size=(3, 4))
    distilled = Distilled(rng.normal(size=(3, 4, 2, 3, 1)), labels, np.log1p(np.exp(rng.normal(size=6) - 0.5)))
    batch = (rng.normal(size=(9, 2, 3, 1)), np.eye(3)[rng.integers(0, 3, 9)])
    return Network(lambda key: theta, apply), theta, distilled, batch
