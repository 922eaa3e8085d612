"""Compiles outer steps for GPUs, on a machine without one, and says what they would take: one JSON line each.

    python -m benchmarks.gpu_aot [--topology h100] [--mesh NETS BATCH] [--nets N] [--epochs E] [--batch B]
                                 [--convolution METHOD] [--write] WORKLOAD…

Needs the compiler: ``pip install 'dd-jax[cuda]'``; of what that installs, jax-cuda13-plugin and jax-cuda13-pjrt are
enough. A topology is ``a100``, ``h100`` or ``h200``, or several in one host, ``h100:8``. The other options are those of
``benchmarks/tpu_aot.py``; what the figures are, ``benchmarks/aot.py`` says. Two things are missing that only a device
can tell: which kernel of a library is fastest, and the scratch memory of cuDNN. Flops are not given where a library's
kernels do the products, since the text does not say theirs.
"""

import importlib.util
from typing import Any

from jax.experimental import topologies

from benchmarks.aot import Compiler, run

# multiprocessors, units of each; bytes per second; GHz; shared KiB of each; MiB of cache; GiB; compute capability
_CARDS = {
    "a100": (108, 64, 2.039e12, 1.41, 164, 40, 80, "major: 8"),
    "h100": (132, 128, 3.352e12, 1.98, 228, 50, 80, "major: 9"),
    "h200": (132, 128, 4.8e12, 1.98, 228, 50, 141, "major: 9"),
}


def described(card: str) -> str:
    """A card as XLA's ``GpuTargetConfigProto``, in protobuf's text format."""
    cores, units, bandwidth, clock, shared, cache, memory, capability = _CARDS[card]
    return f"""
        platform_name: "CUDA"
        device_description_str: "{card}"
        dnn_version_info {{ major: 9 }}
        gpu_device_info {{
          cuda_compute_capability {{ {capability} }}
          core_count: {cores}
          fpus_per_core: {units}
          clock_rate_ghz: {clock}
          memory_bandwidth: {bandwidth:.0f}
          device_memory_size: {memory * 2**30}
          l2_cache_size: {cache * 2**20}
          shared_memory_per_core: {shared * 2**10}
          shared_memory_per_block: {48 * 2**10}
          shared_memory_per_block_optin: {(shared - 1) * 2**10}
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          threads_per_core_limit: 2048
          threads_per_block_limit: 1024
          threads_per_warp: 32
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
        }}"""


def devices_of(topology: str) -> list[Any]:
    """The devices of one host: ``h100`` or ``h100:8``.

    Raises:
      ValueError: no compiler, or a topology that it does not know.
    """
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise ValueError("jax's plugin for CUDA is not installed; pip install 'dd-jax[cuda]'")
    card, _, number = topology.partition(":")
    if card not in _CARDS or (number and not (number.isdecimal() and int(number))):
        raise ValueError(f"topology: {topology} is not accepted; use {', '.join(_CARDS)}, or several like h100:8")
    sizes = f"1x1x{number or 1}"  # partitions × hosts × devices of each
    return list(topologies.get_topology_desc("", "cuda", target_config=described(card), topology=sizes).devices)


GPU = Compiler("gpu_aot", "gpu", "cuda", (), devices_of, {"xla_gpu_autotune_level": "0"})


if __name__ == "__main__":
    run(GPU, __doc__, "h100")
