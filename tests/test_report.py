"""The pictures and the page of a run, whatever its classes are called, and however many images it has."""

import html.parser
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Distilled
from dd_jax.distilled import noise
from dd_jax.files.figures import draw_curve, draw_images, to_png
from dd_jax.files.page import html_report
from dd_jax.files.text import one_line
from experiments.record import print_result
from experiments.reported import fields


def drawn(figure) -> Any:
    """The picture, and the column and row where each image begins in it."""
    picture = figure.axes[0].images[0].get_array()
    corners = [np.rint(path.vertices[0] + 0.5).astype(int) for path in figure.axes[0].collections[0].get_paths()]
    return picture, corners


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def labelled(classes, steps, per_class, shape=(4, 4, 1), epochs=1):
    return noise(jax.random.key(0), shape, classes, steps=steps, epochs=epochs, images_per_class=per_class)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("steps", "per_class"), [(1, 1), (3, 1), (1, 9), (2, 10)])
def test_every_image_is_drawn_in_order_and_the_page_stays_narrow(steps, per_class, depth):
    distilled = labelled(7, steps, per_class, (4, 4, depth))
    figure = draw_images(distilled, "abcdefg")
    picture, corners = drawn(figure)
    assert len(corners) == steps * 7 * per_class
    assert corners == sorted(corners, key=lambda corner: (corner[1], corner[0]))  # line by line
    assert figure.get_figwidth() <= 20
    shown = np.stack([picture[top : top + 4, left : left + 4] for left, top in corners])
    spread = 4 * float(distilled.images.std())
    wanted = np.clip(0.5 + np.asarray(distilled.images) / spread, 0, 1).reshape(-1, 4, 4, depth)
    np.testing.assert_allclose(shown, np.broadcast_to(255 * wanted, shown.shape), atol=0.51)
    assert (np.delete(picture, np.unique([y + i for _, y in corners for i in range(4)]), axis=0) == 255).all()
    said = texts(figure)
    assert [text for text in said if len(text) == 1] == sorted("abcdefg" * per_class)
    assert [text.split()[1] for text in said if text.startswith("step")] == [str(s) for s in range(steps)]
    assert not any("images shown" in text for text in said)


def test_a_title_is_told_again_where_the_class_is_another():
    distilled = labelled(3, 2, 1)
    other = distilled._replace(labels=distilled.labels.at[1].set(distilled.labels[1, ::-1]))
    assert [text for text in texts(draw_images(other, "abc")) if len(text) == 1] == ["a", "b", "c", "c", "a"]


def test_the_step_sizes_of_many_epochs_are_told_on_several_lines():
    distilled = noise(jax.random.key(0), (4, 4, 1), 7, steps=1, epochs=15, step_size=0.0123)
    label = texts(draw_images(distilled, "abcdefg"))[0]
    assert label.count("0.0123") == 15
    assert max(map(len, label.splitlines())) <= 40


def test_the_step_sizes_of_a_hundred_epochs_do_not_leave_their_row():
    label = texts(draw_images(labelled(7, 2, 1, epochs=100), "abcdefg"))[0]
    assert len(label.splitlines()) <= 9
    assert label.endswith("…")


@pytest.mark.parametrize("classes", [10, 1000])
def test_of_thousands_of_images_a_part_is_drawn_and_the_picture_says_so(classes):
    distilled = Distilled(
        jnp.zeros((10, 1000, 4, 4, 3)),
        jnp.broadcast_to(jnp.repeat(jnp.eye(classes), 1000 // classes, axis=0), (10, 1000, classes)),
        jnp.zeros(30),
    )
    figure = draw_images(distilled, [f"class {c}" for c in range(classes)])
    _, corners = drawn(figure)
    assert len(figure.axes) == len(figure.axes[0].images) == 1
    assert 100 <= len(corners) <= 1000
    assert f"{len(corners)} of 10,000 images shown" in texts(figure)
    assert max(figure.get_size_inches()) < 60
    assert sum(text.startswith("step") for text in texts(figure)) == 10
    assert len({text for text in texts(figure) if text.startswith("class")}) == min(classes, len(corners) // 10)


def test_of_hundreds_of_steps_some_are_drawn_from_the_first_on():
    figure = draw_images(labelled(2, 300, 1), "ab")
    steps = [int(text.split()[1]) for text in texts(figure) if text.startswith("step")]
    assert len(steps) <= 60
    assert steps[0] == 0
    assert steps[-1] > 250
    assert "of 600 images shown" in texts(figure)[-1]


NAMES = [
    "smile",
    "$_$",
    r"\frac{",
    "a_b^c",
    "猫と犬",
    "العربية",
    "हिन्दी",
    "😀👍🏽",
    "",
    "n" * 500,
    "one\ntwo\t\x00",
    "\udce9t",
]


def test_names_are_drawn_as_they_are_without_a_word_of_warning(capsys):
    figure = draw_images(labelled(len(NAMES), 1, 1), NAMES)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        png = to_png(figure)
    assert png.startswith(b"\x89PNG")
    assert said == []
    assert "".join(capsys.readouterr()) == ""
    assert texts(figure)[1:] == [*NAMES[:9], "n" * 11 + "…", "one two", "?t"]
    assert png == to_png(draw_images(labelled(len(NAMES), 1, 1), NAMES))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("automobile", "automobile"),
        ("abcdefghijkl", "abcdefghijkl"),
        ("abcdefghijklm", "abcdefghijk…"),
        ("猫" * 6, "猫" * 6),
        ("猫" * 7, "猫" * 5 + "…"),
        ("  a \r\n b  ", "a b"),
    ],
)
def test_a_long_name_is_cut_to_the_width_of_its_image(name, shown):
    assert one_line(name, 12) == shown


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("everywhere", [False, True])
def test_pixels_that_are_no_numbers_are_drawn(value, everywhere):
    distilled = labelled(3, 1, 1)
    images = np.array(distilled.images)
    images[:, :, : 4 if everywhere else 1] = value
    figure = draw_images(distilled._replace(images=images, step_sizes=np.full(1, value, np.float32)), "abc")
    assert to_png(figure).startswith(b"\x89PNG")
    if not everywhere:  # the other pixels are still told apart
        assert len(np.unique(drawn(figure)[0])) > 4 or value == 3e38


@pytest.mark.parametrize(
    "losses", [[], [0.0, -1.0], [np.nan] * 3, [np.inf, 1.0], [2.0, 0.0, np.nan, -1.0, 0.5], [1.0], [0.5] * 200]
)
@pytest.mark.parametrize("validation", [[], [0.5, np.nan]])
def test_a_curve_is_drawn_whatever_was_measured(losses, validation):
    metrics = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]
    metrics += [{"step": step, "validation_accuracy": accuracy} for step, accuracy in enumerate(validation)]
    figure = draw_curve(metrics)
    assert to_png(figure).startswith(b"\x89PNG")
    shown = np.asarray(figure.axes[0].lines[0].get_ydata())
    np.testing.assert_array_equal(shown[np.isfinite(shown)], [v for v in losses if np.isfinite(v) and v > 0])


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_says_what_it_was_given_and_runs_none_of_it():
    nasty = "</pre><script>alert('\"&\ud800')</script>"
    score = {"mean": 0.5, "std": 0.1, "n": 2}
    result = {
        "experiment": "fixed_init",
        "preset": nasty,
        "outer_steps": 1,
        "wall_seconds": 1.0,
        "seed": 0,
        "device": nasty,
        "versions": {"dd_jax": "0", "jax": "0"},
        "test_accuracy": {"before": score, "after": score},
        "reported": None,
        "reported_before": None,
        "config": {"dataset": nasty, "$_$": "汉字\n"},
    }
    text = html_report(result, np.array([0.1, np.nan]), 1, {nasty: b"png"})
    page = _Page()
    page.feed(text.encode().decode())
    assert "script" not in page.tags
    assert page.tags.count("pre") == page.tags.count("img") == 1
    shown = nasty.replace("\ud800", "?")
    assert f"fixed_init · {shown}" in page.words
    assert shown in page.words
    assert "汉字" in text


@pytest.mark.parametrize(("checked", "said"), [(True, "checked"), (False, "from memory")])
def test_a_figure_of_the_paper_says_whether_it_was_checked(checked, said, capsys):
    """On the page, and where a run ends."""
    score = {"mean": 0.5, "std": 0.0, "n": 1}
    result = {
        "experiment": "fixed_init",
        "preset": "mnist",
        "networks": "known",
        "outer_steps": 1,
        "wall_seconds": 1.0,
        "seed": 0,
        "device": "",
        "versions": {"dd_jax": "0", "jax": "0"},
        "test_accuracy": {"before": score, "after": score},
        **fields({"before": 0.129, "after": 0.795, "std": 0.081, "checked": checked}),
        "config": {},
    }
    print_result(result, Path("run"))
    for text in (html_report(result, np.array([0.1]), 1, {}), capsys.readouterr().out):
        assert f"12.9 % ({said})" in text
        assert f"79.5 ± 8.1 % ({said})" in text
