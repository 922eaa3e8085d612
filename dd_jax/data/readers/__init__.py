"""Readers of labelled images: scikit-learn's digits, TFDS sets, ``.npz`` files, folders, a user's own functions.

Each returns :class:`RawData`, checked: every error is a ``ValueError`` that names the source and what is accepted.
"""

from dd_jax.data.readers.digits import read_digits
from dd_jax.data.readers.fields import from_fields
from dd_jax.data.readers.folder import read_folder
from dd_jax.data.readers.function import read_function
from dd_jax.data.readers.idx import read_idx
from dd_jax.data.readers.npz import read_npz
from dd_jax.data.readers.raw import RawData, checked, conform, content_fingerprint, of_classes
from dd_jax.data.readers.sources import READERS, Reader, is_path, read
from dd_jax.data.readers.splits import Chosen
from dd_jax.data.readers.tfds import read_tfds
from dd_jax.data.readers.usps_28 import read_usps_28

__all__ = [
    "READERS",
    "Chosen",
    "RawData",
    "Reader",
    "checked",
    "conform",
    "content_fingerprint",
    "from_fields",
    "is_path",
    "of_classes",
    "read",
    "read_digits",
    "read_folder",
    "read_function",
    "read_idx",
    "read_npz",
    "read_tfds",
    "read_usps_28",
]
