"""Linear regression: one step from every θ₀ to the optimum takes M ≥ D distilled examples (paper, section 3.3).

The paper proves it; there is no figure to compare with. Here distilled data are *learned* by the meta-gradient for
M = 1 … D + 2 on random regression data, θ₀ ~ N(θ*, I), the law of spread 1 that is easiest to distil for. Their
expected excess loss falls to rounding error exactly for M ≥ D, where a closed form does the same, and for M < D ends
just above the bound proved in docs/linear_case.md.

    python -m experiments.linear_case [--dimension D] [--workdir DIR] [--outer-steps N] [--seed K] …

prints the table and writes result.json and excess_loss.png to the work folder.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

from dd_jax.base import Distilled
from dd_jax.checks import positive, require
from dd_jax.distilled import noise
from dd_jax.estimates import meta_gradient, over_networks
from dd_jax.files.atomic import write_json
from dd_jax.inner.loop import trainer, unroll
from dd_jax.linear import closed_form, excess_loss_bound, expected_excess_loss, optimum, quadratic_loss
from dd_jax.parametrisations import FREE, parametrisation

from .command_line import command_line, run_as_script
from .say import say
from .training import RunError
from .workdir import claimed, draw_missing, provenance

ROWS = 4  # N / D, real examples per dimension: few enough for eigenvalues of dᵀd/N that differ visibly
REACHED = 1e-9  # share of the excess loss before the step that counts as none after it
COLUMNS = {"closed_form": "closed form", "learned": "learned", "bound": "bound"}  # of the table and the plot


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run, in float64 throughout."""

    dimension: int = 6
    """D, of the weights and the data."""
    networks: int = 16
    """Fresh initial weights θ₀ per outer step."""
    outer_steps: int = 4000
    """Steps of Adam for each M."""
    learning_rate: float = 0.05
    """Adam's first rate; it follows a cosine to zero."""
    seed: int = 0
    """Draws the real data, the first distilled data and θ₀."""
    workdir: Path | None = None
    """Where the results go; runs/linear_case if not given."""


def regression_data(key: jax.Array, dimension: int) -> tuple[jax.Array, jax.Array]:
    """Random d ``[4D, D]`` and t ``[4D]``: standard normal inputs, a normal teacher, and noise of the same size."""
    d_key, teacher_key, noise_key = jax.random.split(key, 3)
    d = jax.random.normal(d_key, (ROWS * dimension, dimension))
    teacher = jax.random.normal(teacher_key, (dimension,))
    return d, d @ teacher + jax.random.normal(noise_key, (ROWS * dimension,))


def learn(key: jax.Array, d: jax.Array, t: jax.Array, examples: int, config: Config) -> Distilled:
    """Algorithm 1 with random initialisations (equation 5): Adam on d̃, t̃ and raw η̃ of one step on M examples."""
    best = optimum(d, t)
    first_key, weights_key = jax.random.split(key)
    first = noise(first_key, (config.dimension, 1, 1), 1, steps=1, epochs=1, images_per_class=examples, step_size=1.0)
    first = first._replace(images=first.images[..., 0, 0], labels=first.labels[..., 0])  # [1, M, D] and [1, M]
    init, decode, _ = parametrisation(labels=FREE)
    estimate, learned = over_networks(meta_gradient(trainer(quadratic_loss), quadratic_loss, decode)), init(first)
    adam = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.outer_steps))

    def update(state, step):
        learned, adam_state = state
        step_key = jax.random.fold_in(weights_key, step)
        thetas = best[None] + jax.random.normal(step_key, (config.networks, config.dimension))
        _, gradient = estimate(step_key, learned, thetas, (d, t))
        updates, adam_state = adam.update(gradient, adam_state)
        return (optax.apply_updates(learned, updates), adam_state), None

    steps = jnp.arange(config.outer_steps)
    return decode(jax.jit(lambda state: jax.lax.scan(update, state, steps)[0][0])((learned, adam.init(learned))))


def largest_excess_loss(key: jax.Array, distilled: Distilled, d: jax.Array, t: jax.Array) -> float:
    """The largest excess loss after training from 1,000 scattered θ₀ ~ N(0, 10² I)."""
    best = optimum(d, t)
    thetas = 10 * jax.random.normal(key, (1000, *best.shape))
    trained = jax.vmap(lambda theta: unroll(quadratic_loss, theta, distilled))(thetas)
    return float(0.5 * jnp.max(jnp.mean(((trained - best[None]) @ d.T) ** 2, axis=1)))


def run(config: Config) -> dict[str, Any]:
    """Learns distilled data for M = 1 … D + 2, prints a row for each, and writes the results.

    Returns:
      The content of result.json.

    Raises:
      ValueError: settings that cannot be used; nothing has been written then.
      experiments.training.RunError: the excess loss was not finite.
    """
    for name in ("dimension", "networks", "outer_steps"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "1 or more")
    positive("learning_rate", config.learning_rate)
    require(config.seed >= 0, "seed", config.seed, "0 or more")
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "workdir"}
    workdir = _workdir(config)
    with claimed(workdir, {"experiment": "linear_case", **settings}) as finished:
        if finished is not None:
            draw_missing(workdir / "excess_loss.png", lambda: draw_excess_loss(finished))
            return finished
        began = time.monotonic()
        say("compiling, and learning data for M = 1, 2, …")
        with jax.enable_x64(True):
            result = _measure(config)
        result = {
            "experiment": "linear_case",
            "seed": config.seed,
            "wall_seconds": time.monotonic() - began,
            **result,
            "config": settings,
            **provenance(),
        }
        write_json(workdir / "result.json", result)
        draw_missing(workdir / "excess_loss.png", lambda: draw_excess_loss(result))
        return result


def _measure(config: Config) -> dict[str, Any]:
    data_key, learn_key, closed_key, theta_key = jax.random.split(jax.random.key(config.seed), 4)
    dimension = config.dimension
    d, t = regression_data(data_key, dimension)
    best = optimum(d, t)
    before = float(excess_loss_bound(d, 0))
    print(
        f"expected excess loss before the step {before:.3g}, and after it:\n{_line('M', *COLUMNS.values())}", flush=True
    )
    rows, largest = [], 0.0
    for m in range(1, dimension + 3):
        learned = learn(jax.random.fold_in(learn_key, m), d, t, m, config)
        excess, closed_excess = float(expected_excess_loss(learned, d, t, best)), None
        if not math.isfinite(excess):
            raise RunError(f"M = {m}: the expected excess loss is {excess}; lower --learning-rate")
        if m >= dimension:
            closed = closed_form(jax.random.fold_in(closed_key, m), d, t, m)
            closed_excess = float(expected_excess_loss(closed, d, t, best))
            largest = max(largest, *(largest_excess_loss(theta_key, data, d, t) for data in (closed, learned)))
        values = (closed_excess, excess, float(excess_loss_bound(d, m)))
        print(_line(m, *("–" if value is None else f"{value:.5g}" for value in values)), flush=True)
        rows.append({"examples": m, **dict(zip(COLUMNS, values, strict=True))})
    return {
        "excess_loss_before": before,
        "excess_loss": rows,
        "largest_excess_loss": largest,
        "examples_needed": next((row["examples"] for row in rows if row["learned"] < REACHED * before), None),
        "reported_examples_needed": dimension,
    }


def _line(*cells: Any) -> str:
    return f"{cells[0]:>4}" + "".join(f"{cell:>14}" for cell in cells[1:])


def draw_excess_loss(result: Mapping[str, Any]) -> Figure:
    """The expected excess loss by M: learned, closed form, and bound; the dotted line is M = D."""
    figure = Figure(figsize=(6.5, 3.6))
    axis = figure.subplots()
    rows = result["excess_loss"]
    for (name, title), style in zip(COLUMNS.items(), ("x", "o", "_"), strict=True):
        values = [math.nan if row[name] is None else row[name] for row in rows]
        axis.plot([row["examples"] for row in rows], values, style, markersize=10, fillstyle="none", label=title)
    axis.axhline(result["excess_loss_before"], color="grey", linewidth=0.8, label="before the step")
    axis.axvline(result["reported_examples_needed"], color="grey", linestyle=":")
    axis.set(xlabel="M, distilled examples", ylabel="expected excess loss")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _workdir(config: Config) -> Path:
    return config.workdir or Path("runs/linear_case")


def main(argv: list[str]) -> None:
    """The command line of this module."""
    _, config = command_line({"default": Config()}, "default", __doc__ or "", argv)
    result = run(config)
    print(
        f"largest excess loss from 1,000 θ₀ ~ N(0, 10² I), closed form and learned, M ≥ D: "
        f"{result['largest_excess_loss']:.1g}\n"
        f"fewest examples that reach the optimum: {result['examples_needed']}   "
        f"(proved by the paper: D = {result['reported_examples_needed']})\n"
        f"{result['wall_seconds']:.0f} s; the plot is {_workdir(config) / 'excess_loss.png'}"
    )


if __name__ == "__main__":
    run_as_script(main)
