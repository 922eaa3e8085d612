"""Times one meta-gradient with each convolution, alternating in one process, and prints their ratio.

    python -m benchmarks.convolution [--batch-size B] [--rounds N]

The workload is the MNIST experiment's: LeNet, 10 images, one step, three epochs, one real batch.
"""

import argparse
import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp

from dd_jax.convolution import matmul_convolution
from dd_jax.losses import classification_loss
from dd_jax.meta import meta_gradient
from dd_jax.networks import make_network
from dd_jax.unroll import noise

CONVOLUTIONS = {"lax": jax.lax.conv_general_dilated, "matmul": matmul_convolution}


def main() -> None:
    """Prints one JSON line: seconds per meta-gradient, median over rounds, and lax's over matmul's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    images_key, noise_key, weights_key = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(images_key, (options.batch_size, 28, 28, 1))
    batch = (images, jnp.eye(10)[jnp.arange(options.batch_size) % 10])
    distilled = noise(noise_key, (28, 28, 1), 10, steps=1, epochs=3, step_size=0.1)

    def runner(convolution):
        network = make_network("lenet", (28, 28, 1), 10, convolution=convolution)
        theta = jax.jit(network.init)(weights_key)
        compiled = jax.jit(functools.partial(meta_gradient, classification_loss(network.apply)))
        run = functools.partial(compiled, distilled, theta, batch)
        jax.block_until_ready(run())
        return run

    runners = {name: runner(convolution) for name, convolution in CONVOLUTIONS.items()}
    seconds = {name: [] for name in runners}
    for _ in range(options.rounds):
        for name, run in runners.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["lax"], seconds["matmul"], strict=True)]
    line = {"batch_size": options.batch_size, "median_seconds": median, "lax_over_matmul": statistics.median(ratios)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
