"""A quarter of an hour with a GPU or TPU: is it right there, what does precision cost, and how fast is it?

    python -m benchmarks.accelerator [--minutes 8] [--out FILE.json] [--small] [--write]
    python -m benchmarks.accelerator --read FILE.json … --write

measures, in this order and within so many minutes,

1. correctness: the meta-gradient of a small network in every mode, with every convolution and several inner optimizers,
   in float32 on the device against float64 on the host;
2. precision: what each does to the gradient of workload W4, and to the accuracy of a short distillation;
3. speed and memory of the workloads beside the idiomatic JAX version and, where it is installed, PyTorch;
4. the CIFAR-10 presets for as many outer steps as fit, where there is a TFDS copy of the data.

Each result is written to the JSON file once it is there. What fails, or takes too long, is written with the reason, and
the rest goes on. Programs are compiled side by side, so their compile seconds are those of a busy host. ``--small`` is
a short version for a CPU. ``--write`` puts the tables into benchmarks/README.md; with ``--read`` they are those of
earlier runs, and nothing is measured.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator_cases import Case, at_a_time, serve
from benchmarks.accelerator_tables import summary, tables
from benchmarks.readme import write_table
from benchmarks.workloads import BATCH
from dd_jax.files.atomic import write_json
from dd_jax.inner.modes import MODES
from dd_jax.networks.convolution import METHODS
from experiments.metrics import read_lines
from experiments.settings import PRECISIONS

LEAST = 5.0  # seconds that a batch must have left to begin
PRESET_LEAST = 60.0
OPTIMIZERS = ("plain", "momentum", "adam")
FIRST = {"mode": MODES[0], "precision": "float32"}


class Batch(NamedTuple):
    """Cases that one process measures together, and the share of all time by which it must be done."""

    cases: list[Case]
    until: float
    quiet: bool = False  # measured once all are compiled
    on_cpu: bool = False  # another library has the device


def plan(platform: str, small: bool) -> list[Batch]:
    """The batches, in the order of what one wants to know first."""
    batches = _small_batches() if small else _batches(2048 if platform == "cpu" else 8192)
    has_pytorch = importlib.util.find_spec("torch") and platform in ("cpu", "gpu")
    if has_pytorch:
        device = "cpu" if platform == "cpu" else "cuda"
        names, batch = (["W1"], 64) if small else (["W4", "W1", "W2", "W5", "W3"], BATCH)
        cases = [{"kind": "pytorch", "workload": name, "batch": batch, "device": device} for name in names]
        batches.append(Batch(cases, 0.8, on_cpu=True))
    return sorted(batches, key=lambda batch: batch.until)


def _batches(size: int) -> list[Batch]:
    every = [_check(mode, method, optimizer) for optimizer in OPTIMIZERS for mode in MODES for method in METHODS]
    others = [_check(MODES[0], m, network=n, options={}) for n in ("lenet", "alexcifarnet") for m in METHODS]
    first = [case for name in ("W4", "W1", "W2") for case in (*_ours(name), _idiomatic(name))]
    larger = [case for name in ("W5", "W3") for case in (*_ours(name), _idiomatic(name))]
    modes = [case for mode in MODES[1:] for case in _ours("W4", mode=mode)]
    lower = [case for precision in PRECISIONS[1:] for name in ("W4", "W2") for case in _ours(name, precision=precision)]
    return [
        Batch([*every, *others], 0.25),
        Batch([_gradient("W4", precision, method) for method in METHODS for precision in PRECISIONS], 0.37),
        Batch([_distillation(precision) for precision in PRECISIONS], 0.5),
        Batch([*(_rate(precision, size) for precision in PRECISIONS), *first], 0.66, quiet=True),
        Batch([case for nets in (1, 16, 64) for case in _ours("W2", nets=nets)], 0.74, quiet=True),
        Batch([*larger, *_ours("W2", over="map"), *lower, *modes], 0.9, quiet=True),
    ]


def _small_batches() -> list[Batch]:
    convnet = {"width": 2, "depth": 1}
    ours, *_ = _ours("W1", batch=64)
    several, *_ = _ours("W2", nets=2, steps=1, epochs=1, batch=64)
    checks = [*(_check(mode, "matmul", options=convnet) for mode in MODES), _check(MODES[0], "lax", options=convnet)]
    return [
        Batch(checks, 0.25),
        Batch([_gradient("W1", "bfloat16", "matmul", batch=32)], 0.4),
        Batch([_distillation("float32", outer_steps=2, network="mlp", nets=2)], 0.6),
        Batch([_rate("float32", 256), ours, _idiomatic("W1", batch=64), several], 0.79, quiet=True),
    ]


def _check(mode: str, method: str, optimizer: str = "plain", **others: Any) -> Case:
    case = {"kind": "correctness", "network": "convnet", "options": {"width": 4}, "optimizer": optimizer}
    return case | {"mode": mode, "convolution": method} | others


def _gradient(workload: str, precision: str, method: str, batch: int = BATCH) -> Case:
    return {"kind": "gradient", "workload": workload, "precision": precision, "convolution": method, "batch": batch}


def _distillation(precision: str, **others: Any) -> Case:
    return {"kind": "distillation", "precision": precision, "network": "lenet", "outer_steps": 300, "nets": 50} | others


def _rate(precision: str, size: int) -> Case:
    return {"kind": "rate", "precision": precision, "size": size}


def _ours(workload: str, **others: Any) -> list[Case]:
    """By each method of convolution."""
    case = {"kind": "timing", "implementation": "ours", "workload": workload, "batch": BATCH, **FIRST}
    return [case | {"convolution": method} | others for method in METHODS]


def _idiomatic(workload: str, batch: int = BATCH) -> Case:
    return {"kind": "timing", "implementation": "idiomatic", "workload": workload, "batch": batch, **FIRST}


class Record:
    """The JSON file: whole after every result."""

    def __init__(self, path: Path, facts: dict[str, Any], options: argparse.Namespace):
        self.path, self.began = path, time.monotonic()
        about = {"minutes": options.minutes, "small": options.small, "compiled_at_a_time": at_a_time()}
        self.content: dict[str, Any] = {**facts, **about, "seconds": 0.0, "results": [], "left_out": []}
        self._write()

    def add(self, case: Case, measured: dict[str, Any]) -> None:
        """A result, or an error in its place."""
        self.content["results"].append(case | _finite(measured))
        print(summary(case | measured), flush=True)
        self._write()

    def leave_out(self, cases: Sequence[Case], why: str) -> None:
        """Cases that are not begun."""
        self.content["left_out"] += [case | {"why": why} for case in cases]
        self._write()

    def _write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self.began, 1)
        write_json(self.path, self.content)


def _finite(measured: dict[str, Any]) -> dict[str, Any]:
    """As JSON can hold it, which has no NaN: such are null."""
    return json.loads(json.dumps(measured), parse_constant=lambda name: None)


class Worker:
    """A process that measures; one that takes too long or crashes is ended, and its cases have that as their error."""

    def __init__(self, seconds: float, on_cpu: bool = False):
        context = multiprocessing.get_context("spawn")
        self.on_cpu = on_cpu
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, on_cpu), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.facts: dict[str, Any] = self._received(seconds)  # once it has found the device
        except (TimeoutError, EOFError):
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can take another batch."""
        return self._process.is_alive()

    def measure(self, batch: Batch, seconds: float, record: Record) -> None:
        """Has a batch measured within so many seconds."""
        until, missing = time.monotonic() + seconds, dict(enumerate(batch.cases))
        try:
            self._connection.send((batch.cases, batch.quiet, 0.7 * seconds))
            while (found := self._received(until - time.monotonic())) is not None:
                number, measured = found
                record.add(missing.pop(number), measured)
            why = f"not compiled within {0.7 * seconds:.0f} s"
        except (TimeoutError, EOFError, OSError) as error:
            why = f"{error}, {seconds:.0f} s for its batch" if isinstance(error, TimeoutError) else self._how_it_ended()
        for case in missing.values():
            record.add(case, {"error": why})
        if missing:
            self.end()

    def _received(self, seconds: float) -> Any:
        if not self._connection.poll(max(0.0, seconds)):
            raise TimeoutError("out of time")
        return self._connection.recv()

    def _how_it_ended(self) -> str:
        self._process.join(5)
        return f"its process ended with {self._process.exitcode}"

    def end(self) -> None:
        """Ends the process, so that another may have the device."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(2)
        self._process.kill()
        self._process.join()
        self._connection.close()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures everything that fits.

    Returns:
      The content of the JSON file.
    """
    began, total = time.monotonic(), 60 * options.minutes
    try:
        worker = Worker(total)
    except (TimeoutError, EOFError) as error:
        raise SystemExit(f"error: no process found a device within {total:.0f} s; is another using it?") from error
    record = Record(options.out, worker.facts, options)
    record.began = began
    print(f"{worker.facts['device']}; results go to {options.out}", flush=True)
    for batch in plan(worker.facts["platform"], options.small):
        left = began + batch.until * total - time.monotonic()
        if left < LEAST:
            record.leave_out(batch.cases, "no time was left")
            continue
        if not worker.is_alive or worker.on_cpu != batch.on_cpu:
            worker.end()
            try:
                worker = Worker(left, batch.on_cpu)
            except (TimeoutError, EOFError):
                record.leave_out(batch.cases, "no process found the device")
                continue
        worker.measure(batch, began + batch.until * total - time.monotonic(), record)
    worker.end()
    _presets(began + total, record, options)
    return record.content


def _presets(until: float, record: Record, options: argparse.Namespace) -> None:
    """``experiments.random_init cifar10`` and ``fixed_init cifar10``, for as many outer steps as should fit."""
    data = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / "cifar10"
    for experiment, nets, share in (("random_init", 4, 0.55), ("fixed_init", 1, 1.0)):
        case: Case = {"kind": "preset", "preset": f"{experiment} cifar10"}
        left = share * (until - time.monotonic())
        if options.small or not data.is_dir():
            record.leave_out([case], "it is not in the small version" if options.small else f"no TFDS copy in {data}")
        elif left < PRESET_LEAST:
            record.leave_out([case], "no time was left")
        else:
            case["outer_steps"] = _steps_that_fit(record.content["results"], nets, left - PRESET_LEAST / 2)
            record.add(case, _preset(experiment, nets > 1, case["outer_steps"], left, _runs(options.out) / experiment))


def _runs(out: Path) -> Path:
    """Where the presets' work folders are."""
    return out.with_name(f"{out.stem}_runs")


def _steps_that_fit(results: Sequence[dict[str, Any]], nets: int, seconds: float) -> int:
    """Outer steps in half of this time, if one takes what W3 took; few where W3 was not measured."""
    of_w3 = [r for r in results if r.get("workload") == "W3" and r.get("implementation") == "ours"]
    taken = [r["seconds"] for r in of_w3 if "seconds" in r]
    return max(10, int(0.5 * seconds / (nets * min(taken)))) if taken else 20


def _preset(experiment: str, random: bool, steps: int, seconds: float, workdir: Path) -> dict[str, Any]:
    """Runs a preset as a user does, and stops it as a preempted machine would once its time is over."""
    command = [sys.executable, "-m", f"experiments.{experiment}", "cifar10", "--outer.steps", str(steps)]
    command += ["--workdir", str(workdir), *(("--weights.test-nets", "20") if random else ())]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        status = process.wait(max(1.0, seconds - 20))
        why = f"its process ended with {status}"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        why = f"stopped after {seconds - 20:.0f} s"
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    facts: dict[str, Any] = {"all_seconds": time.monotonic() - began, "workdir": str(workdir)}
    if (workdir / "result.json").is_file():
        result = json.loads((workdir / "result.json").read_text())
        return facts | {"accuracy": result["test_accuracy"], "wall_seconds": result["wall_seconds"]}
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "loss" in line]
    return facts | {"error": why, **({"last": lines[-1]} if lines else {})}


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--read", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if not (math.isfinite(options.minutes) and options.minutes > 0):
        parser.error(f"--minutes: {options.minutes} is not accepted; use a positive number")
    if options.read:
        contents = [_content_of(path, parser) for path in options.read]
    else:
        if options.out.exists() or not options.out.parent.is_dir():
            parser.error(f"--out: {options.out} is not accepted; use a new file in an existing folder")
        contents = [measure(options)]
    text = "\n".join(tables(content) for content in contents)
    print(text)
    if options.write:
        write_table("accelerator", text)


def _content_of(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        return content | {"results": list(content["results"]), "device": content["device"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--read: {path} is not accepted ({type(error).__name__}); use a file that --out wrote")


if __name__ == "__main__":
    main()
