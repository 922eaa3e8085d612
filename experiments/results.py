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
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from dd_jax.evaluation import Training
from dd_jax.files.atomic import write_atomically
from dd_jax.files.text import percent, percent_reported

from .ablations import PICTURES, title_of
from .adaptation import OTHER_COPY
from .attack_table import quoted as quoted_beside
from .baselines import table as table_of_baselines
from .command_line import parse, run_as_script
from .record import SCORES
from .reported import ADAPTATION, BASELINES, REPORTED, Reported, fields

ROOT = Path(__file__).parent.parent
_DISTILLED = {name: name for name in ("result.json", "distilled.npz", "images.png", SCORES)}
# experiment -> files of its run: name there -> name in the record
KEPT: dict[str, dict[str, str]] = {
    "fixed_init": _DISTILLED,
    "random_init": _DISTILLED | {"evaluation.json": "evaluation.json"},
    "modern": _DISTILLED | {"evaluation.json": "evaluation.json"},
    "seeds": {"result.json": "result.json"},
    "baselines": {"result.json": "result.json", "table.md": "table.md"},
    "ablations": {"result.json": "result.json"} | {f"{name}.png": f"{name}.png" for name in PICTURES},
    "pretrain": {"result.json": "result.json"},
    "adaptation": _DISTILLED | {"baselines/result.json": "baselines.json"},
    "transfer": _DISTILLED | {"baselines/result.json": "baselines.json"},
    "attack": _DISTILLED | {"attack.json": "attack.json", "attack.png": "attack.png"},
}
OPTIONAL = {"evaluation.json", SCORES, *(f"{name}.png" for name in PICTURES)}
LARGEST = 2**21  # bytes of a file: the weights of a known AlexCifarNet are more
LARGEST_SCORES = 100_000  # bytes of what only the page takes: real images of a hundred classes in colour are more
HEADLINES = ("fixed_init/digits", "fixed_init/mnist", "random_init/mnist", "fixed_init/cifar10")
"""The records of which README.md has a row, in its order."""
BEGIN, END = "<!-- results: written by python -m experiments.results -->", "<!-- end of results -->"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the command."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Work folders of finished runs to record."""
    replace: bool = False
    """Replace records of the same names that differ."""


class Record(NamedTuple):
    """The small files of a finished run, by their names in the record."""

    experiment: str
    name: str
    files: dict[str, bytes]

    @property
    def place(self) -> str:
        """Its folder within the checkout."""
        return f"results/{self.experiment}/{self.name}"

    def json(self, file: str = "result.json") -> dict[str, Any]:
        """The content of one of its files."""
        return json.loads(self.files[file])


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
        _cells(record)
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


def read_records(results: Path) -> dict[str, Record]:
    """Every record under ``results``, by its folder."""
    records = {}
    for experiment, kept in KEPT.items():
        for folder in sorted(path.parent for path in (results / experiment).glob("*/result.json")):
            files = {name: (folder / name).read_bytes() for name in kept.values() if (folder / name).is_file()}
            record = Record(experiment, folder.name, files)
            records[record.place] = record
    return records


def write(record: Record, results: Path) -> None:
    """Writes a record in place of the one of its name, if there is one."""
    target = results / record.experiment / record.name
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT[record.experiment].values():
        if name in record.files:
            write_atomically(target / name, record.files[name])
        else:
            (target / name).unlink(missing_ok=True)  # of an earlier run


def record(run: Path, results: Path) -> None:
    """Copies the small files of a finished run, in place of the record of its name, if there is one.

    Raises:
      ValueError: it cannot be recorded.
    """
    write(read_run(run), results)


def changes(old: Record, new: Record) -> str:
    """Which files differ between two records of a name, and which figures of the tables."""
    files = [name for name in KEPT[new.experiment].values() if old.files.get(name) != new.files.get(name)]
    before, after = (dict(enumerate(_cells(record))) for record in (old, new))
    figures = [
        f"{(after.get(i) or before[i])[0]}: {before.get(i, ('', '–'))[1]} → {after.get(i, ('', '–'))[1]}"
        for i in sorted(before | after)
        if before.get(i) != after.get(i)
    ]
    return f"{', '.join(files)}; {'; '.join(figures) or 'the figures are the same'}"


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


def tables(results: Path) -> str:
    """The Markdown tables of every record, sorted by folder; measured figures beside the paper's. For docs/."""
    return tables_of(read_records(results).values())


def tables_of(records: Collection[Record]) -> str:
    """The Markdown tables of these records, for docs/."""
    records = sorted(records, key=lambda record: (list(KEPT).index(record.experiment), record.name))

    def of(*experiments: str) -> list[Record]:
        return [record for record in records if record.experiment in experiments]

    parts = [_table(_RUN, [_run(record) for record in of("fixed_init", "random_init")])]
    if modern := of("modern"):
        parts += ["With what the field has added since the paper (`experiments.modern`):"]
        parts += [_table(_MODERN, [_modern(record) for record in modern])]
    if seeds := of("seeds"):
        parts += ["The same with other seeds, which draw the network, the first images and the validation split:"]
        parts += [_table(_SEEDS, [_seeds(record) for record in seeds])]
    for record in of("baselines"):
        seconds = _duration(record.json()["wall_seconds"])
        parts += [
            f"Baselines on {record.name}, as many images as `random_init` ({seconds}):",
            table_of_baselines(_baselines(record)).rstrip(),
        ]
    for record in of("ablations"):
        parts += [
            f"[Ablations](../{record.place}) on {record.name}, {record.json()['outer_steps']:,} outer steps for each "
            "value, a reduced budget:",
            _table("setting | value: accuracy", _cells(record)),
        ]
    for experiment, title in (
        ("pretrain", "Banks of trained networks:"),
        ("adaptation", f"Adaptation of trained networks to another data set, test accuracy there. {OTHER_COPY}"),
        ("transfer", "Transfer of a trained network to classes that it has not seen, test accuracy on them:"),
        ("attack", "Poisoning with one gradient step, on the test set:"),
    ):
        heading, row = _ROWS[experiment]
        rows = [row(record) for record in of(experiment)]
        parts += [title, _table(heading, rows)] if rows else []
    return "\n\n".join(parts)


def headlines_of(records: Collection[Record]) -> str:
    """The rows of README.md, with the most important columns."""
    held = {f"{record.experiment}/{record.name}": record for record in records}
    rows = [dict(_cells(held[place])) for place in HEADLINES if place in held]
    cells = (tuple(row[column] for column in _HEADLINE_COLUMNS) for row in rows)
    return _table(" | ".join(_HEADLINE_COLUMNS), cells).replace("](../", "](")


def _cells(record: Record) -> list[tuple[str, str]]:
    """What the tables say of a record: each figure with its title."""
    if record.experiment == "baselines":
        return [(row["name"], percent(row["accuracy"])) for row in record.json()["rows"]]
    if record.experiment == "ablations":
        return [_ablation(*item) for item in record.json()["tables"].items()]
    heading, row = _ROWS[record.experiment]
    return list(zip(heading.split(" | "), row(record), strict=True))


def _table(heading: str, rows: Iterable[tuple[str, ...]]) -> str:
    rule = "|".join("---" for _ in heading.split(" | "))
    return "\n".join([f"| {heading} |", f"|{rule}|", *("| " + " | ".join(row) + " |" for row in rows)])


def _link(record: Record) -> str:
    return f"[{record.name}](../{record.place})"


def _known(result: dict[str, Any]) -> bool:
    """Whether the images were made for one known network."""
    return result["config"]["weights"].get("nets") is None  # the first records of fixed_init have no such setting


def _quoted(result: dict[str, Any], of_paper: Reported | None) -> Reported:
    """The paper's figures, as they are quoted now, where a result has any beside it."""
    return {} if result["reported"] is None or of_paper is None else of_paper


def _after(quoted: Reported) -> str:
    return percent_reported(quoted.get("after"), quoted.get("std"), checked=quoted.get("checked"))


_RUN = (
    "run | data | networks | images | GD steps | outer steps × batch | time | before | after, measured "
    "| after, reported"
)
_HEADLINE_COLUMNS = (
    *("run", "data", "networks", "images", "GD steps", "time"),
    *("before", "after, measured", "after, reported"),
)


def _run(record: Record) -> tuple[str, ...]:
    result = record.json()
    shape = result["config"]["distilled"]
    key = (record.experiment, result["dataset"], shape["steps"], shape["epochs"], shape["images_per_class"])
    return (
        _link(record),
        result["dataset"],
        "known" if _known(result) else "random",
        f"{shape['images_per_class']} per class × {shape['steps']}",
        str(shape["steps"] * shape["epochs"]),
        *_budget(result),
        *before_and_after(record),
        _after(_quoted(result, REPORTED.get(key) if isinstance(shape["images_per_class"], int) else None)),
    )


def before_and_after(record: Record) -> tuple[str, str]:
    """The accuracies of a run, the second of a later evaluation if there is one."""
    result = record.json()
    test, known = result["test_accuracy"], _known(result)
    evaluated = "evaluation.json" in record.files
    after = record.json("evaluation.json")["scores"][-1]["accuracy"] if evaluated else test["after"]
    return percent(test["before"], known=known), percent(after, known=known)


_MODERN = "run | data | networks | images | labels | inner loop | outer steps × batch | time | before | after, measured"


def _modern(record: Record) -> tuple[str, ...]:
    result = record.json()
    config = result["config"]
    shape, inner = config["distilled"], config["inner"]
    images = f"{shape['images_per_class']} per class" if shape["images"] is None else f"{shape['images']} a step"
    window = "" if inner["window"] is None else f", windows of {inner['window']}"
    return (
        _link(record),
        result["dataset"],
        " ".join(("known" if _known(result) else "random", config["network"], *config["network_options"])),
        f"{images} × {shape['steps']}",
        shape["labels"],
        f"{shape['steps'] * shape['epochs']} steps, {inner['optimizer']}{window}",
        *_budget(result),
        *before_and_after(record),
    )


def _baselines(record: Record) -> list[dict[str, Any]]:
    """The rows of a table of baselines, with the paper's figures as they are quoted now."""
    result = record.json()
    quoted = (_quoted(row, BASELINES.get((result["dataset"], row["name"]))) for row in result["rows"])
    return [row | fields(of_paper) for row, of_paper in zip(result["rows"], quoted, strict=True)]


_SEEDS = "run | seeds | longest time | test accuracy | lowest | highest"


def _seeds(record: Record) -> tuple[str, ...]:
    result = record.json()
    accuracy = result["test_accuracy"]
    return (
        _link(record),
        ", ".join(result["by_seed"]),
        _duration(result["longest_seconds"]),
        percent(accuracy),
        *(f"{100 * accuracy[end]:.2f} %" for end in ("min", "max")),
    )


def _ablation(axis: str, rows: list[dict[str, Any]]) -> tuple[str, str]:
    return title_of(axis, rows), ", ".join(f"{row['value']:g}: {percent(row['accuracy'])}" for row in rows)


_BANK = "bank | networks × epochs | time | test accuracy | lowest | held-out networks | their test accuracy"


def _bank(record: Record) -> tuple[str, ...]:
    result = record.json()
    config, train, held_out = result["config"], *(result["test_accuracy"].get(part) for part in ("train", "held_out"))
    return (
        _link(record),
        f"{config['networks']} × {config['recipe']['epochs']}",
        _duration(result["wall_seconds"]),
        percent(train),
        f"{100 * train['min']:.2f} %",
        str(config["held_out"]),
        "–" if held_out is None else percent(held_out),
    )


_REAL = ("random real", "optimized real", "k-means", "average real")
_ADAPTED = "run | networks | outer steps × batch | time | distilled, measured | distilled, reported | " + " | ".join(
    ("no adaptation", *_REAL, "full training")
)
_TRANSFERRED = "run | images | outer steps × batch | time | distilled, measured | " + " | ".join(
    (*_REAL, "full fine-tuning")
)


def _beside(record: Record, *names: str) -> tuple[str, ...]:
    """The accuracies of the baselines of these names, a dash for one that was not measured."""
    beside = {row["name"]: row for row in record.json("baselines.json")["rows"]}
    return tuple(percent(beside[name]["accuracy"]) if name in beside else "–" for name in names)


def _transferred(record: Record) -> tuple[str, ...]:
    result = record.json()
    shape = result["config"]["distilled"]
    return (
        _link(record),
        f"{shape['images_per_class']} per class × {shape['steps']}",
        *_budget(result),
        percent(result["test_accuracy"]["after"], known=_known(result)),
        *_beside(record, *_REAL, "full fine-tuning"),
    )


def _adapted(record: Record) -> tuple[str, ...]:
    result = record.json()
    return (
        _link(record),
        "one, known" if _known(result) else "random",
        *_budget(result),
        percent(result["test_accuracy"]["after"]),
        _after(_quoted(result, ADAPTATION.get(result["preset"]))),
        *_beside(record, "no adaptation", *_REAL, "full training"),
    )


_ATTACK = (
    "run | networks | outer steps × batch | time | K → T | of K taken for T, before | after | after random real "
    "| other classes, before | after | after random real | K's own accuracy, before | after | reported"
)


def _attack(record: Record) -> tuple[str, ...]:
    result, attack = record.json(), record.json("attack.json")
    times = [attack[when] for when in ("before", "after", "random_real")]
    (k,) = map(int, result["config"]["relabel"])
    return (
        _link(record),
        "one, known" if _known(result) else "random",
        *_budget(result),
        f"{attack['attacked']} → {attack['target']}",
        *(percent(measured[kind]) for kind in ("attacked_to_target", "others") for measured in times),
        *(f"{100 * measured['by_class'][k]:.2f} %" for measured in times[:2]),
        quoted_beside(attack),
    )


# experiment -> the heading of its table, and the row of a record in it
_ROWS = {
    "fixed_init": (_RUN, _run),
    "random_init": (_RUN, _run),
    "modern": (_MODERN, _modern),
    "seeds": (_SEEDS, _seeds),
    "pretrain": (_BANK, _bank),
    "adaptation": (_ADAPTED, _adapted),
    "transfer": (_TRANSFERRED, _transferred),
    "attack": (_ATTACK, _attack),
}


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
