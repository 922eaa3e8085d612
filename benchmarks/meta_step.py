"""Times one outer step of a workload and prints one JSON line.

    python -m benchmarks.meta_step {W1,W2,W3,W4,W5} [--iters N] [--mode MODE] [--convolution METHOD] [--idiomatic]

``--convolution`` tries another way to compute convolutions than the backend's default; ``--idiomatic`` times what one
writes first in JAX instead of this package.
"""

import argparse
import json
import resource
import statistics
import time

import jax

from benchmarks.workloads import WORKLOADS, arguments, compile_step, flops, idiomatic, ours
from dd_jax.inner.modes import MODES
from dd_jax.networks.convolution import METHODS, default_method


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--iters", type=int, default=10)
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    parser.add_argument("--convolution", choices=METHODS, default=default_method())
    parser.add_argument("--idiomatic", action="store_true")
    options = parser.parse_args()
    if options.iters < 1:
        parser.error(f"--iters: {options.iters} is not accepted; use 1 or more")
    workload = WORKLOADS[options.workload]
    gradient = idiomatic(workload) if options.idiomatic else ours(workload, options.mode, options.convolution)
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
        "convolution": "lax" if options.idiomatic else options.convolution,
        "median_seconds": statistics.median(seconds),
        "min_seconds": min(seconds),
        "compile_seconds": compile_seconds,
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "temp_bytes": analysis.temp_size_in_bytes if analysis else None,
        "flops": flops(workload),
        "loss": loss,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
