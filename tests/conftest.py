"""Shared fixtures. Numbers are compared in float64 where a test asks for it, with ``jax.enable_x64``."""

import jax
import numpy as np
import pytest

from dd_jax.networks import Network
from dd_jax.unroll import DistilledData

jax.config.update("jax_numpy_rank_promotion", "allow")
jax.config.update("jax_num_cpu_devices", 2)


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
        hidden = jax.numpy.tanh(images.reshape(images.shape[0], -1) @ theta["w1"] + theta["b1"])
        return hidden @ theta["w2"]

    theta = {
        "w1": rng.normal(size=(6, 5)) * 0.6,
        "b1": rng.normal(size=5) * 0.1,
        "w2": rng.normal(size=(5, 3)) * 0.7,
    }
    labels = rng.dirichlet(np.ones(3), size=(3, 4))
    distilled = DistilledData(rng.normal(size=(3, 4, 2, 3, 1)), labels, rng.normal(size=6) - 0.5)
    batch = (rng.normal(size=(9, 2, 3, 1)), np.eye(3)[rng.integers(0, 3, 9)])
    return Network(lambda key: theta, apply), theta, distilled, batch
