"""What a run leaves beside its numbers: what its file says of itself, pictures, a page, and the last lines printed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dd_jax.data.dataset import Dataset
from dd_jax.data.normalisation import unwhitened
from dd_jax.files.atomic import write_atomically
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.figures import draw_curve, draw_images, to_png
from dd_jax.files.page import html_report
from dd_jax.files.text import accuracy_title, budget, percent, percent_reported

from .inner import Inner
from .recipe import Config
from .settings import dataset_from, path_from
from .training import read_lines
from .workdir import told_if_it_fails


def meta_of(workdir: Path, config: Config, result: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """What distilled.npz says of itself. Paths in it are from its own folder on."""
    weights = config.weights
    bank = {} if weights.bank is None else {"bank": path_from(workdir, weights.bank)}
    if weights.bank_size is not None:
        bank |= {"bank_size": weights.bank_size}
    if weights.head != "loaded":
        bank |= {"head": weights.head, "head_layers": weights.head_layers}
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


def draw_pictures(workdir: Path, config: Config, result: Mapping[str, Any]) -> None:
    """The picture and the page of a result, where they are not there; what cannot be made costs no more than itself."""
    images, page = workdir / "images.png", workdir / "report.html"
    if images.exists() and page.exists():
        return
    file, pictures = load_distilled(workdir / "distilled.npz"), {}
    shown = file.distilled._replace(images=unwhitened(file.distilled.images, file.normalisation))
    with told_if_it_fails(images):
        pictures["Distilled images"] = to_png(draw_images(shown, file.meta["class_names"]))
        write_atomically(images, pictures["Distilled images"])
    with told_if_it_fails(page):
        pictures["Training"] = to_png(draw_curve(read_lines(workdir / "metrics.jsonl")))
        write_atomically(page, html_report(result, file.step_sizes, config.distilled.steps, pictures))


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
