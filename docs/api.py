"""Writes the API reference as HTML pages, from the docstrings: ``python docs/api.py FOLDER``.

pdoc finds the text of a constant or a type alias in the module that defines it, but not at the top of the package,
where these have their public names. Nor does it read the comment beside a field. Here it is told both.
"""

import ast
import importlib
import pkgutil
import re
import sys
import textwrap
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


def comments(source: str) -> dict[str, str]:
    """The comments that stand beside the assignments of a module or a class, by name."""
    source = textwrap.dedent(source)
    lines, tree = source.encode().splitlines(), ast.parse(source)
    body = tree.body[0].body if len(tree.body) == 1 and isinstance(tree.body[0], ast.ClassDef) else tree.body
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and node.end_lineno is not None:
            after = re.fullmatch(r"\s*#\s*(.*)", lines[node.end_lineno - 1][node.end_col_offset :].decode())
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            found |= {ast.unparse(target): after[1]} if after else {}
    return found


class Module(pdoc.doc.Module):
    """A module, whose variables and fields have their texts."""

    @classmethod
    def from_name(cls, name: str) -> "Module":
        module = super().from_name(name)
        for owner in (module, *module.classes):
            beside = comments(owner.source)
            for variable in owner.variables if owner is module else owner.instance_variables:
                if not variable.docstring or variable.docstring.startswith("Alias for field number"):
                    variable.docstring = beside.get(variable.name, "")
        if module.obj is dd_jax:
            for variable in module.variables:
                own = pdoc.doc.Module(importlib.import_module(origins()[variable.name])).get(variable.name)
                variable.docstring = own.docstring if own is not None else ""
        return module


def main(folder: Path) -> None:
    """Writes the pages of the package and of its modules."""
    pdoc.doc.Module = Module
    pdoc.render.configure(docformat="google")
    modules = [module.name for module in pkgutil.walk_packages(dd_jax.__path__, "dd_jax.")]
    pdoc.pdoc("dd_jax", *modules, output_directory=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/api.py FOLDER")
    main(Path(sys.argv[1]))
