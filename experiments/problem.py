"""What settings name, assembled: the data, the network and p(θ₀)."""

import json
import logging
from pathlib import Path
from typing import NamedTuple, Protocol

from dd_jax.base import Network
from dd_jax.checks import require, within
from dd_jax.data.dataset import Dataset, make_dataset
from dd_jax.data.readers import RawData, content_fingerprint, of_classes, read
from dd_jax.networks import make_network, parse_options
from dd_jax.weights.bank import fingerprint

from .nets import Nets, banks_of, check_weights, nets_of, with_head_layers
from .say import say
from .settings import Images, Setting

log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """What settings name, assembled."""

    dataset: Dataset
    network: Network
    nets: Nets
    identity: dict[str, str]  # see :func:`identity`


def read_images(dataset: str, images: Images) -> RawData:
    """Reads labelled images, brings them to their form, and keeps the classes asked for."""
    say(f"reading {dataset}")
    raw = read(dataset, images.size, images.channels)
    if not images.classes:
        return raw
    with within("images"):
        return of_classes(raw, images.classes)


def assemble(setting: Setting, switch_width: float = 0.0) -> Problem:
    """Reads the data, and draws or loads the networks.

    Raises:
      ValueError: settings or data that cannot be used.
    """
    _check_setting(setting)
    raw = read_images(setting.dataset, setting.images)
    data = content_fingerprint(raw)
    check_split(setting.weights.bank, setting, data)
    fraction, zca = setting.validation_fraction, setting.images.zca
    dataset = make_dataset(raw, validation_fraction=fraction, seed=setting.seed, zca=zca)
    classes = len(dataset.class_names)
    network = network_of(setting, dataset.image_shape, classes, switch_width)
    weights = with_head_layers(setting.weights, lambda c: network_of(setting, dataset.image_shape, c), classes)
    nets = nets_of(weights, network, dataset.image_shape, setting.seed)
    return Problem(dataset, network, nets, _identity(data, nets.fingerprint))


def network_of(setting: Setting, image_shape: tuple[int, int, int], classes: int, switch_width: float = 0.0) -> Network:
    """The network that the settings name.

    Raises:
      ValueError: see :func:`dd_jax.networks.make_network`.
    """
    options = parse_options(setting.network_options)
    return make_network(setting.network, image_shape, classes, switch_width=switch_width, options=options)


def _check_setting(setting: Setting) -> None:
    """Refuses what can be refused before reading data."""
    require(setting.seed >= 0, "seed", setting.seed, "0 or more")
    check_weights(setting.weights)


def identity(setting: Setting) -> dict[str, str]:
    """What tells the data of a setting, and its bank if it has one, by their content: :func:`assemble` in brief."""
    _check_setting(setting)
    raw = read_images(setting.dataset, setting.images)
    bank, classes = "", len(raw.class_names)
    _, height, width, depth = raw.images.shape
    shape = (height, width, depth)
    if setting.weights.bank is not None:
        weights = with_head_layers(setting.weights, lambda c: network_of(setting, shape, c), classes)
        bank = fingerprint(*banks_of(weights, network_of(setting, shape, classes), shape, setting.seed))
    return _identity(content_fingerprint(raw), bank)


def _identity(data: str, bank: str) -> dict[str, str]:
    return {"data": data, **({"bank": bank} if bank else {})}


class OfImages(Protocol):
    """What settings say of the real images and of the split that is held out of them."""

    @property
    def dataset(self) -> str: ...
    @property
    def images(self) -> Images: ...
    @property
    def seed(self) -> int: ...
    @property
    def validation_fraction(self) -> float: ...


def check_split(bank: Path | None, setting: OfImages, data: str) -> None:
    """Refuses a bank whose networks saw whitened images where these are not, or what is held out for validation.

    Args:
      bank: its folder, if there is one.
      setting: what is to be done with it.
      data: the fingerprint of the images.
    """
    config = None if bank is None else bank / "config.json"
    if config is None or not config.is_file():  # where it is not a bank at all, loading it says so
        return
    held = json.loads(config.read_text())
    here, there = setting.images.zca, held.get("images", {}).get("zca")
    require(here == there, "images.zca", here, f"{there}, as the networks of {bank} were trained")
    if held.get("dataset") != setting.dataset and held.get("data") != data:
        return
    known, classes = (tuple(images.get("classes", ())) for images in (held.get("images", {}), vars(setting.images)))
    if known != classes:  # then the splits differ
        if not (known and classes and set(known).isdisjoint(classes)):
            log.warning("weights.bank: the networks of %s have seen some of what is held out for validation here", bank)
        return
    for name in ("seed", "validation_fraction"):
        here, there = getattr(setting, name), held.get(name)
        accepted = f"{there}, as {bank} has: its networks have seen what another split holds out"
        require(here == there, name, here, accepted)
