"""The resumable loop of outer steps: checkpoints, metrics, signals."""

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from dd_jax.checks import positive, require  # noqa: F401, for the experiments
from dd_jax.files.atomic import write_atomically
from dd_jax.files.checkpoint import checkpoints
from dd_jax.hosts import agreed, is_first, several
from dd_jax.outer import OuterInfo
from dd_jax.outer_loop import Done, outer_loop

from .progress import Progress, stalled, stalled_hint
from .say import say
from .tensorboard import scalars

State = TypeVar("State")

_HINTS_UNTIL = 0.75  # of the outer steps: later the rate is so small that the loss hardly moves anyway


class RunError(Exception):
    """A run that cannot go on, with one line for the user."""


class Stopped(Exception):
    """A run that was asked to stop and has saved its state, with one line for the user."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number  # of the signal


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """While open, a termination ends the process at once, with status 143, but within :func:`signals`.

    That is also so while XLA compiles, which Python's own handlers would wait for. Nothing is lost: files are whole or
    absent, and checkpoints are saved within :func:`signals`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def end() -> None:
        while numbers := os.read(reading, 64):  # Python writes the number of each signal, whatever its main thread does
            if signal.SIGTERM in numbers:
                say("stopped; the same command goes on from the last checkpoint, if there is one")
                os._exit(128 + signal.SIGTERM)
        os.close(reading)

    threading.Thread(target=end, name="ending at once", daemon=True).start()
    before = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before[1])
        signal.signal(signal.SIGTERM, before[0])
        os.close(writing)


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """While open, the first interrupt or termination (a preempted machine's) is noted; a second acts as usual.

    Where ``jax.distributed`` runs, JAX notes a termination, for all processes: see :func:`_stopping`. An interrupt
    is passed on to it.

    Yields:
      What gives its number, or 0. Outside the main thread, where there can be no handlers, it is always 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    seen = [0]
    together = jax.distributed.is_initialized()

    def note(number, frame):
        seen[0] = number
        restore()
        if together:
            os.kill(os.getpid(), signal.SIGTERM)

    def restore():
        signal.set_wakeup_fd(wakeup)
        for kind, handler in before.items():
            signal.signal(kind, handler)

    kinds = (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, note) for kind in kinds}
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield lambda: seen[0]
    finally:
        restore()


def _stopping(step: int, noted: int) -> int:
    """The number of the signal that this run stops for after this step, or 0: of several processes, all or none do.

    Args:
      step: outer steps done; to be asked after each.
      noted: what :func:`signals` gave.
    """
    if not jax.distributed.is_initialized():
        return noted
    if not multihost_utils.reached_preemption_sync_point(step):
        return 0
    return noted or signal.SIGTERM


class _Pace:
    """Says when a checkpoint is due: by the first process's clock, at steps that all processes know."""

    def __init__(self, seconds: float, step: int):
        self._seconds = seconds
        self._saved = self._looked = time.monotonic()
        self._last, self._next = step, step + 1  # looks at the clock

    def due(self, step: int) -> bool:
        """Whether to save after this step; to be asked after each."""
        if step < self._next:
            return False
        now = time.monotonic()
        due = now - self._saved > self._seconds
        if not several():
            return due
        left = self._seconds - (0 if due else now - self._saved)
        pace = (now - self._looked) / (step - self._last)  # seconds per step
        due, steps = agreed((due, steps_until(left, pace, step - self._last)))
        self._last, self._next, self._looked = step, step + steps, time.monotonic()
        return due

    def saved(self) -> None:
        """To be told of a checkpoint."""
        self._saved = time.monotonic()


def steps_until(left: float, pace: float, before: int) -> int:
    """How many steps to take before the next look at the clock: at most twice as many as before the last one.

    Args:
      left: seconds.
      pace: seconds per step, as measured.
      before: steps between the last two looks.

    >>> steps_until(30.0, 0.5, 100), steps_until(30.0, 0.5, 1), steps_until(0.1, 0.5, 100)
    (60, 2, 1)
    """
    return max(1, min(int(left / max(pace, 1e-6)), 2 * before))


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
    keep: Callable[[int, State], None] | None = None,
    tensorboard: Path | None = None,
) -> Trained:
    """Runs outer steps up to ``steps``, from the newest checkpoint in ``workdir`` if there is one.

    Writes ``metrics.jsonl`` (a line per step, and one per validation) and ``checkpoints/`` while
    :func:`dd_jax.outer_loop.outer_loop` goes on.

    Several processes call this together. The first one writes the metrics; all save, and stop, after the same step.

    Args:
      workdir: a claimed folder.
      state: the initial state, any pytree of arrays: of one process, or replicated over all devices of all processes.
      update: ``(state, step) -> (state, info)`` for steps 1, 2, …; jitted, may donate.
      steps: outer steps in all.
      validate: ``state -> metrics``; does not change the state.
      validate_every: outer steps between two validations.
      checkpoint_seconds: least time between two checkpoints.
      remedy: what to change when the loss is not finite.
      keep: ``(step, state)``, called before the first step and after each validation, to keep what may be looked at
        later; does not change the state.
      tensorboard: a folder for TensorBoard files with the metrics; none are written if not given.

    Raises:
      RunError: the loss or the meta-gradient was not finite; the last good state is saved.
      Stopped: a signal asked to stop; the last state is saved.
      ValueError, OSError: checkpoints that cannot be used (see :meth:`dd_jax.files.checkpoint.Checkpoints.restore`).
    """
    metrics_path = workdir / "metrics.jsonl"
    with checkpoints(workdir / "checkpoints") as saved:
        start, state, facts = saved.restore(state) or (0, state, {})
        metrics = [line for line in read_lines(metrics_path) if line["step"] <= start] if is_first() else []
        if is_first():
            write_atomically(metrics_path, "".join(json.dumps(line) + "\n" for line in metrics))
        done = facts.get("seconds", metrics[-1]["seconds"] if metrics else 0.0)
        began = time.monotonic() - done
        if start:
            print(f"resuming at step {start} of {steps}", flush=True)
        pace = _Pace(checkpoint_seconds, start)

        def save(step: int, state: State) -> None:
            saved.save(step, state, {"seconds": round(time.monotonic() - began, 3)})
            pace.saved()

        hinted = False
        progress = Progress(steps, start, silent=not is_first())
        with (
            (metrics_path if is_first() else Path(os.devnull)).open("a") as file,
            scalars(tensorboard if is_first() else None, start) as tell,
            progress,
            signals() as signalled,
        ):

            def record(step: int, values: Mapping[str, float]) -> None:
                metrics.append({"step": step, **values, "seconds": round(time.monotonic() - began, 3)})
                print(json.dumps(metrics[-1]), file=file, flush=True)
                tell(step, values)

            def settle(done: Done) -> None:
                """Records a step; a refused one ends the run."""
                if not done.finite:
                    save(done.step - 1, done.state)
                    raise RunError(
                        f"step {done.step}: the loss is {done.loss} and the meta-gradient's norm {done.gradient_norm}; "
                        f"{remedy}. The state after step {done.step - 1} is saved in {workdir / 'checkpoints'}"
                    )
                record(done.step, {"loss": done.loss, "gradient_norm": done.gradient_norm})
                progress.stepped(done.loss)

            validating = saving = stopping = 0  # as after the last step that was asked about

            def rests(step: int) -> bool:
                nonlocal validating, saving, stopping
                validating = step % validate_every == 0 or step == steps
                stopping = _stopping(step, signalled())
                saving = pace.due(step) or stopping or step == steps
                return bool(validating or saving)

            if keep is not None and not start:
                keep(0, state)
            for done in outer_loop(state, update, steps, start=start, rests=rests):
                step, state = done.step, done.state
                settle(done)
                if not done.rests:
                    continue
                if validating:
                    record(step, found := validate(state))
                    progress.validated(found.get("validation_accuracy"))
                    if keep is not None:
                        keep(step, state)
                    losses = [line["loss"] for line in metrics if "loss" in line]
                    if not hinted and step <= _HINTS_UNTIL * steps and stalled(losses):
                        hinted = True
                        progress.hint(stalled_hint(losses))
                if saving:
                    save(step, state)
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
