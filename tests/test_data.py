"""Splits, normalisation, augmentation and batches on the device, and evaluation on a whole split."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dd_jax.data.augment import crop_and_flip, shift
from dd_jax.data.batches import batch_drawer, batch_maker, epoch_order
from dd_jax.data.dataset import make_dataset
from dd_jax.data.normalisation import normalise
from dd_jax.data.readers import RawData, conform, of_classes
from dd_jax.evaluation import evaluate

RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (100, 6, 6, 3), dtype=np.uint8)
LABELS = np.repeat(np.arange(4), [40, 30, 20, 10]).astype(np.int32)
RAW = RawData(IMAGES, LABELS, IMAGES[:8] // 2, LABELS[:8], ("a", "b", "c", "d"))


def rows(split):
    return {image.tobytes() for image in np.asarray(split.images)}


def test_some_classes_are_numbered_anew_and_keep_their_order():
    validated = RAW._replace(validation_images=IMAGES[40:90], validation_labels=LABELS[40:90])
    some = of_classes(validated, (2, 0))
    assert some.class_names == ("c", "a")
    for role in ("", "test_", "validation_"):
        images, labels = getattr(validated, f"{role}images"), getattr(validated, f"{role}labels")
        kept = np.flatnonzero((labels == 2) | (labels == 0))
        np.testing.assert_array_equal(getattr(some, f"{role}images"), images[kept])
        np.testing.assert_array_equal(getattr(some, f"{role}labels"), np.where(labels[kept] == 2, 0, 1))
    assert of_classes(RAW._replace(test_images=None, test_labels=None), (1, 3)).test_labels is None
    for classes in ((), (1,), (1, 1), (0, 4), (-1, 0)):
        with pytest.raises(
            ValueError, match=r"^classes: .* is not accepted; use two or more different numbers of 0 … 3"
        ):
            of_classes(RAW, classes)


def test_zca_is_fitted_to_the_normalised_training_images_and_serves_every_split():
    plain, white = (make_dataset(RAW, validation_fraction=0.2, seed=3, zca=zca) for zca in (None, 0.5))
    flat = np.asarray(normalise(plain.train.images, plain.train.normalisation), np.float64)
    flat = flat.reshape(len(flat), -1)
    s, vectors = np.linalg.eigh(np.cov(flat, rowvar=False, bias=True))
    matrix = vectors / np.sqrt(s + 0.5 * s.mean()) @ vectors.T
    for ours, theirs in zip(white[:3], plain[:3], strict=True):
        np.testing.assert_array_equal(ours.images, theirs.images)  # pixels stay as they are stored
        images = np.asarray(normalise(theirs.images, theirs.normalisation), np.float64).reshape(len(theirs.labels), -1)
        expected = ((images - flat.mean(0)) @ matrix).reshape(theirs.images.shape)
        np.testing.assert_allclose(normalise(ours.images, ours.normalisation), expected, atol=1e-3)
    with pytest.raises(ValueError, match=r"^whitening.regularisation: 0 is not accepted; use a positive number"):
        make_dataset(RAW, zca=0)


def test_the_validation_split_is_disjoint_stratified_and_chosen_by_seed():
    data = make_dataset(RAW, validation_fraction=0.2, seed=3)
    np.testing.assert_array_equal(np.bincount(data.validation.labels), [8, 6, 4, 2])
    assert not rows(data.train) & rows(data.validation)
    assert len(rows(data.train) | rows(data.validation)) == 100
    np.testing.assert_array_equal(data.test.images, IMAGES[:8] // 2)
    assert rows(make_dataset(RAW, validation_fraction=0.2, seed=3).validation) == rows(data.validation)
    assert rows(make_dataset(RAW, validation_fraction=0.2, seed=4).validation) != rows(data.validation)


def test_a_missing_test_split_is_made_the_same_for_every_seed():
    raw = RAW._replace(test_images=None, test_labels=None)
    one, other = (make_dataset(raw, validation_fraction=0.2, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(np.bincount(one.test.labels), [8, 6, 4, 2])
    assert rows(one.test) == rows(other.test)
    assert not rows(one.test) & (rows(one.train) | rows(one.validation))


def test_normalisation_comes_from_the_training_split_alone():
    data = make_dataset(RAW, validation_fraction=0.5)
    train = np.asarray(data.train.images, np.float64) / 255
    np.testing.assert_allclose(data.train.normalisation.mean, train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.train.normalisation.std, train.std((0, 1, 2)), rtol=1e-6)
    normal = normalise(data.train.images, data.train.normalisation)
    assert normal.dtype == jnp.float32
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std((0, 1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_validation_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=f"validation_fraction: {fraction}"):
        make_dataset(RAW, validation_fraction=fraction)


def test_a_class_too_small_to_split_and_a_constant_channel_are_refused():
    labels = LABELS.copy()
    labels[-9:] = 2
    with pytest.raises(ValueError, match="class 'd' has 1 of 100 training examples, too few to hold"):
        make_dataset(RAW._replace(labels=labels))
    flat = IMAGES.copy()
    flat[..., 1] = 9
    with pytest.raises(ValueError, match="channel is constant"):
        make_dataset(RAW._replace(images=flat))


@pytest.mark.parametrize(
    ("counts", "own_test", "message"),
    [
        (
            [506, 494, 4],
            True,
            "class 'c' has 4 of 1004 .* to hold 0.1 of every class out for validation; take another val",
        ),
        (
            [508, 492, 2],
            False,
            "class 'c' has 2 of 1002 .* to hold 0.2 of every class out for testing; give a test split",
        ),
        ([500, 4, 500], False, "class 'b' has 3 of 803 .* for validation"),
        ([500, 500, 1], True, "class 'c' has 1 of 1001 "),
        ([3, 4, 3], True, "class 'a' has 3 of 10 "),
    ],
)
def test_a_class_that_a_split_would_lack_is_refused_by_name(counts, own_test, message):
    labels = np.repeat(np.arange(3), counts).astype(np.int32)
    images = RNG.integers(0, 256, (len(labels), 2, 2, 1), dtype=np.uint8)
    test = (images[:9], labels[:9]) if own_test else (None, None)
    with pytest.raises(ValueError, match=message):
        make_dataset(RawData(images, labels, *test, ("a", "b", "c")))
    raw = RawData(images, labels, images, labels, ("a", "b", "c"), images[::-1], labels[::-1])
    for split in make_dataset(raw)[:3]:  # those of its own are as they are
        np.testing.assert_array_equal(np.sort(split.labels), labels)


def test_a_validation_split_of_its_own_is_used_in_place_of_one_held_out():
    own = RAW._replace(validation_images=IMAGES[50:90] // 3, validation_labels=LABELS[50:90])
    data = make_dataset(own, validation_fraction=0.2, seed=3)
    np.testing.assert_array_equal(data.train.images, IMAGES)
    np.testing.assert_array_equal(data.validation.images, IMAGES[50:90] // 3)
    np.testing.assert_array_equal(data.validation.labels, LABELS[50:90])
    np.testing.assert_array_equal(data.test.images, RAW.test_images)
    assert conform(own, 3, 1).validation_images.shape == (40, 3, 3, 1)


def test_batches_are_examples_with_their_own_labels_drawn_evenly_by_key():
    data = make_dataset(RAW)
    draw = jax.jit(batch_drawer(data, 4096))
    images, labels = draw(jax.random.key(0), data.train)
    assert images.shape == (4096, 6, 6, 3)
    assert labels.shape == (4096, 4)
    known = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    pixels = np.round((np.asarray(images) * data.train.normalisation.std + data.train.normalisation.mean) * 255).astype(
        np.uint8
    )
    assert all(known[image.tobytes()] == label for image, label in zip(pixels, labels.argmax(-1), strict=True))
    counts = np.unique(pixels.reshape(4096, -1), axis=0, return_counts=True)[1]
    assert len(counts) == len(data.train.labels)
    assert np.sum((counts - 4096 / len(counts)) ** 2 / (4096 / len(counts))) < 2 * len(counts)  # χ²
    np.testing.assert_array_equal(draw(jax.random.key(0), data.train)[0], images)
    assert not np.array_equal(draw(jax.random.key(1), data.train)[0], images)


def test_a_batch_of_no_images_is_refused():
    with pytest.raises(ValueError, match=r"^size: 0 is not accepted; use 1 or more"):
        batch_drawer(make_dataset(RAW), 0)


@pytest.mark.parametrize(("examples", "size"), [(90, 32), (90, 30), (90, 90), (90, 1)])
def test_an_epoch_takes_each_example_once_and_the_next_in_another_order(examples, size):
    index_at, batches = epoch_order(jax.random.key(3), examples, size), -(-examples // size)
    epochs = [[index_at(epoch * batches + batch) for batch in range(batches)] for epoch in range(3)]
    for epoch in epochs:
        assert [len(index) for index in epoch[:-1]] == [size] * (batches - 1)
        assert len(epoch[-1]) == (examples % size or size)  # what is left is kept
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(examples))
    first, second, third = (np.concatenate(epoch) for epoch in epochs)
    assert not np.array_equal(first, second) and not np.array_equal(second, third)
    assert not np.array_equal(first, np.arange(examples))


def test_what_a_step_takes_depends_on_the_key_and_the_step_alone():
    """So that a resumed run takes the same, whatever it took before."""
    forwards = epoch_order(jax.random.key(3), 90, 32)
    in_turn = [forwards(step) for step in range(8)]
    backwards = epoch_order(jax.random.key(3), 90, 32)
    for step in reversed(range(8)):
        np.testing.assert_array_equal(backwards(step), in_turn[step])
    assert not np.array_equal(epoch_order(jax.random.key(4), 90, 32)(0), in_turn[0])


def test_the_batch_of_given_examples_is_of_them():
    data = make_dataset(RAW)
    index = np.array([5, 3, 70])
    images, labels = jax.jit(batch_maker(data))(jax.random.key(0), data.train, index)
    np.testing.assert_allclose(images, normalise(data.train.images[index], data.train.normalisation), atol=1e-5)
    np.testing.assert_array_equal(labels.argmax(-1), data.train.labels[index])
    darkened = jax.jit(batch_maker(data, augment=lambda key, images: images // 2))
    images, _ = darkened(jax.random.key(0), data.train, index)
    np.testing.assert_allclose(images, normalise(data.train.images[index] // 2, data.train.normalisation), atol=1e-5)


@pytest.mark.parametrize("size", [0, 91])
def test_an_epoch_of_no_batches_or_of_none_that_is_whole_is_refused(size):
    with pytest.raises(ValueError, match=rf"^size: {size} is not accepted; use 1 … 90, the examples of an epoch"):
        epoch_order(jax.random.key(0), 90, size)


def test_crop_and_flip_gives_every_shift_of_the_reflected_image_and_its_mirror():
    image = np.arange(49, dtype=np.uint8).reshape(7, 7, 1)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = [padded[i : i + 7, j : j + 7] for i in range(9) for j in range(9)]
    expected = {w.tobytes() for w in windows} | {w[:, ::-1].tobytes() for w in windows}
    out = np.asarray(jax.jit(crop_and_flip)(jax.random.key(0), jnp.asarray(np.stack([image] * 4000))))
    assert {o.tobytes() for o in out} == expected


def test_a_shift_gives_every_move_of_the_image_its_edges_repeated():
    image = np.arange(49, dtype=np.uint8).reshape(7, 7, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    expected = {padded[i : i + 7, j : j + 7].tobytes() for i in range(5) for j in range(5)}
    out = np.asarray(jax.jit(partial(shift, pixels=2))(jax.random.key(0), jnp.asarray(np.stack([image] * 1000))))
    assert {o.tobytes() for o in out} == expected
    np.testing.assert_array_equal(shift(jax.random.key(0), jnp.asarray(image[None]), 0), image[None])


def test_evaluate_counts_every_example_once_whatever_the_chunk():
    data = make_dataset(RAW, validation_fraction=0.33)
    theta = RNG.normal(size=(108, 4)).astype(np.float32) * 0.1

    def apply(theta, images):
        return images.reshape(images.shape[0], -1) @ theta

    logits = np.asarray(normalise(data.train.images, data.train.normalisation)).reshape(-1, 108) @ theta
    logits = logits.astype(np.float64)
    labels = np.asarray(data.train.labels)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    for chunk in (1, 10, 1000):
        score = evaluate(apply, theta, data.train, 4, chunk=chunk)
        assert float(score.accuracy) == pytest.approx(np.mean(logits.argmax(-1) == labels))
        assert float(score.loss) == pytest.approx(losses.mean(), rel=1e-5)


def test_evaluate_with_two_classes_is_sigmoid_cross_entropy_on_the_difference_of_logits():
    images = np.zeros((4, 6, 6, 1), np.uint8)
    images[2:] = 255
    raw = RawData(
        np.tile(images, (5, 1, 1, 1)),
        np.tile([0, 1, 1, 1], 5).astype(np.int32),
        images,
        np.array([0, 1, 1, 1]),
        ("n", "y"),
    )
    data = make_dataset(raw, validation_fraction=0.2)

    def single(theta, x):
        return x.mean((1, 2)) * theta

    def both(theta, x):
        return jnp.concatenate([jnp.zeros_like(logit := single(theta, x)), logit], axis=-1)

    with pytest.raises(ValueError, match=r"^logits: shape \(\d+, 1\) has a single logit, .* put zeros before it"):
        evaluate(single, 2.0, data.test, 2)
    score = evaluate(both, 2.0, data.test, 2)
    assert float(score.accuracy) == pytest.approx(0.75)
    normalisation = data.train.normalisation
    low, high = (2 * (level - normalisation.mean[0]) / normalisation.std[0] for level in (0, 1))
    expected = np.mean([np.log1p(np.exp(low)), np.log1p(np.exp(-low)), *[np.log1p(np.exp(-high))] * 2])
    assert float(score.loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [None, 6, 4, 9])
@pytest.mark.parametrize(("depth", "channels"), [(1, None), (1, 1), (1, 3), (3, None), (3, 1), (3, 3)])
def test_conform_agrees_with_pillow(size, depth, channels):
    raw = RAW._replace(images=IMAGES[..., :depth], test_images=255 - IMAGES[:8, ..., :depth])
    out = conform(raw, size, channels)
    for before, after in ((raw.images, out.images), (raw.test_images, out.test_images)):
        assert before is not None
        assert after is not None
        images = [Image.fromarray(image.squeeze(-1) if depth == 1 else image) for image in before]
        if channels == 1:
            images = [image.convert("L") for image in images]
        if size is not None:
            images = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
        if channels == 3:
            images = [image.convert("RGB") for image in images]
        expected = np.stack([np.atleast_3d(np.asarray(image)) for image in images])
        assert after.dtype == np.uint8
        np.testing.assert_array_equal(after, expected)
    assert out.labels is raw.labels
    assert out.test_labels is raw.test_labels
    assert out.class_names == raw.class_names


def test_luma_is_pillows_for_every_colour():
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 86 * 86, 86, 3)
    raw = RawData(colours, LABELS[:1], None, None, ("a", "b"))
    expected = np.asarray(Image.fromarray(colours[0]).convert("L"))
    np.testing.assert_array_equal(conform(raw, channels=1).images[0, ..., 0], expected)


def test_conform_keeps_what_needs_no_change():
    for size, channels in ((None, None), (6, 3), (6, None), (None, 3)):
        out = conform(RAW, size, channels)
        assert out.images is RAW.images
        assert out.test_images is RAW.test_images
    grey = RAW._replace(images=IMAGES[..., :1], test_images=None, test_labels=None)
    assert conform(grey, 6, 3).test_images is None
    np.testing.assert_array_equal(conform(conform(grey, channels=3), channels=1).images, grey.images)
    for oblong in (IMAGES[:, :4], IMAGES[:, :, :4]):
        assert conform(grey._replace(images=oblong), 6).images.shape == (100, 6, 6, 3)


@pytest.mark.parametrize("change", [{"size": 0}, {"size": -4}, {"channels": 0}, {"channels": 2}, {"channels": 4}])
def test_conform_refuses_sizes_and_channels_that_no_image_has(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"^{name}: {value} "):
        conform(RAW, **change)
