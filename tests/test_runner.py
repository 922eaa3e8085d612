"""The resumable loop, on a toy update without networks."""

import json
import os
import signal

import jax.numpy as jnp
import pytest

from dd_jax.outer import OuterInfo
from experiments.runner import RunError, train


def toy_train(workdir, *, steps, bad_from=None, signal_at=(None, None), checkpoint_seconds=1e9):
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
    )


def steps_of(workdir, field="loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if field in line]


def test_runs_to_the_end_and_validates_as_often_as_asked(tmp_path):
    trained = toy_train(tmp_path, steps=10)
    assert float(trained.state["x"]) == 5.0
    assert steps_of(tmp_path) == list(range(1, 11))
    assert steps_of(tmp_path, "validation_accuracy") == [4, 8, 10]


def test_a_refused_step_ends_the_run_with_the_state_before_it_saved(tmp_path):
    with pytest.raises(RunError, match=r"step 7: the loss is nan .*; lower something. The state after step 6 is saved"):
        toy_train(tmp_path, steps=10, bad_from=7)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    trained = toy_train(tmp_path, steps=8)  # with the cause removed, it goes on from there
    assert float(trained.state["x"]) == 4.0
    assert steps_of(tmp_path) == list(range(1, 9))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_saves_it(tmp_path, kind):
    with pytest.raises(RunError, match=r"stopped after step 5 of 9; the same command goes on"):
        toy_train(tmp_path, steps=9, signal_at=(5, kind))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["5"]
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
