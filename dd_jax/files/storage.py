"""Files that are either whole or absent: atomic writes, and distilled data as ``.npz``."""

import contextlib
import io
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Distilled, Params


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException as error:
            os.unlink(file.name)
            if isinstance(error, OSError) and error.errno and error.filename is None:
                raise OSError(error.errno, error.strerror, str(path)) from error  # which a full disk does not name
            raise


def set_aside(path: Path, folder: Path) -> Path:
    """Moves something damaged into a folder for such, made if it is missing, under a name not taken; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{path.name}{'' if i == 0 else f'.{i}'}" for i in itertools.count())
    target = next(folder / name for name in names if not (folder / name).exists())
    return path.rename(target)


@contextlib.contextmanager
def whole_or_absent(folder: Path) -> Iterator[None]:
    """While orbax saves to ``folder``: a save that fails, as on a full disk, leaves nothing of itself behind."""
    try:
        yield
    except BaseException:
        for part in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(part, ignore_errors=True)
        raise


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text, short enough for one line of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def write_json(path: Path, content: Any) -> None:
    """Atomic, indented JSON; NaN is refused (``ValueError``), since JSON has none."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


class DistilledFile(NamedTuple):
    """What ``distilled.npz`` holds: all it takes to train on it, in any framework."""

    images: np.ndarray  # [S, M, H, W, D] float32, normalised units
    labels: np.ndarray  # [S, M, C] float32 probabilities
    step_sizes: np.ndarray  # [E·S] float32, 0 or more
    mean: np.ndarray  # [D] float32, in units of [0, 1]
    std: np.ndarray  # [D] float32
    meta: dict[str, Any]  # network, initialisation, S, E, class names, …
    initial_weights: dict[str, np.ndarray]  # θ₀ by name, for example "params/Conv_0/kernel"; empty if it is random

    @property
    def distilled(self) -> Distilled:
        """x̃, ỹ and η̃, for :func:`dd_jax.inner.loop.unroll`."""
        images, labels, step_sizes = (jnp.asarray(a, jnp.float32) for a in (self.images, self.labels, self.step_sizes))
        return Distilled(images, labels, step_sizes)

    def weights_like(self, theta: Params) -> Params:
        """θ₀ as a pytree like ``theta``.

        Raises:
          ValueError: names or shapes that are not those of ``theta``.
        """
        named = {name: jnp.asarray(array) for name, array in self.initial_weights.items()}
        return restructured(named, theta, "distilled data: its initial weights do")


def named_leaves(theta: Params) -> dict[str, Any]:
    """The leaves of a pytree by name, for example ``"params/Conv_0/kernel"``, in its own order."""
    leaves = jax.tree_util.tree_flatten_with_path(theta)[0]
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}


def restructured(arrays: Mapping[str, Any], like: Params, subject: str, *, many: bool = False) -> Params:
    """Named arrays as a pytree like ``like``; with ``many``, each with one more axis in front.

    Raises:
      ValueError: names or shapes that are not those of ``like``; the message begins with ``subject``.
    """
    named = named_leaves(like)
    wanted = {name: tuple(leaf.shape) for name, leaf in named.items()}
    held = {name: tuple(array.shape[many:]) for name, array in arrays.items()}
    if wanted != held:
        differing = sorted(dict(wanted.items() ^ held.items()))[0]
        raise ValueError(
            f"{subject} not fit the network ({differing} is {held.get(differing)} there and {wanted.get(differing)} "
            "in the network)"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in named])


_ARRAYS = ("images", "labels", "step_sizes", "mean", "std")
_WEIGHTS = "initial_weights/"


def save_distilled(
    path: Path,
    distilled: Distilled,
    mean: np.ndarray,
    std: np.ndarray,
    meta: dict[str, Any],
    theta: Params | None = None,
) -> None:
    """Writes ``distilled.npz`` atomically.

    Args:
      path: the file.
      distilled: x̃, ỹ and η̃.
      mean, std: ``[D]``, the normalisation of the images.
      meta: facts about the network and the run, JSON-serialisable.
      theta: θ₀, the weights that the images were made for, if it was one network.
    """
    arrays: dict[str, Any] = dict(
        zip(_ARRAYS, (distilled.images, distilled.labels, distilled.step_sizes, mean, std), strict=True)
    )
    arrays |= {_WEIGHTS + name: weight for name, weight in named_leaves(theta).items()}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, meta=np.array(json.dumps(meta)))
    write_atomically(path, buffer.getvalue())


def load_distilled(path: Path) -> DistilledFile:
    """Reads what :func:`save_distilled` wrote, without unpickling anything.

    Raises:
      ValueError: no such file, or one that is damaged, misses a field, or whose fields do not fit each other.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
        missing = [name for name in (*_ARRAYS, "meta") if name not in fields]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        meta = json.loads(str(fields["meta"]))
        _check_shapes(*(fields[name] for name in _ARRAYS))
    except Exception as error:  # zipfile, numpy and json each raise their own kinds for a damaged file
        raise ValueError(f"distilled data: {path} cannot be used ({error})") from error
    weights = {name.removeprefix(_WEIGHTS): array for name, array in fields.items() if name.startswith(_WEIGHTS)}
    return DistilledFile(*(fields[name] for name in _ARRAYS), meta=meta, initial_weights=weights)


def _check_shapes(images, labels, step_sizes, mean, std) -> None:
    for name, holds in (
        ("images", images.ndim == 5 and images.size > 0),
        ("labels", labels.ndim == 3 and labels.shape[:2] == images.shape[:2]),
        ("step_sizes", step_sizes.ndim == 1 and step_sizes.size > 0 and (step_sizes >= 0).all()),
        ("mean", mean.shape == images.shape[4:]),
        ("std", std.shape == images.shape[4:] and (std > 0).all()),
    ):
        if not holds:
            raise ValueError(f"its field {name!r} is malformed")
    for name, array in zip(_ARRAYS, (images, labels, step_sizes, mean, std), strict=True):
        if not np.isfinite(array).all():
            raise ValueError(f"its field {name!r} is not finite")
