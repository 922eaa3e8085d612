"""Many devices: a mesh of sampled networks × real examples for the outer step, and networks alone for the rest.

The distilled data are on every device. Along the mesh's first axis, each device trains other networks. Along its
second, each takes other real examples, or other perturbations with their examples. An outer step then has one
all-reduce of the meta-gradient. Where real examples are dealt out without perturbations, it has one more, of ∂L/∂θ_T,
before that is pulled back through the loop.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dd_jax.base import Estimate

NETS, BATCH = "nets", "batch"
"""The mesh's axes."""


def device_mesh(nets: int, batch: int) -> Mesh:
    """A mesh of ``nets`` × ``batch`` of the devices there are.

    Raises:
      ValueError: a number below one, or more devices than there are.
    """
    count = jax.device_count()
    for name, size in ((NETS, nets), (BATCH, batch)):
        if size < 1:
            raise ValueError(f"{name}: {size} is not accepted; use 1 or more")
    if nets * batch > count:
        raise ValueError(f"{NETS} × {BATCH}: {nets} × {batch} devices are not accepted; there are {count}")
    if nets * batch < count and jax.process_count() > 1:
        raise ValueError(f"{NETS} × {BATCH}: {nets} × {batch} is not accepted; use all {count} devices of all hosts")
    devices = jax.devices()[: nets * batch]
    return jax.make_mesh((nets, batch), (NETS, BATCH), (AxisType.Auto,) * 2, devices=devices)


def over_devices(estimate: Estimate, mesh: Mesh, *, many: bool) -> Estimate:
    """The same estimate, each device computing its share.

    Args:
      estimate: takes its means over the axes of the mesh, too (the ``axis`` of the functions in
        :mod:`dd_jax.estimates`).
      mesh: of :func:`device_mesh`.
      many: whether θ₀ is of N networks, which are dealt out along the first axis; else all devices take the one.

    Returns:
      The estimate. It raises ``ValueError`` where the mesh's axes do not divide N and B.
    """
    whole = jax.shard_map(
        estimate,
        mesh=mesh,
        in_specs=(P(), P(), of_networks(mesh, many=many).spec, P(BATCH)),
        out_specs=P(),
        check_vma=False,
    )

    def checked(key, params, theta, batch):
        networks = jax.tree.leaves(theta)[0].shape[0] if many else 1
        for axis, size in ((NETS, networks), (BATCH, batch[0].shape[0])):
            if size % mesh.shape[axis]:
                raise ValueError(f"{axis}: {mesh.shape[axis]} devices do not divide {size}; {_accepted(size)}")
        return whole(key, params, theta, batch)

    return checked


def _accepted(size: int) -> str:
    divisors = [n for n in range(1, min(size, jax.device_count()) + 1) if size % n == 0]
    return f"use one of {', '.join(map(str, divisors))}"


def everywhere(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def of_networks(mesh: Mesh, *, many: bool) -> NamedSharding:
    """Networks on a leading axis, dealt out along the first axis of the mesh; a single one, whole on every device."""
    return NamedSharding(mesh, P(NETS) if many else P())


def spread(tree: Any, sharding: NamedSharding) -> Any:
    """The same arrays on all devices of a sharding, those of other processes included.

    Args:
      tree: arrays of this process; every process has the same values. Random keys too.
      sharding: of all of them.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def of(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(of(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(of, tree)


def sharded(f: Callable[..., Any], networks: int, *specs: P) -> Callable[..., Any]:
    """``f`` of many networks, each device of this process doing its share.

    Where the devices do not divide the networks, the last one is repeated, and what becomes of its copies is dropped.
    No more devices take part than shorten the work.

    Args:
      f: of arrays; what it returns has the networks on a leading axis.
      networks: how many.
      specs: for each argument of ``f``, ``P("nets")`` where its leading axis is the networks', ``P()`` where it is for
        all of them.
    """
    share = -(-networks // jax.local_device_count())
    used = -(-networks // share)
    mesh = Mesh(np.array(jax.local_devices()[:used]), (NETS,))
    dealt = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=P(NETS), check_vma=False)
    if used * share == networks:
        return dealt
    index = np.minimum(np.arange(used * share), networks - 1)

    def padded(argument, spec):
        return jax.tree.map(lambda leaf: leaf[index], argument) if spec == P(NETS) else argument

    def whole(*arguments):
        results = dealt(*(padded(*pair) for pair in zip(arguments, specs, strict=True)))
        return jax.tree.map(lambda leaf: leaf[:networks], results)

    return whole
