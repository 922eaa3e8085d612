"""What a run leaves beside its numbers: pictures, a page, and the last lines printed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.data.normalisation import unwhitened
from dd_jax.distilled import images_of_classes
from dd_jax.files.atomic import first_line, write_atomically
from dd_jax.files.distilled_file import DistilledFile, load_distilled
from dd_jax.files.figures import draw_images, to_png
from dd_jax.files.report.facts import Facts, Shown
from dd_jax.files.report.page import html_report
from dd_jax.files.report.tiles import chosen
from dd_jax.files.scored import load_scored
from dd_jax.files.snapshots import load_snapshots
from dd_jax.files.text import BALANCED, accuracy_title, budget, percent, percent_reported

from .attack_table import lines
from .metrics import read_lines
from .repeat import repeated
from .workdir import told_if_it_fails

SNAPSHOTS, SCORES = "snapshots", "scores.npz"
"""What the page is made of beside the result: a folder and a file of a run."""


def draw_pictures(workdir: Path) -> None:
    """The picture and the page of a result, where they are not there; what cannot be made costs no more than itself."""
    images, page = workdir / "images.png", workdir / "report.html"
    if not images.exists():
        with told_if_it_fails(images):
            file = load_distilled(workdir / "distilled.npz")
            shown = file.distilled._replace(images=unwhitened(file.distilled.images, file.normalisation))
            write_atomically(images, to_png(draw_images(shown, file.meta["class_names"])))
    if not page.exists():
        draw_page(workdir)


def draw_page(workdir: Path) -> None:
    """Writes the page of a result, in place of an earlier one."""
    page = workdir / "report.html"
    with told_if_it_fails(page):
        write_atomically(page, html_report(facts_of(workdir)))


def facts_of(workdir: Path) -> Facts:
    """What the files of a finished run have for its page; what an earlier one has not kept is empty.

    Raises:
      ValueError: no finished run of distilled images, or a file of it that cannot be used.
    """
    try:
        result = json.loads((workdir / "result.json").read_text())
        name = f"{result['experiment']} · {result['preset']}"
        _ = result["outer_steps"], result["test_accuracy"]["after"]["n"]  # which a bank, or a table, has not
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"run: {workdir} is not accepted ({first_line(error)}); use a finished run's folder"
        ) from error
    file = load_distilled(workdir / "distilled.npz")
    shown = _shown(file)
    command, changed = repeated(result, workdir)
    steps, members = chosen(shown.images.shape)
    shape = (len(steps), len(members), *shown.images.shape[2:])
    return Facts(
        name,
        result,
        shown,
        file.meta.get("class_names") or [str(c) for c in range(shown.labels.shape[2])],
        read_lines(workdir / "metrics.jsonl"),
        load_snapshots(workdir / SNAPSHOTS, result["outer_steps"], shape),
        load_scored(workdir / SCORES),
        _baselines_of(workdir, result, shown),
        _attack_of(workdir),
        command,
        [(name, _told(preset), _told(value)) for name, preset, value in changed],
    )


def _shown(file: DistilledFile) -> Shown:
    images = np.asarray(unwhitened(file.distilled.images, file.normalisation))
    return Shown(images, np.asarray(file.labels), np.asarray(file.step_sizes))


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _baselines_of(workdir: Path, result: Mapping[str, Any], shown: Shown) -> list[dict[str, Any]]:
    """The baselines measured beside a run; those of random networks, of as many images, may lie in a folder beside."""
    beside = workdir.resolve().parent.parent / "baselines" / result["preset"] / "result.json"
    for path in (workdir / "baselines" / "result.json", workdir / "baselines.json", beside):
        try:
            content = json.loads(path.read_text())
            config, own = content["config"], result["config"]
            alike = all(config[name] == own[name] for name in ("dataset", "network")) and all(
                config["weights"].get(name) == own["weights"].get(name) for name in ("law", "gain", "bank")
            )
            count = config["steps"] * sum(images_of_classes(config["images_per_class"], shown.labels.shape[2]))
            alike = alike and result.get("networks") == "random" and count == math.prod(shown.labels.shape[:2])
            if path != beside or alike:
                return content["rows"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def _attack_of(workdir: Path) -> list[tuple[str, ...]]:
    """The table of an attack, where one was measured."""
    try:
        return lines(json.loads((workdir / "attack.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return []


def print_result(result: Mapping[str, Any], workdir: Path) -> None:
    """Accuracies beside the reported ones, the budget, and where the report is."""
    checked = result.get("reported_checked")
    quoted = {
        "before": percent_reported(result["reported_before"], checked=checked),
        "after": percent_reported(result["reported"], result["reported_std"], checked=checked),
    }
    title = accuracy_title(result)
    for when, score in result["test_accuracy"].items():
        measured = percent(score, known=result["networks"] == "known")
        print(f"{title} {when:>6} the steps: {measured}   (reported by the paper: {quoted[when]})")
    for when, score in result.get("balanced_test_accuracy", {}).items():
        measured = percent(score, known=result["networks"] == "known")
        print(f"{BALANCED} {when:>6} the steps: {measured}")
    page = workdir / "report.html"
    print(f"{budget(result)}; the report is {page}")
