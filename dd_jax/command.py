"""``dd-jax NAME …``: the experiments wherever dd_jax is installed, as ``python -m experiments.NAME …`` in a checkout.

An installed package holds them as ``dd_jax.experiments``, so that a folder of the user's own may be called
``experiments``. A checkout, or an editable install of one, holds them beside ``dd_jax`` and lends them that name.
"""

import ast
import importlib.util
import runpy
import sys
from pathlib import Path

NAME = "dd_jax.experiments"


def folder_of_experiments() -> Path:
    """Where the experiments are: within the package, or beside it in a checkout."""
    package = Path(__file__).parent
    within = package / "experiments"
    return within if within.is_dir() else package.parent / "experiments"


def experiments(folder: Path) -> dict[str, str]:
    """The runnable modules, each with the first line of its docstring; none is imported."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    trees = {name: ast.parse(text) for name, text in texts.items() if '\nif __name__ == "__main__":\n' in text}
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in trees.items()}


def listing(found: dict[str, str]) -> str:
    """The help text."""
    width = max(map(len, found))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in found.items()]
    return "\n".join(["usage: dd-jax EXPERIMENT …", "", *lines, "", "dd-jax EXPERIMENT --help lists its settings."])


def run(name: str, folder: Path) -> None:
    """Runs a module as a script, on the arguments in ``sys.argv``."""
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # a path that ends in .py has both
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    try:
        spec.loader.exec_module(package)
    except ImportError as error:
        sys.exit(f"error: {error}")
    runpy.run_module(f"{NAME}.{name}", run_name="__main__", alter_sys=True)


def main() -> None:
    """The command line: ``dd-jax`` lists the experiments, ``dd-jax NAME …`` runs one."""
    folder = folder_of_experiments()
    found = experiments(folder)
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(listing(found))
        return
    if name not in found:
        sys.exit(f"error: experiment: {name!r} is unknown; use one of {', '.join(found)}")
    print("loading JAX", file=sys.stderr, flush=True)  # it takes seconds
    del sys.argv[1]
    run(name, folder)
