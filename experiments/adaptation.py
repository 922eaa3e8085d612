"""Domain adaptation: images that carry networks trained on one data set to another (paper, section 4.2, table 2).

The paper reports 95.4 ± 1.8 % from MNIST to USPS and 92.7 ± 1.4 % from USPS to MNIST over 200 held-out networks, with
100 images and 30 gradient steps. What this code measured is in docs/results.md.

    python -m experiments.pretrain mnist_short
    python -m experiments.pretrain usps_short
    python -m experiments.adaptation mnist_usps [--weights.bank DIR] [--outer.steps N] …

The images begin as real ones of the target. Each outer step draws N networks of a bank by ``experiments.pretrain``;
the test is on its held-out ones. The ``*_fixed`` presets adapt one known network. Writes what
``experiments.fixed_init`` writes, and goes on where it was interrupted, like it; then measures every baseline on the
same networks, into the folder ``baselines``.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from . import baselines, random_init
from .command_line import command_line, run_as_script
from .distil import run as distil
from .distilled import DistilledSetting
from .recipe import Config as Base
from .recipe import workdir_of
from .record import print_result
from .reported import ADAPTATION
from .settings import Images, Setting, Weights


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of an adaptation."""

    base: Annotated[Base, tyro.conf.arg(name="")]
    """The distillation on the target data."""
    full: Path | None = None
    """A bank trained on the target, to put beside the rest."""
    sets: int = 20
    """Random sets of real images, for the baselines."""
    candidates: int = 50
    """Random sets of which the best fifth counts as optimized."""


_RECIPE = dataclasses.replace(
    random_init.RECIPE,
    steps=4000,
    learning_rate=0.035,
    step_size_rate=0.3,
    weight_decay=0.03,
    max_step_size_growth=1.0,
)


def _from(bank: str, target: str, images: Images, full: str | None) -> Config:
    base = Base(
        target,
        images=images,
        weights=Weights(bank=Path("runs/pretrain") / bank, nets=4, validation_nets=8),
        distilled=DistilledSetting(steps=10, first="real", step_size=0.02),
        outer=_RECIPE,
        batch_size=256,
    )
    return Config(base, None if full is None else Path("runs/pretrain") / full)


_RANDOM = {
    "mnist_usps": _from("mnist_short", "usps", Images(size=28), "usps_short"),
    "usps_mnist": _from("usps_short", "mnist", Images(), "mnist_short"),
    "svhn_mnist": _from("svhn", "mnist", Images(size=32, channels=3), None),
}


def _fixed(config: Config) -> Config:
    weights = dataclasses.replace(config.base.weights, nets=None)
    outer = dataclasses.replace(config.base.outer, steps=800, learning_rate=0.05, normalise_networks=False)
    return dataclasses.replace(config, base=dataclasses.replace(config.base, weights=weights, outer=outer))


PRESETS = _RANDOM | {f"{name}_fixed": _fixed(config) for name, config in _RANDOM.items()}


def run(preset: str, config: Config) -> dict[str, Any] | None:
    """Distils on the target, then measures the baselines.

    Returns:
      The content of result.json, or None with ``config.base.plan``.

    Raises:
      ValueError: settings or data that cannot be used, or a bank that does not fit.
      experiments.training.RunError: the loss was not finite.
    """
    base = config.base
    if base.weights.bank is None:
        raise ValueError("weights.bank: None is not accepted; use the work folder of experiments.pretrain")
    workdir = workdir_of("adaptation", preset, base)
    shared = {field.name: getattr(base, field.name) for field in dataclasses.fields(Setting)}
    table = baselines.Config(
        **shared,
        steps=base.distilled.steps,
        epochs=(base.distilled.epochs,),
        images_per_class=base.distilled.images_per_class,
        sets=config.sets,
        candidates=config.candidates,
        against=(workdir,),
        full=config.full,
        workdir=workdir / "baselines",
    )
    baselines.check(table)
    of_paper = preset if preset in PRESETS and _shape(base) == _shape(PRESETS[preset].base) else ""
    result = distil("adaptation", preset, base, known=ADAPTATION.get(of_paper, {}))
    if result is not None:
        print_result(result, workdir)
        baselines.run(preset, table, reported=of_paper)
    return result


def _shape(base: Base) -> tuple[Any, ...]:
    """What must be the paper's for its figures to stand beside ours."""
    distilled = base.distilled
    return (base.dataset, base.images, base.network, distilled.steps, distilled.epochs, distilled.images_per_class)


def main(argv: list[str]) -> None:
    """The command line of this module."""
    run(*command_line(PRESETS, "mnist_usps", __doc__ or "", argv))


if __name__ == "__main__":
    run_as_script(main)
