"""Names and roles of the splits of a source: which of them is for training, validation and testing."""

from collections.abc import Sequence

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
ROLES = {name: role for role, names in SPLIT_NAMES.items() for name in names}


def roles_of(source: str, names: Sequence[str], kind: str) -> dict[str, str]:
    """Which of a source's splits is ``train``, and which ``validation`` and ``test`` where there are such.

    Raises:
      ValueError: no ``train``, several for one role, or ``train`` with none but splits of unknown names.
    """
    found = [(ROLES[name.lower()], name) for name in names if name.lower() in ROLES]
    roles = dict(found)
    accepted = "; ".join(f"{role}: {' or '.join(known)}" for role, known in SPLIT_NAMES.items())
    if "train" not in roles or len(roles) < len(found):
        wanted = "one split for training and one at most for each other use"
        raise ValueError(f"dataset: {source} has the {kind} {listed(names)}; give {wanted} ({accepted})")
    if len(roles) == 1 < len(names):
        wanted = "rename it to test if it is one, or give the training images by themselves"
        others = listed([name for name in names if name not in roles.values()])
        raise ValueError(f"dataset: {source} has no split for testing, but {others}; {wanted} ({accepted})")
    return {role: roles[role] for role in SPLIT_NAMES if role in roles}


def listed(names: Sequence[str]) -> str:
    """Names, so many as fit a line."""
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
