"""TFDS sets, read from array_record without TensorFlow."""

import hashlib
import importlib.util
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.data.forms import ImagesDiffer, stack
from dd_jax.data.readers.raw import RawData, checked, checked_images
from dd_jax.data.readers.splits import BY_NAME, Chosen, roles_of
from dd_jax.files.atomic import first_line, write_atomically


def read_tfds(name: str, size: int | None = None, channels: int | None = None, chosen: Chosen = BY_NAME) -> RawData:
    """A TFDS image-classification set, read from array_record without TensorFlow; its splits as in :func:`read`.

    TFDS looks in ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``. A set that is missing there is downloaded and
    prepared first, which needs TensorFlow for all but ``usps`` (:mod:`dd_jax.data.readers.usps`). The decoded arrays
    are kept in ``$XDG_CACHE_HOME/dd_jax`` (``~/.cache/dd_jax``): decoding takes a minute, reading them back does not.

    Args:
      name: of the set.
      size: where the set's images are of several sizes, the height and width they are brought to.
      channels: likewise, 1 (grey) or 3 (colour).
      chosen: see :func:`splits_of`.

    Raises:
      ValueError: an unknown name, a set that is not prepared and cannot be, or one without images and labels.
    """
    builder, advice = prepared(name)
    features = builder.info.features
    if features is None or not {"image", "label"} <= set(features):
        raise ValueError(f"dataset: TFDS set {name!r} has no features 'image' and 'label'; {advice}")
    roles = splits_of(name, builder, chosen)
    # Images of one size are kept as they are, for whatever form they are brought to later.
    form = (size, channels) if None in (features["image"].shape or (None,)) else (None, None)
    cache = _cache_path(builder, roles, form)
    if not cache.is_file():
        try:
            columns = [_decode(role, builder.as_data_source(split), *form) for role, split in roles.items()]
        except ImagesDiffer as error:
            raise ValueError(f"dataset: TFDS set {name!r} is not of one form: {error}") from error
        except Exception as error:  # a damaged record, another file format
            raise ValueError(f"dataset: TFDS set {name!r} cannot be read ({first_line(error)}); {advice}") from error
        cache.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **dict(itertools.chain.from_iterable(columns)))
        write_atomically(cache, buffer.getvalue())
    with np.load(cache, allow_pickle=False) as arrays:
        held = {role: (arrays[f"{role}_images"], arrays[f"{role}_labels"]) for role in roles}
    return checked(name, held, getattr(features["label"], "names", None))


def prepared(name: str) -> tuple[Any, str]:
    """The builder of a TFDS set, prepared if it was not, and what to do where the set cannot be used."""
    import tensorflow_datasets as tfds  # here: slow to import, and only this reader wants it

    import dd_jax.data.readers.usps  # noqa: F401, registers it with TFDS

    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    needs_tensorflow = name != "usps"
    prepare = f"by reading it where its source can be downloaded (to {folder}/downloads; delete it there if damaged)"
    if needs_tensorflow:
        build = f"tfds build {name} --file_format=array_record"
        prepare = f"with pip install -e '.[prepare]' in a checkout of dd_jax and {build}"
    here = f"give ./{name} for what is here under that name; or " if os.path.exists(name) else ""
    advice = (
        f"{here}put a prepared copy (array_record) into {folder}/{name}, or prepare it once {prepare}; or use "
        "digits, an .npz file, a folder of IDX files or a folder of images by class"
    )
    try:
        builder: Any = tfds.builder(name, data_dir=folder)
    except Exception as error:  # TFDS raises its own kinds for each way a name can be wrong
        raise ValueError(
            f"dataset: {name!r} is neither a TFDS set nor a path ({first_line(error)}); {advice}"
        ) from error
    if not builder.data_path.exists():
        if needs_tensorflow and importlib.util.find_spec("tensorflow") is None:
            raise ValueError(f"dataset: TFDS set {name!r} is not in {folder}, and TensorFlow is missing; {advice}")
        try:
            builder = tfds.builder(name, data_dir=folder, file_format="array_record")
            builder.download_and_prepare()
        except Exception as error:  # network, disk, checksum, manual downloads: as many kinds as sets
            raise ValueError(
                f"dataset: TFDS set {name!r} cannot be prepared ({first_line(error)}); {advice}"
            ) from error
    return builder, advice


def splits_of(name: str, builder: Any, chosen: Chosen) -> dict[str, str]:
    """The splits of a prepared set by their roles, as :func:`dd_jax.data.readers.splits.roles_of`.

    Args:
      name: of the set.
      builder: its builder.
      chosen: names of splits, or parts of them as TFDS spells them, such as ``train[:80%]``.

    Raises:
      ValueError: as there; or splits with common examples.
    """
    splits = builder.info.splits
    parts = [split for split in chosen if split is not None and split not in splits and _is_part(splits, split)]
    roles = roles_of(f"TFDS set {name!r}", (*splits, *parts), "splits", chosen)
    for one, other in itertools.combinations(roles, 2):
        if _overlap(splits[roles[one]], splits[roles[other]]):
            told = f"{roles[one]!r} for {one} and {roles[other]!r} for {other}"
            raise ValueError(f"dataset: TFDS set {name!r} has {told}, with common examples; use splits without")
    return roles


def _is_part(splits: Any, split: str) -> bool:
    try:
        return splits[split].num_examples > 0
    except Exception:  # a name that there is not, or no part in TFDS's spelling: each is an error of its own kind
        return False


def _overlap(one: Any, other: Any) -> bool:
    """Whether two splits read an example of the same file."""
    read = [[(f.filename, f.skip, f.skip + f.take) for f in split.file_instructions] for split in (one, other)]
    return any(a == b and max(i, k) < min(j, m) for (a, i, j), (b, k, m) in itertools.product(*read))


def _decode(role: str, source, size: int | None, channels: int | None) -> list[tuple[str, Any]]:
    labels = []

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for i, example in enumerate(source):
            labels.append(example["label"])
            yield f"{role} image {i}", checked_images("the set", "images", example["image"][None])[0]

    stacked = stack(images(), len(source), size, channels)
    return [(f"{role}_images", stacked), (f"{role}_labels", np.array(labels))]


def cache_folder() -> Path:
    """Where decoded images are kept: ``$XDG_CACHE_HOME/dd_jax``, or ``~/.cache/dd_jax``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dd_jax"


def _cache_path(builder, *held: Any) -> Path:
    """A file named for the set, for the size and time of each of its files, and for what of it is held."""
    root = Path(builder.data_path)
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(root.iterdir()) if f.is_file()]
    digest = hashlib.sha256(repr((str(root), stamps, held)).encode()).hexdigest()[:12]
    return cache_folder() / f"{builder.info.full_name.replace('/', '-')}-{digest}.npz"
