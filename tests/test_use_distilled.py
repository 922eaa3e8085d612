"""The programs of docs/use_distilled.md reach the recorded accuracy, as they stand there."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.programs import PROGRAMS, block

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data():
    """The names of the first program."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        exec(block("Data"), names)
    return names


@pytest.mark.parametrize("heading", PROGRAMS)
def test_the_programs_reach_the_recorded_accuracy(heading, data, monkeypatch, capsys):
    if (needed := PROGRAMS[heading]) is not None:
        if "keras" not in sys.modules:
            monkeypatch.setenv("KERAS_BACKEND", "jax")
        pytest.importorskip(needed)
    names = dict(data)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a user has them
        exec(block(heading), names)
    result = json.loads((ROOT / "results/fixed_init/digits/result.json").read_text())
    recorded = result["test_accuracy"]["after"]["mean"]
    assert (names["logits"].argmax(1) == names["y_test"]).mean() == pytest.approx(recorded, abs=1.5 / 355)
    assert float(capsys.readouterr().out.split()[-1]) > 0.9


def test_the_gradient_of_the_numpy_program_is_that_of_its_loss(data):
    names = dict(data)
    exec(block("NumPy alone").partition("\nw = weights")[0], names)
    rng = np.random.default_rng(0)
    w = {name: array.astype(np.float64) for name, array in data["weights"].items()}
    x, labels = rng.normal(size=(3, 28, 28, 1)), np.eye(10)[[1, 2, 2]]
    along = {name: rng.normal(size=array.shape) for name, array in w.items()}

    def loss(step):
        logits, _ = names["forward"]({name: w[name] + step * along[name] for name in w}, x)
        return -(labels * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1).mean()

    gradient = names["gradient"](w, x, labels)
    assert set(gradient) == set(w)
    slope = sum((gradient[name] * along[name]).sum() for name in w)
    assert slope == pytest.approx((loss(1e-7) - loss(-1e-7)) / 2e-7, rel=1e-4)


def test_drawn_weights_have_the_law_that_the_page_states(data):
    from dd_jax.files.trees import named_leaves
    from dd_jax.networks import make_network
    from dd_jax.weights.laws import initial_weights

    names = dict(data)
    exec(block("Networks never seen"), names)
    ours = initial_weights(make_network("lenet", (28, 28, 1), 10))(jax.random.key(0))
    ours = {name.removeprefix("params/"): array for name, array in named_leaves(ours).items()}
    assert {n: a.shape for n, a in names["random_weights"].items()} == {n: a.shape for n, a in ours.items()}
    for name, array in names["random_weights"].items():
        assert array.std() == pytest.approx(float(ours[name].std()), rel=0.3)
