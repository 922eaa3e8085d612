"""Fixed initialisation: a few synthetic images that train one known network (paper, section 4.1, figure 2).

The paper reports 12.9 % → 93.8 % on MNIST's test set, with 10 images and 3 gradient steps on LeNet, and
8.8 % → 54.0 % on CIFAR-10's, with 100 images and 30 steps on AlexCifarNet. These figures were checked. What this code
measured is in docs/results.md.

    python -m experiments.fixed_init [PRESET] [--workdir DIR] [--outer.steps N] [--seed K] …

writes result.json, distilled.npz, images.png, report.html, metrics.jsonl, scores.npz, snapshots/ and checkpoints/ to
the work folder. The same command again goes on where it was interrupted.
"""

import dataclasses

from dd_jax.outer import OuterRecipe

from .command_line import run_as_script
from .distil import run_from_command_line
from .distilled import DistilledSetting
from .recipe import Config, authors_recipe
from .settings import Weights

_TEN = OuterRecipe(steps=2400, learning_rate=0.05, perturbations=16)
_HUNDRED = OuterRecipe(steps=6000, learning_rate=0.02)
_OURS = {
    "digits": Config(
        weights=Weights("orthogonal", gain=1.4),
        distilled=DistilledSetting(epochs=5, step_size=0.2),
        outer=OuterRecipe(steps=1000, learning_rate=0.03),
        batch_size=256,
        shift=1,
        validation_fraction=0.1,
    ),
    "mnist": Config("mnist", outer=_TEN),
    "mnist_long": Config("mnist", outer=dataclasses.replace(_TEN, steps=8000)),
    "mnist_100": Config("mnist", distilled=DistilledSetting(steps=10, step_size=0.1), outer=_HUNDRED, batch_size=512),
    "fashion_mnist": Config("fashion_mnist", outer=_TEN),
    "cifar10": Config(
        "cifar10",
        "alexcifarnet",
        distilled=DistilledSetting(steps=10, step_size=0.02),
        outer=dataclasses.replace(_HUNDRED, step_size_rate=0.1, weight_decay=0.05, max_step_size=0.06),
        batch_size=256,
        augment=True,
    ),
}
_AUTHORS = {
    "digits_authors": authors_recipe(dataclasses.replace(_OURS["digits"], weights=Weights(), shift=0), 2, 0.02),
    "mnist_authors": authors_recipe(_OURS["mnist"], 59, 0.02),
    "mnist_100_authors": authors_recipe(_OURS["mnist_100"], 59, 0.02),
    "fashion_mnist_authors": authors_recipe(_OURS["fashion_mnist"], 59, 0.02),
    "cifar10_authors": authors_recipe(_OURS["cifar10"], 49, 0.001),
}
PRESETS = _OURS | _AUTHORS


def main(argv: list[str]) -> None:
    """The command line of this module."""
    run_from_command_line("fixed_init", PRESETS, "digits", __doc__ or "", argv)


if __name__ == "__main__":
    run_as_script(main)
