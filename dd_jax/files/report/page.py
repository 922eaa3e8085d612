"""The page of a run, and the page that compares several: self-contained HTML, from pure functions of their facts."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.files.figures import screen_range
from dd_jax.files.report.facts import Facts
from dd_jax.files.report.images import images_section, real_images, strip
from dd_jax.files.report.plots import (
    COLOURS,
    by_step_chart,
    classes_list,
    confusion_chart,
    loss_chart,
    mistakes,
    step_sizes_chart,
    validation_chart,
)
from dd_jax.files.report.words import greys_sentences, result_sentence, uncertainty_sentence
from dd_jax.files.text import BALANCED, accuracy_title, budget, encodable, percent, percent_reported

MARK = "<meta name='generator' content='dd_jax'>"
"""By which a page of ours is known."""
_HERE = Path(__file__).parent
_USE = """\
import json
import numpy as np

file = np.load("distilled.npz")
images, labels, step_sizes = file["images"], file["labels"], file["step_sizes"]
meta = json.loads(str(file["meta"]))  # the network, the initial weights, the inner optimizer, the class names
theta = {name: file[name] for name in file.files if name.startswith("initial_weights/")}  # of a known network

for t, step_size in enumerate(step_sizes):  # order and step sizes are part of the result
    x, y = images[t % len(images)], labels[t % len(images)]
    # one step on (x, y): weights - step_size * gradient of the mean cross-entropy

# real images as the network takes them: (pixels / 255 - file["mean"]) / file["std"]"""


def html_report(facts: Facts) -> str:
    """The page of one run: result, images, curves, classes, how to use it and how to make it again."""
    result = facts.result
    versions = result["versions"]
    made = (
        f"{budget(result)} on {result['device']}, seed {result['seed']}, "
        f"dd_jax {versions['dd_jax']}, jax {versions['jax']}"
    )
    reach = screen_range(np.asarray(facts.distilled.images))
    body = [
        _paragraph(result_sentence(facts).replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0"), "lead"),
        _paragraph(uncertainty_sentence(facts), "note"),
        _accuracies(facts),
        f"<h2>Distilled images</h2><p>{html.escape(greys_sentences(facts, reach))}</p>{images_section(facts)}",
        _headed("Real images", real_images(facts), level=3),
        f"<h2>Training</h2>{_plots(facts)}",
        _classes(facts),
        _attack(facts),
        _baselines(facts),
        f"<h2>How to use the images</h2><p>They are in <code>distilled.npz</code>, beside this page:</p>{_code(_USE)}",
        _again(facts),
        _settings(facts, made),
    ]
    return _page(facts.name, "".join(body))


def comparison(runs: Sequence[Facts]) -> str:
    """One page that has several runs side by side."""
    names = _distinct([facts.name for facts in runs])
    keys = "".join(f"<li>{_key(i)}{html.escape(name)}</li>" for i, name in enumerate(names))
    named = dict(zip(names, runs, strict=True))
    plots = [
        validation_chart({name: facts.series("validation_accuracy") for name, facts in named.items()}),
        loss_chart({name: facts.series("loss") for name, facts in named.items()}),
        by_step_chart({name: _by_step(facts) for name, facts in named.items()}),
        step_sizes_chart({name: facts.distilled.step_sizes for name, facts in named.items()}),
    ]
    images = "".join(f"<h3>{html.escape(name)}</h3>{strip(facts, i)}" for i, (name, facts) in enumerate(named.items()))
    return _page(
        f"{len(runs)} runs compared",
        f"{_wide(_compared(named))}<h2>Images</h2><p class='note'>The first step of each run.</p>{images}"
        f"<h2>Curves</h2><ul class='legend'>{keys}</ul><div class='plots'>{''.join(plots)}</div>"
        f"<h2>Settings that differ</h2>{_wide(_differing(named))}",
    )


def _page(title: str, body: str) -> str:
    title, style, script = html.escape(title), (_HERE / "style.css").read_text(), (_HERE / "script.js").read_text()
    return encodable(
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>{MARK}"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>"
        f"<title>{title}</title><style>{style}</style></head><body><h1>{title}</h1>{body}"
        f"<script>{script}</script></body></html>\n"
    )


def _accuracies(facts: Facts) -> str:
    result, steps = facts.result, facts.sizes[2]
    test, checked = result["test_accuracy"], result.get("reported_checked")
    before, after = result.get("reported_before"), result.get("reported")
    moments = ("before any step", f"after {steps} steps")
    measured = [percent(test[when], known=facts.known) for when in ("before", "after")]
    told = [percent_reported(before, checked=checked), _reported(result)]
    columns = [(accuracy_title(result), moments), ("measured", measured)]
    if balanced := result.get("balanced_test_accuracy"):
        columns.append((BALANCED, [percent(balanced[when], known=facts.known) for when in ("before", "after")]))
    if not (before is None and after is None):
        columns.append(("reported by the paper", told))
    titles, cells = zip(*columns, strict=True)
    return _table(titles, list(zip(*cells, strict=True)))


def _plots(facts: Facts) -> str:
    sizes, (distinct, _, _) = facts.distilled.step_sizes, facts.sizes
    plots = [
        loss_chart({"": facts.series("loss")}),
        validation_chart({"": facts.series("validation_accuracy")}),
        by_step_chart({"": _by_step(facts)}),
        step_sizes_chart({"": sizes}, distinct),
    ]
    epochs = [sizes[i : i + distinct] for i in range(0, len(sizes), distinct)]
    table = _table(
        ("epoch", *(f"step {s}" for s in range(distinct))),
        [(str(e), *(f"{size:.4f}" for size in epoch)) for e, epoch in enumerate(epochs)],
    )
    return f"<div class='plots'>{''.join(plots)}</div>{_folded('Learned step sizes in numbers', _wide(table))}"


def _by_step(facts: Facts) -> np.ndarray:
    scored = facts.scored
    return np.zeros((2, 0)) if scored is None else np.array([scored.steps, scored.accuracy], float)


def _classes(facts: Facts) -> str:
    """Accuracy by class, and what is taken for what."""
    scored, names = facts.scored, facts.class_names
    if scored is None:
        return ""
    title = accuracy_title(facts.result)[0].upper() + accuracy_title(facts.result)[1:]
    key = f"<ul class='legend'><li>{_key(0)}after the steps</li><li>{_key(1)}before them</li></ul>"
    tested = int((scored.examples > 0).sum())
    note = "" if tested <= 100 else f"<p class='note'>The 100 of {tested:,} classes with the lowest accuracy.</p>"
    parts = [f"<h2>{title} by class</h2>{key}{note}{classes_list(scored, names)}"]
    if scored.confusion.size:
        after = scored.confusion[1]
        wrong = _table(("true class", "taken for", "how often"), mistakes(after, names, 10))
        parts.append(
            "<h2>What is taken for what</h2><p class='note'>A row for each true class, a column for each answer, in "
            "per cent of the row; a point is less than half a per cent.</p>"
            f"<div class='plots'>{confusion_chart(after, names)}<div><h3>Most frequent mistakes</h3>{wrong}</div></div>"
        )
    return "".join(parts)


def _reported(result: Mapping[str, Any]) -> str:
    """The paper's figure of a result, or of a baseline."""
    return percent_reported(result.get("reported"), result.get("reported_std"), checked=result.get("reported_checked"))


def _attack(facts: Facts) -> str:
    """What an attack did beside what the baselines' images do."""
    if not facts.attack:
        return ""
    heading, *rows = facts.attack
    note = "Accuracy on test images after one step on the distilled images, and on those of each baseline."
    return f"<h2>What the attack does</h2>{_paragraph(note, 'note')}{_wide(_table(heading, rows))}"


def _baselines(facts: Facts) -> str:
    if not facts.baselines:
        return ""
    rows = [(row["name"], percent(row["accuracy"]), _reported(row)) for row in facts.baselines]
    return f"<h2>Baselines</h2>{_wide(_table(('images', 'test accuracy', 'reported by the paper'), rows))}"


def _again(facts: Facts) -> str:
    if not facts.command:
        return ""
    return (
        f"<h2>How to make them again</h2>{_code(facts.command)}"
        f"<p class='note'>On the same kind of machine, with as many cores, the images are the same.</p>"
    )


def _settings(facts: Facts, made: str) -> str:
    config = json.dumps(facts.result["config"], indent=2, ensure_ascii=False)
    changed = "<p>All settings are those of the preset.</p>" if facts.command else ""
    if facts.changed:
        changed = _wide(_table(("setting", "in the preset", "in this run"), facts.changed))
    whole = _folded("The whole configuration", _code(config))
    return f"<h2>Settings</h2>{_paragraph(made, 'note')}{changed}{whole}"


def _compared(runs: Mapping[str, Facts]) -> str:
    def row(i: int, name: str, facts: Facts) -> str:
        result, (steps, count, total) = facts.result, facts.sizes
        cells = (
            percent(result["test_accuracy"]["before"], known=facts.known),
            percent(result["test_accuracy"]["after"], known=facts.known),
            _reported(result), str(result.get("dataset", "")), str(result["config"].get("network", "")),
            "known" if facts.known else "random", f"{steps * count:,}", f"{total:,}", f"{result['outer_steps']:,}",
            f"{result['wall_seconds']:,.0f} s",
        )  # fmt: skip
        return f"<tr><th>{_key(i)}{html.escape(name)}</th>{''.join(f'<td>{html.escape(c)}</td>' for c in cells)}</tr>"

    header = ("run", "accuracy before", "after", "reported", "data", "network", "initial weights", "images")
    head = "".join(f"<th>{cell}</th>" for cell in (*header, "gradient steps", "outer steps", "time"))
    body = "".join(row(i, name, facts) for i, (name, facts) in enumerate(runs.items()))
    return f"<table><tr>{head}</tr>{body}</table>"


def _differing(runs: Mapping[str, Facts]) -> str:
    """The settings that are not the same in all runs."""
    flat = {name: flattened(facts.result["config"]) for name, facts in runs.items()}
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    values = {key: [_said(settings.get(key, "–")) for settings in flat.values()] for key in keys}
    rows = [(key, *told) for key, told in values.items() if len(set(told)) > 1]
    return _table(("setting", *flat), rows) if rows else "<p>None.</p>"


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names.

    >>> flattened({"seed": 0, "outer": {"steps": 3}})
    {'seed': 0, 'outer.steps': 3}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names, numbered where two are the same."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
    ]


def _key(series: int) -> str:
    circle = f"<circle class='key s{series % COLOURS}' cx='5' cy='5' r='5'/>"
    return f"<svg class='mark' viewBox='0 0 10 10' aria-hidden='true'>{circle}</svg>"


def _headed(title: str, content: str, level: int = 2) -> str:
    return f"<h{level}>{title}</h{level}>{content}" if content else ""


def _paragraph(text: str, kind: str) -> str:
    return f"<p class='{kind}'>{html.escape(text)}</p>" if text else ""


def _code(text: str) -> str:
    return f"<pre><code>{html.escape(text)}</code></pre>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _wide(content: str) -> str:
    return f"<div class='wide'>{content}</div>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
