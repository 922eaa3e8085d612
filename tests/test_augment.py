"""Laws of every kind of augmentation, and what each does to pixels of its own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.augment import KINDS, augmentation, colour, cutout, flip, parse, rotate, scale, shift

IMAGES = np.random.default_rng(0).normal(size=(6, 9, 8, 3)).astype(np.float32)
ALL = "colour,shift,cutout,flip,scale,rotate"
KEY = jax.random.key(3)
every_kind = pytest.mark.parametrize("kinds", [kind for kind in KINDS if kind != "crop"])


@pytest.mark.parametrize("kinds", [*KINDS, ALL])
def test_strength_zero_is_the_identity_bit_by_bit(kinds):
    for images in (IMAGES, -np.zeros_like(IMAGES)):
        same = jax.jit(augmentation(kinds, strength=0))(KEY, images)
        np.testing.assert_array_equal(same.view(jnp.int32), images.view(np.int32))


@pytest.mark.parametrize("kinds", [*KINDS, ALL])
def test_images_differ_from_one_key_to_another_and_are_drawn_alike_by_the_same(kinds):
    augment = jax.jit(augmentation(kinds, strength=2))
    results = np.stack([augment(jax.random.key(i), IMAGES) for i in range(8)])
    assert results.shape == (8, *IMAGES.shape)
    assert results.dtype == np.float32
    assert len(np.unique(results.reshape(8, -1), axis=0)) > 1
    np.testing.assert_array_equal(augment(jax.random.key(5), IMAGES), results[5])


@every_kind
def test_a_shared_draw_is_one_for_all_images_and_for_other_batches(kinds):
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    each, shared = (jax.jit(augmentation(kinds, strength=2, shared=s)) for s in (False, True))
    distinct = [len(np.unique(np.asarray(f(KEY, same)).reshape(6, -1), axis=0)) for f in (each, shared)]
    assert distinct[0] > 1
    assert distinct[1] == 1
    np.testing.assert_allclose(shared(KEY, IMAGES[:2]), shared(KEY, IMAGES)[:2], atol=1e-6)


@every_kind
def test_images_of_another_float_type_are_augmented_alike_and_keep_it(kinds):
    images = jnp.asarray(IMAGES, jnp.bfloat16)
    augment = jax.jit(augmentation(kinds))
    result, expected = augment(KEY, images), augment(KEY, jnp.asarray(IMAGES))
    assert result.dtype == images.dtype
    np.testing.assert_allclose(np.asarray(result, np.float32), expected, atol=0.1)


@every_kind
def test_the_gradient_and_its_own_derivative_are_those_of_differences(kinds, x64):
    augment = augmentation(kinds)
    images, u, v = (jnp.asarray(a) for a in np.random.default_rng(1).normal(size=(3, 2, 6, 5, 3)))
    assert jax.eval_shape(augment, KEY, images).dtype == jnp.float64
    along = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(augment(KEY, x)) * u))
    (_, gradient), (slope, curvature) = jax.jit(lambda x: jax.jvp(along, (x,), (v,)))(images)
    (above, gradient_above), (below, gradient_below) = map(jax.jit(along), (images + 1e-5 * v, images - 1e-5 * v))
    for derivative in (float(slope), float(jnp.vdot(gradient, v))):
        assert derivative == pytest.approx(float(above - below) / 2e-5, rel=1e-6)
    assert jnp.linalg.norm(curvature) > 0.1
    np.testing.assert_allclose(curvature, (gradient_above - gradient_below) / 2e-5, atol=1e-6)


@every_kind
def test_a_mapped_function_is_the_function_on_each(kinds):
    augment = augmentation(kinds)
    keys, images = jax.random.split(KEY, 3), jnp.stack([IMAGES, IMAGES[::-1], 2 * IMAGES])
    mapped = jax.jit(jax.vmap(augment))(keys, images)
    alone = jax.jit(augment)
    for result, key, one in zip(mapped, keys, images, strict=True):
        np.testing.assert_allclose(result, alone(key, one), atol=1e-5)


def test_several_kinds_follow_in_the_order_given():
    ones = jnp.ones((20, 8, 8, 1))  # no shift and no cutout leaves them, so the order of colour shows in the zeros
    last = np.asarray(augmentation("colour,cutout")(KEY, ones))
    first = np.asarray(augmentation("cutout,colour")(KEY, ones))
    assert (last == 0).any((1, 2, 3)).all()
    assert not (first == 0).any()


def test_kinds_draw_apart_from_each_other():
    images = jnp.broadcast_to(IMAGES[:1], (200, *IMAGES.shape[1:]))
    once = np.asarray(augmentation("flip,flip")(KEY, images) != images).any((1, 2, 3))
    assert 60 < once.sum() < 140  # two equal draws would cancel


def test_flip_mirrors_about_half_of_the_images():
    images = jnp.asarray(np.random.default_rng(2).normal(size=(400, 3, 4, 1)), jnp.float32)
    result = np.asarray(flip(KEY, images))
    mirrored = (result == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (result == images).all((1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250
    np.testing.assert_array_equal(flip(KEY, images, probability=1), images[:, :, ::-1])


def test_shift_moves_by_every_whole_number_of_pixels_and_lets_zeros_in():
    image = 1 + np.arange(16 * 8, dtype=np.float32).reshape(1, 16, 8, 1)
    result = np.asarray(shift(KEY, jnp.broadcast_to(jnp.asarray(image), (400, 16, 8, 1))))
    seen = set()
    for moved in result:
        y, x = np.argwhere(moved[..., 0] == image[0, 8, 4, 0])[0] - (8, 4)
        expected = np.zeros_like(image[0])
        expected[max(y, 0) : 16 + min(y, 0), max(x, 0) : 8 + min(x, 0)] = image[
            0, max(-y, 0) : 16 - max(y, 0), max(-x, 0) : 8 - max(x, 0)
        ]
        np.testing.assert_array_equal(moved, expected)
        seen.add((int(y), int(x)))
    assert seen == {(y, x) for y in range(-2, 3) for x in range(-1, 2)}


def _with_ramps(height, width, count):
    """Images of one random channel, and two that hold the place of each pixel; and those places from the centre."""
    places = np.stack(np.mgrid[:height, :width], -1) - (np.array([height, width]) - 1) / 2
    noise = np.random.default_rng(3).normal(size=(height, width, 1))
    image = np.concatenate([noise, places], -1).astype(np.float32)
    return image, jnp.broadcast_to(image, (count, *image.shape)), places


def _check_every_pixel(result, image, sources):
    """Every pixel is the bilinear value of the image, in a world of zeros, at its source: by the definition."""
    rows, columns = (
        np.maximum(0, 1 - np.abs(sources[..., axis, None] + (n - 1) / 2 - np.arange(n)))
        for axis, n in enumerate(image.shape[:2])
    )
    np.testing.assert_allclose(result, np.einsum("yxi,yxj,ijd->yxd", rows, columns, image), atol=1e-5)


def test_rotate_turns_each_image_about_its_centre_by_up_to_so_many_degrees():
    image, images, places = _with_ramps(7, 6, 40)
    result = np.asarray(rotate(KEY, images, degrees=40))
    # A ramp is interpolated without error, so the two ramps tell where a pixel near the centre was read.
    middle, read = places[4, 3], result[:, 4, 3, 1:]
    angles = np.arctan2(read[:, 1], read[:, 0]) - np.arctan2(middle[1], middle[0])
    assert 30 < np.rad2deg(angles.max()) < 40
    assert -40 < np.rad2deg(angles.min()) < -30
    for one, angle in zip(result[:5], angles[:5], strict=True):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        _check_every_pixel(one, image, places @ turn.T)


def test_scale_stretches_each_axis_about_the_centre_by_its_own_factor():
    image, images, places = _with_ramps(7, 6, 40)
    result = np.asarray(scale(KEY, images, factor=1.5))
    factors = result[:, 4, 3, 1:] / places[4, 3]
    assert ((factors > 1 / 1.5) & (factors < 1.5)).all()
    assert (np.ptp(factors, 0) > 0.6).all()
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.5
    for one, factor in zip(result[:5], factors[:5], strict=True):
        _check_every_pixel(one, image, places * factor)


def test_colour_changes_brightness_saturation_and_contrast_each_within_its_range():
    images = jnp.broadcast_to(IMAGES[:1], (200, *IMAGES.shape[1:]))
    image, nothing = IMAGES[0], {"brightness": 0, "saturation": 0, "contrast": 0}

    def moved(of, **ranges):
        """What each result is from the image, in multiples of ``of``; any other change would show."""
        change = np.asarray(colour(KEY, images, **(nothing | ranges))) - image
        multiple = (change * of).sum((1, 2, 3)) / np.sum(of * of)
        np.testing.assert_allclose(change, multiple[:, None, None, None] * of, atol=1e-5)
        return multiple.min(), multiple.max()

    one, channels, whole = np.ones_like(image), image.mean(-1, keepdims=True), image.mean()
    assert moved(one, brightness=0.5) == (pytest.approx(-0.5, abs=0.03), pytest.approx(0.5, abs=0.03))
    assert moved(image - channels, saturation=1) == (pytest.approx(-1, abs=0.06), pytest.approx(1, abs=0.06))
    assert moved(image - whole, contrast=0.5) == (pytest.approx(-0.5, abs=0.03), pytest.approx(0.5, abs=0.03))
    assert moved(image - whole, contrast=3) == (pytest.approx(-1, abs=0.06), pytest.approx(3, abs=0.2))


def test_saturation_leaves_images_of_one_channel():
    np.testing.assert_array_equal(colour(KEY, IMAGES[..., :1], brightness=0, contrast=0), IMAGES[..., :1])


@pytest.mark.parametrize(("share", "sides"), [(0.5, (4, 3)), (1.0, (7, 6)), (0.2, (1, 1))])
def test_cutout_sets_a_square_about_any_pixel_to_zero(share, sides):
    zero = np.asarray(cutout(KEY, jnp.ones((500, 7, 6, 2)), share=share)) == 0
    np.testing.assert_array_equal(zero[..., 0], zero[..., 1])
    for axis, n, side in zip((1, 2), (7, 6), sides, strict=True):
        cut = zero[..., 0].any(3 - axis)  # [500, n]
        starts, lengths = cut.argmax(1), cut.sum(1)
        assert all(row[s : s + k].all() for row, s, k in zip(cut, starts, lengths, strict=True))
        assert lengths.max() == side  # whole somewhere, and cut by the edge to half elsewhere
        assert lengths.min() == (side + 1) // 2 if side % 2 else lengths.min() == side // 2
        assert set(starts) == set(range(n - lengths.min() + 1))
    np.testing.assert_array_equal(zero[..., 0], zero[..., 0].any(1)[:, None] & zero[..., 0].any(2)[:, :, None])


def test_texts_name_kinds():
    assert parse("none") == ("none",)
    assert parse(" shift , flip") == ("shift", "flip")
    np.testing.assert_array_equal(augmentation("none")(KEY, IMAGES), IMAGES)
    same = augmentation(["shift", "flip"])(KEY, IMAGES)
    np.testing.assert_array_equal(augmentation("shift,flip")(KEY, IMAGES), same)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("shift,blur", "augment: 'blur' is unknown; use 'none', or one or more of flip, shift"),
        (["flip", "blur"], "augment: 'blur' is unknown"),
        ("flip,", "augment: '' is unknown"),
        ("", "augment: no kind is given; use 'none', or one or more of flip"),
        ((), "augment: no kind is given"),
        ("none,flip", "augment: 'none,flip' is not accepted; use 'none' alone"),
    ],
)
def test_unknown_kinds_are_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        augmentation(kinds)


@pytest.mark.parametrize("strength", [-0.1, float("inf"), float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match=f"augment.strength: {strength} is not accepted; use 0 or a positive"):
        augmentation("flip", strength=strength)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (partial(flip, probability=1.1), r"augment.flip.probability: 1.1 is not accepted; use 0 … 1"),
        (partial(shift, share=-0.1), r"augment.shift.share: -0.1 is not accepted; use 0 … 1"),
        (partial(rotate, degrees=float("nan")), r"augment.rotate.degrees: nan is not accepted; use 0 or more"),
        (partial(scale, factor=0.9), r"augment.scale.factor: 0.9 is not accepted; use 1 or more"),
        (partial(colour, contrast=-1), r"augment.colour.contrast: -1 is not accepted; use 0 or more"),
        (partial(cutout, share=2), r"augment.cutout.share: 2 is not accepted; use 0 … 1"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        function(KEY, IMAGES)


@pytest.mark.parametrize("kinds", [*KINDS, "none"])
def test_images_of_another_shape_or_type_are_refused(kinds):
    with pytest.raises(ValueError, match=r"augment: images of shape \(9, 8, 3\) are not accepted"):
        augmentation(kinds)(KEY, IMAGES[0])
    with pytest.raises(ValueError, match="augment: images of type uint8 are not accepted; use floats"):
        augmentation(kinds)(KEY, IMAGES.astype(np.uint8))
