"""Settings that the experiments share, and how files hold them."""

import dataclasses
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dd_jax.data.readers import is_path

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
"""JAX's names for what matrix products and convolutions of float32 numbers are computed in. None changes a CPU's."""
PRECISIONS: tuple[Precision, ...] = typing.get_args(Precision)


@dataclasses.dataclass(frozen=True)
class Images:
    """The form that real images are brought to."""

    size: int | None = None
    """Resize to this many pixels squared; as they are if not given."""
    channels: int | None = None
    """1 for grey or 3 for colour; as they are if not given."""
    zca: float | None = None
    """ZCA-whiten them with this regularisation, 0.1 in most work; not whitened if not given."""
    classes: tuple[int, ...] = ()
    """Only the images of these classes, by number, which are then 0, 1, … in this order; of all if not given."""
    train_split: str | None = None
    """The split for training, by the data set's own name; of a TFDS set also a part, such as train[:80%]. The split
    called train or training if not given."""
    test_split: str | None = None
    """The split for testing, likewise. The one called test or testing if not given, or for want of it validation, or a
    share that is held out."""
    streamed: bool = False
    """Keep the images on the host, and make each real batch there of random crops of the pictures, resized to ``size``
    and mirrored at random: for pictures by folder, or TFDS sets, that do not fit the device."""
    skip: int = 0
    """Streamed pictures that may be left out because they cannot be decoded; more are an error."""


def images_of(held: Mapping[str, Any]) -> Images:
    """The setting, as a file holds it."""
    return Images(**{**held, "classes": tuple(held.get("classes", ()))})


@dataclasses.dataclass(frozen=True)
class Weights:
    """p(θ₀), the distribution of initial weights."""

    law: str = "xavier_normal"
    """One of dd_jax.weights.laws.LAWS."""
    gain: float = 1.0
    """Scale of the law."""
    bank: Path | None = None
    """Draw from a bank of trained networks, the work folder of experiments.pretrain, in place of the law."""
    bank_size: int | None = None
    """Height and width of the images that the bank was trained on, where those here are of another size. The network
    must have the same weights for both, as LeNet has for 28 and 32 pixels."""
    head: Literal["loaded", "zeros", "drawn"] = "loaded"
    """The last layer of a bank's networks. loaded: the bank's own; zeros: a new one of zeros with biases of one, as the
    paper's for ImageNet's networks; drawn: a new one by the law and gain."""
    head_layers: tuple[str, ...] = ()
    """The weights that are new with it, as patterns of their names, such as params/Dense_2/*; if not given, those whose
    shape depends on the number of classes."""
    nets: int | None = None
    """Networks drawn anew for each outer step, N; if not given, the networks are known from the start."""
    known: int = 1
    """Known networks: drawn once, or the first of the bank. Each outer step follows the mean over them."""
    jitter: float = 0.0
    """Noise on the weights of networks drawn from a bank, as a share of each layer's standard deviation."""
    test_nets: int = 200
    """Networks held out for the test, where they are random."""
    validation_nets: int = 10
    """Networks held out for validation, where they are random."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """How an outer step is dealt out over the devices there are. It does not change the result but for rounding."""

    nets: int | None = None
    """Devices that share the networks of a step; as many as divide them if not given."""
    batch: int | None = None
    """Devices that share the real examples, or the perturbations, for each share of networks; what the others leave and
    divides them if not given."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the experiments share: the real data, the network and its initial weights."""

    dataset: str = "digits"
    """digits; a TFDS name; a path: an .npz file, a folder of IDX files, or a folder of images by class; or the import
    path of a function that reads them, package.module:function."""
    network: str = "lenet"
    """One of dd_jax.networks.NETWORKS, or an import path of a function that makes one, package.module:function."""
    network_options: tuple[str, ...] = ()
    """Options of the network, name=value, such as width=32."""
    images: Images = dataclasses.field(default_factory=Images)
    weights: Weights = dataclasses.field(default_factory=Weights)
    validation_fraction: float = 1 / 12
    """Share of the training split held out of it for choosing settings."""
    seed: int = 0
    """Draws whatever is random, and the validation split."""
    precision: Precision = "float32"
    """What products are computed in. The others are faster on a GPU or TPU, and their meta-gradient is another one."""


def jsonable(config: Any, folder: Path = Path()) -> dict[str, Any]:
    """A dataclass as a JSON file in ``folder`` holds it, its paths from there on: see :func:`path_from`."""
    content = json.loads(json.dumps(dataclasses.asdict(config), default=lambda path: path_from(folder, path)))
    return content | ({"dataset": dataset_from(folder, content["dataset"])} if "dataset" in content else {})


def path_from(folder: Path, path: Path | str) -> str:
    """A path as a file in ``folder`` holds it: relative to that folder, so that both may move together."""
    try:
        relative = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))  # a link's .. is elsewhere
    except ValueError:  # on another drive
        return str(Path(path).absolute())
    return relative if relative.startswith(".") else os.path.join(".", relative)


def dataset_from(folder: Path, dataset: str) -> str:
    """The name of a data set as a file in ``folder`` holds it: :func:`path_from` for a path."""
    return path_from(folder, Path(dataset).expanduser()) if is_path(dataset) else dataset
