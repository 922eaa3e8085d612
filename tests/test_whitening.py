"""ZCA whitening: what the whitened images' covariance is, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.data import whitening
from dd_jax.data.whitening import fit_zca, unwhiten, whiten

SHAPE = (4, 3, 2)
P = 24


def correlated(count, seed=0):
    """Images of variances a million-fold apart, in directions that are no pixels, about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.normal(size=(P, P)))[0] * np.geomspace(1e-3, 1, P)
    return (rng.normal(size=(count, P)) @ mix.T + rng.normal(size=P)).reshape(count, *SHAPE)


def covariance(images):
    return np.cov(np.asarray(images, np.float64).reshape(len(images), -1), rowvar=False, bias=True)


def test_whitened_images_have_mean_zero_and_a_covariance_near_the_identity(x64):
    images = correlated(300)
    white = jax.jit(whiten)(fit_zca(images, 1e-9), images)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(covariance(white), np.eye(P), atol=1e-2)
    assert np.abs(covariance(images) - np.eye(P)).max() > 0.5


@pytest.mark.parametrize("regularisation", [0.1, 3.0])
def test_the_regularisation_is_relative_to_the_mean_variance_of_a_pixel(regularisation, x64):
    images = correlated(300)
    s, vectors = np.linalg.eigh(covariance(images))
    expected = vectors * (s / (s + regularisation * images.var(0).mean())) @ vectors.T
    for unit in (1, 1000):
        white = whiten(fit_zca(unit * images, regularisation), unit * images)
        np.testing.assert_allclose(covariance(white), expected, atol=1e-8)


def test_whitening_is_the_symmetric_one_that_changes_images_least(x64):
    fitted = fit_zca(correlated(300), 0.1)
    np.testing.assert_allclose(fitted.matrix, fitted.matrix.T, atol=1e-12)
    assert (np.linalg.eigvalsh(fitted.matrix) > 0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-11)])
def test_the_way_there_and_back_is_the_identity(dtype, tolerance, x64):
    fitted = fit_zca(correlated(200).astype(dtype), 0.01)
    assert {leaf.dtype for leaf in fitted} == {np.dtype(dtype)}
    others = jnp.asarray(correlated(6, seed=1), dtype).reshape(2, 3, *SHAPE)
    for one, other in ((whiten, unwhiten), (unwhiten, whiten)):
        there = jax.jit(one)(fitted, others)
        assert (there.shape, there.dtype) == (others.shape, others.dtype)
        assert jnp.abs(there - others).max() > 0.1
        np.testing.assert_allclose(other(fitted, there), others, atol=tolerance)


def test_images_of_another_float_type_keep_it():
    fitted = fit_zca(correlated(50).astype(np.float32))
    images = jnp.asarray(correlated(50)[:3], jnp.bfloat16)
    assert whiten(fitted, images).dtype == unwhiten(fitted, images).dtype == jnp.bfloat16
    expected = whiten(fitted, images.astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(whiten(fitted, images), np.float32), expected, atol=0.1)


def test_chunks_change_nothing_and_jax_arrays_are_taken(monkeypatch):
    images = correlated(50).astype(np.float32)
    whole = fit_zca(images)
    monkeypatch.setattr(whitening, "_CHUNK_BYTES", 7 * 8 * P)  # the last chunk is of one image
    for leaf, expected in zip(fit_zca(jnp.asarray(images)), whole, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-6)


def test_fewer_images_than_pixels_can_be_whitened():
    images = correlated(5).astype(np.float32)
    fitted = fit_zca(images)
    assert all(np.isfinite(leaf).all() for leaf in fitted)
    np.testing.assert_allclose(unwhiten(fitted, whiten(fitted, images)), images, atol=1e-5)


def test_the_gradient_is_the_matrix(x64):
    fitted, u = fit_zca(correlated(50)), np.random.default_rng(2).normal(size=SHAPE)
    gradient = jax.grad(lambda image: jnp.vdot(whiten(fitted, image), u))(jnp.zeros(SHAPE))
    np.testing.assert_allclose(gradient.ravel(), fitted.matrix @ u.ravel(), atol=1e-12)


@pytest.mark.parametrize("regularisation", [0.0, -0.1, float("inf"), float("nan")])
def test_a_regularisation_out_of_range_is_refused(regularisation):
    with pytest.raises(ValueError, match=f"whitening.regularisation: {regularisation} is not accepted; use a positive"):
        fit_zca(correlated(5), regularisation)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (correlated(1), "whitening: 1 image is not accepted; use 2 or more"),
        (correlated(5)[..., 0], r"whitening: images of shape \(5, 4, 3\) are not accepted; use \[N, H, W, D\]"),
        (correlated(5)[:, :0], r"whitening: images of shape \(5, 0, 3, 2\) are not"),
        (correlated(5).astype(np.uint8), "whitening: images of type uint8 are not accepted; use floats"),
        (np.full((5, *SHAPE), np.nan), "whitening: images that are not finite"),
        (np.full((7, *SHAPE), 0.1), "whitening: images that are all the same"),
        (np.zeros((7, *SHAPE)), "whitening: images that are all the same"),
    ],
)
def test_images_that_cannot_be_fitted_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        fit_zca(images)


@pytest.mark.parametrize("function", [whiten, unwhiten])
def test_images_other_than_the_fitted_ones_are_refused(function):
    fitted = fit_zca(correlated(5).astype(np.float32))
    with pytest.raises(ValueError, match=r"images of shape \(5, 4, 3, 1\) are not accepted; use \[…, .* H·W·D = 24"):
        function(fitted, np.zeros((5, 4, 3, 1), np.float32))
    with pytest.raises(ValueError, match="images of type int32 are not accepted"):
        function(fitted, np.zeros((5, *SHAPE), np.int32))
