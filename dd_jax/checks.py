"""Checks of settings: one form of message for all, ``NAME: VALUE is not accepted; use WHAT IS``."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any


def require(holds: bool, name: str, value: Any, accepted: str) -> None:
    """Raises ``ValueError`` that names a setting, its value and what is accepted, unless ``holds``.

    >>> require(3 >= 1, "epochs", 3, "1 or more")
    >>> require(0 >= 1, "epochs", 0, "1 or more")
    Traceback (most recent call last):
    ValueError: epochs: 0 is not accepted; use 1 or more
    """
    if not holds:
        raise ValueError(f"{name}: {value} is not accepted; use {accepted}")


def positive(name: str, value: float) -> None:
    """Requires a finite number above zero.

    >>> positive("step_size", float("inf"))
    Traceback (most recent call last):
    ValueError: step_size: inf is not accepted; use a positive number
    """
    require(math.isfinite(value) and value > 0, name, value, "a positive number")


@contextlib.contextmanager
def within(name: str) -> Iterator[None]:
    """While open, messages of ``ValueError`` begin with the name of what a setting is a part of.

    >>> with within("outer"):
    ...     require(0 >= 1, "steps", 0, "1 or more")
    Traceback (most recent call last):
    ValueError: outer.steps: 0 is not accepted; use 1 or more
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
