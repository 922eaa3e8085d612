"""The distilled sets that were recorded with this package, by name."""

from pathlib import Path

from dd_jax.files.distilled_file import DistilledFile, load_distilled


def load(name: str) -> DistilledFile:
    """A recorded distilled set: its images, labels, step sizes and all it takes to train on them.

    >>> load("mnist_100").images.shape
    (10, 10, 28, 28, 1)

    Args:
      name: such as ``"mnist_100"``; or with the experiment in front, ``"random_init/mnist"``, where several have a set
        of that name.

    Raises:
      ValueError: an unknown name, or one of several sets; the message has the names.
    """
    files = recorded()
    found = [known for known in files if name in (known, known.partition("/")[2])]
    if len(found) == 1:
        return load_distilled(files[found[0]])
    what = "is the name of several recorded sets" if found else "is no recorded set"
    raise ValueError(f"name: {name!r} {what}; use one of {', '.join(found or _shortest(list(files)))}")


def recorded() -> dict[str, Path]:
    """The recorded sets by name, ``EXPERIMENT/NAME``, with their files."""
    folder = _folder()
    files = sorted(folder.glob("*/*/distilled.npz"))
    return {path.parent.relative_to(folder).as_posix(): path for path in files}


def _folder() -> Path:
    """Where the records are: within the package, or in a checkout beside it."""
    package = Path(__file__).parent.parent
    within = package / "results"
    return within if within.is_dir() else package.parent / "results"


def _shortest(names: list[str]) -> list[str]:
    """The names without their experiments where that is enough."""
    ends = [name.partition("/")[2] for name in names]
    return [end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)]
