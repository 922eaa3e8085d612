"""A machine that is taken away: whatever ends a run, the same command goes on, to the very images of a whole run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import preemption_drill
from dd_jax.files.checkpoint import checkpoints
from experiments.training import _Pace, ending_at_once, signals

ROOT = Path(__file__).parent.parent

AT_ONCE = """
import os, signal, sys, time
from experiments.command_line import run_as_script
from experiments.training import signals

def blocked(argv):
    print("blocked", flush=True)
    time.sleep(0.1)
    if sys.argv[1] == "in C":  # where Python's own handlers never run: as in XLA, which compiles
        import ctypes
        ctypes.CDLL(None).sleep(60)
        ctypes.CDLL(None).sleep(60)  # the first is cut short by the signal
    with signals() as signalled:
        print("within", flush=True)
        while not signalled():
            time.sleep(0.01)
    print("noted", signalled(), flush=True)
    ctypes.CDLL(None).sleep(60) if sys.argv[1] == "in C" else time.sleep(60)

run_as_script(blocked)
"""


def waiting(how):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", AT_ONCE, how], cwd=ROOT, env=environment, **pipes)


def test_a_termination_while_xla_compiles_ends_the_process_at_once():
    with waiting("in C") as process:
        assert process.stdout.readline() == "blocked\n"
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - began < 20
    assert errors.splitlines()[-1] == "stopped; the same command goes on from the last checkpoint, if there is one"


def test_where_signals_are_noted_a_termination_is_and_the_next_ends_the_process():
    with waiting("in Python") as process:
        assert [process.stdout.readline() for _ in range(2)] == ["blocked\n", "within\n"]
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "noted 15\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143


def test_handlers_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with ending_at_once():
        within = signal.getsignal(signal.SIGTERM)
        with signals() as signalled:
            assert signal.getsignal(signal.SIGTERM) not in (within, *before)
            os.kill(os.getpid(), signal.SIGTERM)
            assert signalled() == signal.SIGTERM
            assert signal.getsignal(signal.SIGTERM) is within
        assert signal.getsignal(signal.SIGTERM) is within
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
    threads = [t for t in threading.enumerate() if t.name == "ending at once"]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_process_alone_looks_at_the_clock_after_every_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, due = _Pace(1.0, 5), []
    for step in range(6, 16):
        now[0] += 0.4
        if pace.due(step):
            due.append(step)
            pace.saved()
    assert due == [8, 11, 14]


@pytest.mark.slow
def test_a_run_that_is_ended_again_and_again_ends_with_the_images_of_a_whole_one(tmp_path):
    outcome = preemption_drill.run(tmp_path, rounds=3, seed=1, steps=60)
    assert outcome["bitwise_equal"]
    assert outcome["rounds"] == 3
    with checkpoints(tmp_path / "round_0" / "checkpoints") as saved:
        assert saved is not None
