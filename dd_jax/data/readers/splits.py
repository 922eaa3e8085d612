"""Names and roles of the splits of a source: which of them is for training, validation and testing."""

from collections.abc import Sequence
from typing import NamedTuple

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
ROLES = {name: role for role, names in SPLIT_NAMES.items() for name in names}


class Chosen(NamedTuple):
    """The splits that a source's user chose, by the source's own names; None leaves it to :data:`SPLIT_NAMES`."""

    train: str | None = None
    test: str | None = None


BY_NAME = Chosen()


def roles_of(source: str, names: Sequence[str], kind: str, chosen: Chosen = BY_NAME) -> dict[str, str]:
    """Which of a source's splits is ``train``, and which ``validation`` and ``test`` where there are such.

    Raises:
      ValueError: a chosen one that there is not, or one for two roles; no ``train``, several for one role, or ``train``
        by its name with none but splits of unknown names.
    """
    given = {role: name for role, name in chosen._asdict().items() if name is not None}
    for role, name in given.items():
        if name not in names:
            raise ValueError(f"dataset: {source} has the {kind} {listed(names)}; use one of them for {role}_split")
    if len(set(given.values())) < len(given):
        raise ValueError(f"dataset: {source} has {chosen.train!r} for training and for testing; use different {kind}")
    others = [name for name in names if name not in given.values()]
    found = [(ROLES[name.lower()], name) for name in others if name.lower() in ROLES]
    found = [(role, name) for role, name in found if role not in given]
    roles = dict(found) | given
    accepted = "; ".join(f"{role}: {' or '.join(known)}" for role, known in SPLIT_NAMES.items())
    if "train" not in roles or len(roles) < len(found) + len(given):
        wanted = f"one split for training and one at most for each other use ({accepted})"
        raise ValueError(f"dataset: {source} has the {kind} {listed(names)}; give {wanted}, or {_CHOOSE}")
    if len(roles) == 1 < len(names) and not given:
        unknown = listed([name for name in names if name not in roles.values()])
        raise ValueError(f"dataset: {source} has no split for testing ({accepted}), but {unknown}; {_CHOOSE}")
    return {role: roles[role] for role in SPLIT_NAMES if role in roles}


_CHOOSE = "say which is for training and which for testing, by train_split and test_split"


def listed(names: Sequence[str]) -> str:
    """Names, so many as fit a line."""
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
