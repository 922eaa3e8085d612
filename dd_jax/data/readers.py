"""Readers of labelled images: scikit-learn's digits, TFDS sets, IDX folders, ``.npz`` files, folders by class.

Each returns :class:`RawData`, checked: every error is a ``ValueError`` that names the source and what is accepted.
"""

import gzip
import hashlib
import importlib.util
import io
import itertools
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dd_jax.data.pictures import (
    IMAGE_SUFFIXES,
    ImagesDiffer,
    check_form,
    form_advice,
    formed,
    read_picture,
    resize,
    stack,
)
from dd_jax.files.storage import first_line, write_atomically

_IDX_FILES = {
    "images": "train-images-idx3-ubyte",
    "labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_ROLES = {name: role for role, names in _SPLIT_NAMES.items() for name in names}
_NO_CLASSES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")  # left by other systems


class RawData(NamedTuple):
    """Labelled images as read. A source without a test or validation split has none here."""

    images: np.ndarray  # [N, H, W, D] uint8
    labels: np.ndarray  # [N] int32 in [0, C)
    test_images: np.ndarray | None
    test_labels: np.ndarray | None
    class_names: tuple[str, ...]  # C of them
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None


def read(source: str, size: int | None = None, channels: int | None = None) -> RawData:
    """Reads labelled images by name or path.

    A source's splits keep their names: ``train``, ``validation`` (or ``valid``, ``val``, ``dev``) and ``test``. Where
    it has a validation split but no test split, that one is the test split, and validation is left to be held out of
    training (:func:`dd_jax.data.dataset.make_dataset`). Splits of other names are not read beside these; a source with
    ``train`` and only such others is refused.

    Args:
      source: ``digits``; the name of a TFDS set (``mnist``, ``usps``, …); or a path (see :func:`is_path`): an ``.npz``
        file, a folder of IDX files, or a folder with a folder of images for each class.
      size: height and width to bring each image to, as :func:`conform` does; None for images that are of one size.
      channels: 1 (grey) or 3 (colour), likewise; None for images that are all grey or all in colour.

    Raises:
      ValueError: nothing there, or it cannot be used; the message says why and what would do.
    """
    check_form(size, channels)
    return conform(_read(source, size, channels), size, channels)


def _read(source: str, size: int | None, channels: int | None) -> RawData:
    if source == "digits":
        return read_digits()
    if not is_path(source):
        return read_tfds(source, size, channels)
    path = Path(os.path.expanduser(source))
    if source.lower().endswith(".npz"):
        return read_npz(path)
    if not path.is_dir():
        slashes = "; write / in place of \\" if "\\" in source else ""
        advice = "use a TFDS name, an .npz file or an existing folder"
        raise ValueError(f"dataset: {source} is no folder{slashes}; {advice}")
    is_idx = any(_find(path, name) for name in _IDX_FILES.values())
    return read_idx(path) if is_idx else read_folder(path, size, channels)


def is_path(source: str) -> bool:
    r"""Whether :func:`read` takes a source for a path; if not, it is ``digits`` or a TFDS name.

    A path begins with ``/``, ``.`` or ``~``, ends in ``/`` or ``.npz``, or has a backslash in it; no TFDS name does.
    Another source with a ``/``, such as ``emnist/letters``, is a path where a file or folder of that name exists. Any
    other is a name, even where a folder has it too: the folder is ``./mnist``.

    >>> is_path("./mnist"), is_path("mnist"), is_path("my.npz")
    (True, False, True)
    """
    spelt = source.startswith(("/", ".", "~")) or source.lower().endswith(("/", ".npz")) or "\\" in source
    return spelt or ("/" in source and os.path.exists(source))


def conform(raw: RawData, size: int | None = None, channels: int | None = None) -> RawData:
    """Brings the images of all splits to ``[N, size, size, channels]``, so that one network takes several sources.

    Sizes change by bicubic resizing. Grey is repeated over three channels; colour becomes its luma, as in Pillow's "L".

    Args:
      raw: labelled images, ``[N, H, W, 1 or 3]``.
      size: height and width; None keeps both.
      channels: 1 (grey) or 3 (colour); None keeps them.

    Raises:
      ValueError: a size below 1, or another number of channels.
    """
    check_form(size, channels)
    fields = ("images", "test_images", "validation_images")
    held = {field: getattr(raw, field) for field in fields if getattr(raw, field) is not None}
    return raw._replace(**{field: formed(images, size, channels) for field, images in held.items()})


def content_fingerprint(raw: RawData) -> str:
    """Twelve hex digits that tell labelled images apart by content, wherever they were read from."""
    digest = hashlib.sha256()
    for field, value in raw._asdict().items():
        if isinstance(value, np.ndarray):
            digest.update(repr((field, value.dtype.str, value.shape)).encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update(repr((field, value)).encode())
    return digest.hexdigest()[:12]


def read_digits() -> RawData:
    """scikit-learn's digits: 1,797 grey images of 8×8, resized to 28×28; every fifth of each class is for testing."""
    from sklearn.datasets import load_digits  # here: slow to import, and only this reader wants it

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    raw = _checked("digits", {"train": (resize(images, 28), digits.target)}, digits.target_names)
    rank = np.zeros(len(raw.labels), int)  # of an example among those of its class
    for label in range(10):
        members = np.flatnonzero(raw.labels == label)
        rank[members] = np.arange(len(members))
    test = rank % 5 == 4
    return RawData(raw.images[~test], raw.labels[~test], raw.images[test], raw.labels[test], raw.class_names)


def read_tfds(name: str, size: int | None = None, channels: int | None = None) -> RawData:
    """A TFDS image-classification set, read from array_record without TensorFlow; its splits as in :func:`read`.

    TFDS looks in ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``; a set that is missing there is downloaded and
    prepared first, for which all but ``usps`` (:mod:`dd_jax.data.usps`) need TensorFlow. The decoded arrays are kept in
    ``$XDG_CACHE_HOME/dd_jax`` (``~/.cache/dd_jax``), since decoding takes a minute and reading them back does not.

    Args:
      name: of the set.
      size: where the set's images are of several sizes, the height and width they are brought to.
      channels: likewise, 1 (grey) or 3 (colour).

    Raises:
      ValueError: an unknown name, a set that is not prepared and cannot be, or one without images and labels.
    """
    builder, advice = _prepared(name)
    features, splits = builder.info.features, builder.info.splits
    if features is None or not {"image", "label"} <= set(features):
        raise ValueError(f"dataset: TFDS set {name!r} has no features 'image' and 'label'; {advice}")
    roles = _roles(f"TFDS set {name!r}", tuple(splits), "splits")
    # Images of one size are kept as they are, for whatever form they are brought to later.
    form = (size, channels) if None in (features["image"].shape or (None,)) else (None, None)
    cache = _cache_path(builder, roles, form)
    if not cache.is_file():
        try:
            columns = [_decode(role, builder.as_data_source(split), *form) for role, split in roles.items()]
        except ImagesDiffer as error:
            raise ValueError(f"dataset: TFDS set {name!r} is not of one form: {error}") from error
        except Exception as error:  # a damaged record, another file format
            raise ValueError(f"dataset: TFDS set {name!r} cannot be read ({first_line(error)}); {advice}") from error
        cache.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **dict(itertools.chain.from_iterable(columns)))
        write_atomically(cache, buffer.getvalue())
    with np.load(cache, allow_pickle=False) as arrays:
        held = {role: (arrays[f"{role}_images"], arrays[f"{role}_labels"]) for role in roles}
    return _checked(name, held, getattr(features["label"], "names", None))


def _prepared(name: str) -> tuple[Any, str]:
    """The builder of a TFDS set, prepared if it was not, and what to do where the set cannot be used."""
    import tensorflow_datasets as tfds  # here: slow to import, and only this reader wants it

    import dd_jax.data.usps  # noqa: F401, registers it with TFDS

    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    needs_tensorflow = name != "usps"
    prepare = f"by reading it where its source can be downloaded (to {folder}/downloads; delete it there if damaged)"
    if needs_tensorflow:
        build = f"tfds build {name} --file_format=array_record"
        prepare = f"with pip install -e '.[prepare]' in a checkout of dd_jax and {build}"
    here = f"give ./{name} for what is here under that name; or " if os.path.exists(name) else ""
    advice = (
        f"{here}put a prepared copy (array_record) into {folder}/{name}, or prepare it once {prepare}; or use "
        "digits, an .npz file, a folder of IDX files or a folder of images by class"
    )
    try:
        builder: Any = tfds.builder(name, data_dir=folder)
    except Exception as error:  # TFDS raises its own kinds for each way a name can be wrong
        raise ValueError(
            f"dataset: {name!r} is neither a TFDS set nor a path ({first_line(error)}); {advice}"
        ) from error
    if not builder.data_path.exists():
        if needs_tensorflow and importlib.util.find_spec("tensorflow") is None:
            raise ValueError(f"dataset: TFDS set {name!r} is not in {folder}, and TensorFlow is missing; {advice}")
        try:
            builder = tfds.builder(name, data_dir=folder, file_format="array_record")
            builder.download_and_prepare()
        except Exception as error:  # network, disk, checksum, manual downloads: as many kinds as sets
            raise ValueError(
                f"dataset: TFDS set {name!r} cannot be prepared ({first_line(error)}); {advice}"
            ) from error
    return builder, advice


def _decode(role: str, source, size: int | None, channels: int | None) -> list[tuple[str, Any]]:
    labels = []

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for i, example in enumerate(source):
            labels.append(example["label"])
            yield f"{role} image {i}", _checked_images("the set", "images", example["image"][None])[0]

    stacked = stack(images(), len(source), size, channels)
    return [(f"{role}_images", stacked), (f"{role}_labels", np.array(labels))]


def _cache_path(builder, *held: Any) -> Path:
    """A file named for the set, for the size and time of each of its files, and for what of it is held."""
    root = Path(builder.data_path)
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(root.iterdir()) if f.is_file()]
    digest = hashlib.sha256(repr((str(root), stamps, held)).encode()).hexdigest()[:12]
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
    test = {"test": (arrays["test_images"], arrays["test_labels"])}
    return _checked(str(folder), {"train": (arrays["images"], arrays["labels"])} | test)


def read_npz(path: Path) -> RawData:
    """An ``.npz`` file with ``images`` and ``labels``, and optionally the same of other splits and ``class_names``.

    The other splits are in fields like ``test_images`` and ``test_labels``, of the names in :func:`read`. Images are
    ``[N, H, W]`` or ``[N, H, W, D]``, uint8, or floats in [0, 1].
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ValueError(f"dataset: {path} does not exist") from error
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise ValueError(f"dataset: {path} is no readable .npz file ({first_line(error)})") from error
    for field in ("images", "labels"):
        if field not in fields:
            raise ValueError(f"dataset: {path} has no array {field!r}, only {sorted(fields)}")
    prefixes = [field.rpartition("_")[::2] for field in fields]
    others = {name for name, end in prefixes if end == "images" or (end == "labels" and name in _ROLES)} - {""}
    names = _roles(str(path), ("train", *sorted(others)), "arrays of the splits")
    held = {role: (fields.get(f"{name}_images"), fields.get(f"{name}_labels")) for role, name in names.items()}
    return _checked(str(path), held | {"train": (fields["images"], fields["labels"])}, fields.get("class_names"))


def read_folder(folder: Path, size: int | None = None, channels: int | None = None) -> RawData:
    """A folder that holds one folder of images per class, or ``train`` and other splits that do (see :func:`read`).

    Classes are numbered in the order of their names, in which ``10`` comes after ``9``. Images may be in folders within
    a class's; :func:`dd_jax.data.pictures.read_picture` says how each kind is read. Hidden files, files that are no
    pictures and files beside the class folders are skipped.

    Args:
      folder: its path.
      size: height and width to bring each image to; None for images that are of one size.
      channels: 1 (grey) or 3 (colour), likewise; None for images that are all grey or all in colour.

    Raises:
      ValueError: images of several sizes or channels, or one that cannot be read; a class without images; splits that
        have other classes or names.
    """
    try:
        splits = _split_folders(folder)
        names = tuple(child.name for child in _folders(splits["train"]))
        held = {role: _read_classes(path, names, size, channels) for role, path in splits.items()}
    except OSError as error:
        raise ValueError(f"dataset: {folder} cannot be read ({first_line(error)})") from error
    return _checked(str(folder), held, names)


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders of a folder's splits; itself where it has classes and no splits.

    A folder with a split's name and no folders in it is a class (``train`` beside ``bus``), if some other is a class.
    """
    children = {child.name: child for child in _folders(folder)}
    named = [name for name in children if name.lower() in _ROLES]
    if not named or (len(named) < len(children) and not any(_folders(children[name]) for name in named)):
        return {"train": folder}
    return {role: children[name] for role, name in _roles(str(folder), tuple(children), "folders").items()}


def _roles(source: str, names: Sequence[str], kind: str) -> dict[str, str]:
    """Which of a source's splits is ``train``, and which ``validation`` and ``test`` where there are such.

    Raises:
      ValueError: no ``train``, several for one role, or ``train`` with none but splits of unknown names.
    """
    found = [(_ROLES[name.lower()], name) for name in names if name.lower() in _ROLES]
    roles = dict(found)
    accepted = "; ".join(f"{role}: {' or '.join(known)}" for role, known in _SPLIT_NAMES.items())
    if "train" not in roles or len(roles) < len(found):
        wanted = "one split for training and one at most for each other use"
        raise ValueError(f"dataset: {source} has the {kind} {_listed(names)}; give {wanted} ({accepted})")
    if len(roles) == 1 < len(names):
        wanted = "rename it to test if it is one, or give the training images by themselves"
        others = _listed([name for name in names if name not in roles.values()])
        raise ValueError(f"dataset: {source} has no split for testing, but {others}; {wanted} ({accepted})")
    return {role: roles[role] for role in _SPLIT_NAMES if role in roles}


def _listed(names: Sequence[str]) -> str:
    """Names, so many as fit a line."""
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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
        raise ValueError(f"dataset: {path} cannot be read ({first_line(error)})") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        start = content[:4].hex() or "nothing"
        raise ValueError(f"dataset: {path} is no IDX file of unsigned bytes: it begins with {start}")
    axes = content[3]
    header = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:header]) if len(content) >= header else ()
    if len(content) < header or len(content) - header != int(np.prod(shape)):
        raise ValueError(f"dataset: {path} is truncated or too long: {len(content)} bytes for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, ``10`` after ``9``; not the hidden ones and those that systems leave behind."""
    children = [child for child in folder.iterdir() if child.name[0] != "." and child.name not in _NO_CLASSES]

    def by_number(child: Path) -> list[tuple[int, str] | str]:
        parts = re.split(r"(\d+)", child.name)  # text and numbers in turn
        return [(int(part), part) if i % 2 else part for i, part in enumerate(parts)]

    return sorted((child for child in children if child.is_dir()), key=by_number)


def _pictures(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The pictures in a class's folder and in the folders within it."""
    here = folder.resolve()
    if here in above:
        raise ValueError(f"dataset: {folder} is a link to a folder that it is in; remove it")
    for child in sorted(folder.iterdir()):
        if child.name[0] == "." or child.name in _NO_CLASSES:
            continue
        if child.is_dir() and child.name.lower() in _ROLES:
            raise ValueError(f"dataset: {child} is a split within a class; put the classes into train and test folders")
        if child.is_dir():
            yield from _pictures(child, (*above, here))
        elif child.suffix.lower() in IMAGE_SUFFIXES:
            yield child


def _read_classes(
    folder: Path, names: tuple[str, ...], size: int | None, channels: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the classes in a folder, which are to have these names."""
    here = {child.name for child in _folders(folder)}
    if here != set(names):
        extra, missing = sorted(here - set(names)), sorted(set(names) - here)
        what = f"classes that training has not: {_listed(extra)}" if extra else f"no classes {_listed(missing)}"
        raise ValueError(f"dataset: {folder} has {what}; use the same class folders in every split")
    if len(names) < 2:
        raise ValueError(f"dataset: {folder} holds {len(names)} class folders; use one folder of images per class")
    found = [list(_pictures(folder / name)) for name in names]
    for name, paths in zip(names, found, strict=True):
        if not paths:
            accepted = ", ".join(IMAGE_SUFFIXES)
            raise ValueError(f"dataset: {folder / name} holds no images; accepted are {accepted}, or remove the folder")
    labels = np.repeat(np.arange(len(names)), [len(paths) for paths in found])
    images = ((str(path), read_picture(path)) for paths in found for path in paths)
    try:
        return stack(images, len(labels), size, channels), labels
    except ImagesDiffer as error:
        raise ValueError(f"dataset: {error}") from error


_Arrays = tuple[Any, Any]  # images and labels, None where there are none


def _checked(source: str, splits: Mapping[str, _Arrays], class_names: Any = None) -> RawData:
    """Brings the arrays of ``train``, ``validation`` and ``test`` into :class:`RawData`'s form, or says what is wrong.

    Validation examples without test examples become these.
    """
    images = _checked_images(source, "images", splits["train"][0])
    labels = _checked_labels(source, "labels", splits["train"][1], len(images))
    present = np.unique(labels)
    names = None if class_names is None else _checked_names(source, class_names)
    count = present[-1] + 1 if names is None else len(names)
    if present[-1] >= count:
        raise ValueError(f"dataset: {source} has a label {present[-1]}; accepted are 0 to {count - 1}")
    if len(present) < count or count < 2:
        missing = np.flatnonzero(np.append(present, -1) != np.arange(len(present) + 1))[0]
        what = f"no training example of class {missing}" if count > 1 else "only one class"
        raise ValueError(f"dataset: {source} has {what}; every label from 0 to the highest needs at least one")
    none = (None, None)
    validation, test = (
        _checked_split(source, role, *splits.get(role, none), images.shape[1:], count)
        for role in ("validation", "test")
    )
    if test[0] is None:
        validation, test = none, validation
    return RawData(images, labels, *test, names or tuple(map(str, range(count))), *validation)


def _checked_split(source, role, images, labels, shape, classes) -> _Arrays:
    if images is None and labels is None:
        return None, None
    if images is None or labels is None:
        raise ValueError(f"dataset: {source} has {role} images or {role} labels without the other")
    images = _checked_images(source, f"{role}_images", images)
    labels = _checked_labels(source, f"{role}_labels", labels, len(images))
    if images.shape[1:] != shape:
        wanted = f"not {shape} as for training; {form_advice(images.shape[1:], shape)}"
        raise ValueError(f"dataset: {source} has {role} images of {images.shape[1:]}, {wanted}")
    if labels.max() >= classes:
        raise ValueError(f"dataset: {source} has a {role} label {labels.max()}, beyond the {classes} classes")
    return images, labels


def _checked_names(source, names) -> tuple[str, ...]:
    names = np.asarray(names)
    if names.ndim != 1 or names.dtype.kind not in "SUiu":
        shown = f"of shape {names.shape} and type {names.dtype}"
        raise ValueError(f"dataset: {source} has class_names {shown}; use one text or integer for each class")
    try:
        texts = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
        "".join(texts).encode()  # a folder's name need not be text
    except UnicodeError as error:
        raise ValueError(f"dataset: {source} has class_names that are not UTF-8 ({first_line(error)})") from error
    twice = next((name for i, name in enumerate(texts) if name in texts[:i]), None)
    if twice is not None:
        raise ValueError(f"dataset: {source} has two classes called {twice!r} in class_names; use a name for each")
    return texts


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
    if labels.max() > np.iinfo(np.int32).max:
        raise ValueError(f"dataset: {source} has a label {labels.max()} in {field}; labels number the classes from 0")
    return labels.astype(np.int32)
