"""What an attack did, as a table: the content of attack.json in words."""

from collections.abc import Mapping
from typing import Any

from dd_jax.files.text import percent, percent_reported

SHOWN = ("attacked", "attacked_to_target", "others", "true", "modified")
"""The measures of :func:`experiments.attack.measures` that are told."""
_BASELINES = {
    "random_real": "random real",
    "optimized_real": "optimized real",
    "k_means": "k-means",
    "average_real": "average real",
}


def quoted(attack: Mapping[str, Any]) -> str:
    """The paper's accuracies on class K beside those of an attack.json, before and after; a dash without."""
    figures = attack.get("reported")
    if not figures:
        return "–"
    return " → ".join(percent_reported(figures[when], checked=figures["checked"]) for when in ("before", "after"))


def lines(attack: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The heading, and a line for each measure: before, after, and after the baselines' images."""
    kinds = _kinds(attack)
    titles = {
        "attacked": f"{attack['attacked']}: own accuracy",
        "attacked_to_target": f"{attack['attacked']} → {attack['target']}",
        "others": "other classes",
        "true": "true labels",
        "modified": "modified labels",
    }
    rows = [
        (titles[name], *(percent(attack[k][name]) for k in kinds), quoted(attack) if name == "attacked" else "–")
        for name in SHOWN
        if name in attack["before"]  # the first attacks have fewer measures
    ]
    if "learned_step_size" in attack:
        best = [f"{attack[name]['median_step_size']:.2g}, the median of each set's best" for name in [*kinds][2:]]
        rows.append(("step size", "–", f"{attack['learned_step_size']:.2g}, learned", *best, "–"))
    return [("", *kinds.values(), "reported by the paper"), *rows]


def table(attack: Mapping[str, Any]) -> str:
    """Markdown: the lines, then one for each class."""
    heading, *rows = lines(attack)
    columns = [attack[name]["by_class"] for name in _kinds(attack)]
    by_class = [(f"class {c}", *(f"{100 * of[c]:.2f} %" for of in columns), "–") for c in range(len(columns[0]))]
    whole = (heading, ("---",) * len(heading), *rows, *by_class)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in whole)


def _kinds(attack: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, by its name in attack.json, with the title of its column."""
    return {"before": "before", "after": "after"} | {
        name: f"after {title}" for name, title in _BASELINES.items() if name in attack
    }
