"""The tables of benchmarks/README.md, and of other pages: each between markers that name the command that wrote it."""

import os
import platform
from pathlib import Path

import jax

from dd_jax.files.atomic import write_atomically

README = Path(__file__).parent / "README.md"


def write_table(module: str, text: str, path: Path = README) -> None:
    """Puts ``text`` in the place of what ``python -m benchmarks.<module> --write`` wrote before."""
    before, _, after = _around(module, path)
    write_atomically(path, f"{before}\n{text}\n{after}")


def written(module: str, path: Path = README) -> list[str]:
    """The lines that are there now."""
    return _around(module, path)[1].strip().splitlines()


def _around(module: str, path: Path) -> tuple[str, str, str]:
    begin, end = f"<!-- {module}: written by python -m benchmarks.{module} --write -->", f"<!-- end of {module} -->"
    before, rest = path.read_text().split(begin)
    text, after = rest.split(end)
    return before + begin, text, end + after


def line(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> str:
    """The first two lines of a Markdown table."""
    return f"{line(*cells)}\n{'|---' * len(cells)}|"


def machine() -> str:
    """What the figures were measured on."""
    return f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores ({platform.machine()}), jax {jax.__version__}"
