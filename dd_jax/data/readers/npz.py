"""NumPy's ``.npz`` files."""

from pathlib import Path

import numpy as np

from dd_jax.data.readers.raw import RawData, checked
from dd_jax.data.readers.splits import ROLES, roles_of
from dd_jax.files.atomic import first_line


def is_npz(source: str) -> bool:
    """Whether a source is named as an ``.npz`` file is."""
    return source.lower().endswith(".npz")


def read_npz(path: Path) -> RawData:
    """An ``.npz`` file with ``images`` and ``labels``, and optionally the same of other splits and ``class_names``.

    The other splits are in fields like ``test_images`` and ``test_labels``, of the names in :func:`read`. Images are
    ``[N, H, W]`` or ``[N, H, W, D]``, uint8, or floats in [0, 1].
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ValueError(f"dataset: {path} does not exist") from error
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise ValueError(f"dataset: {path} is no readable .npz file ({first_line(error)})") from error
    for field in ("images", "labels"):
        if field not in fields:
            raise ValueError(f"dataset: {path} has no array {field!r}, only {sorted(fields)}")
    prefixes = [field.rpartition("_")[::2] for field in fields]
    others = {name for name, end in prefixes if end == "images" or (end == "labels" and name in ROLES)} - {""}
    names = roles_of(str(path), ("train", *sorted(others)), "arrays of the splits")
    held = {role: (fields.get(f"{name}_images"), fields.get(f"{name}_labels")) for role, name in names.items()}
    return checked(str(path), held | {"train": (fields["images"], fields["labels"])}, fields.get("class_names"))
