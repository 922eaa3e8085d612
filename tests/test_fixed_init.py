"""The experiment as a user runs it: results, resuming after a kill, refusals that overwrite nothing."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from events import shown_by_tensorboard

from dd_jax.base import Distilled
from dd_jax.data.dataset import make_dataset
from dd_jax.data.normalisation import normalise
from dd_jax.data.readers import read
from dd_jax.evaluation import evaluate
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.figures import screen_values
from dd_jax.files.scored import load_scored
from dd_jax.files.snapshots import load_snapshots
from dd_jax.inner.loop import unroll
from dd_jax.networks import make_network
from dd_jax.objectives import classification_loss, mean_of
from experiments import fixed_init, report
from experiments.training import RunError

ROOT = Path(__file__).parent.parent
SMALL = ["digits", "--distilled.epochs", "3", "--outer.steps", "80", "--outer.learning-rate", "0.05"]


def start(*arguments, **options):
    command = [sys.executable, "-m", "experiments.fixed_init", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run, uninterrupted, through the command line's own entry."""
    workdir = tmp_path_factory.mktemp("run") / "digits"
    watched = ["--tensorboard"] if importlib.util.find_spec("tensorboardX") else []
    fixed_init.main([*SMALL, *watched, "--workdir", str(workdir)])
    return workdir


def test_result_has_what_it_promises(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["experiment"] == "fixed_init"
    assert (result["preset"], result["dataset"], result["seed"], result["outer_steps"]) == ("digits", "digits", 0, 80)
    assert result["wall_seconds"] > 0
    assert result["reported"] is None
    assert result["config"]["outer"]["steps"] == 80
    assert result["versions"]["jax"] == jax.__version__
    for when in ("before", "after"):
        assert result["test_accuracy"][when].keys() == {"mean", "std", "n"}
    assert result["test_accuracy"]["before"]["mean"] < 0.3 < result["test_accuracy"]["after"]["mean"] <= 1


def test_metrics_have_a_line_per_step_and_a_validation_at_the_end(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 81))
    assert lines[-1]["step"] == 80
    assert 0 < lines[-1]["validation_accuracy"] <= 1
    sizes = load_distilled(finished / "distilled.npz").step_sizes
    assert lines[-1]["step_size_mean"] == pytest.approx(sizes.mean(), rel=1e-6)


def test_tensorboard_is_given_the_metrics(finished):
    pytest.importorskip("tensorboardX")
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    told = {(line["step"], name): line[name] for line in lines for name in set(line) - {"step", "seconds"}}
    assert shown_by_tensorboard(finished / "tensorboard") == pytest.approx(told, rel=1e-6)


@pytest.mark.slow
def test_the_first_images_may_be_real_ones_of_the_training_split(tmp_path):
    quick = ["--distilled.first", "real", "--outer.steps", "1", "--outer.learning-rate", "1e-7"]
    fixed_init.main(["digits", *quick, "--workdir", str(tmp_path)])
    file = load_distilled(tmp_path / "distilled.npz")
    dataset = make_dataset(read("digits"), validation_fraction=0.1, seed=0)
    train = np.asarray(normalise(dataset.train.images, dataset.train.normalisation))
    for image, label in zip(file.images[0], file.labels[0], strict=True):
        distance = np.abs(train - image).max((1, 2, 3))
        assert distance.min() < 1e-5
        assert dataset.train.labels[distance.argmin()] == label.argmax()


@pytest.mark.slow
def test_a_run_may_go_on_from_a_finished_one_s_images_and_step_sizes(finished, tmp_path):
    first, then = tmp_path / "first", tmp_path / "then"
    first.mkdir()
    shutil.copy(finished / "distilled.npz", first)
    ran = json.loads((finished / "result.json").read_text()) | {"earlier": {"outer_steps": 20, "wall_seconds": 5.0}}
    (first / "result.json").write_text(json.dumps(ran))
    quick = [*SMALL, "--outer.steps", "1", "--outer.learning-rate", "1e-7", "--distilled.first"]
    fixed_init.main([*quick, str(first), "--workdir", str(then)])
    before, after = (load_distilled(run / "distilled.npz") for run in (first, then))
    np.testing.assert_allclose(after.images, before.images, atol=1e-5)
    np.testing.assert_allclose(after.step_sizes, before.step_sizes, atol=1e-5)
    result = json.loads((then / "result.json").read_text())
    assert result["earlier"] == {"outer_steps": 100, "wall_seconds": 5.0 + ran["wall_seconds"]}
    assert "after 100 of the run it began from" in (then / "report.html").read_text()
    for options, message in (
        (["--distilled.steps", "2"], r"images \(1, 10, 28, 28, 1\), and this run \(2, 10, 28, 28, 1\)"),
        (["--seed", "1"], "seed 0, and this run 1"),
        (["--validation-fraction", "0.2"], "validation_fraction 0.1, and this run 0.2"),
    ):
        with pytest.raises(ValueError, match=f"^distilled.first: .* has {message}; they must be the same"):
            fixed_init.main([*quick, str(first), *options, "--workdir", str(tmp_path / "refused")])
    with pytest.raises(ValueError, match=r"^outer.max_step_size: 0.01 is not accepted; use at least "):
        fixed_init.main([*quick, str(first), "--outer.max-step-size", "0.01", "--workdir", str(tmp_path / "refused")])
    with pytest.raises(ValueError, match=r"^distilled.first: nois is not accepted; use noise, real, or the folder of"):
        fixed_init.main([*quick, "nois", "--workdir", str(tmp_path / "refused")])
    assert not (tmp_path / "refused").exists()


def test_distilled_data_train_the_network_without_our_code(finished):
    """From distilled.npz alone, with a plain loop: the accuracy result.json says."""
    file = load_distilled(finished / "distilled.npz")
    assert file.images.shape == (1, 10, 28, 28, 1)
    assert file.labels.shape == (1, 10, 10)
    assert file.step_sizes.shape == (3,)
    assert (file.meta["steps"], file.meta["epochs"], file.meta["network"]) == (1, 3, "lenet")
    assert file.meta["initialisation"] == {"law": "orthogonal", "gain": 1.4, "seed": 0}
    network = make_network("lenet", (28, 28, 1), 10)
    theta = {"params": {}}
    for name, weight in file.initial_weights.items():
        _, layer, kind = name.split("/")
        theta["params"].setdefault(layer, {})[kind] = jnp.asarray(weight)
    gradient = jax.jit(jax.grad(mean_of(classification_loss(network.apply))))
    for t, step_size in enumerate(file.step_sizes):
        change = gradient(theta, file.images[t % 1], file.labels[t % 1])
        theta = jax.tree.map(lambda w, g, eta=step_size: w - eta * g, theta, change)
    raw = read("digits")
    logits = jax.jit(network.apply)(theta, normalise(jnp.asarray(raw.test_images), file.normalisation))
    result = json.loads((finished / "result.json").read_text())
    assert np.mean(logits.argmax(-1) == raw.test_labels) == pytest.approx(result["test_accuracy"]["after"]["mean"])


def test_the_report_is_one_self_contained_page(finished):
    page = (finished / "report.html").read_text()
    assert not re.search(r"(src|href)='?\"?(https?:|/|\w+\.)", page)
    result = json.loads((finished / "result.json").read_text())
    assert f"{100 * result['test_accuracy']['after']['mean']:.2f} %" in page
    assert "orthogonal" in page
    for size in load_distilled(finished / "distilled.npz").step_sizes:
        assert f"{size:.4f}" in page
    assert (finished / "images.png").read_bytes().startswith(b"\x89PNG")
    for told in ("before training", "outer step 76 of 80", "Real images", "What is taken for what", "355 test images"):
        assert told in page
    command = "python -m experiments.fixed_init digits --distilled.epochs 3 --outer.steps 80 --outer.learning-rate 0.05"
    assert command in page


def test_the_scores_of_the_page_are_those_of_the_result(finished):
    result, scored = json.loads((finished / "result.json").read_text()), load_scored(finished / "scores.npz")
    assert scored.confusion.shape == (2, 10, 10)
    for i, when in enumerate(("before", "after")):
        counted = np.trace(scored.confusion[i]) / scored.examples.sum()
        assert result["test_accuracy"][when]["mean"] == pytest.approx(counted, abs=1e-7)
    np.testing.assert_array_equal(scored.confusion.sum(-1), np.stack([scored.examples] * 2))
    assert scored.steps.tolist() == [0, 1, 2, 3]
    assert scored.accuracy[-1] == pytest.approx(result["validation_accuracy"], abs=1e-6)
    dataset = make_dataset(read("digits"), validation_fraction=0.1, seed=0)
    where = [np.flatnonzero(np.asarray(dataset.train.labels) == c)[0] for c in range(10)]
    np.testing.assert_array_equal(scored.real_images, np.asarray(dataset.train.images)[where])


def test_snapshots_are_kept_from_before_the_first_step_on(finished):
    kept = sorted(int(path.stem) for path in (finished / "snapshots").iterdir())
    assert kept == list(range(0, 81, 4))
    images = load_distilled(finished / "distilled.npz").images
    last = load_snapshots(finished / "snapshots", 80, images.shape)[-1]
    np.testing.assert_array_equal(last.images, screen_values(images)[..., :1])
    assert sum(path.stat().st_size for path in (finished / "snapshots").iterdir()) < 300_000


def test_a_page_is_written_again_and_several_runs_compared(finished, tmp_path, monkeypatch, capsys):
    before = (finished / "report.html").read_text()
    (finished / "report.html").unlink()
    report.main([str(finished)])
    assert (finished / "report.html").read_text() == before
    monkeypatch.chdir(tmp_path)
    report.main([str(finished), str(ROOT / "results" / "random_init" / "mnist")])
    assert "the report is comparison.html" in capsys.readouterr().out
    page = (tmp_path / "comparison.html").read_text()
    assert "random_init · mnist" in page
    report.main([str(finished), str(finished), "--output", "comparison.html"])
    assert (tmp_path / "comparison.html").read_text() != page
    (tmp_path / "thesis.html").write_text("years of work")
    for arguments, message in (
        ([str(finished), "--output", "thesis.html"], "output: thesis.html is not accepted; use a new file, or an earl"),
        ([str(finished), "--output", "no/where.html"], "use a file in an existing folder; there is no no"),
        ([str(tmp_path)], r"run: .* is not accepted \(FileNotFoundError: .*\); use a finished run's folder"),
        ([], "runs: nothing is not accepted; use the work folder of a finished run"),
    ):
        with pytest.raises(ValueError, match=message):
            report.main(arguments)
    assert (tmp_path / "thesis.html").read_text() == "years of work"


def test_ten_distilled_images_beat_ten_real_ones(finished):
    """The same network and number of steps on a real image of each class, the step size chosen in its favour."""
    data = make_dataset(read("digits"), validation_fraction=0.1)
    network = make_network("lenet", (28, 28, 1), 10)
    loss = classification_loss(network.apply)
    labels = np.asarray(data.train.labels)
    first = np.array([np.flatnonzero(labels == label)[0] for label in range(10)])
    theta = jax.jit(network.init)(jax.random.key(0))

    @jax.jit
    def accuracy(raw):
        images = normalise(data.train.images[first], data.train.normalisation)[None]
        trained = unroll(loss, theta, Distilled(images, jnp.eye(10)[None], jnp.full(3, jax.nn.softplus(raw))))
        return evaluate(network.apply, trained, data.test, 10).accuracy

    real = max(float(accuracy(raw)) for raw in np.linspace(-5, 1, 13))
    distilled = json.loads((finished / "result.json").read_text())["test_accuracy"]["after"]["mean"]
    assert distilled > real + 0.05


def test_the_same_command_again_changes_nothing(finished, capsys):
    before = (finished / "distilled.npz").read_bytes()
    fixed_init.main([*SMALL, "--workdir", str(finished)])
    assert (finished / "distilled.npz").read_bytes() == before
    assert "holds this run, finished" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_to_bitwise_the_same_images(finished, tmp_path):
    at_step = 9
    arguments = (*SMALL, "--checkpoint-seconds", "0.001", "--workdir", tmp_path / "run")
    process, metrics, deadline = start(*arguments), tmp_path / "run" / "metrics.jsonl", time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count('"loss"') >= at_step):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = start(*arguments)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    resumed_at = int(re.findall(r"resuming at step (\d+) of 80", output)[0])
    assert at_step - 2 <= resumed_at < 80
    for name in ("images", "step_sizes"):
        ours, theirs = (getattr(load_distilled(w / "distilled.npz"), name) for w in (tmp_path / "run", finished))
        assert ours.tobytes() == theirs.tobytes()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 81))


def test_the_plan_says_the_memory_and_writes_nothing(tmp_path, capsys):
    fixed_init.main([*SMALL, "--plan", "--workdir", str(tmp_path / "run")])
    assert re.fullmatch(
        r"memory: \d+\.\d MB of data and state, \d+\.\d MB more within an outer step \(mode forward_over_reverse\)\n",
        capsys.readouterr().out,
    )
    assert not (tmp_path / "run").exists()


def test_a_non_finite_loss_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    with pytest.raises(
        RunError, match=r"step \d+: the loss is .* lower --outer.learning-rate or --distilled.step-size"
    ):
        fixed_init.main([*SMALL, "--distilled.step-size", "1e30", "--workdir", str(tmp_path / "run")])
    kept = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert kept == [len(lines)]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("preset", [name for name in fixed_init.PRESETS if name.endswith("_authors")])
def test_the_authors_recipe_begins_from_the_papers_weights(preset):
    weights = fixed_init.PRESETS[preset].weights
    assert (weights.law, weights.gain) == ("xavier_normal", 1.0)


REFUSALS = [
    (["mnits"], "preset: 'mnits' is unknown; use one of digits, mnist"),
    (["--dataset", "/no/such/folder"], "dataset: /no/such/folder is no folder"),
    (["--network", "vgg"], "network: 'vgg' is unknown; use one of lenet, alexcifarnet"),
    (["--network", "alexcifarnet"], "alexcifarnet takes images of 32×32 pixels, not 28×28"),
    (["--weights.law", "he"], "weights.law: 'he' is unknown; use one of xavier_normal"),
    (["--weights.gain", "-1"], "weights.gain: -1.0 is not positive"),
    (["--outer.steps", "0"], "outer.steps: 0 is not accepted; use 1 or more"),
    (["--outer.learning-rate", "0"], "outer.learning_rate: 0.0 is not accepted; use a positive number"),
    (["--batch-size", "-3"], "batch_size: -3 is not accepted; use 1 or more"),
    (["--distilled.steps", "0"], "distilled.steps: 0 is not accepted; use 1 or more"),
    (["--distilled.images-per-class", "1", "0"], "distilled.images_per_class: (1, 0) is not accepted; use 1 or more"),
    (["--distilled.images-per-class", "2", "1"], "distilled.images_per_class: (2, 1) is not accepted; use a number"),
    (["--distilled.step-size", "nan"], "distilled.step_size: nan is not accepted; use a positive number"),
    (["--batch-size", "65", "--outer.perturbations", "2"], "batch_size: 65 is not accepted; use a multiple of outer"),
    (["--switch-width", "-1"], "switch_width: -1.0 is not accepted; use 0 or a positive number"),
    (["--seed", "-1"], "seed: -1 is not accepted; use 0 or more"),
    (["--validation-fraction", "1"], "validation_fraction: 1.0 is not between 0 and 1"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=lambda a: " ".join(a) if isinstance(a, list) else "")
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, arguments, message):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError) as caught:
        fixed_init.main([*arguments, "--workdir", str(workdir)])
    assert str(caught.value).removeprefix("network: ").startswith(message.removeprefix("network: "))
    assert "\n" not in str(caught.value)
    assert not workdir.exists()


def test_a_workdir_of_another_run_is_refused_and_left_alone(finished):
    before = files(finished)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed is 0 there and 1 here\)"):
        fixed_init.main([*SMALL, "--seed", "1", "--workdir", str(finished)])
    assert files(finished) == before


def test_a_workdir_with_other_things_or_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        fixed_init.main([*SMALL, "--workdir", str(tmp_path)])
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match=r"workdir: .*thesis.tex/run cannot be written \(Not a directory\)"):
        fixed_init.main([*SMALL, "--workdir", str(tmp_path / "thesis.tex" / "run")])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-2"], ["seed: -2"]),
        pytest.param(["--sead", "2"], ["--sead"], marks=pytest.mark.slow),
        pytest.param(["--seed", "two"], ["--seed", "two"], marks=pytest.mark.slow),
    ],
)
def test_the_shell_sees_a_clear_message_and_a_failure(arguments, words):
    process = start(*arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    first, message, rest = output.split("\n")
    assert (first, rest) == ("loading JAX", "")
    assert message.startswith("error: ")
    for word in words:
        assert word in output


def test_the_presets_state_the_authors_recipe():
    recipe = fixed_init.PRESETS["mnist_authors"]
    assert (recipe.outer.steps, recipe.outer.learning_rate, recipe.outer.b1, recipe.outer.b2) == (
        23600,
        0.01,
        0.5,
        0.999,
    )
    assert (recipe.outer.halve_every, recipe.outer.clip, recipe.batch_size) == (2360, None, 1024)
    assert (recipe.distilled.noise, recipe.distilled.step_size) == (1.0, 0.02)
    assert fixed_init.PRESETS["cifar10_authors"].distilled.step_size == 0.001
    assert fixed_init.PRESETS["cifar10_authors"].augment
