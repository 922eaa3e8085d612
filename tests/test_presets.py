"""Every preset of every experiment fits its data and its network, and has the paper's figures where it should."""

import dataclasses
import json
from typing import NamedTuple

import jax
import pytest

from dd_jax.networks import make_network, parse_options
from dd_jax.outer import check_recipe
from dd_jax.weights.laws import initial_weights
from dd_jax.weights.pretraining import check_pretraining
from experiments import (
    ablations,
    adaptation,
    attack,
    baselines,
    convert,
    fixed_init,
    linear_case,
    modern,
    pretrain,
    random_init,
    transfer,
)
from experiments.command_line import command_line
from experiments.distilled import check_distilled_setting
from experiments.inner import Inner, check_inner
from experiments.recipe import reported
from experiments.reported import ADAPTATION, ATTACK, BASELINES, REPORTED, TRANSFER
from experiments.settings import Images, jsonable


class Data(NamedTuple):
    """A data set as it is read; all but two have ten classes."""

    size: int
    channels: int
    examples: int  # of the training split, before any is held out


DATA = {
    "digits": Data(28, 1, 1442),
    "mnist": Data(28, 1, 60000),
    "fashion_mnist": Data(28, 1, 60000),
    "usps": Data(16, 1, 7291),
    "usps_28": Data(28, 1, 7438),
    "svhn_cropped": Data(32, 3, 73257),
    "cifar10": Data(32, 3, 50000),
    "voc/2007": Data(224, 3, 15662),
    "caltech_birds2011": Data(224, 3, 5994),
}
CLASSES = 10
OTHER_CLASSES = {"voc/2007": 20, "caltech_birds2011": 200}
MODULES = {
    "fixed_init": fixed_init.PRESETS,
    "random_init": random_init.PRESETS,
    "adaptation": adaptation.PRESETS,
    "transfer": transfer.PRESETS,
    "attack": attack.PRESETS,
    "baselines": baselines.PRESETS,
    "ablations": ablations.PRESETS,
    "pretrain": pretrain.PRESETS,
    "modern": modern.PRESETS,
    "linear_case": {"default": linear_case.Config()},
}
ALL = [(experiment, preset) for experiment, presets in MODULES.items() for preset in presets]
WITH_DATA = [(experiment, preset) for experiment, preset in ALL if experiment != "linear_case"]
DISTILLED = [
    (e, p)
    for e, p in ALL
    if e in ("fixed_init", "random_init", "adaptation", "transfer", "attack", "ablations", "modern")
]
WITH_BANKS = [(e, p) for e, p in ALL if e in ("adaptation", "transfer", "attack")]
# What the paper has figures for; its other presets are of other data or other shapes.
OF_THE_PAPER = {
    "fixed_init": {"mnist", "mnist_long", "mnist_authors", "mnist_100", "mnist_100_authors", "cifar10",
                   "cifar10_authors"},
    "random_init": {"mnist", "mnist_long", "mnist_authors", "cifar10", "cifar10_authors"},
}  # fmt: skip


def of(experiment, preset):
    """A preset, and the settings of its data and network."""
    config = MODULES[experiment][preset]
    return config, getattr(config, "base", config)


def classes_of(setting):
    return len(setting.images.classes) or OTHER_CLASSES.get(setting.dataset, CLASSES)


def image_shape(setting):
    data = DATA[setting.dataset]
    size = setting.images.size or data.size
    return size, size, setting.images.channels or data.channels


@pytest.mark.parametrize(("experiment", "preset"), WITH_DATA)
def test_the_network_takes_the_data(experiment, preset):
    _, setting = of(experiment, preset)
    assert setting.dataset in DATA
    shape = image_shape(setting)
    options, width = parse_options(setting.network_options), getattr(setting, "switch_width", 0.0)
    classes = classes_of(setting)
    network = make_network(setting.network, shape, classes, switch_width=width, options=options)
    weights = getattr(setting, "weights", setting)  # a bank's law is a setting of its own
    theta = jax.eval_shape(initial_weights(network, weights.law, weights.gain), jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *shape), "float32")
    assert jax.eval_shape(network.apply, theta, images).shape == (2, classes)
    assert 0 < setting.validation_fraction < 0.5


@pytest.mark.parametrize(("experiment", "preset"), ALL)
def test_the_command_line_and_json_keep_every_setting(experiment, preset):
    config, _ = of(experiment, preset)
    assert command_line(MODULES[experiment], "", "", [preset]) == (preset, config)
    text = json.dumps(jsonable(config), allow_nan=False)
    assert json.loads(text) == jsonable(config)


@pytest.mark.parametrize(("experiment", "preset"), DISTILLED)
def test_the_recipe_is_accepted(experiment, preset):
    config, base = of(experiment, preset)
    check_recipe(base.outer, many=base.weights.nets is not None)
    check_distilled_setting(base.distilled)
    total = base.distilled.steps * base.distilled.epochs
    classes = classes_of(base)
    check_inner(base.inner, total, base.distilled.steps * (base.distilled.images or classes), classes)
    assert base.batch_size % base.outer.perturbations == 0
    bound = base.outer.max_step_size
    assert bound is None or base.distilled.step_size <= bound
    if experiment == "attack":
        assert config.attacked != config.target
        assert config.attacked_weight > 0


@pytest.mark.parametrize("preset", baselines.PRESETS)
def test_the_baselines_are_accepted(preset):
    baselines.check(baselines.PRESETS[preset])
    with pytest.raises(ValueError, match=r"^candidates: 0 is not accepted"):  # so the check above looks at something
        baselines.check(dataclasses.replace(baselines.PRESETS[preset], candidates=0))


@pytest.mark.parametrize("preset", pretrain.PRESETS)
def test_the_pretraining_is_accepted(preset):
    config = pretrain.PRESETS[preset]
    examples = DATA[config.dataset].examples * classes_of(config) / CLASSES
    check_pretraining(config.recipe, int(examples * (1 - config.validation_fraction)))
    assert min(config.networks, config.held_out or config.networks, config.group) >= 1


@pytest.mark.parametrize(
    ("preset", "epochs", "rate", "halve_every"),
    [("mnist", 40, 2e-4, 20), ("usps", 130, 2e-4, 40), ("svhn", 65, 2e-4, 20), ("cifar10", 50, 1e-3, 7)],
)
def test_the_paper_s_pretraining_is_its_code_s(preset, epochs, rate, halve_every):
    of_paper = pretrain.PRESETS[preset].recipe
    assert (of_paper.epochs, of_paper.learning_rate, of_paper.halve_every) == (epochs, rate, halve_every)
    assert (of_paper.batch_size, of_paper.keep_last, of_paper.b1, of_paper.b2) == (1024, True, 0.5, 0.999)
    assert (pretrain.PRESETS[preset].networks, pretrain.PRESETS[preset].held_out) == (2000, 220)
    ours = pretrain.PRESETS[f"{preset}_128"].recipe
    assert dataclasses.replace(ours, batch_size=1024, keep_last=True) == of_paper
    assert (ours.batch_size, ours.keep_last) == (128, False)


@pytest.mark.parametrize("preset", [preset for preset in adaptation.PRESETS if preset.endswith("_authors")])
def test_the_authors_adaptation_is_their_code_s(preset):
    base = adaptation.PRESETS[preset].base
    batches = 8 if base.dataset == "usps_28" else 59
    outer, distilled = base.outer, base.distilled
    assert (outer.steps, outer.halve_every, outer.learning_rate) == (400 * batches, 40 * batches, 0.01)
    assert (outer.b1, outer.b2, outer.clip, outer.normalise_networks, outer.weight_decay) == (
        0.5,
        0.999,
        None,
        False,
        0,
    )
    assert (distilled.first, distilled.noise, distilled.step_size) == ("noise", 1.0, 0.02)
    assert (distilled.steps, distilled.epochs, distilled.images_per_class) == (10, 3, 1)
    assert (base.batch_size, base.switch_width, base.weights.nets) == (1024, 0, None if "fixed" in preset else 4)
    bank = pretrain.PRESETS[base.weights.bank.name]
    assert bank.held_out - base.weights.validation_nets == base.weights.test_nets == 200


@pytest.mark.parametrize(("experiment", "preset"), WITH_BANKS)
def test_the_bank_is_one_that_pretrain_makes_for_such_images(experiment, preset):
    config, base = of(experiment, preset)
    for path in (base.weights.bank, getattr(config, "full", None)):
        if path is None:
            continue
        if path.name == "imagenet_alexnet":  # of experiments.convert
            assert (convert.Config().network, convert.Config().size) == (base.network, base.images.size)
            continue
        bank = pretrain.PRESETS[path.name]
        assert path.as_posix() == f"runs/pretrain/{path.name}"
        side, _, channels = image_shape(base)
        side = base.weights.bank_size or side if path == base.weights.bank else side
        assert (bank.network, image_shape(bank)) == (base.network, (side, side, channels))
        assert base.weights.nets is None or base.weights.nets <= bank.networks
        assert bank.held_out >= 2 or base.weights.nets is None
        assert set(bank.images.classes).isdisjoint(base.images.classes)
    if experiment == "attack" or config.full is not None:
        of_the_data = pretrain.PRESETS[(base.weights.bank if experiment == "attack" else config.full).name]
        assert (of_the_data.dataset, of_the_data.validation_fraction) == (base.dataset, base.validation_fraction)


@pytest.mark.parametrize("experiment", OF_THE_PAPER)
def test_the_paper_s_figures_stand_beside_its_own_presets(experiment):
    presets = MODULES[experiment]
    assert {preset for preset in presets if reported(experiment, presets[preset])} == OF_THE_PAPER[experiment]


def test_the_paper_s_figures_do_not_stand_beside_whitened_images():
    config = fixed_init.PRESETS["mnist"]
    assert reported("fixed_init", config)
    for change in ({"zca": 0.1}, {"classes": (0, 1)}):
        images = dataclasses.replace(config.images, **change)
        assert not reported("fixed_init", dataclasses.replace(config, images=images))


@pytest.mark.parametrize(("module", "preset"), [(adaptation, "usps_mnist"), (transfer, "alexnet_voc")])
def test_the_paper_s_figures_do_not_stand_beside_another_loop_or_learned_labels(module, preset):
    base = module.PRESETS[preset].base
    labels = dataclasses.replace(base.distilled, labels="learned")
    others = ({"inner": Inner("adam")}, {"distilled": labels}, {"images": Images(size=14)}, {"network": "mlp"})
    assert adaptation.is_paper_s(base, preset, module.PRESETS)
    assert not adaptation.is_paper_s(base, "another", module.PRESETS)
    for change in others:
        assert not adaptation.is_paper_s(dataclasses.replace(base, **change), preset, module.PRESETS), change


def test_the_paper_s_attack_is_that_of_the_authors_presets():
    quoted = {preset: attack.reported(config) for preset, config in attack.PRESETS.items()}
    of_paper = {"before": 0.82, "after": 0.07, "checked": True}
    assert {preset: figures for preset, figures in quoted.items() if figures} == {
        "cifar10_authors": of_paper,
        "cifar10_fixed_authors": of_paper,
    }
    for preset, config in attack.PRESETS.items():
        authors = preset.endswith("_authors")
        assert config.keep_labels is authors
        assert (config.attacked_weight == 1) is authors
        if authors:
            assert (config.base.outer.learning_rate, config.base.outer.b1, config.base.batch_size) == (0.02, 0.5, 1024)
            assert (config.base.distilled.steps, config.base.distilled.epochs) == (1, 1)
            assert config.base.weights.nets == (None if "fixed" in preset else 4)
    learned = dataclasses.replace(
        attack.PRESETS["cifar10_authors"],
        base=dataclasses.replace(
            attack.PRESETS["cifar10_authors"].base,
            distilled=dataclasses.replace(attack.PRESETS["cifar10_authors"].base.distilled, labels="learned"),
        ),
    )
    assert not attack.reported(learned)


def test_every_figure_of_the_paper_says_whether_it_was_checked():
    """Those that were are marked in the specification: figure 1, and the project page's."""
    figures = {**REPORTED, **BASELINES, **ADAPTATION, **TRANSFER, **ATTACK}
    assert {key for key, quoted in figures.items() if quoted["checked"]} == {
        ("fixed_init", "mnist", 1, 3, 1),
        ("fixed_init", "cifar10", 10, 3, 1),
        ("random_init", "mnist", 10, 3, 1),
        ("random_init", "cifar10", 10, 3, 1),
        ("usps_mnist", "no adaptation"),
        "usps_mnist",
        ("cifar10", 0, 1, 1, 30),
    }


@pytest.mark.parametrize(("experiment", "preset"), DISTILLED)
def test_the_authors_presets_alone_take_their_batches_without_replacement(experiment, preset):
    _, base = of(experiment, preset)
    authors = preset.endswith("_authors") or preset in TRANSFER
    assert base.batches == ("epochs" if authors else "replaced")
    assert base.batches == "replaced" or base.outer.perturbations == 1  # so that a last batch of any size will do


def test_no_figure_of_the_paper_is_without_a_preset():
    shapes = {
        (e, base.dataset, base.distilled.steps, base.distilled.epochs, base.distilled.images_per_class)
        for e, (_, base) in ((e, of(e, p)) for e, p in ALL if e in OF_THE_PAPER)
    }
    assert set(REPORTED) <= shapes
    attacks = {
        (c.base.dataset, c.attacked, c.base.distilled.steps, c.base.distilled.epochs, c.base.distilled.images_per_class)
        for c in attack.PRESETS.values()
    }
    assert set(ATTACK) <= attacks
    of_paper = [preset for preset in adaptation.PRESETS if not preset.endswith("_adam")]
    assert set(ADAPTATION) == {adaptation.experiment_of_paper(preset) for preset in of_paper}
    random = {preset for preset in ADAPTATION if adaptation.PRESETS[preset].base.weights.nets is not None}
    measured = {config.dataset for config in baselines.PRESETS.values()}
    assert {of_what for of_what, _ in BASELINES} == random | set(TRANSFER) | (measured - {"digits", "fashion_mnist"})


@pytest.mark.parametrize(("preset", "batches"), [("alexnet_voc", 16), ("alexnet_cub", 6)])
def test_the_largest_setting_is_the_paper_s(preset, batches):
    base = transfer.PRESETS[preset].base
    assert set(TRANSFER) == {"alexnet_voc", "alexnet_cub"}
    outer, distilled = base.outer, base.distilled
    assert (outer.steps, outer.halve_every, outer.learning_rate) == (200 * batches, 30 * batches, 0.01)
    assert (outer.b1, outer.b2, outer.clip, outer.perturbations) == (0.5, 0.999, None, 1)
    assert (distilled.steps, distilled.epochs, distilled.images_per_class) == (1, 3, 1)
    assert (distilled.first, distilled.noise, distilled.step_size) == ("noise", 1.0, 0.001)
    assert (base.batch_size, base.switch_width, base.weights.nets, base.weights.head) == (1024, 0, None, "zeros")
    assert (base.images.size, base.images.streamed) == (224, True)
