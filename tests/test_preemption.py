"""A machine that is taken away: whatever ends a run, the same command goes on, to the very images of a whole run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax._src.config import persistent_cache_min_compile_time_secs
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import preemption_drill
from dd_jax.backend import compiling_for
from dd_jax.files.checkpoint import checkpoints
from experiments.signals import ending_at_once, signals
from experiments.training import _Pace
from experiments.workdir import compiled_beside

ROOT = Path(__file__).parent.parent

AT_ONCE = """
import hashlib, sys, time
from experiments.command_line import run_as_script
from experiments.signals import signals

def long(argv):
    print("begun", flush=True)
    if sys.argv[1] == "in C":  # where Python's own handlers do not run: as where XLA compiles
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    with signals() as signalled:
        print("within", flush=True)
        while not signalled():
            time.sleep(0.01)
    print("noted", signalled(), flush=True)
    time.sleep(60)

run_as_script(long)
"""


def waiting(how):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", AT_ONCE, how], cwd=ROOT, env=environment, **pipes)


def test_a_termination_while_xla_compiles_ends_the_process_at_once():
    with waiting("in C") as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - began < 20
    assert errors.splitlines()[-1] == "stopped; the same command goes on from the last checkpoint, if there is one"


def test_where_signals_are_noted_a_termination_is_and_the_next_ends_the_process():
    with waiting("in Python") as process:
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "within\n"]
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "noted 15\n"
        time.sleep(0.5)
        assert process.poll() is None
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


@pytest.fixture
def cache():
    """JAX as it is where nobody has given it a folder for compiled programs."""
    compiled = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", compiled)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("cache")
def test_an_accelerator_s_programs_are_kept_beside_the_run(tmp_path):
    def compile_one(factor):
        jax.jit(lambda x: x * factor).lower(jnp.ones(3)).compile()
        return sorted(p.name for p in tmp_path.rglob("jit__lambda*-cache"))

    with persistent_cache_min_compile_time_secs(0.0):
        with compiled_beside(tmp_path):
            assert compile_one(2.0) == []  # a CPU's are not
        with compiling_for("gpu"), compiled_beside(tmp_path):
            (first,) = compile_one(3.0)
            assert compile_one(3.0) == [first]  # from there
        with compiling_for("gpu"), compiled_beside(tmp_path / "other"):
            assert len(compile_one(3.0)) == 2
        assert jax.config.jax_compilation_cache_dir is None
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        compilation_cache.reset_cache()
        with compiling_for("gpu"), compiled_beside(tmp_path / "third"):
            compile_one(5.0)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["compiled", "mine", "other"]


@pytest.mark.slow
def test_a_run_that_is_ended_again_and_again_ends_with_the_images_of_a_whole_one(tmp_path):
    outcome = preemption_drill.run(tmp_path, rounds=1, seed=1, steps=60)
    assert outcome["bitwise_equal"]
    assert outcome["rounds"] == 1
    with checkpoints(tmp_path / "round_0" / "checkpoints") as saved:
        assert saved is not None
