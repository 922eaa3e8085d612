"""Weights of public PyTorch checkpoints, for those networks of ours that are published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dd_jax.base import Network, Params
from dd_jax.files.atomic import first_line


class Published(NamedTuple):
    """How a PyTorch network's layers are called here."""

    layers: Mapping[str, str]  # there -> here
    flattened: str  # the layer, as here, that takes the pixels: channels first there, and last here
    side: int  # height and width of these pixels


PUBLISHED: dict[str, Published] = {
    "alexnet": Published(  # torchvision.models.alexnet
        {f"features.{there}": f"Conv_{here}" for here, there in enumerate((0, 3, 6, 8, 10))}
        | {f"classifier.{there}": f"Dense_{here}" for here, there in enumerate((1, 4, 6))},
        flattened="Dense_0",
        side=6,
    ),
}
"""The networks whose checkpoints are known, by their names in ``dd_jax.networks.NETWORKS``."""


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, as float32. Nothing in the file is executed.

    Args:
      path: a ``.safetensors`` file, for which the package safetensors is needed; any other is read by PyTorch's
        ``torch.load(weights_only=True)``, and holds a state dict, by itself or as ``state_dict``.

    Raises:
      ValueError: no such file, a package that is missing, or a file that is no checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint: {path} is no file; use a .safetensors or .pth file")
    read, package = (_safetensors, "safetensors") if path.suffix == ".safetensors" else (_torch, "torch")
    try:
        return read(path)
    except ImportError as error:
        raise ValueError(f"checkpoint: {path} cannot be read without {package}; pip install {package}") from error
    except Exception as error:  # both packages raise many kinds
        raise ValueError(f"checkpoint: {path} is no checkpoint that can be read ({first_line(error)})") from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]  optional

    return {name: np.asarray(array, np.float32) for name, array in load_file(path).items()}


def _torch(path: Path) -> dict[str, np.ndarray]:
    import torch  # pyright: ignore[reportMissingImports]  optional

    held = torch.load(path, map_location="cpu", weights_only=True)
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not (isinstance(held, dict) and held and all(isinstance(tensor, torch.Tensor) for tensor in held.values())):
        raise ValueError(f"it holds {type(held).__name__}, not tensors by name")
    return {name: tensor.detach().to(torch.float32).numpy() for name, tensor in held.items()}


def from_pytorch(name: str, network: Network, tensors: Mapping[str, np.ndarray]) -> Params:
    """The weights of a network of ours, from those of the same network in PyTorch.

    Args:
      name: of the network, one of ``PUBLISHED``.
      network: the pair that they are for.
      tensors: PyTorch's, by name: ``weight`` ``[O, I, K, L]`` or ``[O, I]``, and ``bias`` ``[O]`` of every layer.

    Returns:
      Weights of numpy arrays, as ``network.init`` has them.

    Raises:
      ValueError: an unknown network; tensors that are missing, too many, of other shapes or not finite, all named.
    """
    if name not in PUBLISHED:
        raise ValueError(f"network: {name!r} has no public checkpoint that is known; use one of {', '.join(PUBLISHED)}")
    published, like = PUBLISHED[name], jax.eval_shape(network.init, jax.random.key(0))["params"]
    wanted = {}
    for there, here in published.layers.items():
        *window, inputs, outputs = like[here]["kernel"].shape
        wanted |= {f"{there}.weight": (outputs, inputs, *window), f"{there}.bias": (outputs,)}
    _check(name, wanted, tensors)

    def kernel(there: str, here: str) -> np.ndarray:
        weight = tensors[f"{there}.weight"]
        if here == published.flattened:  # [O, D·H·W] -> [O, H·W·D]
            pixels = weight.reshape(len(weight), -1, published.side, published.side)
            weight = np.moveaxis(pixels, 1, -1).reshape(weight.shape)
        return np.ascontiguousarray(np.moveaxis(weight, (0, 1), (-1, -2)))

    layers = {
        here: {"kernel": kernel(there, here), "bias": tensors[f"{there}.bias"]}
        for there, here in published.layers.items()
    }
    return {"params": layers}


def _check(name: str, wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any]) -> None:
    """Refuses tensors that are not those of a network, naming all of them."""
    missing = [tensor for tensor in wanted if tensor not in tensors]
    extra = [tensor for tensor in tensors if tensor not in wanted]
    both = [tensor for tensor in wanted if tensor in tensors]
    shapes = [
        f"{tensor} is {tuple(tensors[tensor].shape)}, not {wanted[tensor]}"
        for tensor in both
        if tensors[tensor].shape != wanted[tensor]
    ]
    infinite = [tensor for tensor in both if not np.isfinite(tensors[tensor]).all()]
    faults = [
        f"{what} {', '.join(found)}"
        for what, found in (
            ("missing", missing),
            ("unknown", extra),
            ("of another shape", shapes),
            ("not finite", infinite),
        )
        if found
    ]
    if faults:
        raise ValueError(f"checkpoint: it does not fit {name}: {'; '.join(faults)}")
