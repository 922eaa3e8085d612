"""The tables of docs/results.md and README.md: a row for each record, measured figures beside the paper's."""

from collections.abc import Collection, Iterable
from typing import Any

from dd_jax.files.text import percent, percent_reported

from .ablations import title_of
from .adaptation import OTHER_COPY
from .attack_table import quoted as quoted_beside
from .baselines import table as table_of_baselines
from .kept import KEPT, Record
from .reported import ADAPTATION, BASELINES, REPORTED, Reported, fields

HEADLINES = (
    ("fixed_init/digits", "fixed_init/mnist", "random_init/mnist", "fixed_init/cifar10", "random_init/cifar10"),
    ("modern/mnist_1_known", "modern/mnist_10_lenet", "modern/cifar10_10_known", "modern/cifar10_convnet_w64"),
)
"""The records of which README.md has a row, in its order: by the paper's method, and with what came after it."""
SINCE = "With what the field has added since the paper (`experiments.modern`):"


def tables_of(records: Collection[Record]) -> str:
    """The Markdown tables of these records, for docs/."""
    records = sorted(records, key=lambda record: (list(KEPT).index(record.experiment), record.name))

    def of(*experiments: str) -> list[Record]:
        return [record for record in records if record.experiment in experiments]

    parts = [_table(_RUN, [_run(record) for record in of("fixed_init", "random_init")])]
    if modern := of("modern"):
        parts += [SINCE, _table(_MODERN, [_modern(record) for record in modern])]
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
            _table("setting | value: accuracy", figures(record)),
        ]
    for experiment, title in (
        ("pretrain", "Banks of trained networks:"),
        ("adaptation", f"Adaptation of trained networks to another data set, test accuracy there. {OTHER_COPY}"),
        ("transfer", "Transfer of a trained network to classes that it has not seen, test accuracy on them:"),
        ("attack", "Poisoning, on the test set; each × tells the gradient steps, which is one in the paper:"),
    ):
        heading, row = _ROWS[experiment]
        rows = [row(record) for record in of(experiment)]
        parts += [title, _table(heading, rows)] if rows else []
    return "\n\n".join(parts)


def headlines_of(records: Collection[Record]) -> str:
    """The tables of README.md: the same rows without the budget of outer steps."""
    held = {f"{record.experiment}/{record.name}": record for record in records}

    def table(places: Collection[str]) -> str:
        rows = [dict(figures(held[place])) for place in places if place in held]
        for row in rows:
            del row[_BUDGET]
        return _table(" | ".join(rows[0]), (tuple(row.values()) for row in rows)) if rows else ""

    of_paper, modern = map(table, HEADLINES)
    return "\n\n".join([of_paper, *([SINCE, modern] if modern else [])]).replace("](../", "](")


def figures(record: Record) -> list[tuple[str, str]]:
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


_BUDGET = "outer steps × batch"
_RUN = f"run | data | networks | images | GD steps | {_BUDGET} | time | before | after, measured | after, reported"


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


_MODERN = f"run | data | networks | images | labels | inner loop | {_BUDGET} | time | before | after, measured"


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
    "run | networks | images | outer steps × batch | time | K → T "
    "| of K taken for T, before | after | after random real "
    "| other classes, before | after | after random real | K's own accuracy, before | after | reported"
)


def _attack(record: Record) -> tuple[str, ...]:
    result, attack = record.json(), record.json("attack.json")
    shape = result["config"]["distilled"]
    times = [attack[when] for when in ("before", "after", "random_real")]
    (k,) = map(int, result["config"]["relabel"])
    return (
        _link(record),
        "one, known" if _known(result) else "random",
        f"{shape['images_per_class']} per class × {shape['steps']}",
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
