"""The resumable loop, on a toy update without networks."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from events import shown_by_tensorboard

from dd_jax.files.checkpoint import checkpoints
from dd_jax.outer import OuterInfo
from experiments import fixed_init, progress
from experiments.command_line import run_as_script
from experiments.metrics import read_lines
from experiments.tensorboard import scalars
from experiments.training import RunError, Stopped, train
from experiments.workdir import claimed, locked


def toy_train(workdir, *, steps, bad_from=None, signal_at=(None, None), checkpoint_seconds=1e9, keep=None, **options):
    """Counts up by halves; from step ``bad_from`` on it refuses to move, as an outer step does on a NaN."""

    def update(state, step):
        del step
        if state["x"] * 2 + 1 == signal_at[0]:
            os.kill(os.getpid(), signal_at[1])
        bad = bad_from is not None and state["x"] * 2 + 1 >= bad_from
        loss = jnp.float32(jnp.nan) if bad else state["x"]
        return (state if bad else {"x": state["x"] + 0.5}), OuterInfo(loss, jnp.float32(1.0), jnp.array(not bad))

    return train(
        workdir,
        {"x": jnp.float32(0)},
        update,
        steps=steps,
        validate=lambda state: {"validation_accuracy": float(state["x"])},
        validate_every=4,
        checkpoint_seconds=checkpoint_seconds,
        remedy="lower something",
        keep=keep,
        **options,
    )


def steps_of(workdir, field="loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if field in line]


def test_runs_to_the_end_and_validates_as_often_as_asked(tmp_path):
    trained = toy_train(tmp_path, steps=10)
    assert float(trained.state["x"]) == 5.0
    assert steps_of(tmp_path) == list(range(1, 11))
    assert steps_of(tmp_path, "validation_accuracy") == [4, 8, 10]


def test_what_may_be_looked_at_later_is_kept_once_at_first_and_at_each_validation(tmp_path):
    kept = []
    with pytest.raises(Stopped):
        toy_train(tmp_path, steps=10, signal_at=(5, signal.SIGINT), keep=lambda step, state: kept.append((step, state)))
    toy_train(tmp_path, steps=10, keep=lambda step, state: kept.append((step, state)))
    assert [(step, float(state["x"])) for step, state in kept] == [(0, 0.0), (4, 2.0), (8, 4.0), (10, 5.0)]


def test_tensorboard_shows_the_metrics_of_a_run_that_was_cut_short_and_went_on(tmp_path):
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "tensorboard"
    with pytest.raises(Stopped):
        toy_train(tmp_path, steps=10, signal_at=(5, signal.SIGINT), tensorboard=folder)
    (first,) = folder.iterdir()
    with scalars(folder, 5) as tell:  # what was written after the last checkpoint
        tell(6, {"loss": 100.0, "lost": 1.0})
    next(folder.glob("*.5")).rename(folder / f"{first.name}b")  # the next one may be of the same second
    toy_train(tmp_path, steps=10, tensorboard=folder)
    metrics = read_lines(tmp_path / "metrics.jsonl")
    told = {(line["step"], name): line[name] for line in metrics for name in set(line) - {"step", "seconds"}}
    assert len(told) == 2 * 10 + 3
    shown = shown_by_tensorboard(folder)
    assert shown == pytest.approx(told, rel=1e-6)


def test_without_tensorboardx_its_files_are_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = r"^tensorboard: it needs tensorboardX, which is not installed; pip install 'dd-jax\[tensorboard\]'$"
    with pytest.raises(ValueError, match=message):
        fixed_init.main(["digits", "--tensorboard", "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_log_file_has_plain_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    toy_train(tmp_path, steps=6)
    said = capsys.readouterr().err
    assert not [character for character in said if ord(character) < 32 and character != "\n"]
    lines = said.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(
        r"outer step 5 of 6 · [\d.e+]+ s(teps)?/s(tep)? · \d+ s left · loss 2 · validation 200.0 % · memory [\d,]+ MB",
        lines[4],
    )
    assert "left" not in lines[5]


def test_a_bar_says_the_same_in_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    toy_train(tmp_path, steps=6)
    said = capsys.readouterr().err
    assert "distilling: 100%" in said
    for word in ("step/s", "loss 2.5", "validation 200.0 %", "memory "):
        assert word in said


def test_a_loss_that_stopped_improving_is_told_once(tmp_path, capsys, monkeypatch):
    toy_train(tmp_path / "rising", steps=300)
    assert capsys.readouterr().err.count("hint: the loss does not improve any more") == 1
    monkeypatch.setattr(progress, "stalled", lambda losses: False)
    toy_train(tmp_path / "falling", steps=300)
    assert "hint" not in capsys.readouterr().err


def test_a_loss_that_falls_within_noise_is_not_called_stalled():
    noise = np.random.default_rng(0).normal(size=400) * 0.3
    assert not progress.stalled((2 - np.arange(400) / 300 + noise).tolist())
    assert progress.stalled((2 + noise + np.arange(400) / 300).tolist())


def saved_in(workdir):
    return [path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]


def test_a_refused_step_ends_the_run_with_the_state_before_it_saved(tmp_path):
    with pytest.raises(RunError, match=r"step 7: the loss is nan .*; lower something. The state after step 6 is saved"):
        toy_train(tmp_path, steps=10, bad_from=7)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert saved_in(tmp_path) == ["6"]
    trained = toy_train(tmp_path, steps=8)  # with the cause removed, it goes on from there
    assert float(trained.state["x"]) == 4.0
    assert steps_of(tmp_path) == list(range(1, 9))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_saves_it(tmp_path, kind):
    with pytest.raises(Stopped, match=r"^stopped after step 5 of 9; the same command goes on") as stopped:
        toy_train(tmp_path, steps=9, signal_at=(5, kind))
    assert stopped.value.number == kind
    assert saved_in(tmp_path) == ["5"]
    assert float(toy_train(tmp_path, steps=9).state["x"]) == 4.5
    assert steps_of(tmp_path) == list(range(1, 10))


def test_resuming_drops_metrics_beyond_the_checkpoint_and_half_a_line(tmp_path):
    toy_train(tmp_path, steps=5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 9, "seconds": 99.0}\n{"step": 7, "lo')
    trained = toy_train(tmp_path, steps=9)
    assert steps_of(tmp_path) == list(range(1, 10))
    assert trained.seconds < 90
    assert float(trained.state["x"]) == 4.5


def test_the_seconds_are_the_checkpoint_s_where_the_metrics_are_shorter(tmp_path):
    with checkpoints(tmp_path / "checkpoints") as saved:
        saved.save(5, {"x": jnp.float32(2.5)}, {"seconds": 1000.0})
    first, cut, third = (
        '{"step": 1, "loss": 1.0, "seconds": 0.1}\n',
        '{"step": 2, "lo\n',
        '{"step": 3, "seconds": 0.3}\n',
    )
    (tmp_path / "metrics.jsonl").write_text(first + cut + third)
    trained = toy_train(tmp_path, steps=6)
    assert 1000 <= trained.seconds < 1060
    assert [line["step"] for line in trained.metrics] == [1, 3, 6, 6]
    (tmp_path / "metrics.jsonl").unlink()
    assert toy_train(tmp_path, steps=6).metrics == []


def test_a_run_in_another_thread_has_no_handlers_and_goes_on(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(toy_train, tmp_path, steps=3).result()
    assert float(trained.state["x"]) == 1.5


HOLD = """
import sys
from pathlib import Path
from experiments.workdir import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=r"^workdir: .* is in use by another run; wait for it, or choose another"),
            claimed(tmp_path, {"a": 1}),
        ):
            pass
        assert not (tmp_path / "config.json").exists()
        other.communicate("\n")
    with claimed(tmp_path, {"a": 1}) as finished:
        assert finished is None
    with locked(tmp_path):
        pass


def test_a_finished_run_is_given_back(tmp_path, capsys):
    with claimed(tmp_path, {"a": 1}):
        (tmp_path / "result.json").write_text('{"b": 2}')
    with claimed(tmp_path, {"a": 1}) as finished:
        assert finished == {"b": 2}
    assert "holds this run, finished" in capsys.readouterr().err
    (tmp_path / "result.json").write_text('{"b": ')
    with pytest.raises(ValueError, match=r"result.json is damaged \(.*\); move it away"), claimed(tmp_path, {"a": 1}):
        pass


@pytest.fixture
def called_by_a_script(monkeypatch):
    """What a script is called with, and as many devices as the tests have: JAX, which has begun, takes no others."""
    monkeypatch.setattr(sys, "argv", ["experiment"])
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))


def raising(error):
    def main(argv):
        raise error

    return main


def orbax_s(error):
    try:
        try:
            raise error
        except OSError:
            raise RuntimeError("async save failed")  # noqa: B904  as third parties do
    except RuntimeError as wrapped:
        return wrapped


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("seed: x"), "error: seed: x", ""),
        (Stopped("stopped after step 5", signal.SIGTERM), 143, "stopped after step 5\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full (", ""),
        (orbax_s(OSError(errno.ENOSPC, "full")), "error: the disk is full (", ""),
        (
            ValueError("RESOURCE_EXHAUSTED: d/5: No space left on device"),
            "error: the disk is full (ValueError: RES",
            "",
        ),
        (OSError("checkpoints: none of 2 in c can be read"), "error: checkpoints: none of 2 in c can be read", ""),
    ],
)
def test_what_is_expected_becomes_one_line(called_by_a_script, capsys, error, code, message):
    with pytest.raises(SystemExit) as stopped:
        run_as_script(raising(error))
    assert str(stopped.value.code).startswith(str(code))
    assert capsys.readouterr().err == message


def test_what_is_not_expected_is_raised(called_by_a_script):
    with pytest.raises(KeyError):
        run_as_script(raising(KeyError("a fault of ours")))
