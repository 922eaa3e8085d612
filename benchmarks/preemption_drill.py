"""Ends a run at random moments, again and again, and compares its end with that of a run left alone.

    python -m benchmarks.preemption_drill [--rounds 20] [--processes 2] [--seed 0] [--steps 120] [--folder DIR]

Each round is a run of ``experiments.fixed_init digits`` that is started until it is finished. Two of its starts are
ended at a random moment each: one by SIGTERM and one by SIGKILL, in random order; with several processes, that is sent
to one of them or to all. SIGTERM must end every process with status 143, and nothing may hang. Prints a line for each
round and JSON at the end; the status is 1 unless every round has, bit by bit, the images and step sizes of the run left
alone.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds for a process to end, by itself or once the signal is sent
SMALL = ("digits", "--distilled.epochs", "2", "--batch-size", "32", "--checkpoint-seconds", "0.5")


def start(workdir: Path, processes: int, steps: int) -> list[subprocess.Popen[str]]:
    """The run, from wherever it has come to."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "experiments.fixed_init",
        *SMALL,
        "--outer.steps",
        str(steps),
    ]
    command += ["--workdir", str(workdir)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    started = []
    for number in range(processes):
        where = ("--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.count", str(processes))
        own = () if processes == 1 else (*where, "--hosts.number", str(number))
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*command, *own], cwd=ROOT, env=environment, **pipes))
    return started


def statuses(running: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Waits for all, and gives their statuses and what they told; ``RuntimeError``, with their stacks, if one hangs."""
    try:
        told = "\n".join(process.communicate(timeout=PATIENCE)[1] for process in running)
    except subprocess.TimeoutExpired as error:
        for process in running:
            process.send_signal(signal.SIGABRT)  # at which Python tells where its threads are
        told = "\n".join(process.communicate()[1] for process in running)
        raise RuntimeError(f"{error.cmd} hangs:\n{told}") from error
    return [process.returncode for process in running], told


def ended(running: list[subprocess.Popen[str]], kind: signal.Signals, chance: random.Random, longest: float) -> str:
    """Ends a run at a random moment, unless it is at its end before; tells how."""
    moment = chance.uniform(0.0, 0.7 * longest)
    time.sleep(moment)
    victims = running if len(running) == 1 or chance.random() < 0.5 else [chance.choice(running)]
    before_the_end = any(process.poll() is None for process in victims)
    for process in victims:
        process.send_signal(kind)
    which = "" if len(running) == 1 else " of all" if victims is running else f" of {running.index(victims[0])}"
    status, told = statuses(running)
    accepted = {0, 1, -signal.SIGKILL, -signal.SIGABRT} if kind == signal.SIGKILL else {0, 143, -signal.SIGTERM}
    if not set(status) <= accepted:
        raise RuntimeError(f"{kind.name}{which} after {moment:.1f} s: statuses {status}\n{told}")
    return f"{kind.name}{which} after {moment:.1f} s → {status}" if before_the_end else "at its end"


def digest(workdir: Path) -> str:
    """Of what a run ended with."""
    with np.load(workdir / "distilled.npz") as file:
        content = b"".join(file[name].tobytes() for name in ("images", "labels", "step_sizes"))
    return hashlib.sha256(content).hexdigest()[:16]


def run(folder: Path, *, rounds: int, processes: int = 1, seed: int = 0, steps: int = 120) -> dict[str, Any]:
    """The drill.

    Args:
      folder: holds a work folder for each round.
      rounds: how many runs are ended and resumed.
      processes: of each run.
      seed: of the moments.
      steps: outer steps of each run.

    Raises:
      RuntimeError: a process ended with a status that it must not have, or hangs.
    """
    began = time.monotonic()
    status, told = statuses(start(folder / "whole", processes, steps))
    if any(status):
        raise RuntimeError(f"the run that was left alone ended with {status}\n{told}")
    longest, whole = time.monotonic() - began, digest(folder / "whole")
    equal = []
    for number in range(rounds):
        workdir, chance = folder / f"round_{number}", random.Random(f"{seed} {number}")
        kinds = chance.sample([signal.SIGTERM, signal.SIGKILL], 2)
        how = [ended(start(workdir, processes, steps), kind, chance, longest) for kind in kinds]
        status, told = statuses(start(workdir, processes, steps))
        if any(status):
            raise RuntimeError(f"round {number}: the same command ended with {status} after {how}\n{told}")
        equal.append(digest(workdir) == whole)
        print(f"round {number}: {'; '.join(how)}; {'equal' if equal[-1] else 'NOT EQUAL'}", flush=True)
    return {
        "processes": processes,
        "rounds": rounds,
        "equal": sum(equal),
        "bitwise_equal": all(equal),
        "seconds_of_a_whole_run": round(longest, 1),
    }


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        outcome = run(folder, rounds=given.rounds, processes=given.processes, seed=given.seed, steps=given.steps)
    print(json.dumps(outcome))
    sys.exit(0 if outcome["bitwise_equal"] else 1)


if __name__ == "__main__":
    main()
