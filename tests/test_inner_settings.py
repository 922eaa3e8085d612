"""The pieces of the inner loop from the command line: a run with them, its evaluation, and what is refused."""

import json

import numpy as np
import pytest

from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.text import percent
from experiments import cross_arch, evaluate, fixed_init, recipe
from experiments.inner import Inner, inner_of, loop_of, window_of

OWN = """
import flax.linen as nn
import jax


class Net(nn.Module):
    classes: int
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x[:, ::4, ::4].reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)


def make(image_shape, classes, width=8):
    return Net(classes, width)


def brier(logits, labels):
    return ((jax.nn.softmax(logits) - labels) ** 2).sum(-1)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_dd_jax_module.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(own_module):
    """Runs a few outer steps on a network and an objective of one's own; returns the folder."""

    def run(*options):
        folder = own_module / "run"
        fixed_init.main([
            "digits", "--workdir", str(folder), "--outer.steps", "3", "--network", "own_dd_jax_module:make",
            "--network-options", "width=6", "--objective", "own_dd_jax_module:brier", "--batch-size", "32",
            "--weights.law", "xavier_normal", "--weights.gain", "1.0", "--switch-width", "0", *options,
        ])  # fmt: skip
        return folder

    return run


def test_a_run_with_every_piece_is_recorded_and_evaluated_as_it_was_made(quick, capsys):
    folder = quick(
        "--distilled.images", "5", "--distilled.labels", "learned", "--distilled.steps", "2", "--distilled.epochs", "4",
        "--inner.optimizer", "momentum", "--inner.learned", "momentum", "weight_decay", "--inner.weight-decay", "0.01",
        "--inner.per-step", "--inner.augment", "shift", "--inner.window", "3",
    )  # fmt: skip
    result, file = json.loads((folder / "result.json").read_text()), load_distilled(folder / "distilled.npz")
    assert file.images.shape == (2, 5, 28, 28, 1)
    assert {name: value.shape for name, value in file.hyper.items()} == {"momentum": (8,), "weight_decay": (8,)}
    np.testing.assert_allclose(file.labels.sum(-1), 1, rtol=1e-5)
    assert result["stored_floats"] == 2 * 5 * (784 + 10) + 3 * 8
    assert (file.meta["network"], file.meta["network_options"]) == ("own_dd_jax_module:make", ["width=6"])
    assert file.meta["inner"]["optimizer"] == "momentum"
    assert "gradient descent" not in file.meta["use"]
    scores = evaluate.run(folder, evaluate.Config(at=(0, 8)))["scores"]
    assert scores[0]["accuracy"] == pytest.approx(result["test_accuracy"]["before"])
    assert 0 <= scores[1]["accuracy"]["mean"] <= 1
    assert "after the steps" in capsys.readouterr().out


@pytest.mark.slow
def test_real_examples_are_augmented_before_the_objective_sees_them(quick, own_module, monkeypatch):
    seen = []

    def brightened(kinds):
        seen.append(kinds)
        return lambda key, images: images + 10

    without = load_distilled(quick("--distilled.epochs", "1") / "distilled.npz").images
    monkeypatch.setattr(recipe, "augmentation", brightened)
    (own_module / "run").rename(own_module / "without")
    folder = quick("--distilled.epochs", "1", "--real-augment", "rotate,scale")
    assert set(seen) == {"rotate,scale"}
    assert json.loads((folder / "result.json").read_text())["config"]["real_augment"] == "rotate,scale"
    assert np.abs(load_distilled(folder / "distilled.npz").images - without).max() > 1e-3


@pytest.mark.slow
def test_bases_are_counted_in_what_is_stored(quick):
    folder = quick(
        "--distilled.pixels", "bases", "--distilled.bases", "4", "--distilled.bases-size", "7",
        "--distilled.epochs", "1", "--inner.optimizer", "adam", "--inner.minibatch", "6", "--inner.shared-step-size",
    )  # fmt: skip
    result = json.loads((folder / "result.json").read_text())
    assert result["stored_floats"] == 4 * 49 + 10 * 4 + 10 * 10 + 1
    assert load_distilled(folder / "distilled.npz").images.shape == (1, 10, 28, 28, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inner.window", "9"], "inner.window: 9 is not accepted; use 1 … 5"),
        (["--inner.window-start", "2"], "inner.window_start: 2 has no effect without inner.window"),
        (["--inner.window", "2", "--inner.window-start", "4"], "inner.window_start: 4 is not accepted; use 0 … 3"),
        (["--inner.optimizer", "adam", "--inner.eps-root", "0"], "inner.eps_root: 0.0 is not accepted"),
        (["--inner.momentum", "0.5"], "inner.momentum: 0.5 has no effect with the optimizer 'plain'"),
        (["--inner.learned", "momentum"], "inner.learned: momentum is not accepted; use a hyper-parameter of plain"),
        (
            ["--inner.learned", "eps", "--inner.optimizer", "adam"],
            "inner.learned: eps is not accepted; use one of",
        ),
        (["--inner.learned", "weight_decay"], "inner.weight_decay: 0.0 is not accepted; use a positive number where"),
        (["--inner.classes", "3", "--distilled.images", "5"], r"inner.classes: \[1, 0, 1, .* images of each are not"),
        (["--inner.per-step"], "inner.per_step: True is not accepted; use it with inner.learned"),
        (["--inner.minibatch", "11"], "inner.minibatch: 11 is not accepted; use 1 … 10"),
        (["--inner.classes", "11"], "inner.classes: 11 is not accepted; use 1 … 10"),
        (["--inner.classes", "2", "--inner.order", "shuffled"], "inner.classes: it is not accepted with inner.order"),
        (["--inner.augment", "spin"], "inner.augment: 'spin' is unknown"),
        (["--real-augment", "spin"], "real_augment: 'spin' is unknown"),
        (["--inner.augment-strength", "2"], "inner.augment_strength: 2.0 has no effect without inner.augment"),
        (["--distilled.images", "0"], "distilled.images: 0 is not accepted; use 1 or more"),
        (["--distilled.images", "3", "--distilled.first", "real"], "distilled.images: 3 is not accepted"),
        (["--distilled.bases", "3"], "distilled.bases: 3 is not accepted; use it with distilled.pixels 'bases'"),
        (["--distilled.pixels", "bases"], "distilled.bases: None is not accepted; use 1 or more"),
        (["--network", "own_dd_jax_module:nothing"], "network: 'own_dd_jax_module:nothing' is not found"),
        (["--network-options", "depth=3"], "network: own_dd_jax_module:make takes no option 'depth'; it takes width"),
        (["--objective", "math:pi"], "objective: 'math:pi' is no function"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_compiling(quick, own_module, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        quick(*options)
    assert not (own_module / "run").exists()


def test_settings_are_read_back_from_a_file():
    inner = Inner("adam", learned=("b1",), window=3, augment="flip")
    assert inner_of(json.loads(json.dumps(inner.__dict__))) == inner
    with pytest.raises(ValueError, match=r"^distilled data: they were made with inner.future"):
        inner_of({"future": 1})
    assert loop_of(Inner(), np.eye(3)[None]).augment is None
    assert window_of(Inner(), 0.5) is None


@pytest.mark.slow
def test_data_are_scored_on_other_networks_as_a_table(quick, own_module, capsys):
    folder, table = quick("--weights.nets", "1", "--weights.test-nets", "2"), own_module / "table.json"
    networks = ["own_dd_jax_module:make:width=3", "mlp:hidden=8"]
    cross_arch.main([str(folder), "--networks", *networks, "--nets", "2", "--output", str(table)])
    held = json.loads(table.read_text())
    assert list(held["networks"]) == networks
    assert held["made_on"] == "own_dd_jax_module:make"
    for name in networks:
        row = held["networks"][name]
        assert (row["accuracy"]["n"], row["steps"]) == (2, 5)
        assert f"{name}: {percent(row['accuracy'])}" in capsys.readouterr().out or name != networks[0]
    with pytest.raises(ValueError, match=r"^output: .* is not accepted; use a new file"):
        cross_arch.main([str(folder), "--output", str(table)])
    with pytest.raises(ValueError, match=r"^RUN_OR_NPZ: it is missing"):
        cross_arch.main([])


@pytest.mark.slow
def test_several_known_networks_are_trained_together_and_evaluated_each(quick):
    folder = quick("--weights.known", "3")
    result = json.loads((folder / "result.json").read_text())
    assert (result["networks"], result["test_accuracy"]["after"]["n"]) == ("known", 3)
    scores = evaluate.run(folder, evaluate.Config())["scores"]
    for score, when in zip(scores, ("before", "after"), strict=True):
        assert score["accuracy"] == pytest.approx(result["test_accuracy"][when])
    with pytest.raises(ValueError, match=r"^weights.known: 3 has no effect with weights.nets"):
        quick("--weights.known", "3", "--weights.nets", "2")
