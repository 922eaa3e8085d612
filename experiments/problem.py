"""What settings name, assembled: the data, the network and p(θ₀)."""

import json
from typing import NamedTuple

from dd_jax.base import Network
from dd_jax.checks import require
from dd_jax.data.dataset import Dataset, make_dataset
from dd_jax.data.readers import RawData, content_fingerprint, read
from dd_jax.networks import make_network, parse_options
from dd_jax.weights.bank import fingerprint

from .nets import Nets, _banks, _check_weights, nets_of
from .say import say
from .settings import Images, Setting


class Problem(NamedTuple):
    """What settings name, assembled."""

    dataset: Dataset
    network: Network
    nets: Nets
    identity: dict[str, str]  # see :func:`identity`


def read_images(dataset: str, images: Images) -> RawData:
    """Reads labelled images and brings them to their form."""
    say(f"reading {dataset}")
    return read(dataset, images.size, images.channels)


def assemble(setting: Setting, switch_width: float = 0.0) -> Problem:
    """Reads the data, and draws or loads the networks.

    Raises:
      ValueError: settings or data that cannot be used.
    """
    _check_setting(setting)
    raw = read_images(setting.dataset, setting.images)
    data = content_fingerprint(raw)
    _check_split(setting, data)
    fraction, zca = setting.validation_fraction, setting.images.zca
    dataset = make_dataset(raw, validation_fraction=fraction, seed=setting.seed, zca=zca)
    classes = len(dataset.class_names)
    network = network_of(setting, dataset.image_shape, classes, switch_width)
    nets = nets_of(setting.weights, network, dataset.image_shape, setting.seed)
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
    _check_weights(setting.weights)


def identity(setting: Setting) -> dict[str, str]:
    """What tells the data of a setting, and its bank if it has one, by their content: :func:`assemble` in brief."""
    _check_setting(setting)
    raw = read_images(setting.dataset, setting.images)
    bank, shape = "", raw.images.shape
    if setting.weights.bank is not None:
        network = network_of(setting, (shape[1], shape[2], shape[3]), len(raw.class_names))
        bank = fingerprint(*_banks(setting.weights, network, (shape[1], shape[2], shape[3])))
    return _identity(content_fingerprint(raw), bank)


def _identity(data: str, bank: str) -> dict[str, str]:
    return {"data": data, **({"bank": bank} if bank else {})}


def _check_split(setting: Setting, data: str) -> None:
    """Refuses a bank whose networks saw whitened images where these are not, or what is held out for validation."""
    config = None if setting.weights.bank is None else setting.weights.bank / "config.json"
    if config is None or not config.is_file():  # where it is not a bank at all, loading it says so
        return
    held = json.loads(config.read_text())
    here, there = setting.images.zca, held.get("images", {}).get("zca")
    require(here == there, "images.zca", here, f"{there}, as the networks of {setting.weights.bank} were trained")
    if held.get("dataset") != setting.dataset and held.get("data") != data:
        return
    for name in ("seed", "validation_fraction"):
        here, there = getattr(setting, name), held.get(name)
        accepted = f"{there}, as {setting.weights.bank} has: its networks have seen what another split holds out"
        require(here == there, name, here, accepted)
