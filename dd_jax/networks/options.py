"""Options of a network: from the text of a command line to what a function's annotations ask for."""

import ast
import typing
from collections.abc import Sequence
from typing import Any, Literal

ImageShape = tuple[int, int, int]
"""(H, W, D): height and width in pixels, and channels."""


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options from texts ``name=value``; a value is read as a Python literal where it is one, else kept as text.

    >>> parse_options(["width=32", "hidden=64,64", "norm=group"])
    {'width': 32, 'hidden': (64, 64), 'norm': 'group'}

    Raises:
      ValueError: a text of another form, or a name given twice.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"network: option {text!r} is not accepted; use name=value, such as width=32")
        if name in options:
            raise ValueError(f"network: option {name!r} is given twice; give it once")
        options[name] = _literal(value)
    return options


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def converted(value: Any, kind: Any) -> Any:
    """An option of a network of ours as the type that its function declares.

    Args:
      value: of that type, or the text of such a value.
      kind: ``int``, a count of at least 1; ``tuple[int, ...]``, counts; or a ``Literal`` of texts.

    Raises:
      ValueError: a value of another type, or out of range; the text says what is accepted.
    """
    if typing.get_origin(kind) is Literal:
        if value in (known := typing.get_args(kind)):
            return value
        raise ValueError(f"use one of {', '.join(known)}")
    if isinstance(value, str):
        value = _literal(value)
    if kind is int:
        if _is_count(value):
            return value
        raise ValueError("use an integer of at least 1")
    assert kind == tuple[int, ...], kind  # the only other type among our functions
    values = (value,) if isinstance(value, int) else value
    if isinstance(values, tuple | list) and all(map(_is_count, values)):
        return tuple(values)
    raise ValueError("use integers of at least 1, such as 128,128")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def square(name: str, image_shape: ImageShape, *sizes: int) -> None:
    """Refuses, with ``ValueError``, images that are not of one of the given sizes, in pixels."""
    height, width, _ = image_shape
    if height != width or height not in sizes:
        accepted = " or ".join(f"{size}×{size}" for size in sizes)
        raise ValueError(f"network: {name} takes images of {accepted} pixels, not {height}×{width}")
