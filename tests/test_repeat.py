"""The command that makes a run again gives the very settings of the run."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from dd_jax.outer import OuterRecipe
from experiments import adaptation, attack, fixed_init, modern, random_init
from experiments.command_line import command_line
from experiments.distilled import DistilledSetting
from experiments.recipe import settings_of
from experiments.relabelled import Relabelled
from experiments.repeat import repeated
from experiments.settings import Images, Weights

ROOT = Path(__file__).parent.parent


def result_of(experiment, preset, config, workdir, relabelled=None):
    """What of a result.json tells how it was made."""
    relabel = relabelled.settings() if relabelled else {}
    settings = settings_of(config, workdir) | relabel | {"data": "0123456789ab", "bank": "ba9876543210"}
    return json.loads(json.dumps({"experiment": experiment, "preset": preset, "config": settings}))


def parsed(module, command):
    _, _, name, *argv = shlex.split(command)
    assert name == f"experiments.{module.__name__.split('.')[-1]}"
    return command_line(module.PRESETS, "digits", "", argv)


@pytest.mark.parametrize("module", [fixed_init, random_init, modern, adaptation])
def test_a_preset_needs_no_options(module, tmp_path):
    for name, preset in module.PRESETS.items():
        config = getattr(preset, "base", preset)
        result = result_of(module.__name__.split(".")[-1], name, config, tmp_path / "run")
        command, changed = repeated(result, tmp_path / "run")
        assert changed == []
        assert command == f"python -m {module.__name__} {name}"


CHANGED = {
    "numbers": {"outer": OuterRecipe(steps=7, halve_every=None, clip=None, normalise_networks=True), "seed": 3},
    "switches": {"augment": True, "batches": "epochs", "objective": "a.b:c"},
    "paths": {"dataset": "my folder/mine.npz", "weights": Weights(bank=Path("bank"), nets=2)},
    "lists": {"network_options": ("width=8", "depth=2"), "images": Images(zca=0.1)},
    "images": {"distilled": DistilledSetting(first=Path("runs/first"), images=5, labels="learned")},
}


@pytest.mark.parametrize("change", CHANGED)
def test_changed_settings_are_options_that_give_them_back(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(fixed_init.PRESETS["mnist"], **CHANGED[change])
    workdir = tmp_path / "runs" / "mine"
    command, changed = repeated(result_of("fixed_init", "mnist", config, workdir), workdir)
    assert changed
    _, again = parsed(fixed_init, command)
    assert settings_of(again, workdir) == settings_of(config, workdir)


def test_a_run_named_after_its_data_is_one_of_the_nearest_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(fixed_init.PRESETS["cifar10"], dataset="mine.npz")
    command, changed = repeated(result_of("fixed_init", "mine", config, tmp_path / "run"), tmp_path / "run")
    assert command == "python -m experiments.fixed_init cifar10 --dataset mine.npz"
    assert [name for name, *_ in changed] == ["dataset"]


def test_an_attack_names_its_classes(tmp_path):
    config = attack.PRESETS["mnist"].base
    result = result_of("attack", "mnist", config, tmp_path, Relabelled({3: 5}, 24.0, keep_labels=True))
    command, _ = repeated(result, tmp_path)
    _, again = parsed(attack, command)
    assert (again.attacked, again.target, again.keep_labels, again.attacked_weight) == (3, 5, True, 24.0)


def test_a_seed_s_run_is_a_plain_one(tmp_path):
    config = dataclasses.replace(random_init.PRESETS["mnist"], seed=4)
    command, _ = repeated(result_of("seeds", "random_mnist", config, tmp_path), tmp_path)
    assert command == "python -m experiments.random_init mnist --seed 4"


def test_a_run_of_an_earlier_version_or_of_another_experiment_has_no_command():
    for place in ("fixed_init/mnist", "random_init/mnist"):
        result = json.loads((ROOT / "results" / place / "result.json").read_text())
        assert ("samples" in result["config"]["outer"]) == (repeated(result, ROOT / "results" / place)[0] == "")
    assert repeated(result | {"experiment": "mine"}, ROOT) == ("", [])
