"""How much a distillation depends on its seed: the same run once for each, which draws all that is random.

    python -m experiments.seeds [PRESET] [--seeds 10] [--base.outer.steps N] …

runs a preset of ``experiments.fixed_init``, or of ``experiments.random_init`` as ``random_PRESET``, for seeds 0, 1, …,
each in a folder of its own; a finished one is not repeated. Prints the test accuracy of each, and writes their mean,
standard deviation, lowest and highest to result.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.checks import require
from dd_jax.files.atomic import write_json
from dd_jax.files.text import percent

from . import fixed_init, random_init
from .command_line import command_line, run_as_script
from .distil import run as distil
from .recipe import Config as Base
from .recipe import settings_of
from .scoring import mean_and_std
from .workdir import claimed, provenance


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the repetition."""

    base: Base
    """The run that is repeated; its own seed is the first."""
    seeds: int = 10
    """How many, one after the other."""
    workdir: Path | None = None
    """Where the runs live; runs/seeds/PRESET if not given."""


PRESETS = {name: Config(base) for name, base in fixed_init.PRESETS.items()}
PRESETS |= {f"random_{name}": Config(base) for name, base in random_init.PRESETS.items()}


def run(preset: str, config: Config) -> dict[str, Any]:
    """Distils once for each seed.

    Returns:
      The content of result.json.

    Raises:
      ValueError: settings or data that cannot be used.
      experiments.training.RunError: the loss was not finite.
    """
    require(config.seeds >= 1, "seeds", config.seeds, "1 or more")
    workdir = config.workdir or Path("runs/seeds") / preset
    settings = {"base": settings_of(config.base, workdir), "seeds": config.seeds}
    with claimed(workdir, {"experiment": "seeds", "preset": preset, **settings}) as finished:

        def result_of(seed: int) -> dict[str, Any]:
            base = dataclasses.replace(config.base, seed=seed, workdir=workdir / f"seed_{seed}", plan=False)
            return distil("seeds", preset, base) or {}

        runs = {config.base.seed: result_of(config.base.seed)}  # refused here if the data have changed
        if finished is not None:
            return finished
        for seed in range(config.base.seed, config.base.seed + config.seeds):
            runs[seed] = runs[seed] if seed in runs else result_of(seed)
            print(f"seed {seed}: {percent(runs[seed]['test_accuracy']['after'])}", flush=True)
        means = [result["test_accuracy"]["after"]["mean"] for result in runs.values()]
        summary = {
            "experiment": "seeds",
            "preset": preset,
            "dataset": config.base.dataset,
            "test_accuracy": {**mean_and_std(np.array(means)), "min": min(means), "max": max(means)},
            "by_seed": {str(seed): result["test_accuracy"]["after"]["mean"] for seed, result in runs.items()},
            "longest_seconds": max(result["wall_seconds"] for result in runs.values()),
            "config": settings,
            **provenance(),
        }
        write_json(workdir / "result.json", summary)
        return summary


def main(argv: list[str]) -> None:
    """The command line of this module."""
    preset, config = command_line(PRESETS, "digits", __doc__ or "", argv, "seeds")
    accuracy = run(preset, config)["test_accuracy"]
    print(
        f"test accuracy over seeds: {percent(accuracy)}, {100 * accuracy['min']:.2f} to {100 * accuracy['max']:.2f} %"
    )


if __name__ == "__main__":
    run_as_script(main)
