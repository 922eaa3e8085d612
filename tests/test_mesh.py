"""An outer step dealt out over devices: the numbers of one device, and no more communication than the mean takes.

This process has two devices (conftest); a process of its own has eight.
"""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.files.distilled_file import load_distilled
from dd_jax.inner.loop import trainer
from dd_jax.objectives import classification_loss
from dd_jax.outer import OuterRecipe, outer_optimizer, outer_step, recipe_estimate
from dd_jax.parallel import device_mesh, everywhere, of_networks
from dd_jax.parametrisations import PIXELS
from experiments import distil, random_init
from experiments.problem import assemble

KEY = jax.random.key(3)


def several(theta, count):
    """Different networks on a leading axis."""
    keys = jax.random.split(KEY, count)
    return jax.tree.map(lambda w: jnp.stack([w + 0.1 * jax.random.normal(k, w.shape, w.dtype) for k in keys]), theta)


def estimated(problem, mesh, *, count=None, step=0, loss=None, **recipe):
    network, theta, distilled, batch = problem
    loss = loss or classification_loss(network.apply)
    theta = jax.tree.map(jnp.asarray, theta) if count is None else several(jax.tree.map(jnp.asarray, theta), count)
    batch = jax.tree.map(lambda a: jnp.asarray(a)[:8], batch)
    recipe = OuterRecipe(**{"steps": 20, "learning_rate": 0.02, **recipe})
    estimate = recipe_estimate(
        recipe, jnp.asarray(step), trainer(loss), loss, PIXELS.decode, many=count is not None, mesh=mesh
    )
    return estimate, (KEY, PIXELS.init(jax.tree.map(jnp.asarray, distilled)), theta, batch)


def close(a, b, relative):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert np.linalg.norm(left - right) <= relative * np.linalg.norm(right), (left, right)


SEVERAL = [
    {"count": 4},
    {"count": 4, "normalise_networks": True},
    {"count": 4, "perturbations": 4, "smoothing": 0.3},
    {"count": 2, "perturbations": 2, "smoothing": 0.3},
]
ONE = [{"perturbations": 4, "smoothing": 0.3}, {}]


@pytest.mark.parametrize(
    ("shape", "how"), [*(((2, 1), how) for how in SEVERAL), *(((1, 2), how) for how in SEVERAL + ONE)], ids=str
)
def test_the_meta_gradient_is_that_of_one_device(x64, small_problem, shape, how):
    one, arguments = estimated(small_problem, None, **how)
    dealt, _ = estimated(small_problem, device_mesh(*shape), **how)
    expected = jax.jit(one)(*arguments)
    assert float(jnp.linalg.norm(expected[1].images)) > 1e-3
    close(jax.jit(dealt)(*arguments), expected, 1e-12)


def test_a_network_that_is_not_finite_is_left_out_wherever_it_is(x64, small_problem):
    """Its device's share of the mean is smaller: the means of the devices may not be averaged as they are."""
    one, (key, learned, thetas, batch) = estimated(small_problem, None, count=4, normalise_networks=True)
    dealt, _ = estimated(small_problem, device_mesh(2, 1), count=4, normalise_networks=True)
    thetas = jax.tree.map(lambda w: w.at[0].set(jnp.nan), thetas)
    expected = jax.jit(one)(key, learned, thetas, batch)
    assert np.isfinite(expected[0])
    close(jax.jit(dealt)(key, learned, thetas, batch), expected, 1e-12)


def all_reduces(compiled):
    """The bytes of each all-reduce of a compiled program."""
    sizes = {"f32": 4, "f64": 8, "s32": 4, "pred": 1}
    found = re.findall(r"= (.*?) all-reduce(?:-start)?\(", compiled.as_text())
    return [
        sum(sizes[kind] * int(np.prod([int(n) for n in dims.split(",") if n])) for kind, dims in
            re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape))
        for shape in found
    ]  # fmt: skip


@pytest.mark.parametrize("how", [{}, {"normalise_networks": True}], ids=str)
def test_networks_cost_one_all_reduce_of_the_meta_gradients_size(small_problem, how):
    estimate, arguments = estimated(small_problem, device_mesh(2, 1), count=4, **how)
    learned = arguments[1]
    bytes_of = sum(leaf.nbytes for leaf in jax.tree.leaves(learned))
    (size,) = all_reduces(jax.jit(estimate).lower(*arguments).compile())
    assert bytes_of <= size <= bytes_of + 64  # the loss, and the share of networks that are finite


@pytest.mark.parametrize(
    ("shape", "count", "message"),
    [
        ((2, 1), 3, "nets: 2 devices do not divide 3; use one of 1"),
        ((1, 2), 2, "batch: 2 devices do not divide 7; use one of 1"),
    ],
)
def test_what_devices_do_not_divide_is_refused(small_problem, shape, count, message):
    estimate, (key, learned, thetas, batch) = estimated(small_problem, device_mesh(*shape), count=count)
    if shape[1] > 1:
        batch = jax.tree.map(lambda a: a[:7], batch)
    with pytest.raises(ValueError, match=re.escape(message)):
        estimate(key, learned, thetas, batch)


def test_perturbations_that_devices_do_not_divide_are_refused(small_problem):
    _, arguments = estimated(small_problem, None)
    with pytest.raises(ValueError, match=r"perturbations: 3 is not accepted; use a multiple of 2"):
        estimated(small_problem, device_mesh(1, 2), perturbations=3)[0](*arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 1), "nets: 0 is not accepted; use 1 or more"),
        ((1, -1), "batch: -1 is not accepted; use 1 or more"),
        ((2, 2), "nets × batch: 2 × 2 devices are not accepted; there are 2"),
    ],
)
def test_a_mesh_that_there_are_no_devices_for_is_refused(shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        device_mesh(*shape)


RUN = [
    "digits", "--outer.steps", "4", "--batch-size", "6", "--distilled.steps", "2", "--weights.nets", "2",
    "--weights.test-nets", "1", "--weights.validation-nets", "1",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_upon_another_mesh(tmp_path, monkeypatch):
    """The mesh is no setting of the result: two steps here are on networks dealt out, two on examples dealt out."""
    random_init.main([*RUN, "--workdir", str(tmp_path / "whole")])

    def refusing_step_3(*arguments):
        problem = assemble(*arguments)
        good = problem.nets.training

        def training(step):
            if step == 3:
                raise InterruptedError
            return good(step)

        return problem._replace(nets=problem.nets._replace(training=training))

    part = [*RUN, "--workdir", str(tmp_path / "parts"), "--checkpoint-seconds", "1e-9"]
    with monkeypatch.context() as patch:
        patch.setattr(distil, "assemble", refusing_step_3)
        with pytest.raises(InterruptedError):
            random_init.main(part)
    random_init.main([*part, "--devices.nets", "1", "--devices.batch", "2"])
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts")]
    assert [result["mesh"] for result in results] == [{"nets": 2, "batch": 1}, {"nets": 1, "batch": 2}]
    metrics = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert [[json.loads(line)["step"] for line in lines] for lines in metrics] == [[1, 1, 2, 2, 3, 3, 4, 4]] * 2
    images = [load_distilled(tmp_path / name / "distilled.npz").images for name in ("whole", "parts")]
    close(*images, 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices.nets", "3"], "devices.nets: 3 is not accepted; use a divisor of 2"),
        (["--devices.batch", "4"], "devices.batch: 4 is not accepted; use a divisor of 6"),
        (["--devices.nets", "0"], "devices.nets: 0 is not accepted; use a divisor of 2"),
        (["--devices.nets", "2", "--devices.batch", "2"], "devices.nets × batch: 2 × 2 devices are not accepted"),
        (
            ["--outer.perturbations", "3", "--devices.batch", "2"],
            "devices.batch: 2 is not accepted; use a divisor of 3",
        ),
    ],
)
def test_devices_that_do_not_fit_a_run_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        random_init.main([*RUN, *options, "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def outer_steps(mesh, precision, steps):
    """The meta-gradient of a first outer step, and the images after ``steps``, for an MLP and 8 networks."""
    from dd_jax.distilled import noise
    from dd_jax.networks import make_network
    from dd_jax.weights.laws import initial_weights

    kind = jnp.dtype(precision)
    network = make_network("mlp", (8, 8, 1), 10)
    loss = classification_loss(network.apply)
    thetas = jax.vmap(initial_weights(network))(jax.random.split(KEY, 8))
    learned = PIXELS.init(noise(KEY, (8, 8, 1), 10, steps=2, epochs=2, step_size=0.1))
    images = jax.random.normal(KEY, (64, 8, 8, 1))
    batch = (images, jax.nn.one_hot(jnp.arange(64) % 10, 10))
    learned, thetas, batch = jax.tree.map(lambda a: a.astype(kind), (learned, thetas, batch))
    recipe = OuterRecipe(steps=20, learning_rate=0.05, normalise_networks=True)

    def estimate_at(step):
        return recipe_estimate(recipe, step, trainer(loss), loss, PIXELS.decode, many=True, mesh=mesh)

    if mesh is not None:
        thetas = jax.device_put(thetas, of_networks(mesh, many=True))
        learned, batch = jax.device_put((learned, batch), everywhere(mesh))
    gradient = jax.jit(estimate_at(jnp.int32(0)))(KEY, learned, thetas, batch)[1]
    outer = outer_step(estimate_at, outer_optimizer(recipe), fixed=PIXELS.fixed)
    state, update = outer.init(learned), jax.jit(outer.update)
    for number in range(steps):
        state, _ = update(jax.random.fold_in(KEY, number), state, thetas, batch)
    return jax.device_get((gradient.images, state.params.images))


def main():
    """Compares meshes of eight devices with one device: the process of the test below."""
    assert jax.device_count() == 8
    for precision, gradient_error, steps, images_error in (("float32", 1e-6, 0, None), ("float64", 1e-12, 20, 1e-8)):
        with jax.enable_x64(precision == "float64"):
            expected = outer_steps(None, precision, steps)
            for shape in ((8, 1), (4, 2), (1, 8)):
                gradient, images = outer_steps(device_mesh(*shape), precision, steps)
                close(gradient, expected[0], gradient_error)
                if images_error:
                    close(images, expected[1], images_error)
    print("equal")


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.endswith("equal\n"), done.stderr[-2000:]


if __name__ == "__main__":
    main()
