"""Shared fixtures. Numbers are compared in float64 where a test asks for it, with ``jax.enable_x64``."""

import functools
import io
import os
import sys

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from dd_jax.base import Distilled, Network

# Most of the tests' time goes into compiling programs that run once or twice: XLA optimises them less than a user's.
FLAGS = ["--xla_backend_optimization_level=1"]
if jax.__version_info__ < (0, 11):  # a later XLA may not know it, and ends the process then
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
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
def late_reads():
    """Orbax reads in parallel: after one read of a damaged file failed, another may call a loop that has ended.

    No test is at fault then. Every other error that Python can only report fails a test, as before.
    """
    report = sys.unraisablehook

    def report_others(error):
        late = isinstance(error.exc_value, RuntimeError) and str(error.exc_value) == "Event loop is closed"
        if not late:
            report(error)

    sys.unraisablehook = report_others
    yield
    sys.unraisablehook = report


@pytest.fixture(scope="session", autouse=True)
def compiled_once(pytestconfig):
    """Programs that take long to compile are compiled once, for all workers and for later runs of the tests."""
    jax.config.update("jax_compilation_cache_dir", str(pytestconfig.cache.mkdir("compiled")))
    jax.config.update("jax_compilation_cache_max_size", 2**30)  # bytes; with a limit, JAX locks the folder
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


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def prepared(shape=(5, 4, 1), **splits):
        """Prepares the set ``tiny_shapes``, of the images of each split and labels 0, 1, 2, 0, …"""
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape, encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            }
        )

        class TinyShapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            """Random images."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features, description="tiny")

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(images) for split, images in splits.items()}

            def _generate_examples(self, images):
                for i, image in enumerate(images):
                    Image.fromarray(image).save(png := io.BytesIO(), "png")
                    png.seek(0)
                    yield i, {"image": png, "label": i % 3}

        builder = TinyShapes(data_dir=str(tmp_path / "tfds"), file_format="array_record")
        builder.download_and_prepare()

    return prepared
