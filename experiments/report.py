"""The page of a finished run once more, or one page that compares several.

    python -m experiments.report RUN                    # writes RUN/report.html
    python -m experiments.report RUN RUN … [--output comparison.html]

RUN is the work folder of a finished distillation, or its record under results/. A page is one file without links to
anything else, so it can be sent around. An earlier page is written over, any other file is not.
"""

import dataclasses
from pathlib import Path

import tyro

from dd_jax.checks import require
from dd_jax.files.atomic import write_atomically
from dd_jax.files.report.page import MARK, comparison, html_report

from .command_line import parse, run_as_script
from .record import facts_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the command."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Work folders of finished runs."""
    output: Path | None = None
    """The file to write; report.html in the folder of a single run, comparison.html here for several."""


def run(config: Config) -> Path:
    """Writes the page, and returns where it is.

    Raises:
      ValueError: no runs, one that is not finished or damaged, or an output that holds something else.
    """
    require(len(config.runs) > 0, "runs", "nothing", "the work folder of a finished run, or of several")
    output = config.output or (config.runs[0] / "report.html" if len(config.runs) == 1 else Path("comparison.html"))
    facts = [facts_of(folder) for folder in config.runs]
    _check_output(output)
    write_atomically(output, html_report(facts[0]) if len(facts) == 1 else comparison(facts))
    return output


def _check_output(output: Path) -> None:
    """Refuses a file that could not be written, or that holds anything but a page of ours."""
    folder = output.parent
    require(folder.is_dir(), "output", output, f"a file in an existing folder; there is no {folder}")
    if output.exists():
        with output.open("rb") as file:
            start = file.read(500)
        ours = MARK.encode() in start or (output.name == "report.html" and start.startswith(b"<!doctype html>"))
        require(ours, "output", output, "a new file, or an earlier page")


def main(argv: list[str]) -> None:
    """The command line of this module."""
    print(f"the report is {run(parse(Config(), __doc__ or '', 'RUN…', argv))}")


if __name__ == "__main__":
    run_as_script(main)
