"""What a run leaves beside its numbers: pictures, a page, and the last lines printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dd_jax.data.normalisation import unwhitened
from dd_jax.files.atomic import write_atomically
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.figures import draw_curve, draw_images, to_png
from dd_jax.files.page import html_report
from dd_jax.files.text import accuracy_title, budget, percent, percent_reported

from .recipe import Config
from .training import read_lines
from .workdir import told_if_it_fails


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
