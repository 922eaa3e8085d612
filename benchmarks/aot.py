"""Compiles outer steps for devices that this machine lacks: what ``tpu_aot`` and ``gpu_aot`` share.

The outer step is that of ``benchmarks/workloads.py``: the meta-gradient and Adam. Nothing is run. Operations, flops,
bytes, cycles and collectives are of one device, with loops multiplied out; what each is, ``benchmarks/hlo.py`` says.
Memory is XLA's figure for one device, the peak that of arguments, results and temporaries together.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
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


@dataclasses.dataclass(frozen=True)
class Compiler:
    """A compiler of devices that this machine lacks."""

    command: str
    """The module whose command it is; its tables are known by that name."""
    backend: Literal["tpu", "gpu"]
    platform: str
    """JAX's name for it."""
    packages: tuple[str, ...]
    """Whose versions stand above a table."""
    devices_of: Callable[[str], list[Any]]
    """The devices of a topology; ValueError without the compiler, or for a topology that it does not know."""
    options: jax.stages.CompilerOptions = dataclasses.field(default_factory=dict)
    """Of the compilation."""


def mesh_of(devices: list[Any], nets: int, batch: int) -> Mesh:
    """A mesh of ``nets`` × ``batch`` of them.

    Raises:
      ValueError: more than there are.
    """
    if nets * batch > len(devices):
        raise ValueError(f"mesh: {nets} × {batch} is not accepted; the topology has {len(devices)} devices")
    kinds = (AxisType.Auto,) * 2
    return jax.make_mesh((nets, batch), (NETS, EXAMPLES), kinds, devices=devices[: nets * batch])


def compiled(
    compiler: Compiler, workload: Workload, batch: int, mesh: Mesh, convolution: Method | None
) -> jax.stages.Compiled:
    """The outer step, sharded, for the mesh's devices."""

    def values():
        distilled, thetas, (images, labels) = arguments(workload)
        images, labels = (jnp.resize(a, (batch, *a.shape[1:])) for a in (images, labels))
        return step_arguments(distilled, thetas, (images, labels))

    with backend.compiling_for(compiler.backend), backend.full_precision():
        step = outer_step(ours(workload, convolution=convolution, mesh=mesh))
        shardings = (*(everywhere(mesh),) * 3, of_networks(mesh, many=workload.nets > 1), everywhere(mesh))
        jitted = jax.jit(step, in_shardings=shardings, out_shardings=everywhere(mesh))
        lowered = jitted.trace(*jax.eval_shape(values)).lower(lowering_platforms=(compiler.platform,))
        return lowered.compile(compiler_options=compiler.options)


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
        "–" if facts["cycles"] is None else f"{facts['cycles'] / 1e6:.2f}",
        "–" if facts["flops"] is None else f"{facts['flops'] / 1e9:.2f}",
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


def write(compiler: Compiler, rows: list[str], path: Path) -> None:
    """Puts rows into the table of that file."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", *compiler.packages)]
    title = f"{', '.join(versions)}."
    before = written(compiler.command, path)
    write_table(compiler.command, "\n".join([title, "", HEAD, *with_others(rows, before, title)]), path)


def run(compiler: Compiler, doc: str | None, topology: str) -> None:
    """The command line of a compiler, with the topology that it takes when none is given."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD", choices=WORKLOADS | LARGE)
    parser.add_argument("--topology", default=topology)
    parser.add_argument("--mesh", nargs=2, type=int, default=(1, 1), metavar=("NETS", "BATCH"))
    for name in ("nets", "epochs", "batch"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--convolution", choices=METHODS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    sizes = [options.nets, options.epochs, options.batch, *options.mesh]
    if any(size is not None and size < 1 for size in sizes):
        parser.error("nets, epochs, batch, mesh: use 1 or more")
    try:
        mesh = mesh_of(compiler.devices_of(options.topology), *options.mesh)
    except ValueError as error:
        parser.error(str(error))
    changes = {name: getattr(options, name) for name in ("nets", "epochs") if getattr(options, name)}
    rows = []
    for name in options.workloads:
        workload = dataclasses.replace((WORKLOADS | LARGE)[name], **changes)
        try:
            facts = _facts(compiler, name, workload, mesh, options)
        except ValueError as error:
            parser.error(f"{name}: {error}")
        print(json.dumps(facts), flush=True)
        rows.append(row(facts))
    if options.write:
        changed = changes or options.batch or options.convolution or math.prod(options.mesh) > 1
        write(compiler, rows, SCALING if changed else README)


def _facts(
    compiler: Compiler, name: str, workload: Workload, mesh: Mesh, options: argparse.Namespace
) -> dict[str, Any]:
    batch = options.batch or workload.batch
    began, cpu_began = time.perf_counter(), time.process_time()
    program = compiled(compiler, workload, batch, mesh, options.convolution)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return {
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
