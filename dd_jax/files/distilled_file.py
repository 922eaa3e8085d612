"""``distilled.npz``: distilled data with all it takes to train on them, in any framework.

docs/distilled_file.md describes every field.
"""

import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dd_jax.base import Distilled, Params
from dd_jax.data.normalisation import Normalisation
from dd_jax.data.whitening import Whitening
from dd_jax.files.atomic import write_atomically
from dd_jax.files.trees import named_leaves, restructured

FORMAT_VERSION = 2
"""Of the files that this version writes. Version 1 has no recipe, architecture and preprocessing, nor this number."""
_VERSION = "format_version"
_ARRAYS = ("images", "labels", "step_sizes", "mean", "std")
_WEIGHTS = "initial_weights/"
_HYPER = "hyper/"
_WHITENING = "whitening/"


class DistilledFile(NamedTuple):
    """What ``distilled.npz`` holds: all it takes to train on it, in any framework."""

    images: np.ndarray  # [S, M, H, W, D] float32, normalised, and whitened if the file has a whitening
    labels: np.ndarray  # [S, M, C] float32 probabilities
    step_sizes: np.ndarray  # [E·S] float32, 0 or more
    mean: np.ndarray  # [D] float32, in units of [0, 1]
    std: np.ndarray  # [D] float32
    meta: dict[str, Any]  # recipe, architecture, preprocessing, class names, …
    hyper: dict[str, np.ndarray]  # learned hyper-parameters of the inner optimizer by name, each () or [E·S]
    initial_weights: dict[str, np.ndarray]  # θ₀ by name, for example "params/Conv_0/kernel"; empty if it is random
    whitening: Whitening | None = None  # with its inverse; of images normalised by mean and std
    format_version: int = FORMAT_VERSION

    @property
    def distilled(self) -> Distilled:
        """x̃, ỹ and η̃, for :func:`dd_jax.inner.loop.unroll`."""
        images, labels, step_sizes = (jnp.asarray(a, jnp.float32) for a in (self.images, self.labels, self.step_sizes))
        return Distilled(images, labels, step_sizes, {name: jnp.asarray(value) for name, value in self.hyper.items()})

    @property
    def normalisation(self) -> Normalisation:
        """How real images become what the distilled ones are."""
        return Normalisation(self.mean, self.std, self.whitening)

    def weights_like(self, theta: Params) -> Params:
        """θ₀ as a pytree like ``theta``, each leaf with the known networks on a leading axis, one or more.

        Raises:
          ValueError: names or shapes that are not those of ``theta``.
        """
        named = {name: jnp.asarray(array) for name, array in self.initial_weights.items()}
        shapes = {name: leaf.shape for name, leaf in named_leaves(theta).items()}
        if all(array.shape == shapes.get(name) for name, array in named.items()):  # of one network, as it is stored
            named = {name: array[None] for name, array in named.items()}
        return restructured(named, theta, "distilled data: its initial weights do", many=True)


def save_distilled(
    path: Path,
    distilled: Distilled,
    normalisation: Normalisation,
    meta: dict[str, Any],
    theta: Params | None = None,
) -> None:
    """Writes ``distilled.npz`` atomically.

    Args:
      path: the file.
      distilled: x̃, ỹ and η̃.
      normalisation: of the images.
      meta: facts about the recipe, the network and the run, JSON-serialisable.
      theta: θ₀, the weights that the images were made for, if it was one network.
    """
    mean, std, whitening = normalisation
    arrays: dict[str, Any] = dict(
        zip(_ARRAYS, (distilled.images, distilled.labels, distilled.step_sizes, mean, std), strict=True)
    )
    arrays |= {} if whitening is None else {_WHITENING + name: a for name, a in whitening._asdict().items()}
    arrays |= {_HYPER + name: value for name, value in distilled.hyper.items()}
    arrays |= {_WEIGHTS + name: weight for name, weight in named_leaves(theta).items()}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    arrays |= {_VERSION: np.int32(FORMAT_VERSION), "meta": np.array(json.dumps(meta))}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def load_distilled(path: Path) -> DistilledFile:
    """Reads what :func:`save_distilled` wrote, without unpickling anything.

    Raises:
      ValueError: no such file, or one that is damaged, of a newer version, misses a field, or whose fields do not fit
        each other.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
        version = int(fields.get(_VERSION, 1))
        if version > FORMAT_VERSION:
            raise ValueError(f"it has format version {version}, newer than {FORMAT_VERSION}; use a newer dd_jax")
        missing = [name for name in (*_ARRAYS, "meta") if name not in fields]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        meta = json.loads(str(fields["meta"]))
        if not isinstance(meta, dict):
            raise ValueError("its field 'meta' is malformed")
        _check_shapes(*(fields[name] for name in _ARRAYS))
        hyper, weights = (
            {name.removeprefix(prefix): array for name, array in fields.items() if name.startswith(prefix)}
            for prefix in (_HYPER, _WEIGHTS)
        )
        _check_others(hyper, weights, len(fields["step_sizes"]))
        whitening = _whitening_of(fields)
    except Exception as error:  # zipfile, numpy and json each raise their own kinds for a damaged file
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"distilled data: {path} cannot be used ({lines[0]})") from error
    arrays = (fields[name] for name in _ARRAYS)
    return DistilledFile(
        *arrays, meta=meta, hyper=hyper, initial_weights=weights, whitening=whitening, format_version=version
    )


def _check_others(hyper: dict[str, np.ndarray], weights: dict[str, np.ndarray], steps: int) -> None:
    """Hyper-parameters, each () or [E·S], and weights."""
    for name, array in hyper.items():
        if array.shape not in ((), (steps,)):
            raise ValueError(f"its field {_HYPER + name!r} is malformed")
    for prefix, arrays in ((_HYPER, hyper), (_WEIGHTS, weights)):
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"its field {prefix + name!r} is not finite")


def _whitening_of(fields: dict[str, np.ndarray]) -> Whitening | None:
    """The whitening that a file has, if it has one."""
    names = [_WHITENING + name for name in Whitening._fields]
    if not any(name in fields for name in names):
        return None
    if missing := [name for name in names if name not in fields]:
        raise ValueError(f"it has no {', '.join(missing)}")
    whitening = Whitening(*(fields[name] for name in names))
    pixels = math.prod(fields["images"].shape[2:])
    for name, array, shape in zip(names, whitening, ((pixels,), (pixels, pixels), (pixels, pixels)), strict=True):
        if array.shape != shape:
            raise ValueError(f"its field {name!r} is malformed")
        if not np.isfinite(array).all():
            raise ValueError(f"its field {name!r} is not finite")
    return whitening


def _check_shapes(images, labels, step_sizes, mean, std) -> None:
    for name, holds in (
        ("images", images.ndim == 5 and images.size > 0),
        ("labels", labels.ndim == 3 and labels.shape[:2] == images.shape[:2]),
        ("step_sizes", step_sizes.ndim == 1 and step_sizes.size > 0 and not (step_sizes < 0).any()),
        ("mean", mean.shape == images.shape[4:]),
        ("std", std.shape == images.shape[4:] and not (std <= 0).any()),
    ):
        if not holds:
            raise ValueError(f"its field {name!r} is malformed")
    if len(step_sizes) % len(images):
        raise ValueError(f"its {len(step_sizes)} step_sizes are no multiple of its {len(images)} steps of images")
    for name, array in zip(_ARRAYS, (images, labels, step_sizes, mean, std), strict=True):
        if not np.isfinite(array).all():
            raise ValueError(f"its field {name!r} is not finite")
