"""Each exported form is read back by its library, and holds what distilled.npz holds."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dd_jax.data.normalisation import Normalisation, denormalise
from dd_jax.distilled import noise
from dd_jax.files.distilled_file import load_distilled, save_distilled
from experiments import evaluate, export

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "results/fixed_init/digits/distilled.npz"
CIFAR = ROOT / "results/random_init/cifar10/distilled.npz"


@pytest.fixture
def colour(tmp_path):
    """A small file of colour images of two steps, soft labels among them, and its content."""
    distilled = noise(jax.random.key(0), (4, 5, 3), 3, steps=2, epochs=2, step_size=0.1)
    distilled = distilled._replace(labels=distilled.labels.at[1, 2].set(jnp.array([0.5, 0.3, 0.2])))
    theta = {"params": {"Dense_0": {"kernel": jnp.arange(180.0).reshape(60, 3), "bias": jnp.arange(3.0)}}}
    meta = {"class_names": ["T-shirt/top", "..", "dog"], "dataset": "nowhere"}
    mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.3, 0.4])
    save_distilled(tmp_path / "distilled.npz", distilled, Normalisation(mean, std), meta, theta)
    return tmp_path / "distilled.npz", load_distilled(tmp_path / "distilled.npz")


def pixels_of(file):
    return np.asarray(denormalise(jnp.asarray(file.images), file.normalisation))


def exported(path, to, **settings):
    return export.run(path, export.Config(to, **settings))


def test_tensors_come_back_in_pytorch_s_layout(colour):
    torch = pytest.importorskip("torch")
    path, file = colour
    held = torch.load(exported(path, "pt"), weights_only=True)
    np.testing.assert_array_equal(np.moveaxis(held["images"].numpy(), 2, -1), file.images)
    np.testing.assert_array_equal(held["step_sizes"].numpy(), file.step_sizes)
    assert json.loads(held["meta"]) == file.meta
    weights, x = held["initial_weights"], torch.randn(2, 60)
    ours = x.numpy() @ file.initial_weights["params/Dense_0/kernel"] + file.initial_weights["params/Dense_0/bias"]
    theirs = torch.nn.functional.linear(x, weights["params/Dense_0/kernel"], weights["params/Dense_0/bias"])
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)


def test_convolutions_come_back_in_pytorch_s_layout_also_of_several_networks(tmp_path, colour):
    torch = pytest.importorskip("torch")
    _, file = colour
    kernel = np.random.default_rng(0).normal(size=(2, 3, 5, 3, 4)).astype(np.float32)  # of two networks
    theta = {"params": {"Conv_0": {"kernel": kernel, "bias": np.zeros((2, 4), np.float32)}}}
    save_distilled(tmp_path / "two.npz", file.distilled, file.normalisation, file.meta, theta)
    held = torch.load(exported(tmp_path / "two.npz", "pt", output=tmp_path / "two.pt"))["initial_weights"]
    theirs = held["params/Conv_0/kernel"].numpy()
    assert theirs.shape == (2, 4, 3, 3, 5)
    np.testing.assert_array_equal(theirs[1, 2, 0, 1, 4], kernel[1, 1, 4, 0, 2])


def test_safetensors_hold_every_array_and_the_facts(colour):
    library = pytest.importorskip("safetensors")
    path, file = colour
    with library.safe_open(exported(path, "safetensors"), "np") as held, np.load(path) as arrays:
        assert set(held.keys()) == set(arrays.files) - {"meta", "format_version"}
        for name in held.keys():  # noqa: SIM118, it is no mapping
            np.testing.assert_array_equal(held.get_tensor(name), arrays[name])
        assert json.loads(held.metadata()["meta"]) == file.meta
        assert held.metadata()["format_version"] == "2"


def test_png_files_come_back_within_half_a_level(colour, capsys):
    path, file = colour
    folder = exported(path, "png")
    index = json.loads((folder / "index.json").read_text())
    pixels = pixels_of(file)
    assert index["accuracy"] is None  # there is no such data set
    assert "the accuracy that 8 bits cost is not measured" in capsys.readouterr().err
    assert index["beyond"]["below 0"] == pytest.approx((pixels < 0).mean())
    assert index["beyond"]["above 1"] == pytest.approx((pixels > 1).mean())
    assert 0 < index["beyond"]["below 0"] < 1
    assert len(index["images"]) == 6
    level = (index["high"] - index["low"]) / 255
    for entry in index["images"]:
        stored = np.asarray(Image.open(folder / entry["file"]))
        assert stored.shape == (4, 5, 3)
        s, m = entry["step"], entry["place"]
        np.testing.assert_allclose(index["low"] + level * stored, pixels[s, m], atol=0.51 * level)
        np.testing.assert_array_equal(np.float32(entry["label"]), file.labels[s, m])
        assert entry["class"] == file.labels[s, m].argmax()
    assert index["images"][-1]["class"] == 0  # whose label is 0.5, 0.3, 0.2
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["0_T-shirt_top", "1__", "2_dog"]
    assert load_distilled(folder / "distilled.npz").meta == file.meta
    assert json.loads((folder / "distilled.json").read_text())["step_sizes"] == file.step_sizes.tolist()


def test_what_8_bits_cost_is_measured(colour, monkeypatch):
    path, file = colour
    pixels, measured = pixels_of(file), []

    def evaluated(source, version, config):
        assert (source, config.nets) == (path, None)  # it has a network of its own
        measured.append(pixels_of(version))
        return {"scores": [{"accuracy": {"mean": 0.1}}, {"accuracy": {"mean": 0.9 - 0.1 * len(measured)}}]}

    monkeypatch.setattr(evaluate, "evaluated", evaluated)
    index = json.loads((exported(path, "png") / "index.json").read_text())
    assert [round(score["mean"], 1) for score in index["accuracy"].values()] == [0.8, 0.7, 0.6]
    exact, in_8_bits, cut_off = measured
    np.testing.assert_allclose(exact, pixels, atol=1e-6)
    level = (index["high"] - index["low"]) / 255
    np.testing.assert_allclose(in_8_bits, pixels, atol=0.51 * level)
    assert np.abs(in_8_bits - pixels).max() > 0.3 * level
    np.testing.assert_allclose(cut_off, np.clip(pixels, 0, 1), atol=0.51 / 255)


def test_the_exact_images_of_the_digits_have_the_recorded_accuracy(tmp_path, capsys):
    export.main([str(DIGITS), "--to", "png", "--output", str(tmp_path / "digits")])
    index = json.loads((tmp_path / "digits/index.json").read_text())
    recorded = json.loads((DIGITS.parent / "result.json").read_text())["test_accuracy"]["after"]["mean"]
    accuracy = {name: score["mean"] for name, score in index["accuracy"].items()}
    assert accuracy["exact"] == pytest.approx(recorded, abs=2 / 355)
    assert accuracy["exact"] - accuracy["in 8 bits"] < 0.1
    assert f"test accuracy in 8 bits: {100 * accuracy['in 8 bits']:.2f} %" in capsys.readouterr().out


def test_a_tfds_set_comes_back(colour):
    import tensorflow_datasets as tfds

    path, file = colour
    folder = exported(path, "tfds")
    builder = tfds.builder_from_directory(folder)
    rows = list(builder.as_data_source("train"))
    assert len(rows) == 6
    for row in rows:
        s, m = int(row["step"]), int(row["place"])
        np.testing.assert_array_equal(row["image"], file.images[s, m])
        np.testing.assert_array_equal(row["label"], file.labels[s, m])
        assert row["class"] == file.labels[s, m].argmax()
    assert {(int(row["step"]), int(row["place"])) for row in rows} == {(s, m) for s in range(2) for m in range(3)}
    assert builder.info.features["class"].names == file.meta["class_names"]
    assert (folder / "distilled.npz").read_bytes() == path.read_bytes()


def test_hugging_face_s_library_reads_the_folder(colour, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    path, file = colour
    held = datasets.load_dataset(str(exported(path, "hf")), cache_dir=str(tmp_path / "cache"), split="train")
    assert held.features["class"].names == file.meta["class_names"]
    assert len(held) == 6
    pixels = pixels_of(file)
    for row in held:
        s, m = row["step"], row["place"]
        np.testing.assert_array_equal(np.float32(row["values"]), file.images[s, m])
        np.testing.assert_array_equal(np.float32(row["label"]), file.labels[s, m])
        assert row["class"] == file.labels[s, m].argmax()
        np.testing.assert_array_equal(np.asarray(row["image"]), np.round(np.clip(pixels[s, m], 0, 1) * 255))


def test_dd_ranking_s_tensors_are_class_by_class_and_normalised_as_its_real_images(tmp_path):
    torch = pytest.importorskip("torch")
    file, folder = load_distilled(CIFAR), exported(CIFAR, "ddranking", output=tmp_path / "cifar10")
    images, labels, rate = (torch.load(folder / f"{name}.pt") for name in ("images", "labels", "lr"))
    assert images.shape == (100, 3, 32, 32)
    assert (labels.dtype, labels.tolist()) == (torch.int64, np.repeat(np.arange(10), 10).tolist())
    assert float(rate) == pytest.approx(file.step_sizes.mean())
    back = images.numpy() * np.float32([0.2023, 0.1994, 0.2010])[:, None, None]
    back += np.float32([0.4914, 0.4822, 0.4465])[:, None, None]
    threes = pixels_of(file)[file.labels.argmax(-1) == 3]
    np.testing.assert_allclose(np.moveaxis(back[30:40], 1, -1), threes, atol=1e-5)


def test_what_dd_ranking_does_not_evaluate_is_refused(colour):
    pytest.importorskip("torch")
    with pytest.raises(
        ValueError, match=r"^to: ddranking is for cifar10, cifar100, and these images are of nowhere; use"
    ):
        exported(colour[0], "ddranking")
    assert not (colour[0].parent / "distilled_ddranking").exists()


def test_a_target_that_exists_is_refused_and_a_failure_leaves_nothing(colour, monkeypatch):
    path, _ = colour
    folder = path.parent / "distilled_png"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"^output: .*distilled_png is not accepted; use a new name; it exists$"):
        exported(path, "png")
    assert list(folder.iterdir()) == []
    with pytest.raises(ValueError, match=r"^output: .* is not accepted; use a name in an existing folder; there is no"):
        exported(path, "png", output=path.parent / "none" / "here")
    with pytest.raises(
        ValueError, match=r"^to: None is not accepted; use one of pt, png, tfds, hf, ddranking, safetens"
    ):
        exported(path, None)
    before = sorted(path.parent.iterdir())
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        exported(path, "png", output=path.parent / "other")
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize(("to", "library"), [("pt", "torch"), ("hf", "datasets"), ("safetensors", "safetensors.numpy")])
def test_a_missing_library_is_named_in_one_line(colour, monkeypatch, to, library):
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    package = library.partition(".")[0]
    with pytest.raises(ValueError, match=f"^to: {to} needs {package}, which is not installed; pip install {package}$"):
        exported(colour[0], to)


def test_the_command_says_what_it_wrote(colour, capsys):
    path, _ = colour
    export.main([str(path.parent), "--to", "png", "--output", str(path.parent / "pictures")])
    told = capsys.readouterr().out
    assert re.search(r"% of the pixels lie below 0 and \d+\.\d % above 1; levels 0 … 255 are -", told)
    assert told.endswith(f"wrote {path.parent / 'pictures'}\n")
    with pytest.raises(ValueError, match="RUN_OR_NPZ: it is missing"):
        export.main([])
