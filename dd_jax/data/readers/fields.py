"""Labelled images as named arrays, as an ``.npz`` file holds them and a user's function returns them."""

from collections.abc import Collection, Mapping
from typing import Any

from dd_jax.data.readers.raw import RawData, checked
from dd_jax.data.readers.splits import BY_NAME, ROLES, Chosen, roles_of


def from_fields(source: str, fields: Mapping[str, Any], chosen: Chosen = BY_NAME) -> RawData:
    """Labelled images of the fields ``images`` and ``labels``, and optionally of other splits and ``class_names``.

    The other splits are in fields like ``test_images`` and ``test_labels``, of the names in
    :func:`dd_jax.data.readers.read`. Images are ``[N, H, W]`` or ``[N, H, W, D]``, uint8, or floats in [0, 1].
    MedMNIST's and Keras' names do as well: ``train_images`` and ``train_labels``, or ``x_train`` and ``y_train``, and
    so on for the other splits. Of a split of another name, which is ``chosen``, likewise.

    >>> fields = {"images": [[[0.0, 0.5]], [[1.0, 0.5]]], "labels": [0, 1], "class_names": ["dark", "light"]}
    >>> from_fields("mine", fields).images[..., 0].tolist()
    [[[0, 128]], [[255, 128]]]

    Raises:
      ValueError: a field is missing or there twice, or its array is not accepted; the message begins with the source.
    """
    held: dict[tuple[str, str], str] = {}
    pairs = {field[2:] for field in fields if field[:2] == "x_" and f"y_{field[2:]}" in fields}
    names = {*ROLES, *filter(None, chosen), *pairs}
    for field in fields:
        place = _place(field, names)
        if place is not None and place in held:
            raise ValueError(f"dataset: {source} has the arrays {held[place]!r} and {field!r}; give one of them")
        if place is not None:
            held[place] = field
    if chosen.train is None:
        for kind in _KINDS:
            if not any(ROLES.get(split) == "train" for split, of in held if of == kind):
                raise ValueError(f"dataset: {source} has no array {kind!r}, only {sorted(fields)}")
    roles = roles_of(source, sorted({split for split, _ in held}), "arrays of the splits", chosen)
    for kind in _KINDS:
        if (roles["train"], kind) not in held:
            raise ValueError(f"dataset: {source} has no array '{roles['train']}_{kind}', only {sorted(fields)}")
    arrays = {place: fields[field] for place, field in held.items()}
    splits = {role: (arrays.get((name, "images")), arrays.get((name, "labels"))) for role, name in roles.items()}
    return checked(source, splits, fields.get("class_names"))


_KINDS = ("images", "labels")


def _place(field: str, names: Collection[str]) -> tuple[str, str] | None:
    """The split and the kind of array that a field is named for, such as ``("test", "images")``; None for another."""
    if field in _KINDS:
        return "train", field
    first, _, last = field.partition("_")
    if first in ("x", "y") and last in names:
        return last, _KINDS["xy".index(first)]
    split, _, kind = field.rpartition("_")
    return (split, kind) if split and (kind == "images" or (kind == "labels" and split in names)) else None
