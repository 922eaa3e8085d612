"""Many networks at once, dealt out over the devices there are."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P


def sharded(f: Callable[..., Any], networks: int, *specs: P) -> Callable[..., Any]:
    """``f`` of many networks, each device of this process doing its share; as many devices as divide their number.

    Args:
      f: of arrays; what it returns has the networks on a leading axis.
      networks: how many.
      specs: for each argument of ``f``, ``P("networks")`` where its leading axis is the networks', ``P()`` where it is
        for all of them.
    """
    devices = jax.local_devices()[: math.gcd(networks, jax.local_device_count())]
    mesh = Mesh(np.array(devices), ("networks",))
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=P("networks"), check_vma=False)
