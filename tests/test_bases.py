"""Images as combinations of basis images: what they start from, what they decode to, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.bases import Bases, decode_bases, init_bases, stored_floats

SHAPE = (3, 4, 8, 6, 2)
IMAGES = np.random.default_rng(0).normal(size=SHAPE)
KEY = jax.random.key(1)


def error(bases, images=IMAGES):
    return float(np.square(decode_bases(bases, images.shape) - images).sum())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_as_many_bases_as_images_at_full_resolution_are_the_images_bit_by_bit(dtype):
    images = jnp.asarray(IMAGES, dtype)
    bases = init_bases(KEY, images, count=12, size=(8, 6))
    np.testing.assert_array_equal(bases.coefficients.astype(jnp.float32), np.eye(12))
    decoded = jax.jit(decode_bases, static_argnums=1)(bases, SHAPE)
    assert decoded.dtype == images.dtype
    np.testing.assert_array_equal(decoded, images)


def test_decoded_images_are_the_combinations_enlarged_as_jax_enlarges(x64):
    rng = np.random.default_rng(2)
    for h, w in ((8, 6), (5, 1), (3, 4)):
        basis, coefficients = rng.normal(size=(5, h, w, 2)), rng.normal(size=(12, 5))
        small = jnp.asarray(np.einsum("nk,khwd->nhwd", coefficients, basis))
        expected = jax.image.resize(small, (12, *SHAPE[2:]), "bilinear").reshape(SHAPE)
        decoded = decode_bases(Bases(jnp.asarray(basis), jnp.asarray(coefficients)), SHAPE)
        np.testing.assert_allclose(decoded, expected, atol=1e-12)


@pytest.mark.parametrize(("count", "size"), [(12, (4, 3)), (12, (7, 6)), (5, (8, 6)), (5, (4, 3)), (1, (1, 1))])
def test_the_start_is_the_nearest_there_is(count, size, x64):
    bases = init_bases(KEY, IMAGES, count=count, size=size)
    assert bases.basis.shape == (count, *size, 2)
    assert bases.coefficients.shape == (12, count)
    # Nearest: no small move of both is nearer, and the gradient vanishes.
    at, gradient = jax.value_and_grad(lambda b: jnp.square(decode_bases(b, SHAPE) - IMAGES).sum())(bases)
    assert 0 < at < np.square(IMAGES).sum()
    np.testing.assert_allclose(gradient.basis, 0, atol=1e-10)
    if count < 12:
        np.testing.assert_allclose(gradient.coefficients, 0, atol=1e-10)
        rng = np.random.default_rng(3)
        for step in (1e-3, 0.1, 1.0):
            moved = jax.tree.map(lambda b, s=step: b + s * rng.normal(size=b.shape), bases)
            assert error(moved) > at


def test_images_that_are_combinations_of_few_small_ones_are_found_again(x64):
    rng = np.random.default_rng(4)
    true = Bases(jnp.asarray(rng.normal(size=(3, 4, 3, 2))), jnp.asarray(rng.normal(size=(12, 3))))
    images = decode_bases(true, SHAPE)
    assert error(init_bases(KEY, images, count=3, size=(4, 3)), images) < 1e-20
    assert error(init_bases(KEY, images, count=2, size=(4, 3)), images) > 1
    assert error(init_bases(KEY, images, count=3, size=(4, 2)), images) > 1


def test_more_bases_and_more_pixels_come_nearer():
    by_count = [error(init_bases(KEY, IMAGES, count=k, size=(8, 6))) for k in (1, 4, 8, 11)]
    by_size = [error(init_bases(KEY, IMAGES, count=12, size=s)) for s in ((1, 1), (3, 2), (5, 4), (8, 5))]
    for errors in (by_count, by_size):
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0] / 2


def test_all_bases_start_at_the_size_of_an_image_and_keys_only_rotate_them(x64):
    images = IMAGES * np.geomspace(0.01, 10, 12).reshape(3, 4, 1, 1, 1)  # without the rotation, far apart
    one, other = (init_bases(jax.random.key(i), images, count=8, size=(8, 6)) for i in (0, 1))
    np.testing.assert_allclose(np.square(one.coefficients).sum(1).mean(), 1, rtol=1e-9)
    decoded = decode_bases(one, SHAPE)
    np.testing.assert_allclose(np.square(one.basis).mean(), np.square(decoded).mean(), rtol=1e-9)
    sizes = np.sqrt(np.square(one.basis).mean((1, 2, 3)))
    assert sizes.max() < 6 * sizes.min()
    assert np.abs(one.basis - other.basis).max() > 0.1
    np.testing.assert_allclose(decode_bases(other, SHAPE), decoded, atol=1e-9)


def test_images_all_alike_leave_no_basis_without_a_gradient():
    images = np.broadcast_to(IMAGES[:1, :1], SHAPE).astype(np.float32)
    bases = init_bases(KEY, images, count=4, size=(8, 6))
    assert error(bases, images) < 1e-6
    u = np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)
    gradient = jax.grad(lambda b: jnp.vdot(decode_bases(b, SHAPE), u))(bases)
    for leaf in (gradient.basis.reshape(4, -1), gradient.coefficients.T):
        assert (jnp.linalg.norm(leaf, axis=1) > 1e-3).all()


def test_the_gradient_is_that_of_the_combination_and_its_derivative_exists(x64):
    bases = init_bases(KEY, IMAGES, count=5, size=(4, 3))
    u = jnp.asarray(np.random.default_rng(6).normal(size=SHAPE))
    v = jax.tree.map(lambda b: jnp.asarray(np.random.default_rng(7).normal(size=b.shape)), bases)

    def value(b):
        return jnp.sum(jnp.sin(decode_bases(b, SHAPE)) * u)

    gradient = jax.grad(value)
    (slope, curvature) = jax.jit(lambda b: jax.jvp(lambda b: (value(b), gradient(b)), (b,), (v,))[1])(bases)
    above, below = (jax.tree.map(lambda b, d, e=e: b + e * d, bases, v) for e in (1e-5, -1e-5))
    assert float(slope) == pytest.approx(float(value(above) - value(below)) / 2e-5, rel=1e-7)
    for ours, a, b in zip(curvature, gradient(above), gradient(below), strict=True):
        np.testing.assert_allclose(ours, (a - b) / 2e-5, atol=1e-7)


def test_what_is_stored_is_counted_with_the_coefficients():
    assert stored_floats(init_bases(KEY, IMAGES, count=5, size=(4, 3))) == 5 * 4 * 3 * 2 + 12 * 5


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (0, (8, 6), r"bases.count: 0 is not accepted; use 1 … 12, for 12 images of 8 × 6 × 2 numbers"),
        (13, (8, 6), r"bases.count: 13 is not accepted; use 1 … 12, for"),
        (5, (2, 1), r"bases.count: 5 is not accepted; use 1 … 4, or 12, for 12 images of 2 × 1 × 2 numbers"),
        (5, (9, 6), r"bases.size: \(9, 6\) is not accepted; use \(h, w\) of 1 … 8 and 1 … 6 pixels"),
        (5, (8, 0), r"bases.size: \(8, 0\) is not accepted"),
        (5, (8, 6, 2), r"bases.size: \(8, 6, 2\) is not accepted"),
    ],
)
def test_counts_and_sizes_out_of_range_are_refused(count, size, message):
    with pytest.raises(ValueError, match=message):
        init_bases(KEY, IMAGES, count=count, size=size)


def test_images_of_another_shape_or_type_are_refused():
    with pytest.raises(ValueError, match=r"bases: images of shape \(4, 8, 6, 2\) are not accepted; use \[S, M"):
        init_bases(KEY, IMAGES[0], count=2, size=(8, 6))
    with pytest.raises(ValueError, match="bases: images of type uint8 are not accepted"):
        init_bases(KEY, IMAGES.astype(np.uint8), count=2, size=(8, 6))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 5, 8, 6, 2), r"bases.shape: \(3, 5, 8, 6, 2\) is not accepted for 12 images of 2 channels"),
        ((3, 4, 8, 6, 3), r"bases.shape: \(3, 4, 8, 6, 3\) is not accepted"),
        ((12, 8, 6, 2), r"bases.shape: \(12, 8, 6, 2\) is not accepted"),
        ((3, 4, 3, 6, 2), r"bases.size: \(4, 3\) is not accepted; use \(h, w\) of 1 … 3 and 1 … 6"),
    ],
)
def test_bases_for_other_images_are_refused(shape, message):
    bases = init_bases(KEY, IMAGES, count=5, size=(4, 3))
    with pytest.raises(ValueError, match=message):
        decode_bases(bases, shape)
    with pytest.raises(ValueError, match=r"bases: shapes \(5, 4, 3, 2\) and \(12, 4\) are not accepted; use \[K, h"):
        decode_bases(bases._replace(coefficients=bases.coefficients[:, :4]), SHAPE)
