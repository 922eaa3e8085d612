"""What the user is told at once."""

import sys

from dd_jax.checks import positive, require  # noqa: F401, for the experiments
from dd_jax.hosts import is_first


def say(what: str) -> None:
    """Tells the user at once what is being done, apart from the results. Of several processes, the first speaks."""
    if is_first():
        print(what, file=sys.stderr, flush=True)
