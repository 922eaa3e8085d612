"""Folders of pictures, one folder a class."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dd_jax.data.forms import ImagesDiffer, stack
from dd_jax.data.readers.raw import RawData, checked
from dd_jax.data.readers.splits import BY_NAME, ROLES, Chosen, listed, roles_of
from dd_jax.files.atomic import first_line

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm"),
    *(".pnm", ".tga", ".jp2", ".avif", ".heic", ".heif"),  # a picture that Pillow cannot read is refused, not skipped
)
_NO_CLASSES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")  # left by other systems


def read_folder(
    folder: Path, size: int | None = None, channels: int | None = None, chosen: Chosen = BY_NAME
) -> RawData:
    """A folder that holds one folder of images per class, or ``train`` and other splits that do (see :func:`read`).

    Classes are numbered in the order of their names, in which ``10`` comes after ``9``. Images may be in folders within
    a class's; :func:`dd_jax.data.pictures.read_picture` says how each kind is read. Hidden files, files that are no
    pictures and files beside the class folders are skipped.

    Args:
      folder: its path.
      size: height and width to bring each image to; None for images that are of one size.
      channels: 1 (grey) or 3 (colour), likewise; None for images that are all grey or all in colour.
      chosen: the names of its split folders, where they are others than :func:`read` knows.

    Raises:
      ValueError: images of several sizes or channels, or one that cannot be read; a class without images; splits that
        have other classes or names.
    """
    from dd_jax.data.pictures import read_picture  # here: the algorithm imports this module, and does without Pillow

    def arrays(paths: list[Path], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return stack(((str(path), read_picture(path)) for path in paths), len(labels), size, channels), labels

    try:
        splits, names = pictures_of_classes(folder, chosen)
        held = {role: arrays(*found) for role, found in splits.items()}
    except OSError as error:
        raise ValueError(f"dataset: {folder} cannot be read ({first_line(error)})") from error
    except ImagesDiffer as error:
        raise ValueError(f"dataset: {error}") from error
    return checked(str(folder), held, names)


def pictures_of_classes(
    folder: Path, chosen: Chosen = BY_NAME
) -> tuple[dict[str, tuple[list[Path], np.ndarray]], tuple[str, ...]]:
    """The pictures of each split of a folder, their labels, ``[N]`` int32, and the names of the classes.

    Raises:
      ValueError: a class without pictures; splits that have other classes or names.
    """
    splits = _split_folders(folder, chosen)
    names = tuple(child.name for child in _folders(splits["train"]))
    return {role: _in_classes(path, names) for role, path in splits.items()}, names


def _split_folders(folder: Path, chosen: Chosen) -> dict[str, Path]:
    """The folders of a folder's splits; itself where it has classes and no splits.

    A folder with a split's name and no folders in it is a class (``train`` beside ``bus``), if some other is a class.
    """
    children = {child.name: child for child in _folders(folder)}
    named = [name for name in children if name.lower() in ROLES]
    unsplit = not named or (len(named) < len(children) and not any(_folders(children[name]) for name in named))
    if unsplit and chosen == BY_NAME:
        return {"train": folder}
    roles = roles_of(str(folder), tuple(children), "folders", chosen)
    return {role: children[name] for role, name in roles.items()}


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
        if child.is_dir() and child.name.lower() in ROLES:
            raise ValueError(f"dataset: {child} is a split within a class; put the classes into train and test folders")
        if child.is_dir():
            yield from _pictures(child, (*above, here))
        elif child.suffix.lower() in IMAGE_SUFFIXES:
            yield child


def _in_classes(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """Pictures and labels of the classes in a folder, which are to have these names."""
    here = {child.name for child in _folders(folder)}
    if here != set(names):
        extra, missing = sorted(here - set(names)), sorted(set(names) - here)
        what = f"classes that training has not: {listed(extra)}" if extra else f"no classes {listed(missing)}"
        raise ValueError(f"dataset: {folder} has {what}; use the same class folders in every split")
    if len(names) < 2:
        raise ValueError(f"dataset: {folder} holds {len(names)} class folders; use one folder of images per class")
    found = [list(_pictures(folder / name)) for name in names]
    for name, paths in zip(names, found, strict=True):
        if not paths:
            accepted = ", ".join(IMAGE_SUFFIXES)
            raise ValueError(f"dataset: {folder / name} holds no images; accepted are {accepted}, or remove the folder")
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(paths) for paths in found])
    return [path for paths in found for path in paths], labels
