"""Random initialisation: images that train networks never seen (paper, section 4.1, table 1).

The paper reports 79.5 ± 8.1 % on MNIST's test set over 200 held-out LeNets, with 100 images and 30 gradient steps, and
36.8 ± 1.2 % on CIFAR-10's with AlexCifarNet. These figures were checked. What this code measured is in docs/results.md.

    python -m experiments.random_init [PRESET] [--workdir DIR] [--outer.steps N] [--weights.nets N] …

Each outer step draws N new networks; the test draws 200 others. Writes what ``experiments.fixed_init`` writes, and goes
on where it was interrupted, like it.
"""

import dataclasses

from dd_jax.outer import OuterRecipe

from .command_line import run_as_script
from .distil import run_from_command_line
from .distilled import DistilledSetting
from .recipe import Config, authors_recipe
from .settings import Weights

RECIPE = OuterRecipe(
    steps=2500,
    learning_rate=0.1,
    step_size_rate=0.1,
    weight_decay=0.1,
    b1=0.9,
    clip=None,
    normalise_networks=True,
    max_step_size=0.12,
    max_step_size_growth=2.0,
)
_OURS = {
    "digits": Config(
        weights=Weights(nets=4, test_nets=50),
        distilled=DistilledSetting(steps=5, step_size=0.1),
        outer=dataclasses.replace(RECIPE, steps=600, max_step_size=0.25, max_step_size_growth=1.0),
        batch_size=128,
        switch_width=0.0,
        validation_fraction=0.1,
    ),
    "mnist": Config(
        "mnist",
        weights=Weights(nets=4),
        distilled=DistilledSetting(steps=10, step_size=0.05),
        outer=RECIPE,
        batch_size=256,
        switch_width=0.0,
    ),
}
_OURS["mnist_long"] = dataclasses.replace(
    _OURS["mnist"], outer=dataclasses.replace(RECIPE, steps=10000, learning_rate=0.04)
)
_OURS["mnist_s2"] = dataclasses.replace(  # as many images and steps, but half of the images in each step
    _OURS["mnist"],
    distilled=DistilledSetting(steps=2, epochs=15, images_per_class=5, step_size=0.05),
    outer=dataclasses.replace(RECIPE, steps=2400, max_step_size_growth=3.0),
)
_OURS["fashion_mnist"] = dataclasses.replace(_OURS["mnist"], dataset="fashion_mnist")
_OURS["cifar10"] = dataclasses.replace(
    _OURS["mnist"],
    dataset="cifar10",
    network="alexcifarnet",
    distilled=DistilledSetting(steps=10, step_size=0.02),
    outer=dataclasses.replace(RECIPE, learning_rate=0.05, max_step_size=0.05, max_step_size_growth=1.0),
    augment=True,
)


def _authors(preset: str, batches: int, step_size: float) -> Config:
    """The recipe of the paper's code, which draws one network for each outer step."""
    config = authors_recipe(_OURS[preset], batches, step_size)
    return dataclasses.replace(config, weights=Weights(nets=1))


_AUTHORS = {
    "digits_authors": _authors("digits", 2, 0.02),
    "mnist_authors": _authors("mnist", 59, 0.02),
    "fashion_mnist_authors": _authors("fashion_mnist", 59, 0.02),
    "cifar10_authors": _authors("cifar10", 49, 0.001),
}
PRESETS = _OURS | _AUTHORS


def main(argv: list[str]) -> None:
    """The command line of this module."""
    run_from_command_line("random_init", PRESETS, "digits", __doc__ or "", argv)


if __name__ == "__main__":
    run_as_script(main)
