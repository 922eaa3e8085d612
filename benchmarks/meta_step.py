"""Times one outer step of a workload and prints one JSON line.

    python -m benchmarks.meta_step {W1,W2,W3,W4,W5,voc,cub} [--iters N] [--mode MODE] [--convolution METHOD]
                                [--idiomatic] [--inner OPTIMIZER] [--epochs E] [--window M]

``--convolution`` tries another way to compute convolutions than the backend's default; ``--idiomatic`` times what one
writes first in JAX instead of this package. ``--inner`` takes another inner optimizer, ``--epochs`` another number of
passes over the workload's steps; ``--window`` differentiates that many steps from a random one on, and then flops are
not counted.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import sys
import time

import jax

from benchmarks.workloads import LARGE, WORKLOADS, arguments, compile_step, flops, idiomatic, ours
from dd_jax.inner.modes import MODES
from dd_jax.inner.optimizers import INNER_OPTIMIZERS, inner_optimizer
from dd_jax.inner.schedule import Window, random_start
from dd_jax.networks.convolution import METHODS


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS | LARGE)
    parser.add_argument("--iters", type=int, default=10)
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    parser.add_argument("--convolution", choices=METHODS)
    parser.add_argument("--idiomatic", action="store_true")
    parser.add_argument("--inner", choices=INNER_OPTIMIZERS, default="plain")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--window", type=int)
    options = parser.parse_args()
    workload = (WORKLOADS | LARGE)[options.workload]
    workload = dataclasses.replace(workload, epochs=workload.epochs if options.epochs is None else options.epochs)
    total = workload.steps * workload.epochs
    for name, most in (("iters", sys.maxsize), ("epochs", sys.maxsize), ("window", total)):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            wanted = "1 or more" if most == sys.maxsize else f"1 … {most}"
            parser.error(f"--{name}: {value} is not accepted; use {wanted}")
    window = None if options.window is None else Window(options.window, random_start)
    how = {"optimizer": inner_optimizer(options.inner), "window": window}
    if options.idiomatic:
        gradient = idiomatic(workload, **how)
    else:
        gradient = ours(workload, options.mode, options.convolution, **how)
    step, values, compile_seconds = compile_step(gradient, arguments(workload))
    loss = float(jax.block_until_ready(step(*values))[2])
    seconds = []
    for _ in range(options.iters):
        began = time.perf_counter()
        jax.block_until_ready(step(*values))
        seconds.append(time.perf_counter() - began)
    analysis = step.memory_analysis()
    line = {
        "workload": options.workload,
        "mode": "idiomatic" if options.idiomatic else options.mode,
        "convolution": "lax" if options.idiomatic else options.convolution or "default",
        "inner": options.inner,
        "steps": total,
        "window": options.window,
        "median_seconds": statistics.median(seconds),
        "min_seconds": min(seconds),
        "compile_seconds": compile_seconds,
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "temp_bytes": analysis.temp_size_in_bytes if analysis else None,
        "flops": flops(workload) if options.window is None else None,
        "loss": loss,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
