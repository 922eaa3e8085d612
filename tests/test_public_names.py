"""The names at the top of the package are those that it says, and come without the slow modules."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import dd_jax

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there_and_is_the_function_of_its_module():
    assert len(dd_jax.__all__) > 30
    for name in dd_jax.__all__:
        assert getattr(dd_jax, name) is not None
        assert name in dir(dd_jax)
    assert callable(dd_jax.meta_gradient)
    assert dd_jax.unroll.__module__ == "dd_jax.inner.loop"


def test_modules_keep_their_names():
    import dd_jax.estimates
    import dd_jax.outer

    assert dd_jax.estimates.meta_gradient is dd_jax.meta_gradient
    assert dd_jax.outer.outer_step is dd_jax.outer_step


def test_every_public_name_has_a_text_where_it_is_defined():
    stub, texts = ast.parse((ROOT / "dd_jax/__init__.pyi").read_text()), {}
    for node in stub.body:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            found = getattr(dd_jax, alias.name)
            own = inspect.isfunction(found) or (inspect.isclass(found) and found is not typing.Any)
            module = importlib.import_module(found.__module__ if own else f"dd_jax.{node.module}")
            texts[alias.name] = text_of(alias.name, ast.parse(Path(module.__file__).read_text()))
    assert set(texts) == set(dd_jax.__all__)
    assert [name for name, text in texts.items() if not text] == []


def text_of(name, tree):
    """The docstring of a function or class, or the string below the assignment of a constant; else None."""
    for node, after in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_docstring(node)
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return ast.literal_eval(after.value) if isinstance(after, ast.Expr) else None


@pytest.mark.slow
def test_the_reference_has_the_text_of_every_public_name_and_of_the_fields_of_a_class(tmp_path):
    pytest.importorskip("pdoc")
    process = subprocess.run([sys.executable, ROOT / "docs/api.py", tmp_path], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    page = (tmp_path / "dd_jax.html").read_text()
    classes = [name for name in dd_jax.__all__ if inspect.isclass(getattr(dd_jax, name))]
    fields = [f"{name}.{field}" for name in classes for field in getattr(getattr(dd_jax, name), "_fields", ())]
    assert "Distilled.step_sizes" in fields
    for name in (*dd_jax.__all__, *fields):
        _, _, after = page.partition(f' id="{name}"')
        assert '<div class="docstring">' in re.split("</section>|</div>\\s*<div id=", after)[0], name
    assert "Alias for field number" not in page
    assert (tmp_path / "dd_jax/estimates.html").is_file()
