"""What the field has added since the paper, in one place: learned labels, normalised networks, momentum, augmentation.

    python -m experiments.modern [PRESET] [--workdir DIR] [--outer.steps N] [--seed K] …

``mnist_known_*`` train one known LeNet, as ``experiments.fixed_init`` does, on images whose labels are learned too
(Bohdal, Yang and Hospedales 2020; Sucholutsky and Schonlau 2021). The other presets are named for their images per
class. They train ConvNets never seen, with instance normalisation (Zhao, Mopuri and Bilen 2021), with momentum in the
loop; ``mnist_10_more`` begins where ``mnist_10`` ended. ``mnist_10_lenet`` is a task of the paper's, LeNets never seen
and hard labels, with Adam in the loop in place of gradient descent. Writes what ``experiments.fixed_init`` writes, and
goes on where it was interrupted, like it. What this code measured is in docs/results.md.
"""

import dataclasses
from pathlib import Path

from dd_jax.outer import OuterRecipe

from . import fixed_init, random_init
from .command_line import run_as_script
from .distil import run_from_command_line
from .distilled import DistilledSetting
from .inner import Inner
from .recipe import Config
from .settings import Weights

_MNIST = fixed_init.PRESETS["mnist_long"]
_KNOWN = {
    "mnist_known_10": dataclasses.replace(_MNIST, distilled=DistilledSetting(labels="unconstrained")),
    "mnist_known_5": dataclasses.replace(_MNIST, distilled=DistilledSetting(images=5, labels="unconstrained")),
}
_CONVNET = Config(
    "mnist",
    "convnet",
    ("width=32",),
    weights=Weights("default", nets=1, test_nets=20, validation_nets=5),
    distilled=DistilledSetting(steps=10, epochs=2, step_size=0.02, labels="learned"),
    inner=Inner("momentum", momentum=0.9),
    outer=OuterRecipe(steps=3000, learning_rate=0.02, b1=0.9, clip=2.0),
    batch_size=256,
    switch_width=0.0,
)
_RANDOM = {
    "digits_1": dataclasses.replace(
        _CONVNET,
        dataset="digits",
        network_options=("width=8", "depth=2"),
        distilled=DistilledSetting(epochs=5, step_size=0.02, labels="learned"),
        outer=OuterRecipe(steps=300, learning_rate=0.05, b1=0.9, clip=2.0),
        batch_size=128,
        validation_fraction=0.1,
    ),
    "mnist_1": dataclasses.replace(_CONVNET, distilled=DistilledSetting(epochs=20, step_size=0.02, labels="learned")),
    "mnist_10": _CONVNET,
    "mnist_10_more": dataclasses.replace(
        _CONVNET,
        distilled=dataclasses.replace(_CONVNET.distilled, first=Path("runs/modern/mnist_10")),
        outer=OuterRecipe(steps=2400, learning_rate=0.01, b1=0.98, clip=2.0),
    ),
}
_LENET = dataclasses.replace(
    random_init.PRESETS["mnist"],
    distilled=DistilledSetting(steps=5, epochs=6, images_per_class=2, step_size=0.005),
    inner=Inner("adam", eps_root=1e-6),
    outer=dataclasses.replace(random_init.RECIPE, step_size_rate=0.1, max_step_size=0.01),
)
PRESETS = _KNOWN | _RANDOM | {"mnist_10_lenet": _LENET}


def main(argv: list[str]) -> None:
    """The command line of this module."""
    run_from_command_line("modern", PRESETS, "digits_1", __doc__ or "", argv)


if __name__ == "__main__":
    run_as_script(main)
