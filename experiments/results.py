"""Keeps the runs that README.md quotes, and writes its table from them.

    python -m experiments.results [RUN_DIR …]

copies the small files of each finished run to results/EXPERIMENT/NAME (NAME is the run's folder), then rewrites the
tables in README.md from everything under results/. A run tested on few networks may be scored on more with
``python -m experiments.evaluate RUN --output RUN/evaluation.json``, which the table then quotes.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dd_jax.evaluation import Training
from dd_jax.report import percent, percent_reported
from dd_jax.storage import write_atomically

from .ablations import TITLES, VALUES
from .runner import run_as_script

ROOT = Path(__file__).parent.parent
_DISTILLED = {name: name for name in ("result.json", "distilled.npz", "images.png")}
# experiment -> files of its run: name there -> name in the record
KEPT: dict[str, dict[str, str]] = {
    "fixed_init": _DISTILLED,
    "random_init": _DISTILLED | {"evaluation.json": "evaluation.json"},
    "baselines": {"result.json": "result.json", "table.md": "table.md"},
    "ablations": {"result.json": "result.json"} | {f"{axis}.png": f"{axis}.png" for axis in VALUES},
    "pretrain": {"result.json": "result.json"},
    "adaptation": _DISTILLED | {"baselines/result.json": "baselines.json"},
    "attack": _DISTILLED | {"attack.json": "attack.json", "attack.png": "attack.png"},
}
OPTIONAL = {"evaluation.json", *(f"{axis}.png" for axis in VALUES)}
LARGEST = 2**21  # bytes of a file: the weights of a known AlexCifarNet are more
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
    kept = {name: there for name, there in KEPT[experiment].items() if (run / name).is_file()}
    for name in KEPT[experiment]:
        if name not in kept and name not in OPTIONAL:
            raise ValueError(f"run: {run} has no {name}; use the work folder of a finished run")
    if "evaluation.json" in kept:
        _check_evaluation(run)
    target = results / experiment / run.resolve().name
    target.mkdir(parents=True, exist_ok=True)
    for name in kept:
        content = (run / name).read_bytes()
        if len(content) > LARGEST:
            print(f"{run / name} is {len(content) / 2**20:.0f} MiB and left out; the run's settings make it again")
            (target / kept[name]).unlink(missing_ok=True)  # of an earlier run
            continue
        if Path(name).suffix in (".json", ".md"):  # paths within the checkout, whatever its place
            content = content.replace(f"{ROOT}/".encode(), b"")
        write_atomically(target / kept[name], content)


def _check_evaluation(run: Path) -> None:
    """Refuses an evaluation that is not of what the table says: the test split, after all steps as they were made."""
    evaluation, result = (json.loads((run / name).read_text()) for name in ("evaluation.json", "result.json"))
    shape = result["config"]["distilled"]
    wanted = ("test", dataclasses.asdict(Training()), shape["steps"] * shape["epochs"])
    found = (evaluation["split"], evaluation["training"], evaluation["scores"][-1]["steps"])
    if found != wanted:
        raise ValueError(
            f"run: {run}/evaluation.json is on {found[0]} after {found[2]} steps with {found[1]}; use one on test "
            f"after all {wanted[2]} stored steps"
        )


def tables(results: Path) -> str:
    """The Markdown tables of every record, sorted by folder; measured figures beside the paper's."""
    parts = [
        _table(
            "run | data | networks | images | GD steps | outer steps × batch | time | before | after, measured "
            "| after, reported",
            [_row(*record) for name in ("fixed_init", "random_init") for record in _records(results, name)],
        )
    ]
    for path, result in _records(results, "baselines"):
        parts += [
            f"Baselines on {path.parent.name}, as many images as `random_init` ({_duration(result['wall_seconds'])}):",
            (path.parent / "table.md").read_text().rstrip(),
        ]
    for path, result in _records(results, "ablations"):
        parts += [
            f"[Ablations](results/ablations/{path.parent.name}) on {path.parent.name}, {result['outer_steps']:,} outer "
            "steps for each value, a reduced budget:",
            _table("setting | value: accuracy", [_ablation(*item) for item in result["tables"].items()]),
        ]
    for experiment, title, heading, row in (
        ("pretrain", "Banks of trained networks:", _BANK, _bank),
        ("adaptation", "Adaptation of trained networks to another data set, test accuracy there:", _ADAPTED, _adapted),
        ("attack", "Poisoning with one gradient step, on the test set:", _ATTACK, _attack),
    ):
        rows = [row(*record) for record in _records(results, experiment)]
        parts += [title, _table(heading, rows)] if rows else []
    return "\n\n".join(parts)


def _records(results: Path, experiment: str) -> list[tuple[Path, dict[str, Any]]]:
    return [(path, json.loads(path.read_text())) for path in sorted((results / experiment).glob("*/result.json"))]


def _table(heading: str, rows: list[tuple[str, ...]]) -> str:
    rule = "|".join("---" for _ in heading.split(" | "))
    return "\n".join([f"| {heading} |", f"|{rule}|", *("| " + " | ".join(row) + " |" for row in rows)])


def _link(path: Path) -> str:
    return f"[{path.parent.name}](results/{path.parent.parent.name}/{path.parent.name})"


def _row(path: Path, result: dict[str, Any]) -> tuple[str, ...]:
    config, test = result["config"], result["test_accuracy"]
    shape, after = config["distilled"], test["after"]
    if (evaluation := path.parent / "evaluation.json").is_file():
        after = json.loads(evaluation.read_text())["scores"][-1]["accuracy"]
    return (
        _link(path),
        result["dataset"],
        "known" if test["after"]["n"] == 1 else "random",
        f"{shape['images_per_class']} per class × {shape['steps']}",
        str(shape["steps"] * shape["epochs"]),
        *_budget(result),
        percent(test["before"]),
        percent(after),
        percent_reported(result["reported"], result.get("reported_std")),
    )


def _ablation(axis: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return TITLES[axis], ", ".join(f"{row['value']:g}: {percent(row['accuracy'])}" for row in rows)


_BANK = "bank | networks × epochs | time | test accuracy | lowest | held-out networks | their test accuracy"


def _bank(path: Path, result: dict[str, Any]) -> tuple[str, ...]:
    config, (train, held_out) = result["config"], (result["test_accuracy"][part] for part in ("train", "held_out"))
    return (
        _link(path),
        f"{config['networks']} × {config['recipe']['epochs']}",
        _duration(result["wall_seconds"]),
        percent(train),
        f"{100 * train['min']:.2f} %",
        str(config["held_out"]),
        percent(held_out),
    )


_COMPARED = ("no adaptation", "random real", "optimized real", "k-means", "average real", "full training")
_ADAPTED = " | ".join(
    ("run", "networks", "outer steps × batch", "time", "distilled, measured", "distilled, reported", *_COMPARED)
)


def _adapted(path: Path, result: dict[str, Any]) -> tuple[str, ...]:
    beside = {row["name"]: row for row in json.loads((path.parent / "baselines.json").read_text())["rows"]}
    return (
        _link(path),
        "one, known" if result["test_accuracy"]["after"]["n"] == 1 else "random",
        *_budget(result),
        percent(result["test_accuracy"]["after"]),
        percent_reported(result["reported"], result["reported_std"]),
        *(percent(beside[name]["accuracy"]) if name in beside else "–" for name in _COMPARED),
    )


_ATTACK = (
    "run | networks | outer steps × batch | time | K → T | of K taken for T, before | after | after random real "
    "| other classes, before | after | after random real"
)


def _attack(path: Path, result: dict[str, Any]) -> tuple[str, ...]:
    attack = json.loads((path.parent / "attack.json").read_text())
    times = [attack[when] for when in ("before", "after", "random_real")]
    return (
        _link(path),
        "one, known" if result["test_accuracy"]["after"]["n"] == 1 else "random",
        *_budget(result),
        f"{attack['attacked']} → {attack['target']}",
        *(percent(measured[kind]) for kind in ("attacked_to_target", "others") for measured in times),
    )


def _budget(result: dict[str, Any]) -> tuple[str, str]:
    """Outer steps and batch, and the time, those of the runs it began from included."""
    earlier = result.get("earlier", {"outer_steps": 0, "wall_seconds": 0.0})
    before = f"{earlier['outer_steps']:,} + " if earlier["outer_steps"] else ""
    return (
        f"{before}{result['outer_steps']:,} × {result['config']['batch_size']}",
        _duration(earlier["wall_seconds"] + result["wall_seconds"]),
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
