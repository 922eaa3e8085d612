"""Pre-training on real data: many networks at once, each by its own key (paper, section 3.5, and its supplement)."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from dd_jax import backend
from dd_jax.base import Loss, Params
from dd_jax.checks import require
from dd_jax.data.dataset import Dataset, Split, take
from dd_jax.data.normalisation import normalise
from dd_jax.objectives import mean_of
from dd_jax.parallel import NETS, sharded


@dataclasses.dataclass(frozen=True)
class PretrainRecipe:
    """Settings of ordinary training: Adam on minibatches, its rate halved from time to time."""

    epochs: int = 40
    """Passes over the training split."""
    learning_rate: float = 2e-4
    """Adam's first rate."""
    halve_every: int = 20
    """Halve the rate every so many epochs."""
    b1: float = 0.5
    """Adam's first decay, β₁."""
    b2: float = 0.999
    """Adam's second decay, β₂."""
    batch_size: int = 128
    """Examples of a minibatch."""
    keep_last: bool = False
    """Whether what an epoch leaves over is a smaller, last minibatch; if not, it is left out."""


def check_pretraining(recipe: PretrainRecipe, examples: int) -> None:
    """Raises ``ValueError``, naming the setting, its value and what is accepted, if one is out of range."""
    for name, accepted, least, below in (
        ("epochs", "1 or more", 1, math.inf),
        ("learning_rate", "a positive number", math.ulp(0), math.inf),
        ("halve_every", "1 or more", 1, math.inf),
        ("b1", "at least 0 and below 1", 0, 1),
        ("b2", "at least 0 and below 1", 0, 1),
        ("batch_size", f"1 … {examples}, the training examples", 1, examples + 1),
    ):
        value = getattr(recipe, name)
        require(least <= value < below, f"recipe.{name}", value, accepted)


class Training(NamedTuple):
    """A network, or with a leading axis on every leaf several, on the way through the epochs."""

    key: jax.Array  # of the network: draws its weights, and the order and augmentation of its examples
    epoch: jax.Array  # int32, epochs done
    theta: Params
    optimizer: optax.OptState


class Pretraining(NamedTuple):
    """``init(keys [K]) -> training`` and ``epoch(training, split) -> training`` of K networks; both pure.

    ``init(keys, thetas)`` begins from these weights, each leaf with a leading axis K, in place of drawn ones.
    """

    init: Callable[..., Training]
    epoch: Callable[[Training, Split], Training]
    batch: Callable[[Training, Split], Training]
    """One step on all examples of a split, for real batches that are made elsewhere. It does not count epochs."""


def pretraining(
    loss: Loss,
    draw: Callable[[jax.Array], Params],
    dataset: Dataset,
    recipe: PretrainRecipe,
    *,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Pretraining:
    """Trains K networks together. What becomes of one depends on its key alone, not on the others or their number.

    Args:
      loss: the terms of ℓ, ``(theta, images [B, H, W, D], labels [B, C]) -> [B]``.
      draw: the distribution of their initial weights, ``key -> weights``.
      dataset: gives the number of classes and the size of the training split; the split itself is an argument of
        ``epoch``, so that jit does not copy it into the program.
      recipe: the settings.
      augment: ``(key, uint8 images) -> uint8 images``, such as :func:`dd_jax.data.augment.crop_and_flip`.

    Returns:
      The pair. ``epoch`` deals the networks out over as many devices as divide their number; on each, they take their
      epoch in turn on a CPU, to keep its caches warm, elsewhere all at once.

    Raises:
      ValueError: a setting of the recipe is out of range; when ``epoch`` is traced, a loss that does not return one
        value per example.
    """
    examples, classes = dataset.train.labels.shape[0], len(dataset.class_names)
    check_pretraining(recipe, examples)
    batches, left = divmod(examples, recipe.batch_size)
    last = left if recipe.keep_last else 0
    steps = batches + (last > 0)
    rate = optax.exponential_decay(recipe.learning_rate, recipe.halve_every * steps, 0.5, staircase=True)
    optimizer = optax.adam(rate, recipe.b1, recipe.b2)

    def begin(key, theta=None):
        theta = draw(jax.random.fold_in(key, 0)) if theta is None else theta
        return Training(key, jnp.zeros((), jnp.int32), theta, optimizer.init(theta))

    def moved(theta, optimizer_state, batch: Split):
        images, labels = normalise(batch.images, batch.normalisation), jax.nn.one_hot(batch.labels, classes)
        gradient = jax.grad(mean_of(loss))(theta, images, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, theta)
        return optax.apply_updates(theta, updates), optimizer_state

    def epoch(training: Training, split: Split) -> Training:
        order_key, augment_key = jax.random.split(jax.random.fold_in(training.key, 1 + training.epoch))
        order = jax.random.permutation(order_key, examples)
        whole, rest = order[: batches * recipe.batch_size], order[batches * recipe.batch_size :]

        def step(state, batch):
            theta, optimizer_state = state
            number, index = batch
            images, labels, normalisation = take(split, index)
            if augment is not None:
                images = augment(jax.random.fold_in(augment_key, number), images)
            return moved(theta, optimizer_state, Split(images, labels, normalisation)), None

        numbered = (jnp.arange(batches), whole.reshape(batches, recipe.batch_size))
        state, _ = jax.lax.scan(step, (training.theta, training.optimizer), numbered)
        if last:
            state, _ = step(state, (jnp.array(batches), rest))
        return Training(training.key, training.epoch + 1, *state)

    def epoch_of_share(training: Training, split: Split) -> Training:
        return backend.for_each_network(lambda one: epoch(one, split), training)

    def init(keys: jax.Array, *thetas: Params) -> Training:
        return sharded(jax.vmap(begin), len(keys), P(NETS), *(P(NETS) for _ in thetas))(keys, *thetas)

    def epoch_of_all(training: Training, split: Split) -> Training:
        return sharded(epoch_of_share, len(training.epoch), P(NETS), P())(training, split)

    def batch_of_share(training: Training, split: Split) -> Training:
        def of(one: Training) -> Training:
            return Training(one.key, one.epoch, *moved(one.theta, one.optimizer, split))

        return backend.for_each_network(of, training)

    def batch_of_all(training: Training, split: Split) -> Training:
        return sharded(batch_of_share, len(training.epoch), P(NETS), P())(training, split)

    return Pretraining(init, epoch_of_all, batch_of_all)
