"""Evaluation: what networks trained on distilled data make of a real split (paper, section 4).

A network is drawn, trained as :class:`Training` says, and scored at the numbers of steps asked for;
:func:`evaluate_nets` does so for many, held out by their keys. All pure; jit at the edge.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from dd_jax import backend
from dd_jax.base import Augment, Criterion, Distilled, Loss, Params
from dd_jax.data.dataset import Split
from dd_jax.data.normalisation import normalise
from dd_jax.inner.loop import inner_loop
from dd_jax.inner.modes import step
from dd_jax.inner.optimizers import GRADIENT_DESCENT, InnerOptimizer, inner_optimizer
from dd_jax.inner.schedule import Order, cycle, minibatches, shuffled
from dd_jax.objectives import cross_entropy, per_example, predictions


class Score(NamedTuple):
    """Means over a split: accuracy as a fraction in [0, 1], loss in nats."""

    accuracy: jax.Array
    loss: jax.Array


def evaluate(
    apply: Callable[[Params, jax.Array], jax.Array],
    theta: Params,
    split: Split,
    classes: int,
    *,
    criterion: Criterion = cross_entropy,
    chunk: int = 250,
) -> Score:
    """Scores a network on every example of a split, ``chunk`` at a time.

    Args:
      apply: ``(theta, images [B, H, W, D]) -> logits``.
      theta: the weights.
      split: uint8 images and labels, ``[N]`` of each, with the normalisation that the network was trained with.
      classes: C.
      criterion: ``(logits [B, C], labels [B, C]) -> [B]``.
      chunk: examples in memory at a time, at most.

    Raises:
      ValueError: a chunk below one, or a criterion that does not return one value per example.
    """

    def score(images, labels):
        logits = _logits(apply, theta, images, split)
        losses = criterion(logits, jax.nn.one_hot(labels, classes, dtype=logits.dtype))
        correct = jnp.sum(predictions(logits) == labels.astype(jnp.int32))
        return correct, jnp.sum(per_example(losses, len(labels), "criterion"))

    size = split.labels.shape[0]
    correct, loss = _sum_over(split, chunk, score)
    return Score(correct / size, loss / size)


def confusion(
    apply: Callable[[Params, jax.Array], jax.Array],
    theta: Params,
    split: Split,
    classes: int,
    *,
    chunk: int = 250,
) -> jax.Array:
    """How many examples of each class are taken for which, ``[C, C]`` int32, a row for each true class.

    Args:
      apply, theta, split, classes, chunk: as in :func:`evaluate`.
    """

    def count(images, labels):
        guesses = predictions(_logits(apply, theta, images, split))
        return jnp.zeros((classes, classes), jnp.int32).at[labels, guesses].add(1)

    return _sum_over(split, chunk, count)


def right_by_class(
    apply: Callable[[Params, jax.Array], jax.Array],
    theta: Params,
    split: Split,
    classes: int,
    *,
    chunk: int = 250,
) -> jax.Array:
    """How many examples of each class are named rightly, ``[C]`` int32: the diagonal of :func:`confusion`.

    Args:
      apply, theta, split, classes, chunk: as in :func:`evaluate`.
    """
    return jnp.diagonal(confusion(apply, theta, split, classes, chunk=chunk))


def balanced_accuracy(right: ArrayLike, examples: ArrayLike) -> np.ndarray:
    """The mean of the classes' accuracies, which counts every class alike, whatever its size: ``[…]``.

    >>> print(balanced_accuracy([90, 1], [90, 10]))
    0.55

    Args:
      right: examples named rightly of each class, ``[…, C]``: :func:`right_by_class`.
      examples: of each class, ``[C]``. A class without examples does not count.
    """
    right, examples = np.asarray(right, np.float64), np.asarray(examples)
    there = examples > 0
    return (right[..., there] / examples[there]).mean(-1)


def _logits(apply, theta, images, split):
    with backend.full_precision():
        return apply(theta, normalise(images, split.normalisation))


def _sum_over(split: Split, chunk: int, f: Callable[[jax.Array, jax.Array], Any]) -> Any:
    """The sum of ``f(images, labels)`` over chunks of a split and a smaller last one."""
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} is not accepted; use 1 or more")
    size = split.labels.shape[0]
    chunk = math.ceil(size / math.ceil(size / chunk))  # parts of one size, where that can be, compile once
    whole = size - size % chunk
    examples = (split.images, split.labels)
    parts = jax.tree.map(lambda a: a[:whole].reshape(-1, chunk, *a.shape[1:]), examples)
    total = jax.tree.map(lambda sums: jnp.sum(sums, axis=0), jax.lax.map(lambda part: f(*part), parts))
    if whole == size:
        return total
    return jax.tree.map(jnp.add, total, f(*(a[whole:] for a in examples)))


OrderName = Literal["stored", "shuffled", "minibatch"]
Optimizer = Literal["stored", "sgd", "momentum", "adam"]
_OPTIMIZERS = {
    "sgd": GRADIENT_DESCENT,
    "momentum": inner_optimizer("momentum"),
    "adam": InnerOptimizer(lambda: optax.scale_by_adam()),
}


class Loop(NamedTuple):
    """The loop that the data were made with, but for its derivative."""

    optimizer: InnerOptimizer = GRADIENT_DESCENT  # turns a gradient into a direction
    order: Order = cycle  # which distilled examples each step takes
    augment: Augment | None = None  # of the distilled images, drawn anew in each step


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained on distilled data. The default is what they were made for."""

    optimizer: Optimizer = "stored"
    """stored: the one the data were made with, and the stored step sizes; sgd, momentum (0.9) and adam: with
    ``learning_rate``, as a stranger would."""
    learning_rate: float | None = None
    """For the others than stored."""
    order: OrderName = "stored"
    """stored: step after step; shuffled: an epoch's steps in random order; minibatch: images of all steps mixed."""
    batch_size: int | None = None
    """Images of a minibatch; as many as in a stored step if not given."""
    epochs: int | None = None
    """Passes over the data; as many as they were made for if not given. Beyond those, the step sizes of the last stored
    epoch are repeated."""


def check_training(training: Training, distilled: Distilled) -> None:
    """Raises ``ValueError``, naming the setting, its value and what is accepted, if one does not fit."""
    for name, kinds in (("optimizer", Optimizer), ("order", OrderName)):
        if getattr(training, name) not in typing.get_args(kinds):
            accepted = ", ".join(typing.get_args(kinds))
            raise ValueError(f"training.{name}: {getattr(training, name)!r} is unknown; use one of {accepted}")
    images = math.prod(distilled.images.shape[:2])
    rate, size, epochs = training.learning_rate, training.batch_size, training.epochs
    if (training.optimizer == "stored") != (rate is None):
        wanted = "leave it out" if training.optimizer == "stored" else "give one"
        raise ValueError(f"training.learning_rate: {rate} with the optimizer {training.optimizer!r}; {wanted}")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"training.learning_rate: {rate} is not accepted; use a positive number")
    if size is not None and (training.order != "minibatch" or not 1 <= size <= images):
        raise ValueError(f"training.batch_size: {size} is not accepted; use 1 … {images}, with the order 'minibatch'")
    if epochs is not None and epochs < 1:
        raise ValueError(f"training.epochs: {epochs} is not accepted; use 1 or more")
    if training.optimizer == "stored" and training.order == "minibatch":
        raise ValueError("training.order: 'minibatch' has no stored step sizes; use the optimizer 'sgd' or 'adam'")


def steps_of(training: Training, distilled: Distilled) -> int:
    """T, the gradient steps that a training makes."""
    if training.epochs is None:
        return distilled.step_sizes.shape[0]
    count, images = distilled.images.shape[:2]
    per_epoch = count * images // training.batch_size if training.batch_size else count
    return per_epoch * training.epochs


def train_and_score(
    key: jax.Array,
    loss: Loss,
    theta: Params,
    distilled: Distilled,
    training: Training,
    score: Callable[[Params], Any],
    at: Sequence[int],
    inner: Loop | None = None,
) -> Any:
    """Trains one network and scores it after each of ``at`` steps.

    Args:
      key: draws the order, where it is random.
      loss: the terms of ℓ, ``(theta, images, labels) -> [B]``.
      theta: θ₀.
      distilled: x̃, ỹ and η̃.
      training: how.
      score: of weights, such as :func:`evaluate` or :func:`confusion` with a split; any pytree of arrays.
      at: increasing numbers of steps, 0 for θ₀ itself.
      inner: the loop that the data were made with, where it is not plain gradient descent on the stored steps in turn.

    Returns:
      What ``score`` returns, with a leading axis of ``len(at)``.

    Raises:
      ValueError: settings or data that do not fit, steps out of order or beyond :func:`steps_of`, or a loss that does
        not return one value per example.
    """
    check_training(training, distilled)
    total = steps_of(training, distilled)
    if sorted(set(at)) != list(at) or not at or not 0 <= at[0] <= at[-1] <= total:
        raise ValueError(f"at: {list(at)} is not accepted; use increasing numbers of steps within 0 … {total}")
    loop = _loop(key, loss, theta, distilled, training, total, inner)
    return _scores_at(loop, score, at)


def _scores_at(loop, score, at):
    """Scores after each of the numbers of steps, as one program that is compiled once for all of them."""

    def one(number, carry):
        return step(loop.rule, carry, loop.data, jax.tree.map(lambda a: a[number], loop.steps))

    def until(carry, bounds):
        begin, end = bounds
        carry = jax.lax.fori_loop(begin, end, one, carry)
        return carry, score(carry.theta)

    ends = jnp.asarray(at, jnp.int32)
    return jax.lax.scan(until, loop.carry, (jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]]), ends))[1]


def _loop(key, loss, theta, distilled, training, total, inner):
    """The loop of a training, the very one that distillation differentiates."""
    rate, orders = training.learning_rate, {"stored": cycle, "shuffled": shuffled}
    order = orders.get(training.order) or minibatches(training.batch_size or distilled.images.shape[1])
    how = inner or Loop()
    if training.optimizer == "stored":
        sizes = _repeated(distilled.step_sizes, distilled, total)
        hyper = {name: _repeated(value, distilled, total) for name, value in distilled.hyper.items()}
        optimizer = how.optimizer
        order = how.order if training.order == "stored" else order
    else:
        sizes, hyper = jnp.full(total, rate, distilled.step_sizes.dtype), {}
        optimizer = _OPTIMIZERS[training.optimizer]
    data = Distilled(distilled.images, distilled.labels, sizes, hyper)
    return inner_loop(loss, theta, data, key=key, optimizer=optimizer, order=order, augment=how.augment)


def _repeated(values, distilled, total):
    """Stored values of the steps, those of the last epoch again and again where more are needed."""
    if not values.ndim:
        return values
    steps = distilled.images.shape[0]
    last = jnp.tile(values[-steps:], -(-total // steps))
    return jnp.concatenate([values, last])[:total]


def evaluate_nets(
    keys: jax.Array,
    draw: Callable[[jax.Array], Params] | Params,
    loss: Loss,
    distilled: Distilled,
    training: Training,
    score: Callable[[Params], Any],
    at: Sequence[int],
    inner: Loop | None = None,
    *,
    chunk: int | None = None,
) -> Any:
    """Trains and scores one network for each key.

    Args:
      keys: ``[K]``, of networks that the data were not made on.
      draw: p(θ₀), ``key -> weights``; or the weights themselves, each leaf with a leading axis K.
      loss, distilled, training, score, at, inner: as in :func:`train_and_score`.
      chunk: networks at a time; one if not given on a CPU, whose cache holds no more, and 50 elsewhere.

    Returns:
      What ``score`` returns, with leading axes ``[K, len(at)]``.

    Raises:
      ValueError: as :func:`train_and_score`, weights of another number of networks than keys, or a chunk below one.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: {chunk} is not accepted; use 1 or more")
    if not callable(draw) and any(leaf.shape[:1] != keys.shape for leaf in jax.tree.leaves(draw)):
        raise ValueError(f"draw: weights for {keys.shape[0]} keys must have a leading axis of {keys.shape[0]}")

    def one(key, theta):
        weights_key, order_key = jax.random.split(key)
        theta = draw(weights_key) if callable(draw) else theta
        return train_and_score(order_key, loss, theta, distilled, training, score, at, inner)

    chunk = chunk or backend.networks_at_a_time()
    thetas = None if callable(draw) else draw
    return jax.lax.map(lambda net: one(*net), (keys, thetas), batch_size=chunk if chunk > 1 else None)
