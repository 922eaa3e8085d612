"""A network by its name, or by the import path of a function that makes one."""

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from dd_jax.base import Network
from dd_jax.files.atomic import first_line
from dd_jax.imports import FORM, imported
from dd_jax.networks.alexcifarnet import alexcifarnet, describe_alexcifarnet
from dd_jax.networks.alexnet import alexnet, describe_alexnet
from dd_jax.networks.convnet import convnet, describe_convnet
from dd_jax.networks.convolution import METHODS, Method
from dd_jax.networks.description import Layer
from dd_jax.networks.lenet import describe_lenet, lenet
from dd_jax.networks.mlp import describe_mlp, mlp
from dd_jax.networks.modules import from_equinox, from_flax, from_nnx, is_equinox
from dd_jax.networks.options import ImageShape, converted
from dd_jax.networks.resnet import describe_resnet18, resnet18
from dd_jax.networks.surrogates import surrogates
from dd_jax.objectives import check_network

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    make.__name__: make for make in (lenet, alexcifarnet, alexnet, convnet, mlp, resnet18)
}
_DESCRIPTIONS: dict[str, Callable[..., list[Layer]]] = {
    "lenet": describe_lenet,
    "alexcifarnet": describe_alexcifarnet,
    "alexnet": describe_alexnet,
    "convnet": describe_convnet,
    "mlp": describe_mlp,
    "resnet18": describe_resnet18,
}
_OURS = ("switch_width", "convolution", "rngs", "key")  # arguments that are no options: the library gives them
_KINDS = "an (init, apply) pair, a flax.linen, flax.nnx or equinox module"


def make_network(
    name: str,
    image_shape: ImageShape,
    classes: int,
    *,
    switch_width: float = 0.0,
    convolution: Method | None = None,
    options: Mapping[str, Any] = {},
) -> Network:
    """A network by name, or anyone's by import path.

    ``"package.module:function"`` names a function ``make(image_shape, classes, **options)`` that returns

    - an ``(init, apply)`` pair, as :class:`dd_jax.base.Network` is;
    - a flax.linen module, called with images ``[B, H, W, D]``;
    - a flax.nnx module, called the same way; the function takes ``rngs``, from which the weights are drawn;
    - an equinox module, called with one image, channels first, ``[D, H, W]``; the function takes ``key``.

    The function also gets ``switch_width`` and ``convolution`` if it has arguments of these names; otherwise they have
    no effect on it. Modules in the current directory are found.

    Args:
      name: one of ``NETWORKS``, or an import path.
      image_shape: (H, W, D) of the images it will see.
      classes: C, the number of logits.
      switch_width: smooths the second derivative of ReLU and max-pooling (see
        :func:`dd_jax.networks.surrogates.surrogates`); the network itself is the same.
      convolution: how convolutions are computed, one of ``dd_jax.networks.convolution.METHODS``; what suits the backend
        if not given.
      options: further arguments of the function, such as ``{"width": 32}``; for a network of ours also as text.

    Raises:
      ValueError: an unknown name, a path or an option that is not accepted, a function that returns something else or
        a network of other logits than ``[B, C]``, a network with state or random numbers in its forward pass, an image
        size that the network does not take, an unknown convolution, fewer than two classes, or a negative width.
    """
    if convolution is not None and convolution not in METHODS:
        raise ValueError(f"convolution: {convolution!r} is unknown; use one of {', '.join(METHODS)}")
    if classes < 2:
        raise ValueError(f"classes: {classes} is too few; use at least 2")
    surrogates(switch_width)  # refuses what is no width
    make = NETWORKS[name] if name in NETWORKS else _imported(name)
    arguments = _checked_options(name, make, options)
    parameters = inspect.signature(make).parameters
    given = {"switch_width": switch_width, "convolution": convolution}
    arguments |= {argument: value for argument, value in given.items() if argument in parameters}
    with _failures_described(name, image_shape):
        network = _network(
            name, lambda **drawn: make(image_shape, classes, **arguments, **drawn), parameters, image_shape
        )
        weights = jax.eval_shape(network.init, jax.random.key(0))
        check_network(network.apply, weights, image_shape, classes, name)
    return network


def describe_network(
    name: str, image_shape: ImageShape, classes: int, options: Mapping[str, Any] = {}
) -> list[Layer] | None:
    """The layers of a network of ours as data (see :mod:`dd_jax.networks.description`); None for anyone else's.

    Args:
      name, image_shape, classes, options: as :func:`make_network`'s, of a network that it makes.

    >>> [layer["kind"] for layer in describe_network("mlp", (8, 8, 1), 10, {"hidden": "16"}) or []]
    ['flatten', 'dense', 'relu', 'dense']
    """
    if name not in NETWORKS:
        return None
    return _DESCRIPTIONS[name](image_shape, classes, **_checked_options(name, NETWORKS[name], options))


def _imported(name: str) -> Callable[..., Any]:
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise ValueError(f"network: {name!r} is unknown; use one of {', '.join(NETWORKS)}, or {FORM}")
    found = imported("network", name)
    try:
        inspect.signature(found)
    except (TypeError, ValueError) as error:  # such as a class that is written in C
        raise ValueError(f"network: {name!r} is no function, but {type(found).__name__}; use {FORM}") from error
    return found


def _accepted(make: Callable[..., Any]) -> tuple[list[str], bool]:
    """The names of a function's options, and whether it takes any others too."""
    parameters = list(inspect.signature(make).parameters.values())
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    first_two = [p for p in named if p.kind == p.POSITIONAL_OR_KEYWORD][:2]  # image_shape and classes
    accepted = [p.name for p in named if p not in first_two and p.name not in _OURS]
    return accepted, any(p.kind == p.VAR_KEYWORD for p in parameters)


def _checked_options(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, once the function takes all of them; of a network of ours, as the types that it declares."""
    accepted, open_ended = _accepted(make)
    unknown = [option for option in options if option in _OURS or not (open_ended or option in accepted)]
    if unknown:
        takes = f"it takes {', '.join(accepted)}" if accepted else "it takes none"
        raise ValueError(f"network: {name} takes no option {unknown[0]!r}; {takes}")
    if name not in NETWORKS:
        return dict(options)
    kinds = typing.get_type_hints(make)
    values = {}
    for option, value in options.items():
        try:
            values[option] = converted(value, kinds[option])
        except ValueError as error:
            raise ValueError(f"network: {name} with {option}={value!r} is not accepted; {error}") from error
    return values


@contextlib.contextmanager
def _failures_described(name: str, image_shape: ImageShape) -> Iterator[None]:
    """Whatever goes wrong in a function of anyone's becomes one line; what we say of a network stays as it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("network:"):
            raise
        size = "×".join(map(str, image_shape))
        raise ValueError(
            f"network: {name} is not accepted for images of {size} (H×W×D): it fails with {first_line(error)}; "
            f"it is called as make(image_shape, classes, **options) and returns {_KINDS}"
        ) from error


def _network(name: str, make: Callable[..., Any], parameters: Mapping[str, Any], image_shape: ImageShape) -> Network:
    """What the function returns, as a pair."""
    example = {"rngs": nnx.Rngs(0), "key": jax.random.key(0)}
    made = make(**{argument: value for argument, value in example.items() if argument in parameters})
    if isinstance(made, nn.Module):
        return from_flax(made, image_shape)
    for kind, argument, is_one in (("nnx", "rngs", isinstance(made, nnx.Module)), ("equinox", "key", is_equinox(made))):
        if is_one and argument not in parameters:
            raise ValueError(
                f"network: {name} makes a module of {kind} without the argument {argument!r}, from which its weights "
                f"are drawn; use make(image_shape, classes, *, {argument})"
            )
    if isinstance(made, nnx.Module):
        return from_nnx(lambda rngs: make(rngs=rngs), image_shape)
    if is_equinox(made):
        return from_equinox(lambda key: make(key=key))
    if isinstance(made, tuple) and len(made) == 2 and all(map(callable, made)):
        return Network(*made)
    raise ValueError(f"network: {name} returns {type(made).__name__}, which is not accepted; return {_KINDS}")
