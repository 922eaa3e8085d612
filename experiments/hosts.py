"""The processes of one run: how they meet, and how they end together.

Each runs the same command, with a ``--hosts.number`` of its own, or ``--hosts.auto`` where JAX finds it out itself.
The first one writes the files and speaks; the others are silent but for errors.
"""

import atexit
import contextlib
import dataclasses
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed  # JAX has no public way for a process to tell the others that it has failed

from dd_jax.checks import positive, require
from dd_jax.files.atomic import first_line
from dd_jax.hosts import several


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes that run this together, one or more on each host. Not given: this process alone."""

    coordinator: str | None = None
    """ADDRESS:PORT at which the others find process 0, which waits for them there."""
    count: int | None = None
    """How many processes there are."""
    number: int | None = None
    """The number of this one, 0 … count - 1."""
    auto: bool = False
    """Let JAX find all three, as it can on TPU pods, and under Slurm, Open MPI and Kubernetes."""
    timeout: float = 60.0
    """Seconds for all of them to meet."""


HEARTBEAT_SECONDS = 40  # within which JAX finds out that a process has ended, and ends the others
LOOK_SECONDS = 0.5  # between two looks at whether another process has failed

_FAILED, _TOLD, _OVER = "dd_jax/failed", "dd_jax/told", "dd_jax/over"  # in JAX's store of the coordinator
_ending = threading.Lock()  # taken by the first thread that ends this process
_over = threading.Event()  # set once all processes are at their end


def start(hosts: Hosts) -> None:
    """Meets the other processes, before JAX is used for anything else; does nothing where there are none.

    If they do not all meet in time, the process ends, with status 1 and one line.

    Raises:
      ValueError: settings that do not fit each other, an address that cannot be used, or no cluster that JAX knows.
    """
    check(hosts)
    if hosts.coordinator is None and not hosts.auto:
        return
    if hosts.number == 0:
        _check_port_is_free(hosts.coordinator or "")
    with _ends_if_it_lasts(hosts):
        try:
            jax.distributed.initialize(
                hosts.coordinator,
                hosts.count,
                hosts.number,
                cluster_detection_method=None if hosts.auto else "deactivate",
                initialization_timeout=math.ceil(hosts.timeout) + 60,  # where JAX aborts: later than we end
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        except (ValueError, RuntimeError, OSError) as error:
            given = "hosts.auto: True" if hosts.auto else f"hosts.coordinator: {hosts.coordinator}"
            other = "--hosts.coordinator, --hosts.count and --hosts.number" if hosts.auto else "another"
            raise ValueError(f"{given} is not accepted ({first_line(error)}); use {other}") from error
    if several():
        looking = threading.Thread(target=_end_when_another_fails, daemon=True)
        looking.start()
        atexit.register(_end_together, looking)  # called before JAX's own, which was registered earlier
        if jax.process_index() > 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, to the end


def check(hosts: Hosts) -> None:
    """Raises ``ValueError`` for settings that do not fit each other."""
    positive("hosts.timeout", hosts.timeout)
    numbers = ("count", "number")
    if hosts.coordinator is None:
        for name in numbers:
            value, why = getattr(hosts, name), "with hosts.auto" if hosts.auto else "without hosts.coordinator"
            if value is not None:
                raise ValueError(f"hosts.{name}: {value} has no effect {why}; leave it out")
        return
    require(not hosts.auto, "hosts.auto", True, "no hosts.coordinator with it")
    address, colon, port = hosts.coordinator.rpartition(":")
    fits = bool(address) and bool(colon) and port.isdecimal() and 0 < int(port) < 2**16
    require(fits, "hosts.coordinator", hosts.coordinator, "ADDRESS:PORT, such as 10.0.0.2:8476")
    count = hosts.count or 0
    require(count >= 1, "hosts.count", hosts.count, "the number of processes, 1 or more, with hosts.coordinator")
    fits = hosts.number is not None and 0 <= hosts.number < count
    require(fits, "hosts.number", hosts.number, f"0 … {count - 1}, another for each process, with hosts.coordinator")


def _check_port_is_free(coordinator: str) -> None:
    """Where process 0 cannot listen, JAX crashes."""
    port = coordinator.rpartition(":")[2]
    try:
        with socket.create_server(("", int(port))):
            pass
    except OSError as error:
        why = f"port {port} cannot be used: {os.strerror(error.errno or 0)}"
        raise ValueError(f"hosts.coordinator: {coordinator} is not accepted ({why}); use another port") from error


@contextlib.contextmanager
def _ends_if_it_lasts(hosts: Hosts) -> Iterator[None]:
    """While open, a clock runs that ends the process: JAX has no error for this, it aborts."""
    where = hosts.coordinator or "the coordinator that JAX found"
    late = (
        f"hosts: process 0 did not answer at {where}, or not all {hosts.count or 'the'} processes came, within "
        f"{hosts.timeout:g} s; start all of them, and give each the address of process 0"
    )
    clock = threading.Timer(hosts.timeout, lambda: _exit(late))
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def _end_when_another_fails() -> None:
    """Waits until another process has said why it ends, tells it here, and ends this one."""
    client: Any = distributed.global_state.client
    while not _over.wait(LOOK_SECONDS):
        try:
            message = client.key_value_try_get(_FAILED)
        except Exception as error:
            if "NOT_FOUND" in str(error):
                continue
            return  # the coordinator has ended; so does JAX, if this process is not at its end
        if _ending.acquire(blocking=False):
            _leave(message)
        return


def _end_together(looking: threading.Thread) -> None:
    """Waits for all processes, then for the thread: where one is in a call of JAX, the end of Python is an abort."""
    client: Any = distributed.global_state.client
    with contextlib.suppress(Exception):  # another has ended otherwise, and JAX says so
        client.wait_at_barrier(_OVER, 300_000)  # milliseconds, as long as JAX itself waits
    _over.set()
    looking.join(HEARTBEAT_SECONDS)


def fail_together(message: str) -> None:
    """Ends all processes, this one with ``message`` and the others with whose it is; returns if this one is alone."""
    if not several():
        return
    if not _ending.acquire(blocking=False):
        time.sleep(60)  # the other thread ends this process meanwhile
    client: Any = distributed.global_state.client
    with contextlib.suppress(Exception):  # another was first, or the coordinator has ended
        client.key_value_set(_FAILED, f"process {jax.process_index()} has failed: {message}")
    _leave(message)


def _leave(message: str) -> NoReturn:
    """Ends this process once the others know, or cannot be told."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    client: Any = distributed.global_state.client
    with contextlib.suppress(Exception):
        client.wait_at_barrier(_TOLD, 10_000)
    if jax.process_index() == 0:
        time.sleep(1.0)  # where the coordinator ends first, JAX aborts the others
    os._exit(1)


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
