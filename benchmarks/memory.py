"""Memory of one meta-gradient against the number of steps, for every way to differentiate the loop.

    python -m benchmarks.memory [--write]

LeNet, 10 images a step, 10 distinct steps, batch 1,024 (workload W4 with T steps): XLA's own figure for the compiled
program's temporaries, with the time of one run. ``--write`` puts the table into benchmarks/README.md.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from benchmarks.readme import head, line, write_table
from benchmarks.workloads import WORKLOADS, arguments
from dd_jax.estimates import meta_gradient
from dd_jax.inner.loop import trainer
from dd_jax.inner.modes import MODES, Mode
from dd_jax.networks import make_network
from dd_jax.objectives import classification_loss

TOTALS = (10, 30, 100, 300, 1000)


def measure(mode: Mode, total: int) -> tuple[int, float]:
    """Bytes of temporaries, and seconds of the second run."""
    workload = WORKLOADS["W4"]
    distilled, thetas, batch = arguments(workload)
    distilled = distilled._replace(step_sizes=jnp.full(total, 0.0025))
    theta, key = jax.tree.map(lambda w: w[0], thetas), jax.random.key(0)
    loss = classification_loss(make_network(workload.network, workload.image_shape, 10).apply)
    step = jax.jit(meta_gradient(trainer(loss, mode=mode), loss)).lower(key, distilled, theta, batch).compile()
    analysis = step.memory_analysis()
    if analysis is None:
        raise SystemExit("this backend gives no memory analysis")
    jax.block_until_ready(step(key, distilled, theta, batch))
    began = time.perf_counter()
    jax.block_until_ready(step(key, distilled, theta, batch))
    return analysis.temp_size_in_bytes, time.perf_counter() - began


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    weights = sum(leaf[0].nbytes for leaf in jax.tree.leaves(arguments(WORKLOADS["W4"])[1]))
    lines = [head("mode", *(f"T = {total}" for total in TOTALS))]
    for mode in MODES:
        cells = [f"{size / 1e6:.1f} MB, {seconds:.2f} s" for size, seconds in (measure(mode, t) for t in TOTALS)]
        lines.append(line(mode, *cells))
        print(lines[-1], flush=True)
    held = [f"{total * weights / 1e6:.1f} MB" for total in TOTALS]
    lines.append(line("T copies of the weights", *held))
    if options.write:
        write_table("memory", "\n".join([f"jax {jax.__version__}.\n", *lines]))


if __name__ == "__main__":
    main()
