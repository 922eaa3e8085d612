"""A user's own functions that return labelled images, by import path."""

import re
from collections.abc import Mapping
from typing import Any

from dd_jax.data.readers.fields import from_fields
from dd_jax.data.readers.raw import RawData
from dd_jax.data.readers.splits import BY_NAME, Chosen
from dd_jax.files.atomic import first_line
from dd_jax.imports import imported


def is_function(source: str) -> bool:
    """Whether a source is spelt as an import path; ``mnist:3.0.1``, a version of a TFDS set, is not.

    >>> is_function("package.module:function"), is_function("mnist:3.0.1")
    (True, False)
    """
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", source) is not None


def read_function(path: str, chosen: Chosen = BY_NAME) -> RawData:
    """What the function of an import path returns, called without arguments: ``"package.module:function"``.

    It returns a mapping with the fields of :func:`dd_jax.data.readers.fields.from_fields`, or :class:`RawData`.

    Raises:
      ValueError: no such function, one that fails, or one that returns something else.
    """
    function = imported("dataset", path)
    try:
        returned: Any = function()
    except Exception as error:  # a user's function may raise anything
        raise ValueError(f"dataset: {path} fails with {first_line(error)}") from error
    if isinstance(returned, RawData):
        returned = {name: value for name, value in returned._asdict().items() if value is not None}
    if not isinstance(returned, Mapping):
        kind = type(returned).__name__
        raise ValueError(f"dataset: {path} returns {kind}; use a mapping with 'images' and 'labels'")
    return from_fields(path, returned, chosen)
