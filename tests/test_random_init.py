"""Random initial weights, the evaluation of what they made, the baselines and the ablations, as a user runs them."""

import dataclasses
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.data.normalisation import denormalise
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.scored import load_scored
from experiments import ablations, baselines, distil, evaluate, problem, random_init
from experiments.nets import dealt
from experiments.problem import assemble
from experiments.settings import Weights
from experiments.training import RunError

SMALL = [
    "digits", "--outer.steps", "100", "--outer.learning-rate", "0.05", "--weights.nets", "2",
    "--weights.test-nets", "5", "--weights.validation-nets", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run through the command line's own entry, its page's curve of one network."""
    workdir = tmp_path_factory.mktemp("run") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distil, "_CURVE", 1)
        random_init.main([*SMALL, "--workdir", str(workdir)])
    return workdir


def test_the_accuracy_after_each_step_is_of_few_networks(finished):
    scored = load_scored(finished / "scores.npz")
    assert scored.accuracy[0] < scored.accuracy[-1]
    assert not scored.spread.any()  # one of the two validation networks


def test_the_result_is_over_held_out_networks(finished):
    result = json.loads((finished / "result.json").read_text())
    before, after = result["test_accuracy"]["before"], result["test_accuracy"]["after"]
    assert (result["experiment"], before["n"], after["n"]) == ("random_init", 5, 5)
    assert before["mean"] < 0.2 < 0.4 < after["mean"]
    assert after["std"] > 0
    assert "± " in (finished / "report.html").read_text()
    assert load_distilled(finished / "distilled.npz").initial_weights == {}


def test_the_same_command_again_changes_nothing(finished):
    before = (finished / "distilled.npz").read_bytes()
    random_init.main([*SMALL, "--workdir", str(finished)])
    assert (finished / "distilled.npz").read_bytes() == before


@pytest.mark.parametrize("network", ["lenet", "mlp"])
def test_a_run_that_goes_on_from_another_draws_networks_that_one_has_not_seen(network, finished, tmp_path, monkeypatch):
    def training(step):
        raise InterruptedError(f"networks of step {step}")

    def assembled(*arguments):
        problem = assemble(*arguments)
        return problem._replace(nets=problem.nets._replace(training=training))

    monkeypatch.setattr(distil, "assemble", assembled)
    with pytest.raises(InterruptedError, match="networks of step 101"):
        random_init.main([*SMALL, "--network", network, "--distilled.first", str(finished), "--workdir", str(tmp_path)])


def test_evaluate_repeats_the_run_s_own_score(finished, capsys):
    evaluate.main([str(finished), "--nets", "5", "--at", "0", "5", "15"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    result = json.loads((finished / "result.json").read_text())
    assert f"{100 * result['test_accuracy']['after']['mean']:.2f} ± " in lines[2]


@pytest.mark.slow
def test_evaluate_trains_otherwise(finished, tmp_path):
    output = tmp_path / "scores.json"
    evaluate.main(
        [str(finished / "distilled.npz"), "--nets", "3", "--training.optimizer", "adam", "--training.learning-rate",
         "0.003", "--training.order", "minibatch", "--training.epochs", "20", "--law", "kaiming_fan_in",
         "--output", str(output)]
    )  # fmt: skip
    scores = json.loads(output.read_text())["scores"]
    assert [score["steps"] for score in scores] == [0, 100]
    assert scores[1]["accuracy"]["mean"] > scores[0]["accuracy"]["mean"] + 0.2
    evaluate.main(
        [str(finished), "--nets", "2", "--training.optimizer", "sgd", "--training.learning-rate", "1e6", "--output",
         str(output)]
    )  # fmt: skip
    assert json.loads(output.read_text())["scores"][1]["loss"]["mean"] is None  # they diverged


@pytest.mark.slow
def test_evaluate_s_validation_split_is_the_run_s_own(finished, monkeypatch):
    """Whatever the seed of the networks: another split would hold examples that the data were made of."""
    asked = []
    original = problem.make_dataset
    monkeypatch.setattr(problem, "make_dataset", lambda raw, **how: asked.append(how) or original(raw, **how))
    evaluate.run(finished, evaluate.Config(split="validation", nets=1, seed=7, at=(0,)))
    assert asked == [{"validation_fraction": 0.1, "seed": 0, "zca": None}]


@pytest.mark.slow
def test_a_refused_step_leaves_the_state_before_it_and_nothing_after(tmp_path, monkeypatch):
    """One bad network, in step 3 alone: step 4 is in flight by then, as no validation is between; it must not count."""
    command = [*SMALL, "--outer.steps", "40", "--outer.no-normalise-networks", "--weights.test-nets", "1"]
    random_init.main([*command, "--workdir", str(tmp_path / "whole")])

    def with_a_bad_network(*arguments):
        problem = assemble(*arguments)
        good = problem.nets.training

        def training(step):
            return jax.tree.map(lambda leaf: leaf * jnp.nan, good(step)) if step == 3 else good(step)

        return problem._replace(nets=problem.nets._replace(training=training))

    with monkeypatch.context() as patch:
        patch.setattr(distil, "assemble", with_a_bad_network)
        with pytest.raises(RunError, match=r"step 3: the loss is nan .* The state after step 2 is saved"):
            random_init.main([*command, "--workdir", str(tmp_path / "refused")])
    random_init.main([*command, "--workdir", str(tmp_path / "refused")])
    results = [load_distilled(tmp_path / name / "distilled.npz") for name in ("whole", "refused")]
    np.testing.assert_array_equal(results[0].images, results[1].images)


def rewrite(source, target, **changes):
    with np.load(source) as file:
        fields = {**{name: file[name] for name in file.files}, **changes}
    np.savez(target, **{name: value for name, value in fields.items() if value is not None})
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_sizes": None}, "it has no step_sizes"),
        ({"step_sizes": np.float32([0.1, -0.1])}, "its field 'step_sizes' is malformed"),
        ({"labels": np.ones((3, 10, 10), np.float32)}, "its field 'labels' is malformed"),
        ({"std": np.zeros(1, np.float32)}, "its field 'std' is malformed"),
        ({"mean": np.zeros(3, np.float32)}, "its field 'mean' is malformed"),
        ({"images": np.full((5, 10, 28, 28, 1), np.nan, np.float32)}, "its field 'images' is not finite"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "Object arrays cannot be loaded when allow_pickle=False"),
        ({"images": np.ones((5, 10, 32, 32, 1), np.float32)}, "has images of shape (28, 28, 1)"),
        ({"labels": np.ones((5, 10, 7), np.float32)}, "has as many classes as 10"),
    ],
)
def test_a_file_that_is_malformed_or_does_not_fit_is_refused(finished, tmp_path, changes, message):
    path = rewrite(finished / "distilled.npz", tmp_path / "changed.npz", **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate.run(path, evaluate.Config(nets=2))


def test_evaluate_refuses_a_missing_path_and_bad_settings(finished, tmp_path):
    for arguments, message in (
        ([], "RUN_OR_NPZ: it is missing"),
        ([str(tmp_path)], "distilled data: .* cannot be used"),
        ([str(finished), "--nets", "0"], "nets: 0 is not accepted"),
        ([str(finished), "--at", "3", "2"], "at: .3, 2. is not accepted"),
        ([str(finished), "--training.epochs", "0"], "training.epochs: 0 is not accepted"),
        ([str(finished), "--network", "alexcifarnet"], "alexcifarnet takes images of 32×32"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.main(arguments)


@pytest.mark.slow
def test_the_baselines_table_has_every_row_and_the_distilled_one_wins(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "STEP_SIZES", (0.01, 0.03))  # fewer, to save time
    monkeypatch.setattr(baselines, "FINER", (1.0,))
    workdir = tmp_path / "table"
    command = [
        "digits", "--steps", "5", "--epochs", "3", "--sets", "2", "--candidates", "5", "--scoring-examples", "100",
        "--weights.test-nets", "4", "--weights.validation-nets", "1", "--against", str(finished),
        "--workdir", str(workdir),
    ]  # fmt: skip
    baselines.main(command)
    rows = {row["name"]: row for row in json.loads((workdir / "result.json").read_text())["rows"]}
    distilled, neighbours = rows.pop(f"distilled: {finished}"), rows.pop(f"distilled k-NN: {finished}")
    same_steps = rows.pop(f"random real, step sizes of {finished}")
    assert list(rows) == ["random real", "optimized real", "k-means", "average real", "random k-NN", "k-means k-NN"]
    assert [rows[name]["accuracy"]["n"] for name in rows] == [4, 4, 4, 4, 2, 3]
    assert (same_steps["accuracy"]["n"], same_steps["step_sizes_of"], same_steps["epochs"]) == (4, str(finished), 3)
    assert neighbours["accuracy"]["n"] == 1
    assert neighbours["accuracy"]["mean"] > 0.5
    assert distilled["accuracy"]["mean"] > rows["random real"]["accuracy"]["mean"]
    assert rows["k-means k-NN"]["accuracy"]["mean"] > rows["random k-NN"]["accuracy"]["mean"]
    before = {p: p.stat().st_mtime_ns for p in workdir.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(baselines, "assemble", lambda *_: pytest.fail("nothing needs to be assembled"))
        baselines.main(command)
    assert {p: p.stat().st_mtime_ns for p in workdir.iterdir()} == before
    table = (workdir / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n") == 11


def test_settings_are_chosen_on_examples_of_every_class_whatever_their_order():
    split = baselines.Split(np.arange(500), np.arange(500) // 50, None)
    some = baselines._some(split, 100)
    assert set(some.labels) == set(range(10))
    assert len(set(some.images)) == 100
    np.testing.assert_array_equal(some.images // 50, some.labels)


def test_every_set_of_a_baseline_is_tested_also_on_fewer_networks():
    held_out = (np.arange(3), {"w": np.arange(3)})
    assert [share[0].tolist() for share in dealt(held_out, 5)] == [[0], [1], [2], [0], [1]]
    assert [share[1]["w"].tolist() for share in dealt(held_out, 2)] == [[0, 1], [2]]


def test_optimized_real_is_scored_on_training_examples_alone():
    """The candidates' scorer sees the split that the experiment says, whose images are of the training split."""
    config = baselines.PRESETS["digits"]
    config = baselines.dataclasses.replace(config, steps=1, sets=1, candidates=3, scoring_examples=50)
    dataset, _, nets, *_ = baselines.assemble(config)
    sets = baselines._sets(config, dataset, baselines.Layout(10, 1, 5))
    seen = []

    def score(distilled, held_out, split, epochs):
        seen.append((len(held_out[0]), split))
        return np.zeros((len(held_out[0]), len(epochs)))

    rows = baselines._trained(config, dataset, sets, nets, score)
    next(rows)
    seen.clear()
    next(rows)
    training = {image.tobytes() for image in np.asarray(dataset.train.images)}
    tested = [split for count, split in seen if split is dataset.test]
    validation = {image.tobytes() for image in np.asarray(dataset.validation.images)} - training
    pixels = [{image.tobytes() for image in np.asarray(split.images)} for _, split in seen[:-1]]
    assert sum(images <= training for images in pixels) == 3  # once for each candidate
    assert all(images <= training or images & validation for images in pixels)
    assert seen[-1][1] is dataset.test  # and the test split comes last
    assert len(tested) == 1


def test_a_baseline_has_the_step_size_and_epochs_that_do_best_on_validation_for_all_its_sets():
    config = baselines.dataclasses.replace(baselines.PRESETS["digits"], steps=1, sets=3, candidates=5)
    config = baselines.dataclasses.replace(config, scoring_examples=50, epochs=(1, 2, 5))
    dataset, _, nets, *_ = baselines.assemble(config)
    tested = []

    def score(distilled, held_out, split, epochs):
        step_size = float(distilled.step_sizes[0])
        if split is dataset.test:
            tested.append((step_size, epochs, len(held_out[0])))
            return np.full((len(held_out[0]), 1), 0.5)
        best = 0.9 - abs(step_size - 0.03 * 1.33)  # the best of the coarse grid, times one of the finer
        return np.tile(best - np.abs(np.array(epochs) - 2), (len(held_out[0]), 1))

    sets = baselines._sets(config, dataset, baselines.Layout(10, 1, 5))
    name, accuracy, facts = next(baselines._trained(config, dataset, sets, nets, score))
    assert (name, facts) == ("random real", {"step_size": pytest.approx(0.03 * 1.33), "epochs": 2})
    assert [(epochs, count) for _, epochs, count in tested] == [((2,), 17), ((2,), 17), ((2,), 16)]
    assert [step_size for step_size, *_ in tested] == pytest.approx([0.03 * 1.33] * 3, rel=1e-5)
    assert accuracy.tolist() == [0.5] * 50


def on_a_known_network(score, learned=(), **settings):
    """The first two rows of the baselines on digits for one known network, by a made-up ``score(set, step_sizes)``.

    Returns:
      The rows, and the sets that were tested.
    """
    weights = Weights(nets=None)
    config = baselines.Config(steps=1, sets=5, candidates=10, epochs=(1,), weights=weights, **settings)
    dataset, _, nets, *_ = baselines.assemble(config)
    sets = baselines._sets(config, dataset, baselines.Layout(10, 1, 1))
    tested = []

    def measured(distilled, held_out, split, epochs):
        assert len(held_out[0]) == 1
        if split is dataset.test:
            tested.append(distilled)
        return np.full((1, len(epochs)), score(sets, distilled, float(distilled.step_sizes[0])))

    rows = baselines._trained(config, dataset, sets, nets, measured, learned)
    return list(itertools.islice(rows, 2 + len(learned))), tested


def same(images):
    return lambda distilled: np.array_equal(distilled.images, images)


def test_on_a_known_network_every_set_counts_and_so_does_a_somewhat_larger_step_size():
    """A set that diverges at large step sizes, however late it comes, keeps all from them, with a margin."""

    def score(sets, distilled, step_size):
        if same(sets.random[-1].images)(distilled) and step_size > 0.032:
            return 0.1
        return 0.5 + step_size / 10  # else, the larger the better

    (row, _), _ = on_a_known_network(score)
    name, accuracy, facts = row
    assert name == "random real"
    assert facts["step_size"] == pytest.approx(0.01 * 1.78)  # 0.03 by itself is well, and 1.2 times that is not
    assert accuracy.min() > 0.5


def test_a_set_at_the_edge_of_divergence_is_not_among_the_optimized():
    """It scores best, and a little beyond the step size it is used with, it is at chance."""
    seen = []

    def score(sets, distilled, step_size):
        if any(same(real.images)(distilled) for real in sets.random):
            return 0.5 - abs(step_size - 0.03)
        number = next((i for i, images in enumerate(seen) if same(images)(distilled)), len(seen))
        if number == len(seen):
            seen.append(distilled.images)
        if number == 3:
            return 0.9 if step_size < 0.033 else 0.1
        return 0.5 + number / 100 - abs(step_size - 0.03)

    rows, tested = on_a_known_network(score)
    assert [name for name, *_ in rows] == ["random real", "optimized real"]
    assert len(seen) == 10
    kept = [[i for i, images in enumerate(seen) if same(images)(distilled)] for distilled in tested[-2:]]
    assert kept == [[9], [8]]


@pytest.mark.parametrize(("gain", "by_run"), [(0.1, True), (-0.1, False)])
def test_the_learned_step_sizes_of_a_run_are_tried_on_the_baselines(gain, by_run):
    learned = baselines._StepSizes("a run", np.array([0.017, 0.019, 0.023]))

    def score(sets, distilled, step_size):
        return 0.5 - abs(step_size - 0.01) + (gain if 0.017 <= round(step_size, 4) <= 0.0205 else 0)

    rows, tested = on_a_known_network(score, [learned])
    (_, _, chosen), (name, _, facts) = rows[:2]
    assert chosen == ({"step_sizes_of": "a run", "epochs": 1} if by_run else {"step_size": 0.01, "epochs": 1})
    assert (name, facts) == ("random real, step sizes of a run", {"step_sizes_of": "a run", "epochs": 3})
    assert [round(float(d.step_sizes[0]), 5) for d in tested[5:10]] == [0.017] * 5


def test_only_step_sizes_of_the_same_loop_are_tried(finished, tmp_path, capsys):
    other = rewrite(finished / "distilled.npz", tmp_path / "momentum.npz", meta=with_inner(finished, "momentum"))
    config = baselines.Config(steps=5, against=(finished, other))
    (learned,) = baselines._learned(config)
    assert learned.name == str(finished)
    np.testing.assert_array_equal(learned.values, load_distilled(finished / "distilled.npz").step_sizes)
    assert f"the step sizes of {other} are not tried" in capsys.readouterr().err
    assert baselines._learned(dataclasses.replace(config, steps=4)) == []


def with_inner(run, optimizer):
    meta = load_distilled(run / "distilled.npz").meta
    return np.array(json.dumps(meta | {"inner": meta["inner"] | {"optimizer": optimizer}}))


def test_sets_are_made_of_augmented_images_where_asked(monkeypatch):
    """Cropped and flipped, each example once; the nearest neighbours too."""
    asked = []
    monkeypatch.setattr(baselines.baselines, "k_means", lambda split, *_, **how: asked.append(how) or split)
    config = dataclasses.replace(baselines.PRESETS["digits"], k_means_sets=2, k_means_starts=4, sets=2, seed=3)
    dataset, *_ = baselines.assemble(config)
    layout = baselines.Layout(10, 2, 1)
    plain, augmented = (
        baselines._sets(dataclasses.replace(config, augment=augment), dataset, layout) for augment in (False, True)
    )
    assert asked == [{"seed": seed, "n_init": 4} for seed in (3, 4)] * 2
    source = augmented.k_means[0]
    np.testing.assert_array_equal(source.labels, dataset.train.labels)
    same_images = (np.asarray(source.images) == np.asarray(dataset.train.images)).all((1, 2, 3))
    assert same_images.mean() < 0.1
    assert np.asarray(source.images).mean() == pytest.approx(np.asarray(dataset.train.images).mean(), rel=0.2)
    stored = {image.tobytes() for image in np.asarray(source.images)}
    for sets in (augmented.random, augmented.neighbours):
        pixels = np.asarray(denormalise(sets[0].images, dataset.train.normalisation))
        assert all(image.tobytes() in stored for image in np.round(pixels * 255).astype(np.uint8).reshape(-1, 28, 28))
    assert not np.allclose(plain.random[0].images, augmented.random[0].images)
    assert not np.allclose(plain.average.images, augmented.average.images)


@pytest.mark.parametrize("epochs", [(), (0, 1), (3, 1), (2, 2)])
def test_baselines_refuse_epochs_out_of_order(epochs):
    with pytest.raises(ValueError, match=r"^epochs: .* is not accepted; use increasing numbers, each 1 or more"):
        baselines.check(baselines.Config(epochs=epochs))


@pytest.mark.slow
def test_the_images_of_an_ablation_s_base_are_applied_for_fewer_and_more_epochs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ablations.VALUES, "test_epochs", (1, 3))
    arguments = [
        "digits", "--axes", "test_epochs", "--base.outer.steps", "1", "--base.weights.test-nets", "2",
        "--base.weights.nets", "2", "--base.weights.validation-nets", "2", "--workdir", str(tmp_path / "a"),
    ]  # fmt: skip
    ablations.main(arguments)
    (rows,) = json.loads((tmp_path / "a" / "result.json").read_text())["tables"].values()
    assert [row["value"] for row in rows] == [1, 3]
    base = json.loads((tmp_path / "a" / "base" / "result.json").read_text())
    assert rows[1]["accuracy"] == pytest.approx(base["test_accuracy"]["after"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()}
    monkeypatch.setattr(ablations, "_table", lambda *_: pytest.fail("nothing is scored again"))
    capsys.readouterr()
    ablations.main(arguments)
    assert "| 3 | " in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_ablations_distil_once_for_each_value_and_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ablations.VALUES, "epochs", (1, 3))
    monkeypatch.setitem(ablations.VALUES, "test_epochs", (1, 3))
    arguments = [
        "digits", "--axes", "epochs", "test_epochs", "--base.outer.steps", "3", "--base.distilled.steps", "1",
        "--base.network", "mlp", "--base.weights.test-nets", "2", "--base.weights.nets", "1",
        "--workdir", str(tmp_path / "a"),
    ]  # fmt: skip
    ablations.main(arguments)
    tables = json.loads((tmp_path / "a" / "result.json").read_text())["tables"]
    assert [[row["value"] for row in tables[axis]] for axis in tables] == [[1, 3], [1, 3]]
    assert (tmp_path / "a" / "epochs.png").read_bytes().startswith(b"\x89PNG")
    base = json.loads((tmp_path / "a" / "base" / "result.json").read_text())
    assert tables["epochs"][1]["accuracy"] == base["test_accuracy"]["after"]
    assert tables["test_epochs"][1]["accuracy"] == pytest.approx(base["test_accuracy"]["after"])
    assert {path.name for path in (tmp_path / "a").iterdir() if path.is_dir()} == {"base", "epochs_1"}
    capsys.readouterr()
    ablations.main(arguments)
    assert "memory" not in capsys.readouterr().out  # that a run prints
    ablations.main([*arguments[:2], "epochs", *arguments[4:]])  # fewer axes lose none
    assert json.loads((tmp_path / "a" / "result.json").read_text())["tables"] == tables
    with pytest.raises(ValueError, match="axes: 'width' is unknown"):
        ablations.main(["digits", "--axes", "width", "--workdir", str(tmp_path / "b")])


def test_a_run_that_two_settings_share_is_made_once():
    base = ablations.PRESETS["mnist"].base  # 10 steps of 10 images, 3 epochs
    several, one = (ablations._runs(base, f"{kind}_two_epochs") for kind in ("steps", "one_step"))
    shapes = [(r.distilled.steps, r.distilled.epochs, r.distilled.images_per_class) for _, r in several + one]
    assert shapes == [(s, 2, 1) for s in (1, 2, 5, 10, 20)] + [(1, 2, m) for m in (1, 2, 5, 10, 20)]
    assert several[0] == one[0]
    assert ("steps_two_epochs_10", several[3][1]) == ablations._runs(base, "epochs")[1]
    assert ablations._runs(base, "epochs")[2] == ("base", base)
    folders = {}
    for axis in ablations.VALUES:
        for folder, run in [] if axis.startswith("test") else ablations._runs(base, axis):
            assert folders.setdefault(folder, run) == run  # a folder is of one run,
    assert len(set(folders.values())) == len(folders)  # and a run has one folder


def test_the_fixed_rate_is_chosen_on_validation_at_the_epochs_trained_for(tmp_path, monkeypatch):
    asked = []

    def evaluated(path, config):
        asked.append(config)
        rate = config.training.learning_rate
        return {"scores": [{"accuracy": {"mean": 1 - abs(rate - 0.04)}} for _ in config.at]}

    monkeypatch.setattr(ablations.evaluate, "run", evaluated)
    monkeypatch.setattr(ablations.evaluate, "nets_for", lambda path, count: count)
    base = ablations.PRESETS["mnist"].base
    rows = ablations._table("test_epochs_fixed_rate", base, tmp_path, lambda *_: pytest.fail("nothing is distilled"))
    *choosing, test = asked
    assert [config.training.learning_rate for config in choosing] == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    assert {(c.split, c.at, c.training.epochs, c.nets) for c in choosing} == {("validation", (30,), 3, 10)}
    assert (test.split, test.at, test.nets) == ("test", (10, 20, 30, 40, 60, 90), 50)
    assert (test.training.optimizer, test.training.order, test.training.learning_rate) == ("sgd", "stored", 0.03)
    assert [(row["value"], row["rate"]) for row in rows] == [(e, 0.03) for e in (1, 2, 3, 4, 6, 9)]
    assert ablations.title_of("test_epochs_fixed_rate", rows) == "epochs at test time, with a fixed rate of 0.03"


@pytest.mark.slow
def test_one_step_stands_beside_several_in_one_figure(tmp_path, monkeypatch):
    for axis in ("steps_two_epochs", "one_step_two_epochs"):
        monkeypatch.setitem(ablations.VALUES, axis, (1, 2))
    monkeypatch.setitem(ablations.VALUES, "test_epochs_fixed_rate", (3, 4))
    ablations.main(
        ["digits", "--axes", "steps_two_epochs", "one_step_two_epochs", "test_epochs_fixed_rate",
         "--base.network", "mlp", "--base.outer.steps", "2", "--base.weights.test-nets", "2",
         "--base.weights.nets", "1", "--base.weights.validation-nets", "2", "--workdir", str(tmp_path / "a")]
    )  # fmt: skip
    tables = json.loads((tmp_path / "a" / "result.json").read_text())["tables"]
    assert tables["steps_two_epochs"][0] == tables["one_step_two_epochs"][0]
    assert tables["test_epochs_fixed_rate"][0]["rate"] in baselines.STEP_SIZES
    folders = {path.name for path in (tmp_path / "a").iterdir() if path.is_dir()}
    assert folders == {"base", "steps_two_epochs_1", "steps_two_epochs_2", "one_step_two_epochs_2"}
    for name in ("steps_two_epochs", "one_step_two_epochs", "test_epochs_fixed_rate", "same_images"):
        assert (tmp_path / "a" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights.nets", "0"], "weights.nets: 0 is not accepted; use 1 or more"),
        (["--weights.test-nets", "0"], "weights.test_nets: 0 is not accepted"),
        (["--outer.learning-rate", "-1"], "outer.learning_rate: -1.0 is not accepted"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        random_init.main([*SMALL, *arguments, "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
