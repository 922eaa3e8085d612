"""Files are whole or absent; checkpoints survive damage; distilled data come back as written."""

import gc
import logging
import os
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.checkpoint import checkpoints
from dd_jax.storage import load_distilled, save_distilled, write_atomically, write_json
from dd_jax.unroll import noise

STATE = {"step": jnp.int32(3), "key": jax.random.key(5), "nested": (jnp.arange(6.0), [jnp.ones((2, 2))])}


def later(step):
    return {**STATE, "step": jnp.int32(step), "nested": (jnp.arange(6.0) * step, [jnp.ones((2, 2))])}


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "x" * 1000)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})


def test_checkpoints_restore_the_newest_and_keep_a_few(tmp_path):
    with checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.restore(STATE) is None
        for step in (1, 2, 5):
            saved.save(step, later(step))
    with checkpoints(tmp_path / "c", keep=2) as saved:
        step, state = saved.restore(STATE) or pytest.fail("nothing restored")
    assert step == 5
    chex.assert_trees_all_equal(jax.random.key_data(state["key"]), jax.random.key_data(STATE["key"]))
    chex.assert_trees_all_equal(state["nested"], later(5)["nested"])
    assert int(state["step"]) == 5
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == ["2", "5"]


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bytes(folder):
    for path in folder.rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3 :: 7] = bytes(b ^ 0xFF for b in content[len(content) // 3 :: 7])
        path.write_bytes(content)


def drop_data(folder):
    for path in folder.rglob("d"):
        shutil.rmtree(path)


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def orbax_rubbish():
    """A failed read leaves orbax's coroutines to the garbage collector, which complains; have it do so here."""
    yield
    gc.collect()


@pytest.mark.usefixtures("orbax_rubbish")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, flip_bytes, drop_data, empty])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, damage):
    with checkpoints(tmp_path) as saved:
        saved.save(1, later(1))
        saved.save(2, later(2))
    damage(tmp_path / "2")
    with checkpoints(tmp_path) as saved, caplog.at_level(logging.WARNING):
        step, state = saved.restore(STATE) or pytest.fail("nothing restored")
        assert step == 1
        chex.assert_trees_all_equal(state["nested"], later(1)["nested"])
        assert "checkpoint 2 is damaged" in caplog.text
        saved.save(2, later(2))  # and the step can be written anew
        assert (saved.restore(STATE) or (0,))[0] == 2


def test_distilled_data_come_back_as_written(tmp_path):
    distilled = noise(jax.random.key(0), (4, 4, 1), 3, steps=2, epochs=3, step_size=0.4)
    theta = {"params": {"Dense_0": {"kernel": jnp.arange(6.0).reshape(3, 2)}}}
    mean, std = np.array([0.1]), np.array([0.3])
    save_distilled(tmp_path / "d.npz", distilled, mean, std, {"network": "lenet", "names": ["é"]}, theta)
    back = load_distilled(tmp_path / "d.npz")
    np.testing.assert_array_equal(back.images, distilled.images)
    np.testing.assert_array_equal(back.labels, distilled.labels)
    np.testing.assert_allclose(back.step_sizes, 0.4, rtol=1e-5)
    assert back.step_sizes.shape == (6,)
    assert back.meta == {"network": "lenet", "names": ["é"]}
    np.testing.assert_array_equal(back.initial_weights["params/Dense_0/kernel"], theta["params"]["Dense_0"]["kernel"])
    assert {a.dtype for a in back[:5]} == {np.dtype(np.float32)}


def test_damaged_distilled_data_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match=r"d.npz cannot be used \(it has no labels, step_sizes, mean, std, meta\)"):
        load_distilled(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="cannot be used"):
        load_distilled(tmp_path / "none.npz")
