"""Public PyTorch checkpoints as banks of ours: the same logits, and every fault of a file named."""

import jax
import numpy as np
import pytest

from dd_jax.networks import make_network
from dd_jax.weights.bank import load_bank
from dd_jax.weights.converted import PUBLISHED, from_pytorch, read_state_dict
from experiments import convert

WIDTH, HIDDEN, CLASSES, SIDE = 2, 6, 4, 200
SMALL = make_network("alexnet", (SIDE, SIDE, 3), CLASSES, options={"width": WIDTH, "hidden": HIDDEN})
LOGITS = np.array(
    [
        [-0.9113207, 1.9118996, -4.8767791, -4.5482173],
        [-0.4758070, 1.0678113, -3.1591012, -2.5685625],
        [-0.9512346, 2.8923974, -4.0707760, -2.7580905],
    ]
)  # of PyTorch


def alexnet_of_torch(width, hidden, classes):
    """The layers of torchvision.models.alexnet, without its dropout, under its names."""
    nn = pytest.importorskip("torch").nn
    relu, pool = nn.ReLU, lambda: nn.MaxPool2d(3, 2)
    features = nn.Sequential(
        *(nn.Conv2d(3, width, 11, 4, 2), relu(), pool()),
        *(nn.Conv2d(width, 3 * width, 5, padding=2), relu(), pool()),
        *(nn.Conv2d(3 * width, 6 * width, 3, padding=1), relu()),
        *(nn.Conv2d(6 * width, 4 * width, 3, padding=1), relu()),
        *(nn.Conv2d(4 * width, 4 * width, 3, padding=1), relu(), pool()),
    )
    classifier = nn.Sequential(
        *(nn.Identity(), nn.Linear(36 * 4 * width, hidden), relu()),
        *(nn.Identity(), nn.Linear(hidden, hidden), relu()),
        nn.Linear(hidden, classes),
    )
    parts = {
        "features": features,
        "avgpool": nn.AdaptiveAvgPool2d(6),
        "flatten": nn.Flatten(),
        "classifier": classifier,
    }
    module = nn.Sequential()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def shapes_of_torch(network):
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    shapes = {}
    for there, here in PUBLISHED["alexnet"].layers.items():
        *window, inputs, outputs = params[here]["kernel"].shape
        shapes |= {f"{there}.weight": (outputs, inputs, *window), f"{there}.bias": (outputs,)}
    return shapes


def tensors(network=SMALL):
    """A checkpoint's, drawn without PyTorch: activations neither vanish nor explode."""
    rng = np.random.default_rng(5)

    def draw(shape):
        inputs = np.prod(shape[1:]) if len(shape) > 1 else 10
        return np.float32(rng.normal(size=shape) * np.sqrt(2 / inputs))

    return {name: draw(shape) for name, shape in shapes_of_torch(network).items()}


def images(side, count=3):
    return np.float32(np.random.default_rng(6).normal(size=(count, side, side, 3)))


def logits_of_torch(arrays, images, *layout):
    torch = pytest.importorskip("torch")
    module = alexnet_of_torch(*layout)
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    with torch.no_grad():
        return module(torch.tensor(np.moveaxis(images, -1, 1).copy())).numpy()


def difference(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_logits_are_those_that_pytorch_gave():
    ours = jax.jit(SMALL.apply)(from_pytorch("alexnet", SMALL, tensors()), images(SIDE))
    assert difference(ours, LOGITS) < 1e-4


def test_the_stored_logits_are_pytorch_s():
    assert difference(logits_of_torch(tensors(), images(SIDE), WIDTH, HIDDEN, CLASSES), LOGITS) < 1e-5


def test_logits_are_pytorch_s_at_full_size_through_a_file(tmp_path):
    torch = pytest.importorskip("torch")
    module = alexnet_of_torch(64, 4096, 1000)
    path = tmp_path / "alexnet.pth"
    torch.save(module.state_dict(), path)
    network = make_network("alexnet", (224, 224, 3), 1000)
    theta = from_pytorch("alexnet", network, read_state_dict(path))
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    x = images(224, 2)
    assert difference(jax.jit(network.apply)(theta, x), logits_of_torch(arrays, x, 64, 4096, 1000)) < 1e-4


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested.pth"])
def test_a_file_becomes_a_bank_once(tmp_path, kind, capsys):
    path, arrays, workdir = tmp_path / f"alexnet.{kind}", tensors(), tmp_path / "bank"
    if kind == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file(arrays, path)
    else:
        torch = pytest.importorskip("torch")
        state = {name: torch.tensor(array) for name, array in arrays.items()}
        torch.save({"state_dict": state, "epoch": 90} if kind == "nested.pth" else state, path)
    options = ["--classes", str(CLASSES), "--size", str(SIDE), "--workdir", str(workdir)]
    options += ["--network-options", f"width={WIDTH}", f"hidden={HIDDEN}"]
    convert.main([str(path), *options])
    bank = load_bank(workdir / "train", SMALL, (SIDE, SIDE, 3))
    assert bank.accuracy.shape == (1,) and np.isnan(bank.accuracy[0])
    wanted = from_pytorch("alexnet", SMALL, arrays)
    jax.tree.map(lambda held, leaf: np.testing.assert_array_equal(held[0], leaf), bank.weights, wanted)
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file() and p.name != ".lock"}
    convert.main([str(path), *options])
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file() and p.name != ".lock"}
    assert capsys.readouterr().out.count("weights of alexnet, 4 classes, in ") == 2
    with pytest.raises(ValueError, match=r"^network: 'lenet' has no public checkpoint that is known; use one of"):
        convert.main([str(path), "--network", "lenet", "--size", "28", "--classes", "10"])


def test_all_faults_of_a_checkpoint_are_named_at_once():
    arrays = tensors()
    del arrays["features.0.bias"], arrays["features.3.weight"]
    arrays |= {"classifier.6.weight": np.zeros((9, 6), np.float32), "features.1.scale": np.zeros(2, np.float32)}
    arrays["classifier.4.bias"][2] = np.nan
    with pytest.raises(ValueError) as told:
        from_pytorch("alexnet", SMALL, arrays)
    assert str(told.value) == (
        "checkpoint: it does not fit alexnet: missing features.0.bias, features.3.weight; unknown features.1.scale; "
        "of another shape classifier.6.weight is (9, 6), not (4, 6); not finite classifier.4.bias"
    )


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, suffix):
    pytest.importorskip("torch" if suffix == "pth" else "safetensors")
    path = tmp_path / f"file.{suffix}"
    with pytest.raises(ValueError, match=r"^checkpoint: .* is no file; use a .safetensors or .pth file$"):
        convert.main([str(path)])
    path.write_bytes(b"no checkpoint\nat all")
    with pytest.raises(ValueError, match=r"^checkpoint: .* is no checkpoint that can be read \(.*\)$"):
        convert.main([str(path), "--workdir", str(tmp_path / "bank")])
    if suffix == "pth":
        torch = pytest.importorskip("torch")
        for held in ([1, 2], {"epoch": 3}, Unsafe()):  # of which the last would run code
            torch.save(held, path)
            with pytest.raises(ValueError, match=r"^checkpoint: .* is no checkpoint that can be read \(.*\)$"):
                read_state_dict(path)
    assert not (tmp_path / "bank").exists()


class Unsafe:
    def __reduce__(self):
        return print, ("executed",)


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    for suffix, package in (("pth", "torch"), ("safetensors", "safetensors")):
        path = tmp_path / f"file.{suffix}"
        path.touch()
        for name in (package, f"{package}.numpy"):
            monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(
            ValueError, match=rf"^checkpoint: .* cannot be read without {package}; pip install {package}$"
        ):
            read_state_dict(path)
