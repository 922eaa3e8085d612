"""Keeps the runs that docs/results.md and README.md quote, and writes their tables from them.

    python -m experiments.results [RUN_DIR …] [--replace]

copies the small files of each finished run to results/EXPERIMENT/NAME (NAME is the run's folder). Then it rewrites the
tables in docs/results.md from everything under results/, and the few rows of them in README.md. Without runs, it does
only that. A record that exists already and differs is replaced with ``--replace`` only, and nothing is written unless
every run can be recorded. A run tested on few networks may be scored on more with ``python -m experiments.evaluate RUN
--output RUN/evaluation.json``, which the table then quotes.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

from dd_jax.evaluation import Training
from dd_jax.files.atomic import write_atomically

from .command_line import parse, run_as_script
from .kept import KEPT, OPTIONAL, Record, read_records, write
from .record import SCORES
from .tables import figures, headlines_of, tables_of

ROOT = Path(__file__).parent.parent
LARGEST = 2**21  # bytes of a file: the weights of a known AlexCifarNet are more
LARGEST_SCORES = 100_000  # bytes of what only the page takes: real images of a hundred classes in colour are more
BEGIN, END = "<!-- results: written by python -m experiments.results -->", "<!-- end of results -->"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the command."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Work folders of finished runs to record."""
    replace: bool = False
    """Replace records of the same names that differ."""


def read_run(run: Path) -> Record:
    """What is to be kept of a finished run.

    Raises:
      ValueError: the run is not finished, is damaged, or is of an experiment that has no table here.
    """
    experiment = _read_json(run, "result.json").get("experiment")
    if experiment not in KEPT:
        raise ValueError(f"run: {run} is of {experiment}; use one of {', '.join(KEPT)}")
    kept = {name: there for name, there in KEPT[experiment].items() if (run / name).is_file()}
    for name in KEPT[experiment]:
        if name not in kept and name not in OPTIONAL:
            raise ValueError(f"run: {run} has no {name}; use the work folder of a finished run")
    if "evaluation.json" in kept:
        _check_evaluation(run)
    files = {}
    for name, there in kept.items():
        content = (run / name).read_bytes()
        if len(content) > (LARGEST_SCORES if name == SCORES else LARGEST):
            print(f"{run / name} is {len(content) / 2**20:.2g} MiB and left out; the run's settings make it again")
            continue
        if Path(name).suffix in (".json", ".md"):  # paths within the checkout, whatever its place
            content = content.replace(f"{ROOT}/".encode(), b"")
        files[there] = content
    record = Record(experiment, run.resolve().name, files)
    try:
        figures(record)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"run: {run} cannot be tabulated ({error!r}); use the work folder of a finished run"
        ) from error
    return record


def _read_json(run: Path, name: str) -> dict[str, Any]:
    if not (run / name).is_file():
        raise ValueError(f"run: {run} has no {name}; use the work folder of a finished run")
    try:
        return json.loads((run / name).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"run: {run / name} is damaged ({error}); use the work folder of a finished run") from error


def read_runs(runs: Iterable[Path]) -> dict[str, Record]:
    """What is to be kept of each, by the folder of its record.

    Raises:
      ValueError: one of them cannot be recorded, or two would be the same record.
    """
    records: dict[str, Record] = {}
    for run in runs:
        record = read_run(run)
        if record.place in records:
            raise ValueError(f"run: {run} would be {record.place}, as one before it; record one, or rename its folder")
        records[record.place] = record
    return records


def changes(old: Record, new: Record) -> str:
    """Which files differ between two records of a name, and which figures of the tables."""
    files = [name for name in KEPT[new.experiment].values() if old.files.get(name) != new.files.get(name)]
    before, after = (dict(enumerate(figures(record))) for record in (old, new))
    changed = [
        f"{(after.get(i) or before[i])[0]}: {before.get(i, ('', '–'))[1]} → {after.get(i, ('', '–'))[1]}"
        for i in sorted(before | after)
        if before.get(i) != after.get(i)
    ]
    return f"{', '.join(files)}; {'; '.join(changed) or 'the figures are the same'}"


def _check_evaluation(run: Path) -> None:
    """Refuses an evaluation that is not of what the table says: the test split, after all steps as they were made."""
    evaluation, result = (_read_json(run, name) for name in ("evaluation.json", "result.json"))
    shape = result["config"]["distilled"]
    wanted = ("test", dataclasses.asdict(Training()), shape["steps"] * shape["epochs"])
    found = (evaluation["split"], evaluation["training"], evaluation["scores"][-1]["steps"])
    if found != wanted:
        raise ValueError(
            f"run: {run}/evaluation.json is on {found[0]} after {found[2]} steps with {found[1]}; use one on test "
            f"after all {wanted[2]} stored steps"
        )


PAGES = {"README.md": headlines_of, "docs/results.md": tables_of}
"""What stands between the marks of each page."""


def _around_tables(page: str) -> tuple[str, str]:
    """What stands before and after the tables of a page.

    Raises:
      ValueError: there is no such page; an installed package has none.
    """
    path = ROOT / page
    text = path.read_text() if path.is_file() else ""
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page}: {path} has no tables; records are kept in a checkout of dd_jax, so run it there")
    return text.split(BEGIN)[0], text.split(END)[1]


def main(argv: list[str]) -> None:
    """The command line of this module."""
    config = parse(Config(), __doc__ or "", "", argv)
    results, around = ROOT / "results", {page: _around_tables(page) for page in PAGES}
    held, new = read_records(results), read_runs(config.runs)
    differing = {place: record for place, record in new.items() if record != held.get(place)}
    for place in new:
        print(f"{place}: {_news(held.get(place), new[place])}")
    replaced = [place for place in differing if place in held]
    if replaced and not config.replace:
        raise ValueError(f"runs: {', '.join(replaced)} would be replaced, and nothing is; give --replace to do so")
    records = (held | new).values()
    texts = {page: f"{BEGIN}\n{tables_for(records)}\n{END}" for page, tables_for in PAGES.items()}
    for record in differing.values():
        write(record, results)
    for page, (above, below) in around.items():
        write_atomically(ROOT / page, above + texts[page] + below)
    print(f"{', '.join(PAGES)}: their tables are written from the {len(records)} records under results")


def _news(held: Record | None, new: Record) -> str:
    if held is None:
        return "new"
    return "recorded already" if held == new else f"replaces the record of that name: {changes(held, new)}"


if __name__ == "__main__":
    run_as_script(main)
