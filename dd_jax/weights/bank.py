"""Banks of pre-trained networks: p(θ₀) as a folder of weights, held in host memory (paper, section 3.5).

A bank is a folder of shards, each an orbax checkpoint of networks in a row. A shard is whole or absent, a damaged one
is named and passed over, and a bank grows by shards, without touching those it has.
"""

import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from dd_jax.base import Network, Params
from dd_jax.files.atomic import first_line, set_aside, whole_or_absent
from dd_jax.files.trees import named_leaves, restructured
from dd_jax.weights.head import Fresh, renewed

log = logging.getLogger(__name__)

_FIELDS = {"weights", "accuracy", "image_shape"}


class Bank(NamedTuple):
    """K networks in host memory, however little the device holds."""

    weights: Params  # numpy leaves with a leading axis K
    accuracy: np.ndarray  # [K], as fractions, on the test split of the data they were trained on; NaN if unknown


def save_shard(folder: Path, first: int, image_shape: tuple[int, int, int], shard: Bank) -> None:
    """Adds the networks ``first``, ``first`` + 1, … to a bank, atomically.

    Args:
      folder: the bank, made if it is missing.
      first: the number of the shard's first network.
      image_shape: (H, W, D) of the images they were trained on.
      shard: the networks.

    Raises:
      ValueError: that shard is there already.
    """
    content = {"weights": shard.weights, "accuracy": shard.accuracy, "image_shape": np.array(image_shape)}
    path = folder / f"{first:05d}-{first + len(shard.accuracy):05d}"
    with whole_or_absent(folder):
        ocp.save(str(path.absolute()), jax.tree.map(np.asarray, content))


def load_bank(folder: Path, network: Network, image_shape: tuple[int, int, int], *, fresh: Fresh | None = None) -> Bank:
    """Reads a bank into host memory, without its damaged shards, which are named in the log.

    Args:
      folder: the bank.
      network: the pair that the weights must fit.
      image_shape: (H, W, D) of the images that they were trained on. The network may be one for images of another
        size, if its weights have the same shapes.
      fresh: weights that are not loaded but new, such as those of a last layer for other classes.

    Raises:
      ValueError: no bank there, or one of another network or shape of images.
      OSError: there are shards, and none of them can be read.
    """
    shards = list(read_shards(folder, network, image_shape, fresh=fresh).values())
    if not shards:
        raise ValueError(f"bank: {folder.absolute()} holds no networks; use a folder that does")
    return Bank(*jax.tree.map(lambda *parts: np.concatenate(parts), *shards))


def read_shards(
    folder: Path,
    network: Network,
    image_shape: tuple[int, int, int],
    *,
    set_damaged_aside: bool = False,
    fresh: Fresh | None = None,
) -> dict[range, Bank]:
    """The readable shards of a bank, by the numbers of their networks; otherwise as :func:`load_bank`.

    Args:
      folder, network, image_shape, fresh: as there.
      set_damaged_aside: rename a damaged shard, so that its place is free for a new one. Nothing is ever deleted.
    """
    like, shards, damaged = jax.eval_shape(network.init, jax.random.key(0)), {}, {}
    for path in sorted(folder.glob("?????-?????")):
        try:
            content: Any = ocp.load(str(path.absolute()))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged folder
            damaged[path] = first_line(error)
            continue
        if not isinstance(content, dict) or content.keys() != _FIELDS:
            raise ValueError(f"bank: {path} is no shard of a bank; go on with the version that made it")
        held_shape = tuple(int(n) for n in content["image_shape"])
        if held_shape != image_shape:
            raise ValueError(f"bank: {folder} is of networks for images of {held_shape}, not {image_shape}")
        numbers = range(*map(int, path.name.split("-")))
        named = named_leaves(content["weights"])
        named = named if fresh is None else renewed(named, fresh, numbers)
        weights = restructured(named, like, f"bank: the networks of {folder} do", many=True)
        if any(i in held for held in shards for i in numbers):
            log.warning("bank: %s repeats networks of another shard; going on without it", path)
            continue
        shards[numbers] = Bank(weights, np.asarray(content["accuracy"]))
    if damaged and not shards:
        path, why = next(iter(damaged.items()))
        raise OSError(
            f"bank: none of {len(damaged)} shards in {folder} can be read ({path.name}: {why}); nothing was changed. "
            "Try again, or move that folder away to begin anew"
        )
    for path, why in damaged.items():
        log.warning("bank: %s is damaged (%s); going on without it", path, why)
        if set_damaged_aside:
            log.warning("bank: it is now %s", set_aside(path, folder / "damaged"))
    return shards


def fingerprint(*banks: Bank) -> str:
    """A short text that tells banks apart by their networks' weights, number and order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(banks):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:12]


def bank_sampler(bank: Bank, count: int, seed: int, jitter: float = 0.0) -> Callable[[int], Params]:
    """p(θ₀) by outer step: ``count`` networks of the bank, all different, each leaf with a leading axis N.

    With ``jitter``, Gaussian noise of that share of the standard deviation of a network's own leaf makes each of them
    one never seen. A leaf that is constant in a network, or holds no floats, gets none.

    Only these go to the device. The transfer is asynchronous, and which networks they are depends on the seed, the step
    and the bank's size alone, so that a caller who asks for the next ones while the device is busy never makes it wait.

    Raises:
      ValueError: no network or more than the bank has, or a jitter that is negative or not finite.
    """
    size = len(bank.accuracy)
    if not 1 <= count <= size:
        raise ValueError(f"count: {count} is not accepted; use 1 … {size}, the networks of the bank")

    if not 0 <= jitter < math.inf:
        raise ValueError(f"jitter: {jitter} is not accepted; use 0 or more")

    def draw(step: int) -> Params:
        rng = np.random.default_rng([seed, step])
        index = rng.choice(size, count, replace=False)

        def chosen(leaf: np.ndarray) -> np.ndarray:
            some = leaf[index]
            if not jitter or not jnp.issubdtype(some.dtype, jnp.floating):
                return some
            spread = some.std(axis=tuple(range(1, some.ndim)), keepdims=True)
            noise = jitter * spread * rng.standard_normal(some.shape, np.float32)
            return some + noise.astype(some.dtype)

        return jax.device_put(jax.tree.map(chosen, bank.weights))

    return draw
