"""The resumable loop of outer steps: checkpoints, metrics, signals."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from dd_jax.files.checkpoint import checkpoints
from dd_jax.hosts import agreed, is_first, several
from dd_jax.outer import OuterInfo
from dd_jax.outer_loop import outer_loop

from .metrics import metrics
from .progress import Progress
from .signals import signals, stopping

State = TypeVar("State")


class RunError(Exception):
    """A run that cannot go on, with one line for the user."""


class Stopped(Exception):
    """A run that was asked to stop and has saved its state, with one line for the user."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number  # of the signal


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


class _Due(NamedTuple):
    """What is to be done after an outer step."""

    validate: bool = False
    save: bool = False
    stop: int = 0  # the number of the signal to stop for


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
    with checkpoints(workdir / "checkpoints") as saved:
        start, state, facts = saved.restore(state) or (0, state, {})
        if start:
            print(f"resuming at step {start} of {steps}", flush=True)
        with (
            metrics(workdir / "metrics.jsonl", start, facts.get("seconds"), tensorboard) as log,
            Progress(steps, start, silent=not is_first()) as progress,
            signals() as signalled,
        ):
            pace, due = _Pace(checkpoint_seconds, start), _Due()

            def rests(step: int) -> bool:
                nonlocal due
                last, stop = step == steps, stopping(step, signalled())
                due = _Due(last or step % validate_every == 0, pace.due(step) or bool(stop) or last, stop)
                return due.validate or due.save

            def save(step: int) -> None:
                saved.save(step, state, {"seconds": log.seconds()})
                pace.saved()

            if keep is not None and not start:
                keep(0, state)
            for done in outer_loop(state, update, steps, start=start, rests=rests):
                step, state = done.step, done.state
                if not done.finite:
                    save(step - 1)
                    raise RunError(
                        f"step {step}: the loss is {done.loss} and the meta-gradient's norm {done.gradient_norm}; "
                        f"{remedy}. The state after step {step - 1} is saved in {workdir / 'checkpoints'}"
                    )
                log.write(step, {"loss": done.loss, "gradient_norm": done.gradient_norm})
                progress.stepped(done.loss)
                if not done.rests:
                    continue
                if due.validate:
                    log.write(step, found := validate(state))
                    progress.validated(found.get("validation_accuracy"), log.losses())
                    if keep is not None:
                        keep(step, state)
                if due.save:
                    save(step)
                if due.stop:
                    raise Stopped(
                        f"stopped after step {step} of {steps}; the same command goes on from there", due.stop
                    )
    return Trained(state, log.lines, log.seconds())
