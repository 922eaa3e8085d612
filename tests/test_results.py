"""The README's table comes from records, and records from finished runs."""

import dataclasses
import json

import pytest

from dd_jax.evaluation import Training
from experiments import results


def finished_run(folder, accuracy, reported):
    folder.mkdir(parents=True)
    content = {
        "experiment": "fixed_init",
        "dataset": "mnist",
        "outer_steps": 2400,
        "wall_seconds": 630.0,
        "test_accuracy": {
            "before": {"mean": 0.1, "std": 0.0, "n": 1},
            "after": {"mean": accuracy, "std": 0.01, "n": 200},
        },
        "reported": reported,
        "config": {"distilled": {"steps": 10, "epochs": 3, "images_per_class": 1}, "batch_size": 256},
    }
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "distilled.npz").write_bytes(b"data")
    (folder / "images.png").write_bytes(b"picture")


def test_the_table_holds_what_was_measured_beside_what_was_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    finished_run(tmp_path / "runs" / "b", 0.9123, None)
    finished_run(tmp_path / "runs" / "a", 0.8, 0.966)
    results.main([str(tmp_path / "runs" / name) for name in "ba"])
    readme = (tmp_path / "README.md").read_text()
    rows = [line for line in readme.splitlines() if "results/fixed_init" in line]
    assert [row.split("|")[-4:-1] for row in rows] == [
        [" 10.00 % ", " 80.00 ± 1.00 % (n = 200) ", " 96.6 % "],
        [" 10.00 % ", " 91.23 ± 1.00 % (n = 200) ", " – "],
    ]
    assert "2,400 × 256 | 10 min" in rows[0]
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")
    assert "old" not in readme
    assert (tmp_path / "results" / "fixed_init" / "a" / "images.png").read_bytes() == b"picture"


def test_the_budget_has_that_of_the_runs_it_began_from(tmp_path):
    run = tmp_path / "runs" / "longer"
    finished_run(run, 0.9, None)
    content = json.loads((run / "result.json").read_text())
    earlier = {"outer_steps": 10000, "wall_seconds": 570.0}
    (run / "result.json").write_text(json.dumps(content | {"earlier": earlier}))
    results.record(run, tmp_path / "results")
    assert "| 10,000 + 2,400 × 256 | 20 min |" in results.tables(tmp_path / "results")


def test_a_later_evaluation_on_more_networks_is_quoted_and_kept(tmp_path):
    run = tmp_path / "runs" / "few"
    finished_run(run, 0.9, None)
    content = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(content | {"experiment": "random_init"}))
    scores = [{"steps": 30, "accuracy": {"mean": 0.777, "std": 0.02, "n": 500}}]
    evaluation = {"split": "test", "training": dataclasses.asdict(Training()), "scores": scores}
    for other in (
        {"split": "validation"},
        {"training": dataclasses.asdict(Training(epochs=4))},
        {"scores": [scores[0] | {"steps": 20}]},
    ):
        (run / "evaluation.json").write_text(json.dumps(evaluation | other))
        with pytest.raises(ValueError, match="use one on test after all 30 stored steps"):
            results.record(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    results.record(run, tmp_path / "results")
    assert "| 77.70 ± 2.00 % (n = 500) |" in results.tables(tmp_path / "results")


def test_a_large_file_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    run, target = tmp_path / "runs" / "big", tmp_path / "results" / "fixed_init" / "big"
    finished_run(run, 0.9, None)
    results.record(run, tmp_path / "results")
    assert (target / "distilled.npz").read_bytes() == b"data"
    (run / "distilled.npz").write_bytes(bytes(results.LARGEST + 1))
    results.record(run, tmp_path / "results")
    assert not (target / "distilled.npz").exists()
    assert (target / "result.json").is_file()
    assert "distilled.npz is 2 MiB and left out" in capsys.readouterr().out


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no result\.json"):
        results.record(tmp_path, tmp_path / "results")


def test_a_run_whose_second_half_is_missing_is_refused(tmp_path):
    run = tmp_path / "mnist"
    finished_run(run, 0.9, None)
    content = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(content | {"experiment": "attack"}))
    with pytest.raises(ValueError, match=r"has no attack\.json; use the work folder of a finished run"):
        results.record(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_run_without_a_table_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"experiment": "linear_case"}')
    with pytest.raises(ValueError, match="is of linear_case; use one of fixed_init, random_init, baselines"):
        results.record(tmp_path, tmp_path / "results")


def test_a_table_of_baselines_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{results.BEGIN}\n{results.END}\n")
    run = tmp_path / "runs" / "mnist"
    run.mkdir(parents=True)
    (run / "result.json").write_text('{"experiment": "baselines", "wall_seconds": 90.0}')
    (run / "table.md").write_text("| a | b |\n")
    results.main([str(run)])
    readme = (tmp_path / "README.md").read_text()
    assert "Baselines on mnist, as many images as `random_init` (90 s):\n\n| a | b |\n" in readme
