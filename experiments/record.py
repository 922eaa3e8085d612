"""What a run leaves beside its numbers: what its file says of itself, pictures, a page, and the last lines printed."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.data.dataset import Dataset
from dd_jax.data.normalisation import unwhitened
from dd_jax.files.atomic import first_line, write_atomically
from dd_jax.files.distilled_file import DistilledFile, load_distilled
from dd_jax.files.figures import draw_images, to_png
from dd_jax.files.report.facts import Facts, Shown
from dd_jax.files.report.page import html_report
from dd_jax.files.report.tiles import chosen
from dd_jax.files.scored import load_scored
from dd_jax.files.snapshots import load_snapshots
from dd_jax.files.text import accuracy_title, budget, percent, percent_reported

from .inner import Inner
from .recipe import Config
from .repeat import repeated
from .settings import dataset_from, path_from
from .training import read_lines
from .workdir import told_if_it_fails

SNAPSHOTS, SCORES = "snapshots", "scores.npz"
"""What the page is made of beside the result: a folder and a file of a run."""


def meta_of(workdir: Path, config: Config, result: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """What distilled.npz says of itself. Paths in it are from its own folder on."""
    weights = config.weights
    bank = {} if weights.bank is None else {"bank": path_from(workdir, weights.bank)}
    if weights.bank_size is not None:
        bank |= {"bank_size": weights.bank_size}
    if weights.bank is not None:
        bank |= {"validation_nets": weights.validation_nets, "fingerprint": result["config"]["bank"]}
    return {
        "experiment": result["experiment"],
        "dataset": dataset_from(workdir, config.dataset),
        "data": result["config"]["data"],
        "validation_fraction": config.validation_fraction,
        "images": dataclasses.asdict(config.images),
        "network": config.network,
        "network_options": config.network_options,
        "inner": result["config"]["inner"],
        "objective": config.objective,
        "precision": config.precision,
        "initialisation": {"law": weights.law, "gain": weights.gain, "seed": config.seed, **bank},
        "steps": config.distilled.steps,
        "epochs": config.distilled.epochs,
        "class_names": dataset.class_names,
        "relabel": result["config"].get("relabel", {}),
        "versions": result["versions"],
        "use": _use(config),
    }


def _use(config: Config) -> str:
    """How to train on the data, in words."""
    step = "gradient descent on images[t % S], labels[t % S] with step_sizes[t]"
    if config.inner != Inner(window=config.inner.window, window_start=config.inner.window_start):
        step = "a step of what 'inner' says (optimizer, order, augmentation), step_sizes[t] times its direction"
    return (
        f"for t in range(E * S): {step}, mean cross-entropy, from initial_weights or, without them, any weights of the "
        "initialisation (flax layout: kernels [H, W, in, out] and [in, out], NHWC images)"
    )


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
        _baselines_of(workdir, result, shown.images.shape[0] * shown.images.shape[1]),
        command,
        [(name, _told(preset), _told(value)) for name, preset, value in changed],
    )


def _shown(file: DistilledFile) -> Shown:
    images = np.asarray(unwhitened(file.distilled.images, file.normalisation))
    return Shown(images, np.asarray(file.labels), np.asarray(file.step_sizes))


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _baselines_of(workdir: Path, result: Mapping[str, Any], images: int) -> list[dict[str, Any]]:
    """The baselines measured beside a run; those of random networks, of as many images, may lie in a folder beside."""
    beside = workdir.resolve().parent.parent / "baselines" / result["preset"] / "result.json"
    for path in (workdir / "baselines" / "result.json", workdir / "baselines.json", beside):
        try:
            content = json.loads(path.read_text())
            config, own = content["config"], result["config"]
            alike = all(config[name] == own[name] for name in ("dataset", "network")) and all(
                config["weights"].get(name) == own["weights"].get(name) for name in ("law", "gain", "bank")
            )
            many = len(content["rows"]) and config["steps"] * config["images_per_class"]
            count = many * (images // max(1, own["distilled"]["steps"] * own["distilled"]["images_per_class"]))
            if path != beside or (alike and count == images and result.get("networks") == "random"):
                return content["rows"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
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
    page = workdir / "report.html"
    print(f"{budget(result)}; the report is {page}")
