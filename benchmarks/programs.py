"""The programs of docs/use_distilled.md on networks never seen, beside the recorded evaluation.

    python -m benchmarks.programs [--networks 100] [--images 10000] [--write] [PROGRAM…]

The images are those of results/random_init/mnist, the test images the first ``--images`` of MNIST, which TFDS finds
(``TFDS_DATA_DIR``). Each program runs as it stands on the page, once for each network, with weights that the page's own
lines draw. A program whose library is not installed is left out. ``--write`` puts the table into the page.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.readme import head, line, write_table, written
from dd_jax.data.readers import read

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "use_distilled.md"
RECORD = ROOT / "results" / "random_init" / "mnist"
PROGRAMS = {"NumPy alone": None, "PyTorch": "torch", "Keras 3": "keras", "flax nnx": None}
"""Headings, and the library that each needs beside this package's own."""


def block(heading: str) -> str:
    """The first program below a heading of the page."""
    _, _, section = PAGE.read_text().partition(f"\n## {heading}\n")
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None, heading
    return found[1]


def names(count: int) -> dict[str, Any]:
    """What the page's first program would define for MNIST, with so many test images."""
    with np.load(RECORD / "distilled.npz") as file:
        data = dict(file)
    raw = read("mnist")
    assert raw.test_images is not None and raw.test_labels is not None
    x_test = ((raw.test_images[:count] / 255 - data["mean"]) / data["std"]).astype(np.float32)
    steps = {"images": data["images"], "labels": data["labels"], "step_sizes": data["step_sizes"]}
    return {
        "np": np,
        "data": data,
        **steps,
        "S": len(data["images"]),
        "x_test": x_test,
        "y_test": raw.test_labels[:count],
    }


def accuracies(program: str, networks: int, images: int) -> np.ndarray:
    """Test accuracy of each network, ``[networks]``."""
    start, code, law = names(images), block(program), block("Networks never seen")
    found = []
    for seed in range(networks):
        own = dict(start)
        exec(law.replace("default_rng(0)", f"default_rng({seed})"), own)
        own["weights"] = own["random_weights"]
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, own)
        found.append((own["logits"].argmax(1) == own["y_test"]).mean())
    return np.array(found)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.programs) - set(PROGRAMS):
        parser.error(f"programs: {', '.join(unknown)} is not accepted; use {', '.join(PROGRAMS)}")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    recorded = json.loads((RECORD / "result.json").read_text())["test_accuracy"]["after"]
    titles = head("program", "networks", "test images", "test accuracy, %", "seconds a network")
    rows = [_row("this package, as recorded", recorded["n"], 10_000, recorded["mean"], recorded["std"], "–")]
    for program in options.programs or PROGRAMS:
        needed = PROGRAMS[program]
        if needed and not importlib.util.find_spec(needed):
            print(f"{program}: {needed} is not installed")
            continue
        began = time.perf_counter()
        found = accuracies(program, options.networks, options.images)
        seconds = (time.perf_counter() - began) / options.networks
        rows.append(_row(program, options.networks, options.images, found.mean(), found.std(ddof=1), f"{seconds:.1f}"))
        print(rows[-1], flush=True)
    if options.write:
        own = {_case(row) for row in rows}
        others = [row for row in written("programs", PAGE)[2:] if _case(row) not in own]
        write_table("programs", "\n".join([titles, *rows, *others]), PAGE)


def _case(row: str) -> str:
    return row.split("|")[1].strip()


def _row(program: str, networks: int, images: int, mean: float, std: float, seconds: str) -> str:
    return line(program, f"{networks}", f"{images:,}", f"{100 * mean:.2f} ± {100 * std:.2f}", seconds)


if __name__ == "__main__":
    main()
