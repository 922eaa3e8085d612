"""Pre-training and banks: what a network becomes depends on its key alone, and what is saved is what is drawn."""

import dataclasses
import gc
import logging
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dd_jax.base import Network
from dd_jax.data.dataset import make_dataset, take
from dd_jax.data.normalisation import normalise
from dd_jax.data.readers import RawData
from dd_jax.objectives import classification_loss, mean_of
from dd_jax.weights.bank import Bank, bank_sampler, load_bank, read_shards, save_shard
from dd_jax.weights.pretraining import PretrainRecipe, check_pretraining, pretraining

RNG = np.random.default_rng(0)
RECIPE = PretrainRecipe(epochs=3, learning_rate=0.01, halve_every=2, batch_size=8)
SHAPE = (2, 3, 1)


def draw(key):
    return {"w": jax.random.normal(key, (6, 2)), "b": jnp.zeros(2)}


NETWORK = Network(draw, lambda theta, images: images.reshape(len(images), -1) @ theta["w"] + theta["b"][None])
LOSS = classification_loss(lambda theta, images: jnp.pad(NETWORK.apply(theta, images), ((0, 0), (0, 1))))


@pytest.fixture(scope="module")
def dataset():
    labels = np.arange(60) % 3
    return make_dataset(RawData(RNG.integers(0, 256, (60, *SHAPE), np.uint8), labels, None, None, ("a", "b", "c")))


def keys(*numbers):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.array(numbers))


def trained(dataset, keys, augment=None, recipe=RECIPE):
    init, epoch, _ = pretraining(LOSS, draw, dataset, recipe, augment=augment)
    state = init(keys)
    for _ in range(RECIPE.epochs):
        state = jax.jit(epoch)(state, dataset.train)
    return state


@pytest.mark.slow
def test_a_network_is_the_same_in_a_bank_of_any_size(dataset):
    alone, among = trained(dataset, keys(2)), trained(dataset, keys(0, 1, 2, 3))
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[0], alone.theta), jax.tree.map(lambda a: a[2], among.theta))
    assert not np.allclose(among.theta["w"][1], among.theta["w"][2])
    assert len(among.theta["w"].sharding.device_set) == math.gcd(4, jax.device_count())


def test_all_at_once_equals_in_turn(dataset, monkeypatch):
    """As on an accelerator, where the networks are vmapped."""
    in_turn = trained(dataset, keys(0, 1, 2))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    chex.assert_trees_all_close(trained(dataset, keys(0, 1, 2)).theta, in_turn.theta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keep_last", [False, True])
def test_training_is_adam_with_halvings_over_shuffled_minibatches(dataset, keep_last):
    """Against a plain loop; the order of each epoch is read off what the augmentation sees."""
    seen = []

    def record(key, images):
        del key
        jax.debug.callback(lambda images: seen.append(np.asarray(images)), images, ordered=True)
        return images

    state = trained(dataset, keys(7), record, dataclasses.replace(RECIPE, keep_last=keep_last))
    jax.effects_barrier()
    examples = len(dataset.train.labels)
    left = examples % 8
    assert left > 0
    batches = examples // 8 + keep_last
    assert [len(batch) for batch in seen[:batches]] == [8] * (examples // 8) + [left] * keep_last
    assert len(seen) == 3 * batches
    numbers = {image.tobytes(): i for i, image in enumerate(np.asarray(dataset.train.images))}
    order = [[numbers[image.tobytes()] for image in batch] for batch in seen]
    for epoch in range(3):
        of_epoch = np.concatenate(order[epoch * batches : (epoch + 1) * batches])
        assert len(set(of_epoch)) == len(of_epoch) == (examples if keep_last else examples - left)
    assert order[:batches] != order[batches : 2 * batches]
    theta = draw(jax.random.fold_in(keys(7)[0], 0))
    adam = optax.scale_by_adam(0.5, 0.999)
    moments = adam.init(theta)
    for t, index in enumerate(order):
        images, labels, normalisation = take(dataset.train, np.array(index))
        images = normalise(images, normalisation)
        gradient = jax.grad(mean_of(LOSS))(theta, images, jax.nn.one_hot(labels, 3))
        direction, moments = adam.update(gradient, moments)
        rate = 0.01 if t < 2 * batches else 0.005
        theta = jax.tree.map(lambda w, d, rate=rate: w - rate * d, theta, direction)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[0], state.theta), theta, rtol=1e-4, atol=1e-5)
    assert state.epoch.tolist() == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "recipe.epochs: 0 is not accepted; use 1 or more"),
        ({"learning_rate": float("nan")}, "recipe.learning_rate: nan is not accepted"),
        ({"batch_size": 44}, "recipe.batch_size: 44 is not accepted; use 1 … 43, the training examples"),
        ({"b1": 1.0}, "recipe.b1: 1.0 is not accepted"),
        ({"halve_every": 0}, "recipe.halve_every: 0 is not accepted"),
    ],
)
def test_a_recipe_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check_pretraining(PretrainRecipe(**change), 43)


def some_networks(count):
    weights = jax.vmap(draw)(jax.random.split(jax.random.key(count), count))
    return Bank(jax.device_get(weights), RNG.random(count))


@pytest.fixture
def bank(tmp_path):
    """A bank of 5 networks in two shards, and its folder."""
    parts = some_networks(3), some_networks(2)
    for first, part in zip((0, 3), parts, strict=True):
        save_shard(tmp_path / "bank", first, SHAPE, part)
    return tmp_path / "bank", jax.tree.map(lambda *a: np.concatenate(a), *parts)


def test_a_bank_is_read_as_it_was_saved(bank):
    folder, networks = bank
    chex.assert_trees_all_equal(load_bank(folder, NETWORK, SHAPE), networks)


def test_jitter_is_a_share_of_the_spread_of_each_network_s_own_leaf():
    """Of networks that differ much from each other, in size and in mean; constants and integers stay."""
    size = np.array([1.0, 100.0, 1.0], np.float32)
    kernel = (RNG.normal(size=(3, 40, 50)) * size[:, None, None] + 1000 * size[:, None, None]).astype(np.float32)
    half = RNG.normal(size=(3, 200)).astype(jnp.bfloat16)
    weights = {"kernel": kernel, "scale": np.ones((3, 7), np.float32), "half": half, "count": np.arange(3)}
    bank = Bank(weights, np.ones(3))
    moved, still = (jax.device_get(bank_sampler(bank, 3, seed=4, jitter=j)(17)) for j in (0.01, 0.0))
    for after, before in zip(moved["kernel"], still["kernel"], strict=True):
        assert np.std(after - before) == pytest.approx(0.01 * np.std(before), rel=0.1)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, still)
    assert (moved["half"] != still["half"]).any()
    for name in ("scale", "count"):
        np.testing.assert_array_equal(moved[name], still[name])
    for jitter in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"^jitter: {jitter} is not accepted; use 0 or more"):
            bank_sampler(bank, 3, seed=0, jitter=jitter)
    with pytest.raises(ValueError, match=r"^count: 0 is not accepted; use 1 … 3"):
        bank_sampler(bank, 0, seed=0)


def test_a_damaged_shard_is_named_and_the_others_load(bank, caplog):
    folder, networks = bank
    for path in (folder / "00000-00003").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        chex.assert_trees_all_equal(load_bank(folder, NETWORK, SHAPE), jax.tree.map(lambda a: a[3:], networks))
    assert "00000-00003 is damaged" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's, of a save that is refused
def test_a_shard_is_set_aside_only_when_asked_and_never_overwritten(bank):
    folder, networks = bank
    for path in (folder / "00000-00003").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert list(read_shards(folder, NETWORK, SHAPE)) == [range(3, 5)]
    assert (folder / "00000-00003").is_dir()
    assert list(read_shards(folder, NETWORK, SHAPE, set_damaged_aside=True)) == [range(3, 5)]
    assert (folder / "damaged" / "00000-00003").is_dir()
    with pytest.raises(ValueError, match="already exists"):
        save_shard(folder, 3, SHAPE, some_networks(2))
    gc.collect()
    save_shard(folder, 0, SHAPE, some_networks(3))
    chex.assert_trees_all_equal(load_bank(folder, NETWORK, SHAPE).weights["w"][3:], networks.weights["w"][3:])


def test_where_no_shard_can_be_read_nothing_is_touched(bank):
    folder, _ = bank
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(OSError, match=r"^bank: none of 2 shards in .* can be read"):
        read_shards(folder, NETWORK, SHAPE, set_damaged_aside=True)
    assert sorted(p.name for p in folder.iterdir()) == ["00000-00003", "00003-00005"]


def test_networks_that_two_shards_hold_count_once(bank, caplog):
    folder, networks = bank
    save_shard(folder, 1, SHAPE, some_networks(1))
    with caplog.at_level(logging.WARNING):
        chex.assert_trees_all_equal(load_bank(folder, NETWORK, SHAPE), networks)
    assert "00001-00002 repeats networks of another shard" in caplog.text


def test_banks_that_do_not_fit_are_refused(bank, tmp_path):
    folder, _ = bank
    wider = Network(lambda key: {"w": jnp.zeros((6, 4)), "b": jnp.zeros(4)}, NETWORK.apply)
    with pytest.raises(ValueError, match=r"^bank: the networks of .* do not fit the network \(b is \(2,\) there"):
        load_bank(folder, wider, SHAPE)
    with pytest.raises(ValueError, match=r"^bank: .* is of networks for images of \(2, 3, 1\), not \(3, 2, 1\)"):
        load_bank(folder, NETWORK, (3, 2, 1))
    with pytest.raises(ValueError, match=r"^bank: .*/elsewhere holds no networks"):
        load_bank(tmp_path / "elsewhere", NETWORK, SHAPE)
    with pytest.raises(ValueError, match=r"^count: 6 is not accepted; use 1 … 5"):
        bank_sampler(load_bank(folder, NETWORK, SHAPE), 6, seed=0)


def test_streaming_equals_indexing_a_resident_bank(bank):
    networks = bank[1]
    resident = jax.tree.map(jnp.asarray, networks.weights)
    draws = [bank_sampler(networks, 3, seed=4)(step) for step in range(40)]
    indices = []
    for thetas in draws:
        index = [int(np.flatnonzero((networks.weights["w"] == w).all((1, 2)))[0]) for w in np.asarray(thetas["w"])]
        chex.assert_trees_all_equal(thetas, jax.tree.map(lambda a, index=index: a[jnp.array(index)], resident))
        assert len(set(index)) == 3
        indices.append(index)
    assert np.bincount(np.ravel(indices), minlength=5).min() > 10  # each has its turn
    chex.assert_trees_all_equal(bank_sampler(networks, 3, seed=4)(17), draws[17])
    others = [bank_sampler(networks, 3, seed=5)(step) for step in range(40)]
    assert any(not np.array_equal(a["w"], b["w"]) for a, b in zip(draws, others, strict=True))


def test_a_loss_of_one_number_is_refused(dataset):
    init, epoch, _ = pretraining(mean_of(LOSS), draw, dataset, RECIPE)
    with pytest.raises(ValueError, match=r"^loss: it must return one value per example, shape \(8,\), got shape \(\)"):
        epoch(init(keys(0)), dataset.train)
