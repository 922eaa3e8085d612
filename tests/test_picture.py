"""The picture of a run's images, whatever its classes are called, and however many images it has."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Distilled
from dd_jax.distilled import noise
from dd_jax.files.figures import draw_images, to_png
from dd_jax.files.text import one_line


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
