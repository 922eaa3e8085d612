"""Networks dealt out over devices (two of a CPU's, by conftest): as if on one, each device its share."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dd_jax import backend
from dd_jax.parallel import NETS, sharded


@pytest.mark.parametrize(("networks", "devices", "share"), [(4, 2, 2), (3, 2, 2), (1, 1, 1)])
def test_networks_dealt_out_come_back_in_order_from_all_devices_that_shorten_the_work(networks, devices, share):
    shares = []

    def f(thetas, images):
        shares.append(thetas["w"].shape)
        return jax.lax.map(lambda w: images @ w, thetas["w"])

    thetas = {"w": jnp.arange(networks * 2.0).reshape(networks, 2)}
    images = jnp.array([[1.0, 2.0], [3.0, 5.0], [0.0, 7.0]])
    result = jax.jit(lambda *arguments: sharded(f, networks, P(NETS), P())(*arguments))(thetas, images)
    np.testing.assert_array_equal(result, np.asarray(thetas["w"]) @ np.asarray(images).T)
    assert shares == [(share, 2)]
    assert len(result.sharding.device_set) == devices


def _methods():
    """For LeNet's first layer, and AlexCifarNet's second."""
    return backend.convolution_method((5, 5, 1, 6), 32, 28), backend.convolution_method((5, 5, 64, 64), 20, 16)


def test_a_program_for_another_backend_is_traced_as_it_suits_that_one():
    """So that one can compile for a TPU on a CPU's host: nothing else asks which backend there is."""
    assert (backend.target(), _methods(), backend.networks_at_a_time()) == ("cpu", ("matmul", "matmul"), 1)
    with backend.compiling_for("gpu"):
        assert _methods() == ("lax", "lax")
    with backend.compiling_for("tpu"):
        assert (backend.target(), _methods(), backend.networks_at_a_time()) == ("tpu", ("rows", "lax"), 50)
        assert backend.examples_at_a_time((1024, 28, 28, 1)) == 1024
        assert backend.examples_at_a_time((1000, 224, 224, 3)) == 256
        inside = str(jax.make_jaxpr(lambda x: backend.for_each_network(jnp.sin, x))(jnp.ones(3)))
    assert backend.examples_at_a_time((1024, 28, 28, 1)) == 128
    outside = str(jax.make_jaxpr(lambda x: backend.for_each_network(jnp.sin, x))(jnp.ones(3)))
    assert ("scan" in outside, "scan" in inside) == (True, False)
    package = Path(backend.__file__).parent
    askers = {p.name for p in package.rglob("*.py") if "default_backend" in p.read_text()}
    assert askers == {"backend.py"}
