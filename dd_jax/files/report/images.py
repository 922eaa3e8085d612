"""The images of a page: distilled ones by step, with a slider over training time, and real ones beside them."""

import html
import json

import numpy as np

from dd_jax.files.figures import spread
from dd_jax.files.report.facts import Facts
from dd_jax.files.report.tiles import (
    EXACT_BYTES,
    FRAME_BYTES,
    chosen,
    label_in_words,
    moments,
    rule,
    sheet,
    size_rule,
    tile,
)
from dd_jax.files.report.words import moment_words
from dd_jax.files.snapshots import snapshot
from dd_jax.files.text import one_line

_SIZES = 8  # step sizes named of an image


def images_section(facts: Facts) -> str:
    """The distilled images, step by step, at each moment of training that was kept; the last ones without scripts."""
    images = facts.distilled.images
    now = snapshot(facts.result["outer_steps"], images)
    facts = facts._replace(snapshots=[*(s for s in facts.snapshots if s.step < now.step), now])
    shown = [facts.snapshots[i] for i in moments(len(facts.snapshots), now.images.nbytes)]
    facts = facts._replace(snapshots=shown)
    height, width, _ = now.images.shape[2:]
    count, last = now.images.shape[0] * now.images.shape[1], len(shown) - 1
    exact = now.images.nbytes <= EXACT_BYTES
    sheets = [
        sheet(taken.images.reshape(count, *taken.images.shape[2:]), exact=exact or taken is now) for taken in shown
    ]
    styles = [rule(f"#distilled[data-moment='{moment}'] i", picture) for moment, (picture, _) in enumerate(sheets)]
    columns = sheets[0][1]
    styles.append(size_rule("#distilled i", count, columns, height, width))
    notes = [] if count == images.shape[0] * images.shape[1] else [_part(count, images)]
    notes += [] if exact or not last else ["The last images are exact; those before them are JPEG pictures."]
    note = f"<p class='note'>{' '.join(notes)}</p>" if notes else ""
    return (
        f"<style>{''.join(styles)}</style>{_slider(moment_words(facts), last)}{note}"
        f"<div id='distilled' data-moment='{last}'>{_tiles(facts, columns)}</div>"
    )


def strip(facts: Facts, number: int) -> str:
    """One image of each class of a run, as one row of a comparison."""
    now = snapshot(0, facts.distilled.images[:1])
    images = now.images[0][spread(now.images.shape[1], 10)]
    members = [int(chosen(facts.distilled.images.shape)[1][m]) for m in spread(now.images.shape[1], 10)]
    names, labels = ([f(facts, 0, member) for member in members] for f in (_name, _label))
    return _sheet_of(f"strip{number}", images, names, labels)


def real_images(facts: Facts) -> str:
    """Some real images, one of each class; empty where none were kept."""
    if facts.scored is None or not len(facts.scored.real_images):
        return ""
    images, classes = facts.scored.real_images, facts.scored.real_classes
    fit = spread(len(images), max(1, FRAME_BYTES // images[0].size))
    names = [facts.class_names[c] for c in classes[fit]]
    exact = images[fit].nbytes <= EXACT_BYTES
    return _sheet_of("real", images[fit], [f"a real image of class {name}" for name in names], names, exact=exact)


def _sheet_of(name: str, images: np.ndarray, names: list[str], captions: list[str], *, exact: bool = True) -> str:
    picture, columns = sheet(images, exact=exact)
    count, height, width, _ = images.shape
    tiles = [tile(i, count, columns, height, width, names[i], one_line(captions[i], 20)) for i in range(count)]
    style = rule(f"#{name} i", picture) + size_rule(f"#{name} i", count, columns, height, width)
    return f"<style>{style}</style><div id='{name}' class='tiles {_kind(count)}'>{''.join(tiles)}</div>"


def _tiles(facts: Facts, columns: int) -> str:
    """The images of each step, below the step's number."""
    images = facts.distilled.images
    height, width, _ = images.shape[2:]
    steps, members = chosen(images.shape)
    count, parts = len(steps) * len(members), []
    for row, step in enumerate(steps):
        tiles = [
            tile(
                row * len(members) + i, count, columns, height, width,
                _name(facts, int(step), int(member)), one_line(_label(facts, int(step), int(member)), 20),
            )
            for i, member in enumerate(members)
        ]  # fmt: skip
        title = f"<h3>Step {step} <span class='note'>step sizes {_sizes(facts, int(step))}</span></h3>"
        parts.append(
            f"{title if images.shape[0] > 1 else ''}<div class='tiles {_kind(len(members))}'>{''.join(tiles)}</div>"
        )
    return "".join(parts)


def _kind(count: int) -> str:
    """The style of a grid: rows of ten, or of as many as fit."""
    return "ten" if count % 10 == 0 and count <= 50 else "few" if count < 10 else "many"


def _label(facts: Facts, step: int, member: int) -> str:
    return label_in_words(np.asarray(facts.distilled.labels[step, member]), facts.class_names)


def _name(facts: Facts, step: int, member: int) -> str:
    return f"{_label(facts, step, member)} · step {step} · image {member} · step sizes {_sizes(facts, step)}"


def _sizes(facts: Facts, step: int) -> str:
    """The step sizes that a step has, one for each epoch."""
    sizes = facts.distilled.step_sizes[step :: facts.distilled.images.shape[0]]
    return ", ".join(f"{size:.3g}" for size in sizes[:_SIZES]) + (" …" if len(sizes) > _SIZES else "")


def _slider(words: list[str], last: int) -> str:
    told = "<span class='told'>Point at an image for its label, step and step sizes.</span>"
    if not last:
        return f"<div class='time' data-of='distilled'>{told}</div>"
    kept = html.escape(json.dumps(words, ensure_ascii=False))
    return (
        f"<div class='time' data-of='distilled'><input type='range' min='0' max='{last}' value='{last}' hidden "
        f"autocomplete='off' aria-label='training time' data-words='{kept}'>"
        f"<output>{html.escape(words[-1])}</output>{told}</div>"
    )


def _part(count: int, images: np.ndarray) -> str:
    return f"{count:,} of {images.shape[0] * images.shape[1]:,} images shown; distilled.npz has all."
