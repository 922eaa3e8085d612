"""Three splits of resized pictures, mapped into memory from files that are made once; and the training originals."""

import collections
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dd_jax.data.dataset import TEST_FRACTION, Dataset, Split, fitted, stratified
from dd_jax.data.normalisation import Normalisation
from dd_jax.data.readers.tfds import cache_folder
from dd_jax.data.streamed.crops import resized
from dd_jax.data.streamed.originals import Originals, Source, some
from dd_jax.files.atomic import first_line, write_atomically

log = logging.getLogger(__name__)

_NAMED = 5  # of the pictures that cannot be decoded, in a message


class Streamed(NamedTuple):
    """A data set whose images stay on the host, the originals of its training split, and a text for its content."""

    dataset: Dataset  # of resized pictures, numpy arrays that are mapped from files
    originals: Originals  # as many as the training split has, in its order
    content: str


def streamed_dataset(
    source: Source, size: int, *, validation_fraction: float = 0.1, seed: int = 0, skip: int = 0
) -> Streamed:
    """Splits the pictures, as :func:`dd_jax.data.dataset.make_dataset` does, and resizes all of them once.

    The resized pictures are kept in ``$XDG_CACHE_HOME/dd_jax`` (``~/.cache/dd_jax``), 147 KiB each at 224 pixels, and
    taken from there when they are asked for again.

    Args:
      source: the pictures.
      size: height and width.
      validation_fraction, seed: as there.
      skip: how many pictures may be left out because they cannot be decoded. Each is named in the log.

    Raises:
      ValueError: more pictures that cannot be decoded, a fraction out of range, or a class with too few pictures.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction: {validation_fraction} is not between 0 and 1")
    train, validation, test = source.train, source.validation, source.test
    if test is None:
        train, test = _held_out(train, TEST_FRACTION, 0, source, "testing; give a test split")
    if validation is None:
        use = "validation; take another validation_fraction"
        train, validation = _held_out(train, validation_fraction, seed, source, use)
    key = hashlib.sha256(repr((source.stamp, size, validation_fraction, seed)).encode()).hexdigest()[:12]
    folder = cache_folder() / f"resized-{size}-{key}"
    parts = {"train": train, "validation": validation, "test": test}
    if not folder.is_dir():
        _make(folder, parts, size)
    facts = json.loads((folder / "facts.json").read_text())
    bad = [name for role in parts for name in facts[role]["bad"]]
    total = sum(len(part.labels) for part in parts.values())
    if bad:
        named = "; ".join(bad[:_NAMED]) + (f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")
        told = f"{len(bad)} of {total} pictures cannot be decoded ({named})"
        if len(bad) > skip:
            raise ValueError(f"dataset: {told}, and at most {skip} may be left out; mend or remove them, or allow more")
        log.warning("dataset: %s, and are left out", told)
    kept = {role: some(part, np.array(facts[role]["kept"], int)) for role, part in parts.items()}
    images = {role: np.load(folder / f"{role}.npy", mmap_mode="r") for role in parts}
    mean, std = (np.array(facts[field], np.float32) for field in ("mean", "std"))
    normalisation = Normalisation(mean, std)
    splits = (Split(images[role], kept[role].labels, normalisation) for role in parts)
    held_out = tuple(role for role in ("test", "validation") if getattr(source, role) is None)
    dataset = Dataset(*splits, class_names=source.class_names, held_out=held_out)
    return Streamed(dataset, kept["train"], facts["content"])


def _held_out(part: Originals, fraction: float, seed: int, source: Source, use: str) -> tuple[Originals, Originals]:
    numbers = np.arange(len(part.labels))
    (kept, _), (held, _) = stratified(numbers, part.labels, fraction, seed, source.class_names, use)
    return some(part, kept), some(part, held)


def _make(folder: Path, parts: dict[str, Originals], size: int) -> None:
    """Resizes all pictures into a folder of files, which is whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        facts, digest = {}, hashlib.sha256()
        for role, part in parts.items():
            facts[role] = _resize_all(making / f"{role}.npy", part, size, digest)
        mean, std, _ = fitted(np.load(making / "train.npy", mmap_mode="r"), None)
        facts |= {"mean": mean.tolist(), "std": std.tolist(), "content": digest.hexdigest()[:12]}
        write_atomically(making / "facts.json", json.dumps(facts))
        making.rename(folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        if not folder.is_dir():  # another process has made it meanwhile
            raise


def _resize_all(path: Path, part: Originals, size: int, digest) -> dict[str, list]:
    """Writes the pictures that can be decoded, in their order; returns their numbers, and the others' names."""
    kept, bad = [], []
    shape = (len(part.labels), size, size, 3)
    whole = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for number, image in enumerate(_in_order(part, size)):
        if isinstance(image, ValueError):
            bad.append(f"{part.name(number)}: {first_line(image)}")
            continue
        whole[len(kept)] = image
        digest.update(image.tobytes() + int(part.labels[number]).to_bytes(4, "little"))
        kept.append(number)
    whole.flush()
    if bad:
        right = np.lib.format.open_memmap(path.with_suffix(".kept.npy"), "w+", np.uint8, (len(kept), *shape[1:]))
        for first in range(0, len(kept), 1024):
            right[first : first + 1024] = whole[first : min(first + 1024, len(kept))]
        right.flush()
        path.with_suffix(".kept.npy").rename(path)
    return {"kept": kept, "bad": bad}


def _in_order(part: Originals, size: int) -> Iterator[np.ndarray | ValueError]:
    """Every picture resized, or why it cannot be decoded; threads are a few pictures ahead."""

    def one(number: int) -> np.ndarray | ValueError:
        try:
            return resized(part.picture(number), size)
        except ValueError as error:
            return error

    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        begun: collections.deque[Future] = collections.deque()
        for number in range(len(part.labels)):
            begun.append(pool.submit(one, number))
            if len(begun) > 8 * workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
