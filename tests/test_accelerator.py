"""benchmarks.accelerator: what it plans, what becomes of a case that fails, and its small version from end to end."""

import argparse
import json
import sys

import pytest

from benchmarks import accelerator, readme
from benchmarks.accelerator import Batch, Record, Worker, plan
from benchmarks.accelerator_cases import KINDS, at_a_time
from benchmarks.accelerator_tables import tables
from dd_jax.inner.modes import MODES
from dd_jax.networks.convolution import METHODS
from experiments.settings import PRECISIONS

FACTS = {
    "device": "a device",
    "platform": "gpu",
    "devices": 1,
    "platform_version": "a driver",
    "host": "2 cores",
    "versions": {"jax": "1.2.3"},
}
OPTIONS = argparse.Namespace(minutes=8.0, small=False)
RATE = {"kind": "rate", "precision": "float32", "size": 64}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_plan_checks_first_and_can_be_written_to_json(platform, small):
    batches = plan(platform, small)
    cases = [case for batch in batches for case in batch.cases]
    assert json.loads(json.dumps(cases)) == cases
    assert {case["kind"] for case in cases} <= KINDS.keys()
    assert cases[0]["kind"] == "correctness"
    assert [batch.until for batch in batches] == sorted({batch.until for batch in batches})
    assert not any(case["kind"] == "pytorch" for case in cases) or platform != "tpu"


def test_the_whole_plan_has_every_mode_method_and_precision():
    cases = [case for batch in plan("gpu", small=False) for case in batch.cases]
    checked = {(c["mode"], c["convolution"], c["optimizer"]) for c in cases if c["kind"] == "correctness"}
    assert checked >= {(mode, method, rule) for mode in MODES for method in METHODS for rule in ("plain", "adam")}
    for kind in ("gradient", "distillation", "rate"):
        assert {c["precision"] for c in cases if c["kind"] == kind} == set(PRECISIONS)
    timed = [c for c in cases if c["kind"] == "timing"]
    assert {c["workload"] for c in timed} == {"W1", "W2", "W3", "W4", "W5"}
    assert {c.get("nets", 4) for c in timed if c["workload"] == "W2"} == {1, 4, 16, 64}
    assert any(c.get("over") == "map" for c in timed)


@pytest.mark.slow
def test_a_case_that_fails_or_takes_too_long_is_recorded_and_the_rest_goes_on(tmp_path):
    worker = Worker(3600.0)
    record = Record(tmp_path / "out.json", FACTS, OPTIONS)
    endless = {"kind": "distillation", "precision": "float32", "network": "mlp", "outer_steps": 10**6, "nets": 1}
    worker.measure(Batch([RATE | {"precision": "float99"}, RATE, {"kind": "unknown"}], 1.0), 3600.0, record)
    assert worker.is_alive
    worker.measure(Batch([endless, endless], 1.0), 10.0, record)
    assert not worker.is_alive
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    measured = [case for case in results if "flops_per_second" in case]
    assert [case["precision"] for case in measured] == ["float32"]
    errors = [case["error"] for case in results if "error" in case]
    assert sum(error.startswith("ValueError: ") for error in errors) == 1
    assert "KeyError: 'unknown'" in errors
    assert errors.count("out of time, 10 s for its batch") == 2
    text = tables(record.content)
    assert "- out of time, 10 s for its batch: distillation mlp 1 float32; distillation mlp 1 float32" in text


def test_what_is_not_a_number_is_null(tmp_path, capsys):
    record = Record(tmp_path / "out.json", FACTS, OPTIONS)
    check = {"kind": "correctness", "network": "lenet", "optimizer": "plain", "mode": MODES[0], "convolution": "lax"}
    record.add(check, {"errors": {"loss": 1e-7, "images": float("nan")}})
    record.leave_out([RATE], "no time was left")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["results"][0]["errors"] == {"loss": 1e-7, "images": None}
    text = tables(content)
    assert "| lenet | plain | lax | – | – | – | – |" in text
    assert "- no time was left: rate float32" in text


def test_presets_take_what_time_there_is(tmp_path, monkeypatch):
    w3 = {"kind": "timing", "workload": "W3", "implementation": "ours", "seconds": 0.1}
    assert accelerator._steps_that_fit([w3 | {"seconds": 0.4}, w3, {"kind": "rate"}], 4, 80.0) == 100
    assert accelerator._steps_that_fit([], 4, 80.0) == 20
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    record = Record(tmp_path / "out.json", FACTS, OPTIONS)
    accelerator._presets(1e9, record, argparse.Namespace(small=False, out=tmp_path / "out.json"))
    assert {case["why"] for case in record.content["left_out"]} == {f"no TFDS copy in {tmp_path / 'cifar10'}"}
    assert not record.content["results"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes: 0.0 is not accepted; use a positive number"),
        (["--out", "{there}"], "is not accepted; use a new file in an existing folder"),
        (["--out", "{there}.none/out.json"], "is not accepted; use a new file in an existing folder"),
        (["--read", "{there}"], "is not accepted (KeyError); use a file that --out wrote"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(options, message, tmp_path, monkeypatch, capsys):
    there = tmp_path / "there"
    there.write_text("{}")
    monkeypatch.setattr(accelerator, "measure", lambda options: pytest.fail("it is refused before"))
    monkeypatch.setattr(sys, "argv", ["accelerator", *(option.format(there=there) for option in options)])
    with pytest.raises(SystemExit):
        accelerator.main()
    assert message in capsys.readouterr().err
    assert there.read_text() == "{}"


@pytest.mark.slow
def test_the_small_version_measures_everything_and_its_tables_go_to_the_readme(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["accelerator", "--small", "--minutes", "600", "--out", str(out)])
    accelerator.main()
    content = json.loads(out.read_text())
    assert [r for r in content["results"] if "error" in r] == []
    assert [case["kind"] for case in content["left_out"]] == ["preset", "preset"]
    planned = [case for batch in plan("cpu", small=True) for case in batch.cases]
    assert len(content["results"]) == len(planned)
    checks = [r for r in content["results"] if r["kind"] == "correctness"]
    assert {r["mode"] for r in checks} == set(MODES)
    for r in checks:
        assert r["errors"].keys() == {"loss", "images", "labels", "step sizes"}
        assert max(r["errors"].values()) < 1e-5
    (gradient,) = (r for r in content["results"] if r["kind"] == "gradient")
    assert min(gradient["cosines"].values()) > 0.9999
    losses = {r["loss"] for r in content["results"] if r.get("workload") == "W1" and "loss" in r}
    assert max(losses) - min(losses) < 1e-5
    assert content["compiled_at_a_time"] == at_a_time()

    page = tmp_path / "README.md"
    page.write_text(readme.README.read_text())
    monkeypatch.setattr(readme, "README", page)
    monkeypatch.setattr(sys, "argv", ["accelerator", "--read", str(out), "--write"])
    accelerator.main()
    lines = readme.written("accelerator")
    assert lines[0] == f"### {content['devices']} × {content['device']}, the small version"
    for cell in ("| W1 | ours |", "| W1 | idiomatic |", "| float32 | mlp | 2 |", "| bfloat16 | W1 | matmul |"):
        assert any(line.startswith(cell) for line in lines), cell
