"""Data of one's own: docs/own_data.md holds, splits have any names, and classes may be of unequal sizes."""

import dataclasses
import importlib
import io
import json
import re
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dd_jax.data.readers import tfds as tfds_reader
from dd_jax.files.distilled_file import load_distilled
from experiments import evaluate, fixed_init
from experiments.config_file import settings_from
from experiments.distil import Config
from experiments.distilled import check_distilled_setting
from experiments.first_data import initial_data
from experiments.problem import Problem, check_split, data_of
from experiments.recipe import settings_of
from experiments.scoring import is_imbalanced
from experiments.settings import Images, Setting

PAGE = (Path(__file__).parent.parent / "docs/own_data.md").read_text()
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
SETS = {  # sizes of splits, and labels of the sets of TFDS that the page names
    "usps": ({"train": 200, "test": 20}, range(10)),
    "emnist/letters": ({"train": 364, "test": 26}, range(1, 27)),
    "cats_vs_dogs": ({"train": 40}, range(2)),
    "svhn_cropped": ({"train": 200, "test": 20, "extra": 30}, range(10)),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The current directory, with mine.py and the files that it writes."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        mine = importlib.import_module("mine")
        mine.write_files()
        yield folder
    del sys.modules["mine"]


def small_set(name, folder):
    """A small TFDS set with the splits, the labels and the kind of images that a set of this name has."""
    tfds = pytest.importorskip("tensorflow_datasets")
    splits, labels = SETS[name]
    many, shape = name == "cats_vs_dogs", (28, 28, 1) if name == "emnist/letters" else (32, 32, 3)
    shape = (16, 16, 1) if name == "usps" else (None, None, 3) if many else shape
    classes = tfds.features.ClassLabel(num_classes=labels[-1] + 1)
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape), "label": classes})

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Random images."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, description="small")

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(size) for split, size in splits.items()}

        def _generate_examples(self, size):
            rng = np.random.default_rng(size)
            for i in range(size):
                sides = rng.integers(20, 40, 2) if many else shape[:2]
                pixels = rng.integers(0, 256, (*sides, shape[2]), dtype=np.uint8)
                Image.fromarray(pixels.squeeze()).save(png := io.BytesIO(), "png")
                png.seek(0)
                yield i, {"image": png, "label": labels[i % len(labels)]}

    builder = Small(data_dir=str(folder / name.replace("/", "_")), file_format="array_record")
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def config_of(here):
    """The settings of a command of the page, with the sets of TFDS that it names at hand."""
    builders = {}

    def prepared(name):
        builders[name] = builders.get(name) or small_set(name, here)
        return builders[name], ""

    def config(command):
        caught = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("experiments.distil.run", lambda experiment, preset, config: caught.append(config))
            _, _, module, *argv = shlex.split(command)
            importlib.import_module(module).main(argv)
        return caught[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds_reader, "prepared", prepared)
        yield config


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_find_data_that_its_network_takes(command, config_of):
    config: Config = config_of(command)
    check_distilled_setting(config.distilled)
    dataset, content, originals = data_of(config)
    assert dataset.image_shape[:2] in ((28, 28), (32, 32))
    assert (originals is not None) == config.images.streamed
    problem = Problem(dataset, None, None, {"data": content}, originals)  # pyright: ignore[reportArgumentType]
    distilled, _ = initial_data(jax.random.key(0), config, settings_of(config, Path()), problem)
    classes = len(dataset.class_names)
    if config.dataset == "mine:numbers":
        assert classes == 1000
    expected = config.distilled.images or np.broadcast_to(config.distilled.images_per_class, classes).sum()
    assert distilled.labels.shape == (1, expected, classes)
    if config.images.train_split != "train[:80%]":  # a random part
        assert is_imbalanced(dataset) == (config.dataset == "mine:unequal")
    sizes = [len(split.labels) for split in (dataset.train, dataset.validation, dataset.test)]
    if config.images.train_split == "good":
        assert sizes[2] == 397
    if config.images.train_split == "train[:80%]":
        assert (sizes[0] + sizes[1], sizes[2]) == (160, 40)
    if config.images.train_split == "train+extra":
        assert (sizes[0] + sizes[1], sizes[2]) == (230, 20)
    if config.dataset == "emnist/letters":
        assert dataset.class_names == tuple(map(str, range(1, 27)))


SMALL = ["--outer.steps", "2", "--batch-size", "32", "--outer.perturbations", "1"]


OF_ITS_OWN = (
    "./pictures",
    "--distilled.images 100",
    "--images.zca",
    "train[:80%]",
    "-per-class",
)  # not in a reader alone


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if any(part in command for part in OF_ITS_OWN)])
def test_the_commands_of_the_page_run(command, config_of, here, tmp_path):
    network = [] if "--dataset ./pictures" in command else ["--network", "mlp", "--network-options", "hidden=8"]
    fixed_init.main([*shlex.split(command)[3:], *network, *SMALL, "--workdir", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]["after"]["n"] == 1
    assert (tmp_path / "run" / "report.html").is_file()


UNEQUAL = ["--network", "mlp", "--network-options", "hidden=8", "--distilled.images-per-class", "3", "1", "2"]


def test_classes_of_unequal_sizes_are_told_apart_to_the_end(here, tmp_path, capsys):
    """An imbalanced set, with a number of images for each class: file, result, printed lines, page, evaluation."""
    run, classes = tmp_path / "run", ["--images.classes", "0", "4", "9"]
    fixed_init.main(["--dataset", "mine:unequal", *classes, *UNEQUAL, *SMALL, "--workdir", str(run)])
    said = capsys.readouterr().out
    result, file = json.loads((run / "result.json").read_text()), load_distilled(run / "distilled.npz")
    np.testing.assert_array_equal(file.labels.argmax(-1), [[0, 0, 0, 1, 2, 2]])
    assert result["config"]["distilled"]["images_per_class"] == [3, 1, 2]
    with np.load(run / "scores.npz") as scored:
        examples, right = scored["examples"], scored["right"]
    assert examples.max() > 1.5 * examples.min()
    for moment, of_classes in zip(("before", "after"), right / examples, strict=True):
        balanced = result["balanced_test_accuracy"][moment]
        assert balanced == {"mean": pytest.approx(of_classes.mean()), "std": 0.0, "n": 1}
        assert f"mean of the classes' accuracies {moment:>6} the steps: {100 * of_classes.mean():.2f} %" in said
    page = (run / "report.html").read_text()
    assert f"{100 * result['balanced_test_accuracy']['after']['mean']:.2f} %</td>" in page
    assert page.count("image 5 · step sizes") == page.count("image 0 · step sizes") >= 1
    assert "--distilled.images-per-class 3 1 2" in page  # the command that makes it again
    evaluate.main([str(run), "--output", str(tmp_path / "evaluation.json")])
    scores = json.loads((tmp_path / "evaluation.json").read_text())["scores"]
    for score, moment in zip(scores, ("before", "after"), strict=True):
        assert score["balanced_accuracy"] == pytest.approx(result["balanced_test_accuracy"][moment])
    _, config = settings_from(run / "config.json", "fixed_init", fixed_init.PRESETS)
    assert config.distilled.images_per_class == (3, 1, 2)


@pytest.mark.parametrize("name", ["train_split", "test_split"])
def test_a_bank_of_other_splits_may_have_seen_the_test_images_and_is_refused(tmp_path, name):
    parts = Setting("mine", images=dataclasses.replace(Images(), **{name: "train[:80%]"}))
    (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(parts), "data": "other"}))
    check_split(tmp_path, parts, "here")
    with pytest.raises(ValueError, match=rf"^images.{name}: None is not accepted; use train\[:80%\], as .* has"):
        check_split(tmp_path, Setting("mine"), "here")
    check_split(tmp_path, Setting("yours"), "here")


def test_unreadable_pictures_and_one_class_are_told_by_name(here, tmp_path):
    """As a command says it, before anything is written."""
    folder = tmp_path / "pictures"
    (folder / "cat").mkdir(parents=True)
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(folder / "cat" / "1.jpg")
    workdir = ["--workdir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=r"pictures holds 1 class folders; use one folder of images per class"):
        fixed_init.main(["--dataset", str(folder), "--images.size", "28", *workdir])
    (folder / "dog").mkdir()
    (folder / "dog" / "2.jpg").write_bytes((folder / "cat" / "1.jpg").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"dog/2.jpg cannot be read as an image \(.*\); save it anew .*, or remove it"):
        fixed_init.main(["--dataset", str(folder), "--images.size", "28", *workdir])
    np.savez(tmp_path / "one.npz", images=np.zeros((9, 28, 28), np.uint8), labels=np.full(9, 4))
    with pytest.raises(ValueError, match=r"one.npz has only one class, 4; use training examples of two or more"):
        fixed_init.main(["--dataset", str(tmp_path / "one.npz"), *workdir])
    assert not (tmp_path / "run").exists()
