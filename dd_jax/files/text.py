"""What people read of a run: accuracies and budgets in words, and a user's own words made safe to show."""

import itertools
import unicodedata
from collections.abc import Mapping
from typing import Any


def one_line(name: str, width: int) -> str:
    """A user's word on one line of at most ``width`` columns, an ellipsis where it is cut.

    White space is one space, other control characters are dropped, and bytes that were no text (a file's name may have
    some) are question marks. A Chinese, Japanese or Korean character, or an emoji, takes two columns, and an M or W one
    and a half.
    """
    words = "".join(c for c in encodable(name) if c.isspace() or unicodedata.category(c) != "Cc").split()
    columns = [
        (c, 2 if unicodedata.east_asian_width(c) in "WF" else 1.5 if c in "MW@%mw" else 1) for c in " ".join(words)
    ]
    ends = list(itertools.accumulate(size for _, size in columns))
    if not ends or ends[-1] <= width:
        return "".join(c for c, _ in columns)
    return "".join(c for (c, _), end in zip(columns, ends, strict=True) if end < width) + "…"


def encodable(text: str) -> str:
    """Text with a question mark for what UTF-8 has no code for, a lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8")


def percent(score: Mapping[str, float], *, known: bool = True) -> str:
    """``{mean, std, n}`` of fractions as "93.80 ± 0.40 % (n = 200)"; without a spread where n is 1.

    That n is 1 is told where that is not a matter of course: where the network is not ``known``.
    """
    if score["n"] == 1:
        return f"{100 * score['mean']:.2f} %" + ("" if known else " (n = 1)")
    return f"{100 * score['mean']:.2f} ± {100 * score['std']:.2f} % (n = {score['n']})"


def percent_reported(fraction: float | None, std: float | None = None, *, checked: bool | None = None) -> str:
    """A figure of the paper, with its spread where it gives one, or a dash where it has none.

    The figure says whether it was ``checked``, against the paper or its code, or is quoted from memory. What does not
    say that it was checked counts as quoted from memory.

    >>> percent_reported(0.795, 0.081, checked=True)
    '79.5 ± 8.1 % (checked)'
    >>> percent_reported(0.966)
    '96.6 % (from memory)'
    """
    if fraction is None:
        return "–"
    figure = f"{100 * fraction:.1f} %" if std is None else f"{100 * fraction:.1f} ± {100 * std:.1f} %"
    return f"{figure} ({'checked' if checked else 'from memory'})"


def accuracy_title(result: Mapping[str, Any]) -> str:
    """What the accuracies of a ``result.json`` are: by the modified labels where some were modified."""
    return "test accuracy by the modified labels" if result["config"].get("relabel") else "test accuracy"


BALANCED = "mean of the classes' accuracies"
"""What balanced accuracy is, in words."""


def budget(result: Mapping[str, Any]) -> str:
    """How many outer steps a run made in what time, and how many it began after."""
    earlier = result.get("earlier", {}).get("outer_steps")
    after = f", after {earlier} of the run it began from" if earlier else ""
    return f"{result['outer_steps']} outer steps in {result['wall_seconds']:.0f} s{after}"
