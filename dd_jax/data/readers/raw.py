"""Labelled images as every reader returns them: checked, told apart by content, brought to one form."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dd_jax.checks import require
from dd_jax.data.forms import check_form, form_advice, formed
from dd_jax.files.atomic import first_line


class RawData(NamedTuple):
    """Labelled images as read. A source without a test or validation split has none here."""

    images: np.ndarray  # [N, H, W, D] uint8
    labels: np.ndarray  # [N] int32 in [0, C)
    test_images: np.ndarray | None
    test_labels: np.ndarray | None
    class_names: tuple[str, ...]  # C of them
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None


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


def of_classes(raw: RawData, classes: Sequence[int]) -> RawData:
    """The examples of some classes, which are numbered anew in the order given. The examples keep their order.

    Raises:
      ValueError: fewer than two classes, one that is given twice, or one that there is not.
    """
    new = numbers_of(classes, len(raw.class_names))
    fields = {"class_names": tuple(raw.class_names[c] for c in classes)}
    for role in ("", "test_", "validation_"):
        images, labels = getattr(raw, f"{role}images"), getattr(raw, f"{role}labels")
        if labels is not None:
            kept = new[labels] >= 0
            fields |= {f"{role}images": images[kept], f"{role}labels": new[labels[kept]]}
    return raw._replace(**fields)


def numbers_of(classes: Sequence[int], count: int) -> np.ndarray:
    """The new number of each of ``count`` classes where some are kept, −1 where not, ``[count]``; see above."""
    accepted = f"two or more different numbers of 0 … {count - 1}, or none for all"
    fits = len(set(classes)) == len(classes) >= 2 and all(0 <= c < count for c in classes)
    require(fits, "classes", list(classes), accepted)
    new = np.full(count, -1, np.int32)
    new[list(classes)] = np.arange(len(classes))
    return new


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


_Arrays = tuple[Any, Any]  # images and labels, None where there are none


def checked(source: str, splits: Mapping[str, _Arrays], class_names: Any = None) -> RawData:
    """Brings the arrays of ``train``, ``validation`` and ``test`` into :class:`RawData`'s form, or says what is wrong.

    The classes are the labels that training examples have, numbered anew from 0. Their names are those of
    ``class_names``, which are counted from 0, or from 1 where the labels are 1 to their number; else the labels
    themselves. Validation examples without test examples become these.
    """
    images = checked_images(source, "images", splits["train"][0])
    labels = _checked_labels(source, "labels", splits["train"][1], len(images))
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"dataset: {source} has only one class, {classes[0]}; use training examples of two or more")
    names = _names_of(source, classes, class_names)
    none = (None, None)
    validation, test = (
        _checked_split(source, role, *splits.get(role, none), images.shape[1:], classes)
        for role in ("validation", "test")
    )
    if test[0] is None:
        validation, test = none, validation
    return RawData(images, _numbered(labels, classes), *test, names, *validation)


def _numbered(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.searchsorted(classes, labels).astype(np.int32)


def _names_of(source: str, classes: np.ndarray, class_names: Any) -> tuple[str, ...]:
    """The names of the labels that there are."""
    if class_names is None:
        return tuple(map(str, classes))
    names = _checked_names(source, class_names)
    first = int(classes[-1] == len(names) and classes[0] > 0)  # whether labels count from 1
    if classes[-1] - first >= len(names):
        raise ValueError(f"dataset: {source} has a label {classes[-1]}; accepted are 0 to {len(names) - 1}")
    return tuple(names[label - first] for label in classes)


def _checked_split(source, role, images, labels, shape, classes) -> _Arrays:
    if images is None and labels is None:
        return None, None
    if images is None or labels is None:
        raise ValueError(f"dataset: {source} has {role} images or {role} labels without the other")
    images = checked_images(source, f"{role}_images", images)
    labels = _checked_labels(source, f"{role}_labels", labels, len(images))
    if images.shape[1:] != shape:
        wanted = f"not {shape} as for training; {form_advice(images.shape[1:], shape)}"
        raise ValueError(f"dataset: {source} has {role} images of {images.shape[1:]}, {wanted}")
    unknown = np.setdiff1d(labels, classes)
    if unknown.size:
        raise ValueError(f"dataset: {source} has a {role} label {unknown[0]}, which no training example has")
    return images, _numbered(labels, classes)


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


def checked_images(source: str, field: str, images: Any) -> np.ndarray:
    """Images as ``[N, H, W, 1 or 3]`` of uint8, or a ``ValueError`` that says what is wrong."""
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
    if labels.shape == (count, 1):  # as Keras and MedMNIST have them
        labels = labels[:, 0]
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"dataset: {source} has {field} of shape {labels.shape} and type {labels.dtype}; use {count} integers"
        )
    if labels.min() < 0:
        raise ValueError(f"dataset: {source} has a label {labels.min()} in {field}; use 0 or more")
    return labels
