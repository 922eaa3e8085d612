"""Baselines: images made without distillation, used in the same way as distilled ones (paper, section 4).

Real images chosen at random or by score, k-means centres and class averages have the type of distilled data, so that
the same T gradient steps of :func:`dd_jax.inner.loop.unroll` train a network on them; one fixed step size serves all
steps, the best of a grid. The fifth baseline, k nearest neighbours, trains no network.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier

from dd_jax.base import Distilled
from dd_jax.checks import positive, require
from dd_jax.data.dataset import Split
from dd_jax.data.normalisation import normalise
from dd_jax.distilled import images_of_classes, one_hot_labels

Score = Callable[[Distilled], float]
"""How good a candidate is, higher is better: measured on training or validation data, never on the test split."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of the distilled data that a baseline stands in for.

    Raises:
      ValueError: a count below one, or a step size that is not positive.
    """

    classes: int
    """C."""
    steps: int
    """S, distinct gradient steps."""
    epochs: int
    """E, passes over them; T = E·S."""
    images_per_class: int | tuple[int, ...] = 1
    """Images of each class in each step, so M = C · images_per_class; or a number for each class, whose sum is M."""
    step_size: float = 0.02
    """η̃ of every step."""

    def __post_init__(self):
        for name in ("classes", "steps", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        images_of_classes(self.images_per_class, self.classes)
        positive("step_size", self.step_size)

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class in each step, C of them."""
        return images_of_classes(self.images_per_class, self.classes)

    @property
    def of_each_class(self) -> tuple[int, ...]:
        """Images of each class in all steps together, C of them."""
        return tuple(self.steps * count for count in self.counts)


def random_real(key: jax.Array, split: Split, layout: Layout) -> Distilled:
    """Random training images, no example twice.

    Args:
      key: a JAX random key.
      split: the examples to choose from.
      layout: the shape of the result.

    Returns:
      x̃ in normalised units, ỹ one-hot in the order [0, 0, …, 1, 1, …] in every step, one η̃ for all steps.

    Raises:
      ValueError: a class has fewer examples than asked for, or the labels go beyond ``layout.classes``.
    """
    labels = _checked_labels(split, layout, layout.of_each_class)
    shuffled = np.asarray(jax.random.permutation(key, len(labels)))
    of_class = [shuffled[labels[shuffled] == c][:needed] for c, needed in enumerate(layout.of_each_class)]
    return _arranged(normalise(split.images[np.concatenate(of_class)], split.normalisation), layout)


def optimized_real(
    key: jax.Array,
    split: Split,
    layout: Layout,
    score: Score,
    *,
    candidates: int,
    keep: float = 0.2,
) -> list[Distilled]:
    """The best of many sets of random training images.

    Args:
      key, split, layout: as in :func:`random_real`.
      score: called once for each candidate.
      candidates: how many sets are drawn.
      keep: the share of them that is kept, in (0, 1]; 0.2 in the paper.

    Returns:
      ``keep · candidates`` sets (rounded, at least one), the best first; fewer where more than the rest score NaN.

    Raises:
      ValueError: as in :func:`random_real`, no candidate, a share out of range, or, at the end, only NaNs.
    """
    require(candidates >= 1, "candidates", candidates, "1 or more")
    require(0 < keep <= 1, "keep", keep, "a share above 0 and up to 1")

    def candidate(key):
        return random_real(key, split, layout)

    keys = jax.random.split(key, candidates)
    best = _best_first([float(score(candidate(key))) for key in keys])[: max(1, round(keep * candidates))]
    return [candidate(keys[i]) for i in best]  # drawn again, rather than all candidates held in memory


def k_means(split: Split, layout: Layout, *, seed: int = 0, n_init: int = 1) -> Distilled:
    """The centres of k-means in each class's normalised images, k = S · images_per_class, spread over the steps.

    Lloyd's algorithm on all the examples of the class, from k-means++ (Arthur & Vassilvitskii 2007).

    Args:
      split, layout: as in :func:`random_real`.
      seed: draws the first centres.
      n_init: starts, of which the one with the least inertia is kept.

    Returns:
      As :func:`random_real`.

    Raises:
      ValueError: as in :func:`random_real`, a negative seed, or no start.
    """
    require(seed >= 0, "seed", seed, "0 or more")
    require(n_init >= 1, "n_init", n_init, "1 or more")
    labels = _checked_labels(split, layout, layout.of_each_class)

    def centres(images, k):
        flat = np.asarray(normalise(images, split.normalisation)).reshape(len(images), -1)
        fitted = KMeans(k, n_init=n_init, random_state=seed).fit(flat)  # pyright: ignore[reportArgumentType]  "auto" or int
        return fitted.cluster_centers_

    of_class = np.concatenate([centres(split.images[labels == c], k) for c, k in enumerate(layout.of_each_class)])
    return _arranged(jnp.asarray(of_class).reshape(-1, *split.images.shape[1:]), layout)


def average_image(split: Split, layout: Layout) -> Distilled:
    """The mean image of each class, repeated in all its places.

    Args:
      split, layout: as in :func:`random_real`.

    Returns:
      As :func:`random_real`.

    Raises:
      ValueError: a class without examples, or the labels go beyond ``layout.classes``.
    """
    labels = _checked_labels(split, layout, (1,) * layout.classes)
    images = np.asarray(split.images)
    means = np.stack([images[labels == c].mean(0, dtype=np.float64) for c in range(layout.classes)])
    of_class = normalise(jnp.asarray(means), split.normalisation)
    return _arranged(of_class[np.repeat(np.arange(layout.classes), layout.of_each_class)], layout)


def nearest_neighbours(distilled: Distilled, images: jax.Array, *, k: int, p: int) -> np.ndarray:
    """Classifies by a vote of the k nearest distilled images, in the ℓ_p distance of all normalised pixels.

    Classes with equally many votes go to the lower one, as in scikit-learn.

    Args:
      distilled: the reference images and their labels, such as :func:`random_real` or :func:`k_means` give.
      images: ``[N, H, W, D]`` float, normalised like the reference images.
      k: how many neighbours vote; 1 and 3 in the paper.
      p: 1 or 2.

    Returns:
      The predicted classes, ``[N]`` integers.

    Raises:
      ValueError: more neighbours than reference images, another p, or images of another size or not normalised.
    """
    shape = distilled.images.shape[2:]
    references = np.asarray(distilled.images).reshape(-1, math.prod(shape))
    require(1 <= k <= len(references), "k", k, f"1 to {len(references)}, the number of reference images")
    require(p in (1, 2), "p", p, "1 or 2")
    require(
        images.shape[1:] == shape and jnp.issubdtype(images.dtype, jnp.floating),
        "images",
        f"{images.dtype} {list(images.shape)}",
        f"normalised floats [N, {', '.join(map(str, shape))}], like the reference images",
    )
    classifier = KNeighborsClassifier(k, algorithm="brute", p=p)
    classifier.fit(references, np.asarray(distilled.labels).argmax(-1).ravel())
    return classifier.predict(np.asarray(images).reshape(-1, math.prod(shape)))


def with_step_size(distilled: Distilled, step_size: float) -> Distilled:
    """The same data with η̃ = ``step_size`` in all T steps.

    Raises:
      ValueError: a step size that is not positive.
    """
    positive("step_size", step_size)
    return distilled._replace(step_sizes=jnp.full_like(distilled.step_sizes, step_size))


def with_step_sizes(distilled: Distilled, step_sizes: ArrayLike) -> Distilled:
    """The same data with the learned step sizes of other data, for as many steps as these have.

    Of more step sizes, the first are taken; of fewer, those of the last epoch are repeated, as at evaluation.

    Args:
      distilled: S steps of images, and T step sizes.
      step_sizes: ``[E · S]``, 0 or more, for any number of epochs; or ``[1]``, for all steps.

    Raises:
      ValueError: a step size that is negative or not finite, or another number of them.
    """
    values = np.asarray(step_sizes)
    count, total = distilled.images.shape[0], distilled.step_sizes.shape[0]
    fits = values.ndim == 1 and (values.size == 1 or (values.size > 0 and values.size % count == 0))
    require(fits, "step_sizes", f"shape {values.shape}", f"[1], or [E · {count}] with {count} steps in an epoch")
    require(bool(np.isfinite(values).all() and (values >= 0).all()), "step_sizes", values.min(), "0 or more")
    last = values[-count:]
    whole = np.concatenate([values, np.tile(last, -(-total // last.size))])[:total]
    return distilled._replace(step_sizes=jnp.asarray(whole, distilled.step_sizes.dtype))


def best_step_size(step_sizes: Sequence[float], score: Callable[[float], float]) -> float:
    """The step size of a grid that scores highest; the first of equals.

    Args:
      step_sizes: the grid.
      score: called once for each; how good data are :func:`with_step_size`, never on the test split.

    Raises:
      ValueError: an empty grid, a member that is not positive, or, at the end, only NaNs.
    """
    require(len(step_sizes) > 0, "step_sizes", "an empty grid", "at least one")
    for step_size in step_sizes:
        require(math.isfinite(step_size) and step_size > 0, "step_sizes", step_size, "positive numbers")
    return float(step_sizes[_best_first([float(score(step_size)) for step_size in step_sizes])[0]])


def _checked_labels(split: Split, layout: Layout, needed: Sequence[int]) -> np.ndarray:
    """The labels, ``[N]``, of a split that has so many examples of each class and none of any other."""
    labels = np.asarray(split.labels)
    sizes = np.bincount(labels, minlength=layout.classes)
    require(len(sizes) == layout.classes, "classes", layout.classes, f"{len(sizes)}, as many as the labels have")
    for c, size in enumerate(sizes):
        if size == 0:
            raise ValueError(f"split: class {c} has no examples; every class needs some")
        if size < needed[c]:
            raise ValueError(
                f"images_per_class: {layout.counts[c]} in each of {layout.steps} steps are {needed[c]} of class "
                f"{c}, which has {size}; use {size} or fewer in all steps together"
            )
    return labels


def _arranged(images: jax.Array, layout: Layout) -> Distilled:
    """Lays out the images of class after class, ``[S · M, H, W, D]``, by step, and within a step by class."""
    counts = np.array(layout.counts)
    before = np.cumsum(counts) - counts  # images of the classes before, in a step
    of_class = np.repeat(np.arange(layout.classes), counts)  # [M]
    rank = np.arange(len(of_class)) - before[of_class]  # [M] among those of its class in a step
    steps = np.arange(layout.steps)[:, None]
    place = layout.steps * before[of_class] + counts[of_class] * steps + rank  # [S, M]
    return Distilled(
        images=images[place],
        labels=jnp.tile(one_hot_labels(layout.counts).astype(images.dtype), (layout.steps, 1, 1)),
        step_sizes=jnp.full(layout.steps * layout.epochs, layout.step_size, images.dtype),
    )


def _best_first(scores: list[float]) -> list[int]:
    """Indices of the scores from the highest down, equals in their order, NaNs left out."""
    best = [int(i) for i in np.argsort(-np.array(scores), kind="stable") if not math.isnan(scores[i])]
    if not best:
        raise ValueError(f"score: all {len(scores)} results are NaN; use smaller step sizes")
    return best
