"""How held-out networks score on real data, and what of it is told."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from dd_jax.base import Distilled, Network
from dd_jax.data.dataset import Dataset, Split
from dd_jax.evaluation import (
    Loop,
    Score,
    Training,
    balanced_accuracy,
    confusion,
    evaluate,
    evaluate_nets,
    right_by_class,
    steps_of,
)
from dd_jax.files.figures import spread as some_of
from dd_jax.files.scored import Scored
from dd_jax.objectives import classification_loss, relabelling
from dd_jax.parallel import NETS, sharded

from .nets import HeldOut

_MATRIX = 200  # classes of a confusion matrix, at most
_REAL = 100  # real images that are kept to be shown, at most
_UNEQUAL = 1.5  # times as many test examples in one class as in another


def relabelled_split(split: Split, relabel: Mapping[int, int], classes: int) -> Split:
    """The same images under the labels they are to be given."""
    return split._replace(labels=jnp.asarray(relabelling(relabel, classes))[split.labels])


def relabelled_data(distilled: Distilled, relabel: Mapping[int, int]) -> Distilled:
    """The same images and step sizes under the labels they are to be given."""
    classes = distilled.labels.shape[-1]
    return distilled._replace(labels=distilled.labels @ jnp.eye(classes)[relabelling(relabel, classes)])


def scorer(
    dataset: Dataset,
    network: Network,
    training: Training | None = None,
    at: Sequence[int] | None = None,
    measure: Callable[..., Any] = evaluate,
    inner: Loop | None = None,
) -> Callable[[Distilled, HeldOut, Split], Any]:
    """Scores ``[K, len(at)]`` of held-out networks trained on given data: ``(distilled, held_out, split) -> scores``.

    The networks are dealt out over the devices. Where the images of a split are numpy arrays, they stay on the host,
    and are sent to the device in parts.

    Args:
      dataset: gives the classes.
      network: their kind.
      training: how; as the data were made for if not given.
      at: numbers of steps to score after; 0 and the last if not given.
      measure: :func:`dd_jax.evaluation.evaluate`, :func:`dd_jax.evaluation.confusion` or :func:`scores_and_counts`.
      inner: the loop that the data were made with; the paper's if not given.
    """
    classes, training = len(dataset.class_names), training or Training()
    loss = classification_loss(network.apply)

    @functools.partial(jax.jit, static_argnames="draw")
    def scores(distilled, keys, thetas, split, draw):
        def of_share(keys, thetas, distilled, split):
            def of(theta):
                return measure(network.apply, theta, split, classes)

            steps = at or (0, steps_of(training, distilled))
            return evaluate_nets(keys, draw or thetas, loss, distilled, training, of, steps, inner)

        specs = (P(NETS), P(NETS), P(), P())
        return sharded(of_share, len(keys), *specs)(keys, thetas, distilled, split)

    @functools.partial(jax.jit, static_argnames="draw")
    def trained(distilled, keys, thetas, draw):
        """The weights after each number of steps: leading axes [K, len(at)]."""

        def of_share(keys, thetas, distilled):
            steps = at or (0, steps_of(training, distilled))
            return evaluate_nets(keys, draw or thetas, loss, distilled, training, lambda theta: theta, steps, inner)

        return sharded(of_share, len(keys), P(NETS), P(NETS), P())(keys, thetas, distilled)

    @jax.jit
    def scores_of_part(thetas, split):
        def of(theta):
            return measure(network.apply, theta, split, classes)

        return jax.lax.map(lambda of_net: jax.lax.map(of, of_net), thetas)

    def score(distilled, held_out, split):
        keys, nets = held_out
        distilled = jax.device_get(distilled)  # a checkpoint's are tied to one device
        given = (distilled, keys, None if callable(nets) else nets)
        draw = nets if callable(nets) else None
        if not isinstance(split.images, np.ndarray):
            return scores(*given, split, draw)
        return added_up(functools.partial(scores_of_part, trained(*given, draw)), split)

    return score


def scores_and_counts(apply: Any, theta: Any, split: Split, classes: int) -> tuple[Score, jax.Array]:
    """A measure: accuracy and loss, and how many examples of each class are named rightly."""
    return evaluate(apply, theta, split, classes), right_by_class(apply, theta, split, classes)


def counts_for(dataset: Dataset) -> Callable[..., Any]:
    """What is counted of a test: the confusion matrix, or of many classes what is right of each."""
    return confusion if len(dataset.class_names) <= _MATRIX else right_by_class


def accuracies(counts: np.ndarray, split: Split) -> np.ndarray:
    """The accuracies ``[K, 2]`` of counts on a split, ``[K, 2, C, C]`` or ``[K, 2, C]``; as a device divides them."""
    return _right(counts).sum(-1).astype(np.float32) / np.float32(len(split.labels))


def is_imbalanced(dataset: Dataset) -> bool:
    """Whether the largest class has over 1.5 times as many test examples as the smallest."""
    examples = np.bincount(np.asarray(dataset.test.labels))
    examples = examples[examples > 0]
    return bool(examples.max() > _UNEQUAL * examples.min())


def balanced(counts: ArrayLike, split: Split) -> np.ndarray:
    """The balanced accuracies ``[K, P]`` of counts on a split, ``[K, P, C, C]`` or ``[K, P, C]``."""
    right = _right(np.asarray(counts))
    return balanced_accuracy(right, np.bincount(np.asarray(split.labels), minlength=right.shape[-1]))


def _right(counts: np.ndarray) -> np.ndarray:
    return counts if counts.ndim == 3 else np.diagonal(counts, axis1=-2, axis2=-1)


def some_steps(total: int) -> tuple[int, ...]:
    """The numbers of gradient steps at which accuracy is told, 0 and T among them: all, or 31 of many.

    >>> some_steps(3), len(some_steps(400))
    ((0, 1, 2, 3), 31)
    """
    return tuple(np.unique(np.linspace(0, total, min(total, 30) + 1).round().astype(int)).tolist())


def scored_of(tested: np.ndarray, by_step: ArrayLike, steps: Sequence[int], dataset: Dataset, test: Split) -> Scored:
    """What a run's page shows beyond its result.

    Args:
      tested: counts ``[K, 2, C, C]`` or ``[K, 2, C]`` on the test split, before and after the steps.
      by_step: accuracies ``[V, P]`` of validation networks on the validation split, after each of ``steps``.
      steps: P numbers of gradient steps.
      dataset: gives some real images, the first of each class or of some classes.
      test: the test split, under the labels that count.
    """
    classes, curve = len(dataset.class_names), np.asarray(by_step, np.float64)
    matrix = tested.sum(0, dtype=np.int64) if tested.ndim == 4 else np.zeros((2, 0, 0), np.int64)
    labels = np.asarray(dataset.train.labels)
    shown = some_of(classes, _REAL)
    first = np.array([np.flatnonzero(labels == c)[0] for c in shown])
    return Scored(
        examples=np.bincount(np.asarray(test.labels), minlength=classes),
        networks=np.asarray(len(tested)),
        right=_right(tested).sum(0, dtype=np.int64),
        confusion=matrix,
        steps=np.asarray(steps),
        accuracy=curve.mean(0),
        spread=curve.std(0),
        real_images=np.asarray(dataset.train.images[first]),
        real_classes=shown,
    )


def _is_score(measured: Any) -> bool:
    return isinstance(measured, Score)


def _weighted(share: float, measured: Any) -> Any:
    """A part's share of the whole: of means so much, of counts all."""
    return jax.tree.map(lambda mean: share * mean, measured) if _is_score(measured) else measured


_PART = 250  # examples of a split on the host that are on the device at a time: as many as are scored at a time


def added_up(scores_of: Callable[[Split], Any], split: Split) -> Any:
    """What a measure is of a split whose images are on the host, from its parts: means, counts, or both."""
    size, total = len(split.labels), None
    for first in range(0, size, _PART):
        part = Split(split.images[first : first + _PART], split.labels[first : first + _PART], split.normalisation)
        scores = scores_of(part)
        scores = jax.tree.map(functools.partial(_weighted, len(part.labels) / size), scores, is_leaf=_is_score)
        total = scores if total is None else jax.tree.map(jnp.add, total, scores)
    return total


def mean_and_std(accuracy: ArrayLike) -> dict[str, float | int]:
    """Mean, standard deviation and count over networks; of a single one the deviation is 0."""
    values = np.asarray(accuracy, np.float64)
    return {"mean": float(values.mean()), "std": float(values.std(ddof=min(1, values.size - 1))), "n": values.size}
