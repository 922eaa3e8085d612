"""What the pieces of the inner loop cost: optimizers against gradient descent, a window against a loop of its length.

    python -m benchmarks.inner [--rounds N] [--write]

Workload W4 (LeNet, 10 distinct steps of 10 images, batch 1,024). The compiled outer steps take turns in one process;
times are medians, ratios medians of the rounds' ratios. ``--write`` puts the table into benchmarks/README.md.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from benchmarks.readme import head, line, machine, write_table
from benchmarks.workloads import WORKLOADS, arguments, compile_step, ours
from dd_jax.inner.optimizers import INNER_OPTIMIZERS, inner_optimizer
from dd_jax.inner.schedule import Window, random_start


class Case(NamedTuple):
    """An inner loop on W4's data, and the number of the case that it is compared with."""

    optimizer: str
    epochs: int  # of 10 steps
    window: int | None
    against: int


OF_OPTIMIZERS = [Case(name, 3, None, 0) for name in INNER_OPTIMIZERS]
CASES = [*OF_OPTIMIZERS, Case("plain", 6, None, len(OF_OPTIMIZERS)), Case("plain", 100, 60, len(OF_OPTIMIZERS))]


class Measured(NamedTuple):
    """Of one case."""

    run: Callable[[int], None]  # of the round, which draws the window
    temp_bytes: int
    held_bytes: int  # weights and state of all differentiated steps


def prepared(case: Case) -> Measured:
    """Compiles the outer step of a case."""
    workload = dataclasses.replace(WORKLOADS["W4"], epochs=case.epochs)
    optimizer = inner_optimizer(case.optimizer)
    window = None if case.window is None else Window(case.window, random_start)
    values = arguments(workload)
    theta = jax.tree.map(lambda w: w[0], values[1])
    carried = jax.tree.leaves((theta, optimizer.init(theta)))
    step, values, _ = compile_step(ours(workload, optimizer=optimizer, window=window), values)
    analysis = step.memory_analysis()
    if analysis is None:
        raise SystemExit("this backend gives no memory analysis")
    differentiated = case.window or workload.steps * workload.epochs
    return Measured(
        lambda number: jax.block_until_ready(step(jax.random.key(number), *values[1:])),
        analysis.temp_size_in_bytes,
        differentiated * sum(leaf.nbytes for leaf in carried),
    )


def seconds_in_turns(runs: list[Callable[[int], None]], rounds: int) -> list[list[float]]:
    """Seconds of each, by round; each has run once before."""
    for run in runs:
        run(0)
    by_round = []
    for number in range(rounds):
        by_round.append([])
        for run in runs:
            began = time.perf_counter()
            run(number)
            by_round[-1].append(time.perf_counter() - began)
    return [list(column) for column in zip(*by_round, strict=True)]


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} is not accepted; use 1 or more")
    measured = [prepared(case) for case in CASES]
    seconds = seconds_in_turns([case.run for case in measured], options.rounds)
    lines = [head("inner optimizer", "T", "window", "s", "ratio", "MB", "ratio", "held, MB")]
    for number, (case, of_case) in enumerate(zip(CASES, measured, strict=True)):
        pairs = zip(seconds[number], seconds[case.against], strict=True)
        itself = case.against == number
        lines.append(
            line(
                case.optimizer,
                str(10 * case.epochs),
                "–" if case.window is None else str(case.window),
                f"{statistics.median(seconds[number]):.3f}",
                "1" if itself else f"{statistics.median(a / b for a, b in pairs):.2f}",
                f"{of_case.temp_bytes / 1e6:.1f}",
                "1" if itself else f"{of_case.temp_bytes / measured[case.against].temp_bytes:.2f}",
                f"{of_case.held_bytes / 1e6:.1f}",
            )
        )
    print("\n".join(lines))
    if options.write:
        write_table("inner", "\n".join([f"Median of {options.rounds} rounds; {machine()}.\n", *lines]))


if __name__ == "__main__":
    main()
