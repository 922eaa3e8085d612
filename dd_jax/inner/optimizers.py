"""Inner optimizers: how a gradient on the distilled data moves the weights.

An inner optimizer is an optax transformation without a learning rate, made from its hyper-parameters; the loop takes
θ − η̃ · direction. Its hyper-parameters may be learned with the data, one value for all steps or one for each.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dd_jax.base import Params


class InnerOptimizer(NamedTuple):
    """A family of optax transformations, and the hyper-parameters of the one meant."""

    make: Callable[..., optax.GradientTransformation]  # (**hyper) -> the transformation, without a learning rate
    hyper: Mapping[str, float] = {}  # by name; values that data bring (Distilled.hyper) replace these

    @property
    def is_plain(self) -> bool:
        """Whether it leaves gradients as they are: gradient descent, whose derivative is cheaper."""
        return self.make is optax.identity

    def direction(
        self, hyper: Mapping[str, jax.Array], gradient: Params, state: Any, theta: Params
    ) -> tuple[Params, Any]:
        """What the weights move against, and the next state."""
        kind = jnp.result_type(*jax.tree.leaves(theta))
        values = {name: jnp.asarray(value, kind) for name, value in {**self.hyper, **hyper}.items()}
        return self.make(**values).update(gradient, state, theta)

    def init(self, theta: Params) -> Any:
        """The state before the first step."""
        return self.make(**self.hyper).init(theta)


GRADIENT_DESCENT = InnerOptimizer(optax.identity)
"""θ − η̃ g, the paper's."""


def _momentum(momentum, weight_decay, *, nesterov):
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum, nesterov))


def _plain_with_decay(weight_decay):
    return optax.add_decayed_weights(weight_decay)


def _heavy_ball(momentum, weight_decay):
    return _momentum(momentum, weight_decay, nesterov=False)


def _nesterov(momentum, weight_decay):
    return _momentum(momentum, weight_decay, nesterov=True)


def _adam(b1, b2, eps, eps_root, weight_decay):
    return optax.chain(optax.scale_by_adam(b1, b2, eps, eps_root), optax.add_decayed_weights(weight_decay))


_MAKERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "plain": _plain_with_decay,
    "momentum": _heavy_ball,
    "nesterov": _nesterov,
    "adam": _adam,
}
INNER_OPTIMIZERS = tuple(_MAKERS)
HYPER = {"momentum": 0.9, "weight_decay": 0.0, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 1e-8}
"""Hyper-parameters of the built-in optimizers, with the values of ours where none is given."""


def inner_optimizer(name: str, **hyper: float) -> InnerOptimizer:
    """A built-in inner optimizer.

    ============  =======================================================================================
    ``plain``     g + λ θ; gradient descent where λ is 0
    ``momentum``  m ← μ m + g + λ θ; direction m (Polyak's heavy ball, as PyTorch's SGD)
    ``nesterov``  the same m; direction g + λ θ + μ m (Nesterov's, as PyTorch's SGD)
    ``adam``      m̂ / (√(v̂ + ε₀) + ε) + λ θ (Kingma and Ba 2015; decoupled decay)
    ============  =======================================================================================

    Args:
      name: one of ``INNER_OPTIMIZERS``.
      **hyper: ``momentum`` μ in [0, 1), ``weight_decay`` λ ≥ 0, ``b1`` and ``b2`` in [0, 1), ``eps`` ε ≥ 0 and
        ``eps_root`` ε₀ > 0 (√v has no derivative at 0); ``HYPER``'s where not given.

    Raises:
      ValueError: an unknown name, a hyper-parameter that it does not take, or one out of range.
    """
    if name not in _MAKERS:
        raise ValueError(f"optimizer: {name!r} is unknown; use one of {', '.join(_MAKERS)}")
    takes = list(inspect.signature(_MAKERS[name]).parameters)
    for given, value in hyper.items():
        if given not in takes:
            raise ValueError(f"{given}: {value} has no effect with the optimizer {name!r}; it takes {takes}")
        least, below = {"weight_decay": (0, np.inf), "eps": (0, np.inf)}.get(given, (0, 1))
        if given == "eps_root":
            least, below = np.nextafter(0, 1), np.inf
        if not least <= value < below:
            wanted = {"eps_root": "a positive number: √v has no derivative at 0"}.get(given)
            wanted = wanted or ("0 or more" if below == np.inf else "at least 0 and below 1")
            raise ValueError(f"{given}: {value} is not accepted; use {wanted}")
    values = {name: HYPER[name] for name in takes} | hyper
    if name == "plain" and not values["weight_decay"]:
        return GRADIENT_DESCENT
    return InnerOptimizer(_MAKERS[name], values)


def check_differentiable(optimizer: InnerOptimizer) -> None:
    """Refuses a transformation that the loop cannot be differentiated through.

    It is tried on two weights, one of which has a gradient of zero, as weights behind a closed ReLU have.

    Raises:
      ValueError: it has no derivative, one that is not finite, or one that is zero everywhere.
    """
    with jax.ensure_compile_time_eval():
        theta, gradient = jnp.array([0.3, -0.2]), jnp.array([0.0, 0.1])

        def moved(gradient):
            return optimizer.direction({}, gradient, optimizer.init(theta), theta)[0]

        try:
            slopes = np.asarray(jax.jacrev(moved)(gradient))
        except Exception as error:  # whatever JAX raises for what it cannot differentiate
            raise ValueError(f"optimizer: it cannot be differentiated ({str(error).splitlines()[0]})") from error
    if not np.isfinite(slopes).all():
        raise ValueError("optimizer: its derivative at a gradient of 0 is not finite; Adam's is with eps_root > 0")
    if not slopes.any():
        raise ValueError("optimizer: its derivative is 0 everywhere, as a sign's is; use another")
