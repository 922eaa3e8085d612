"""Readers of labelled images: scikit-learn's digits, TFDS sets, IDX folders, ``.npz`` files, folders by class.

Each returns :class:`RawData`, checked: every error is a ``ValueError`` that names the source and what is accepted.
"""

import gzip
import hashlib
import importlib.util
import io
import itertools
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from dd_jax.storage import write_atomically

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_IDX_FILES = {
    "images": "train-images-idx3-ubyte",
    "labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


class RawData(NamedTuple):
    """Labelled images as read. A source without a test split has none here."""

    images: np.ndarray  # [N, H, W, D] uint8
    labels: np.ndarray  # [N] int32 in [0, C)
    test_images: np.ndarray | None
    test_labels: np.ndarray | None
    class_names: tuple[str, ...]  # C of them


def read(source: str) -> RawData:
    """Reads labelled images by name or path.

    Args:
      source: ``digits``; the name of a TFDS set (``mnist``, ``usps``, …); or a path, with a ``/`` in it or ending
        in ``.npz``: an ``.npz`` file, a folder of IDX files, or a folder with a folder of images for each class.

    Raises:
      ValueError: nothing there, or it cannot be used; the message says why and what would do.
    """
    if source == "digits":
        return read_digits()
    path = Path(source).expanduser()
    if source.endswith(".npz"):
        return read_npz(path)
    if path.is_dir() and ("/" in source or source.startswith((".", "~"))):
        is_idx = any(_find(path, name) for name in _IDX_FILES.values())
        return read_idx(path) if is_idx else read_folder(path)
    if source.startswith(("/", ".", "~")):
        raise ValueError(f"dataset: {source} is no folder; use a TFDS name, an .npz file or an existing folder")
    return read_tfds(source)


def read_digits() -> RawData:
    """scikit-learn's digits: 1,797 grey images of 8×8, resized to 28×28; every fifth of each class is for testing."""
    from sklearn.datasets import load_digits  # here: slow to import, and only this reader wants it

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    raw = _checked("digits", resize(images, 28), digits.target, class_names=digits.target_names)
    rank = np.zeros(len(raw.labels), int)  # of an example among those of its class
    for label in range(10):
        members = np.flatnonzero(raw.labels == label)
        rank[members] = np.arange(len(members))
    test = rank % 5 == 4
    return RawData(raw.images[~test], raw.labels[~test], raw.images[test], raw.labels[test], raw.class_names)


def read_tfds(name: str) -> RawData:
    """A TFDS image-classification set (splits ``train`` and ``test``), read from array_record without TensorFlow.

    TFDS looks in ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``; a set that is missing there is downloaded and
    prepared first, for which all but ``usps`` (:mod:`dd_jax.usps`) need TensorFlow. The decoded arrays are kept in
    ``$XDG_CACHE_HOME/dd_jax`` (``~/.cache/dd_jax``), since decoding takes a minute and reading them back does not.

    Raises:
      ValueError: an unknown name, a set that is not prepared and cannot be, or one without images and labels.
    """
    import tensorflow_datasets as tfds  # here: slow to import, and only this reader wants it

    import dd_jax.usps  # noqa: F401, registers it with TFDS

    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    needs_tensorflow = name != "usps"
    prepare = f"by reading it where its source can be downloaded (to {folder}/downloads; delete it there if damaged)"
    if needs_tensorflow:
        prepare = f"with pip install 'dd-jax[prepare]' and tfds build {name} --file_format=array_record"
    advice = (
        f"put a prepared copy (array_record) into {folder}/{name}, or prepare it once {prepare}; or use digits, an "
        ".npz file, a folder of IDX files or a folder of images by class"
    )
    try:
        builder: Any = tfds.builder(name, data_dir=folder)
    except Exception as error:  # TFDS raises its own kinds for each way a name can be wrong
        raise ValueError(f"dataset: {name!r} is neither a TFDS set nor a path ({_line(error)}); {advice}") from error
    if not builder.data_path.exists():
        if needs_tensorflow and importlib.util.find_spec("tensorflow") is None:
            raise ValueError(f"dataset: TFDS set {name!r} is not in {folder}, and TensorFlow is missing; {advice}")
        try:
            builder = tfds.builder(name, data_dir=folder, file_format="array_record")
            builder.download_and_prepare()
        except Exception as error:  # network, disk, checksum, manual downloads: as many kinds as sets
            raise ValueError(f"dataset: TFDS set {name!r} cannot be prepared ({_line(error)}); {advice}") from error
    features, splits = builder.info.features, builder.info.splits
    if features is None or not {"image", "label"} <= set(features):
        raise ValueError(f"dataset: TFDS set {name!r} has no features 'image' and 'label'; {advice}")
    if "train" not in splits:
        raise ValueError(f"dataset: TFDS set {name!r} has no split 'train', only {', '.join(splits)}; {advice}")
    cache = _cache_path(builder)
    if not cache.is_file():
        try:
            columns = [_decode(s, builder.as_data_source(s)) for s in ("train", "test") if s in splits]
        except Exception as error:  # a damaged record, another file format, images of several sizes
            raise ValueError(f"dataset: TFDS set {name!r} cannot be read ({_line(error)}); {advice}") from error
        cache.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **dict(itertools.chain.from_iterable(columns)))
        write_atomically(cache, buffer.getvalue())
    with np.load(cache, allow_pickle=False) as arrays:
        train, test = ((arrays.get(f"{s}_images"), arrays.get(f"{s}_labels")) for s in ("train", "test"))
    return _checked(name, *train, *test, class_names=getattr(features["label"], "names", None))


def _decode(split: str, source) -> list[tuple[str, Any]]:
    images, labels = zip(*((example["image"], example["label"]) for example in source), strict=True)
    return [(f"{split}_images", np.stack(images)), (f"{split}_labels", np.array(labels))]


def _cache_path(builder) -> Path:
    """A file named for the set and for the size and time of each of its files: another copy gets another cache."""
    root = Path(builder.data_path)
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(root.iterdir()) if f.is_file()]
    digest = hashlib.sha256(repr((str(root), stamps)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dd_jax"
    return cache / f"{builder.info.full_name.replace('/', '-')}-{digest}.npz"


def read_idx(folder: Path) -> RawData:
    """A folder of IDX files in MNIST's names, gzipped or not; the t10k pair is optional."""
    arrays = {}
    for field, name in _IDX_FILES.items():
        path = _find(folder, name)
        arrays[field] = None if path is None else _read_idx_file(path)
    for field in ("images", "labels"):
        if arrays[field] is None:
            raise ValueError(f"dataset: {folder} has no {_IDX_FILES[field]}[.gz]")
    return _checked(str(folder), **arrays)


def read_npz(path: Path) -> RawData:
    """An ``.npz`` file with ``images`` and ``labels`` (and optionally ``test_images``, ``test_labels``,
    ``class_names``). Images are ``[N, H, W]`` or ``[N, H, W, D]``, uint8, or floats in [0, 1].
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ValueError(f"dataset: {path} does not exist") from error
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise ValueError(f"dataset: {path} is no readable .npz file ({_line(error)})") from error
    for field in ("images", "labels"):
        if field not in fields:
            raise ValueError(f"dataset: {path} has no array {field!r}, only {sorted(fields)}")
    wanted = ("images", "labels", "test_images", "test_labels", "class_names")
    return _checked(str(path), **{field: fields.get(field) for field in wanted})


def read_folder(folder: Path) -> RawData:
    """A folder that holds one folder of images per class, or ``train`` and ``test`` folders that do."""
    if (folder / "train").is_dir():
        train, names = _read_classes(folder / "train")
        test, test_names = _read_classes(folder / "test") if (folder / "test").is_dir() else ((None, None), names)
        if test_names != names:
            raise ValueError(f"dataset: {folder}/test has the classes {test_names}, {folder}/train has {names}")
    else:
        (train, names), test = _read_classes(folder), (None, None)
    return _checked(str(folder), *train, *test, class_names=names)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Bicubic resizing of uint8 images ``[N, H, W, D]`` to ``[N, size, size, D]``."""
    channels = [
        [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)) for plane in image]
        for image in np.moveaxis(images, -1, 1)
    ]
    return np.moveaxis(np.array(channels, np.uint8), 1, -1)


def _find(folder: Path, name: str) -> Path | None:
    # MNIST's original files spell the last dot of "images.idx3" as a dash; both are met in the wild.
    spellings = (name, name.replace("-idx", ".idx"))
    found = [folder / (s + end) for s in spellings for end in ("", ".gz") if (folder / (s + end)).is_file()]
    return found[0] if found else None


def _read_idx_file(path: Path) -> np.ndarray:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"dataset: {path} cannot be read ({_line(error)})") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        start = content[:4].hex() or "nothing"
        raise ValueError(f"dataset: {path} is no IDX file of unsigned bytes: it begins with {start}")
    axes = content[3]
    header = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:header]) if len(content) >= header else ()
    if len(content) < header or len(content) - header != int(np.prod(shape)):
        raise ValueError(f"dataset: {path} is truncated or too long: {len(content)} bytes for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_classes(folder: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    names = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != "."))
    if len(names) < 2:
        raise ValueError(f"dataset: {folder} holds {len(names)} class folders; use one folder of images per class")
    images, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            try:
                with Image.open(path) as image:
                    grey = image.mode in ("1", "L", "I", "I;16", "F")
                    images.append(np.atleast_3d(np.asarray(image.convert("L" if grey else "RGB"))))
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(f"dataset: {path} cannot be read as an image ({_line(error)})") from error
            labels.append(label)
            if images[-1].shape != images[0].shape:
                raise ValueError(f"dataset: {path} has the shape {images[-1].shape}, others have {images[0].shape}")
    if not images:
        raise ValueError(f"dataset: {folder} holds no images; accepted are {', '.join(IMAGE_SUFFIXES)}")
    return (np.stack(images), np.array(labels)), names


def _checked(source, images, labels, test_images=None, test_labels=None, class_names=None) -> RawData:
    """Brings arrays into :class:`RawData`'s form, or says what is wrong with them."""
    images = _checked_images(source, "images", images)
    labels = _checked_labels(source, "labels", labels, len(images))
    names = tuple(str(name) for name in (range(labels.max() + 1) if class_names is None else class_names))
    if labels.max() >= len(names):
        raise ValueError(f"dataset: {source} has a label {labels.max()}; accepted are 0 to {len(names) - 1}")
    missing = sorted(set(range(len(names))) - set(labels.tolist()))
    if missing or len(names) < 2:
        what = f"no training example of class {missing[0]}" if missing else "only one class"
        raise ValueError(f"dataset: {source} has {what}; every label from 0 to the highest needs at least one")
    if (test_images is None) != (test_labels is None):
        raise ValueError(f"dataset: {source} has test images or test labels without the other")
    if test_images is not None:
        test_images = _checked_images(source, "test_images", test_images)
        test_labels = _checked_labels(source, "test_labels", test_labels, len(test_images))
        if test_images.shape[1:] != images.shape[1:]:
            raise ValueError(f"dataset: {source} has test images of {test_images.shape[1:]}, not {images.shape[1:]}")
        if test_labels.max() >= len(names):
            raise ValueError(f"dataset: {source} has a test label {test_labels.max()}, beyond the {len(names)} classes")
    return RawData(images, labels, test_images, test_labels, names)


def _checked_images(source, field, images) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.size == 0 or images.shape[-1] not in (1, 3):
        raise ValueError(f"dataset: {source} has {field} of shape {images.shape}; use [N, H, W] or [N, H, W, 1 or 3]")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"dataset: {source} has {field} of type {images.dtype}; use uint8, or floats in [0, 1]")
    if not np.isfinite(images).all():
        raise ValueError(f"dataset: {source} has {np.sum(~np.isfinite(images))} NaN or infinite pixels in {field}")
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"dataset: {source} has {field} in [{images.min()}, {images.max()}]; floats must be in [0, 1]")
    return np.round(images * 255).astype(np.uint8)


def _checked_labels(source, field, labels, count) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"dataset: {source} has {field} of shape {labels.shape} and type {labels.dtype}; use {count} integers"
        )
    if labels.min() < 0:
        raise ValueError(f"dataset: {source} has a label {labels.min()} in {field}; labels start at 0")
    return labels.astype(np.int32)


def _line(error: BaseException) -> str:
    """The first line of an error's text, short enough for one line of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
