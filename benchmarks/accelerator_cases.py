"""What :mod:`benchmarks.accelerator` measures, and the process that measures it.

A case is a dictionary that JSON can hold; ``kind`` names one of ``KINDS``. Each is made ready first, which compiles its
programs, and measured then. Programs of a batch are compiled side by side, since compiling is most of the work.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dd_jax
from benchmarks.workloads import WORKLOADS, Workload, arguments, compile_step, flops, idiomatic, ours
from dd_jax import backend
from dd_jax.base import Batch, Distilled, Network, Params
from dd_jax.estimates import meta_gradient
from dd_jax.files.atomic import first_line
from dd_jax.inner.loop import trainer
from dd_jax.inner.optimizers import inner_optimizer
from dd_jax.networks import make_network
from dd_jax.objectives import classification_loss
from dd_jax.parametrisations import PIXELS
from dd_jax.weights.laws import initial_weights

Case = dict[str, Any]
Measure = Callable[[], dict[str, Any]]
Compiled = Callable[[], Any]

SHAPES = {"convnet": (8, 8, 3), "lenet": (28, 28, 1), "alexcifarnet": (32, 32, 3)}
STEP_SIZES = {"plain": (0.05, 0.15), "momentum": (0.02, 0.06), "nesterov": (0.02, 0.06), "adam": (0.005, 0.015)}
"""From the first inner step to the last."""
SMOOTH = {"adam": {"eps": 1e-4, "eps_root": 1e-6}}  # so that a gradient near zero is no division by one
OVER = {"map": jax.lax.map, "vmap": lambda f, xs: jax.vmap(f)(xs)}
ITERATIONS, SECONDS = 10, 2.0  # of a timing: whichever is reached first, but three at least


@contextlib.contextmanager
def _on_the_host() -> Iterator[None]:
    """While open, programs run on the CPU, and suit it."""
    with jax.default_device(jax.devices("cpu")[0]), backend.compiling_for("cpu"):
        yield


def _compiled(f: Callable, *of: Any) -> tuple[Compiled, float, jax.stages.Compiled]:
    """``f`` of these arguments as a program that waits for its result, and the seconds that making it took."""
    began = time.perf_counter()
    program = jax.jit(f).lower(*of).compile()
    return lambda: jax.block_until_ready(program(*of)), time.perf_counter() - began, program


# Correctness: the meta-gradient against float64 on the host.


_OptionsOf = tuple[tuple[str, Any], ...]


def _network(name: str, options: _OptionsOf, method: Any) -> Network:
    return make_network(name, SHAPES[name], 10, convolution=method, options=dict(options))


def _small(name: str, options: _OptionsOf, optimizer: str, kind: Any) -> tuple[Distilled, Params, Batch]:
    """A small problem, as arrays of a kind on the device of the moment."""
    rng, steps, epochs, images, batch = np.random.default_rng(3), 2, 2, 10, 32
    with _on_the_host():
        theta = jax.jit(initial_weights(_network(name, options, "lax")))(jax.random.key(1))
    parts = (
        rng.normal(size=(steps, images, *SHAPES[name])),
        rng.dirichlet(np.ones(10), size=(steps, images)),
        np.linspace(*STEP_SIZES[optimizer], steps * epochs),
    )
    distilled = Distilled(*_as(parts, kind))
    real = rng.normal(size=(batch, *SHAPES[name])), np.eye(10)[rng.integers(0, 10, batch)]
    return distilled, *_as((jax.device_get(theta), real), kind)


def _as(tree: Any, kind: Any) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a, kind), tree)


def _gradient(network: Network, optimizer: str, mode: Any) -> Callable:
    loss = classification_loss(network.apply)
    rule = inner_optimizer(optimizer, **SMOOTH.get(optimizer, {}))
    estimate = meta_gradient(trainer(loss, optimizer=rule, mode=mode), loss)
    return lambda *at: estimate(jax.random.key(0), *at)


_LOCK = threading.Lock()  # a reference is computed once, not by each thread that wants it


@functools.cache
def _in_float64(name: str, options: _OptionsOf, optimizer: str) -> tuple[float, dict[str, np.ndarray]]:
    with _on_the_host(), jax.enable_x64(True):
        program = _gradient(_network(name, options, "lax"), optimizer, "plain")
        run, _, _ = _compiled(program, *_small(name, options, optimizer, jnp.float64))
        return _parts(run())


def _parts(value_and_gradient: tuple[jax.Array, Any]) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and each part of a gradient as a vector in float64."""
    value, gradient = value_and_gradient
    fields = {name.replace("_", " "): getattr(gradient, name, None) for name in ("images", "labels", "step_sizes")}
    parts = {name: np.ravel(np.asarray(a, np.float64)) for name, a in fields.items() if isinstance(a, jax.Array)}
    return float(value), parts


def _against(found: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Of each part the norm of the difference over the norm, and the cosine."""
    exact = {name: values for name, values in exact.items() if values.any()}  # what is not learned has no gradient
    norms = {name: float(np.linalg.norm(exact[name])) for name in exact}
    return {
        "errors": {name: float(np.linalg.norm(found[name] - exact[name])) / norms[name] for name in exact},
        "cosines": {
            name: float(found[name] @ exact[name]) / norms[name] / float(np.linalg.norm(found[name])) for name in exact
        },
    }


def correctness(case: Case) -> Measure:
    """Of ``network``, its ``options``, ``optimizer``, ``mode`` and ``convolution``: relative errors in float32."""
    problem = case["network"], tuple(case["options"].items()), case["optimizer"]
    with _LOCK:
        _in_float64(*problem)
    program = _gradient(_network(*problem[:2], case["convolution"]), case["optimizer"], case["mode"])
    run, seconds, _ = _compiled(program, *_small(*problem, jnp.float32))

    def measure():
        (value, found), (exact_value, exact) = _parts(run()), _in_float64(*problem)
        loss = abs(value - exact_value) / abs(exact_value)
        return {"errors": {"loss": loss, **_against(found, exact)["errors"]}, "compile_seconds": seconds}

    return measure


# Precision: the gradient of a workload, and what becomes of a distillation.


def _workload(case: Case) -> Workload:
    changes = {name: case[name] for name in ("nets", "steps", "epochs") if name in case}
    return dataclasses.replace(WORKLOADS[case["workload"]], **changes)


def _learned(workload: Workload, batch: int) -> tuple[Any, ...]:
    distilled, thetas, real = arguments(workload, batch)
    return jax.tree.map(np.asarray, (PIXELS.init(distilled), thetas, real))


@functools.cache
def _workload_in_float64(workload_of: tuple[tuple[str, Any], ...]) -> tuple[float, dict[str, np.ndarray]]:
    case = dict(workload_of)
    with _on_the_host():
        at = _learned(_workload(case), case["batch"])
        with jax.enable_x64(True):
            program = ours(_workload(case), "plain", "matmul")
            run, _, _ = _compiled(program, jax.random.key(0), *_as(at, jnp.float64))
            return _parts(run())


def gradient(case: Case) -> Measure:
    """Of ``workload``, ``batch``, ``precision`` and ``convolution``: error and cosine of the gradient to float64's."""
    workload_of = tuple((name, case[name]) for name in ("workload", "steps", "epochs", "batch") if name in case)
    with _LOCK:
        _workload_in_float64(workload_of)
    with _on_the_host():
        at = _learned(_workload(case), case["batch"])
    at = _as(at, jnp.float32)
    with jax.default_matmul_precision(case["precision"]):
        program = ours(_workload(case), convolution=case["convolution"])
        run, seconds, _ = _compiled(program, jax.random.key(0), *at)

    def measure():
        _, found = _parts(run())
        return {**_against(found, _workload_in_float64(workload_of)[1]), "compile_seconds": seconds}

    return measure


def distillation(case: Case) -> Measure:
    """Of ``precision``, ``outer_steps``, ``network`` and test ``nets``: the accuracy of ``random_init digits``."""

    def measure():
        from experiments import distil, random_init  # here: slow to import

        preset = random_init.PRESETS["digits"]
        outer = dataclasses.replace(preset.outer, steps=case["outer_steps"])
        weights = dataclasses.replace(preset.weights, test_nets=case["nets"])
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            changes = {"network": case["network"], "precision": case["precision"], "workdir": Path(folder) / "run"}
            config = dataclasses.replace(preset, outer=outer, weights=weights, **changes)
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                result = distil.run("random_init", "digits", config) or {}
        return {"accuracy": result["test_accuracy"], "wall_seconds": result["wall_seconds"]}

    return measure


# Speed and memory.


def rate(case: Case) -> Measure:
    """Of ``precision`` and ``size``: flops per second of products of square float32 matrices, best of five."""
    size, count = case["size"], 8

    def products(a, b):
        return jax.lax.fori_loop(0, count, lambda _, a: a @ b, a)

    a, b = (jax.random.normal(key, (size, size)) / size**0.5 for key in jax.random.split(jax.random.key(0)))
    with jax.default_matmul_precision(case["precision"]):
        run, seconds, _ = _compiled(products, a, b)

    def measure():
        run()
        return {"flops_per_second": 2 * size**3 * count / min(_seconds(run, 5)), "compile_seconds": seconds}

    return measure


def _seconds(run: Callable[[], Any], iterations: int = ITERATIONS) -> list[float]:
    """Of each run: so many, or as many as fit in ``SECONDS``, but three at least."""
    taken: list[float] = []
    while len(taken) < 3 or (len(taken) < iterations and sum(taken) < SECONDS):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return taken


def _peak() -> int | None:
    """Most bytes in use on the device since the process began, where the backend says so."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def timing(case: Case) -> Measure:
    """One outer step of ``workload`` with ``batch`` real examples, in ``precision``.

    ``implementation`` is ``idiomatic``, or ``ours`` of ``mode``, ``convolution`` and, where several nets are gone
    through in another way than the backend's, ``over``.
    """
    workload, batch = _workload(case), case["batch"]
    if case["implementation"] == "ours":
        over = OVER[case["over"]] if "over" in case else None
        program = ours(workload, case["mode"], case["convolution"], over)
    else:
        program = idiomatic(workload)
    with _on_the_host():
        of_step = flops(workload, batch)
    with jax.default_matmul_precision(case["precision"]):
        compiled, at, seconds = compile_step(program, arguments(workload, batch))

    def run():
        return jax.block_until_ready(compiled(*at))

    def measure():
        before, loss = _peak(), float(run()[2])
        taken, analysis = _seconds(run), compiled.memory_analysis()
        return {
            "seconds": statistics.median(taken),
            "least_seconds": min(taken),
            "runs": len(taken),
            "compile_seconds": seconds,
            "loss": loss,
            "flops": of_step,
            "temporary_bytes": analysis.temp_size_in_bytes if analysis else None,
            "argument_bytes": analysis.argument_size_in_bytes if analysis else None,
            "peak_bytes": {"before": before, "after": _peak()},
        }

    return measure


def pytorch(case: Case) -> Measure:
    """The same outer step in PyTorch, in float32 like ours, on ``device``: cuda, or cpu where JAX has that."""

    def measure():
        import torch  # pyright: ignore[reportMissingImports]

        from benchmarks import torch_unroll

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device != case["device"]:
            raise RuntimeError(f"this PyTorch has no {case['device']}")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        workload, batch = _workload(case), case["batch"]
        run = torch_unroll.step(workload, arguments(workload, batch), device)
        loss = run()
        run()
        taken = _seconds(run)  # it returns the loss as a number, so that the device is done by then
        facts = {"seconds": statistics.median(taken), "least_seconds": min(taken), "runs": len(taken), "loss": loss}
        on_cuda = device == "cuda"
        name = torch.cuda.get_device_name() if on_cuda else platform.machine()
        peak = torch.cuda.max_memory_allocated() if on_cuda else None
        return {**facts, "peak_bytes": {"before": None, "after": peak}, "on": name, "torch": torch.__version__}

    return measure


KINDS: dict[str, Callable[[Case], Measure]] = {
    "correctness": correctness,
    "gradient": gradient,
    "distillation": distillation,
    "rate": rate,
    "timing": timing,
    "pytorch": pytorch,
}


def device_facts() -> dict[str, Any]:
    """What everything was measured on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "platform_version": device.client.platform_version.splitlines()[0],
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "host": f"{os.cpu_count()} cores ({platform.machine()})",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
            "dd_jax": dd_jax.__version__,
        },
    }


# The process.


def at_a_time() -> int:
    """Programs compiled side by side: half as many as there are cores, 8 at most."""
    return min(8, max(1, (os.cpu_count() or 1) // 2))


def measured(cases: Sequence[Case], quiet: bool, seconds: float) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number of each case with what was measured, or its ``error``, as soon as it is there.

    Args:
      cases: a batch.
      quiet: measure only once all programs are compiled, or ``seconds`` are over. Those not compiled by then are left
        out, and what is measured says how many were still in the making.
      seconds: see there.
    """
    pool = ThreadPoolExecutor(at_a_time())
    ready: dict[Future[Measure], int] = {
        pool.submit(lambda case: KINDS[case["kind"]](case), case): number for number, case in enumerate(cases)
    }
    in_order, beside = as_completed(ready), {}
    if quiet:
        done, others = wait(ready, timeout=seconds)
        in_order, running = sorted(done, key=ready.__getitem__), sum(not future.cancel() for future in others)
        beside = {"compiling_beside": running} if running else {}
    for future in in_order:
        try:
            yield ready[future], future.result()() | beside
        except Exception as error:
            yield ready[future], {"error": first_line(error)}
    pool.shutdown(wait=False)


def serve(connection: Connection, on_cpu: bool) -> None:
    """Tells :func:`device_facts`, then measures batches ``(cases, quiet, seconds)`` until there is None.

    Args:
      connection: to the process that asks.
      on_cpu: leave the accelerator alone, for the sake of another library.
    """
    chosen: str | None = getattr(jax.config, "jax_platforms")  # noqa: B009, its type is unknown
    if on_cpu:
        jax.config.update("jax_platforms", "cpu")
    elif chosen and "cpu" not in chosen.split(","):  # the host computes what to compare with
        jax.config.update("jax_platforms", f"{chosen},cpu")
    connection.send(device_facts())
    while (batch := connection.recv()) is not None:
        for found in measured(*batch):
            connection.send(found)
        connection.send(None)
