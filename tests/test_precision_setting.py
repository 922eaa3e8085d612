"""``--precision`` is what every product of an experiment is traced in, and nothing else is."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Network
from dd_jax.files.distilled_file import load_distilled
from experiments import ablations, adaptation, attack, baselines, cross_arch, evaluate, fixed_init, pretrain, seeds
from experiments.precision import in_its_precision, products_in
from experiments.settings import PRECISIONS, Setting

TRACED = []
HIGHEST, HIGH, DEFAULT = jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGH, jax.lax.Precision.DEFAULT
MEANS = {"float32": HIGHEST, "tensorfloat32": HIGH, "bfloat16": DEFAULT}


def asked_for():
    """The precision of a product that is traced now."""
    (product,) = jax.make_jaxpr(jnp.dot)(jnp.ones(2), jnp.ones(2)).eqns
    return (
        {product.params["precision"]}
        if isinstance(product.params["precision"], jax.lax.Precision)
        else set(product.params["precision"] or (DEFAULT,))
    )


def noting(image_shape, classes):
    """A linear classifier that notes what precision it is traced in, whatever calls it."""

    def apply(theta, images):
        TRACED.append(asked_for())
        return images.reshape(len(images), -1) @ theta["params"]["Dense_0"]["kernel"]

    size = int(np.prod(image_shape))
    return Network(lambda key: {"params": {"Dense_0": {"kernel": jax.random.normal(key, (size, classes))}}}, apply)


NOTING = ["--network", f"{__name__}:noting"]
TINY = ["--outer.steps", "1", "--batch-size", "8", "--distilled.epochs", "1", "--outer.perturbations", "1"]
DATA = ["--validation-fraction", "0.2"]
SETS = ["--sets", "1", "--candidates", "5"]
BANK = ["--recipe.epochs", "1", "--recipe.batch-size", "8", "--networks", "2", "--held-out", "3"]


@pytest.fixture(scope="module", autouse=True)
def small_data(tmp_path_factory):
    """Thirty images of each of three classes, as mine.npz in the current directory."""
    folder = tmp_path_factory.mktemp("data")
    labels = np.arange(90) % 3
    images = np.random.default_rng(0).integers(0, 60, (90, 6, 6)) + 60 * labels[:, None, None]
    np.savez(folder / "mine.npz", images=images.astype(np.uint8), labels=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def run(small_data):
    """A finished run in one bfloat16 pass, with a known network."""
    fixed_init.main(["--dataset", "mine.npz", *NOTING, *DATA, *TINY, "--workdir", "run", "--precision", "bfloat16"])
    return small_data / "run"


@pytest.fixture(scope="module")
def bank(small_data):
    pretrain.main(["--dataset", "mine.npz", *NOTING, *DATA, *BANK, "--workdir", "bank"])
    return small_data / "bank"


def options_of(experiment):
    shared, nets = (
        ["--dataset", "mine.npz", *NOTING, *DATA],
        ["--weights.test-nets", "1", "--weights.validation-nets", "1"],
    )
    based = [o.replace("--", "--base.") if o.startswith("--") else o for o in (*shared, *TINY, *nets)]
    banked = [*shared, *TINY, "--weights.bank", "bank", "--weights.nets", "1", *nets]
    return {
        fixed_init: [*shared, *TINY],
        pretrain: [*shared, *BANK],
        baselines: [*shared, *SETS, *nets, "--steps", "1", "--epochs", "1"],
        ablations: ["--axes", "epochs", *based],
        seeds: ["--seeds", "1", *based],
        attack: [*banked, *SETS],
        adaptation: ["usps_mnist", *banked, *SETS, "--full", "None", "--epochs", "1", "--k-means-sets", "1"],
    }[experiment]


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize(
    "experiment",
    [
        fixed_init,
        pretrain,
        *(pytest.param(e, marks=pytest.mark.slow) for e in (baselines, ablations, seeds, attack, adaptation)),
    ],
    ids=lambda value: value.__name__.rpartition(".")[2],
)
def test_an_experiment_s_products_are_in_the_precision_asked_for(experiment, precision, bank, tmp_path, monkeypatch):
    for grid in ("STEP_SIZES", "FINER"):
        monkeypatch.setattr(baselines, grid, (1.0,))
    monkeypatch.setattr(attack, "STEP_SIZES", (0.1,))
    monkeypatch.setitem(ablations.VALUES, "epochs", (1,))
    option = "--base.precision" if experiment in (ablations, seeds) else "--precision"
    given = [] if precision is None else [option, precision]
    TRACED.clear()
    with jax.default_matmul_precision("bfloat16" if precision is None else "float32"):  # which a run does not heed
        experiment.main([*options_of(experiment), "--workdir", str(tmp_path / "run"), *given])
        assert asked_for() == {DEFAULT if precision is None else HIGHEST}  # and leaves as it was
    assert len(TRACED) > 1
    assert all(traced == {MEANS[precision or "float32"]} for traced in TRACED)
    results = [json.loads(path.read_text()) for path in (tmp_path / "run").rglob("result.json")]
    configs = [result["config"] for result in results if "config" in result]
    assert configs
    assert {config.get("base", config)["precision"] for config in configs} == {precision or "float32"}


@pytest.mark.parametrize(("given", "told"), [(None, "bfloat16"), ("float32", "float32")])
def test_an_evaluation_has_the_precision_of_its_run_unless_another_is_given(run, given, told, tmp_path):
    assert load_distilled(run / "distilled.npz").meta["precision"] == "bfloat16"
    options = [] if given is None else ["--precision", given]
    TRACED.clear()
    evaluate.main([str(run), *options, "--output", str(tmp_path / "scores.json")])
    cross_arch.main(
        [str(run), *options, "--networks", NOTING[1], "--nets", "1", "--output", str(tmp_path / "table.json")]
    )
    assert TRACED
    assert all(traced == {MEANS[told]} for traced in TRACED)
    for name in ("scores", "table"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["precision"] == told


def test_a_file_that_does_not_say_is_evaluated_in_float32(run, tmp_path):
    with np.load(run / "distilled.npz") as held:
        arrays = dict(held)
    meta = json.loads(str(arrays["meta"]))
    del meta["precision"]
    np.savez(tmp_path / "distilled.npz", **arrays | {"meta": np.array(json.dumps(meta | {"dataset": "mine"}))})
    TRACED.clear()
    result = evaluate.run(tmp_path / "distilled.npz", evaluate.Config(dataset="mine.npz"))
    assert result["precision"] == "float32"
    assert all(traced == {HIGHEST} for traced in TRACED)


def test_a_folder_from_before_the_setting_holds_a_run_in_float32(run):
    """The same command shows it; another precision is another run."""
    older = shutil.copytree(run, run.parent / "older")
    for name in ("config.json", "result.json"):
        content = json.loads((older / name).read_text())
        (content if name == "config.json" else content["config"]).pop("precision")
        (older / name).write_text(json.dumps(content))
    command = ["--dataset", "mine.npz", *NOTING, *DATA, *TINY, "--workdir", "older"]
    TRACED.clear()
    with pytest.raises(ValueError, match=r"other settings \(precision is float32 there and tensorfloat32 here\)"):
        fixed_init.main([*command, "--precision", "tensorfloat32"])
    before = (older / "result.json").read_bytes()
    fixed_init.main(command)
    assert (older / "result.json").read_bytes() == before
    assert not TRACED  # nothing was trained anew


def test_precisions_are_jax_s_own_and_others_are_refused():
    assert set(PRECISIONS) == set(MEANS)
    for name, means in MEANS.items():
        with products_in(name):
            assert asked_for() == {means}
    run = in_its_precision(lambda config: pytest.fail("it is refused before"))
    with pytest.raises(ValueError, match=r"^precision: 'float16' is not accepted; use one of float32, tens"):
        run(Setting(precision="float16"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^invalid choice 'float16' for argument '--precision'\. Expected one"):
        fixed_init.main(["--precision", "float16"])
