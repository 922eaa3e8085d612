"""Labelled images as named arrays, as an ``.npz`` file holds them and a user's function returns them."""

from collections.abc import Mapping
from typing import Any

from dd_jax.data.readers.raw import RawData, checked
from dd_jax.data.readers.splits import ROLES, roles_of


def from_fields(source: str, fields: Mapping[str, Any]) -> RawData:
    """Labelled images of the fields ``images`` and ``labels``, and optionally of other splits and ``class_names``.

    The other splits are in fields like ``test_images`` and ``test_labels``, of the names in
    :func:`dd_jax.data.readers.read`. Images are ``[N, H, W]`` or ``[N, H, W, D]``, uint8, or floats in [0, 1].

    >>> fields = {"images": [[[0.0, 0.5]], [[1.0, 0.5]]], "labels": [0, 1], "class_names": ["dark", "light"]}
    >>> from_fields("mine", fields).images[..., 0].tolist()
    [[[0, 128]], [[255, 128]]]

    Raises:
      ValueError: a field is missing, or its array is not accepted; the message begins with the source.
    """
    for field in ("images", "labels"):
        if field not in fields:
            raise ValueError(f"dataset: {source} has no array {field!r}, only {sorted(fields)}")
    prefixes = [field.rpartition("_")[::2] for field in fields]
    others = {name for name, end in prefixes if end == "images" or (end == "labels" and name in ROLES)} - {""}
    names = roles_of(source, ("train", *sorted(others)), "arrays of the splits")
    held = {role: (fields.get(f"{name}_images"), fields.get(f"{name}_labels")) for role, name in names.items()}
    return checked(source, held | {"train": (fields["images"], fields["labels"])}, fields.get("class_names"))
