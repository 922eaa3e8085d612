"""What the distilled data are before any learning here: noise, real images, or those of a finished run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from dd_jax.base import Distilled
from dd_jax.baselines import Layout, random_real
from dd_jax.checks import require, within
from dd_jax.data.dataset import Dataset
from dd_jax.distilled import noise
from dd_jax.files.distilled_file import load_distilled

from .inner import inner_of
from .problem import Problem
from .recipe import Config
from .settings import images_of

Budget = dict[str, float]  # outer_steps and wall_seconds


def initial_data(
    key: jax.Array, config: Config, settings: dict[str, Any], problem: Problem
) -> tuple[Distilled, Budget]:
    """The distilled data before any learning here, and what learning they have had in the runs they are from."""
    distil, dataset, classes = config.distilled, problem.dataset, len(problem.dataset.class_names)
    shape = {"steps": distil.steps, "epochs": distil.epochs, "images_per_class": distil.images_per_class}
    values = {"images": distil.images, "scale": distil.noise, "step_size": distil.step_size}
    with within("distilled"):
        distilled = noise(key, dataset.image_shape, classes, **shape, **values)
    if isinstance(distil.first, Path):
        return _of_finished_run(distil.first, config, settings, dataset, distilled)
    if distil.first == "real":
        real = random_real(key, dataset.train, Layout(classes, **shape))
        distilled = distilled._replace(images=real.images)
    return distilled, {"outer_steps": 0, "wall_seconds": 0.0}


_SAME = (  # settings that a run must share with the one it goes on from, besides the data and the inner loop
    "weights.law",
    "weights.gain",
    "bank",
    "relabel",
    "keep_labels",
    "validation_fraction",
    "seed",
)


def _of_finished_run(
    run: Path, config: Config, settings: dict[str, Any], dataset: Dataset, like: Distilled
) -> tuple[Distilled, Budget]:
    """The distilled data of a run, and its budget with that of the runs before it.

    Raises:
      ValueError: it is not finished, or its images are of another shape, class or kind, or made for other networks, or
        have seen this validation split, or its step sizes are beyond the bound.
    """
    if not (run / "result.json").is_file():
        raise ValueError(f"distilled.first: {run} is not accepted; use noise, real, or the folder of a finished run")
    file, result = load_distilled(run / "distilled.npz"), json.loads((run / "result.json").read_text())
    held = result["config"]
    here_known, held_known = (w["nets"] is None for w in (settings["weights"], held["weights"]))
    compared = [
        ("images", file.images.shape, like.images.shape),
        ("step sizes", file.step_sizes.shape, like.step_sizes.shape),
        ("classes", tuple(file.meta["class_names"]), dataset.class_names),
        ("known networks", held_known, here_known),
    ]
    same = ("dataset" if held.get("data") is None else "data", *_SAME)  # a run may be from before data were known
    compared += [(name, _setting(held, name), _setting(settings, name)) for name in same]
    compared += [("weights.known", *(s["weights"].get("known", 1) for s in (held, settings)))]
    if here_known:  # data for networks never seen may go on to another kind, such as a wider one
        compared += [("network", held["network"], settings["network"])]
        compared += [("network_options", *(list(s.get("network_options", ())) for s in (held, settings)))]
    compared += [("inner", _loop(held), _loop(settings))]
    compared += [("images", *(images_of(s.get("images", {})) for s in (held, settings)))]
    for name, there, here in compared:
        if there != here:
            raise ValueError(f"distilled.first: {run} has {name} {there}, and this run {here}; they must be the same")
    bound, largest = config.outer.max_step_size, float(file.step_sizes.max())
    if bound is not None:  # but for a rounding: the bound is kept before the softplus
        accepted = f"at least {largest:.4g}, the largest step size of {run}"
        require(largest <= bound * (1 + 1e-6), "outer.max_step_size", bound, accepted)
    before = result.get("earlier", {"outer_steps": 0, "wall_seconds": 0.0})
    return file.distilled, {name: before[name] + result[name] for name in before}


def _loop(settings: Any) -> dict[str, Any]:
    """The inner loop's settings but for its window, which may be another; of an older run the defaults."""
    inner = dataclasses.asdict(inner_of(settings.get("inner", {})))
    return {name: value for name, value in inner.items() if name not in ("window", "window_start")}


def _setting(settings: Any, name: str) -> Any:
    """A setting by its dotted name; None where it is not there."""
    for part in name.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings
