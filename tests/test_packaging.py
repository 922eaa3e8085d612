"""The wheel and the sdist hold what they should, and the console command runs the experiments wherever they are."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from dd_jax import command

ROOT = Path(__file__).parent.parent
CONSOLE = "import sys; from dd_jax.command import main; sys.exit(main())"  # what pip writes for the entry point


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """What pip would put into site-packages."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture
def users_folder(tmp_path):
    """A folder with a package ``experiments`` of the user's own."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    return tmp_path


def dd_jax(found_in, cwd, *arguments, code=CONSOLE):
    """Runs the command with the package found in a folder, as a path entry of a virtual environment would have it."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(found_in), os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
    )


def test_the_wheel_claims_one_name_and_holds_every_module(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        (entry_points,) = (wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dd_jax"}
    for module in (*ROOT.glob("dd_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")):
        here = module.relative_to(ROOT).as_posix()
        assert (here if here.startswith("dd_jax/") else f"dd_jax/{here}") in names
    recorded = {f"dd_jax/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("results/*/*/distilled.npz")}
    assert {name for name in names if name.startswith("dd_jax/results/")} == recorded  # what dd_jax.load reads
    assert {"dd_jax/py.typed", "dd_jax/__init__.pyi"} <= set(names)  # so that type checkers read our annotations
    assert entry_points.split() == ["[console_scripts]", "dd-jax", "=", "dd_jax.command:main"]


def test_the_sdist_holds_what_the_tests_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    needed = [ROOT / ".ci/run", ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "LICENSE"]
    needed += [path for part in ("tests", "benchmarks") for path in (ROOT / part).glob("*.py")]
    needed += [path for path in (ROOT / "results").rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in needed} <= names


SLOW_TO_IMPORT = {"PIL", "matplotlib", "orbax", "sklearn", "tensorflow", "tensorflow_datasets"}
NEEDS_ONE = {  # and no module of the algorithm imports these
    *("dd_jax.baselines", "dd_jax.data.pictures", "dd_jax.data.readers.usps", "dd_jax.files.checkpoint"),
    *("dd_jax.files.figures", "dd_jax.files.snapshots", "dd_jax.weights.bank"),
    *(f"dd_jax.files.report.{name}" for name in ("facts", "images", "page", "tiles", "words")),
    *(f"dd_jax.data.streamed.{name}" for name in ("ahead", "crops", "dataset", "originals")),
}
LOADED = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_algorithm_loads_jax_and_the_networks_flax_and_nothing_slow():
    paths = [path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("dd_jax/**/*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    assert modules >= NEEDS_ONE
    networks = {name for name in modules if name.startswith("dd_jax.networks")}
    for chosen, refused in (
        (modules - NEEDS_ONE - networks, SLOW_TO_IMPORT | {"flax"}),
        (modules - NEEDS_ONE, SLOW_TO_IMPORT),
    ):
        process = dd_jax(ROOT, ROOT, *sorted(chosen), code=LOADED)
        assert process.returncode == 0, process.stderr
        loaded = set(process.stdout.split())
        assert {"jax", "optax"} <= loaded
        assert not loaded & refused


WITHOUT_TYRO = """
import importlib.util, runpy, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "tyro" else found(name, package)
"""


@pytest.mark.parametrize(
    "code",
    [f"{WITHOUT_TYRO}{CONSOLE}", f"{WITHOUT_TYRO}sys.argv[0] = '-m'; runpy.run_module('experiments.fixed_init')"],
    ids=["dd-jax", "python -m"],
)
def test_experiments_without_what_they_need_say_how_to_install_it(code):
    process = dd_jax(ROOT, ROOT, "fixed_init", code=code)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: the experiments are not installed; pip install 'dd-jax[")
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_command_lists_the_experiments_without_importing_them(installed, users_folder, arguments):
    code = "import sys; from dd_jax.command import main; main(); assert 'jax' not in sys.modules"
    process = dd_jax(installed, users_folder, *arguments, code=code)
    assert process.returncode == 0, process.stderr
    lines = [line.split(None, 1) for line in process.stdout.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == [
        "ablations", "adaptation", "attack", "baselines", "convert", "cross_arch", "evaluate", "export", "fixed_init",
        "gallery", "linear_case", "modern", "pretrain", "random_init", "report", "results", "seeds", "transfer",
    ]  # fmt: skip
    assert all(summary.strip() for _, summary in lines)


@pytest.mark.slow
def test_an_installed_experiment_runs_where_the_user_has_a_folder_of_that_name(installed, users_folder):
    process = dd_jax(installed, users_folder, "fixed_init", "digits", "--outer.steps", "2")
    assert process.returncode == 0, process.stderr
    assert "the report is runs/fixed_init/digits/report.html" in process.stdout
    assert (users_folder / "runs/fixed_init/digits/distilled.npz").is_file()


def test_a_checkout_s_experiments_are_those_beside_the_package(users_folder):
    process = dd_jax(ROOT, users_folder, "fixed_init", "mnits")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("loading JAX\nerror: preset: 'mnits' is unknown; use one of digits, mnist")


@pytest.mark.slow
def test_records_are_kept_in_a_checkout_only(installed, users_folder):
    process = dd_jax(installed, users_folder, "results")
    assert (process.returncode, process.stdout) == (1, "")
    loading, error = process.stderr.splitlines()
    assert loading == "loading JAX"
    assert error.startswith("error: README.md: ")
    assert error.endswith("has no tables; records are kept in a checkout of dd_jax, so run it there")


def test_its_help_speaks_of_itself(users_folder):
    process = dd_jax(ROOT, users_folder, "evaluate", "--help")
    assert process.returncode == 0, process.stderr
    assert "usage: dd-jax evaluate" in process.stdout
    assert "python -m experiments" not in process.stdout


def test_an_unknown_experiment_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dd-jax", "runner"])  # a module, but none to run
    with pytest.raises(SystemExit, match=r"^error: experiment: 'runner' is unknown; use one of ablations, .*transfer$"):
        command.main()


def test_a_module_runs_as_a_script_does(tmp_path, monkeypatch, capsys):
    (tmp_path / "__init__.py").touch()
    (tmp_path / "shared.py").write_text("WORD = 'shared'")
    (tmp_path / "probe.py").write_text(
        '"""A probe.\n\nMore."""\nimport sys\nfrom .shared import WORD\n\nif __name__ == "__main__":\n'
        "    print(WORD, __package__, *sys.argv[1:])\n"
    )
    for name in ("dd_jax.experiments", "dd_jax.experiments.shared"):
        monkeypatch.setitem(sys.modules, name, None)  # so that they go when the test ends
        del sys.modules[name]
    monkeypatch.setattr(command, "folder_of_experiments", lambda: tmp_path)
    monkeypatch.setattr(sys, "argv", ["dd-jax"])
    command.main()
    assert "  probe  A probe.\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["dd-jax", "probe", "mnist", "--outer.steps", "10"])
    command.main()
    assert capsys.readouterr().out == "shared dd_jax.experiments mnist --outer.steps 10\n"
