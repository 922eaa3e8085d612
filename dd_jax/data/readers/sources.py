"""The table of readers, and which of them takes a source."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from dd_jax.data.forms import check_form
from dd_jax.data.readers.digits import read_digits
from dd_jax.data.readers.folder import read_folder
from dd_jax.data.readers.function import is_function, read_function
from dd_jax.data.readers.idx import holds_idx, read_idx
from dd_jax.data.readers.npz import is_npz, read_npz
from dd_jax.data.readers.raw import RawData, conform
from dd_jax.data.readers.splits import BY_NAME, Chosen
from dd_jax.data.readers.tfds import read_tfds
from dd_jax.data.readers.usps_28 import read_usps_28


class Reader(NamedTuple):
    """How labelled images of one kind of source are read."""

    takes: Callable[[str], bool]  # whether a source is of this kind
    read: Callable[[str, int | None, int | None, Chosen], RawData]
    """``(source, size, channels, chosen) -> RawData``. A reader that opens pictures one by one brings each to this size
    and number of channels, so that all fit one array. Any other reader may leave that to :func:`read`."""
    splits: bool = True  # whether its sources' splits have names to choose by; if not, nothing is chosen


def is_path(source: str) -> bool:
    r"""Whether :func:`read` takes a source for a path; if not, it is ``digits``, a TFDS name or an import path.

    A path begins with ``/``, ``.`` or ``~``, ends in ``/`` or ``.npz``, or has a backslash in it; no TFDS name does.
    Another source with a ``/``, such as ``emnist/letters``, is a path where a file or folder of that name exists. Any
    other is a name, even where a folder has it too: the folder is ``./mnist``.

    >>> is_path("./mnist"), is_path("mnist"), is_path("my.npz")
    (True, False, True)
    """
    spelt = source.startswith(("/", ".", "~")) or source.lower().endswith(("/", ".npz")) or "\\" in source
    return spelt or ("/" in source and os.path.exists(source))


def _path(source: str) -> Path:
    return Path(os.path.expanduser(source))


READERS: Mapping[str, Reader] = {  # the first that takes a source reads it
    "digits": Reader(lambda source: source == "digits", lambda *_: read_digits(), splits=False),
    "usps_28": Reader(lambda source: source == "usps_28", lambda *_: read_usps_28(), splits=False),
    "function": Reader(is_function, lambda source, size, channels, chosen: read_function(source, chosen)),
    "tfds": Reader(lambda source: not is_path(source), read_tfds),
    "npz": Reader(is_npz, lambda source, size, channels, chosen: read_npz(_path(source), chosen)),
    "idx": Reader(lambda source: holds_idx(_path(source)), lambda source, *_: read_idx(_path(source)), splits=False),
    "folder": Reader(lambda source: _path(source).is_dir(), lambda source, *how: read_folder(_path(source), *how)),
}
"""The readers by name. A new one is a file with a function that returns :func:`dd_jax.data.readers.raw.checked` arrays,
and a line here."""


def read(source: str, size: int | None = None, channels: int | None = None, *, chosen: Chosen = BY_NAME) -> RawData:
    """Reads labelled images by name or path.

    A source's splits keep their names: ``train``, ``validation`` (or ``valid``, ``val``, ``dev``) and ``test``. Where
    it has a validation split but no test split, that one is the test split, and validation is left to be held out of
    training (:func:`dd_jax.data.dataset.make_dataset`). Splits of other names are not read beside these; a source with
    ``train`` and only such others is refused. ``chosen`` names the splits for training and for testing itself.

    Args:
      source: ``digits``; the name of a TFDS set (``mnist``, ``usps``, …), or ``usps_28``, which is made of one;
        ``package.module:function``, a function that returns labelled images; or a path (see :func:`is_path`): an
        ``.npz`` file, a folder of IDX files, or a folder with a folder of images for each class.
      size: height and width to bring each image to, as :func:`conform` does; None for images that are of one size.
      channels: 1 (grey) or 3 (colour), likewise; None for images that are all grey or all in colour.
      chosen: the splits for training and testing, by the source's names; of a TFDS set also parts of splits, such as
        ``train[:80%]``. By the names above if not given.

    Raises:
      ValueError: nothing there, or it cannot be used; the message says why and what would do.
    """
    check_form(size, channels)
    for reader in READERS.values():
        if reader.takes(source):
            if chosen != BY_NAME and not reader.splits:
                raise ValueError(f"dataset: {source} has fixed splits; leave out train_split and test_split")
            return conform(reader.read(source, size, channels, chosen), size, channels)
    slashes = "; write / in place of \\" if "\\" in source else ""
    advice = "use a TFDS name, an .npz file or an existing folder"
    raise ValueError(f"dataset: {source} is no folder{slashes}; {advice}")
