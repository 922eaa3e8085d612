"""Compiles outer steps for TPUs, on a machine without one, and says what they would take: one JSON line each.

    python -m benchmarks.tpu_aot [--topology v5e:2x4] [--mesh NETS BATCH] [--nets N] [--epochs E] [--batch B]
                                 [--convolution METHOD] [--write] WORKLOAD…

Needs the compiler, ``pip install libtpu`` of the version that jax's extra ``tpu`` asks for. ``--mesh`` deals sampled
networks × real examples out over so many devices of the topology; one device if not given. ``voc`` and ``cub`` are
AlexNet's, with their own real batches. ``--nets``, ``--epochs`` and ``--batch`` change the workload. ``--write`` puts
the rows into tables: workloads as they are into benchmarks/README.md, changed ones into docs/scaling.md. Rows of other
commands stay there. What the figures are, ``benchmarks/aot.py`` says.
"""

import importlib.util
import os
from typing import Any

from jax.experimental import topologies

from benchmarks.aot import Compiler, run


def devices_of(topology: str) -> list[Any]:
    """The devices of a TPU topology such as ``v5e:2x4``.

    Raises:
      ValueError: no compiler, or a topology that it does not know.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed; pip install libtpu, of the version that jax's extra tpu asks for")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or the compiler asks which TPU this host has
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # or a second compilation beside this one is refused
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"topology: {topology} is not accepted; use one like v5e:2x4 ({reason})") from error


TPU = Compiler("tpu_aot", "tpu", "tpu", ("libtpu",), devices_of)


if __name__ == "__main__":
    run(TPU, __doc__, "v5e:2x4")
