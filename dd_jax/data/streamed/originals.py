"""Labelled pictures by number, as a source has them: a folder of pictures, or a TFDS set of pictures or of objects."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dd_jax.data.pictures import decoded, read_picture
from dd_jax.data.readers.folder import pictures_of_classes
from dd_jax.data.readers.raw import numbers_of
from dd_jax.data.readers.sources import is_path
from dd_jax.data.readers.splits import BY_NAME, Chosen
from dd_jax.data.readers.tfds import prepared, splits_of
from dd_jax.files.atomic import first_line


class Originals(NamedTuple):
    """Labelled pictures of any size, each of which is decoded when it is asked for, from any thread."""

    labels: np.ndarray  # [N] int32
    name: Callable[[int], str]  # number -> what messages call the picture
    picture: Callable[[int], np.ndarray]  # number -> [H, W, 1 or 3] uint8; ValueError where it cannot be decoded


class Source(NamedTuple):
    """The parts of a source, and a text that changes with its files."""

    train: Originals
    validation: Originals | None
    test: Originals | None
    class_names: tuple[str, ...]
    stamp: str


def some(originals: Originals, index: np.ndarray) -> Originals:
    """The pictures of these numbers, ``[B]``, in this order."""
    return Originals(
        originals.labels[index],
        lambda i: originals.name(int(index[i])),
        lambda i: originals.picture(int(index[i])),
    )


def of_classes(source: Source, classes: Sequence[int]) -> Source:
    """The pictures of some classes, as :func:`dd_jax.data.readers.raw.of_classes`."""
    new = numbers_of(classes, len(source.class_names))

    def kept(part: Originals | None) -> Originals | None:
        if part is None:
            return None
        those = some(part, np.flatnonzero(new[part.labels] >= 0))
        return those._replace(labels=new[those.labels])

    train, validation, test = map(kept, source[:3])
    assert train is not None
    names = tuple(source.class_names[c] for c in classes)
    return Source(train, validation, test, names, f"{source.stamp} {list(classes)}")


def open_source(name: str, chosen: Chosen = BY_NAME) -> Source:
    """The pictures of a source, none of which is decoded yet.

    Args:
      name: a folder of pictures by class, as :func:`dd_jax.data.readers.read` takes it; or a TFDS set with ``image``
        and ``label``, such as ``caltech_birds2011``, or with ``objects``, such as ``voc/2007``. Of the latter, an
        example is one object, difficult or not: its bounding box.
      chosen: the splits for training and testing, as there.

    Raises:
      ValueError: another source, or one that cannot be used.
    """
    if not is_path(name):
        return _of_tfds(name, chosen)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(f"dataset: {name} cannot be streamed; use a folder of pictures by class, or a TFDS name")
    splits, class_names = pictures_of_classes(folder, chosen)
    files = [path for paths, _ in splits.values() for path in paths]
    stamps = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def part(role: str) -> Originals | None:
        if role not in splits:
            return None
        paths, labels = splits[role]
        return Originals(labels, lambda i: str(paths[i]), lambda i: read_picture(paths[i]))

    return _source(name, {role: part(role) for role in splits}, class_names, _stamp(stamps, chosen))


def _of_tfds(name: str, chosen: Chosen) -> Source:
    builder, advice = prepared(name)
    features = builder.info.features or {}
    kinds = {"label": _whole, "objects": _objects}
    kind = next((kind for kind in kinds if {"image", kind} <= set(features)), None)
    if kind is None:
        raise ValueError(f"dataset: TFDS set {name!r} has no features 'image' and 'label' or 'objects'; {advice}")
    roles = splits_of(name, builder, chosen)
    try:
        parts = {role: kinds[kind](f"{name} {split}", builder, split) for role, split in roles.items()}
    except Exception as error:  # a damaged record, another file format
        raise ValueError(f"dataset: TFDS set {name!r} cannot be read ({first_line(error)}); {advice}") from error
    if kind == "objects" and chosen == BY_NAME and {"train", "validation", "test"} <= set(parts):
        parts["train"] = _both(parts["train"], parts.pop("validation"))  # trainval, on which VOC's networks are trained
    root = Path(builder.data_path)
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(root.iterdir()) if f.is_file()]
    names = (features[kind] if kind == "label" else features["objects"].feature["label"]).names
    return _source(name, parts, tuple(names), _stamp([str(root), *files], chosen))


def _source(name: str, parts: Mapping[str, Originals | None], class_names: tuple[str, ...], stamp: str) -> Source:
    train, validation, test = (parts.get(role) for role in ("train", "validation", "test"))
    assert train is not None  # every source has this split
    validation, test = (None, validation) if test is None else (validation, test)
    counts = np.bincount(train.labels, minlength=len(class_names))
    if len(class_names) < 2 or not counts.all():
        lacking = (
            f"no training example of {class_names[counts.argmin()]!r}" if len(class_names) > 1 else "only one class"
        )
        raise ValueError(f"dataset: {name} has {lacking}; use two classes or more, with an example of each")
    return Source(train, validation, test, class_names, stamp)


def _stamp(content: list[Any], chosen: Chosen) -> str:
    return hashlib.sha256(repr([*content, *filter(None, chosen)]).encode()).hexdigest()[:16]


def _records(builder: Any, split: str, feature: str) -> tuple[int, Callable[[int], Any]]:
    """How many records a split has, and one by number: this feature, and the ``image`` as it is stored, in bytes."""
    import tensorflow_datasets as tfds

    stored = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    features = tfds.features.FeaturesDict({"image": tfds.features.Text(), feature: builder.info.features[feature]})
    return len(stored), lambda number: features.deserialize_example_np(stored[number])


def _whole(name: str, builder: Any, split: str) -> Originals:
    """Every picture of a split, whole."""
    count, record = _records(builder, split, "label")
    labels = np.array([record(i)["label"] for i in range(count)], np.int32)
    return Originals(labels, lambda i: f"{name} {i}", lambda i: decoded(record(i)["image"], f"{name} {i}"))


def _objects(name: str, builder: Any, split: str) -> Originals:
    """Every object of every picture of a split: what is within its box."""
    count, record = _records(builder, split, "objects")
    found = [
        (number, label, box)
        for number in range(count)
        for objects in [record(number)["objects"]]
        for label, box in zip(objects["label"], objects["bbox"], strict=True)
    ]
    labels = np.array([label for _, label, _ in found], np.int32)

    def named(i: int) -> str:
        return f"{name} {found[i][0]}, an object"

    def picture(i: int) -> np.ndarray:
        number, _, box = found[i]
        return within(decoded(record(number)["image"], named(i)), box)

    return Originals(labels, named, picture)


def within(picture: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of a picture within a box, (top, left, bottom, right) in shares of its sides; a pixel or more."""
    top, left, bottom, right = box
    sides = ((top, bottom, picture.shape[0]), (left, right, picture.shape[1]))
    slices = []
    for begin, end, size in sides:
        first = min(max(round(float(begin) * size), 0), size - 1)
        slices.append(slice(first, max(first + 1, min(round(float(end) * size), size))))
    return picture[tuple(slices)]


def _both(one: Originals, other: Originals) -> Originals:
    count = len(one.labels)

    def of(field: str) -> Callable[[int], Any]:
        return lambda i: getattr(one, field)(i) if i < count else getattr(other, field)(i - count)

    return Originals(np.concatenate([one.labels, other.labels]), of("name"), of("picture"))
