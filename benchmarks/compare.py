"""Ours against the idiomatic JAX version and a PyTorch unroll, taking turns; prints the ratios.

    python -m benchmarks.compare [W1 W2 W3 W4 W5] [--rounds N] [--write]

Each lives in a process of its own, since the threads and the memory of one slow the others down. Ours deals the
networks of W2 out over the devices, each core of a CPU being one. ``--write`` puts the table into benchmarks/README.md,
where rows of other workloads stay that were measured over as many rounds on a machine of the same description. PyTorch
is left out where it is not installed.
"""

import argparse
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import jax
import jax.numpy as jnp
import joblib

from benchmarks.readme import head, line, machine, write_table, written
from benchmarks.workloads import WORKLOADS, arguments, compile_step, devices_for, flops, idiomatic, ours

HEAD = head(
    "workload",
    "ours, s",
    "idiomatic JAX, s",
    "PyTorch, s",
    "idiomatic / ours",
    "PyTorch / ours",
    "of the matmul rate",
    "compile, s",
    "loss: ours, idiomatic, PyTorch",
)
KINDS = ("ours", "idiomatic", "torch") if importlib.util.find_spec("torch") else ("ours", "idiomatic")


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


def _serve(kind: str, name: str, connection: Connection) -> None:
    """One implementation's process: says (loss, compile seconds, matmul rate), then answers a turn with its seconds."""
    workload = WORKLOADS[name]
    compile_seconds = rate = 0.0
    if kind == "torch":
        from benchmarks import torch_unroll

        run = torch_unroll.step(workload, arguments(workload))
    else:
        mesh = None
        if kind == "ours":
            jax.config.update("jax_num_cpu_devices", joblib.cpu_count())  # as the experiments do
            mesh = devices_for(workload)
        gradient = ours(workload, mesh=mesh) if kind == "ours" else idiomatic(workload)
        step, values, compile_seconds = compile_step(gradient, arguments(workload), mesh)
        rate = _matmul_rate() if kind == "ours" else 0.0

        def run():
            return float(jax.block_until_ready(step(*values))[2])

    first, _ = run(), run()  # also the warm-up
    connection.send((first, compile_seconds, rate))
    while connection.recv():
        connection.send(_seconds(run))


def row(name: str, rounds: int) -> str:
    """Measures one workload: medians of the seconds, and of the ratios round by round."""
    context = multiprocessing.get_context("spawn")
    pipes, facts, seconds = {}, {}, {kind: [] for kind in KINDS}
    for kind in KINDS:  # one after another, so that no compilation disturbs another
        pipes[kind], theirs = context.Pipe()
        context.Process(target=_serve, args=(kind, name, theirs), daemon=True).start()
        facts[kind] = pipes[kind].recv()
    for _ in range(rounds):
        for kind, pipe in pipes.items():
            pipe.send(True)
            seconds[kind].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)

    def median(kind):
        return f"{statistics.median(seconds[kind]):.3f}" if kind in seconds else "–"

    def ratio(kind):
        pairs = zip(seconds[kind], seconds["ours"], strict=True) if kind in seconds else ()
        ratios = [a / b for a, b in pairs]
        return f"{statistics.median(ratios):.1f}" if ratios else "–"

    _, compile_seconds, rate = facts["ours"]
    return line(
        name,
        *(median(kind) for kind in ("ours", "idiomatic", "torch")),
        ratio("idiomatic"),
        ratio("torch"),
        f"{flops(WORKLOADS[name]) / min(seconds['ours']) / rate:.2f}",
        f"{compile_seconds:.1f}",
        ", ".join(f"{loss:.4f}" for loss, _, _ in facts.values()),
    )


def _with_others(rows: list[str], title: str, before: list[str]) -> list[str]:
    """These rows and those of other workloads that stood under the same title, in the order of ``WORKLOADS``."""
    by_name = {_name(row): row for row in before[before.index(HEAD.splitlines()[0]) :]} if title in before else {}
    by_name |= {_name(row): row for row in rows}
    return [by_name[name] for name in WORKLOADS if name in by_name]


def _name(row: str) -> str:
    return row.split("|")[1].strip()


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
        rows.append(row(name, options.rounds))
        print(rows[-1], flush=True)
    if options.write:
        title = f"Median of {options.rounds} rounds; {machine()}."
        write_table("compare", "\n".join([title, "", HEAD, *_with_others(rows, title, written("compare"))]))


if __name__ == "__main__":
    main()
