"""The README and docs/ hold: their Python runs, their commands are understood, and their links lead somewhere."""

import contextlib
import dataclasses
import importlib
import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.distilled import images_of_classes
from dd_jax.files.distilled_file import load_distilled
from experiments import command_line, distil
from experiments.distilled import check_distilled_setting
from experiments.inner import check_inner
from experiments.nets import nets_of
from experiments.problem import data_of, network_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def examples_in(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def python_examples(page):
    return examples_in((ROOT / page).read_text())


def test_the_example_distils_ten_images_for_a_classifier(capsys):
    (example,) = python_examples("README.md")
    names: dict = {}
    exec(example, names)
    assert names["run"].distilled.images.shape == (1, 10, 8, 8, 1)
    before, after = names["run"].scores.accuracy[0]
    assert before < 0.2 < 0.85 < after
    assert len(capsys.readouterr().out.splitlines()) == 20 + 1


def files_of(page):
    """The files that the examples of a page are, by name."""
    if page != "docs/own_network.md":
        return {"mine.py": "\n\n".join(python_examples(page))}
    before, after = (ROOT / page).read_text().split("\n## From Python\n")
    return {name: "\n\n".join(examples_in(text)) for name, text in (("mine.py", before), ("run.py", after))}


@contextlib.contextmanager
def imported_from(page, folder):
    """The examples of a page in ``mine.py``, imported from the current directory."""
    for name, text in files_of(page).items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "mine", raising=False)
        yield importlib.import_module("mine")
        del sys.modules["mine"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """The examples of docs/extending.md; they have run."""
    with imported_from("docs/extending.md", tmp_path_factory.mktemp("pieces")) as module:
        yield module


@pytest.fixture
def mine(tmp_path):
    """The functions of docs/own_network.md."""
    with imported_from("docs/own_network.md", tmp_path) as module:
        yield module


def test_the_examples_of_extending_distil_with_pieces_from_outside(pieces):
    assert pieces.data.class_names == ("plain", "striped")
    assert (pieces.images.shape, pieces.labels.shape) == ((16, 8, 8, 1), (16, 2))
    assert pieces.info.finite
    for part in ("images", "labels", "step_sizes", "hyper"):  # each is learned
        before, after = getattr(pieces.first, part), getattr(pieces.distilled, part)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))), part
    np.testing.assert_allclose(pieces.distilled.labels.sum(-1), 1, rtol=1e-5)
    assert np.abs(pieces.distilled.images).max() < 3
    assert pieces.score.accuracy > 0.9


def test_the_order_and_the_window_of_extending_are_what_the_page_says(pieces):
    np.testing.assert_array_equal(pieces.backwards(None, 3, 1, 5), [2, 1, 0, 2, 1])
    starts = jax.vmap(lambda key: pieces.near_the_end(key, 7))(jax.random.split(jax.random.key(0), 30))
    assert set(starts.tolist()) == {5, 6, 7}


def test_the_run_of_own_network_uses_its_pieces_and_writes_a_file(mine, tmp_path, capsys):
    called = set()

    def noted(name, function):
        return lambda *arguments: called.add(name) or function(*arguments)

    for name in ("focal", "mirrored"):
        setattr(mine, name, noted(name, getattr(mine, name)))
    names: dict = {}
    exec((tmp_path / "run.py").read_text(), names)
    assert called == {"focal", "mirrored"}
    assert names["before"] < 0.3 < 0.7 < names["after"]
    assert re.fullmatch(r"(\d+ of 100: loss \d\.\d+, validation \d+\.\d%\n)+", capsys.readouterr().out)
    held = load_distilled(tmp_path / "distilled.npz")
    np.testing.assert_array_equal(held.images, names["images"])
    assert held.meta["class_names"] == [str(digit) for digit in range(10)]


def test_the_objective_of_own_network_counts_easy_examples_less(mine):
    logits, labels = jnp.array([[4.0, 0.0], [0.0, 0.0]]), jnp.eye(2)[np.zeros(2, int)]
    easy, hard = mine.focal(logits, labels) / mine.dd.cross_entropy(logits, labels)
    assert easy < 0.001
    assert hard == pytest.approx(0.25)


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


OWN = [line for line in commands(ROOT / "docs/own_network.md") if "mine:" in line]


@pytest.mark.parametrize("command", OWN)
def test_the_commands_of_own_network_find_its_functions(command, mine, monkeypatch):
    *_, config = understood(command, monkeypatch)
    network = network_of(config, (8, 8, 1), classes=2)
    theta = jax.eval_shape(network.init, jax.random.key(0))
    width = 8 if "width=8" in command else 16
    assert theta["params"]["Conv_0"]["kernel"].shape == (3, 3, 1, width)
    assert distil.criterion_of(config.objective) is (mine.focal if config.objective else mine.dd.cross_entropy)


def test_the_law_of_own_network_is_drawn_on_the_command_line(mine, monkeypatch):
    (halved,) = (command for command in OWN if "halved" in command)
    drawn = []
    for command in (halved, halved.replace("halved", "small")):
        *_, config = understood(command, monkeypatch)
        network = network_of(config, (8, 8, 1), classes=2)
        drawn.append(nets_of(config.weights, network, (8, 8, 1), config.seed).training(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-6), *drawn)


def test_the_command_of_extending_reads_its_data(monkeypatch, pieces):
    (command,) = commands(ROOT / "docs/extending.md")
    *_, config = understood(command, monkeypatch)
    assert data_of(config).dataset.class_names == pieces.data.class_names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_checkout_lead_to_a_file_or_folder(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    missing = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert not missing
