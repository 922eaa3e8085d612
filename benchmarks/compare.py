"""Ours against the idiomatic JAX version and a PyTorch unroll, taking turns in one process; prints the ratios.

    python -m benchmarks.compare [W1 W2 W3 W4] [--rounds N] [--write]

``--write`` puts the table into benchmarks/README.md. PyTorch is left out where it is not installed.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.workloads import WORKLOADS, Workload, arguments, compile_step, flops, idiomatic, ours
from dd_jax.storage import write_atomically

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- compare: written by python -m benchmarks.compare --write -->", "<!-- end of compare -->"
HEAD = (
    "| workload | ours, s | idiomatic JAX, s | PyTorch, s | idiomatic / ours | PyTorch / ours | of the matmul rate "
    "| compile, s | loss: ours, idiomatic, PyTorch |\n|---|---|---|---|---|---|---|---|---|"
)


def _jax_runner(gradient, values) -> tuple[Callable[[], float], float]:
    step, values, compile_seconds = compile_step(gradient, values)
    return lambda: float(step(*values)[2]), compile_seconds


def _matmul_rate(size: int = 2048) -> float:
    """Flops per second of a large float32 matrix product, best of five."""
    a = jnp.ones((size, size))
    product = jax.jit(jnp.dot)
    product(a, a).block_until_ready()
    best = min(_seconds(lambda: product(a, a).block_until_ready()) for _ in range(5))
    return 2 * size**3 / best


def _seconds(run: Callable) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def row(name: str, workload: Workload, rounds: int) -> str:
    """Measures one workload: medians of the seconds, and of the ratios round by round."""
    values = arguments(workload)
    runners = {}
    runners["ours"], compile_seconds = _jax_runner(ours(workload), values)
    runners["idiomatic"], _ = _jax_runner(idiomatic(workload), values)
    if importlib.util.find_spec("torch"):
        from benchmarks import torch_unroll

        runners["torch"] = torch_unroll.step(workload, values)
    losses = [f"{run():.4f}" for run in runners.values()]  # also the warm-up
    seconds = {name: [] for name in runners}
    for _ in range(rounds):
        for name_, run in runners.items():
            seconds[name_].append(_seconds(run))
    median = {name: f"{statistics.median(values):.3f}" for name, values in seconds.items()}

    def ratio(other):
        pairs = zip(seconds[other], seconds["ours"], strict=True) if other in seconds else ()
        ratios = [a / b for a, b in pairs]
        return f"{statistics.median(ratios):.1f}" if ratios else "–"

    rate = flops(workload) / min(seconds["ours"]) / _matmul_rate()
    cells = (
        name,
        *(median.get(kind, "–") for kind in ("ours", "idiomatic", "torch")),
        ratio("idiomatic"),
        ratio("torch"),
        f"{rate:.2f}",
        f"{compile_seconds:.1f}",
        ", ".join(losses),
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown or options.rounds < 1:
        parser.error(f"{unknown or options.rounds} is not accepted; workloads are {', '.join(WORKLOADS)}, rounds ≥ 1")
    rows = []
    print(HEAD)
    for name in options.workloads:
        rows.append(row(name, WORKLOADS[name], options.rounds))
        print(rows[-1], flush=True)
    if options.write:
        machine = (
            f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores ({platform.machine()}), jax {jax.__version__}"
        )
        text = f"{BEGIN}\nMedian of {options.rounds} rounds; {machine}.\n\n{HEAD}\n" + "\n".join(rows) + f"\n{END}"
        before, rest = README.read_text().split(BEGIN)
        write_atomically(README, before + text + rest.split(END)[1])


if __name__ == "__main__":
    main()
