"""What is kept of finished runs: the files of each record, under results/EXPERIMENT/NAME."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from dd_jax.files.atomic import write_atomically

from .ablations import PICTURES
from .record import SCORES

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
