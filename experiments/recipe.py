"""Settings of a distillation, and what they name."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from dd_jax import backend
from dd_jax.augment import NONE, augmentation
from dd_jax.base import Augment, Criterion
from dd_jax.checks import require, within
from dd_jax.data.augment import crop_and_flip, shift
from dd_jax.imports import imported
from dd_jax.inner.modes import Mode
from dd_jax.objectives import cross_entropy
from dd_jax.outer import OuterRecipe
from dd_jax.parallel import device_mesh

from .distilled import DistilledSetting
from .inner import Inner
from .reported import REPORTED, Reported
from .settings import Devices, Setting, jsonable


@dataclasses.dataclass(frozen=True)
class Config(Setting):
    """Settings of a run. Two runs with the same settings on the same kind of machine give the same images."""

    distilled: DistilledSetting = dataclasses.field(default_factory=DistilledSetting)
    inner: Inner = dataclasses.field(default_factory=Inner)
    outer: OuterRecipe = dataclasses.field(default_factory=OuterRecipe)
    batch_size: int = 1024
    """Real examples per outer step, B."""
    batches: Literal["replaced", "epochs"] = "replaced"
    """replaced: each batch is drawn from all real examples; epochs: without replacement, pass after pass, the last
    batch of each with what is left, as the authors do."""
    switch_width: float = 0.6
    """Smooth the second derivative of ReLU and max-pooling over so many standard deviations; 0: plain autodiff."""
    augment: bool = False
    """Crop and flip the real examples at random, as the paper does for CIFAR-10."""
    shift: int = 0
    """Move the real examples at random by up to so many pixels either way, against overfitting a small set."""
    real_augment: str = NONE
    """Kinds of augmentation of the real examples, normalised, such as rotate,scale (see dd_jax.augment)."""
    objective: str | None = None
    """The import path of a criterion on the real examples, package.module:function, which takes logits and labels,
    [B, C] each, and returns [B]; cross-entropy if not given."""
    mode: Mode = "forward_over_reverse"
    """How the inner loop is differentiated: the same numbers for different memory (see dd_jax.inner.modes.Mode)."""
    devices: Devices = dataclasses.field(default_factory=Devices)
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard files to tensorboard/ in the work folder; needs pip install 'dd-jax[tensorboard]'."""
    workdir: Path | None = None
    """Where the run lives; runs/EXPERIMENT/PRESET if not given."""
    plan: bool = False
    """Only say how much memory an outer step needs, without running any."""


def authors_recipe(config: Config, batches: int, step_size: float) -> Config:
    """The recipe of the paper's code: 400 epochs of ``batches`` batches of 1,024, the rate halved every 40 of them.

    That is their number of outer steps. Here some real examples are held out for validation, so an epoch has fewer
    batches, 54 for 59 on MNIST, and there are more epochs.
    """
    return dataclasses.replace(
        config,
        distilled=dataclasses.replace(config.distilled, epochs=3, noise=1.0, step_size=step_size),
        outer=OuterRecipe(400 * batches, 0.01, b1=0.5, b2=0.999, halve_every=40 * batches, clip=None, perturbations=1),
        batch_size=1024,
        batches="epochs",
        switch_width=0.0,
    )


def mesh_of(config: Config, examples: int, *, many: bool) -> Mesh:
    """The devices that an outer step is dealt out over.

    Args:
      config: the settings.
      examples: of the training split.
      many: whether an outer step is on several networks.

    Raises:
      ValueError: numbers of devices that there are not, or that do not divide the networks or the examples.
    """
    networks = (config.weights.nets or config.weights.known) if many else 1
    dealt, share = [config.outer.perturbations], True
    if config.outer.perturbations == 1:
        share = backend.shares_examples() or jax.process_count() > 1  # each process has to take part
        last = examples % config.batch_size if config.batches == "epochs" else 0
        dealt = [config.batch_size, last]
    wanted = config.devices
    with within("devices"):
        for axis, count, sizes in (("nets", wanted.nets, [networks]), ("batch", wanted.batch, dealt)):
            accepted = f"a divisor of {math.gcd(*sizes)}"
            require(count is None or (count >= 1 and math.gcd(*sizes) % count == 0), axis, count, accepted)
        nets = wanted.nets or math.gcd(networks, jax.device_count() // (wanted.batch or 1))
        others = jax.device_count() // nets if share else 1
        return device_mesh(nets, wanted.batch or math.gcd(others, *dealt))


_NOT_OF_THE_RESULT = (
    "workdir",
    "checkpoint_seconds",
    "tensorboard",
    "plan",
    "devices",
)  # settings that do not change it


def settings_of(config: Config, workdir: Path) -> dict[str, Any]:
    """The settings that decide a run's result, as result.json in its folder holds them."""
    return {k: v for k, v in jsonable(config, workdir).items() if k not in _NOT_OF_THE_RESULT}


def workdir_of(experiment: str, preset: str, config: Config) -> Path:
    """The folder of a run."""
    return config.workdir or Path("runs") / experiment / preset


def is_papers_method(config: Config) -> bool:
    """Whether what is learned, and how networks train on it, are the paper's: then its figures may stand beside it."""
    shape = config.distilled
    papers = dataclasses.replace(shape, labels="fixed", pixels="learned", images=None)
    images = dataclasses.replace(config.images, zca=None, classes=(), train_split=None, test_split=None)
    return shape == papers and config.inner == Inner() and config.images == images


def reported(experiment: str, config: Config) -> Reported:
    """The paper's figures for this experiment, data set and shape of distilled data; empty where it has none."""
    shape = config.distilled
    if not is_papers_method(config) or not isinstance(shape.images_per_class, int):
        return {}
    return REPORTED.get((experiment, config.dataset, shape.steps, shape.epochs, shape.images_per_class), {})


def criterion_of(path: str | None) -> Criterion:
    """The criterion of an import path; cross-entropy where there is none.

    Raises:
      ValueError: a path that does not lead to a function.
    """
    return cross_entropy if path is None else imported("objective", path)


def augmentation_of(config: Config) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Of real examples as they are stored, uint8."""

    def augment(key, images):
        if config.shift:
            images, key = shift(key, images, config.shift), jax.random.fold_in(key, 1)
        return crop_and_flip(key, images) if config.augment else images

    return augment


def real_augmentation_of(config: Config) -> Augment | None:
    """Of normalised real examples.

    Raises:
      ValueError: an unknown kind.
    """
    if config.real_augment == NONE:
        return None
    try:
        return augmentation(config.real_augment)
    except ValueError as error:
        raise ValueError(str(error).replace("augment:", "real_augment:", 1)) from error
