"""Folders of IDX files, the format of MNIST's original ones."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from dd_jax.data.readers.raw import RawData, checked
from dd_jax.files.atomic import first_line

_IDX_FILES = {
    "images": "train-images-idx3-ubyte",
    "labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def holds_idx(folder: Path) -> bool:
    """Whether a path is a folder with an IDX file of one of these names in it."""
    return any(_find(folder, name) for name in _IDX_FILES.values())


def read_idx(folder: Path) -> RawData:
    """A folder of IDX files in MNIST's names, gzipped or not; the t10k pair is optional."""
    arrays = {}
    for field, name in _IDX_FILES.items():
        path = _find(folder, name)
        arrays[field] = None if path is None else _read_idx_file(path)
    for field in ("images", "labels"):
        if arrays[field] is None:
            raise ValueError(f"dataset: {folder} has no {_IDX_FILES[field]}[.gz]")
    test = {"test": (arrays["test_images"], arrays["test_labels"])}
    return checked(str(folder), {"train": (arrays["images"], arrays["labels"])} | test)


def _find(folder: Path, name: str) -> Path | None:
    # MNIST's original files spell the last dot of "images.idx3" as a dash; both are met in the wild.
    spellings = (name, name.replace("-idx", ".idx"))
    found = [folder / (s + end) for s in spellings for end in ("", ".gz") if (folder / (s + end)).is_file()]
    return found[0] if found else None


def _read_idx_file(path: Path) -> np.ndarray:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"dataset: {path} cannot be read ({first_line(error)})") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        start = content[:4].hex() or "nothing"
        raise ValueError(f"dataset: {path} is no IDX file of unsigned bytes: it begins with {start}")
    axes = content[3]
    header = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:header]) if len(content) >= header else ()
    if len(content) < header or len(content) - header != int(np.prod(shape)):
        raise ValueError(f"dataset: {path} is truncated or too long: {len(content)} bytes for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
