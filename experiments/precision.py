"""What the products of a run are computed in: a setting, in force from its first program to its last."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import jax

from dd_jax.checks import require

from .settings import PRECISIONS

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """While open, matrix products and convolutions are traced in this precision, whatever was chosen outside.

    Raises:
      ValueError: none of ``PRECISIONS``.
    """
    require(precision in PRECISIONS, "precision", repr(precision), f"one of {', '.join(PRECISIONS)}")
    with jax.default_matmul_precision(precision):
        yield


def in_its_precision(run: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The ``run`` of an experiment, with its products in the precision that its ``config``, or ``config.base``, says.

    Raises:
      ValueError: when called, as :func:`products_in`.
    """
    signature = inspect.signature(run)

    @functools.wraps(run)
    def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        config = signature.bind(*args, **kwargs).arguments["config"]
        with products_in(getattr(config, "base", config).precision):
            return run(*args, **kwargs)

    return within
