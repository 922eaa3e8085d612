"""How a finished run is made again: the command, and the settings that are not its preset's."""

import importlib
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from dd_jax.data.readers import is_path
from dd_jax.files.report.page import flattened

from .recipe import settings_of

_LEAD = ("dataset", "network")  # the settings that are told first
_IDENTITY = ("data", "bank")  # what tells the data and the bank by their content; no settings
_ATTACK = ("attacked", "target", "attacked_weight", "keep_labels")  # settings of experiments.attack alone

Changed = list[tuple[str, Any, Any]]
"""Settings: name, the preset's value, this run's."""


def repeated(result: Mapping[str, Any], workdir: Path) -> tuple[str, Changed]:
    """The command that makes a run again, and the settings that are not its preset's.

    The command is empty where there is none: for a run of an unknown experiment, or of an earlier version with
    settings that are no more.

    Args:
      result: the content of its result.json.
      workdir: its folder, which paths in it are from.
    """
    experiment, preset = _origin(result)
    try:
        presets = importlib.import_module(f"{__package__}.{experiment}").PRESETS
        held = _held(result["config"])
        if preset in presets:
            changed = _changed(presets[preset], held, workdir)
        else:  # named after its data set: the preset that needs the fewest options
            options = {name: _changed(settings, held, workdir) for name, settings in presets.items()}
            preset = min(options, key=lambda name: len(options[name]))
            changed = options[preset]
    except (ImportError, AttributeError, KeyError):
        return "", []
    known = _settings(presets[preset], workdir)
    if any(name not in known for name in held):
        return "", [change for change in changed if change[0] in known]
    words = [option for name, _, value in changed for option in _options(name, value, workdir)]
    return shlex.join(["python", "-m", f"experiments.{experiment}", preset, *words]), changed


def _origin(result: Mapping[str, Any]) -> tuple[str, str]:
    """The experiment and preset of a run; one of several seeds is a plain run."""
    experiment, preset = result["experiment"], result["preset"]
    if experiment != "seeds":
        return experiment, preset
    random = preset.startswith("random_")
    return ("random_init", preset.removeprefix("random_")) if random else ("fixed_init", preset)


def _held(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings under dotted names; what an attack relabels under the names of its options."""
    flat = flattened({name: value for name, value in config.items() if name not in (*_IDENTITY, "relabel")})
    for attacked, target in config.get("relabel", {}).items():
        flat |= {"attacked": int(attacked), "target": target, "keep_labels": config.get("keep_labels", False)}
    return flat


def _settings(preset: Any, workdir: Path) -> dict[str, Any]:
    """A preset's settings, likewise."""
    own = {name: getattr(preset, name) for name in _ATTACK if hasattr(preset, name)}
    return flattened(settings_of(getattr(preset, "base", preset), workdir)) | own


def _changed(preset: Any, held: Mapping[str, Any], workdir: Path) -> Changed:
    known = _settings(preset, workdir)
    names = [*(n for n in _LEAD if n in held), *(n for n in held if n not in _LEAD)]
    different = [(n, known.get(n), held[n]) for n in names if not _same(known.get(n), held[n])]
    return [change for change in different if change[0] in known or change[2] is not None]


def _same(ours: Any, held: Any) -> bool:
    """Whether two values are the same; paths from different folders are, where they end alike."""
    if isinstance(ours, str) and isinstance(held, str) and ours.startswith(".") and held.startswith("."):
        return _end(ours) == _end(held)
    return ours == held


def _end(path: str) -> tuple[str, ...]:
    return tuple(part for part in PurePath(path).parts if part not in ("..", "."))[-2:]


def _options(name: str, value: Any, workdir: Path) -> list[str]:
    """A setting as the command line takes it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        head, dot, last = option.rpartition(".")
        return [f"--{head}{dot}{'' if value else 'no-'}{last}"]
    if isinstance(value, list | tuple):
        return [f"--{option}", *map(str, value)]
    if isinstance(value, str) and (value.startswith(".") or (name == "dataset" and is_path(value))):
        value = _from_here(workdir / value)
    return [f"--{option}", str(value)]


def _from_here(path: Path) -> str:
    here, there = Path.cwd().resolve(), path.resolve()
    return str(there.relative_to(here)) if there.is_relative_to(here) else str(there)
