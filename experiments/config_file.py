"""``--config FILE``: the settings of a run from its ``config.json``."""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dd_jax.data.readers import is_path

Config = TypeVar("Config")

_HEAD = ("experiment", "preset")
_IDENTITY = ("data", "bank")  # told by content; the settings say where they are
_RELABEL = "relabel"  # as an attack's file has --attacked and --target


class _Unfit(Exception):
    """A value that a setting does not take, or a setting that there is not."""


def settings_from(path: Path, experiment: str, presets: Mapping[str, Config]) -> tuple[str, Config]:
    """The name and the settings of a run, from its ``config.json``. Paths in it are from its folder on.

    A setting of the distillation that the file lacks, such as the work folder, has its default. Another setting that it
    lacks, such as the number of sets that an attack is compared with, is the preset's.

    Args:
      path: the file.
      experiment: the one that is to run it.
      presets: its presets, one or more, dataclasses of one type.

    Raises:
      ValueError: no such file, one that is damaged, of another experiment, or with settings that are not accepted.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        held = {name: content.pop(name) for name in _HEAD}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        accepted = "the config.json of a run"
        raise ValueError(f"config: {path} is not accepted ({type(error).__name__}: {error}); use {accepted}") from error
    if held["experiment"] != experiment:
        raise ValueError(f"config: {path} is of {held['experiment']}, and this is {experiment}; use that one")
    for name in _IDENTITY:
        content.pop(name, None)
    name = held["preset"]
    like: Any = presets.get(name, next(iter(presets.values())))
    fields = _by_field(content, type(like))
    lacking = {field.name for field in dataclasses.fields(like)} - set(fields) if "base" in fields else set()
    try:
        config = _dataclass(fields, type(like), path.parent, "")
        return name, dataclasses.replace(config, **{field: getattr(like, field) for field in lacking - {"workdir"}})
    except _Unfit as error:
        raise ValueError(f"config: {path} has {error}; --help lists what is accepted") from None


def _by_field(content: dict[str, Any], kind: type) -> dict[str, Any]:
    """The content with the settings of a distillation under ``base``, where the settings have it there."""
    names = {field.name for field in dataclasses.fields(kind)}
    if "base" not in names or "base" in content:
        return content
    outer = {name: content.pop(name) for name in list(content) if name in names}
    for attacked, target in content.pop(_RELABEL, {}).items():
        outer |= {"attacked": int(attacked), "target": target}
    return {"base": content, **outer}


def _dataclass(content: Any, kind: Any, folder: Path, prefix: str) -> Any:
    hints = typing.get_type_hints(kind, include_extras=True)
    if not isinstance(content, dict):
        raise _Unfit(f"{prefix.rstrip('.')} {content!r}, which is not accepted")
    if unknown := [name for name in content if name not in hints]:
        raise _Unfit(f"{prefix}{unknown[0]}, which this version does not know")
    return kind(**{name: _value(value, hints[name], folder, prefix + name) for name, value in content.items()})


def _value(value: Any, hint: Any, folder: Path, name: str) -> Any:
    """A value of JSON as the type of its setting."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _value(value, arguments[0], folder, name)
    if dataclasses.is_dataclass(hint):
        return _dataclass(value, hint, folder, f"{name}.")
    if origin in (typing.Union, types.UnionType):
        for one in arguments:
            try:
                return _value(value, one, folder, name)
            except _Unfit:
                continue
    elif origin is Literal and isinstance(value, str) and value in arguments:
        return value
    elif origin is tuple and isinstance(value, list):
        return tuple(_value(one, arguments[0], folder, name) for one in value)
    elif hint is Path and isinstance(value, str):
        return Path(_from(folder, value))
    elif hint is float and type(value) in (int, float):
        return value
    elif type(value) is hint:
        return _from(folder, value) if name.split(".")[-1] == "dataset" and is_path(value) else value
    raise _Unfit(f"{name} {value!r}, which is not accepted")


def _from(folder: Path, path: str) -> str:
    """A path from here on, that a file in ``folder`` holds from there on."""
    return os.path.normpath(os.path.join(os.path.realpath(folder), path))
