"""Networks by name and by import path: what is taken, and what is refused in one line."""

import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dd_jax.base import Network
from dd_jax.files.trees import named_leaves
from dd_jax.networks import from_flax, make_network, parse_options
from dd_jax.weights.laws import initial_weights

SHAPE = (4, 5, 2)


def test_two_classes_get_two_logits():
    network = make_network("lenet", (28, 28, 1), 2)
    theta = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.eval_shape(network.apply, theta, jnp.zeros((5, 28, 28, 1))).shape == (5, 2)


class Dropped(nn.Module):
    deterministic: bool

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=self.deterministic)(x.reshape(x.shape[0], -1)))


def test_a_network_with_dropout_is_refused():
    with pytest.raises(ValueError, match=r"^network: Dropped draws random numbers in its forward pass.*deterministic"):
        from_flax(Dropped(False), (4, 4, 1))
    network = from_flax(Dropped(True), (4, 4, 1))  # the remedy
    assert network.apply(network.init(jax.random.key(0)), jnp.ones((2, 4, 4, 1))).shape == (2, 3)


def test_a_network_with_changing_state_is_refused():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.BatchNorm(use_running_average=False)(x.reshape(x.shape[0], -1)))

    with pytest.raises(ValueError, match=r"^network: Normed keeps state \['batch_stats'\]"):
        from_flax(Normed(), (4, 4, 1))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        ("resnet", (28, 28, 1), 10, "network: 'resnet' is unknown; use one of lenet, alexcifarnet.*or an import path"),
        ("lenet", (30, 30, 1), 10, "lenet takes images of 28×28 or 32×32 pixels, not 30×30"),
        ("lenet", (28, 32, 1), 10, "not 28×32"),
        ("alexcifarnet", (28, 28, 3), 10, "alexcifarnet takes images of 32×32 pixels"),
        ("lenet", (28, 28, 1), 1, "classes: 1"),
    ],
)
def test_an_unknown_network_or_a_wrong_size_is_refused(name, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        make_network(name, shape, classes)


def test_an_unknown_convolution_is_refused():
    with pytest.raises(ValueError, match=r"^convolution: 'fft' is unknown; use one of matmul, rows, lax"):
        make_network("lenet", (28, 28, 1), 10, convolution="fft")  # type: ignore[arg-type]


def linear(image_shape, classes):
    """The plainest of functions that make a network."""
    pixels = int(np.prod(image_shape))
    return (lambda key: {"kernel": jax.random.normal(key, (pixels, classes))}), _linear


def _linear(theta, images):
    return images.reshape(images.shape[0], -1) @ theta["kernel"]


class Perceptron(nn.Module):
    features: int
    outputs: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(jnp.tanh(nn.Dense(self.features)(x.reshape(x.shape[0], -1))))


def linen(image_shape, classes, width=3, **_):
    return Perceptron(width, classes)


class Convolutional(nnx.Module):
    def __init__(self, channels, outputs, rngs, middle):
        self.layers = nnx.List([nnx.Conv(channels, 4, (3, 3), rngs=rngs), middle(rngs)])
        self.last = nnx.Linear(4, outputs, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.last(x.mean((1, 2)))


def of_nnx(image_shape, classes, *, rngs, middle=lambda rngs: jnp.tanh):
    return Convolutional(image_shape[2], classes, rngs, middle)


def nnx_without_rngs(image_shape, classes):
    return of_nnx(image_shape, classes, rngs=nnx.Rngs(0))


def dropped_out(rngs, deterministic):
    return nnx.Dropout(0.5, rngs=rngs, deterministic=deterministic)


nnx_silent = partial(of_nnx, middle=partial(dropped_out, deterministic=True))
nnx_dropout = partial(of_nnx, middle=partial(dropped_out, deterministic=False))
nnx_batch_norm = partial(of_nnx, middle=lambda rngs: nnx.BatchNorm(4, rngs=rngs))


def two_words(image_shape, classes):
    return "two words"


def transposed(image_shape, classes):
    init, apply = linear(image_shape, classes)
    return init, lambda theta, images: apply(theta, images).T


def integers(image_shape, classes):
    init, apply = linear(image_shape, classes)
    return init, lambda theta, images: apply(theta, images).astype(jnp.int32)


def for_squares(image_shape, classes):
    return linear((4, 4, 1), classes)


class ForSquares(nn.Module):
    @nn.compact
    def __call__(self, x):
        assert x.shape[1] == x.shape[2], "no square"
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def linen_for_squares(image_shape, classes):
    return ForSquares()


TOLD = []


def told(image_shape, classes, *, switch_width, convolution):
    TOLD.append((switch_width, convolution))
    return linear(image_shape, classes)


def weights_and_logits(name, **options):
    network = make_network(f"{__name__}:{name}", SHAPE, 3, options=options)
    assert isinstance(network, Network)
    first, again, other = (network.init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    changed = (np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True))
    assert any(changed), "the weights do not depend on the key"
    images = jax.random.normal(jax.random.key(2), (2, *SHAPE))
    logits = jax.jit(network.apply)(first, images)
    np.testing.assert_allclose(network.apply(first, images), logits, rtol=1e-5, atol=1e-6)
    assert logits.shape == (2, 3)
    return network, first, images, logits


@pytest.mark.parametrize("name", ["linear", "linen", "of_nnx", "nnx_silent"])
def test_a_function_of_anyone_s_makes_a_network(name):
    network, theta, _, _ = weights_and_logits(name)
    kernels = [path for path in named_leaves(theta) if path.endswith("kernel")]
    zero = named_leaves(initial_weights(network, "zero")(jax.random.key(0)))
    assert kernels and not any(np.any(zero[path]) for path in kernels)
    gradient = jax.jit(jax.grad(lambda theta: network.apply(theta, jnp.ones((2, *SHAPE))).sum()))(theta)
    assert jax.tree.structure(gradient) == jax.tree.structure(theta)


def test_nnx_weights_are_the_module_s_own():
    _, theta, images, logits = weights_and_logits("of_nnx")
    np.testing.assert_allclose(of_nnx(SHAPE, 3, rngs=nnx.Rngs(jax.random.key(0)))(images), logits, rtol=1e-5, atol=1e-6)
    assert set(named_leaves(theta)) == {"layers/0/bias", "layers/0/kernel", "last/bias", "last/kernel"}


def test_options_reach_the_function():
    _, theta, _, _ = weights_and_logits("linen", width=7, anything="else")
    assert theta["params"]["Dense_1"]["kernel"].shape == (40, 7)


def test_a_function_that_asks_for_it_is_told_the_surrogate_and_the_convolution():
    TOLD.clear()
    make_network(f"{__name__}:told", SHAPE, 3, switch_width=0.3, convolution="lax")
    assert set(TOLD) == {(0.3, "lax")}


def test_a_module_in_the_current_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text(
        "import flax.linen as nn\n"
        "def make(image_shape, classes):\n"
        "    return nn.Sequential([lambda x: x.reshape(x.shape[0], -1), nn.Dense(classes)])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    before = list(sys.path)
    make_network("mine_alone:make", SHAPE, 3)
    assert sys.path == before


REFUSED = {
    "no.such.module:make": r"'no.such.module:make' is not found: there is no module 'no'; use an import path",
    "tests_of_nobody:make": "there is no module 'tests_of_nobody'",
    "broken_network:make": r"its module fails with ModuleNotFoundError: No module named 'absent_library'",
    f"{__name__}:absent": f"is not found: {__name__} has no 'absent'",
    f"{__name__}:SHAPE": "is no function, but tuple; use an import path",
    f"{__name__}:": "is unknown; use one of lenet",
    f"{__name__}:two_words": r"returns str, which is not accepted; return an \(init, apply\) pair, a flax.linen",
    f"{__name__}:transposed": r"returns \(3, 4\) for 4 images, which is not accepted; return logits \[B, C\]",
    f"{__name__}:integers": "returns int32, which is not accepted; return floats",
    f"{__name__}:for_squares": r"is not accepted for images of 4×5×2 \(H×W×D\): it fails with TypeError",
    f"{__name__}:linen_for_squares": r"is not accepted for images of 4×5×2 \(H×W×D\): it fails with AssertionError",
    "builtins:dict": "is no function, but type",
    f"{__name__}:nnx_without_rngs": "without the argument 'rngs', from which its weights are drawn",
    f"{__name__}:nnx_dropout": r"Convolutional draws random numbers.*nnx.Dropout\(…, deterministic=True\)",
    f"{__name__}:nnx_batch_norm": r"Convolutional keeps state \['BatchStat'\].*GroupNorm",
    f"{__name__}:weights_and_logits": "it fails with TypeError.*; it is called as make",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_path_that_makes_no_network_is_refused_in_one_line(name, tmp_path, monkeypatch):
    (tmp_path / "broken_network.py").write_text("import absent_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=rf"^network: .*{REFUSED[name]}") as caught:
        make_network(name, SHAPE, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet", {"width": 3}, "lenet takes no option 'width'; it takes none"),
        ("convnet", {"kernel": 3}, "convnet takes no option 'kernel'; it takes width, depth, norm, pooling"),
        ("convnet", {"switch_width": 1.0}, "convnet takes no option 'switch_width'"),
        ("convnet", {"depth": 0}, "convnet with depth=0 is not accepted; use an integer of at least 1"),
        ("convnet", {"depth": "two"}, "convnet with depth='two' is not accepted; use an integer of at least 1"),
        ("convnet", {"width": 2.5}, "convnet with width=2.5 is not accepted; use an integer"),
        ("convnet", {"width": True}, "convnet with width=True is not accepted; use an integer"),
        (
            "convnet",
            {"norm": "foo"},
            "norm='foo' is not accepted; use one of instance, group, layer, none",
        ),
        ("convnet", {"norm": "group", "width": 6}, "convnet with norm='group' takes a width that 4 divides, not 6"),
        ("convnet", {"depth": 5}, "convnet of depth 5 takes images of at least 32×32 pixels, not 28×28"),
        (
            "mlp",
            {"hidden": "10,x"},
            "hidden='10,x' is not accepted; use integers of at least 1, such as 128,128",
        ),
        ("mlp", {"hidden": (10, 0)}, r"mlp with hidden=\(10, 0\) is not accepted"),
        (
            "resnet18",
            {"width": 8, "groups": 3},
            "groups=3 is not accepted; use a divisor of the width, 8",
        ),
        (f"{__name__}:linear", {"width": 3}, "linear takes no option 'width'; it takes none"),
        (f"{__name__}:of_nnx", {"rngs": 3}, "of_nnx takes no option 'rngs'; it takes middle"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ValueError, match=f"^network: .*{message}"):
        make_network(name, (28, 28, 1), 10, options=options)


def test_options_as_text_are_those_of_python():
    texts = parse_options(["width=4", "depth=2", "norm=group", "pooling=max"])
    assert texts == {"width": 4, "depth": 2, "norm": "group", "pooling": "max"}
    as_python, as_text = (
        jax.eval_shape(make_network("convnet", (8, 8, 3), 10, options=options).init, jax.random.key(0))
        for options in (texts, {"width": "4", "depth": "2", "norm": "group", "pooling": "max"})
    )
    assert as_python == as_text
    assert as_text["params"]["Conv_1"]["kernel"].shape == (3, 3, 4, 4) and "GroupNorm_1" in as_text["params"]
    for hidden in ("8,9", [8, 9], (8, 9)):
        shapes = jax.eval_shape(make_network("mlp", SHAPE, 10, options={"hidden": hidden}).init, jax.random.key(0))
        assert shapes["params"]["Dense_1"]["kernel"].shape == (8, 9)


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_convnet_in_its_other_forms(norm, pooling):
    options = {"width": 4, "depth": 1, "norm": norm, "pooling": pooling}
    network = make_network("convnet", (4, 4, 3), 10, options=options)
    shapes = jax.eval_shape(network.init, jax.random.key(0))["params"]
    assert shapes["Dense_0"]["kernel"].shape == (64 if pooling == "none" else 16, 10)
    assert sorted(set(shapes) - {"Conv_0", "Dense_0"}) == ([] if norm == "none" else ["GroupNorm_0"])


@pytest.mark.parametrize("texts", [["width"], ["3=4"], ["=4"], ["width=3", "width=4"]])
def test_options_in_another_form_are_refused(texts):
    with pytest.raises(ValueError, match=r"^network: option .* is (not accepted; use name=value|given twice)"):
        parse_options(texts)


def test_values_that_are_no_literals_stay_text():
    texts = ["a=1e-3", "b=(1, 'x')", "c=a=b", "d=None", "e=", "f=[1,", "g=1_0"]
    assert parse_options(texts) == {"a": 1e-3, "b": (1, "x"), "c": "a=b", "d": None, "e": "", "f": "[1,", "g": 10}


def of_equinox(image_shape, classes, *, key, middle=None):
    eqx = pytest.importorskip("equinox")
    first, last = jax.random.split(key)
    layers = [eqx.nn.Conv2d(image_shape[2], 4, 3, key=first), middle or eqx.nn.Lambda(jnp.tanh)]
    layers += [eqx.nn.Lambda(lambda x: x.mean((1, 2))), eqx.nn.Linear(4, classes, key=last)]
    return eqx.nn.Sequential(layers)


def equinox_dropout(image_shape, classes, *, key):
    return of_equinox(image_shape, classes, key=key, middle=pytest.importorskip("equinox").nn.Dropout(0.5))


def equinox_batch_norm(image_shape, classes, *, key):
    norm = pytest.importorskip("equinox").nn.BatchNorm(4, "batch", mode="batch")
    return of_equinox(image_shape, classes, key=key, middle=norm)


def test_equinox_modules_take_images_with_channels_first():
    pytest.importorskip("equinox")
    network, theta, images, logits = weights_and_logits("of_equinox")
    module = of_equinox(SHAPE, 3, key=jax.random.key(0))
    for image, expected in zip(images, logits, strict=True):
        np.testing.assert_allclose(module(jnp.moveaxis(image, -1, 0)), expected, rtol=1e-5, atol=1e-6)
    assert theta["layers/0/kernel"].shape == (3, 3, 2, 4) and theta["layers/3/kernel"].shape == (4, 3)
    zero = initial_weights(network, "zero")(jax.random.key(0))
    assert not np.any(zero["layers/0/kernel"]) and np.any(zero["layers/0/bias"])
    for name in ("equinox_dropout", "equinox_batch_norm"):
        with pytest.raises(ValueError, match=r"^network: Sequential (draws random numbers|keeps state)"):
            make_network(f"{__name__}:{name}", SHAPE, 3)
