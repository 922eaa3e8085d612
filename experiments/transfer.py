"""Transfer: images that teach a pre-trained network classes it has never seen (paper, section 4.2, table 3).

Here on CIFAR-10: a network that is trained on its first five classes learns the other five.

    python -m experiments.pretrain cifar10_first_half
    python -m experiments.transfer cifar10_halves [--weights.bank DIR] [--outer.steps N] …
    python -m experiments.transfer cifar10_halves_1

and, with the data, on an accelerator, the paper's own: AlexNet trained on ImageNet learns VOC's or CUB-200's classes.

    python -m experiments.convert alexnet-owt-7be5be79.pth --workdir runs/pretrain/imagenet_alexnet
    python -m experiments.transfer alexnet_voc
    python -m experiments.transfer alexnet_cub

The paper reports 70.75 % on VOC and 38.76 % on CUB-200. It has not been measured here.

The network is known. Its last layer is replaced by a new one of zeros with biases of one, so that the first gradient
step moves that layer alone. ``cifar10_halves`` has ten images per class, ``cifar10_halves_1`` has one. Writes what
``experiments.fixed_init`` writes, and goes on where it was interrupted, like it. Then it trains the same network on all
examples of the new classes, into the folder ``fine_tuned``, and measures every baseline on the same network, into the
folder ``baselines``: those of ``experiments.baselines``, chosen as there, with the learned step sizes of this run among
the choices. What this code measured is in docs/results.md.
"""

import dataclasses
from pathlib import Path
from typing import Any

from dd_jax.checks import require
from dd_jax.hosts import is_first, several
from dd_jax.outer import OuterRecipe
from dd_jax.weights.pretraining import PretrainRecipe

from . import baselines, pretrain
from .adaptation import Config as Adaptation
from .adaptation import is_paper_s, table_beside
from .command_line import command_line, run_as_script
from .distil import run as distil
from .distilled import DistilledSetting
from .recipe import Config as Base
from .recipe import authors_recipe, workdir_of
from .record import draw_page, print_result
from .reported import TRANSFER
from .settings import Images, Weights


@dataclasses.dataclass(frozen=True)
class Config(Adaptation):
    """Settings of a transfer."""

    full: Path | None = None
    """A bank trained on all examples of the target, to put beside the rest in place of fine-tuned networks."""
    fine_tuned: int = 1
    """Networks to fine-tune on all examples of the target, for the comparison; none with 0, or with a bank for it."""
    recipe: PretrainRecipe = dataclasses.field(default_factory=lambda: PretrainRecipe(10, 5e-4, 3))
    """How they are fine-tuned."""


_HALVES = Base(
    "cifar10",
    "alexcifarnet",
    images=Images(classes=(5, 6, 7, 8, 9)),
    weights=Weights(bank=Path("runs/pretrain/cifar10_first_half"), head="zeros"),
    distilled=DistilledSetting(steps=10, first="real", step_size=0.02),
    outer=OuterRecipe(steps=2000, learning_rate=0.02, step_size_rate=0.1, weight_decay=0.05, max_step_size=0.06),
    batch_size=256,
    augment=True,
)


def _alexnet(dataset: str, batches: int) -> Config:
    """The paper's own, by the recipe of its code: 200 epochs of ``batches`` batches of 1,024, halved every 30."""
    base = Base(
        dataset,
        "alexnet",
        images=Images(size=224, streamed=True),
        weights=Weights(bank=Path("runs/pretrain/imagenet_alexnet"), head="zeros"),
    )
    base = authors_recipe(base, batches, 0.001)
    outer = dataclasses.replace(base.outer, steps=200 * batches, halve_every=30 * batches)
    tuning = PretrainRecipe(20, 1e-4, 5, batch_size=64)
    return Config(dataclasses.replace(base, outer=outer), recipe=tuning)


PRESETS = {
    "cifar10_halves": Config(_HALVES),
    "cifar10_halves_1": Config(
        dataclasses.replace(_HALVES, distilled=dataclasses.replace(_HALVES.distilled, steps=1)),
    ),
    "alexnet_voc": _alexnet("voc/2007", 16),
    "alexnet_cub": _alexnet("caltech_birds2011", 6),
}


def run(preset: str, config: Config) -> dict[str, Any] | None:
    """Distils on the target, fine-tunes on all of it, then measures the baselines.

    Returns:
      The content of result.json, or None with ``config.base.plan``.

    Raises:
      ValueError: settings or data that cannot be used, or a bank that does not fit.
      experiments.training.RunError: a loss was not finite.
    """
    base = config.base
    require(base.weights.bank is not None, "weights.bank", None, "the work folder of pretrain or of convert")
    require(config.fine_tuned >= 0, "fine_tuned", config.fine_tuned, "0 or more")
    tunes = config.fine_tuned > 0 and config.full is None
    require(not (tunes and several()), "fine_tuned", config.fine_tuned, "0, or --full, with several processes")
    workdir = workdir_of("transfer", preset, base)
    table = table_beside(config, workdir)
    baselines.check(table)
    of_paper = preset if preset in TRANSFER and is_paper_s(base, preset, PRESETS) else ""
    result = distil("transfer", preset, base, known=TRANSFER.get(of_paper, {}))
    if result is None:
        return None
    print_result(result, workdir)
    if tunes:
        tuning = fine_tuning(config, workdir / "fine_tuned")
        pretrain.run(preset, tuning)
        table = dataclasses.replace(table, full=tuning.workdir)
    baselines.run(preset, table, reported=of_paper)
    if is_first():
        draw_page(workdir)  # with the baselines
    return result


def fine_tuning(config: Config, workdir: Path) -> pretrain.Config:
    """Training on all examples of the target, from the networks that the images are for, last layer included."""
    base, weights = config.base, config.base.weights
    same = ("dataset", "network", "network_options", "images", "validation_fraction", "seed", "precision", "augment")
    of_weights = ("law", "gain", "bank", "bank_size", "head", "head_layers")
    return pretrain.Config(
        **{name: getattr(base, name) for name in same},
        **{name: getattr(weights, name) for name in of_weights},
        recipe=config.recipe,
        networks=config.fine_tuned,
        held_out=0,
        group=1,
        workdir=workdir,
    )


def main(argv: list[str]) -> None:
    """The command line of this module."""
    run(*command_line(PRESETS, "cifar10_halves", __doc__ or "", argv))


if __name__ == "__main__":
    run_as_script(main)
