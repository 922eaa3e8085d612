"""A user's own functions, found by import path."""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dd_jax.files.atomic import first_line

FORM = "an import path of a function, package.module:function"


def imported(subject: str, path: str) -> Callable[..., Any]:
    """The function of an import path, ``"package.module:function"``. Modules in the current directory are found.

    >>> imported("network", "math:sqrt")(9)
    3.0

    Args:
      subject: the setting that the path is given for, with which messages begin.
      path: the module, a colon, and the name of the function in it.

    Raises:
      ValueError: no such module or name, a module that fails, or a name of something that cannot be called.
    """
    module, _, attribute = path.partition(":")
    try:
        with _current_directory_importable():
            found: Any = importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        its_own = absent and f"{module}.".startswith(f"{absent}.")  # not one that the module imports in turn
        what = f"there is no module {absent!r}" if its_own else f"its module fails with {first_line(error)}"
        raise ValueError(f"{subject}: {path!r} is not found: {what}; use {FORM}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ValueError(f"{subject}: {path!r} is not found: {module} has no {attribute!r}; use {FORM}")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"{subject}: {path!r} is no function, but {type(found).__name__}; use {FORM}")
    return found


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Puts the current directory on the path of modules, where a console script has not got it."""
    here = os.getcwd()
    absent = "" not in sys.path and here not in sys.path
    if absent:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if absent and here in sys.path:
            sys.path.remove(here)
