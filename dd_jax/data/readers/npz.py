"""NumPy's ``.npz`` files."""

from pathlib import Path

import numpy as np

from dd_jax.data.readers.fields import from_fields
from dd_jax.data.readers.raw import RawData
from dd_jax.data.readers.splits import BY_NAME, Chosen
from dd_jax.files.atomic import first_line


def is_npz(source: str) -> bool:
    """Whether a source is named as an ``.npz`` file is."""
    return source.lower().endswith(".npz")


def read_npz(path: Path, chosen: Chosen = BY_NAME) -> RawData:
    """An ``.npz`` file with the fields of :func:`dd_jax.data.readers.fields.from_fields`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ValueError(f"dataset: {path} does not exist") from error
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise ValueError(f"dataset: {path} is no readable .npz file ({first_line(error)})") from error
    return from_fields(str(path), fields, chosen)
