"""Files are whole or absent; checkpoints survive damage; distilled data come back as written."""

import errno
import gc
import logging
import os
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from dd_jax.data.normalisation import Normalisation, denormalise, normalise
from dd_jax.data.whitening import fit_zca
from dd_jax.distilled import noise
from dd_jax.files.atomic import write_atomically, write_json
from dd_jax.files.checkpoint import checkpoints
from dd_jax.files.distilled_file import load_distilled, save_distilled
from dd_jax.parametrisations import PIXELS

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
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"No space left on device: '.*file.json'$"):
        write_atomically(path, "x" * 1000)
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})


def test_checkpoints_restore_the_newest_and_keep_a_few(tmp_path):
    with checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.restore(STATE) is None
        for step in (1, 2, 5):
            saved.save(step, later(step), {"seconds": step * 1.1})
    with checkpoints(tmp_path / "c", keep=2) as saved:
        step, state, facts = saved.restore(STATE) or pytest.fail("nothing restored")
    assert (step, facts) == (5, {"seconds": 5.5})
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
    folder = tmp_path / "c"
    with checkpoints(folder) as saved:
        saved.save(1, later(1))
        saved.save(2, later(2))
    damage(folder / "2")
    rest = {p.relative_to(folder / "2"): p.read_bytes() for p in (folder / "2").rglob("*") if p.is_file()}
    with checkpoints(folder) as saved, caplog.at_level(logging.WARNING):
        step, state, _ = saved.restore(STATE) or pytest.fail("nothing restored")
        assert step == 1
        chex.assert_trees_all_equal(state["nested"], later(1)["nested"])
        assert "checkpoint 2 cannot be read" in caplog.text
        saved.save(2, later(2))  # and the step can be written anew
        assert (saved.restore(STATE) or (0,))[0] == 2
    aside = tmp_path / "c-damaged" / "2"
    assert {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()} == rest


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({**STATE, "momentum": jnp.ones(3)}, r"momentum is absent there and float32 \(3,\) here"),
        ({k: v for k, v in STATE.items() if k != "step"}, r"step is int32 \(\) there and absent here"),
        ({**STATE, "step": jnp.float32(3)}, r"step is int32 \(\) there and float32 \(\) here"),
        ({**STATE, "step": jnp.ones(2, jnp.int32)}, r"step is int32 \(\) there and int32 \(2,\) here"),
        ({**STATE, "nested": (*STATE["nested"], jnp.ones(1))}, r"nested/2 is absent there and float32 \(1,\) here"),
    ],
)
def test_a_state_of_another_kind_is_an_error_and_touches_nothing(tmp_path, like, message):
    with checkpoints(tmp_path) as saved:
        for step in (10, 20, 30):
            saved.save(step, later(step))
    before = contents(tmp_path)
    with (
        checkpoints(tmp_path) as saved,
        pytest.raises(ValueError, match=f"^checkpoints: .*30 holds another kind of state \\({message}\\)"),
    ):
        saved.restore(like)
    assert contents(tmp_path) == before
    with checkpoints(tmp_path) as saved:
        assert (saved.restore(STATE) or (0,))[0] == 30


@pytest.mark.usefixtures("orbax_rubbish")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_no_checkpoint_can_be_read_nothing_is_touched(tmp_path):
    with checkpoints(tmp_path) as saved:
        saved.save(1, later(1))
        saved.save(2, later(2))
    for step in "12":
        drop_data(tmp_path / step)
    before = contents(tmp_path)
    with checkpoints(tmp_path) as saved, pytest.raises(OSError, match=r"^checkpoints: none of 2 in .* can be read"):
        saved.restore(STATE)
    assert contents(tmp_path) == before


def test_a_save_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fails(checkpointer, step, *_, **__):
        (checkpointer.directory / f"{step}.orbax-checkpoint-tmp").mkdir()
        raise OSError("disk full")

    with checkpoints(tmp_path) as saved:
        saved.save(1, later(1))
        monkeypatch.setattr(ocp.training.Checkpointer, "save", fails)
        with pytest.raises(OSError, match="disk full"):
            saved.save(2, later(2))
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_step_size_of_zero_comes_back(tmp_path):
    distilled = noise(jax.random.key(0), (4, 4, 1), 3, steps=1, epochs=2)
    distilled = distilled._replace(step_sizes=jnp.array([0.0, 0.5]))
    assert float(distilled.step_sizes[0]) == 0
    save_distilled(tmp_path / "d.npz", distilled, Normalisation(np.zeros(1), np.ones(1)), {})
    back = load_distilled(tmp_path / "d.npz").distilled
    np.testing.assert_array_equal(back.step_sizes, distilled.step_sizes)
    learned = PIXELS.init(back)
    assert np.isfinite(learned.step_sizes).all()
    np.testing.assert_allclose(PIXELS.decode(learned).step_sizes, distilled.step_sizes, atol=1e-37, rtol=1e-6)


def test_distilled_data_come_back_as_written(tmp_path):
    distilled = noise(jax.random.key(0), (4, 4, 1), 3, steps=2, epochs=3, step_size=0.4)
    theta = {"params": {"Dense_0": {"kernel": jnp.arange(6.0).reshape(3, 2)}}}
    normalisation = Normalisation(np.array([0.1]), np.array([0.3]))
    save_distilled(tmp_path / "d.npz", distilled, normalisation, {"network": "lenet", "names": ["é"]}, theta)
    back = load_distilled(tmp_path / "d.npz")
    np.testing.assert_array_equal(back.images, distilled.images)
    np.testing.assert_array_equal(back.labels, distilled.labels)
    np.testing.assert_allclose(back.step_sizes, 0.4, rtol=1e-5)
    assert back.step_sizes.shape == (6,)
    assert back.meta == {"network": "lenet", "names": ["é"]}
    np.testing.assert_array_equal(back.initial_weights["params/Dense_0/kernel"], theta["params"]["Dense_0"]["kernel"])
    assert {a.dtype for a in back[:5]} == {np.dtype(np.float32)}


def whitened_file(path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    plain = Normalisation(np.float32([0.4]), np.float32([0.3]))
    whitened = plain._replace(whitening=fit_zca(np.asarray(normalise(jnp.asarray(pixels), plain))))
    save_distilled(path, noise(jax.random.key(0), (4, 4, 1), 3, steps=1, epochs=1, step_size=0.1), whitened, {})
    return pixels, whitened


def test_a_whitening_is_stored_with_its_inverse(tmp_path):
    pixels, whitened = whitened_file(tmp_path / "d.npz")
    back = load_distilled(tmp_path / "d.npz").normalisation
    images = normalise(jnp.asarray(pixels), back)
    np.testing.assert_allclose(images, normalise(jnp.asarray(pixels), whitened), atol=1e-6)
    assert np.abs(images - normalise(jnp.asarray(pixels), back._replace(whitening=None))).max() > 0.1
    np.testing.assert_allclose(denormalise(images, back), pixels / 255, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda fields: fields.pop("whitening/inverse"), "it has no whitening/inverse"),
        (lambda fields: fields.update({"whitening/matrix": np.zeros((3, 3))}), "'whitening/matrix' is malformed"),
        (lambda fields: fields["whitening/mean"].fill(np.nan), "'whitening/mean' is not finite"),
    ],
)
def test_a_damaged_whitening_is_refused(tmp_path, change, told):
    whitened_file(tmp_path / "d.npz")
    with np.load(tmp_path / "d.npz") as file:
        fields = dict(file)
    change(fields)
    np.savez(tmp_path / "d.npz", **fields)
    with pytest.raises(ValueError, match=told):
        load_distilled(tmp_path / "d.npz")


def test_damaged_distilled_data_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match=r"d.npz cannot be used \(it has no labels, step_sizes, mean, std, meta\)"):
        load_distilled(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="cannot be used"):
        load_distilled(tmp_path / "none.npz")
