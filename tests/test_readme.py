"""The README and docs/ hold: their Python runs, their commands are understood, and their links lead somewhere."""

import dataclasses
import importlib
import re
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dd_jax.distilled import images_of_classes
from experiments import command_line, distil
from experiments.distilled import check_distilled_setting
from experiments.inner import check_inner
from experiments.problem import assemble

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


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The examples of docs/extending.md as the file that the page says they are, in the current directory."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text("\n\n".join(python_examples("docs/extending.md")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield importlib.import_module("mine")
    del sys.modules["mine"]


def test_the_examples_of_extending_distil_with_pieces_from_outside(mine):
    assert mine.data.class_names == ("plain", "striped")
    assert (mine.images.shape, mine.labels.shape) == ((16, 8, 8, 1), (16, 2))
    assert mine.info.finite
    for part in ("images", "labels", "step_sizes", "hyper"):  # each is learned
        before, after = getattr(mine.first, part), getattr(mine.distilled, part)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))), part
    np.testing.assert_allclose(mine.distilled.labels.sum(-1), 1, rtol=1e-5)
    assert np.abs(mine.distilled.images).max() < 3
    assert mine.score.accuracy > 0.9


def test_the_order_and_the_window_of_extending_are_what_the_page_says(mine):
    np.testing.assert_array_equal(mine.backwards(None, 3, 1, 5), [2, 1, 0, 2, 1])
    starts = jax.vmap(lambda key: mine.near_the_end(key, 7))(jax.random.split(jax.random.key(0), 30))
    assert set(starts.tolist()) == {5, 6, 7}


@dataclasses.dataclass
class Called(Exception):
    """In place of an experiment: what its command line was understood as."""

    arguments: tuple


def understood(command, monkeypatch):
    """What ``python -m experiments.NAME …`` would run."""
    _, _, module, *argv = shlex.split(command)
    experiment = importlib.import_module(module)

    def called(*arguments):
        raise Called(arguments)

    for owner in (experiment, distil):
        monkeypatch.setattr(owner, "run", called, raising=False)
    monkeypatch.setattr(command_line, "start", lambda hosts: None)  # meets no other processes
    with pytest.raises(Called) as found:
        experiment.main(argv)
    return found.value.arguments


def commands(page):
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("python -m experiments.")]


@pytest.mark.parametrize(  # those of tpu.md are in tests/test_cloud.py
    "command", sorted({command for page in PAGES if page.name != "tpu.md" for command in commands(page)})
)
def test_every_command_is_understood(command, monkeypatch):
    arguments = understood(command, monkeypatch)
    config = arguments[-1]
    if isinstance(config, distil.Config):
        distilled = config.distilled
        check_distilled_setting(distilled)
        images = distilled.steps * (distilled.images or sum(images_of_classes(distilled.images_per_class, 10)))
        check_inner(config.inner, distilled.steps * distilled.epochs, images, classes=10)


@pytest.mark.parametrize("command", commands(ROOT / "docs/extending.md"))
def test_the_commands_of_extending_find_its_functions(command, mine, monkeypatch):
    *_, config = understood(command, monkeypatch)
    problem = assemble(config, config.switch_width)
    assert problem.dataset.class_names == ("plain", "striped")
    theta = jax.eval_shape(problem.network.init, jax.random.key(0))
    width = 8 if "width=8" in command else 16
    assert theta["params"]["Conv_0"]["kernel"].shape == (3, 3, 1, width)
    assert distil.criterion_of(config.objective) is (mine.focal if config.objective else mine.dd.cross_entropy)


def test_the_law_of_extending_is_drawn_on_the_command_line(mine, monkeypatch):
    halved = next(command for command in commands(ROOT / "docs/extending.md") if "halved" in command)
    *_, config = understood(halved, monkeypatch)
    known = assemble(config, config.switch_width).nets.known
    *_, config = understood(halved.replace("halved", "small"), monkeypatch)
    whole = assemble(config, config.switch_width).nets.known
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-6), known, whole)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_checkout_lead_to_a_file_or_folder(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    missing = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert not missing
