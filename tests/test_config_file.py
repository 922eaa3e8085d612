"""A run's config.json given back with --config repeats the run, and options override it."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from dd_jax.files.distilled_file import load_distilled
from experiments import adaptation, attack, baselines, command_line, fixed_init, modern, random_init, seeds
from experiments.config_file import settings_from
from experiments.recipe import settings_of
from experiments.relabelled import Relabelled
from experiments.settings import jsonable

QUICK = ["--outer.steps", "2", "--distilled.epochs", "2", "--network", "mlp", "--network-options", "hidden=8"]
QUICK += ["--images.size", "8", "--inner.optimizer", "momentum", "--batch-size", "32"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of a data set in a file, which its config.json names from its own folder on."""
    folder = tmp_path_factory.mktemp("first")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    np.savez(folder / "mine.npz", images=images, labels=np.arange(60) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fixed_init.main([*QUICK, "--dataset", "./mine.npz", "--workdir", "run"])
    return folder


def test_a_run_is_repeated_from_another_folder(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fixed_init.main(["--config", str(finished / "run/config.json")])
    again = tmp_path / "runs/fixed_init/mine"  # by the name of the first
    for name in ("images", "step_sizes"):
        held, repeated = (getattr(load_distilled(run / "distilled.npz"), name) for run in (finished / "run", again))
        np.testing.assert_array_equal(repeated, held)
    first, second = (json.loads((run / "config.json").read_text()) for run in (finished / "run", again))
    assert os.path.realpath(again / second.pop("dataset")) == os.path.realpath(finished / "run" / first.pop("dataset"))
    assert first == second


def understood(*argv):
    return command_line.command_line(fixed_init.PRESETS, "digits", "", list(argv), "fixed_init")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(command_line, "start", lambda hosts: None)  # meets no other processes


def test_options_override_the_file_wherever_they_stand(finished):
    path = finished / "run/config.json"
    name, config = understood("--config", str(path))
    assert (name, config.outer.steps, config.inner.optimizer, config.batch_size) == ("mine", 2, "momentum", 32)
    assert Path(config.dataset) == finished.resolve() / "mine.npz"
    for argv in (["--outer.steps", "5", f"--config={path}"], ["--config", str(path), "--outer.steps", "5"]):
        assert understood(*argv) == (
            name,
            dataclasses.replace(config, outer=dataclasses.replace(config.outer, steps=5)),
        )
    other, config = understood("--config", str(path), "--dataset", "digits")
    assert (other, config.dataset) == ("digits", "digits")


@pytest.mark.parametrize(
    ("experiment", "preset"),
    [
        *(("fixed_init", preset) for preset in fixed_init.PRESETS),
        *(("random_init", preset) for preset in random_init.PRESETS),
        *(("modern", preset) for preset in modern.PRESETS),
        *(("adaptation", preset) for preset in adaptation.PRESETS),
        *(("attack", preset) for preset in attack.PRESETS),
    ],
)
def test_every_preset_comes_back_from_its_file(tmp_path, experiment, preset):
    presets = {
        "fixed_init": fixed_init.PRESETS,
        "random_init": random_init.PRESETS,
        "modern": modern.PRESETS,
        "adaptation": adaptation.PRESETS,
        "attack": attack.PRESETS,
    }[experiment]
    config = presets[preset]
    settings = settings_of(getattr(config, "base", config), tmp_path) | {"data": "0123", "bank": "4567"}
    if experiment == "attack":
        settings |= Relabelled({config.attacked: config.target}, config.attacked_weight, config.keep_labels).settings()
    (tmp_path / "config.json").write_text(json.dumps({"experiment": experiment, "preset": preset} | settings))
    name, back = settings_from(tmp_path / "config.json", experiment, presets)
    assert name == preset
    assert jsonable(getattr(back, "base", back), tmp_path) == jsonable(getattr(config, "base", config), tmp_path)
    if experiment == "attack":
        assert dataclasses.replace(back, base=config.base) == config


def test_settings_of_other_shapes_come_back_too(tmp_path):
    for name, presets in (("seeds", seeds.PRESETS), ("baselines", baselines.PRESETS)):
        config = presets["mnist"]
        settings = jsonable(config, tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"experiment": name, "preset": "p"} | settings))
        assert settings_from(tmp_path / "config.json", name, presets) == ("p", config)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda held: held.update(experiment="random_init"), "is of random_init, and this is fixed_init; use that one"),
        (lambda held: held.update(colour=1), "has colour, which this version does not know; --help lists"),
        (lambda held: held["outer"].update(net_norm=1), "has outer.net_norm, which this version does not know"),
        (lambda held: held["outer"].update(steps="two"), "has outer.steps 'two', which is not accepted; --help lists"),
        (lambda held: held.update(seed=True), "has seed True, which is not accepted"),
        (lambda held: held.update(inner=3), "has inner 3, which is not accepted"),
        (lambda held: held["inner"].update(optimizer="sgd"), "has inner.optimizer 'sgd', which is not accepted"),
        (lambda held: held.pop("preset"), "is not accepted (KeyError: 'preset'); use the config.json of a run"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(finished, tmp_path, change, told):
    held = json.loads((finished / "run/config.json").read_text())
    change(held)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=f"^config: {re.escape(f'{path} {told}')}"):
        understood("--config", str(path))


def test_a_command_line_that_cannot_be_understood_is_refused(finished, tmp_path):
    path = str(finished / "run/config.json")
    for argv, told in (
        (["digits", "--config", path], "config: .* is not accepted beside the preset 'digits'; give one of them"),
        (["--config"], "config: --config is given without a file; give it one"),
        (["--config", path, "--config", path], "config: --config is given twice"),
        (
            ["--config", str(tmp_path / "none.json")],
            r"config: .* is not accepted \(FileNotFoundError: .*\); use the con",
        ),
        (["--config", str(finished / "mine.npz")], r"config: .* is not accepted \(UnicodeDecodeError: "),
    ):
        with pytest.raises(ValueError, match=f"^{told}") as refused:
            understood(*argv)
        assert len(str(refused.value).splitlines()) == 1
