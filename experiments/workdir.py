"""Work folders: claimed by one run at a time, and never written over."""

import contextlib
import json
import logging
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout
from jax.experimental.compilation_cache import compilation_cache
from matplotlib.figure import Figure

import dd_jax
from dd_jax.backend import target
from dd_jax.checks import positive, require  # noqa: F401, for the experiments
from dd_jax.files.atomic import first_line, write_atomically, write_json
from dd_jax.files.figures import to_png
from dd_jax.hosts import everyones, from_first, is_first

from .say import say

LATER = {
    "precision": "float32",
    "images.classes": [],
    "images.streamed": False,
    "images.skip": 0,
    "weights.head": "loaded",
    "weights.head_layers": [],
}
"""Settings that the first files lack, by their dotted names, with what they were then."""


@contextlib.contextmanager
def claimed(workdir: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Makes the folder of a run, or checks that it holds a run of the very same settings, and locks it meanwhile.

    Of several processes, the first does; the others wait, and get what it found.

    Yields:
      The content of result.json where the run is finished, else None.

    Raises:
      ValueError: the folder cannot be written, belongs to other settings, is in use, or holds something else.
    """
    check_local(workdir)
    with contextlib.ExitStack() as stack:
        finished = from_first(lambda: stack.enter_context(_claimed(workdir, settings)))
        if not (workdir / "config.json").exists():
            raise ValueError(f"workdir: {workdir} is not accepted; use a folder that all processes see")
        yield finished


@contextlib.contextmanager
def _claimed(workdir: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists() and any(not p.name.startswith(".") for p in workdir.iterdir()):
            raise ValueError(f"workdir: {workdir} is not empty and holds no run; choose another folder")
    except OSError as error:
        raise _unusable(workdir, error) from error
    with _locked(workdir):
        _check_settings(workdir, json.loads(json.dumps(settings)))
        if not is_finished(workdir):
            yield None
            return
        path = workdir / "result.json"
        try:
            result = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"workdir: {path} is damaged ({error}); move it away to have it written anew") from error
        say(f"{workdir} holds this run, finished")
        yield result


def is_finished(workdir: Path) -> bool:
    """Whether a work folder holds a result, of whatever settings."""
    return (workdir / "result.json").is_file()


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of a work folder.

    Raises:
      ValueError: one is in it, or the folder cannot be written.
    """
    check_local(workdir)
    with contextlib.ExitStack() as stack:

        def lock() -> None:
            stack.enter_context(_locked(workdir))

        from_first(lock)
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    try:
        held = FileLock(workdir / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise ValueError(
            f"workdir: {workdir} is in use by another run; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise _unusable(workdir, error) from error
    with held:
        yield


def check_local(workdir: Path) -> None:
    """Refuses a URL, such as of a bucket, which only the command line takes (``experiments/bucket.py``).

    >>> check_local(Path("gs://bucket/run"))
    Traceback (most recent call last):
    ValueError: workdir: gs://bucket/run is not accepted; use a folder, and copy it to the bucket or mount the bucket
    """
    url = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(workdir))  # Path takes one of its slashes
    if url:
        accepted = "a folder, and copy it to the bucket or mount the bucket"
        require(False, "workdir", "{}://{}".format(*url.groups()), accepted)


def check_same_everywhere(settings: Mapping[str, Any]) -> None:
    """Refuses settings, as JSON holds them, that are not the same in all processes."""
    first, *others = everyones(json.loads(json.dumps(settings)))
    for number, other in enumerate(others, 1):
        if differences := _differences(first, other, where=("in process 0", f"in process {number}")):
            raise ValueError(
                f"hosts: the processes have different settings ({'; '.join(differences)}); start all with the same"
            )


def _unusable(workdir: Path, error: OSError) -> ValueError:
    return ValueError(f"workdir: {workdir} cannot be written ({error.strerror}); choose another folder")


def _check_settings(workdir: Path, settings: Any) -> None:
    """Writes config.json, or checks that it says the same; see :func:`claimed`."""
    path = workdir / "config.json"
    try:
        held = json.loads(path.read_text()) if path.exists() else settings
        if differences := _differences(held, settings):
            raise ValueError(
                f"workdir: {workdir} holds a run with other settings ({'; '.join(differences)}); "
                "choose another --workdir, or run it with its own settings"
            )
        if not is_finished(workdir):
            write_json(path, settings)  # also on resuming: what cannot be written to is better known now
    except OSError as error:
        raise _unusable(workdir, error) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"workdir: {path} is damaged ({error}); choose another folder") from error


def _differences(held: Any, wanted: Any, prefix: str = "", where: tuple[str, str] = ("there", "here")) -> list[str]:
    if isinstance(held, dict) and isinstance(wanted, dict):
        keys = [*held, *(key for key in wanted if key not in held)]
        names = {key: f"{prefix}.{key}".lstrip(".") for key in keys}
        held, wanted = ({key: part.get(key, LATER.get(names[key])) for key in keys} for part in (held, wanted))
        return [d for key in keys for d in _differences(held[key], wanted[key], names[key], where)]
    return [] if held == wanted else [f"{prefix} is {held} {where[0]} and {wanted} {where[1]}"]


@contextlib.contextmanager
def told_if_it_fails(path: Path) -> Iterator[None]:
    """For a picture or page of a result that is written already: what goes wrong is told, and the run goes on."""
    try:
        yield
    except Exception as error:
        logging.getLogger(__name__).warning("%s was not written (%s)", path, first_line(error))


def draw_missing(path: Path, figure: Callable[[], Figure]) -> None:
    """Draws a picture of a result that is written already, unless it is there; see :func:`told_if_it_fails`."""
    if is_first() and not path.exists():
        with told_if_it_fails(path):
            write_atomically(path, to_png(figure()))


@contextlib.contextmanager
def compiled_beside(workdir: Path) -> Iterator[None]:
    """While open, JAX keeps compiled programs in ``compiled/`` of a work folder: a run that goes on compiles nothing.

    So it also runs the very same programs, where a GPU's compiler might choose others. Not so where JAX has a folder
    for them already, as by ``JAX_COMPILATION_CACHE_DIR``; nor on a CPU, where compiling takes seconds, and what is
    compiled for one may crash another.
    """
    if target() == "cpu" or getattr(jax.config, "jax_compilation_cache_dir") is not None:  # noqa: B009, its type
        yield
        return
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


def provenance() -> dict[str, Any]:
    """What made a result: versions and hardware."""
    beside = {name: metadata.version(name) for name in ("jaxlib", "flax", "optax", "numpy")}
    return {
        "versions": {
            "dd_jax": dd_jax.__version__,
            "jax": jax.__version__,
            **beside,
            "python": platform.python_version(),
        },
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind} ({platform.machine()})",
    }
