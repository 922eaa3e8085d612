"""Writes the API reference as HTML pages, from the docstrings: ``python docs/api.py FOLDER``.

pdoc finds the text of a constant or a type alias in the module that defines it. At the top of the package, where these
have their public names, it finds none. So it is told here where they come from.
"""

import ast
import importlib
import sys
from pathlib import Path

import pdoc
import pdoc.doc
import pdoc.render

import dd_jax


def origins() -> dict[str, str]:
    """The module of each public name, as the package's stub has them."""
    stub = ast.parse(Path(dd_jax.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"dd_jax.{node.module}" for node in imports for alias in node.names}


class Module(pdoc.doc.Module):
    """A module, whose variables have the text of where they come from."""

    @classmethod
    def from_name(cls, name: str) -> "Module":
        module = super().from_name(name)
        if module.obj is dd_jax:
            for variable in module.variables:
                own = pdoc.doc.Module(importlib.import_module(origins()[variable.name])).get(variable.name)
                variable.docstring = own.docstring if own is not None else ""
        return module


def main(folder: Path) -> None:
    """Writes the pages of the package and of its modules."""
    pdoc.doc.Module = Module
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("dd_jax", output_directory=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/api.py FOLDER")
    main(Path(sys.argv[1]))
