"""Compiles outer steps for TPUs, on a machine without one, and says what they would take: one JSON line each.

    python -m benchmarks.tpu_aot [--topology v5e:2x4] [--mesh NETS BATCH] [--nets N] [--epochs E] [--batch B]
                                 [--convolution METHOD] [--write] WORKLOAD…

Needs the compiler, ``pip install libtpu`` of the version that jax's extra ``tpu`` asks for. Nothing is run. The outer
step is that of ``benchmarks/workloads.py``: the meta-gradient and Adam. ``--mesh`` deals sampled networks × real
examples out over so many devices of the topology; one device if not given. ``voc`` and ``cub`` are AlexNet's, with
their own real batches. ``--nets``, ``--epochs`` and ``--batch`` change the workload. Operations, flops, bytes, cycles
and collectives are of one device, with loops multiplied out; what each is, ``benchmarks/hlo.py`` says. Memory is XLA's
figure for one device, the peak that of arguments, results and temporaries together. ``--write`` puts the rows into
tables: workloads as they are into benchmarks/README.md, changed ones into docs/scaling.md. Rows of other commands stay
there.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from benchmarks import hlo
from benchmarks.readme import README, head, line, write_table, written
from benchmarks.workloads import LARGE, WORKLOADS, Workload, arguments, ours, outer_step, step_arguments
from dd_jax import backend
from dd_jax.networks.convolution import METHODS, Method
from dd_jax.parallel import BATCH as EXAMPLES
from dd_jax.parallel import NETS, everywhere, of_networks

SCALING = README.parent.parent / "docs" / "scaling.md"
HEAD = head(
    "workload",
    "nets × steps, batch",
    "convolution",
    "topology, mesh",
    "operations",
    "million cycles",
    "Gflop",
    "MB off the chip",
    "MiB a device",
    "collectives",
    "compile, CPU s",
)


def devices_of(topology: str) -> list[Any]:
    """The devices of a TPU topology such as ``v5e:2x4``.

    Raises:
      ValueError: no compiler, or a topology that it does not know.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed; pip install libtpu, of the version that jax's extra tpu asks for")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"topology: {topology} is not accepted; use one like v5e:2x4 ({reason})") from error


def mesh_of(devices: list[Any], nets: int, batch: int) -> Mesh:
    """A mesh of ``nets`` × ``batch`` of them.

    Raises:
      ValueError: more than there are.
    """
    if nets * batch > len(devices):
        raise ValueError(f"mesh: {nets} × {batch} is not accepted; the topology has {len(devices)} devices")
    kinds = (AxisType.Auto,) * 2
    return jax.make_mesh((nets, batch), (NETS, EXAMPLES), kinds, devices=devices[: nets * batch])


def compiled(workload: Workload, batch: int, mesh: Mesh, convolution: Method | None) -> jax.stages.Compiled:
    """The outer step, sharded, for the mesh's devices."""

    def values():
        distilled, thetas, (images, labels) = arguments(workload)
        images, labels = (jnp.resize(a, (batch, *a.shape[1:])) for a in (images, labels))
        return step_arguments(distilled, thetas, (images, labels))

    with backend.compiling_for("tpu"), backend.full_precision():
        step = outer_step(ours(workload, convolution=convolution, mesh=mesh))
        shardings = (*(everywhere(mesh),) * 3, of_networks(mesh, many=workload.nets > 1), everywhere(mesh))
        jitted = jax.jit(step, in_shardings=shardings, out_shardings=everywhere(mesh))
        return jitted.trace(*jax.eval_shape(values)).lower(lowering_platforms=("tpu",)).compile()


def report(program: jax.stages.Compiled) -> dict[str, Any]:
    """Memory in bytes, and what one run executes, of one device."""
    text, memory = program.as_text(), program.memory_analysis()
    assert text is not None and memory is not None
    counts = dataclasses.asdict(hlo.count(text))
    parts = {name: getattr(memory, f"{name}_size_in_bytes") for name in ("argument", "output", "alias", "temp")}
    peak = parts["argument"] + parts["output"] - parts["alias"] + parts["temp"]
    return counts | {
        "argument_bytes": parts["argument"],
        "temp_bytes": parts["temp"],
        "peak_bytes": peak,
        "code_bytes": memory.generated_code_size_in_bytes,
    }


def row(facts: dict[str, Any]) -> str:
    """One line of JSON as one of the table."""
    collectives = (f"{n['count']} {kind}, {n['bytes']:,} B" for kind, n in facts["collectives"].items())
    shape = f"{facts['nets']} × {facts['steps']}, {facts['batch']:,}"
    return line(
        facts["workload"],
        shape,
        facts["convolution"],
        f"{facts['topology']}, {facts['mesh']['nets']} × {facts['mesh']['batch']}",
        f"{facts['operations']:,}",
        f"{facts['cycles'] / 1e6:.2f}",
        f"{facts['flops'] / 1e9:.2f}",
        f"{facts['off_chip_bytes'] / 1e6:.1f}",
        f"{facts['peak_bytes'] / 2**20:.1f}",
        "; ".join(collectives) or "–",
        f"{facts['compile_cpu_seconds']:.0f}",
    )


def with_others(rows: list[str], before: list[str], title: str) -> list[str]:
    """These rows and those of other cases that stood under the same title, in the order of names."""
    lines = [text for text in before if text.startswith("|")][2:] if title in before else []
    return sorted(({_case(text): text for text in lines} | {_case(text): text for text in rows}).values(), key=_order)


def _case(text: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in text.split("|")[1:5])


def _order(text: str) -> tuple:
    workload, shape, convolution, where = _case(text)
    numbers = [int(n) for n in shape.replace(",", "").replace("×", "").split()]
    return workload, convolution, numbers, where


def write(rows: list[str], path: Path) -> None:
    """Puts rows into the table of that file."""
    title = f"jax {jax.__version__}, libtpu {importlib.import_module('libtpu').__version__}."
    before = written("tpu_aot", path)
    write_table("tpu_aot", "\n".join([title, "", HEAD, *with_others(rows, before, title)]), path)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD", choices=WORKLOADS | LARGE)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--mesh", nargs=2, type=int, default=(1, 1), metavar=("NETS", "BATCH"))
    for name in ("nets", "epochs", "batch"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--convolution", choices=METHODS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or the compiler asks which TPU this host has
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # or a second compilation beside this one is refused
    sizes = [options.nets, options.epochs, options.batch, *options.mesh]
    if any(size is not None and size < 1 for size in sizes):
        parser.error("nets, epochs, batch, mesh: use 1 or more")
    try:
        mesh = mesh_of(devices_of(options.topology), *options.mesh)
    except ValueError as error:
        parser.error(str(error))
    changes = {name: getattr(options, name) for name in ("nets", "epochs") if getattr(options, name)}
    rows = []
    for name in options.workloads:
        workload = dataclasses.replace((WORKLOADS | LARGE)[name], **changes)
        batch = options.batch or workload.batch
        began, cpu_began = time.perf_counter(), time.process_time()
        try:
            program = compiled(workload, batch, mesh, options.convolution)
        except ValueError as error:
            parser.error(f"{name}: {error}")
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        facts = {
            "workload": name,
            "topology": options.topology,
            "devices": math.prod(options.mesh),
            "mesh": {"nets": options.mesh[0], "batch": options.mesh[1]},
            "nets": workload.nets,
            "steps": workload.steps * workload.epochs,
            "batch": batch,
            "convolution": options.convolution or "default",
            **report(program),
            "compile_seconds": seconds,
            "compile_cpu_seconds": cpu_seconds,
        }
        print(json.dumps(facts), flush=True)
        rows.append(row(facts))
    if options.write:
        changed = changes or options.batch or options.convolution or math.prod(options.mesh) > 1
        write(rows, SCALING if changed else README)


if __name__ == "__main__":
    main()
