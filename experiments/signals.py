"""What a run does when it is interrupted or terminated, as a preempted machine's is."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from .say import say


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

    Where ``jax.distributed`` runs, JAX notes a termination, for all processes: see :func:`stopping`. An interrupt
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


def stopping(step: int, noted: int) -> int:
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
