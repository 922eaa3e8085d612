"""Networks dealt out over devices (two of a CPU's, by conftest): as if on one, each device its share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dd_jax.parallel import sharded


@pytest.mark.parametrize(("networks", "devices"), [(4, 2), (3, 1)])
def test_networks_dealt_out_come_back_in_order_from_as_many_devices_as_divide_them(networks, devices):
    shares = []

    def f(thetas, images):
        shares.append(thetas["w"].shape)
        return jax.lax.map(lambda w: images @ w, thetas["w"])

    thetas = {"w": jnp.arange(networks * 2.0).reshape(networks, 2)}
    images = jnp.array([[1.0, 2.0], [3.0, 5.0], [0.0, 7.0]])
    result = jax.jit(lambda *arguments: sharded(f, networks, P("networks"), P())(*arguments))(thetas, images)
    np.testing.assert_array_equal(result, np.asarray(thetas["w"]) @ np.asarray(images).T)
    assert shares == [(networks // devices, 2)]
    assert len(result.sharding.device_set) == devices
