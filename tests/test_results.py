"""The tables of the README and of docs/results.md come from records, and records from finished runs."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pages import made_up

from dd_jax.evaluation import Training
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.scored import load_scored, save_scored
from experiments import results
from experiments.kept import read_records, write
from experiments.tables import HEADLINES, headlines_of, tables_of

RESULTS = results.ROOT / "results"
FILES = sorted(RESULTS.glob("*/*/distilled.npz"))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty one, of which the command is part."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    for page in results.PAGES:
        (tmp_path / page).write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    return tmp_path


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished_run(folder, accuracy, reported, nets=4):
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
        "config": {
            "distilled": {"steps": 10, "epochs": 3, "images_per_class": 1},
            "weights": {"nets": nets},
            "batch_size": 256,
        },
    }
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "distilled.npz").write_bytes(b"data")
    (folder / "images.png").write_bytes(b"picture")


def test_runs_with_later_methods_have_a_table_that_says_what_they_add(checkout):
    run = checkout / "runs" / "five"
    finished_run(run, 0.95, None, nets=None)
    content = json.loads((run / "result.json").read_text())
    config = content["config"]
    config |= {"network": "convnet", "network_options": ["width=32"], "inner": {"optimizer": "momentum", "window": 20}}
    config["distilled"] |= {"images": 5, "labels": "learned"}
    (run / "result.json").write_text(json.dumps(content | {"experiment": "modern"}))
    results.main([str(run)])
    page = (checkout / "docs/results.md").read_text()
    row = (
        "| mnist | known convnet width=32 | 5 a step × 10 | learned | 30 steps, momentum, windows of 20 | 2,400 × 256 |"
    )
    assert row in page
    assert page.count("results/modern/five") == 1
    assert "](../results/modern/five)" in page


def test_the_table_holds_what_was_measured_beside_what_was_reported(checkout, capsys):
    finished_run(checkout / "runs" / "b", 0.9123, None)
    finished_run(checkout / "runs" / "a", 0.8, 0.966)
    results.main([str(checkout / "runs" / name) for name in "ba"])
    assert capsys.readouterr().out == (
        "results/fixed_init/b: new\nresults/fixed_init/a: new\n"
        "README.md, docs/results.md: their tables are written from the 2 records under results\n"
    )
    page = (checkout / "docs/results.md").read_text()
    rows = [line for line in page.splitlines() if "results/fixed_init" in line]
    assert [row.split("|")[-4:-1] for row in rows] == [
        [" 10.00 % (n = 1) ", " 80.00 ± 1.00 % (n = 200) ", " 96.6 % (from memory) "],
        [" 10.00 % (n = 1) ", " 91.23 ± 1.00 % (n = 200) ", " – "],
    ]
    assert "2,400 × 256 | 10 min" in rows[0]
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "old" not in page
    assert (checkout / "results" / "fixed_init" / "a" / "images.png").read_bytes() == b"picture"


def test_help_records_nothing(checkout, capsys):
    before = files(checkout)
    with pytest.raises(SystemExit) as stop:
        results.main(["--help"])
    assert not stop.value.code
    assert "--replace" in capsys.readouterr().out
    assert files(checkout) == before


def test_without_runs_the_tables_are_written_again(checkout, capsys):
    finished_run(checkout / "runs" / "a", 0.8, None)
    write(results.read_run(checkout / "runs" / "a"), checkout / "results")
    results.main([])
    assert "results/fixed_init/a" in (checkout / "docs/results.md").read_text()
    assert (
        capsys.readouterr().out
        == "README.md, docs/results.md: their tables are written from the 1 records under results\n"
    )


def test_a_record_that_differs_is_replaced_only_when_told_so(checkout, capsys):
    run = checkout / "runs" / "a"
    finished_run(run, 0.8, None)
    results.main([str(run)])
    results.main([str(run)])  # the same again is no replacement
    assert "results/fixed_init/a: recorded already\n" in capsys.readouterr().out
    content = (run / "result.json").read_text()
    (run / "result.json").write_text(content.replace('"mean": 0.8', '"mean": 0.7').replace("630.0", "690.0"))
    other = checkout / "runs" / "other"
    finished_run(other, 0.9, None)
    before = files(checkout)
    with pytest.raises(
        ValueError, match=r"^runs: results/fixed_init/a would be replaced, .*; give --replace to do so$"
    ):
        results.main([str(other), str(run)])
    said = (
        "results/fixed_init/a: replaces the record of that name: result.json; time: 10 min → 12 min; "
        "after, measured: 80.00 ± 1.00 % (n = 200) → 70.00 ± 1.00 % (n = 200)\n"
    )
    assert said in capsys.readouterr().out
    assert files(checkout) == before
    results.main([str(other), str(run), "--replace"])
    assert said in capsys.readouterr().out
    assert "| 70.00 ± 1.00 % (n = 200) |" in (checkout / "docs/results.md").read_text()
    assert (checkout / "results" / "fixed_init" / "other" / "result.json").is_file()


def test_a_replaced_record_keeps_no_evaluation_of_the_one_before(checkout, capsys):
    run, target = checkout / "runs" / "few", checkout / "results" / "random_init" / "few"
    finished_run(run, 0.9, None)
    content = (run / "result.json").read_text().replace("fixed_init", "random_init")
    (run / "result.json").write_text(content)
    target.mkdir(parents=True)
    for file in run.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    evaluation = {"scores": [{"steps": 30, "accuracy": {"mean": 0.777, "std": 0.02, "n": 500}}]}
    (target / "evaluation.json").write_text(json.dumps(evaluation))
    results.main([str(run), "--replace"])
    assert "77.70 ± 2.00 % (n = 500) → 90.00 ± 1.00 % (n = 200)" in capsys.readouterr().out
    assert not (target / "evaluation.json").exists()


def test_nothing_is_recorded_unless_everything_can_be(checkout):
    good, bad, twin = (checkout / "runs" / name for name in ("good", "bad", "elsewhere/good"))
    for run in (good, bad, twin):
        finished_run(run, 0.8, None)
    before = files(checkout)
    (bad / "images.png").unlink()
    with pytest.raises(ValueError, match=r"^run: .*bad has no images\.png"):
        results.main([str(good), str(bad)])
    (bad / "images.png").write_bytes(b"picture")
    for damaged, message in (
        ('{"experiment', r"bad/result\.json is damaged"),
        ('{"experiment": "fixed_init"}', "bad "),
    ):
        whole = (bad / "result.json").read_text()
        (bad / "result.json").write_text(damaged)
        with pytest.raises(ValueError, match=f"^run: .*{message}.*; use the work folder of a finished run$"):
            results.main([str(good), str(bad)])
        (bad / "result.json").write_text(whole)
    with pytest.raises(ValueError, match=r"^run: .*elsewhere/good would be results/fixed_init/good, as one before it"):
        results.main([str(good), str(twin)])
    assert files(checkout) == before


def test_outside_a_checkout_it_refuses(checkout):
    for page in ("docs/results.md", "README.md"):
        (checkout / page).unlink()
        with pytest.raises(ValueError, match=rf"^{page}: .* has no tables; records are kept in a checkout of dd_jax"):
            results.main([])
    assert not files(checkout)


def test_a_run_for_random_networks_is_one_even_if_tested_on_one(checkout):
    for name, nets in (("known", None), ("random", 4)):
        finished_run(checkout / "runs" / name, 0.8, None, nets)
        content = (checkout / "runs" / name / "result.json").read_text()
        (checkout / "runs" / name / "result.json").write_text(content.replace('"n": 200', '"n": 1'))
    results.main([str(checkout / "runs" / name) for name in ("known", "random")])
    page = (checkout / "docs/results.md").read_text()
    assert "| [known](../results/fixed_init/known) | mnist | known |" in page
    assert "| [random](../results/fixed_init/random) | mnist | random |" in page


@pytest.mark.parametrize("page", results.PAGES)
def test_a_page_has_the_tables_of_the_records(page):
    between = (results.ROOT / page).read_text().split(results.BEGIN)[1].split(results.END)[0]
    assert between == f"\n{results.PAGES[page](read_records(RESULTS).values())}\n"


def test_the_readme_has_a_row_of_each_headline_with_the_figures_of_the_tables():
    summary, tables = headlines_of(read_records(RESULTS).values()), tables_of(read_records(RESULTS).values())
    rows = [line for line in summary.splitlines() if "](" in line]
    places = list(itertools.chain(*HEADLINES))
    assert [row.split("](results/")[1].split(")")[0] for row in rows] == places
    for place, row in zip(places, rows, strict=True):
        full = next(line for line in tables.splitlines() if f"](../results/{place})" in line)
        assert row.split(" | ")[-3:] == full.split(" | ")[-3:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_the_distilled_data_of_a_record_say_all_that_an_evaluation_needs(path):
    file, result = load_distilled(path), json.loads((path.parent / "result.json").read_text())
    config, meta = result["config"], file.meta
    weights = config["weights"]
    for name in ("experiment", "dataset", "versions"):
        assert meta[name] == result[name]
    assert (meta["network"], meta["validation_fraction"]) == (config["network"], config["validation_fraction"])
    assert meta["images"] == config.get("images", {"size": None, "channels": None})
    known = {"law": weights["law"], "gain": weights["gain"], "seed": config["seed"]}
    if weights.get("bank"):
        known |= {"validation_nets": weights["validation_nets"]}
        assert (path.parent / meta["initialisation"]["bank"]).resolve().name == Path(weights["bank"]).name
    assert known.items() <= meta["initialisation"].items()
    assert meta["relabel"] == config.get("relabel", {})
    assert (meta["steps"], meta["epochs"]) == (config["distilled"]["steps"], config["distilled"]["epochs"])
    assert len(meta["class_names"]) == file.labels.shape[2]
    assert meta["use"]
    assert len(file.step_sizes) == meta["steps"] * meta["epochs"]
    assert bool(file.initial_weights) == (weights.get("nets") is None)


def test_records_have_distilled_data():
    assert len(FILES) >= 16  # so that the test above is of something


def test_the_budget_has_that_of_the_runs_it_began_from(tmp_path):
    run = tmp_path / "runs" / "longer"
    finished_run(run, 0.9, None)
    content = json.loads((run / "result.json").read_text())
    earlier = {"outer_steps": 10000, "wall_seconds": 570.0}
    (run / "result.json").write_text(json.dumps(content | {"earlier": earlier}))
    write(results.read_run(run), tmp_path / "results")
    assert "| 10,000 + 2,400 × 256 | 20 min |" in tables_of(read_records(tmp_path / "results").values())


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
            write(results.read_run(run), tmp_path / "results")
    assert not (tmp_path / "results").exists()
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    write(results.read_run(run), tmp_path / "results")
    assert "| 77.70 ± 2.00 % (n = 500) |" in tables_of(read_records(tmp_path / "results").values())


def test_a_large_file_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    run, target = tmp_path / "runs" / "big", tmp_path / "results" / "fixed_init" / "big"
    finished_run(run, 0.9, None)
    write(results.read_run(run), tmp_path / "results")
    assert (target / "distilled.npz").read_bytes() == b"data"
    (run / "distilled.npz").write_bytes(bytes(results.LARGEST + 1))
    write(results.read_run(run), tmp_path / "results")
    assert not (target / "distilled.npz").exists()
    assert (target / "result.json").is_file()
    assert "distilled.npz is 2 MiB and left out" in capsys.readouterr().out


def test_what_the_page_shows_beyond_the_result_is_kept_where_it_is_small(tmp_path, capsys):
    run, kept = tmp_path / "a", tmp_path / "results/fixed_init/a/scores.npz"
    finished_run(run, 0.8, None)
    facts = made_up()
    save_scored(run / "scores.npz", facts.scored)
    write(results.read_run(run), tmp_path / "results")
    np.testing.assert_array_equal(load_scored(kept).confusion, facts.scored.confusion)
    with (run / "scores.npz").open("ab") as file:
        file.write(bytes(200_000))
    write(results.read_run(run), tmp_path / "results")
    assert not kept.exists()
    assert "scores.npz is 0.19 MiB and left out" in capsys.readouterr().out


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no result\.json"):
        write(results.read_run(tmp_path), tmp_path / "results")


def test_a_run_whose_second_half_is_missing_is_refused(tmp_path):
    run = tmp_path / "mnist"
    finished_run(run, 0.9, None)
    content = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(content | {"experiment": "attack"}))
    with pytest.raises(ValueError, match=r"has no attack\.json; use the work folder of a finished run"):
        write(results.read_run(run), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_run_without_a_table_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"experiment": "linear_case"}')
    with pytest.raises(ValueError, match="is of linear_case; use one of fixed_init, random_init, modern, seeds"):
        write(results.read_run(tmp_path), tmp_path / "results")


def test_a_table_of_baselines_follows(checkout):
    run = checkout / "runs" / "mnist"
    run.mkdir(parents=True)
    accuracy = {"mean": 0.75, "std": 0.08, "n": 20}
    rows = [
        {"name": "random real", "accuracy": accuracy, "reported": 0.686, "reported_std": 0.098},
        {"name": "distilled: runs/mine", "accuracy": accuracy, "reported": None, "reported_std": None},
    ]
    content = {"experiment": "baselines", "dataset": "mnist", "wall_seconds": 90.0, "rows": rows}
    (run / "result.json").write_text(json.dumps(content))
    (run / "table.md").write_text("| as it was printed |\n")
    results.main([str(run)])
    page = (checkout / "docs/results.md").read_text()
    assert (
        "Baselines on mnist, as many images as `random_init` (90 s):\n\n"
        "| | measured | reported | chosen |\n|---|---|---|---|\n"
        "| random real | 75.00 ± 8.00 % (n = 20) | 68.6 ± 9.8 % (from memory) | – |\n"
        "| distilled: runs/mine | 75.00 ± 8.00 % (n = 20) | – | – |\n"
    ) in page
