"""docs/tpu.md and the files beside it: they parse, their commands are this project's, and run.sh loses nothing."""

import contextlib
import importlib
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from experiments import command_line, distil

DOCS = Path(__file__).parent.parent / "docs"
FILES = sorted((DOCS / "cloud").iterdir())
MANIFESTS = [path for path in FILES if path.suffix == ".yaml"]
SCRIPTS = [path for path in FILES if path.suffix == ".sh"]


def commands(path):
    """Each ``python -m experiments.NAME …`` in a file, wherever it stands."""
    text = re.sub(r"\\?\n +(?=--)", " ", path.read_text())
    found = re.findall(r"""python -m (experiments\.[a-z_]+[^\n"'#`]*)""", text)
    return [command.strip() for command in found]


ALL = sorted({command for path in (DOCS / "tpu.md", *FILES) for command in commands(path)})


class Called(Exception):
    pass


@pytest.mark.parametrize("command", ALL)
def test_every_command_is_understood(command, monkeypatch):
    module, *argv = shlex.split(command)
    experiment = importlib.import_module(module)

    def called(*arguments):
        raise Called

    for owner in (experiment, distil):
        monkeypatch.setattr(owner, "run", called, raising=False)
    monkeypatch.setattr(command_line, "start", lambda hosts: None, raising=False)  # meets no other processes
    with pytest.raises(Called):
        experiment.main(argv)


def test_commands_are_found_in_the_page_and_in_the_files():
    assert any("--devices.nets 4 --devices.batch 2" in command for command in ALL)
    assert any("--hosts.auto" in command for command in commands(DOCS / "cloud" / "gke-hosts.yaml"))
    assert commands(DOCS / "cloud" / "sky.yaml") == ["experiments.random_init mnist --weights.nets 8"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_parse(path):
    documents = list(yaml.safe_load_all(path.read_text()))
    if path.name == "sky.yaml":
        (task,) = documents
        assert {"resources", "setup", "run"} <= task.keys()
        assert task["resources"]["use_spot"] is True
        return
    kinds = {document["kind"]: document for document in documents}
    pod = kinds["Job"]["spec"]["template"]["spec"]
    claimed = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert claimed == {kinds["PersistentVolumeClaim"]["metadata"]["name"]}
    mounted = {mount["name"] for c in pod["containers"] + pod.get("initContainers", []) for mount in c["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    hosts = kinds["Job"]["spec"].get("completions", 1)
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert chips * hosts == rows * columns
    assert container["args"][0].startswith("exec python ")  # else a shell keeps the notice for itself
    if hosts > 1:
        assert kinds["Service"]["metadata"]["name"] == pod["subdomain"]
        assert kinds["Job"]["spec"]["parallelism"] == hosts


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path):
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


GCLOUD = """#!/usr/bin/env bash
# storage rsync [--recursive] FROM TO, with a folder for a bucket
from=${@: -2:1} to=${@: -1}
from=${from/gs:\\/\\//$BUCKETS/} to=${to/gs:\\/\\//$BUCKETS/}
[ -d "$from" ] || exit 1
mkdir -p "$to" && cp -r "$from"/. "$to"
"""


@pytest.fixture
def machine(tmp_path):
    """Starts a command by run.sh on a machine without a disk of its own, with folders for buckets."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcloud").write_text(GCLOUD)
    (tmp_path / "bin" / "gcloud").chmod(0o755)
    (tmp_path / "buckets" / "b").mkdir(parents=True)
    started = []

    def start(name, command, every="0.2"):
        (tmp_path / name).mkdir()
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        process = subprocess.Popen(
            ["bash", str(DOCS / "cloud" / "run.sh"), "gs://b/run", "bash", "-c", command],
            cwd=tmp_path / name,
            env=os.environ | {"PATH": path, "BUCKETS": str(tmp_path / "buckets"), "EVERY": every},
            start_new_session=True,
        )
        started.append(process)
        return process

    start.bucket = tmp_path / "buckets" / "b" / "run"
    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_run_sh_goes_on_from_the_bucket_and_says_that_it_has_finished(machine):
    assert machine("first", "echo one >> runs/steps; exit 3", every="60").wait(20) == 3  # copied at the end
    assert (machine.bucket / "steps").read_text() == "one\n"
    assert not (machine.bucket / "finished").exists()
    assert machine("second", "echo two >> runs/steps", every="60").wait(20) == 0
    assert (machine.bucket / "steps").read_text() == "one\ntwo\n"
    assert (machine.bucket / "finished").exists()


def test_run_sh_copies_meanwhile_and_passes_the_notice_on(machine):
    command = "trap 'echo saved >> runs/steps; exit 143' TERM; echo one >> runs/steps; while :; do sleep 0.05; done"
    process = machine("preempted", command)
    deadline = time.monotonic() + 20
    while not (machine.bucket / "steps").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (machine.bucket / "steps").read_text() == "one\n"  # though it still runs
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert (machine.bucket / "steps").read_text() == "one\nsaved\n"
    assert not (machine.bucket / "finished").exists()
