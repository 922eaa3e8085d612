"""What suits a backend: the only place that asks which one it is."""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)

_TPU_BAND = 2**17  # numbers in the matrix of a convolution by rows: LeNet has at most half as many
_CPU_PIXELS = 2**17  # of real images at a time: their activations stay in a CPU's cache
_ACCELERATOR_PIXELS = 2**26  # likewise: their activations leave an accelerator of 16 GiB most of its memory


def target() -> str:
    """The backend that programs are made for: ``cpu``, ``gpu``, ``tpu``, …"""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(backend: str) -> Iterator[None]:
    """While open, programs are traced as they suit another backend: to compile for a TPU on a CPU's host, say."""
    token = _TARGET.set(backend)
    try:
        yield
    finally:
        _TARGET.reset(token)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """While open, products are traced in float32, unless ``jax_default_matmul_precision`` says otherwise.

    An accelerator's own choice is a lower one: TF32 on a GPU, one pass of bfloat16 on a TPU. That suits ordinary
    training. A meta-gradient is pulled back through the products of every step, and the errors of all of them add up.
    """
    chosen: str | None = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009, its type is unknown
    with jax.default_matmul_precision(chosen or "float32"):
        yield


def examples_at_a_time(shape: tuple[int, ...]) -> int:
    """Of a real batch ``[B, H, W, D]``: the largest power of two that a CPU's cache, or an accelerator's memory, holds.

    On an accelerator all B, where they are fewer.
    """
    pixels = _CPU_PIXELS if target() == "cpu" else _ACCELERATOR_PIXELS
    held = 1 << max(1, pixels // math.prod(shape[1:])).bit_length() - 1
    return held if target() == "cpu" else min(held, shape[0])


def networks_at_a_time() -> int:
    """When networks are trained and scored: one on a CPU, whose cache holds no more; 50 elsewhere."""
    return 1 if target() == "cpu" else 50


def shares_examples() -> bool:
    """Whether devices that repeat one loop are faster for sharing its real batch; a CPU's cores are not."""
    return target() != "cpu"


def for_each_network(f: Callable[[Any], Any], xs: Any) -> Any:
    """``f`` of each entry of the leading axis: in turn on a CPU, to keep its caches warm, elsewhere all at once."""
    if target() == "cpu":
        return jax.lax.map(f, xs)
    if jax.tree.leaves(xs)[0].shape[0] == 1:  # a device's share; a batch of one product is compiled to worse than it
        return jax.tree.map(lambda a: a[None], f(jax.tree.map(lambda a: a[0], xs)))
    return jax.vmap(f)(xs)


def convolution_method(kernel: tuple[int, ...], width: int, outputs: int) -> Literal["matmul", "rows", "lax"]:
    """``matmul`` on a CPU; on a TPU ``rows`` where its matrix stays small; else ``lax``.

    See :mod:`dd_jax.networks.convolution`, and docs/scaling.md for what was measured.

    Args:
      kernel: its shape, ``[K, L, I, O]``.
      width: of the images, in pixels.
      outputs: the width of the result, in pixels.
    """
    if target() == "cpu":
        return "matmul"
    band = kernel[0] * width * kernel[2] * outputs * kernel[3]
    return "rows" if target() == "tpu" and band <= _TPU_BAND else "lax"
