"""Transfer, as a user runs it: a network that is trained on five digits learns the others from a few images."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.text import percent
from dd_jax.networks import make_network
from dd_jax.weights.bank import load_bank
from experiments import baselines, pretrain, results, transfer
from experiments.command_line import command_line
from experiments.kept import read_records, write
from experiments.problem import check_split
from experiments.settings import Images
from experiments.tables import tables_of

FIRST, OTHERS = (["--images.classes", *map(str, classes)] for classes in (range(5), range(5, 10)))
TARGET = ["--dataset", "digits", "--network", "lenet", "--validation-fraction", "0.1", "--batch-size", "64", *OTHERS]
QUICK = ["--no-augment", "--sets", "2", "--candidates", "5", "--epochs", "3", "--recipe.epochs", "2"]
QUICK += ["--outer.steps", "4", "--recipe.batch-size", "64"]


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("bank") / "first_half"
    pretrain.main(
        ["digits", *FIRST, "--recipe.epochs", "4", "--networks", "1", "--held-out", "0", "--workdir", str(workdir)]
    )
    return workdir


@pytest.mark.slow
def test_a_transfer_stands_beside_its_baselines_and_fine_tuning(bank, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "STEP_SIZES", (0.02, 0.1))  # fewer, to save time
    monkeypatch.setattr(baselines, "FINER", (1.0,))
    workdir = tmp_path / "run"
    command = ["cifar10_halves_1", *TARGET, *QUICK, "--weights.bank", str(bank), "--workdir", str(workdir)]
    transfer.main(command)
    result, table, tuned = (
        json.loads((workdir / name).read_text())
        for name in ("result.json", "baselines/result.json", "fine_tuned/result.json")
    )
    rows = {row["name"]: row["accuracy"] for row in table["rows"]}
    assert list(rows) == [
        "no adaptation", "random real", f"random real, step sizes of {workdir}", "optimized real", "k-means",
        "average real", "random k-NN", "k-means k-NN", f"distilled k-NN: {workdir}", "full fine-tuning",
        f"distilled: {workdir}",
    ]  # fmt: skip
    before, after = (result["test_accuracy"][when]["mean"] for when in ("before", "after"))
    assert before == rows["no adaptation"]["mean"] == pytest.approx(0.2, abs=0.01)  # all logits are one
    assert after > before + 0.2 and rows["full fine-tuning"]["mean"] > 0.7
    assert rows["full fine-tuning"]["mean"] == pytest.approx(tuned["test_accuracy"]["train"]["mean"])
    assert rows[f"distilled: {workdir}"]["mean"] == pytest.approx(after)
    file = load_distilled(workdir / "distilled.npz")
    held = load_bank(bank / "train", make_network("lenet", (28, 28, 1), 5), (28, 28, 1)).weights["params"]
    np.testing.assert_array_equal(file.initial_weights["params/Conv_1/kernel"], held["Conv_1"]["kernel"][0])
    np.testing.assert_array_equal(file.initial_weights["params/Dense_2/kernel"], np.zeros((84, 5)))
    np.testing.assert_array_equal(file.initial_weights["params/Dense_2/bias"], np.ones(5))
    assert file.meta["class_names"] == ["5", "6", "7", "8", "9"] and file.images.shape[:2] == (1, 5)
    times = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}
    transfer.main(command)
    assert times == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}  # it was finished
    for run in (bank, workdir):
        write(results.read_run(run), tmp_path / "results")
    row = next(
        line
        for line in tables_of(read_records(tmp_path / "results").values()).splitlines()
        if "results/transfer/run" in line
    )
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    names = ("random real", "optimized real", "k-means", "average real", "full fine-tuning")
    assert cells[1] == "1 per class × 1"
    assert cells[4:] == [percent(result["test_accuracy"]["after"]), *(percent(rows[name]) for name in names)]
    assert jax.tree.leaves(held)[0].shape[0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--weights.bank", "None"],
            "weights.bank: None is not accepted; use the work folder of pretrain or of convert",
        ),
        (["--fine-tuned", "-1"], "fine_tuned: -1 is not accepted; use 0 or more"),
        (["--candidates", "0"], "candidates: 0 is not accepted"),
        (
            ["--images.classes", "5"],
            r"images.classes: \[5\] is not accepted; use two or more different numbers of 0 … 9",
        ),
        (["--weights.head", "loaded", "--images.classes", "0", "1"], "bank: the networks of .* do not fit the network"),
    ],
)
def test_what_cannot_be_transferred_is_refused_before_anything_is_written(bank, tmp_path, options, message):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match=f"^{message}"):
        transfer.main(["cifar10_halves", *TARGET, "--weights.bank", str(bank), *options, "--workdir", str(workdir)])
    assert not workdir.exists()


def test_a_bank_that_has_seen_some_of_the_validation_images_is_told_of(bank, caplog):
    _, config = command_line(transfer.PRESETS, "", "", ["cifar10_halves", *TARGET, "--weights.bank", str(bank)])
    check_split(bank, config.base, "another")
    assert not caplog.messages
    check_split(bank, dataclasses.replace(config.base, images=Images(classes=(4, 5))), "another")
    assert [message for message in caplog.messages if "have seen some of what is held out" in message]
