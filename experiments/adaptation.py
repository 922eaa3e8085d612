"""Domain adaptation: images that carry networks trained on one data set to another (paper, section 4.2, table 2).

The paper reports 95.4 ± 1.8 % from MNIST to USPS and 92.7 ± 1.4 % from USPS to MNIST over 200 held-out networks, with
100 images and 30 gradient steps. What this code measured is in docs/results.md.

    python -m experiments.pretrain mnist_short
    python -m experiments.pretrain usps_short
    python -m experiments.adaptation mnist_usps [--weights.bank DIR] [--outer.steps N] …

The images begin as real ones of the target. Each outer step draws N networks of a bank by ``experiments.pretrain``;
the test is on its held-out ones. The ``*_fixed`` presets adapt one known network. Writes what
``experiments.fixed_init`` writes, and goes on where it was interrupted, like it; then measures every baseline on the
same networks, into the folder ``baselines``: those of ``experiments.baselines``, chosen as there, with the learned step
sizes of this run among the choices.

The ``*_adam`` presets are ours: Adam in the loop, 20 of the 100 images in each of its 30 steps, and for USPS real
examples that are turned, stretched and moved. Their step sizes are Adam's, so the baselines do not try them.

The ``*_authors`` presets are the settings of the paper's code. There, SVHN's LeNets for 32×32 pixels are put to MNIST's
28×28 pixels in three channels: the first convolution pads by 2 there, and the weights are the same. The reported
figures between MNIST and USPS are of another copy of USPS, with digits that are smaller and another split, and are not
comparable with ours. The ``usps_28`` presets take one that is near to it (dd_jax.data.readers.usps_28).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from dd_jax.hosts import is_first

from . import baselines, random_init
from .command_line import command_line, run_as_script
from .distil import run as distil
from .distilled import DistilledSetting
from .inner import Inner
from .recipe import Config as Base
from .recipe import authors_recipe, is_papers_method, workdir_of
from .record import draw_page, print_result
from .reported import ADAPTATION
from .settings import Images, Setting, Weights

OTHER_COPY = "Reported figures between MNIST and USPS are of another copy of USPS, and are not comparable with ours."


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of an adaptation."""

    base: Annotated[Base, tyro.conf.arg(name="")]
    """The distillation on the target data."""
    full: Path | None = None
    """A bank trained on the target, to put beside the rest."""
    epochs: tuple[int, ...] = (1, 3, 5)
    """Passes over the baselines' images: the number of these that does best."""
    sets: int = 20
    """Random sets of real images, for the baselines."""
    candidates: int = 50
    """Random sets of which the best fifth counts as optimized."""
    k_means_sets: int = 3
    """Sets of k-means centres."""


_RECIPE = dataclasses.replace(
    random_init.RECIPE,
    steps=4000,
    learning_rate=0.035,
    step_size_rate=0.3,
    weight_decay=0.03,
    max_step_size_growth=1.0,
)


def _from(bank: str, target: str, images: Images, full: str | None, bank_size: int | None = None) -> Config:
    base = Base(
        target,
        images=images,
        weights=Weights(bank=Path("runs/pretrain") / bank, bank_size=bank_size, nets=4, validation_nets=8),
        distilled=DistilledSetting(steps=10, first="real", step_size=0.02),
        outer=_RECIPE,
        batch_size=256,
    )
    return Config(base, None if full is None else Path("runs/pretrain") / full)


_COLOUR = Images(channels=3)  # MNIST's grey, three times
_RANDOM = {
    "mnist_usps": _from("mnist_short", "usps", Images(size=28), "usps_short"),
    "usps_mnist": _from("usps_short", "mnist", Images(), "mnist_short"),
    "mnist_usps_28": _from("mnist_short", "usps_28", Images(), "usps_28_short"),
    "usps_28_mnist": _from("usps_28_short", "mnist", Images(), "mnist_short"),
    "svhn_mnist": _from("svhn_short", "mnist", _COLOUR, None, bank_size=32),
}


def _authors(config: Config, batches: int) -> Config:
    """The recipe of the paper's code, from noise; ``batches`` of 1,024 are an epoch of the target."""
    base = authors_recipe(config.base, batches, 0.02)
    distilled = dataclasses.replace(base.distilled, first="noise")
    weights = dataclasses.replace(base.weights, validation_nets=20)
    return dataclasses.replace(config, base=dataclasses.replace(base, distilled=distilled, weights=weights))


_AUTHORS = {
    "mnist_usps": _authors(_from("mnist", "usps_28", Images(), "usps_28"), 8),
    "usps_mnist": _authors(_from("usps_28", "mnist", Images(), "mnist"), 59),
    "svhn_mnist": _authors(_from("svhn", "mnist", _COLOUR, None, bank_size=32), 59),
}


def _fixed(config: Config, **recipe: Any) -> Config:
    """The same for one known network."""
    weights = dataclasses.replace(config.base.weights, nets=None)
    outer = dataclasses.replace(config.base.outer, **recipe)
    return dataclasses.replace(config, base=dataclasses.replace(config.base, weights=weights, outer=outer))


def _adam(config: Config, steps: int, **settings: Any) -> Config:
    """The same for 30 steps of Adam on the 100 images, 20 in each step."""
    shape = dataclasses.replace(config.base.distilled, steps=5, epochs=6, images_per_class=2, step_size=0.002)
    rates = {"learning_rate": 0.04, "b1": 0.98, "step_size_rate": 0.1, "max_step_size": 0.006}
    outer = dataclasses.replace(config.base.outer, steps=steps, **rates)
    inner = Inner("adam", eps_root=1e-6)
    base = dataclasses.replace(config.base, distilled=shape, inner=inner, outer=outer, **settings)
    return dataclasses.replace(config, base=base)


_ADAM = {
    "mnist_usps": _adam(_RANDOM["mnist_usps"], 1500, real_augment="rotate,scale", shift=1),
    "usps_mnist": _adam(_RANDOM["usps_mnist"], 2000),
}
_SHORTER = {"steps": 800, "learning_rate": 0.05, "normalise_networks": False}
PRESETS = (
    _RANDOM
    | {f"{name}_fixed": _fixed(config, **_SHORTER) for name, config in _RANDOM.items()}
    | {f"{name}_adam": config for name, config in _ADAM.items()}
    | {f"{name}_authors": config for name, config in _AUTHORS.items()}
    | {f"{name}_fixed_authors": _fixed(config) for name, config in _AUTHORS.items()}
)


def experiment_of_paper(preset: str) -> str:
    """The paper's own experiment of a preset, a key of ``ADAPTATION``.

    >>> experiment_of_paper("mnist_usps_28_fixed"), experiment_of_paper("svhn_mnist_authors")
    ('mnist_usps_fixed', 'svhn_mnist')
    """
    return preset.removesuffix("_authors").replace("usps_28", "usps")


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
    table = table_beside(config, workdir)
    baselines.check(table)
    of_paper = experiment_of_paper(preset) if is_paper_s(base, preset, PRESETS) else ""
    result = distil("adaptation", preset, base, known=ADAPTATION.get(of_paper, {}))
    if result is not None:
        print_result(result, workdir)
        baselines.run(preset, table, reported=of_paper, note=OTHER_COPY if "usps" in of_paper else "")
        if is_first():
            draw_page(workdir)  # with the baselines
    return result


def table_beside(config: Config, workdir: Path) -> baselines.Config:
    """The baselines that stand beside a run's distilled data: on the same networks, by as many images and steps."""
    base = config.base
    return baselines.Config(
        **{field.name: getattr(base, field.name) for field in dataclasses.fields(Setting)},
        steps=base.distilled.steps,
        epochs=config.epochs,
        images_per_class=base.distilled.images_per_class,
        sets=config.sets,
        candidates=config.candidates,
        k_means_sets=config.k_means_sets,
        against=(workdir,),
        full=config.full,
        workdir=workdir / "baselines",
    )


def is_paper_s(base: Base, preset: str, presets: Mapping[str, Config]) -> bool:
    """Whether the paper's figures may stand beside it: its method, on the data, network and shape of the preset."""
    return preset in presets and is_papers_method(base) and _shape_of(base) == _shape_of(presets[preset].base)


def _shape_of(base: Base) -> tuple[Any, ...]:
    distilled = base.distilled
    return (base.dataset, base.images, base.network, distilled.steps, distilled.epochs, distilled.images_per_class)


def main(argv: list[str]) -> None:
    """The command line of this module."""
    run(*command_line(PRESETS, "mnist_usps", __doc__ or "", argv, "adaptation"))


if __name__ == "__main__":
    run_as_script(main)
