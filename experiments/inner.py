"""Settings of the inner loop, and the pieces of the library that they name."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from dd_jax.augment import NONE, augmentation
from dd_jax.checks import require, within
from dd_jax.evaluation import Loop
from dd_jax.inner.optimizers import HYPER, InnerOptimizer, inner_optimizer
from dd_jax.inner.schedule import (
    Order,
    Window,
    class_subsets,
    cycle,
    fixed_start,
    growing_start,
    minibatches,
    random_start,
    shuffled,
)
from dd_jax.parametrisations import (
    POSITIVE,
    UNIT,
)

LEARNABLE = {"momentum": UNIT, "b1": UNIT, "b2": UNIT, "weight_decay": POSITIVE}
"""Hyper-parameters that may be learned with the images, and how they are kept in range."""


@dataclasses.dataclass(frozen=True)
class Inner:
    """The inner loop. Its defaults are the paper's: gradient descent on the stored steps in turn."""

    optimizer: Literal["plain", "momentum", "nesterov", "adam"] = "plain"
    """What turns a gradient into a direction; the step sizes are the learned ones with each."""
    momentum: float | None = None
    """Of momentum and nesterov; 0.9 if not given."""
    weight_decay: float | None = None
    """Of any optimizer; 0 if not given."""
    b1: float | None = None
    """Of adam; 0.9 if not given."""
    b2: float | None = None
    """Of adam; 0.999 if not given."""
    eps: float | None = None
    """Of adam; 1e-8 if not given."""
    eps_root: float | None = None
    """Of adam, under the root, positive; 1e-8 if not given."""
    learned: tuple[str, ...] = ()
    """Which of momentum, weight_decay, b1 and b2 are learned with the images."""
    per_step: bool = False
    """Whether a learned one has a value for each step, in place of one for all."""
    shared_step_size: bool = False
    """Whether one learned step size serves all steps."""
    order: Literal["stored", "shuffled"] = "stored"
    """stored: step after step, as in the paper; shuffled: in a new random order in every epoch."""
    minibatch: int | None = None
    """Images a step, drawn anew from those of all steps in every epoch; a stored step's own if not given."""
    classes: int | None = None
    """Random classes a step, with all their images; every class if not given."""
    augment: str = NONE
    """Kinds of augmentation of the distilled images, such as shift,flip (see dd_jax.augment)."""
    augment_strength: float = 1.0
    """How much of each kind's range is drawn from."""
    window: int | None = None
    """Steps that are differentiated in each outer step, of those that are made; all if not given."""
    window_start: Literal["random", "growing"] | int = "random"
    """The window's first step: drawn in each outer step, drawn below a limit that grows to the last, or fixed."""


def optimizer_of(inner: Inner) -> InnerOptimizer:
    """The inner optimizer that the settings name.

    Raises:
      ValueError: a setting out of range or without effect.
    """
    given = {name: value for name in HYPER if (value := getattr(inner, name)) is not None}
    with within("inner"):
        optimizer = inner_optimizer(inner.optimizer, **given)
    for name in inner.learned:
        require(name in LEARNABLE, "inner.learned", name, f"one of {', '.join(LEARNABLE)}")
        value = HYPER[name] if getattr(inner, name) is None else getattr(inner, name)
        require(value > 0, f"inner.{name}", value, "a positive number where it is learned")
        held = optimizer.hyper.get(name)
        takes = ", ".join(optimizer.hyper) or "none at these settings"
        require(held is not None, "inner.learned", name, f"a hyper-parameter of {inner.optimizer}: {takes}")
    require(bool(inner.learned) or not inner.per_step, "inner.per_step", inner.per_step, "it with inner.learned")
    return optimizer


def check_inner(inner: Inner, total: int, images: int, classes: int) -> None:
    """Refuses, with ``ValueError``, settings that are out of range or have no effect.

    Args:
      inner: the settings.
      total: T, the steps of the loop.
      images: S · M, the distilled images.
      classes: C.
    """
    optimizer_of(inner)
    orders = [name for name in ("minibatch", "classes") if getattr(inner, name) is not None]
    orders += ["order"] if inner.order != "stored" else []
    if len(orders) > 1:
        raise ValueError(f"inner.{orders[0]}: it is not accepted with inner.{orders[1]}; give one of them")
    for name, most in (("minibatch", images), ("classes", classes), ("window", total)):
        value = getattr(inner, name)
        require(value is None or 1 <= value <= most, f"inner.{name}", value, f"1 … {most}")
    with within("inner"):
        augmentation(inner.augment, strength=inner.augment_strength)
    if inner.augment == NONE:
        _idle(inner, "augment_strength", "without inner.augment")
    if inner.window is None:
        _idle(inner, "window_start", "without inner.window")
    elif isinstance(inner.window_start, int):
        latest = total - inner.window
        require(0 <= inner.window_start <= latest, "inner.window_start", inner.window_start, f"0 … {latest}")


def _idle(inner: Inner, name: str, where: str) -> None:
    value, default = getattr(inner, name), getattr(Inner(), name)
    if value != default:
        raise ValueError(f"inner.{name}: {value} has no effect {where}; leave it at {default}")


def loop_of(inner: Inner, labels: Any) -> Loop:
    """The loop that distillation differentiates and evaluation repeats.

    Args:
      inner: the settings.
      labels: ỹ ``[S, M, C]``, whose largest entry tells an image's class for ``classes``.
    """
    order: Order = shuffled if inner.order == "shuffled" else cycle
    if inner.minibatch is not None:
        order = minibatches(inner.minibatch)
    if inner.classes is not None:
        with within("inner"):
            order = class_subsets(np.asarray(labels).argmax(-1).ravel().tolist(), inner.classes)
    augment = None if inner.augment == NONE else augmentation(inner.augment, strength=inner.augment_strength)
    return Loop(optimizer_of(inner), order, augment)


def window_of(inner: Inner, progress: jax.Array | float) -> Window | None:
    """The steps to differentiate when ``progress``, a share in [0, 1], of the outer steps is done."""
    if inner.window is None:
        return None
    if isinstance(inner.window_start, int):
        return Window(inner.window, fixed_start(inner.window_start))
    return Window(inner.window, random_start if inner.window_start == "random" else growing_start(progress))


def inner_of(stored: Mapping[str, Any]) -> Inner:
    """The settings that a distilled file tells."""
    known = {field.name for field in dataclasses.fields(Inner)}
    values: dict[str, Any] = {**stored, "learned": tuple(stored.get("learned", ()))}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"distilled data: they were made with inner.{unknown[0]}, which this version does not know")
    return Inner(**values)
