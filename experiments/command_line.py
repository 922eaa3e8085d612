"""The command line's manners: presets, options, help, errors in one line."""

import contextlib
import dataclasses
import errno
import io
import itertools
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import joblib
import tyro

from dd_jax.data.readers import is_path
from dd_jax.files.atomic import first_line
from dd_jax.hosts import several

from .bucket import local_workdir
from .config_file import settings_from
from .hosts import Hosts, fail_together, start
from .recipe import Config as Distillation
from .say import say
from .signals import ending_at_once
from .training import RunError, Stopped

COMMAND = "python -m experiments." if __package__ == "experiments" else "dd-jax "


Config = TypeVar("Config")


def command_line(
    presets: Mapping[str, Config], default: str, description: str, argv: list[str], experiment: str | None = None
) -> tuple[str, Config]:
    """Parses ``[PRESET] [--option value …]`` over frozen dataclasses, and meets the other processes if there are any.

    What distils takes ``--hosts`` options as well, which are no settings of the result. In place of a preset, the
    ``experiment`` that is given takes ``--config FILE``, the ``config.json`` of a run of its own.

    Returns:
      The name of the run and its configuration with the options applied. The name is the preset's, or the data set's
      where that is not the preset's.

    Raises:
      ValueError: an unknown preset or option, or a value of the wrong type.
      SystemExit: after ``--help``.
    """
    given = bool(argv) and not argv[0].startswith("-")
    preset, options = (argv[0], argv[1:]) if given else (default, argv)
    text = f"{description}\n\nPresets, as the first argument: {', '.join(presets)} (default: {default})."
    path = None
    if experiment is not None:
        text += " In place of a preset, --config FILE takes the settings of a run from its config.json."
        path, options = _config_file(options)
    if path is not None and given:
        raise ValueError(f"config: {path} is not accepted beside the preset {preset!r}; give one of them")
    if preset not in presets:
        raise ValueError(f"preset: {preset!r} is unknown; use one of {', '.join(presets)}")
    begun, hosts = presets[preset], Hosts()
    if path is not None and experiment is not None:
        preset, begun = settings_from(path, experiment, presets)
    config, first = begun, preset if given else "[PRESET]"
    if isinstance(getattr(config, "base", config), Distillation):
        fields = [("config", Annotated[type(config), tyro.conf.arg(name="")]), ("hosts", Hosts)]
        both: Any = dataclasses.make_dataclass("Both", fields, frozen=True)
        parsed = parse(both(config, hosts), text, first, options)
        config, hosts = parsed.config, parsed.hosts
    else:
        config = parse(config, text, first, options)
    start(hosts)
    dataset = _dataset(config)
    if dataset == _dataset(begun):
        return preset, config
    return Path(dataset).stem if is_path(dataset) else dataset.replace("/", "_"), config


def _config_file(options: list[str]) -> tuple[Path | None, list[str]]:
    """The file of ``--config``, if it is among the options, and the other options."""
    found = [i for i, option in enumerate(options) if option == "--config" or option.startswith("--config=")]
    if not found:
        return None, options
    name, equals, value = options[found[0]].partition("=")
    end = found[0] + (1 if equals else 2)
    if len(found) > 1 or end > len(options):
        raise ValueError(f"config: {name} is given {'twice' if len(found) > 1 else 'without a file'}; give it one")
    return Path(value or options[end - 1]), options[: found[0]] + options[end:]


def _dataset(config: Any) -> str:
    return getattr(getattr(config, "base", config), "dataset", "")


def parse(default: Config, description: str, first: str, options: list[str]) -> Config:
    """Parses ``[--option value …]`` over a frozen dataclass; ``first`` is the argument before them, for the help text.

    Raises:
      ValueError: an unknown option, or a value of the wrong type.
      SystemExit: after ``--help``.
    """
    prog = f"{COMMAND}{Path(sys.argv[0]).stem} {first}".rstrip()
    description = description.replace("python -m experiments.", COMMAND)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(type(default), default=default, args=options, description=description, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_first_paragraph(complaint.getvalue())}; --help lists what is accepted") from None


def _first_paragraph(box: str) -> str:
    """The message in a box that tyro draws: what stands between its title and the next rule, as one line."""
    lines = [line.strip(" │╭╮╰╯─-.") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    words = itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines[1:]))
    return " ".join(words)


def run_as_script(main: Callable[[list[str]], None]) -> None:
    """Calls ``main`` on the command line's arguments; expected errors become one line and exit status 1.

    Each core of a CPU is then a device, for networks and perturbations to be dealt out over, unless the user says how
    many devices there are.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", joblib.cpu_count())  # before anything else of JAX
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # orbax prints tracebacks of what it raises, too
    try:
        with ending_at_once(), local_workdir(sys.argv[1:]) as argv:
            main(argv)
    except Stopped as stop:
        say(str(stop))
        sys.exit(128 + stop.number)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the last checkpoint")
        sys.stdout.flush()
        os._exit(128 + signal.SIGINT)  # where Python ends in its usual way, XLA crashes if it is compiling
    except BrokenPipeError:  # the reader of the output, such as head, has enough of it
        os._exit(128 + signal.SIGPIPE)
    except Exception as error:
        message = _expected(error)
        if message is None and several():
            traceback.print_exc()
        fail_together(message or first_line(error))
        if message is None:
            raise
        sys.exit(f"error: {message}")


def _expected(error: Exception) -> str | None:
    """The line for an error that is no fault of ours; None for others."""
    if _disk_is_full(error):
        return f"the disk is full ({first_line(error)}); free some space there, and run the command again"
    if several() and "Gloo" in str(error):  # the CPU's own network, which alone tells of it
        return f"another process has ended ({first_line(error)}); start all of them again"
    return str(error) if isinstance(error, ValueError | RunError | OSError) else None


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says so; orbax and tensorstore have kinds of their own."""
    return error is not None and (
        (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))
        or os.strerror(errno.ENOSPC) in str(error)
        or _disk_is_full(error.__cause__ or error.__context__)
    )
