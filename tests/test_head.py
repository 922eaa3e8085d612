"""A new last layer for trained networks: which weights are new, what they are, and that loaded ones stay arguments."""

import dataclasses
import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.files.trees import named_leaves
from dd_jax.networks import NETWORKS, make_network
from dd_jax.objectives import classification_loss, mean_of
from dd_jax.weights.bank import Bank, load_bank, save_shard
from dd_jax.weights.head import Fresh, bias_one, names_of_head
from dd_jax.weights.laws import initial_weights
from experiments import distil, evaluate, fixed_init, pretrain, random_init
from experiments.nets import nets_of, with_head_layers
from experiments.problem import assemble
from experiments.recipe import settings_of
from experiments.relabelled import NOTHING
from experiments.settings import Images, Weights

SHAPE = (28, 28, 1)
HEAD = ("params/Dense_2/bias", "params/Dense_2/kernel")
OTHERS = ["--images.classes", "5", "6", "7", "8", "9"]


def lenet(classes):
    return make_network("lenet", SHAPE, classes)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Two networks of five classes, and three held out, untrained."""
    folder = tmp_path_factory.mktemp("bank")
    for part, first, count in (("train", 0, 2), ("held_out", 7, 3)):
        save_shard(folder / part, 0, SHAPE, Bank(weights(lenet(5), first, count), np.ones(count)))
    return folder


def weights(network, seed, *count):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return np.float32(rng.normal(size=(*count, *leaf.shape)) * scale)

    return jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0)))


def heads(thetas):
    return np.asarray(thetas["params"]["Dense_2"]["kernel"])


def nets(bank, head, seed=0, classes=10, **settings):
    weights = with_head_layers(Weights(bank=bank, head=head, **settings), lenet, classes)
    return nets_of(weights, lenet(classes), SHAPE, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_is_what_depends_on_the_number_of_classes(name):
    def of(classes):
        return make_network(name, (64, 64, 3) if name == "alexnet" else (32, 32, 3), classes)

    leaves = list(named_leaves(jax.eval_shape(of(5).init, jax.random.key(0))))
    last = sorted(leaf for leaf in leaves if "Dense" in leaf)[-2:]
    assert sorted(names_of_head(of, 5)) == last
    with pytest.raises(ValueError, match=r"^head: no weights of this network depend on the number of classes"):
        names_of_head(lambda classes: of(5), 5)


def test_a_first_step_moves_a_head_of_zeros_alone():
    network = lenet(3)
    theta = weights(network, 0)
    theta["params"]["Dense_2"] = bias_one(network)(jax.random.key(1))["params"]["Dense_2"]
    np.testing.assert_array_equal(network.apply(theta, jnp.ones((2, *SHAPE))), np.ones((2, 3)))
    loss = mean_of(classification_loss(network.apply))
    gradient = jax.jit(jax.grad(loss))(theta, jax.random.normal(jax.random.key(2), (3, *SHAPE)), jnp.eye(3))
    moved = {name for name, leaf in named_leaves(gradient).items() if np.any(leaf)}
    assert moved == set(HEAD)


def test_zeros_take_the_place_of_a_known_network_s_head(bank):
    known = nets(bank, "zeros").known
    held = load_bank(bank / "train", lenet(5), SHAPE).weights
    for name, leaf in named_leaves(known).items():
        loaded = named_leaves(held)[name][:1]
        wanted = np.full((1, *leaf.shape[1:]), float(name == HEAD[0])) if name in HEAD else loaded
        np.testing.assert_array_equal(leaf, wanted)
    same = nets(bank, "zeros", classes=5).known  # of as many classes, too
    assert not heads(same).any()


def test_drawn_heads_are_by_the_law_and_differ_between_networks(bank):
    settings = {"nets": 2, "validation_nets": 1, "law": "normal", "gain": 3.0}
    drawn = nets(bank, "drawn", **settings)
    everyone = np.concatenate([heads(thetas) for thetas in (drawn.training(1), drawn.validation[1], drawn.test[1])])
    assert len(np.unique(everyone.reshape(5, -1), axis=0)) == 5
    assert heads(drawn.training(1)).std() == pytest.approx(3, rel=0.1)
    chex.assert_trees_all_equal(drawn.test, nets(bank, "drawn", **settings).test)
    other = nets(bank, "drawn", seed=1, **settings)
    assert np.abs(heads(other.validation[1]) - heads(drawn.validation[1])).max() > 0.1
    assert other.fingerprint != drawn.fingerprint != nets(bank, "zeros", nets=2, validation_nets=1).fingerprint


def test_a_network_s_new_head_depends_on_its_number_alone(bank, tmp_path):
    thetas = load_bank(bank / "train", lenet(5), SHAPE)
    for first in (0, 1):  # in shards of one
        save_shard(tmp_path, first, SHAPE, jax.tree.map(lambda leaf, i=first: leaf[i : i + 1], thetas))
    fresh = Fresh(HEAD, initial_weights(lenet(10)), jax.random.key(3))
    whole, parts = (load_bank(folder, lenet(10), SHAPE, fresh=fresh) for folder in (bank / "train", tmp_path))
    chex.assert_trees_all_equal(whole, parts)
    assert np.abs(heads(whole.weights)[0] - heads(whole.weights)[1]).max() > 0.1


def test_any_layers_may_be_new(bank):
    known = nets(bank, "zeros", head_layers=("params/Dense_[12]/*",)).known
    for name, leaf in named_leaves(known).items():
        assert np.any(leaf) == (name not in ("params/Dense_1/kernel", "params/Dense_2/kernel"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "loaded"}, "bank: the networks of .* do not fit the network .params/Dense_2/bias is .5,. there"),
        ({"head_layers": ("x",)}, "weights.head_layers: .'x',. have no effect without weights.head"),
        ({"head": "zeros", "head_layers": ("x*",)}, r"head_layers: 'x\*' matches no weights; use patterns of params/"),
        ({"head": "zeros", "law": "zero"}, "weights.law: zero has no effect with weights.bank"),
        ({"head": "zeros", "bank": None}, "weights.head: zeros has no effect without weights.bank"),
        ({"head": "drawn", "law": "pytorch", "gain": 2}, "weights.gain: 2 has no meaning for the law 'pytorch'"),
    ],
)
def test_heads_that_cannot_be_are_refused(bank, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        nets(**{"bank": bank, "head": "loaded"} | settings)


def largest_constant(lowered):
    """Bytes of the largest array that a program has in itself."""
    return max((len(text) / 2 for text in re.findall(r'"0x([0-9A-F]+)"', lowered.as_text())), default=0)


def test_loaded_weights_are_arguments_of_the_programs(bank, tmp_path):
    """Those of the outer step and of fine-tuning; 61,706 weights are 246,824 bytes."""
    images = Images(classes=(5, 6, 7, 8, 9))
    config = dataclasses.replace(
        fixed_init.PRESETS["digits"], images=images, weights=Weights(bank=bank, head="zeros"), batch_size=16
    )
    problem = assemble(config)
    settings = settings_of(config, tmp_path) | problem.identity
    step = distil._prepare(config, settings, problem, NOTHING)
    given = np.int32(1), step.theta_at(1), step.split_at(1), step.index_at(1)
    programs = [step.update.lower(step.state, *given)]

    tuning = pretrain.Config(images=images, bank=bank, head="zeros")
    prepared = pretrain._prepare(tuning, problem.dataset)
    keys = pretrain._keys(0, "train", range(1))
    thetas = pretrain._loaded(prepared, "train", range(1))
    programs.append(prepared.init.lower(keys, *thetas))
    known = problem.nets.test[1]
    assert max(map(largest_constant, programs)) < 10_000
    assert largest_constant(jax.jit(lambda x: x + known["params"]["Dense_0"]["kernel"]).lower(jnp.ones(()))) > 10_000


@pytest.mark.slow
def test_networks_are_fine_tuned_from_a_bank_and_say_so(bank, tmp_path, capsys):
    command = ["digits", "--recipe.epochs", "3", "--group", "2", "--bank", str(bank), "--head", "zeros", *OTHERS]
    command += ["--networks", "3", "--held-out", "0", "--workdir", str(tmp_path / "tuned")]
    pretrain.main(command)
    result = json.loads((tmp_path / "tuned" / "result.json").read_text())
    assert list(result["test_accuracy"]) == ["train"] and result["test_accuracy"]["train"]["min"] > 0.6
    assert (result["config"]["head"], len(result["config"]["begun"])) == ("zeros", 12)
    tuned, held = (load_bank(folder / "train", lenet(5), SHAPE).weights for folder in (tmp_path / "tuned", bank))
    moved = [
        [np.abs(t - h).max() for h in held["params"]["Conv_0"]["kernel"]] for t in tuned["params"]["Conv_0"]["kernel"]
    ]
    assert np.array(moved).argmin(1).tolist() == [0, 1, 0]  # which networks they begin from
    before = (tmp_path / "tuned" / "result.json").read_text()
    pretrain.main(command)
    assert (tmp_path / "tuned" / "result.json").read_text() == before
    with pytest.raises(ValueError, match=r"other settings \(head is zeros there and drawn here; "):
        pretrain.main([*command, "--head", "drawn"])
    for options, message in (
        (["--head", "zeros"], "head: zeros has no effect without bank; leave it out"),
        (["--bank", "nowhere"], "bank: nowhere is not accepted; use the work folder of experiments.pretrain"),
        (["--bank", str(bank), "--gain", "2"], "gain: 2.0 has no effect with bank; use 1.0 there"),
        (["--images.classes", "5", "10"], r"images.classes: \[5, 10\] is not accepted; use two or more different"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            pretrain.main(["digits", *options, "--workdir", str(tmp_path / "other")])


@pytest.mark.slow
def test_an_evaluation_gives_a_bank_s_networks_the_heads_of_the_run(bank, tmp_path, capsys):
    head = ["--weights.bank", str(bank), "--weights.head", "drawn", "--weights.gain", "0.5"]
    nets = ["--weights.law", "normal", "--weights.nets", "2", "--weights.validation-nets", "1"]
    random_init.main(["digits", *head, *nets, *OTHERS, "--outer.steps", "2", "--workdir", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]
    capsys.readouterr()
    evaluate.main([str(tmp_path / "run")])
    printed = capsys.readouterr().out
    for when in ("before", "after"):
        assert f"{100 * result[when]['mean']:.2f} ± " in printed
