"""Keeps the runs that README.md quotes, and writes its table from them.

    python -m experiments.results [RUN_DIR …]

copies the small files of each finished run to results/EXPERIMENT/NAME (NAME is the run's folder), then rewrites the
tables in README.md from everything under results/.
"""

import json
from pathlib import Path
from typing import Any

from dd_jax.report import percent, percent_reported
from dd_jax.storage import write_atomically
from experiments.runner import run_as_script

ROOT = Path(__file__).parent.parent
DISTILLED = ("result.json", "distilled.npz", "images.png")
KEPT = {"fixed_init": DISTILLED, "random_init": DISTILLED, "baselines": ("result.json", "table.md")}
BEGIN, END = "<!-- results: written by python -m experiments.results -->", "<!-- end of results -->"


def record(run: Path, results: Path) -> None:
    """Copies the small files of a finished run.

    Raises:
      ValueError: the run is not finished, or of an experiment that has no table here.
    """
    if not (run / "result.json").is_file():
        raise ValueError(f"run: {run} has no result.json; use the work folder of a finished run")
    experiment = json.loads((run / "result.json").read_text())["experiment"]
    if experiment not in KEPT:
        raise ValueError(f"run: {run} is of {experiment}; use one of {', '.join(KEPT)}")
    target = results / experiment / run.resolve().name
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT[experiment]:
        write_atomically(target / name, (run / name).read_bytes())


def tables(results: Path) -> str:
    """The Markdown tables of every record, sorted by folder; measured figures beside the paper's."""
    lines = [
        "| run | data | networks | images | GD steps | outer steps × batch | time | before | after, measured "
        "| after, reported |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for experiment in ("fixed_init", "random_init"):
        for path in sorted((results / experiment).glob("*/result.json")):
            lines.append("| " + " | ".join(_row(path, json.loads(path.read_text()))) + " |")
    for path in sorted((results / "baselines").glob("*/result.json")):
        seconds = json.loads(path.read_text())["wall_seconds"]
        title = f"Baselines on {path.parent.name}, as many images and GD steps as `random_init` ({_duration(seconds)}):"
        lines += ["", title, "", (path.parent / "table.md").read_text().rstrip()]
    return "\n".join(lines)


def _row(path: Path, result: dict[str, Any]) -> tuple[str, ...]:
    config, test = result["config"], result["test_accuracy"]
    shape = config["distilled"]
    return (
        f"[{path.parent.name}](results/{path.parent.parent.name}/{path.parent.name})",
        result["dataset"],
        "known" if test["after"]["n"] == 1 else "random",
        f"{shape['images_per_class']} per class × {shape['steps']}",
        str(shape["steps"] * shape["epochs"]),
        f"{result['outer_steps']:,} × {config['batch_size']}",
        _duration(result["wall_seconds"]),
        percent(test["before"]),
        percent(test["after"]),
        percent_reported(result["reported"], result.get("reported_std")),
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def main(argv: list[str]) -> None:
    """The command line of this module."""
    results, readme = ROOT / "results", ROOT / "README.md"
    for run in argv:
        record(Path(run), results)
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    write_atomically(readme, f"{before}{BEGIN}\n{tables(results)}\n{END}{after}")


if __name__ == "__main__":
    run_as_script(main)
