"""A self-contained HTML page of a run."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dd_jax.files.text import accuracy_title, budget, encodable, percent, percent_reported

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: white; border-radius: 4px; }
table { border-collapse: collapse; }
td, th { padding: .3rem .9rem; border-bottom: 1px solid #8884; text-align: left; }
td { font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; background: #8881; padding: 1rem; border-radius: 4px; }
.note { opacity: .75; }
"""


def html_report(result: Mapping[str, Any], step_sizes: np.ndarray, distinct: int, pictures: Mapping[str, bytes]) -> str:
    """One self-contained page: accuracy, images, step sizes, curves and the exact configuration.

    Args:
      result: the content of ``result.json``.
      step_sizes: ``[E·S]``.
      distinct: S.
      pictures: PNG bytes by title.
    """
    title = html.escape(f"{result['experiment']} · {result['preset']}")
    versions = result["versions"]
    made = html.escape(
        f"{budget(result)} on {result['device']}, seed {result['seed']}, "
        f"dd_jax {versions['dd_jax']}, jax {versions['jax']}"
    )
    images = "".join(_picture(title, png) for title, png in pictures.items())
    config = html.escape(json.dumps(result["config"], indent=2, ensure_ascii=False))
    return encodable(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><p class='note'>{made}</p>"
        f"{_accuracies(result, len(step_sizes))}{images}<h2>Learned step sizes</h2>{_sizes(step_sizes, distinct)}"
        f"<h2>Configuration</h2><pre>{config}</pre></html>\n"
    )


def _accuracies(result: Mapping[str, Any], steps: int) -> str:
    test, known = result["test_accuracy"], result.get("networks", "known") == "known"
    checked = result.get("reported_checked")
    before = percent_reported(result["reported_before"], checked=checked)
    after = percent_reported(result["reported"], result.get("reported_std"), checked=checked)
    return _table(
        (accuracy_title(result), "measured", "reported by the paper"),
        [
            ("before any step", percent(test["before"], known=known), before),
            (f"after {steps} steps", percent(test["after"], known=known), after),
        ],
    )


def _sizes(step_sizes: np.ndarray, distinct: int) -> str:
    """A row of S step sizes for each epoch."""
    epochs = [step_sizes[i : i + distinct] for i in range(0, len(step_sizes), distinct)]
    return _table(
        ("epoch", *(f"step {s}" for s in range(distinct))),
        [(str(e), *(f"{size:.4f}" for size in epoch)) for e, epoch in enumerate(epochs)],
    )


def _picture(title: str, png: bytes) -> str:
    title, content = html.escape(title), base64.b64encode(png).decode()
    return f"<h2>{title}</h2><img alt='{title}' src='data:image/png;base64,{content}'>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
