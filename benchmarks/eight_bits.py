"""What 8 bits cost the images of a run: the table of PNG files in docs/use_distilled.md.

    python -m benchmarks.eight_bits [--write]

Exports runs for known networks by ``experiments.export``, which measures it. Needs digits and MNIST, which TFDS finds
(``TFDS_DATA_DIR``). ``--write`` puts the table into the page.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.programs import PAGE, ROOT
from benchmarks.readme import head, line, write_table
from dd_jax.files.text import percent
from experiments import export
from experiments.exports import png

RUNS = ("fixed_init/digits", "fixed_init/mnist")


def row(run: str) -> tuple[list[str], str]:
    """Names of the versions that were scored, and a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        index = png.read_index(export.run(ROOT / "results" / run, export.Config("png", Path(folder) / "png")))
    beyond = [f"{100 * index['beyond'][side]:.1f} %" for side in ("below 0", "above 1")]
    return list(index["accuracy"]), line(f"`{run}`", *beyond, *map(percent, index["accuracy"].values()))


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    versions, rows = zip(*map(row, RUNS), strict=True)
    table = "\n".join([head("set", "pixels below 0", "above 1", *versions[0]), *rows])
    print(table)
    if options.write:
        write_table("eight_bits", table, PAGE)


if __name__ == "__main__":
    main()
