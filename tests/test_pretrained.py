"""Banks, adaptation and attack, as a user runs them: on digits, with banks of a few barely trained networks."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest

from dd_jax.data.dataset import make_dataset
from dd_jax.data.readers import read
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.text import percent
from dd_jax.networks import make_network
from dd_jax.weights.bank import Bank, load_bank, save_shard
from experiments import adaptation, attack, baselines, evaluate, fixed_init, pretrain, results
from experiments.attack import measures
from experiments.kept import read_records, write
from experiments.nets import nets_of
from experiments.settings import Weights, path_from
from experiments.tables import tables_of
from experiments.training import RunError, Stopped

QUICK = ["digits", "--recipe.epochs", "2", "--group", "2"]
LENET = make_network("lenet", (28, 28, 1), 10)
ADAPTED = ["--dataset", "digits", "--validation-fraction", "0.1", "--batch-size", "32"]
SETS = ["--sets", "2", "--candidates", "5"]
DISTIL = ["--outer.steps", "3", "--weights.nets", "2", "--weights.validation-nets", "1", *SETS]


def weights(folder):
    return np.asarray(load_bank(folder, LENET, (28, 28, 1)).weights["params"]["Dense_2"]["kernel"])


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A bank of 3 networks and 3 held out."""
    workdir = tmp_path_factory.mktemp("bank") / "digits"
    pretrain.main([*QUICK, "--networks", "3", "--held-out", "3", "--workdir", str(workdir)])
    return workdir


def test_a_bank_says_how_good_it_is_and_shares_no_network(bank, capsys):
    pretrain.main([*QUICK, "--networks", "3", "--held-out", "3", "--workdir", str(bank)])
    printed = capsys.readouterr().out
    result = json.loads((bank / "result.json").read_text())
    assert "epoch" not in printed  # nothing was missing
    for part in ("train", "held_out"):
        score = result["test_accuracy"][part]
        assert score["n"] == 3
        assert 0.5 < score["min"] <= score["mean"] < 1
        assert f"{100 * score['mean']:.2f} ± " in printed
    everyone = np.concatenate([weights(bank / "train"), weights(bank / "held_out")])
    assert len(np.unique(everyone.reshape(6, -1), axis=0)) == 6


def test_a_bank_grows_without_touching_what_it_has_and_heals(bank, tmp_path):
    folder = tmp_path / "grown"
    shutil.copytree(bank, folder)
    first = folder / "train" / "00000-00002"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    for path in (folder / "train" / "00002-00003").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    damaged = folder / "train" / "damaged" / "00002-00003"
    pretrain.main([*QUICK, "--networks", "4", "--held-out", "3", "--workdir", str(folder)])
    assert {p.read_bytes() for p in damaged.rglob("*") if p.is_file()} == {b""}  # set aside
    assert before == {path: path.read_bytes() for path in before}
    grown = weights(folder / "train")
    assert len(grown) == 4
    np.testing.assert_array_equal(grown[:3], weights(bank / "train"))
    assert not (folder / "progress").exists() or not any((folder / "progress").iterdir())


def test_a_finished_bank_is_left_as_it_is_and_one_that_cannot_be_read_too(bank, tmp_path, capsys):
    folder = tmp_path / "bank"
    shutil.copytree(bank, folder)

    def contents():
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}

    (folder / ".lock").touch()
    before = contents()
    pretrain.main([*QUICK, "--networks", "2", "--held-out", "1", "--workdir", str(folder)])  # fewer than there are
    assert contents() == before
    assert "(n = 3)" in capsys.readouterr().out
    for path in (folder / "train").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    before = contents()
    with pytest.raises(OSError, match=r"^bank: none of 2 shards in .*train can be read .*; nothing was changed"):
        pretrain.main([*QUICK, "--networks", "3", "--held-out", "3", "--workdir", str(folder)])
    assert contents() == before


@pytest.mark.slow
def test_a_bank_s_networks_do_not_begin_from_those_of_random_initialisation():
    """Nor from one another's, at the same seed."""
    network = make_network("lenet", (28, 28, 1), 10)
    random = nets_of(Weights(nets=2), network, (28, 28, 1), 0)
    dataset = make_dataset(read("digits"), validation_fraction=0.1)
    prepared = pretrain._prepare(pretrain.PRESETS["digits"], dataset)
    begun = [prepared.init(pretrain._keys(0, part, range(2))).theta for part in pretrain.PARTS]
    drawn = [*begun, *(random.training(step) for step in range(3)), jax.vmap(random.test[1])(random.test[0][:2])]
    kernels = np.concatenate([np.asarray(theta["params"]["Dense_2"]["kernel"]) for theta in drawn])
    assert len(np.unique(kernels.reshape(len(kernels), -1), axis=0)) == len(kernels) == 12


def test_a_bank_that_grows_in_one_part_keeps_the_other_s_record(bank, tmp_path):
    folder = tmp_path / "bank"
    shutil.copytree(bank, folder)
    pretrain.main([*QUICK, "--networks", "1", "--held-out", "4", "--workdir", str(folder)])
    result, before = (json.loads((f / "result.json").read_text()) for f in (folder, bank))
    assert (result["config"]["networks"], result["config"]["held_out"]) == (3, 4)
    assert result["test_accuracy"]["train"] == before["test_accuracy"]["train"]
    assert result["test_accuracy"]["held_out"]["n"] == 4


def test_a_bank_whose_growth_was_stopped_says_how_good_all_its_networks_are(bank, tmp_path, capsys):
    folder = tmp_path / "bank"
    shutil.copytree(bank, folder)
    grown, result = (json.loads((folder / "result.json").read_text()) for _ in range(2))
    result["config"]["networks"] = result["test_accuracy"]["train"]["n"] = 2  # as before the third was trained
    (folder / "result.json").write_text(json.dumps(result))
    pretrain.main([*QUICK, "--networks", "3", "--held-out", "3", "--workdir", str(folder)])
    assert "epoch" not in capsys.readouterr().out  # nothing was missing
    result = json.loads((folder / "result.json").read_text())
    assert result["config"]["networks"] == 3
    assert result["test_accuracy"] == grown["test_accuracy"]


def test_a_bank_of_data_by_path_may_stand_beside_its_baselines(bank, tmp_path, monkeypatch):
    folder = tmp_path / "bank"
    shutil.copytree(bank, folder)
    config = json.loads((folder / "config.json").read_text()) | {"dataset": "../my.npz"}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "my.npz").touch()
    monkeypatch.chdir(tmp_path)
    baselines.check(baselines.Config("./my.npz", full=folder))
    with pytest.raises(ValueError, match=r"^full: .*, with dataset ../my.npz, is not accepted"):
        baselines.check(baselines.Config("./other.npz", full=folder))


def test_pretraining_goes_on_in_the_middle(bank, tmp_path, monkeypatch):
    """Stopped after an epoch, it ends with the same weights."""
    folder, command = tmp_path / "stopped", [*QUICK, "--networks", "2", "--held-out", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "signals", lambda: _always())
        with pytest.raises(Stopped, match="the same command goes on from the last epoch"):
            pretrain.main([*command, "--workdir", str(folder)])
    pretrain.main([*command, "--workdir", str(folder)])
    np.testing.assert_array_equal(weights(folder / "train"), weights(bank / "train")[:2])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [(json.loads(line)["part"], json.loads(line)["epoch"]) for line in lines] == [
        ("train", 1), ("train", 2), ("held_out", 1), ("held_out", 2),
    ]  # fmt: skip


class _always:
    """``signals`` of a user who never lets a run go on."""

    def __enter__(self):
        return lambda: signal.SIGTERM

    def __exit__(self, *_):
        return None


@pytest.fixture(scope="module")
def attacked(bank, tmp_path_factory):
    """A short attack by the bank, its figure of two step sizes."""
    workdir = tmp_path_factory.mktemp("attack") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "STEP_SIZES", (0.02, 0.1))
        attack.main(
            ["digits", "--weights.bank", str(bank), *DISTIL, "--outer.steps", "60", "--outer.learning-rate", "0.1",
             "--workdir", str(workdir)]
        )  # fmt: skip
    return workdir


@pytest.mark.slow
def test_an_attack_turns_one_class_and_says_what_it_cost(attacked):
    result, report = (json.loads((attacked / name).read_text()) for name in ("result.json", "attack.json"))
    before, after = report["before"], report["after"]
    assert before["attacked_to_target"]["mean"] < 0.05
    assert after["attacked_to_target"]["mean"] > before["attacked_to_target"]["mean"] + 0.2
    assert after["by_class"][0] < 0.8 < before["by_class"][0]
    assert after["modified"] == pytest.approx(result["test_accuracy"]["after"], rel=1e-4)
    assert before["modified"] == pytest.approx(result["test_accuracy"]["before"], rel=1e-4)
    assert after["others"]["n"] == report["random_real"]["others"]["n"] == 2  # held-out, 1 for validation
    assert (attacked / "attack.png").read_bytes().startswith(b"\x89PNG")
    for when in (before, after):
        assert when["attacked"]["mean"] == pytest.approx(when["by_class"][0])
        assert when["attacked"]["n"] == when["true"]["n"] == 2
    assert after["true"]["mean"] < after["modified"]["mean"]
    assert "test accuracy by the modified labels" in (attacked / "report.html").read_text()
    labels = load_distilled(attacked / "distilled.npz").labels  # the modified ones
    np.testing.assert_array_equal(labels[0].argmax(-1), np.repeat([1, 1, 2, 3, 4, 5, 6, 7, 8, 9], 10))


@pytest.mark.slow
def test_an_attack_stands_beside_every_baseline(attacked):
    report = json.loads((attacked / "attack.json").read_text())
    header, _, *rows = (line.strip("| ").split(" | ") for line in attack.table(report).splitlines())
    kinds = [f"after {kind}" for kind in ("random real", "optimized real", "k-means", "average real")]
    assert header == ["before", "after", *kinds, "reported by the paper"]
    own = [percent(report[name]["attacked"]) for name in ("before", "after", "random_real", "optimized_real", "k_means",
                                                          "average_real")]  # fmt: skip
    assert rows[0] == ["0: own accuracy", *own, "–"]
    assert [row[0] for row in rows[1:6]] == ["0 → 1", "other classes", "true labels", "modified labels", "step size"]
    page = (attacked / "report.html").read_text()
    for cell in (*header, *own):
        assert f"{cell}</td>" in page or f"{cell}</th>" in page


def test_the_baselines_images_of_the_attacked_class_carry_the_target_s_label():
    """They are scored under it, too."""
    config = dataclasses.replace(attack.PRESETS["digits"], attacked=3, target=5, sets=2, candidates=5)
    dataset, scored = make_dataset(read("digits"), validation_fraction=0.1), []

    def score(data):
        scored.append(data)
        return -len(scored)

    sets = attack._other_baselines(config, dataset, score) | {"random_real": attack._random_sets(config, dataset)}
    assert {name: len(of_kind) for name, of_kind in sets.items()} == {
        "optimized_real": 1, "k_means": 1, "average_real": 1, "random_real": 2,
    }  # fmt: skip
    wanted = np.repeat([0, 1, 2, 5, 4, 5, 6, 7, 8, 9], 10)
    assert len(scored) == 5
    for data in [*scored, *(data for of_kind in sets.values() for data in of_kind)]:
        np.testing.assert_array_equal(data.labels[0].argmax(-1), wanted)
    np.testing.assert_array_equal(sets["optimized_real"][0].images, scored[0].images)  # the best of them


@pytest.mark.slow
def test_the_authors_attack_keeps_the_labels_of_its_images(bank, tmp_path, monkeypatch):
    """In several steps too, whose median size is told."""
    monkeypatch.setattr(attack, "STEP_SIZES", (0.02, 0.1))
    command = ["digits_authors", "--weights.bank", str(bank), *DISTIL, "--distilled.steps", "2",
               "--workdir", str(tmp_path / "run")]  # fmt: skip
    attack.main(command)
    file = load_distilled(tmp_path / "run" / "distilled.npz")
    for labels in file.labels:
        np.testing.assert_array_equal(labels.argmax(-1), np.repeat(np.arange(10), 10))
    told = json.loads((tmp_path / "run" / "attack.json").read_text())["learned_step_size"]
    assert file.step_sizes[0] != pytest.approx(file.step_sizes[1], rel=1e-3)
    assert told == pytest.approx(file.step_sizes.mean())
    assert file.meta["relabel"] == {"0": 1}  # in every accuracy, all the same
    config = json.loads((tmp_path / "run" / "result.json").read_text())["config"]
    assert (config["keep_labels"], config["attacked_weight"]) == (True, 1.0)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(keep_labels is True there and None here"):
        attack.main([*command, "--no-keep-labels"])


@pytest.mark.slow
def test_examples_of_the_attacked_class_weigh_what_is_asked(attacked, bank, tmp_path):
    """The objective is linear in the weight, 4 by default; before the first update all else is the same."""

    def first_loss(folder):
        return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]

    losses = [first_loss(attacked)]
    for weight in ("1", "7"):
        workdir = tmp_path / weight
        attack.main(
            ["digits", "--weights.bank", str(bank), *DISTIL, "--outer.steps", "1", "--attacked-weight", weight,
             "--workdir", str(workdir)]
        )  # fmt: skip
        losses.append(first_loss(workdir))
    assert losses[2] - losses[0] == pytest.approx(losses[0] - losses[1], rel=1e-3)
    assert losses[0] - losses[1] > 0.1


@pytest.mark.slow
def test_a_bank_that_changes_during_an_attack_is_refused(attacked, bank, tmp_path, monkeypatch):
    """Else its tables would be of other networks than its result."""
    copy = tmp_path / "attacked"
    shutil.copytree(attacked, copy)
    (copy / "attack.json").unlink()
    result = json.loads((attacked / "result.json").read_text())
    result["config"]["bank"] = "what it was"
    monkeypatch.setattr(attack, "distil", lambda *arguments, **options: result)
    with pytest.raises(ValueError, match=r"^weights.bank: .* use a bank, and data, that do not change during the run"):
        attack.main(["digits", "--weights.bank", str(bank), *DISTIL, "--workdir", str(copy)])


@pytest.mark.slow
def test_another_attack_or_a_bank_that_grew_is_another_run(attacked, bank, tmp_path):
    """In the same folder it would go on from images made for something else."""
    command = ["digits", *DISTIL, "--outer.steps", "60", "--outer.learning-rate", "0.1"]
    before = (attacked / "distilled.npz").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run with other settings \(relabel.0 is 1 there and 2 here"):
        attack.main([*command, "--weights.bank", str(bank), "--target", "2", "--workdir", str(attacked)])
    copy, folder = tmp_path / "attacked", tmp_path / "bank"
    shutil.copytree(attacked, copy)
    shutil.copytree(bank, folder)
    config = json.loads((copy / "config.json").read_text())
    config["weights"]["bank"] = path_from(copy, folder)
    (copy / "config.json").write_text(json.dumps(config))
    shutil.rmtree(folder / "held_out" / "00002-00003")
    with pytest.raises(ValueError, match=r"holds a run with other settings \(bank is"):
        attack.main([*command, "--weights.bank", str(folder), "--workdir", str(copy)])
    assert (attacked / "distilled.npz").read_bytes() == before


def test_measures_of_an_attack_are_counted_by_hand():
    matrix = np.array([[1, 6, 3], [2, 7, 1], [0, 4, 16]])
    scores = measures(matrix[None], attacked=0, target=1)
    assert scores["attacked_to_target"] == pytest.approx([6 / 10])
    assert scores["attacked"] == pytest.approx([1 / 10])
    assert scores["others"] == pytest.approx([23 / 30])
    assert scores["true"] == pytest.approx([24 / 40])
    assert scores["modified"] == pytest.approx([29 / 40])
    np.testing.assert_allclose(scores["by_class"], [[0.1, 0.7, 0.8]])


@pytest.mark.slow
def test_adaptation_stands_beside_its_baselines(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "STEP_SIZES", (0.02, 0.1))  # fewer, to save time
    workdir = tmp_path / "run"
    adaptation.main(
        ["mnist_usps", *ADAPTED, "--weights.bank", str(bank), *DISTIL, "--full", str(bank),
         "--workdir", str(workdir)]
    )  # fmt: skip
    result = json.loads((workdir / "result.json").read_text())
    rows = {row["name"]: row["accuracy"] for row in json.loads((workdir / "baselines/result.json").read_text())["rows"]}
    assert list(rows) == [
        "no adaptation", "random real", f"random real, step sizes of {workdir}", "optimized real", "k-means",
        "average real", "random k-NN", "k-means k-NN", f"distilled k-NN: {workdir}", "full training",
        f"distilled: {workdir}",
    ]  # fmt: skip
    chosen = [row.get("epochs") for row in json.loads((workdir / "baselines/result.json").read_text())["rows"]]
    assert all(epochs in (1, 3, 5) for epochs in chosen if epochs is not None)
    for row, kind in (("no adaptation", "before"), (f"distilled: {workdir}", "after")):
        assert rows[row] == pytest.approx(result["test_accuracy"][kind], abs=1e-6)  # accuracies are float32
    assert (rows["full training"]["n"], result["test_accuracy"]["after"]["n"]) == (3, 2)
    assert not load_distilled(workdir / "distilled.npz").initial_weights
    write(results.read_run(workdir), tmp_path / "results")
    row = next(
        line
        for line in tables_of(read_records(tmp_path / "results").values()).splitlines()
        if "results/adaptation/run" in line
    )
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[4] == percent(result["test_accuracy"]["after"])
    assert [cells[6], cells[7], cells[-1]] == [
        percent(rows[name]) for name in ("no adaptation", "random real", "full training")
    ]


def test_a_bank_of_other_images_than_whitened_ones_is_refused_for_these(bank, tmp_path):
    command = ["digits", "--weights.bank", str(bank), "--weights.law", "xavier_normal", "--weights.gain", "1.0"]
    with pytest.raises(ValueError, match=r"^images.zca: 0.1 is not accepted; use None, as the networks of .* trained"):
        fixed_init.main([*command, "--images.zca", "0.1", "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_bank_of_32_pixels_serves_a_lenet_for_28(tmp_path):
    """As the paper's code puts SVHN's LeNets to MNIST: the first convolution pads by 2 there."""
    large, small = (32, 32, 3), (28, 28, 3)
    of_bank, network = (make_network("lenet", shape, 10) for shape in (large, small))
    for part, seed in (("train", 0), ("held_out", 1)):
        thetas = jax.vmap(of_bank.init)(jax.random.split(jax.random.key(seed), 4))
        save_shard(tmp_path / part, 0, large, Bank(jax.device_get(thetas), np.ones(4)))
    setting = Weights(bank=tmp_path, bank_size=32, nets=2, validation_nets=1)
    nets = nets_of(setting, network, small, 0)
    images = jax.random.normal(jax.random.key(2), (5, *small))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    (keys, held_out), drawn = nets.test, nets.training(1)
    assert (len(keys), len(jax.tree.leaves(drawn)[0])) == (3, 2)
    for thetas in (held_out, drawn):
        logits, wanted = (
            jax.vmap(apply, (0, None))(thetas, x) for apply, x in ((network.apply, images), (of_bank.apply, padded))
        )
        np.testing.assert_allclose(logits, wanted, atol=1e-5)
        assert np.std(wanted, axis=0).min() > 0
    known = nets_of(dataclasses.replace(setting, nets=None), network, small, 0).known
    np.testing.assert_array_equal(
        known["params"]["Dense_2"]["kernel"][0],
        load_bank(tmp_path / "train", of_bank, large).weights["params"]["Dense_2"]["kernel"][0],
    )
    with pytest.raises(ValueError, match=r"^bank: .* for images of \(32, 32, 3\), not \(28, 28, 3\)"):
        nets_of(dataclasses.replace(setting, bank_size=None), network, small, 0)
    with pytest.raises(ValueError, match=r"^bank: the networks of .* do not fit the network"):
        nets_of(setting, make_network("convnet", small, 10), small, 0)
    with pytest.raises(ValueError, match=r"^weights.bank_size: 32 has no effect without weights.bank"):
        nets_of(Weights(bank_size=32, nets=2), network, small, 0)


def test_a_bank_that_is_older_than_a_setting_grows(bank, tmp_path):
    """Files of banks without a smaller last batch do not speak of it, as they did not before it could be had."""
    held = json.loads((bank / "config.json").read_text())["recipe"]
    assert "keep_last" not in held
    folder = tmp_path / "bank"
    shutil.copytree(bank, folder)
    with pytest.raises(ValueError, match=r"other settings \(recipe.keep_last is None there and True here\)"):
        pretrain.main([*QUICK, "--recipe.keep-last", "--workdir", str(folder)])


@pytest.mark.slow
def test_a_fixed_bank_is_its_first_network(bank, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(baselines, "run", lambda preset, config, **_: asked.append(config))
    adaptation.main(
        [
            "mnist_usps_fixed",
            *ADAPTED,
            "--weights.bank",
            str(bank),
            "--full",
            str(bank),
            "--outer.steps",
            "2",
            "--workdir",
            str(tmp_path),
        ]
    )
    known = load_distilled(tmp_path / "distilled.npz").initial_weights
    np.testing.assert_array_equal(known["params/Dense_2/kernel"], weights(bank / "train")[0])
    assert json.loads((tmp_path / "result.json").read_text())["test_accuracy"]["after"]["n"] == 1
    assert (asked[0].weights.bank, asked[0].weights.nets, asked[0].steps) == (bank, None, 10)


@pytest.mark.slow
def test_a_finished_attack_and_adaptation_are_left_as_they_are(attacked, bank, tmp_path, monkeypatch, capsys):
    command = ["digits", "--weights.bank", str(bank), *DISTIL, "--outer.steps", "60", "--outer.learning-rate", "0.1"]
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in attacked.rglob("*") if p.is_file()}
    monkeypatch.setattr(attack, "assemble", lambda *_: pytest.fail("nothing needs to be assembled"))
    attack.main([*command, "--workdir", str(attacked)])
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in attacked.rglob("*") if p.is_file()} == before
    printed = capsys.readouterr().out
    assert "| step size | – | 0.0" in printed  # the learned one, beside that of real images
    for name, other, held in (("sets", "3", "2"), ("candidates", "6", "5")):
        with pytest.raises(ValueError, match=rf"^{name}: {other} is not accepted; use {held}, as .*attack.json has"):
            attack.main([*command, f"--{name}", other, "--workdir", str(attacked)])


@pytest.mark.slow
def test_records_of_banks_and_attacks_have_their_tables(bank, attacked, tmp_path):
    for run in (bank, attacked):
        write(results.read_run(run), tmp_path)
    written = tables_of(read_records(tmp_path).values())
    of_bank, of_attack = (json.loads(path.read_text()) for path in (bank / "result.json", attacked / "attack.json"))
    assert f"| 3 × 2 | {of_bank['wall_seconds']:.0f} s | {percent(of_bank['test_accuracy']['train'])} |" in written
    assert (
        f"| 0 → 1 | {percent(of_attack['before']['attacked_to_target'])} "
        f"| {percent(of_attack['after']['attacked_to_target'])} |"
    ) in written


@pytest.mark.slow
def test_evaluate_takes_the_bank_s_held_out_networks(attacked, bank, monkeypatch, capsys):
    evaluate.main([str(attacked)])
    printed = capsys.readouterr().out
    assert printed.count("(n = 2)") == 2  # all but the one for validation
    result = json.loads((attacked / "result.json").read_text())["test_accuracy"]
    for when in ("before", "after"):  # by the modified labels, like the run
        assert f"{100 * result[when]['mean']:.2f} ± " in printed
    evaluate.main([str(attacked), "--at", "0", "--split", "validation"])
    assert "(n = 1)" in capsys.readouterr().out  # the one for validation, and that is said
    with pytest.raises(ValueError, match=r"^bank: .* is not accepted with a law or a gain"):
        evaluate.main([str(attacked), "--bank", str(bank), "--gain", "2"])
    file = load_distilled(attacked / "distilled.npz")
    initialisation = file.meta["initialisation"] | {"fingerprint": "another"}
    monkeypatch.setattr(evaluate, "load", lambda _: file._replace(meta=file.meta | {"initialisation": initialisation}))
    with pytest.raises(ValueError, match=r"^bank: .* has changed since .* was made; give --bank to use it as it is"):
        evaluate.main([str(attacked), "--at", "0"])
    evaluate.main([str(attacked), "--at", "0", "--bank", str(bank)])
    monkeypatch.undo()
    capsys.readouterr()
    evaluate.main([str(attacked), "--at", "0", "--law", "xavier_normal", "--nets", "3"])
    assert "(n = 3)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "0"], "target: 0 is not accepted; use another class than --attacked"),
        (["--sets", "0"], "sets: 0 is not accepted; use 1 or more"),
        (["--candidates", "0"], "candidates: 0 is not accepted; use 1 or more"),
        (["--attacked-weight", "0"], "attacked_weight: 0.0 is not accepted; use a positive number"),
        (["--attacked", "10"], "relabel: 10 → 1 has no class 10; use 0 … 9"),
        (["--weights.nets", "4"], "weights.nets: 4 is not accepted; use 1 … 3, the networks of the bank"),
        (["--weights.jitter", "-1"], "weights.jitter: -1.0 is not accepted; use 0 or more"),
        (["--weights.jitter", "0.1", "--weights.nets", "None"], "weights.jitter: 0.1 is not accepted without"),
        (["--weights.bank", "None"], "weights.bank: None is not accepted"),
        (["--weights.bank", "elsewhere"], "weights.bank: elsewhere is not accepted; use the work folder"),
        (["--images.size", "32"], r"bank: .* is of networks for images of \(28, 28, 1\), not \(32, 32, 1\)"),
        (
            ["--images.size", "32", "--network", "alexcifarnet"],
            r"bank: .* is of networks for images of \(28, 28, 1\), not \(32, 32, 1\)",
        ),
        (["--images.channels", "2"], "channels: 2 is not accepted"),
        (["--seed", "1"], "seed: 1 is not accepted; use 0, as .* has"),  # the bank has seen its validation images
        (["--validation-fraction", "0.2"], "validation_fraction: 0.2 is not accepted; use 0.1, as .* has"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_anything_is_written(bank, tmp_path, arguments, message):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match=f"^{message}"):
        attack.main(["digits", "--weights.bank", str(bank), *DISTIL, *arguments, "--workdir", str(workdir)])
    assert not workdir.exists()


def test_an_adaptation_s_baselines_are_checked_before_it_begins(bank, tmp_path):
    for arguments, message in (
        (["--full", "elsewhere"], "full: elsewhere is not accepted; use the work folder of experiments.pretrain"),
        (["--full", str(bank), "--candidates", "0"], "candidates: 0 is not accepted"),
        (
            ["--full", str(bank), "--network", "alexcifarnet"],
            "full: .*, with network lenet, is not accepted; use a bank with alexcifarnet",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            adaptation.main(
                ["mnist_usps", *ADAPTED, "--weights.bank", str(bank), *arguments, "--workdir", str(tmp_path / "run")]
            )
    assert not any(tmp_path.iterdir())


def test_networks_that_diverge_are_not_saved(tmp_path):
    with pytest.raises(RunError, match=r"train network 0 is not finite; lower --recipe.learning-rate"):
        pretrain.main([*QUICK, "--networks", "1", "--recipe.learning-rate", "1e30", "--workdir", str(tmp_path / "b")])
    assert not (tmp_path / "b" / "train").exists()


def test_bad_banks_are_refused(tmp_path):
    for arguments, message in (
        (["--networks", "0"], "networks: 0 is not accepted"),
        (["--group", "0"], "group: 0 is not accepted"),
        (["--recipe.batch-size", "5000"], "recipe.batch_size: 5000 is not accepted"),
        (["--law", "cauchy"], "law: 'cauchy' is unknown"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            pretrain.main(["digits", *arguments, "--workdir", str(tmp_path / "bank")])
    assert not any(tmp_path.iterdir())
