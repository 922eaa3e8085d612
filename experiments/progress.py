"""How a run is doing, for people: a bar in a terminal, a line now and then in a log file."""

import os
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
import tqdm

from .say import say

_EVERY = 60.0  # seconds between two lines of a log file, at least
_HINTS_UNTIL = 0.75  # of the outer steps: later the rate is so small that the loss hardly moves anyway
_FEWEST = 25  # outer steps to tell a loss that stopped improving from noise


class Progress:
    """The progress of outer steps. Use it with ``with``, which ends the bar."""

    def __init__(self, steps: int, start: int, *, silent: bool = False):
        self._steps, self._step, self._silent = steps, start, silent
        self._told = self._began = time.monotonic()
        self._told_at, self._validation, self._hinted = start, "", False
        terminal = sys.stderr.isatty() and not silent and start < steps
        self._bar = tqdm.tqdm(
            total=steps, initial=start, unit="step", desc="distilling", disable=not terminal, dynamic_ncols=True,
            mininterval=0.2,
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def stepped(self, loss: float) -> None:
        """To be told of each outer step, and its loss."""
        self._step += 1
        now = time.monotonic()
        if not self._bar.disable:
            if now - self._told > 1 or self._step == self._steps:
                self._told = now
                self._bar.set_postfix_str(" · ".join(self._facts(loss)), refresh=False)
            self._bar.update()
        elif not self._silent and (now - self._told > _EVERY or self._step == self._steps):
            rate = (self._step - self._told_at) / max(now - self._told, 1e-9)
            self._told, self._told_at = now, self._step
            say(line(self._step, self._steps, rate, self._facts(loss)))

    def validated(self, accuracy: float | None, losses: Sequence[float]) -> None:
        """To be told of each validation, with all losses so far; says once that they stopped improving."""
        self._validation = "" if accuracy is None else f"validation {100 * accuracy:.1f} %"
        if self._silent or self._hinted or self._step > _HINTS_UNTIL * self._steps or not stalled(losses):
            return
        self._hinted = True
        if not self._bar.disable:
            self._bar.clear()
        say(stalled_hint(losses))

    def _facts(self, loss: float) -> list[str]:
        used = memory()
        held = "" if used is None else f"memory {used / 1e6:,.0f} MB"
        return [f"loss {loss:.3g}", *filter(None, [self._validation, held])]


def line(step: int, steps: int, rate: float, facts: Sequence[str]) -> str:
    """The line of a log file.

    >>> line(400, 1000, 11.5, ["loss 0.526"])
    'outer step 400 of 1,000 · 11.5 steps/s · 52 s left · loss 0.526'
    """
    pace = f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.3g} s/step"
    left = [f"{duration((steps - step) / max(rate, 1e-9))} left"] if step < steps else []
    return " · ".join([f"outer step {step:,} of {steps:,}", pace, *left, *facts])


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(52.2), duration(600.0), duration(7500.0)
    ('52 s', '10 min', '2 h 5 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def memory() -> int | None:
    """Bytes in use: of the first device where it says so, else of this process; None where neither is known."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_in_use" in stats:
        return stats["bytes_in_use"]
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not Linux
        return None


def stalled(losses: Sequence[float]) -> bool:
    """Whether the loss has stopped improving: its last quarter is no better than the one before, but for noise.

    Noise is the standard error of the difference of the two means.

    >>> stalled([1.0] * 200), stalled([1 / (1 + step) for step in range(200)]), stalled([1.0] * 20)
    (True, False, False)
    """
    size = len(losses) // 4
    if size < _FEWEST:
        return False
    before, last = np.asarray(losses[-2 * size : -size]), np.asarray(losses[-size:])
    noise = np.sqrt((before.var() + last.var()) / size)
    return bool(last.mean() >= before.mean() - noise)


def stalled_hint(losses: Sequence[float]) -> str:
    """What is said of a loss that has stopped improving."""
    size = len(losses) // 4
    before, last = np.mean(losses[-2 * size : -size]), np.mean(losses[-size:])
    return (
        f"hint: the loss does not improve any more: {last:.4g} over the last {size:,} outer steps, {before:.4g} "
        "before. If it stays so, try another --outer.learning-rate or --distilled.step-size"
    )
