"""A distilled file says all that training on it takes, and what it says of a network is what the network computes."""

import hashlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dd_jax.data.dataset import make_dataset
from dd_jax.data.normalisation import Normalisation
from dd_jax.data.readers import checked
from dd_jax.distilled import noise
from dd_jax.files.distilled_file import FORMAT_VERSION, load_distilled, save_distilled
from dd_jax.files.trees import named_leaves
from dd_jax.networks import NETWORKS, describe_network, make_network, parse_options
from experiments import describe, fixed_init
from experiments.distilled import DistilledSetting
from experiments.inner import Inner
from experiments.problem import read_images
from experiments.recipe import Config
from experiments.settings import Images

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def page():
    """The names that the programs of docs/distilled_file.md define."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/distilled_file.md").read_text(), re.DOTALL):
            exec(block, names)
    return names


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("lenet", (28, 28, 1), ""),
        ("lenet", (32, 32, 3), ""),
        ("alexcifarnet", (32, 32, 3), ""),
        pytest.param("alexnet", (64, 95, 3), "width=2 hidden=8", marks=pytest.mark.slow),
        ("convnet", (13, 10, 3), "width=4 depth=2"),
        ("convnet", (9, 9, 1), "width=8 depth=1 norm=group pooling=max"),
        ("convnet", (8, 8, 1), "width=4 depth=2 norm=layer pooling=none"),
        ("convnet", (8, 8, 1), "width=4 depth=3 norm=none"),
        ("mlp", (4, 5, 2), "hidden=7,6"),
        pytest.param("resnet18", (12, 9, 3), "width=4 groups=2", marks=pytest.mark.slow),
    ],
)
def test_the_program_of_the_page_computes_every_network_from_its_description(page, name, shape, options):
    options = parse_options(options.split())
    network = make_network(name, shape, 5, options=options)
    rng = np.random.default_rng(0)
    theta = jax.tree.map(  # biases and scales too, so that each has an effect
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])), jnp.float32),
        jax.eval_shape(network.init, jax.random.key(0)),
    )
    weights = {name: np.asarray(leaf, np.float64) for name, leaf in named_leaves(theta).items()}
    layers = json.loads(json.dumps(describe_network(name, shape, 5, options)))
    images = rng.normal(size=(3, *shape))
    logits = network.apply(theta, jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(page["forward"](layers, weights, images), logits, atol=2e-5, rtol=1e-4)
    assert sorted(_names(layers)) == sorted(weights)  # every array of the network belongs to one layer


def _names(layers):
    for layer in layers:
        yield from layer.get("weights", {}).values()
        for part in ("branch", "shortcut"):
            yield from _names(layer.get(part, []))


def test_every_network_of_ours_has_a_description_and_no_other_has():
    for name in NETWORKS:
        assert describe_network(name, (32, 32, 3), 10)
    assert describe_network("package.module:network", (32, 32, 3), 10) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run whose inner optimizer has a learned hyper-parameter."""
    folder = tmp_path_factory.mktemp("described")
    options = ["--outer.steps", "2", "--distilled.epochs", "2", "--inner.optimizer", "momentum"]
    options += ["--inner.learned", "momentum", "--inner.weight-decay", "0.001", "--images.zca", "0.5"]
    options += ["--images.size", "8", "--network", "convnet", "--network-options", "width=4", "depth=1"]
    fixed_init.main(["digits", *options, "--workdir", str(folder)])
    return folder


def test_a_file_alone_tells_how_to_train_and_to_test(run, page):
    """What the network is before any step, with the page's program and nothing of ours."""
    with np.load(run / "distilled.npz") as file:
        held = dict(file)
    meta = json.loads(str(held["meta"]))
    recipe, form = meta["recipe"], meta["preprocessing"]
    assert int(held["format_version"]) == FORMAT_VERSION == 2
    assert recipe["optimizer"]["name"] == "momentum"
    assert recipe["optimizer"]["hyper"] == {"momentum": "hyper/momentum", "weight_decay": 0.001}
    assert recipe["optimizer"]["hyper"]["momentum"] in held
    assert (recipe["steps"], recipe["epochs"], recipe["order"]) == (1, 2, {"kind": "stored"})
    assert len(held["step_sizes"]) == recipe["steps"] * recipe["epochs"]
    assert (recipe["loss"], recipe["labels"], recipe["augmentation"]) == ("cross_entropy", "probabilities", None)
    assert form["image"] | {"height": 8, "width": 8, "channels": 1} == form["image"]
    assert form["test"]["examples"] == 355
    assert form["zca"] == 0.5
    assert form["resize"]["to"] == 8
    assert len(form["steps"]) == 3
    test = _digits_for_testing(form)
    flat = ((test[0] / 255 - held["mean"]) / held["std"]).reshape(355, -1) - held["whitening/mean"]
    images = (flat @ held["whitening/matrix"]).reshape(test[0].shape)
    weights = {k.removeprefix("initial_weights/"): v for k, v in held.items() if k.startswith("initial_weights/")}
    logits = page["forward"](meta["architecture"]["layers"], weights, images)
    assert (logits.argmax(-1) == test[1]).mean() == pytest.approx(meta["test_accuracy"]["before"]["mean"], abs=1e-6)


def _digits_for_testing(form):
    """As ``preprocessing.test.which`` tells it, with nothing of ours."""
    digits = load_digits()
    levels = np.round(digits.images * 255 / 16).astype(np.uint8)
    pixels = np.stack(
        [np.asarray(Image.fromarray(level).resize((28, 28), Image.Resampling.BICUBIC)) for level in levels]
    )
    index = np.sort(np.concatenate([np.flatnonzero(digits.target == digit)[4::5] for digit in range(10)]))
    pixels = [np.asarray(Image.fromarray(pixels[i]).resize((8, 8), Image.Resampling.BICUBIC)) for i in index]
    images = np.stack(pixels)[..., None]
    assert "every fifth example, from the fifth on" in form["test"]["which"]
    assert hashlib.sha256(images.tobytes()).hexdigest() == form["test"]["sha256"]
    return images, digits.target[index]


def test_a_network_of_someone_s_own_tells_its_import_path_and_other_settings_are_told_too():
    config = Config(
        network="mine:small",
        network_options=("width=8",),
        images=Images(size=8, channels=3),
        inner=Inner(minibatch=4, augment="shift,flip", augment_strength=0.5),
        distilled=DistilledSetting(labels="unconstrained"),
    )
    dataset = make_dataset(read_images("digits", config.images))
    held = describe.architecture_of(config, dataset)
    assert (held["import_path"], held["options"], held["input"]) == ("mine:small", {"width": 8}, (8, 8, 3))
    assert "layers" not in held
    recipe, form = describe.recipe_of(config), describe.preprocessing_of(config, dataset)
    assert recipe["order"] == {"kind": "minibatches", "images": 4}
    assert recipe["augmentation"] == {"kinds": ["shift", "flip"], "strength": 0.5}
    assert recipe["optimizer"] == {"name": "plain", "hyper": {}}
    assert recipe["labels"] == "unconstrained"
    assert (form["resize"]["to"], form["channels"]["to"]) == (8, 3)


def test_a_test_split_that_was_held_out_is_told_with_how_to_find_it():
    rng = np.random.default_rng(0)
    raw = checked("mine", {"train": (rng.integers(0, 256, (60, 4, 4, 1), np.uint8), np.arange(60) % 3)})
    dataset = make_dataset(raw)
    form = describe.preprocessing_of(Config(dataset="mine:mine"), dataset)
    assert dataset.held_out == ("test", "validation")
    assert form["test"]["which"].endswith(
        "train_test_split(np.arange(N), test_size=0.2, stratify=labels, random_state=0)"
    )
    _, index = train_test_split(np.arange(60), test_size=0.2, stratify=raw.labels, random_state=0)
    held = raw.images[np.sort(index)]
    assert form["test"] | {"examples": 12, "sha256": hashlib.sha256(held.tobytes()).hexdigest()} == form["test"]
    with_test = checked("mine", {"train": (raw.images, raw.labels), "test": (raw.images[:9], raw.labels[:9])})
    form = describe.preprocessing_of(Config(dataset="mine:mine"), make_dataset(with_test))
    assert form["test"]["which"].startswith("the data set's split for testing")


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/*/*/distilled.npz")), ids=lambda path: path.parent.name)
def test_files_of_the_first_version_are_read(path):
    file = load_distilled(path)
    assert file.format_version in (1, FORMAT_VERSION)
    assert np.isfinite(file.images).all()


@pytest.fixture
def held(tmp_path):
    """The arrays of a file, and where to write them."""
    distilled = noise(jax.random.key(0), (4, 4, 1), 3, steps=2, epochs=3, step_size=0.1)
    distilled = distilled._replace(hyper={"momentum": jnp.float32(0.9)})
    theta = {"params": {"kernel": jnp.ones((16, 3))}}
    save_distilled(tmp_path / "d.npz", distilled, Normalisation(np.zeros(1), np.ones(1)), {}, theta)
    with np.load(tmp_path / "d.npz") as file:
        return tmp_path / "d.npz", dict(file)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format_version": np.int32(3)}, "it has format version 3, newer than 2; use a newer dd_jax"),
        ({"meta": np.array("[]")}, "its field 'meta' is malformed"),
        ({"meta": np.array("{")}, "cannot be used"),
        ({"images": np.zeros(3)}, "its field 'images' is malformed"),
        ({"step_sizes": np.ones(5, np.float32)}, "its 5 step_sizes are no multiple of its 2 steps of images"),
        ({"step_sizes": np.full(6, np.nan)}, "its field 'step_sizes' is not finite"),
        ({"std": np.full(1, np.nan)}, "its field 'std' is not finite"),
        ({"hyper/momentum": np.ones(4)}, "its field 'hyper/momentum' is malformed"),
        ({"hyper/momentum": np.float32(np.inf)}, "its field 'hyper/momentum' is not finite"),
        (
            {"initial_weights/params/kernel": np.full((16, 3), np.nan)},
            "its field 'initial_weights/params/kernel' is not",
        ),
        ({"labels": np.full((2, 3, 3), "a")}, "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(held, changes, told):
    path, arrays = held
    assert load_distilled(path).hyper["momentum"] == np.float32(0.9)
    np.savez(path, **arrays | changes)
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        load_distilled(path)
    assert len(str(refused.value).splitlines()) == 1
    assert str(refused.value).startswith(f"distilled data: {path} cannot be used (")


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_in_one_line(held, share):
    path, _ = held
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"^distilled data: .* cannot be used \(.+\)$"):
        load_distilled(path)
