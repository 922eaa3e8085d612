"""Work folders in a bucket: a run goes on from there, and nothing is lost on the way."""

import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from experiments import bucket as buckets
from experiments import fixed_init
from experiments.bucket import Bucket, local_workdir

SMALL = ["digits", "--network", "mlp", "--outer.steps", "4", "--batch-size", "32", "--distilled.epochs", "1"]
SMALL += ["--outer.perturbations", "1"]


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets.tempfile, "tempdir", str(tmp_path))
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def run(url):
    with local_workdir([*SMALL, "--workdir", url]) as argv:
        folder = Path(argv[-1])
        fixed_init.main(argv)
    assert not folder.exists()


def test_a_run_is_kept_in_the_bucket_and_goes_on_from_there(memory, capsys):
    run("memory://bucket/run")
    names = {path.removeprefix("/bucket/run/") for path in memory.find("/bucket/run")}
    assert {"config.json", "metrics.jsonl", "result.json", "distilled.npz", "report.html"} <= names
    assert any(name.startswith("checkpoints/4/") for name in names)
    with memory.open("/bucket/run/distilled.npz") as file:
        before = dict(np.load(file))
    for name in ("result.json", "distilled.npz"):
        memory.rm_file(f"/bucket/run/{name}")
    run("memory://bucket/run")
    assert "resuming at step 4 of 4" in capsys.readouterr().out
    with memory.open("/bucket/run/distilled.npz") as file:
        after = dict(np.load(file))
    np.testing.assert_array_equal(before["images"], after["images"])


def test_what_changes_is_copied_the_result_last_and_what_is_removed_is_removed(memory, tmp_path, monkeypatch):
    bucket, copied = Bucket("memory://bucket/run/"), []
    put = memory.put_file
    monkeypatch.setattr(type(memory), "put_file", lambda self, a, b: (copied.append(Path(b).name), put(a, b)))
    for name in ("result.json", "a", "checkpoints/1/x", "checkpoints/2.orbax-checkpoint-tmp/x", ".lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    bucket.store(tmp_path)
    assert copied[-1] == "result.json" and sorted(copied) == ["a", "result.json", "x"]
    (tmp_path / "a").write_text("longer")
    (tmp_path / "checkpoints/1/x").unlink()
    bucket.store(tmp_path)
    assert copied[3:] == ["a"]
    assert memory.find("/bucket/run") == ["/bucket/run/a", "/bucket/run/result.json"]
    assert memory.cat("/bucket/run/a") == b"longer"


def test_it_copies_while_a_run_goes_on(memory, monkeypatch):
    monkeypatch.setattr(buckets, "SECONDS", 0.01)
    with local_workdir(["--workdir=memory://bucket/run", "--x"]) as argv:
        assert argv[0] == "--workdir" and argv[2:] == ["--x"]
        Path(argv[1], "a").write_text("1")
        for _ in range(500):
            if memory.exists("/bucket/run/a"):
                break
            buckets.threading.Event().wait(0.01)
        assert memory.exists("/bucket/run/a")


def test_a_bucket_that_fails_at_the_end_leaves_the_run_here(memory, monkeypatch):
    def fails(*_):
        raise RuntimeError("quota")

    monkeypatch.setattr(type(memory), "put_file", fails)
    message = r"^memory://b was not written \(RuntimeError: quota\); the run is in /"
    with pytest.raises(OSError, match=message) as error, local_workdir(["--workdir", "memory://b"]) as argv:
        Path(argv[1], "a").write_text("1")
    assert Path(str(error.value).rpartition(" ")[2], "a").read_text() == "1"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--workdir", "gs://b/run", "--hosts.auto"],
            "gs://b/run is not accepted; use a folder that all processes see",
        ),
        (["--workdir", "zz://b"], r"zz://b is not accepted \(.*Protocol not known.*\); use gs://BUCKET/RUN"),
        (["--workdir=gs://b"], r"the library for such URLs is not installed .*; pip install 'dd-jax\[buckets\]'"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(argv, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match=f"^workdir: .*{message}"), local_workdir(argv):
        pass


def test_other_options_are_left_alone():
    for argv in (["--workdir", "runs/a:b"], ["--outer.steps", "3"], ["digits", "--workdir"]):
        with local_workdir(argv) as taken:
            assert taken is argv
