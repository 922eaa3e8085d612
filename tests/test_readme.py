"""The Python examples of the README and of docs/ run and do what they say, and their links lead somewhere."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def python_examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_examples_train_a_classifier_on_ten_images_and_take_an_objective():
    first, second = python_examples("README.md")
    names: dict = {}
    exec(first, names)
    assert names["distilled"].images.shape == (1, 10, 8, 8, 1)
    assert names["accuracy"] > 0.8
    batch = names["images"], names["labels"]
    start = names["outer"].init(names["state"].params)
    _, plain = names["outer"].update(jax.random.key(0), start, names["theta"], batch)
    exec(second, names)
    _, info = names["outer"].update(jax.random.key(0), start, names["theta"], batch)
    zeros = np.asarray(batch[1][:, 0], bool)
    trained = names["trained"]
    share = names["loss"](trained, batch[0][zeros], batch[1][zeros]).mean() * zeros.mean()
    np.testing.assert_allclose(info.loss, plain.loss + share, rtol=1e-4)


def test_the_examples_of_extending_read_and_draw_stripes():
    names: dict = {}
    for example in python_examples("docs/extending.md"):
        exec(example, names)
    assert names["raw"].class_names == ("plain", "striped")
    assert (names["images"].shape, names["labels"].shape) == ((16, 8, 8, 1), (16, 2))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_checkout_lead_to_a_file_or_folder(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    missing = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert not missing
