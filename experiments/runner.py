"""What every experiment shares: the claimed work folder, the resumable loop, the command line's manners."""

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import logging
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import joblib
import tqdm
import tyro
from filelock import FileLock, Timeout
from matplotlib.figure import Figure

import dd_jax
from dd_jax.checks import positive, require  # noqa: F401, for the experiments
from dd_jax.data.readers import is_path
from dd_jax.files.atomic import first_line, write_atomically, write_json
from dd_jax.files.checkpoint import checkpoints
from dd_jax.files.figures import to_png
from dd_jax.outer import OuterInfo

COMMAND = "python -m experiments." if __package__ == "experiments" else "dd-jax "
Config = TypeVar("Config")
State = TypeVar("State")


class RunError(Exception):
    """A run that cannot go on, with one line for the user."""


class Stopped(Exception):
    """A run that was asked to stop and has saved its state, with one line for the user."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number  # of the signal


def say(what: str) -> None:
    """Tells the user at once what is being done, apart from the results."""
    print(what, file=sys.stderr, flush=True)


def command_line(presets: Mapping[str, Config], default: str, description: str, argv: list[str]) -> tuple[str, Config]:
    """Parses ``[PRESET] [--option value …]`` over frozen dataclasses.

    Returns:
      The name of the run and its configuration with the options applied. The name is the preset's, or the data set's
      where that is not the preset's.

    Raises:
      ValueError: an unknown preset or option, or a value of the wrong type.
      SystemExit: after ``--help``.
    """
    given = bool(argv) and not argv[0].startswith("-")
    preset, options = (argv[0], argv[1:]) if given else (default, argv)
    if preset not in presets:
        raise ValueError(f"preset: {preset!r} is unknown; use one of {', '.join(presets)}")
    text = f"{description}\n\nPresets, as the first argument: {', '.join(presets)} (default: {default})."
    config = parse(presets[preset], text, preset if given else "[PRESET]", options)
    dataset = _dataset(config)
    if dataset == _dataset(presets[preset]):
        return preset, config
    return Path(dataset).stem if is_path(dataset) else dataset.replace("/", "_"), config


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


def use_every_core() -> None:
    """Makes each core of a CPU a device, for networks to be dealt out over; before anything else of JAX."""
    jax.config.update("jax_num_cpu_devices", joblib.cpu_count())


@contextlib.contextmanager
def told_if_it_fails(path: Path) -> Iterator[None]:
    """For a picture or page of a result that is written already: what goes wrong is told, and the run goes on."""
    try:
        yield
    except Exception as error:
        logging.getLogger(__name__).warning("%s was not written (%s)", path, first_line(error))


def draw_missing(path: Path, figure: Callable[[], Figure]) -> None:
    """Draws a picture of a result that is written already, unless it is there; see :func:`told_if_it_fails`."""
    if not path.exists():
        with told_if_it_fails(path):
            write_atomically(path, to_png(figure()))


def run_as_script(main: Callable[[list[str]], None]) -> None:
    """Calls ``main`` on the command line's arguments; expected errors become one line and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # orbax prints tracebacks of what it raises, too
    try:
        main(sys.argv[1:])
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
        if _disk_is_full(error):
            sys.exit(f"error: the disk is full ({first_line(error)}); free some space there, and run the command again")
        if isinstance(error, ValueError | RunError | OSError):
            sys.exit(f"error: {error}")
        raise


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says so; orbax and tensorstore have kinds of their own."""
    return error is not None and (
        (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))
        or os.strerror(errno.ENOSPC) in str(error)
        or _disk_is_full(error.__cause__ or error.__context__)
    )


@contextlib.contextmanager
def claimed(workdir: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Makes the folder of a run, or checks that it holds a run of the very same settings, and locks it meanwhile.

    Yields:
      The content of result.json where the run is finished, else None.

    Raises:
      ValueError: the folder cannot be written, belongs to other settings, is in use, or holds something else.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists() and any(not p.name.startswith(".") for p in workdir.iterdir()):
            raise ValueError(f"workdir: {workdir} is not empty and holds no run; choose another folder")
    except OSError as error:
        raise _unusable(workdir, error) from error
    with locked(workdir):
        _check_settings(workdir, json.loads(json.dumps(settings)))
        if not is_finished(workdir):
            yield None
            return
        path = workdir / "result.json"
        try:
            result = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"workdir: {path} is damaged ({error}); move it away to have it written anew") from error
        say(f"{workdir} holds this run, finished")
        yield result


def is_finished(workdir: Path) -> bool:
    """Whether a work folder holds a result, of whatever settings."""
    return (workdir / "result.json").is_file()


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of a work folder.

    Raises:
      ValueError: one is in it, or the folder cannot be written.
    """
    try:
        held = FileLock(workdir / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise ValueError(
            f"workdir: {workdir} is in use by another run; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise _unusable(workdir, error) from error
    with held:
        yield


def _unusable(workdir: Path, error: OSError) -> ValueError:
    return ValueError(f"workdir: {workdir} cannot be written ({error.strerror}); choose another folder")


def _check_settings(workdir: Path, settings: Any) -> None:
    """Writes config.json, or checks that it says the same; see :func:`claimed`."""
    path = workdir / "config.json"
    try:
        held = json.loads(path.read_text()) if path.exists() else settings
        if differences := _differences(held, settings):
            raise ValueError(
                f"workdir: {workdir} holds a run with other settings ({'; '.join(differences)}); "
                "choose another --workdir, or run it with its own settings"
            )
        if not is_finished(workdir):
            write_json(path, settings)  # also on resuming: what cannot be written to is better known now
    except OSError as error:
        raise _unusable(workdir, error) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"workdir: {path} is damaged ({error}); choose another folder") from error


def _differences(held: Any, wanted: Any, prefix: str = "") -> list[str]:
    if isinstance(held, dict) and isinstance(wanted, dict):
        keys = [*held, *(key for key in wanted if key not in held)]
        return [d for key in keys for d in _differences(held.get(key), wanted.get(key), f"{prefix}.{key}".lstrip("."))]
    return [] if held == wanted else [f"{prefix} is {held} there and {wanted} here"]


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """While open, the first interrupt or termination (a preempted machine's) is noted; a second acts as usual.

    Yields:
      What gives its number, or 0. Outside the main thread, where there can be no handlers, it is always 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    seen = [0]

    def note(number, frame):
        seen[0] = number
        restore()

    def restore():
        for kind, handler in before.items():
            signal.signal(kind, handler)

    before = {kind: signal.signal(kind, note) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: seen[0]
    finally:
        restore()


def memory_needed(compiled: jax.stages.Compiled, mode: str) -> str:
    """A line on the memory of a compiled outer step, by XLA's own analysis."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return "this backend does not say how much memory an outer step needs"
    held, within = analysis.argument_size_in_bytes / 1e6, analysis.temp_size_in_bytes / 1e6
    return f"memory: {held:.1f} MB of data and state, {within:.1f} MB more within an outer step (mode {mode})"


@dataclasses.dataclass(frozen=True)
class Trained:
    """The end of a run: its last state, its metrics by line, and the seconds it took over all resumptions."""

    state: Any
    metrics: list[dict[str, float]]
    seconds: float


def train(
    workdir: Path,
    state: State,
    update: Callable[[State, int], tuple[State, OuterInfo]],
    *,
    steps: int,
    validate: Callable[[State], Mapping[str, float]],
    validate_every: int,
    checkpoint_seconds: float,
    remedy: str,
) -> Trained:
    """Runs outer steps up to ``steps``, from the newest checkpoint in ``workdir`` if there is one.

    Writes ``metrics.jsonl`` (a line per step, and one per validation) and ``checkpoints/``. The metrics of a step are
    fetched only after the next is dispatched, so the device does not wait for Python.

    Args:
      workdir: a claimed folder.
      state: the initial state, any pytree of arrays.
      update: ``(state, step) -> (state, info)`` for steps 1, 2, …; jitted, may donate.
      steps: outer steps in all.
      validate: ``state -> metrics``; does not change the state.
      validate_every: outer steps between two validations.
      checkpoint_seconds: least time between two checkpoints.
      remedy: what to change when the loss is not finite.

    Raises:
      RunError: the loss or the meta-gradient was not finite; the last good state is saved.
      Stopped: a signal asked to stop; the last state is saved.
      ValueError, OSError: checkpoints that cannot be used (see :meth:`dd_jax.files.checkpoint.Checkpoints.restore`).
    """
    metrics_path = workdir / "metrics.jsonl"
    with checkpoints(workdir / "checkpoints") as saved:
        start, state, facts = saved.restore(state) or (0, state, {})
        metrics = [line for line in read_lines(metrics_path) if line["step"] <= start]
        write_atomically(metrics_path, "".join(json.dumps(line) + "\n" for line in metrics))
        done = facts.get("seconds", metrics[-1]["seconds"] if metrics else 0.0)
        began = time.monotonic() - done
        if start:
            print(f"resuming at step {start} of {steps}", flush=True)
        last_save = time.monotonic()

        def save(step: int, state: State) -> None:
            saved.save(step, state, {"seconds": round(time.monotonic() - began, 3)})

        bar = tqdm.tqdm(
            total=steps, initial=start, unit="step", desc="distilling", disable=start >= steps, dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 60.0,
        )  # fmt: skip
        with metrics_path.open("a") as file, bar, signals() as signalled:

            def record(step: int, values: Mapping[str, float]) -> None:
                metrics.append({"step": step, **values, "seconds": round(time.monotonic() - began, 3)})
                print(json.dumps(metrics[-1]), file=file, flush=True)

            def settle(step: int, info: OuterInfo) -> None:
                """Records a dispatched step once its numbers are there; a refused one ends the run."""
                loss, norm, finite = (x.item() for x in jax.device_get(info))
                if not finite:
                    save(step - 1, state)
                    raise RunError(
                        f"step {step}: the loss is {loss} and the meta-gradient's norm {norm}; {remedy}. "
                        f"The state after step {step - 1} is saved in {workdir / 'checkpoints'}"
                    )
                record(step, {"loss": loss, "gradient_norm": norm})
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()

            pending = None
            for step in range(start + 1, steps + 1):
                state, info = update(state, step)
                if pending is not None:
                    settle(*pending)
                pending = (step, info)
                validating = step % validate_every == 0 or step == steps
                stopping = signalled()
                saving = stopping or step == steps or time.monotonic() - last_save > checkpoint_seconds
                if validating or saving:
                    settle(*pending)
                    pending = None
                if validating:
                    record(step, validate(state))
                if saving:
                    save(step, state)
                    last_save = time.monotonic()
                if stopping:
                    raise Stopped(
                        f"stopped after step {step} of {steps}; the same command goes on from there", stopping
                    )
    return Trained(state, metrics, time.monotonic() - began)


def read_lines(path: Path) -> list[dict[str, float]]:
    """The whole lines of a JSON-lines file; one cut short by a crash is dropped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def provenance() -> dict[str, Any]:
    """What made a result: versions and hardware."""
    return {
        "versions": {"dd_jax": dd_jax.__version__, "jax": jax.__version__},
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind} ({platform.machine()})",
    }
