"""Meta-gradients of every inner optimizer in every mode against PyTorch's double backward, in float64.

    python -m benchmarks.agreement [--write]

ConvNet of width 4 on 8×8×3, 3 steps × 4 epochs of 10 images with soft labels, unequal step sizes, and hyper-parameters
that differ from step to step; and AlexNet with fully connected layers of 256 units on 96×96×3, 1 step × 3 epochs of 4
images, with a last layer of zeros and biases of one, as in ``experiments.transfer``. In PyTorch the networks and the
updates are written out. A figure is the norm of the difference over the norm, the largest of those of images, labels,
step sizes, each hyper-parameter and θ₀. Fails if one is above 1e-10. ``--write`` puts the table into
benchmarks/README.md.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from benchmarks import torch_unroll
from benchmarks.readme import head, line, write_table
from dd_jax.base import Distilled, Network
from dd_jax.inner.loop import trainer
from dd_jax.inner.modes import MODES, Mode
from dd_jax.inner.optimizers import INNER_OPTIMIZERS, InnerOptimizer, inner_optimizer
from dd_jax.networks import make_network
from dd_jax.objectives import classification_loss, mean_of
from dd_jax.weights.laws import initial_weights


class Case(NamedTuple):
    """A network, and the shape of the distilled data and of the real batch."""

    network: str
    options: dict[str, int]
    shape: tuple[int, int, int]
    classes: int
    steps: int
    epochs: int
    images: int
    batch: int


CONVNET = Case("convnet", {"width": 4}, (8, 8, 3), 10, 3, 4, 10, 32)
ALEXNET = Case("alexnet", {"hidden": 256}, (96, 96, 3), 4, 1, 3, 4, 6)
STEP_SIZES = {"plain": (0.05, 0.15), "momentum": (0.02, 0.06), "nesterov": (0.02, 0.06), "adam": (0.005, 0.015)}
HYPER = {
    "momentum": (0.6, 0.9),
    "weight_decay": (0.01, 0.03),
    "b1": (0.8, 0.9),
    "b2": (0.9, 0.99),
    "eps": (1e-4, 2e-4),
    "eps_root": (1e-6, 2e-6),
}
"""From the first step to the last."""
ALLOWED = 1e-10


def problem(
    case: Case, name: str, optimizer: InnerOptimizer
) -> tuple[Network, tuple[Distilled, Any], tuple[jax.Array, jax.Array]]:
    """A network, what the gradient is taken in, (distilled data, θ₀), and a real batch."""
    total, classes, count = case.steps * case.epochs, case.classes, case.batch
    rng = np.random.default_rng(3)
    network = make_network(case.network, case.shape, classes, options=case.options)
    theta = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), initial_weights(network)(jax.random.key(1)))
    if case.network == "alexnet":
        theta["params"]["Dense_2"] = jax.tree.map(
            lambda w: jnp.full(w.shape, float(w.ndim == 1), w.dtype), theta["params"]["Dense_2"]
        )
    distilled = Distilled(
        jnp.asarray(rng.normal(size=(case.steps, case.images, *case.shape))),
        jnp.asarray(rng.dirichlet(np.ones(classes), size=(case.steps, case.images))),
        jnp.linspace(*STEP_SIZES[name], total),
        {key: jnp.linspace(*HYPER[key], total) for key in optimizer.hyper},
    )
    batch = jnp.asarray(rng.normal(size=(count, *case.shape))), jnp.eye(classes)[rng.integers(0, classes, count)]
    return network, (distilled, theta), batch


def ours(network: Network, optimizer: InnerOptimizer, mode: Mode, at: tuple, batch: tuple) -> dict[str, np.ndarray]:
    """This package's value and gradient, each part as one vector."""
    loss = classification_loss(network.apply)
    train = trainer(loss, optimizer=optimizer, mode=mode)

    def value(at):
        distilled, theta = at
        return mean_of(loss)(train(jax.random.key(0), theta, distilled), *batch)

    value, (distilled, theta) = jax.jit(jax.value_and_grad(value))(at)
    one_net = jax.tree.map(lambda w: w[None], theta["params"])
    return _parts(
        value,
        torch_unroll.images_of(distilled.images),
        distilled.labels,
        distilled.step_sizes,
        distilled.hyper,
        torch_unroll.weights_of(one_net, 0).values(),
    )


def theirs(case: Case, name: str, at: tuple[Distilled, Any], batch: tuple) -> dict[str, np.ndarray]:
    """The same by PyTorch."""
    distilled, theta = at
    images = torch_unroll.images_of(distilled.images).requires_grad_()
    labels, etas = (torch.tensor(np.asarray(a)).requires_grad_() for a in (distilled.labels, distilled.step_sizes))
    hyper = {key: torch.tensor(np.asarray(value)).requires_grad_() for key, value in distilled.hyper.items()}
    first = torch_unroll.weights_of(jax.tree.map(lambda w: w[None], theta["params"]), 0)
    theta, state = first, {key: (torch.zeros_like(w), torch.zeros_like(w)) for key, w in first.items()}
    for t in range(len(etas)):
        logits = torch_unroll.forward(case.network, theta, images[t % case.steps])
        loss = F.cross_entropy(logits, labels[t % case.steps])
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        now = {key: value[t] for key, value in hyper.items()}
        moves = {
            key: _RULES[name](t + 1, w, g, state[key], **now)
            for (key, w), g in zip(theta.items(), gradients, strict=True)
        }
        theta = {key: w - etas[t] * moves[key][0] for key, w in theta.items()}
        state = {key: move[1] for key, move in moves.items()}
    logits = torch_unroll.forward(case.network, theta, torch_unroll.images_of(batch[0]))
    value = F.cross_entropy(logits, torch.tensor(np.asarray(batch[1])))
    wanted = [images, labels, etas, *hyper.values(), *first.values()]
    of_images, of_labels, of_etas, *rest = torch.autograd.grad(value, wanted)
    of_hyper, of_theta = dict(zip(hyper, rest, strict=False)), rest[len(hyper) :]
    return _parts(value, of_images, of_labels, of_etas, of_hyper, of_theta)


def _plain(count, w, g, state, *, weight_decay):
    return g + weight_decay * w, state


def _momentum(count, w, g, state, *, momentum, weight_decay):
    m = momentum * state[0] + g + weight_decay * w
    return m, (m, state[1])


def _nesterov(count, w, g, state, *, momentum, weight_decay):
    decayed = g + weight_decay * w
    m = momentum * state[0] + decayed
    return decayed + momentum * m, (m, state[1])


def _adam(count, w, g, state, *, b1, b2, eps, eps_root, weight_decay):
    m, v = b1 * state[0] + (1 - b1) * g, b2 * state[1] + (1 - b2) * g * g
    root = torch.sqrt(v / (1 - b2**count) + eps_root)
    return m / (1 - b1**count) / (root + eps) + weight_decay * w, (m, v)


_RULES = {"plain": _plain, "momentum": _momentum, "nesterov": _nesterov, "adam": _adam}
"""``(count, weights, gradient, state, **hyper) -> (direction, state)`` of one tensor."""


def _parts(value, images, labels, step_sizes, hyper, theta) -> dict[str, np.ndarray]:
    parts = {"loss": value, "images": images, "labels": labels, "step sizes": step_sizes, **hyper}
    vectors = {name: _vector(part) for name, part in parts.items()}
    return vectors | {"θ₀": np.concatenate([_vector(w) for w in theta])}


def _vector(array) -> np.ndarray:
    return np.ravel(array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array))


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    """|a − b| / |b| of every part."""
    return {name: float(np.linalg.norm(a[name] - b[name]) / np.linalg.norm(b[name])) for name in b}


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    lines, largest = [head("network, inner optimizer", *MODES, "largest in")], 0.0
    for case, name in [*((CONVNET, name) for name in INNER_OPTIMIZERS), (ALEXNET, "plain")]:
        optimizer = inner_optimizer(name, weight_decay=HYPER["weight_decay"][0])
        network, at, batch = problem(case, name, optimizer)
        expected = theirs(case, name, at, batch)
        found = {mode: differences(ours(network, optimizer, mode, at, batch), expected) for mode in MODES}
        worst = {mode: max(parts.values()) for mode, parts in found.items()}
        part = max(expected, key=lambda part: max(parts[part] for parts in found.values()))
        lines.append(line(f"{case.network}, {name}", *(f"{worst[mode]:.0e}" for mode in MODES), part))
        largest = max(largest, *worst.values())
        print(lines[-1] if len(lines) > 2 else "\n".join(lines), flush=True)
    if options.write:
        text = f"jax {jax.__version__}, PyTorch {torch.__version__.partition('+')[0]}.\n"
        write_table("agreement", "\n".join([text, *lines]))
    if not largest <= ALLOWED:
        raise SystemExit(f"the largest difference is {largest:.1e}, above {ALLOWED:.0e}")


if __name__ == "__main__":
    main()
