"""What settings name, assembled: the data, the network and p(θ₀)."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dd_jax.base import Network
from dd_jax.checks import require, within
from dd_jax.data.dataset import Dataset, make_dataset
from dd_jax.data.readers import Chosen, RawData, content_fingerprint, of_classes, read
from dd_jax.networks import make_network, parse_options
from dd_jax.weights.bank import fingerprint

from .nets import Nets, banks_of, check_weights, nets_of, with_head_layers
from .say import say
from .settings import Images, Setting

if TYPE_CHECKING:
    from dd_jax.data.streamed.originals import Originals

log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """What settings name, assembled."""

    dataset: Dataset
    network: Network
    nets: Nets
    identity: dict[str, str]  # see :func:`identity`
    originals: "Originals | None" = None  # of the training split, where its images are streamed


def read_images(dataset: str, images: Images) -> RawData:
    """Reads labelled images, brings them to their form, and keeps the classes asked for."""
    say(f"reading {dataset}")
    raw = read(dataset, images.size, images.channels, chosen=_chosen(images))
    if not images.classes:
        return raw
    with within("images"):
        return of_classes(raw, images.classes)


def _chosen(images: Images) -> Chosen:
    return Chosen(images.train_split, images.test_split)


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


class Data(NamedTuple):
    """The real images that settings name."""

    dataset: Dataset
    content: str  # a text that tells them by their content
    originals: "Originals | None"  # of the training split, where the images are streamed


def data_of(setting: OfImages) -> Data:
    """Reads the images and splits them; on the device, or mapped into memory where they are streamed.

    Raises:
      ValueError: settings or data that cannot be used.
    """
    images, fraction, seed = setting.images, setting.validation_fraction, setting.seed
    if not images.streamed:
        require(images.skip == 0, "images.skip", images.skip, "0 without images.streamed")
        raw = read_images(setting.dataset, images)
        dataset = make_dataset(raw, validation_fraction=fraction, seed=seed, zca=images.zca)
        return Data(dataset, content_fingerprint(raw), None)
    from dd_jax.data.streamed.dataset import streamed_dataset  # here: the other experiments do without
    from dd_jax.data.streamed.originals import of_classes as of_some
    from dd_jax.data.streamed.originals import open_source

    require(images.size is not None, "images.size", None, "a number of pixels, such as 224, with images.streamed")
    require(images.channels in (None, 3), "images.channels", images.channels, "3 with images.streamed")
    require(images.zca is None, "images.zca", images.zca, "it without images.streamed")
    require(images.skip >= 0, "images.skip", images.skip, "0 or more")
    say(f"opening {setting.dataset}; its pictures are resized once")
    source = open_source(setting.dataset, _chosen(images))
    if images.classes:
        with within("images"):
            source = of_some(source, images.classes)
    split = {"validation_fraction": fraction, "seed": seed, "skip": images.skip}
    streamed = streamed_dataset(source, images.size or 0, **split)
    return Data(streamed.dataset, streamed.content, streamed.originals)


def assemble(setting: Setting, switch_width: float = 0.0) -> Problem:
    """Reads the data, and draws or loads the networks.

    Raises:
      ValueError: settings or data that cannot be used.
    """
    _check_setting(setting)
    dataset, data, originals = data_of(setting)
    check_split(setting.weights.bank, setting, data)
    classes = len(dataset.class_names)
    network = network_of(setting, dataset.image_shape, classes, switch_width)
    weights = with_head_layers(setting.weights, lambda c: network_of(setting, dataset.image_shape, c), classes)
    nets = nets_of(weights, network, dataset.image_shape, setting.seed)
    return Problem(dataset, network, nets, _identity(data, nets.fingerprint), originals)


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
    shape, classes, data = _content(setting)
    bank = ""
    if setting.weights.bank is not None:
        weights = with_head_layers(setting.weights, lambda c: network_of(setting, shape, c), classes)
        bank = fingerprint(*banks_of(weights, network_of(setting, shape, classes), shape, setting.seed))
    return _identity(data, bank)


def _content(setting: Setting) -> tuple[tuple[int, int, int], int, str]:
    """The shape of an image, the number of classes, and the text that tells the content; nothing on the device."""
    if setting.images.streamed:
        dataset, data, _ = data_of(setting)
        return dataset.image_shape, len(dataset.class_names), data
    raw = read_images(setting.dataset, setting.images)
    _, height, width, depth = raw.images.shape
    return (height, width, depth), len(raw.class_names), content_fingerprint(raw)


def _identity(data: str, bank: str) -> dict[str, str]:
    return {"data": data, **({"bank": bank} if bank else {})}


_SPLITS = ("train_split", "test_split")


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
    images = held.get("images", {})
    compared = [(f"images.{name}", getattr(setting.images, name), images.get(name)) for name in _SPLITS]
    compared += [(name, getattr(setting, name), held.get(name)) for name in ("seed", "validation_fraction")]
    for name, here, there in compared:
        accepted = f"{there}, as {bank} has: its networks have seen what another split holds out"
        require(here == there, name, here, accepted)
