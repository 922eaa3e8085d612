"""Baselines: what each selects, from which data, in which order, and the choice of a fixed step size."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from dd_jax import baselines
from dd_jax.base import Distilled
from dd_jax.baselines import (
    Layout,
    average_image,
    best_step_size,
    k_means,
    nearest_neighbours,
    optimized_real,
    random_real,
    with_step_size,
    with_step_sizes,
)
from dd_jax.data.dataset import Split
from dd_jax.data.normalisation import Normalisation, normalise
from dd_jax.distilled import noise
from dd_jax.inner.loop import unroll

RNG = np.random.default_rng(5)
SHAPE = (4, 3, 2)
SIZES = (200, 12, 90)
MEAN, STD = np.float32([0.3, 0.6]), np.float32([0.2, 0.25])
NORMAL = Normalisation(MEAN, STD)
LAYOUT = Layout(classes=3, steps=2, epochs=3, images_per_class=4, step_size=0.3)
FROM_TRAINING = (LAYOUT,)


def some_split():
    labels = RNG.permutation(np.repeat(np.arange(3), SIZES)).astype(np.int32)
    return Split(jnp.asarray(RNG.integers(0, 256, (len(labels), *SHAPE), dtype=np.uint8)), jnp.asarray(labels), NORMAL)


SPLIT, OTHER_SPLIT = some_split(), some_split()
CLASS_OF = {i.tobytes(): int(c) for i, c in zip(np.asarray(SPLIT.images), np.asarray(SPLIT.labels), strict=True)}


def pixels(distilled):
    """The bytes of every image as it was stored, in order."""
    stored = np.round((np.asarray(distilled.images) * STD + MEAN) * 255).astype(np.uint8)
    return [image.tobytes() for image in stored.reshape(-1, *SHAPE)]


def of_class(c):
    """All examples of a class, normalised and flat, in double precision."""
    images = np.asarray(SPLIT.images)[np.asarray(SPLIT.labels) == c]
    return ((images / 255 - MEAN) / STD).reshape(len(images), -1)


def selections():
    key = jax.random.key(0)
    return [
        random_real(key, SPLIT, *FROM_TRAINING),
        k_means(SPLIT, *FROM_TRAINING),
        average_image(SPLIT, *FROM_TRAINING),
        *optimized_real(key, SPLIT, *FROM_TRAINING, score=lambda d: 0.0, candidates=2),
    ]


def never(distilled):
    raise AssertionError("the score was called before the arguments were checked")


def test_selections_have_the_shape_labels_and_step_sizes_of_distilled_data():
    wanted = noise(jax.random.key(0), SHAPE, 3, steps=2, epochs=3, images_per_class=4, step_size=0.3)
    for distilled in selections():
        chex.assert_trees_all_equal_shapes_and_dtypes(distilled, wanted)
        np.testing.assert_array_equal(distilled.labels, wanted.labels)
        np.testing.assert_allclose(distilled.step_sizes, 0.3, rtol=1e-6)


def test_selections_and_step_sizes_train_by_one_compiled_program(small_problem):
    network, *_ = small_problem
    theta = {"w1": jnp.ones((24, 5)) * 0.1, "b1": jnp.zeros(5), "w2": jnp.ones((5, 3))}

    def loss(theta, images, labels):
        return -jnp.sum(labels * jax.nn.log_softmax(network.apply(theta, images)), -1)

    train = jax.jit(chex.assert_max_traces(lambda distilled: unroll(loss, theta, distilled), n=1))
    for distilled in selections():
        chex.assert_tree_all_finite(train(with_step_size(distilled, 0.1)))
        train(distilled)


def test_random_real_draws_distinct_examples_of_each_class():
    everything = Layout(classes=3, steps=3, epochs=1, images_per_class=4)  # all 12 that class 1 has
    drawn = pixels(random_real(jax.random.key(0), SPLIT, everything))
    assert len(set(drawn)) == len(drawn) == 36
    assert [CLASS_OF[image] for image in drawn] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 3


def test_each_class_may_have_a_number_of_images_of_its_own():
    layout = Layout(classes=3, steps=2, epochs=3, images_per_class=(3, 1, 2), step_size=0.3)
    shape = {"steps": 2, "epochs": 3, "images_per_class": (3, 1, 2), "step_size": 0.3}
    wanted = noise(jax.random.key(0), SHAPE, 3, **shape)
    np.testing.assert_array_equal(wanted.labels.argmax(-1), [[0, 0, 0, 1, 2, 2]] * 2)
    real = random_real(jax.random.key(0), SPLIT, layout)
    centres, mean = k_means(SPLIT, layout), average_image(SPLIT, layout)
    for distilled in (real, centres, mean):
        chex.assert_trees_all_equal_shapes_and_dtypes(distilled, wanted)
        np.testing.assert_array_equal(distilled.labels, wanted.labels)
    drawn = pixels(real)
    assert len(set(drawn)) == 12
    assert [CLASS_OF[image] for image in drawn] == [0, 0, 0, 1, 2, 2] * 2
    assert len(set(pixels(mean))) == 3
    assert pixels(mean)[:6] == pixels(average_image(SPLIT, Layout(3, 1, 1)))[:1] * 3 + pixels(mean)[3:6]
    alike = Layout(classes=3, steps=2, epochs=3, images_per_class=(2, 2, 2))
    number = Layout(classes=3, steps=2, epochs=3, images_per_class=2)
    for select in (k_means, lambda *args: random_real(jax.random.key(1), *args)):
        chex.assert_trees_all_equal(select(SPLIT, alike), select(SPLIT, number))
    for counts, message in (((3, 1), "use a number for all classes, or 3, one for each"), ((1, 0, 1), "use 1 or more")):
        with pytest.raises(
            ValueError, match=rf"^images_per_class: {re.escape(str(counts))} is not accepted; {message}"
        ):
            Layout(classes=3, steps=1, epochs=1, images_per_class=counts)
        with pytest.raises(
            ValueError, match=rf"^images_per_class: {re.escape(str(counts))} is not accepted; {message}"
        ):
            noise(jax.random.key(0), SHAPE, 3, steps=1, epochs=1, images_per_class=counts)
    with pytest.raises(ValueError, match=r"^images_per_class: 7 in each of 2 steps are 14 of class 1"):
        random_real(jax.random.key(0), SPLIT, Layout(classes=3, steps=2, epochs=1, images_per_class=(1, 7, 1)))


def test_random_real_is_chosen_evenly_and_by_key_alone():
    one = random_real(jax.random.key(0), SPLIT, *FROM_TRAINING)
    chex.assert_trees_all_equal(random_real(jax.random.key(0), SPLIT, *FROM_TRAINING), one)
    assert set(pixels(random_real(jax.random.key(1), SPLIT, *FROM_TRAINING))) != set(pixels(one))
    few = Layout(classes=3, steps=1, epochs=1, images_per_class=2)
    draws = [pixels(random_real(key, SPLIT, few)) for key in jax.random.split(jax.random.key(2), 100)]
    counts = {image: sum(image in draw for draw in draws) for image in CLASS_OF}
    for image, count in counts.items():
        expected = 100 * 2 / SIZES[CLASS_OF[image]]
        assert abs(count - expected) < 5 * math.sqrt(expected)
    in_order = sum(list(CLASS_OF).index(draw[0]) < list(CLASS_OF).index(draw[1]) for draw in draws)
    assert 30 < in_order < 70  # of 100: the order within a class is random too


def test_optimized_real_keeps_the_best_of_its_candidates_in_order():
    seen = []

    def score(distilled):
        seen.append(distilled)
        return float(distilled.images.mean())

    best = optimized_real(jax.random.key(1), SPLIT, *FROM_TRAINING, score=score, candidates=10, keep=0.3)
    assert len(seen) == 10
    assert len({frozenset(pixels(candidate)) for candidate in seen}) == 10
    order = sorted(range(10), key=lambda i: -float(seen[i].images.mean()))
    assert order[:3] != [0, 1, 2]
    assert len(best) == 3
    for distilled, i in zip(best, order[:3], strict=True):
        chex.assert_trees_all_equal(distilled, seen[i])
    optimized_real(jax.random.key(2), SPLIT, *FROM_TRAINING, score=score, candidates=10)
    assert len({frozenset(pixels(candidate)) for candidate in seen}) == 20  # none of another key's again


def test_optimized_real_sees_only_examples_of_the_split_it_is_given():
    seen = set()

    def score(distilled):
        seen.update(pixels(distilled))
        return 1.0

    for distilled in optimized_real(jax.random.key(0), SPLIT, *FROM_TRAINING, score=score, candidates=9, keep=1.0):
        assert set(pixels(distilled)) <= seen
    assert seen <= set(CLASS_OF)
    assert not seen & {image.tobytes() for image in np.asarray(OTHER_SPLIT.images)}


@pytest.mark.parametrize(("candidates", "keep", "kept"), [(1, 0.2, 1), (10, 0.2, 2), (3, 1.0, 3), (10, 0.01, 1)])
def test_optimized_real_keeps_the_share_asked_for(candidates, keep, kept):
    best = optimized_real(
        jax.random.key(0), SPLIT, *FROM_TRAINING, score=lambda d: 0.0, candidates=candidates, keep=keep
    )
    assert len(best) == kept


def test_optimized_real_never_keeps_a_candidate_without_a_score():
    scores = [math.nan, 0.1, math.nan, -math.inf, math.nan]
    rest, seen = iter(scores), []

    def score(distilled):
        seen.append(distilled)
        return next(rest)

    best = optimized_real(jax.random.key(0), SPLIT, *FROM_TRAINING, score=score, candidates=5, keep=0.8)
    assert len(best) == 2
    chex.assert_trees_all_equal(best[0], seen[1])
    chex.assert_trees_all_equal(best[1], seen[3])
    with pytest.raises(ValueError, match="score: all 2 results are NaN"):
        optimized_real(jax.random.key(0), SPLIT, *FROM_TRAINING, score=lambda d: math.nan, candidates=2)


@pytest.mark.parametrize("n_init", [1, 4])
def test_k_means_finds_each_class_s_centres_as_scikit_learn_does(n_init):
    distilled = k_means(SPLIT, *FROM_TRAINING, seed=3, n_init=n_init)
    for c in range(3):
        examples = of_class(c)
        centres = np.asarray(distilled.images[:, 4 * c : 4 * c + 4], np.float64).reshape(8, -1)
        distances = ((examples[:, None] - centres) ** 2).sum(-1)
        members = distances.argmin(-1)
        for i, centre in enumerate(centres):
            np.testing.assert_allclose(centre, examples[members == i].mean(0), atol=1e-5)
        own = KMeans(8, n_init=n_init, random_state=3).fit(examples.astype(np.float32))
        assert distances.min(-1).sum() == pytest.approx(own.inertia_, rel=1e-4)


def test_k_means_starts_are_by_seed_and_more_of_them_fit_no_worse():
    def inertia(**settings):
        centres = np.asarray(k_means(SPLIT, *FROM_TRAINING, **settings).images[:, :4]).reshape(8, -1)
        return ((of_class(0)[:, None] - centres) ** 2).sum(-1).min(-1).sum()

    assert inertia() == inertia(seed=0)
    assert len({inertia(seed=seed) for seed in range(4)}) > 1
    assert inertia(n_init=20) < inertia()


def test_the_average_image_is_the_class_mean_in_every_place():
    images = np.asarray(average_image(SPLIT, *FROM_TRAINING).images)
    for c in range(3):
        wanted = np.broadcast_to(of_class(c).mean(0).reshape(SHAPE), (2, 4, *SHAPE))
        np.testing.assert_allclose(images[:, 4 * c : 4 * c + 4], wanted, atol=1e-5)


def test_the_average_image_needs_no_more_than_one_example_of_each_class():
    rare = Split(SPLIT.images[:3], jnp.arange(3), NORMAL)
    images = average_image(rare, *FROM_TRAINING).images
    np.testing.assert_allclose(images[1, ::4], normalise(SPLIT.images[:3], NORMAL), atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("p", [1, 2])
def test_nearest_neighbours_agree_with_a_loop(k, p):
    distilled = random_real(jax.random.key(0), SPLIT, *FROM_TRAINING)
    references = np.asarray(distilled.images, np.float64).reshape(24, *SHAPE)
    classes = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 2
    images = normalise(OTHER_SPLIT.images, NORMAL)
    predicted, ties = [], 0
    for image in np.asarray(images, np.float64):
        distances = [(np.abs(image - reference) ** p).sum() for reference in references]
        votes = [0, 0, 0]
        for i in np.argsort(distances)[:k]:
            votes[classes[i]] += 1
        ties += votes.count(max(votes)) > 1
        predicted.append(votes.index(max(votes)))  # the lowest class among equals
    assert ties > 0 or k == 1
    np.testing.assert_array_equal(nearest_neighbours(distilled, images, k=k, p=p), predicted)


def test_nearest_neighbours_tell_the_two_distances_and_the_vote_apart():
    # From the origin: one large difference of class 0, two small ones of class 1, a far pair of class 2.
    references = np.array([[1.5, 0], [1, 1], [1, 1.1], [9, 9]], np.float32).reshape(1, 4, 1, 2, 1)
    distilled = Distilled(jnp.asarray(references), jnp.eye(3)[np.array([[0, 1, 1, 2]])], jnp.zeros(1))
    origin = jnp.zeros((1, 1, 2, 1))
    assert nearest_neighbours(distilled, origin, k=1, p=1) == 0  # 1.5 < 2
    assert nearest_neighbours(distilled, origin, k=1, p=2) == 1  # 1.5 > √2
    assert nearest_neighbours(distilled, origin, k=3, p=1) == 1  # two votes to one
    assert nearest_neighbours(distilled, origin + 8, k=1, p=2) == 2


@pytest.mark.parametrize("step_size", [1e-6, 0.02, 1.0, 50.0])
def test_one_step_size_for_all_steps(step_size):
    distilled = random_real(jax.random.key(0), SPLIT, *FROM_TRAINING)
    changed = with_step_size(distilled, step_size)
    np.testing.assert_allclose(changed.step_sizes, np.full(6, step_size), rtol=1e-5)
    chex.assert_trees_all_equal(changed[:2], distilled[:2])


def test_learned_step_sizes_serve_other_data_for_fewer_epochs_and_for_more():
    distilled = random_real(jax.random.key(0), SPLIT, *FROM_TRAINING)  # 3 epochs of 2 steps
    for learned, wanted in (
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4, 0.3, 0.4]),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        ([0.5, 0.0], [0.5, 0.0] * 3),
        ([0.5], [0.5] * 6),
    ):
        changed = with_step_sizes(distilled, np.array(learned))
        np.testing.assert_allclose(changed.step_sizes, wanted, rtol=1e-6)
        chex.assert_trees_all_equal(changed[:2], distilled[:2])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.1, 0.2, 0.3], r"shape \(3,\) is not accepted; use \[1\], or \[E · 2\] with 2 steps"),
        ([], r"shape \(0,\) is not accepted"),
        (0.1, r"shape \(\) is not accepted"),
        ([0.1, -0.2], "-0.2 is not accepted; use 0 or more"),
        ([0.1, math.nan], "nan is not accepted; use 0 or more"),
    ],
)
def test_learned_step_sizes_that_do_not_fit_are_refused(value, message):
    with pytest.raises(ValueError, match=f"^step_sizes: {message}"):
        with_step_sizes(random_real(jax.random.key(0), SPLIT, *FROM_TRAINING), value)


def test_the_best_step_size_is_the_first_with_the_highest_score():
    grid, seen = [0.01, 0.1, 0.3, 1.0, 2.0], []

    def score(step_size):
        seen.append(step_size)
        return [math.nan, 0.4, 0.9, 0.9, math.nan][len(seen) - 1]

    assert best_step_size(grid, score) == 0.3
    assert seen == grid
    assert best_step_size(np.array(grid), lambda step_size: -step_size) == 0.01
    negative = iter([math.nan, -math.inf])
    assert best_step_size([0.1, 0.2], lambda _: next(negative)) == 0.2
    with pytest.raises(ValueError, match="score: all 5 results are NaN"):
        best_step_size(grid, lambda _: math.nan)


@pytest.mark.parametrize("name", ["classes", "steps", "epochs", "images_per_class"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_layout_without_images_or_steps_is_refused(name, value):
    settings = {"classes": 3, "steps": 1, "epochs": 1, name: value}
    with pytest.raises(ValueError, match=f"^{name}: {value} is not accepted; use 1 or more"):
        Layout(**settings)


@pytest.mark.parametrize("value", [0.0, -0.1, math.inf, math.nan])
def test_a_step_size_that_is_not_positive_is_refused(value):
    match = re.escape(f"{value} is not accepted; use ")
    distilled = average_image(SPLIT, *FROM_TRAINING)
    with pytest.raises(ValueError, match=f"^step_size: {match}a positive number"):
        Layout(classes=3, steps=1, epochs=1, step_size=value)
    with pytest.raises(ValueError, match=f"^step_size: {match}a positive number"):
        with_step_size(distilled, value)
    with pytest.raises(ValueError, match=f"^step_sizes: {match}positive numbers"):
        best_step_size([0.1, value], never)


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match=r"^step_sizes: an empty grid is not accepted"):
        best_step_size([], never)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 0}, "candidates: 0 is not accepted; use 1 or more"),
        ({"candidates": 5, "keep": 0.0}, "keep: 0.0 is not accepted"),
        ({"candidates": 5, "keep": 1.1}, "keep: 1.1 is not accepted"),
        ({"candidates": 5, "keep": math.nan}, "keep: nan is not accepted"),
    ],
)
def test_optimized_real_refuses_numbers_out_of_range(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        optimized_real(jax.random.key(0), SPLIT, *FROM_TRAINING, score=never, **settings)


@pytest.mark.parametrize("name", ["seed", "n_init"])
def test_k_means_refuses_numbers_out_of_range(name, monkeypatch):
    monkeypatch.setattr(baselines, "KMeans", never)
    with pytest.raises(ValueError, match=f"^{name}: -1 is not accepted"):
        k_means(SPLIT, *FROM_TRAINING, **{name: -1})


def test_more_images_than_a_class_has_are_refused_before_any_is_drawn(monkeypatch):
    monkeypatch.setattr(baselines, "KMeans", never)
    much = Layout(classes=3, steps=13, epochs=1, images_per_class=1)
    message = "^images_per_class: 1 in each of 13 steps are 13 of class 1, which has 12; use 12 or fewer"
    with pytest.raises(ValueError, match=message):
        random_real(jax.random.key(0), SPLIT, much)
    with pytest.raises(ValueError, match=message):
        optimized_real(jax.random.key(0), SPLIT, much, never, candidates=3)
    with pytest.raises(ValueError, match=message):
        k_means(SPLIT, much)


@pytest.mark.parametrize("select", [k_means, average_image, lambda *args: random_real(jax.random.key(0), *args)])
def test_labels_and_classes_that_do_not_match_are_refused(select):
    with pytest.raises(ValueError, match=r"^split: class 3 has no examples"):
        select(SPLIT, Layout(classes=4, steps=1, epochs=1))
    with pytest.raises(ValueError, match=r"^classes: 2 is not accepted; use 3, as many"):
        select(SPLIT, Layout(classes=2, steps=1, epochs=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0, "p": 1}, "k: 0 is not accepted; use 1 to 24"),
        ({"k": 25, "p": 1}, "k: 25 is not accepted; use 1 to 24"),
        ({"k": 1, "p": 3}, "p: 3 is not accepted; use 1 or 2"),
        ({"k": 1, "p": math.inf}, "p: inf is not accepted; use 1 or 2"),
    ],
)
def test_nearest_neighbours_refuse_numbers_out_of_range(settings, message):
    images = normalise(SPLIT.images, NORMAL)
    with pytest.raises(ValueError, match=f"^{message}"):
        nearest_neighbours(average_image(SPLIT, *FROM_TRAINING), images, **settings)


def test_nearest_neighbours_refuse_images_unlike_the_references():
    distilled = average_image(SPLIT, *FROM_TRAINING)
    with pytest.raises(ValueError, match=re.escape("images: uint8 [302, 4, 3, 2] is not accepted; use normalised")):
        nearest_neighbours(distilled, SPLIT.images, k=1, p=2)
    with pytest.raises(ValueError, match=re.escape("[N, 4, 3, 2]")):
        nearest_neighbours(distilled, jnp.zeros((5, 3, 4, 2)), k=1, p=2)
