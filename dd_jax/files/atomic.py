"""Files and folders that are either whole or absent, whatever interrupts their writing."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dd_jax import hosts


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException as error:
            os.unlink(file.name)
            if isinstance(error, OSError) and error.errno and error.filename is None:
                raise OSError(error.errno, error.strerror, str(path)) from error  # which a full disk does not name
            raise


def write_json(path: Path, content: Any) -> None:
    """Atomic, indented JSON; NaN is refused (``ValueError``), since JSON has none.

    Of several processes that run one program, the first alone writes.
    """
    if hosts.is_first():
        write_atomically(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def set_aside(path: Path, folder: Path) -> Path:
    """Moves something damaged into a folder for such, made if it is missing, under a name not taken; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{path.name}{'' if i == 0 else f'.{i}'}" for i in itertools.count())
    target = next(folder / name for name in names if not (folder / name).exists())
    return path.rename(target)


@contextlib.contextmanager
def whole_or_absent(folder: Path) -> Iterator[None]:
    """While orbax saves to ``folder``: a save that fails, as on a full disk, leaves nothing of itself behind."""
    try:
        yield
    except BaseException:
        for part in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(part, ignore_errors=True)
        raise


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text, short enough for one line of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
