"""Whether the host keeps up: batches of random crops that are made ahead of a device.

    python -m benchmarks.pictures [--step-seconds S] [--batch B] [--size N] [--steps T] [--workers W] [--write]

Writes JPEGs of 500×375 pixels and about 95 kB (noise that was smoothed) into a folder that is removed again, and takes
batches of them as ``experiments.transfer`` does. First as fast as they come: pictures a second. Then at the pace of a
device whose step takes ``--step-seconds``; twice the time that a batch takes here, if not given. Of each step it notes
how long the device would wait for its batch. ``--write`` puts the table into benchmarks/README.md.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.readme import head, line, write_table
from dd_jax.data.streamed.ahead import batches_ahead, drawn_index
from dd_jax.data.streamed.originals import Originals, open_source

PICTURES = 256


def write_pictures(folder: Path) -> None:
    """Two classes of JPEGs."""
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        target = folder / f"class{number % 2}" / f"{number}.jpg"
        target.parent.mkdir(exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (375, 500, 3), np.uint8))
        noise.filter(ImageFilter.GaussianBlur(1)).save(target, quality=92)


def waits(originals: Originals, options: argparse.Namespace, step_seconds: float) -> list[float]:
    """Seconds that each step waits for its batch, where the device is busy for so long in each."""
    index_at = drawn_index(len(originals.labels), options.batch, 0)
    batch_at = batches_ahead(originals, index_at, options.size, 0, last=options.steps, workers=options.workers)
    found = []
    for step in range(options.steps + 1):
        began = time.perf_counter()
        batch_at(step)
        found.append(time.perf_counter() - began)
        time.sleep(step_seconds)
    return found


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-seconds", type=float)
    for name, default in (("batch", 64), ("size", 224), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name))
        size = np.mean([path.stat().st_size for path in Path(name).rglob("*.jpg")])
        originals = open_source(name).train
        began = time.perf_counter()
        waits(originals, options, 0.0)
        batch_seconds = (time.perf_counter() - began) / (options.steps + 1)
        step_seconds = options.step_seconds or 2 * batch_seconds
        waited = waits(originals, options, step_seconds)[1:]  # the first batch cannot be made ahead of anything
    titles = (
        "threads",
        "batch",
        "JPEG",
        "pictures a second",
        "seconds of a step",
        "longest wait, s",
        "steps that waited",
    )
    cells = (
        f"{options.workers}",
        f"{options.batch} × {options.size}²",
        f"{size / 1e3:.0f} kB",
        f"{options.batch / batch_seconds:.0f}",
        f"{step_seconds:.2f}",
        f"{max(waited):.3f}",
        f"{sum(wait > 0.05 * step_seconds for wait in waited)} of {len(waited)}",
    )
    table = f"{head(*titles)}\n{line(*cells)}"
    print(table)
    if options.write:
        write_table("pictures", table)


if __name__ == "__main__":
    main()
