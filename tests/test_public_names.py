"""The names at the top of the package are those that it says, and come without the slow modules."""

import dd_jax


def test_every_public_name_is_there_and_is_the_function_of_its_module():
    assert len(dd_jax.__all__) > 30
    for name in dd_jax.__all__:
        assert getattr(dd_jax, name) is not None
        assert name in dir(dd_jax)
    assert callable(dd_jax.meta_gradient)
    assert dd_jax.unroll.__module__ == "dd_jax.inner.loop"


def test_modules_keep_their_names():
    import dd_jax.estimates
    import dd_jax.outer

    assert dd_jax.estimates.meta_gradient is dd_jax.meta_gradient
    assert dd_jax.outer.outer_step is dd_jax.outer_step
