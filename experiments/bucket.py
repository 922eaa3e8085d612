"""Work folders in a bucket: ``--workdir gs://BUCKET/RUN``, or any URL that fsspec knows.

A run locks, appends to and renames its files, which a bucket's objects cannot be. So it works in a folder of this
machine. That is filled from the bucket first, and copied to it again and again.
"""

import contextlib
import logging
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dd_jax.checks import require
from dd_jax.files.atomic import first_line

from .say import say

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Between two copies: what a machine that is lost may lose, beside the time since its last checkpoint."""


@contextlib.contextmanager
def local_workdir(argv: list[str]) -> Iterator[list[str]]:
    """While open, a bucket's URL that is given as ``--workdir`` is a folder, whose files are copied to the bucket.

    One run at a time may use it: a bucket cannot be locked.

    Args:
      argv: the options of a command.

    Yields:
      Them, with the folder in place of the URL.

    Raises:
      ValueError: a URL of a kind that is unknown, or whose library is not installed; or one with ``--hosts`` options.
      OSError: the bucket cannot be read; or, at the end, not be written. The folder then stays.
    """
    place = next((i for i, option in enumerate(argv) if option.startswith("--workdir")), None)
    after = argv[place + 1 :] if place is not None else []
    url = argv[place].partition("=")[2] or (after[0] if after else "") if place is not None else ""
    if place is None or not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", url):
        yield argv
        return
    together = any(option.startswith("--hosts") for option in argv)
    require(not together, "workdir", url, "a folder that all processes see")
    bucket = Bucket(url)
    folder = Path(tempfile.mkdtemp(prefix="dd_jax_"))
    bucket.fetch(folder)
    with _copying(bucket, folder):
        yield [*argv[:place], "--workdir", str(folder), *(after if "=" in argv[place] else after[1:])]


@contextlib.contextmanager
def _copying(bucket: "Bucket", folder: Path) -> Iterator[None]:
    """While open, copies every ``SECONDS``; at the end once more, and removes the folder."""
    ended = threading.Event()

    def copy_again_and_again() -> None:
        while not ended.wait(SECONDS):
            try:
                bucket.store(folder)
            except (
                Exception
            ) as error:  # a bucket's library raises many kinds; the next copy has all that this one lacks
                log.warning("%s was not written (%s)", bucket.url, first_line(error))

    copying = threading.Thread(target=copy_again_and_again, name="copying to the bucket", daemon=True)
    copying.start()
    try:
        yield
    finally:
        ended.set()
        copying.join()
        try:
            bucket.store(folder)
        except Exception as error:
            raise OSError(f"{bucket.url} was not written ({first_line(error)}); the run is in {folder}") from error
        shutil.rmtree(folder)
        say(f"{folder} is now {bucket.url}")


class Bucket:
    """The objects below a URL, and what is known of them: which file each was last a copy of."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        try:
            import fsspec

            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            need = "the library for such URLs is not installed"
            raise ValueError(f"workdir: {url}: {need} ({first_line(error)}); pip install 'dd-jax[buckets]'") from error
        except ValueError as error:
            raise ValueError(f"workdir: {url} is not accepted ({first_line(error)}); use gs://BUCKET/RUN") from error
        self._copied: dict[str, tuple[int, int]] = {}

    def fetch(self, folder: Path) -> None:
        """Copies all objects into an empty folder."""
        for path in self._files.find(self._root):
            name = path.removeprefix(self._root).lstrip("/")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(path, str(target))
        self._copied = _seen(folder)

    def store(self, folder: Path) -> None:
        """Copies what has changed to the bucket, the result last, and removes what the run has removed."""
        there = _seen(folder)
        changed = [name for name, state in there.items() if self._copied.get(name) != state]
        for name in sorted(changed, key=lambda name: name == "result.json"):
            with contextlib.suppress(FileNotFoundError):  # a checkpoint that is not kept any more
                self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(folder / name), f"{self._root}/{name}")
                self._copied[name] = there[name]
        for name in self._copied.keys() - there.keys():
            self._files.rm_file(f"{self._root}/{name}")
            del self._copied[name]


def _seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file that belongs to a run, by its name; not of a file or folder in the making."""
    found = {}
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or ".orbax-checkpoint-tmp" in part for part in parts):
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                status = path.stat()
                found["/".join(parts)] = status.st_size, status.st_mtime_ns
    return found
