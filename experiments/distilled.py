"""Settings of the distilled data: their shape, what they are at first, and what of them is learned."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Distilled, Parametrisation
from dd_jax.bases import decode_bases, init_bases
from dd_jax.checks import positive, require
from dd_jax.parametrisations import FIXED, FREE, POSITIVE, Field, parametrisation, per_step, probabilities, shared

from .inner import LEARNABLE, Inner, optimizer_of


@dataclasses.dataclass(frozen=True)
class DistilledSetting:
    """The distilled data: S steps of M images, passed over E times."""

    steps: int = 1
    """S, distinct gradient steps."""
    epochs: int = 3
    """E, passes over them."""
    images_per_class: int | tuple[int, ...] = 1
    """Images per class and step; M is this times the number of classes. Or a number for each class, such as 3 1 1."""
    images: int | None = None
    """M itself, in place of images_per_class; any number, also fewer than classes."""
    first: Literal["noise", "real"] | Path = "noise"
    """What the images are at first: noise, random real images of the training split, or those of a finished run, by its
    folder, which gives the first step sizes too. Where networks are drawn, that run's may be of another kind."""
    noise: float = 0.1
    """Standard deviation of the noise, in normalised units."""
    step_size: float = 0.3
    """The step sizes' initial value, where no run gives it."""
    labels: Literal["fixed", "learned", "unconstrained"] = "fixed"
    """fixed: as they are at first; learned: as probabilities, through a softmax; unconstrained: as any numbers."""
    pixels: Literal["learned", "fixed", "bases"] = "learned"
    """learned: each by itself; fixed: as they are at first; bases: as combinations of fewer or smaller basis images."""
    bases: int | None = None
    """How many basis images, with pixels bases."""
    bases_size: int | None = None
    """Height and width of a basis image in pixels; those of the images if not given."""


def check_distilled_setting(setting: DistilledSetting) -> None:
    """Refuses, with ``ValueError``, settings that are out of range or have no effect."""
    for name in ("steps", "epochs"):
        require(getattr(setting, name) >= 1, f"distilled.{name}", getattr(setting, name), "1 or more")
    least = np.min(setting.images_per_class, initial=1)
    require(least >= 1, "distilled.images_per_class", setting.images_per_class, "1 or more")
    positive("distilled.noise", setting.noise)
    positive("distilled.step_size", setting.step_size)
    if setting.images is not None:
        require(setting.images >= 1, "distilled.images", setting.images, "1 or more")
        require(setting.first != "real", "distilled.images", setting.images, "images_per_class with real first images")
        require(setting.images_per_class == 1, "distilled.images_per_class", setting.images_per_class, "one of the two")
    if setting.pixels == "bases":
        require((setting.bases or 0) >= 1, "distilled.bases", setting.bases, "1 or more, with pixels 'bases'")
    else:
        for name in ("bases", "bases_size"):
            accepted = f"it with distilled.pixels 'bases', not {setting.pixels!r}"
            require(getattr(setting, name) is None, f"distilled.{name}", getattr(setting, name), accepted)


def parametrisation_of(
    key: jax.Array, setting: DistilledSetting, inner: Inner, first: Distilled
) -> tuple[Parametrisation, Distilled]:
    """What is learned, and the first data with the learned hyper-parameters of the inner optimizer among them.

    Raises:
      ValueError: a setting out of range or without effect.
    """
    optimizer, total = optimizer_of(inner), first.step_sizes.shape[0]
    given = {name: jnp.asarray(optimizer.hyper[name], jnp.float32) for name in inner.learned}
    first = first._replace(hyper=given | dict(first.hyper))  # those of the run it goes on from, if any
    fields = {name: LEARNABLE[name] for name in inner.learned}
    images = {"learned": FREE, "fixed": FIXED}.get(setting.pixels)
    learned = parametrisation(
        images=_bases(key, setting, first.images.shape) if images is None else images,
        labels={"fixed": FIXED, "learned": probabilities(), "unconstrained": FREE}[setting.labels],
        step_sizes=shared(POSITIVE, total) if inner.shared_step_size else POSITIVE,
        hyper={name: per_step(field, total) for name, field in fields.items()} if inner.per_step else fields,
    )
    return learned, first


def _bases(key: jax.Array, setting: DistilledSetting, shape: tuple[int, ...]) -> Field:
    steps, images, height, width, depth = shape
    size = (height, width) if setting.bases_size is None else (setting.bases_size, setting.bases_size)
    return Field(
        lambda pixels: init_bases(key, pixels, count=setting.bases or 1, size=size),
        lambda bases: decode_bases(bases, (steps, images, height, width, depth)),
    )


def stored_floats(params: Any) -> int:
    """How many numbers it takes to store what is learned and what stays as it is."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
