"""Pictures that stay on the host: readers of the exact TFDS formats, crops, batches ahead of the step, evaluation."""

import importlib
import io
import json
import logging

import jax
import numpy as np
import pytest
from PIL import Image

from dd_jax.data.dataset import Split, make_dataset
from dd_jax.data.readers import Chosen, RawData
from dd_jax.data.streamed import dataset as streamed_files
from dd_jax.data.streamed.ahead import batches_ahead, drawn_index
from dd_jax.data.streamed.crops import RATIO, SCALE, cropped_and_flipped, random_box, resized
from dd_jax.data.streamed.dataset import streamed_dataset
from dd_jax.data.streamed.originals import of_classes, open_source, within
from dd_jax.evaluation import confusion, evaluate
from dd_jax.networks import make_network
from experiments import evaluate as evaluate_experiment
from experiments import fixed_init, pretrain, transfer
from experiments.scoring import scorer


def picture(rng, label, height, width):
    """Smooth, so that crops and sizes matter little, and of a colour that tells the class."""
    colour = np.eye(3)[label % 3] * 160 + rng.uniform(0, 60, 3)
    shade = np.linspace(0.7, 1, height)[:, None, None] * np.linspace(0.8, 1, width)[None, :, None]
    return np.uint8(colour * shade)


@pytest.fixture(autouse=True)
def cached(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of pictures of many sizes, some grey, in two splits."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 7)):
        for label, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(picture(rng, label, *rng.integers(20, 40, 2)))
                image.save(root / split / name / f"{i}.png")
    Image.fromarray(np.full((25, 30), 90, np.uint8)).save(root / "train" / "green" / "3.png")
    return root


def whole(source, part):
    return [part.picture(i) for i in range(len(part.labels))]


def test_a_picture_is_resized_as_a_whole_whatever_its_shape():
    rgb = picture(np.random.default_rng(1), 0, 31, 18)
    np.testing.assert_array_equal(resized(rgb, 12), Image.fromarray(rgb).resize((12, 12), Image.Resampling.BICUBIC))
    grey = resized(rgb[..., :1], 12)
    assert grey.shape == (12, 12, 3) and (grey == grey[..., :1]).all()
    part = resized(rgb, 12, (2, 3, 10, 13))
    np.testing.assert_allclose(
        part, resized(rgb[3:13, 2:10], 12), atol=2
    )  # but for the border, where the filter reaches


@pytest.mark.parametrize(("height", "width"), [(300, 400), (30, 28), (500, 60), (2, 90)])
def test_random_boxes_are_within_the_picture_and_of_the_shapes_that_torchvision_draws(height, width):
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, height, width) for _ in range(400)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    rows, columns = bottom - top, right - left
    assert rows.min() >= 1 and columns.min() >= 1
    if min(height, width) > 100:
        share, ratio = rows * columns / (height * width), columns / rows
        assert SCALE[0] * 0.95 < share.min() < 0.1 and 0.85 < share.max() <= 1
        assert RATIO[0] * 0.97 < ratio.min() < 0.78 and 1.28 < ratio.max() < RATIO[1] * 1.03
        assert np.mean(np.log(ratio) > 0) == pytest.approx(0.5, abs=0.1)
        assert left.max() > width / 2 and top.max() > height / 2
    if height == 2:  # too wide for every try: the middle, as near to the shape as there is
        assert set(map(tuple, boxes)) == {(43, 0, 46, 2)}


def test_crops_are_mirrored_in_half_of_the_cases():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    mirrored = [
        crop[:, :4].mean() > crop[:, -4:].mean()
        for crop in (cropped_and_flipped(np.random.default_rng(i), image, 16) for i in range(300))
        if np.ptp(crop) > 200
    ]
    assert len(mirrored) > 100 and np.mean(mirrored) == pytest.approx(0.5, abs=0.12)


def test_a_batch_depends_on_its_step_alone_and_a_resumed_run_has_the_same(folder):
    source = open_source(str(folder))
    at = drawn_index(len(source.train.labels), 5, 3)
    straight = batches_ahead(source.train, at, 16, 7, last=5)
    batches = [straight(step) for step in range(1, 6)]
    resumed = batches_ahead(source.train, at, 16, 7, last=5, workers=1)
    for step in (4, 2, 2, 5):
        for one, other in zip(resumed(step), batches[step - 1], strict=True):
            np.testing.assert_array_equal(one, other)
    images, labels = batches[0]
    assert images.shape == (5, 16, 16, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, source.train.labels[at(1)])
    assert np.abs(images - batches_ahead(source.train, at, 16, 8)(1)[0].astype(int)).max() > 5  # of another seed
    assert len({batch[0].tobytes() for batch in batches}) == 5


def test_the_next_batch_is_begun_before_it_is_asked_for(folder):
    source, asked = open_source(str(folder)), []
    noted = source.train._replace(picture=lambda i: asked.append(i) or source.train.picture(i))
    ahead = batches_ahead(noted, lambda step: np.arange(3) + 10 * step, 8, 0, last=2, workers=1)
    ahead(1)
    ahead(1)
    ahead(2)
    assert asked == [10, 11, 12, 20, 21, 22]


def test_splits_are_resized_once_and_are_those_of_resident_data(folder, monkeypatch, caplog):
    source = open_source(str(folder))
    dataset, originals, content = streamed_dataset(source, 12, validation_fraction=0.2, seed=1)
    train, test = (np.stack([resized(p, 12) for p in whole(source, part)]) for part in (source.train, source.test))
    raw = RawData(train, source.train.labels, test, source.test.labels, source.class_names)
    resident = make_dataset(raw, validation_fraction=0.2, seed=1)
    for ours, theirs in zip(dataset[:3], resident[:3], strict=True):
        assert isinstance(ours.images, np.memmap)
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        for field in ("mean", "std"):
            np.testing.assert_array_equal(getattr(ours.normalisation, field), getattr(theirs.normalisation, field))
    assert dataset.class_names == ("blue", "green", "red") and len(content) == 12
    for i in (0, 17):
        np.testing.assert_array_equal(resized(originals.picture(i), 12), dataset.train.images[i])
    np.testing.assert_array_equal(originals.labels, dataset.train.labels)
    monkeypatch.setattr(streamed_files, "resized", None)  # the second time must not decode again
    again = streamed_dataset(open_source(str(folder)), 12, validation_fraction=0.2, seed=1)
    np.testing.assert_array_equal(again.dataset.train.images, dataset.train.images)
    assert again.content == content
    with pytest.raises(TypeError):
        streamed_dataset(source, 12, validation_fraction=0.2, seed=2)  # of another split
    assert not [path for path in streamed_files.cache_folder().iterdir() if path.name.startswith(".")]


def test_pictures_that_cannot_be_decoded_are_counted_and_named_and_skipped_up_to_a_limit(folder, tmp_path, caplog):
    damaged = tmp_path / "damaged"
    for path in folder.rglob("*.png"):
        target = damaged / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[:60] if path.name in ("5.png", "6.png") else path.read_bytes())
    with pytest.raises(
        ValueError, match=r"^dataset: 12 of 81 pictures cannot be decoded \(.*5.png: ValueError: .*and 7 "
    ):
        streamed_dataset(open_source(str(damaged)), 8, skip=11)
    with caplog.at_level(logging.WARNING):
        dataset, originals, _ = streamed_dataset(open_source(str(damaged)), 8, skip=12)
    assert "12 of 81 pictures cannot be decoded" in caplog.text and "left out" in caplog.text
    assert sum(len(split.labels) for split in dataset[:3]) == 69
    for i in range(len(originals.labels)):
        np.testing.assert_array_equal(resized(originals.picture(i), 8), dataset.train.images[i])
    for split in dataset[:3]:
        assert len(split.images) == len(split.labels) and split.images.reshape(len(split.labels), -1).any(1).all()


def test_splits_are_chosen_by_the_source_s_own_names(folder):
    """Here the other way round: what is called test is for training."""
    whole, turned = open_source(str(folder)), open_source(str(folder), Chosen("test", "train"))
    assert (len(turned.train.labels), len(turned.test.labels)) == (len(whole.test.labels), len(whole.train.labels))
    assert turned.train.name(0) == whole.test.name(0)
    assert turned.stamp != whole.stamp
    with pytest.raises(ValueError, match=r"has the folders 'test', 'train'; use one of them for test_split"):
        open_source(str(folder), Chosen("train", "holdout"))


def test_some_classes_of_pictures_are_numbered_anew(folder):
    source = open_source(str(folder))
    some = of_classes(source, (2, 0))
    assert some.class_names == ("red", "blue") and some.stamp != source.stamp
    numbers = np.flatnonzero(source.train.labels != 1)
    np.testing.assert_array_equal(some.train.labels, np.where(source.train.labels[numbers] == 2, 0, 1))
    np.testing.assert_array_equal(some.train.picture(25), source.train.picture(int(numbers[25])))


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Prepares a small set in the very format of a TFDS builder: its features, under its name and version."""
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def prepared(builder, splits, config=None):
        class Small(builder, skip_registration=True):
            name = builder.name

            def _split_generators(self, dl_manager):
                return {split: iter(enumerate(examples)) for split, examples in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

        options = {} if config is None else {"config": config}
        small = Small(data_dir=str(tmp_path / "tfds"), file_format="array_record", **options)
        small.download_and_prepare()
        assert json.loads((small.data_path / "features.json").read_text())

    return tfds, prepared


def picture_file(pixels, kind="jpeg"):
    Image.fromarray(pixels).save(file := io.BytesIO(), kind, quality=95)
    file.seek(0)
    return file


def test_birds_are_read_as_tfds_has_them(prepare):
    tfds, prepared = prepare
    rng = np.random.default_rng(0)

    def example(label):
        pixels = picture(rng, label, 20 + label % 7, 24)
        box = tfds.features.BBox(0.1, 0.2, 0.8, 0.9)
        mask = picture_file(np.zeros(pixels.shape[:2], np.uint8), "png")
        return {
            "image": picture_file(pixels),
            "image/filename": f"{label}.jpg",
            "label": label,
            "label_name": f"bird {label}",
            "bbox": box,
            "segmentation_mask": mask,
        }

    labels = [*range(200), *range(200)]
    prepared(
        importlib.import_module("tensorflow_datasets.image_classification.caltech_birds").CaltechBirds2011,
        {"train": [example(label) for label in labels], "test": [example(label) for label in range(0, 200, 20)]},
    )
    source = open_source("caltech_birds2011")
    assert len(source.class_names) == 200 and source.validation is None
    assert np.bincount(source.train.labels).tolist() == [2] * 200 and len(source.test.labels) == 10
    for part in (source.train, source.test):
        for i in (0, len(part.labels) - 1):
            label = part.labels[i]
            shown = part.picture(i)
            assert shown.shape == (20 + label % 7, 24, 3)  # whole, not its box
            assert shown[-1, -1].argmax() == label % 3
    dataset, *_ = streamed_dataset(source, 10, validation_fraction=0.5)
    assert [len(split.labels) for split in dataset[:3]] == [200, 200, 10]
    parts = open_source("caltech_birds2011", Chosen("train[:399]", "train[399:]"))
    assert (len(parts.train.labels), len(parts.test.labels)) == (399, 1)
    assert parts.test.picture(0).tobytes() == source.train.picture(399).tobytes()


def test_voc_s_objects_are_read_one_by_one_difficult_ones_too_and_trainval_is_for_training(prepare):
    tfds, prepared = prepare
    builder = tfds.object_detection.Voc
    rng, made = np.random.default_rng(0), {"train": [], "validation": [], "test": []}
    for split, count in (("train", 20), ("validation", 21), ("test", 5)):
        for i in range(count):
            pixels, objects = np.zeros((40, 60, 3), np.uint8), []
            for k in range(1 + i % 2):  # side by side
                label = (i + k) % 20
                pixels[10:30, 5 + 30 * k : 25 + 30 * k] = picture(rng, label, 20, 20)
                box = tfds.features.BBox(10 / 40, (5 + 30 * k) / 60, 30 / 40, (25 + 30 * k) / 60)
                objects.append({"label": label, "bbox": box, "pose": 0, "is_truncated": False, "is_difficult": bool(k)})
            labels = sorted({o["label"] for o in objects})
            made[split].append(
                {
                    "image": picture_file(pixels),
                    "image/filename": f"{i}.jpg",
                    "objects": objects,
                    "labels": labels,
                    "labels_no_difficult": [objects[0]["label"]],
                }
            )
    prepared(builder, made, "2007")
    source = open_source("voc/2007")
    assert source.class_names[:2] == ("aeroplane", "bicycle") and len(source.class_names) == 20
    counts = {split: sum(len(e["objects"]) for e in examples) for split, examples in made.items()}
    assert source.validation is None
    assert (len(source.train.labels), len(source.test.labels)) == (
        counts["train"] + counts["validation"],
        counts["test"],
    )
    for part in (source.train, source.test):
        for i, label in enumerate(part.labels):
            crop = part.picture(i)
            assert crop.shape == (20, 20, 3) and crop.min() > -1
            assert crop[10, 10].argmax() == label % 3 and crop[-3, -3].max() > 80  # of the object, none of the black
    assert source.train.name(0).startswith("voc/2007 train 0")
    assert source.train.name(len(source.train.labels) - 1).startswith("voc/2007 validation 20")


def test_boxes_are_in_shares_of_the_sides_and_have_a_pixel_at_least():
    image = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    np.testing.assert_array_equal(within(image, (0.25, 0.1, 0.75, 0.5)), image[10:30, 5:25])
    assert within(image, (0.999, 0.999, 1.0, 1.0)).shape == (1, 1, 3)
    assert within(image, (-0.1, 0.0, 1.2, 1.0)).shape == image.shape
    assert within(image, (0.5, 0.5, 0.5, 0.5)).shape == (1, 1, 3)


def test_a_set_that_is_not_there_says_what_to_get_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    import dd_jax.data.readers.tfds as reader

    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda name: None)
    for name in ("caltech_birds2011", "voc/2007"):
        told = rf"^dataset: TFDS set '{name}' is not in .*nowhere, .* put a prepared copy .* into .*nowhere/{name}, or "
        with pytest.raises(ValueError, match=told + rf".*tfds build {name} --file_format=array_record"):
            open_source(name)
    with pytest.raises(
        ValueError, match=r"^dataset: ./elsewhere cannot be streamed; use a folder of pictures by class"
    ):
        open_source("./elsewhere")


@pytest.mark.parametrize("measure", [evaluate, confusion])
def test_a_split_on_the_host_is_scored_in_parts_as_one_on_the_device(measure):
    rng = np.random.default_rng(0)
    raw = RawData(
        rng.integers(0, 256, (660, 4, 4, 3), np.uint8), np.arange(660, dtype=np.int32) % 3, None, None, ("a", "b", "c")
    )
    data = make_dataset(raw, validation_fraction=0.2)
    network = make_network("mlp", (4, 4, 3), 3, options={"hidden": (5,)})
    from dd_jax.distilled import noise

    distilled = noise(jax.random.key(0), (4, 4, 3), 3, steps=2, epochs=2, step_size=0.5)
    keys = jax.random.split(jax.random.key(1), 3)
    score = scorer(data, network, at=(0, 3), measure=measure)
    train = data.train
    on_host = Split(np.asarray(train.images), np.asarray(train.labels), train.normalisation)
    assert len(on_host.labels) > 250
    for one, other in zip(
        jax.tree.leaves(score(distilled, (keys, network.init), train)),
        jax.tree.leaves(score(distilled, (keys, network.init), on_host)),
        strict=True,
    ):
        assert one.shape[:2] == (3, 2)
        np.testing.assert_allclose(one, other, rtol=1e-5)


STREAMED = ["--network", "mlp", "--images.streamed", "--images.size", "12", "--validation-fraction", "0.2"]
SHORT = ["--batch-size", "16", "--switch-width", "0", "--distilled.step-size", "0.1"]


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["replaced", "epochs"])
def test_a_streamed_run_goes_on_with_the_same_batches(folder, tmp_path, monkeypatch, batches):
    command = ["--dataset", str(folder), *STREAMED, *SHORT, "--batches", batches, "--checkpoint-seconds", "1e-9"]
    options = ["--outer.steps", "6", "--outer.perturbations", "1", "--shift", "0"]
    fixed_init.main([*command, *options, "--workdir", str(tmp_path / "whole")])
    from experiments import distil

    class Cut(Exception):
        pass

    def cut(config, prepared, compile_=distil._compile):
        update = compile_(config, prepared)

        def until(state, step):
            if step == 4:
                raise Cut
            return update(state, step)

        return until

    with monkeypatch.context() as patch:
        patch.setattr(distil, "_compile", cut)
        with pytest.raises(Cut):
            fixed_init.main([*command, *options, "--workdir", str(tmp_path / "cut")])
    fixed_init.main([*command, *options, "--workdir", str(tmp_path / "cut")])
    one, other = (evaluate_experiment.load(tmp_path / name).images for name in ("whole", "cut"))
    np.testing.assert_array_equal(one, other)
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    scores = evaluate_experiment.run(tmp_path / "whole", evaluate_experiment.Config())["scores"]
    assert scores[-1]["accuracy"] == result["test_accuracy"]["after"]
    fixed_init.main([*command, *options, "--workdir", str(tmp_path / "whole")])  # finished: shown and left as it is
    (folder / "train" / "red" / "0.png").touch()


@pytest.mark.slow
def test_a_streamed_transfer_has_its_baselines_and_is_fine_tuned(folder, tmp_path, monkeypatch):
    bank = ["--dataset", str(folder), *STREAMED, "--images.classes", "0", "1", "--networks", "1", "--held-out", "0"]
    recipe = ["--recipe.epochs", "6", "--recipe.batch-size", "8", "--recipe.learning-rate", "0.003"]
    pretrain.main(["digits", *bank, *recipe, "--recipe.keep-last", "--workdir", str(tmp_path / "bank")])
    assert json.loads((tmp_path / "bank" / "result.json").read_text())["test_accuracy"]["train"]["mean"] > 0.9
    workdir = tmp_path / "run"
    transfer.main(
        ["cifar10_halves_1", "--dataset", str(folder), *STREAMED, *SHORT, "--images.classes", "1", "2",
         "--weights.bank", str(tmp_path / "bank"), "--no-augment", "--outer.steps", "4", "--sets", "2",
         "--candidates", "5", "--fine-tuned", "2", "--epochs", "3", *recipe,
         "--workdir", str(workdir)]
    )  # fmt: skip
    table, tuned = (json.loads((workdir / f"{name}/result.json").read_text()) for name in ("baselines", "fine_tuned"))
    rows = {row["name"]: row["accuracy"]["mean"] for row in table["rows"]}
    assert [name for name in rows if "run" not in name] == [
        "no adaptation", "random real", "optimized real", "average real", "full fine-tuning",
    ]  # fmt: skip
    assert (
        rows["full fine-tuning"] == pytest.approx(tuned["test_accuracy"]["train"]["mean"])
        and rows["full fine-tuning"] > 0.9
    )
    assert rows["no adaptation"] == 0.5


def test_settings_of_streams_that_have_no_effect_are_refused(folder, tmp_path):
    for options, message in (
        (["--images.streamed"], "images.size: None is not accepted; use a number of pixels, such as 224"),
        (
            ["--images.size", "12", "--images.skip", "1"],
            "images.skip: 1 is not accepted; use 0 without images.streamed",
        ),
        (["--images.streamed", "--images.size", "12", "--images.zca", "0.1"], "images.zca: 0.1 is not accepted"),
        (["--images.streamed", "--images.size", "12", "--images.channels", "1"], "images.channels: 1 is not accepted"),
        (["--images.streamed", "--images.size", "12", "--augment"], "augment: True is not accepted; use it without"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            fixed_init.main(
                ["--dataset", str(folder), "--network", "mlp", *options, "--workdir", str(tmp_path / "run")]
            )
    assert not (tmp_path / "run").exists()
