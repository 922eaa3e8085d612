"""A whole distillation as one call, for notebooks and threads: no files, no signals, nothing printed.

It is made of public pieces, in the order of the paper's Algorithm 1. Networks and a real batch are drawn, the networks
train on the distilled data, and the data follow the meta-gradient. The experiments make the same outer steps.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dd_jax.base import Augment, Criterion, Distilled, Network, Parametrisation, Params
from dd_jax.checks import require, within
from dd_jax.data.batches import batch_drawer
from dd_jax.data.dataset import Dataset, make_dataset
from dd_jax.data.readers.fields import from_fields
from dd_jax.distilled import check_distilled, check_theta
from dd_jax.evaluation import Loop, Score, Training, evaluate, evaluate_nets
from dd_jax.files.atomic import first_line
from dd_jax.inner.loop import trainer
from dd_jax.inner.modes import MODES, Mode
from dd_jax.inner.optimizers import check_differentiable
from dd_jax.inner.schedule import Window
from dd_jax.objectives import check_network, classification_loss, cross_entropy
from dd_jax.outer import OuterRecipe, OuterState, check_recipe
from dd_jax.outer_loop import Done, in_turn, outer_loop, step_of_recipe
from dd_jax.parametrisations import PIXELS


class Moment(NamedTuple):
    """What a callback is told, after a validation."""

    step: int  # outer steps done
    steps: int  # outer steps in all
    loss: float  # L before the last of them, nats
    validation_accuracy: float  # after the steps on the distilled data, the mean over networks
    distilled: Distilled  # x̃, ỹ and η̃ now, numpy arrays of their own


class Distillation(NamedTuple):
    """What a distillation gives."""

    distilled: Distilled  # x̃, ỹ and η̃, numpy arrays; images in normalised pixel units
    scores: Score  # on the test split, ``[K, 2]`` each: of K networks, before any step and after the last
    history: list[dict[str, float]]  # a row for each outer step and for each validation, as metrics.jsonl has them
    dataset: Dataset  # the real images; dataset.train.normalisation says what the pixel units are


class Diverged(FloatingPointError):
    """The loss or the meta-gradient of an outer step was not finite.

    ``distilled`` is what there was before that step, and ``history`` is that of the steps before.
    """

    def __init__(self, message: str, distilled: Distilled, history: list[dict[str, float]]):
        super().__init__(message)
        self.distilled, self.history = distilled, history


def distil(
    key: jax.Array,
    data: Dataset | Mapping[str, ArrayLike],
    network: Network,
    first: Distilled,
    *,
    theta: Params | None = None,
    networks: int = 4,
    recipe: OuterRecipe | None = None,
    batch_size: int = 256,
    learned: Parametrisation = PIXELS,
    inner: Loop | None = None,
    window: Window | None = None,
    mode: Mode = "forward_over_reverse",
    objective: Criterion = cross_entropy,
    real_augment: Augment | None = None,
    validation_nets: int = 10,
    test_nets: int = 50,
    every: int | None = None,
    callback: Callable[[Moment], bool | None] | None = None,
) -> Distillation:
    """Learns distilled data, validates them on the way, and tests them at the end (paper, Algorithm 1 and section 4).

    Networks for training, validation and test are disjoint. With ``theta``, there is one known network in their place.

    Args:
      key: a JAX random key, ``jax.random.key(0)``; it draws whatever is random.
      data: real images. A :class:`dd_jax.data.dataset.Dataset`, or a mapping with ``images``, ``[N, H, W]`` or
        ``[N, H, W, D]``, uint8 or floats in [0, 1], and ``labels``, ``[N]`` integers. ``test_images``, ``test_labels``,
        ``validation_images`` and so on may stand beside them; else they are held out of ``images``.
      network: ``(init, apply)``; ``init`` draws from p(θ₀).
      first: x̃, ỹ and η̃ to begin with, such as :func:`dd_jax.noise`. Their shapes are those of the result.
      theta: the known initial weights θ₀. If not given, the data are for networks never seen.
      networks: networks drawn anew for each outer step, without ``theta``.
      recipe: settings of the outer optimizer, the number of outer steps among them; the default ones if not given.
      batch_size: real examples of an outer step, B.
      learned: what is learned of the data.
      inner: optimizer, order and augmentation of the inner loop; the paper's if not given.
      window: the steps of the inner loop that are differentiated; all if not given.
      mode: how the inner loop is differentiated.
      objective: ``(logits [B, C], labels [B, C]) -> [B]`` on real examples; cross-entropy is used on distilled ones.
      real_augment: ``(key, images [B, H, W, D]) -> images`` of normalised real images; none if not given.
      validation_nets: networks of a validation, without ``theta``.
      test_nets: networks of the test, without ``theta``.
      every: outer steps between two validations; a twentieth of all if not given. The last step has one in any case.
      callback: called after each validation. If it returns True, the run stops there, and is tested.

    Returns:
      The distilled data, their scores on the test split, and what was measured on the way.

    Raises:
      ValueError: an argument that is not accepted; the message begins with its name.
      Diverged: the loss or the meta-gradient was not finite. It has the data from before.
    """
    recipe, inner = recipe or OuterRecipe(), inner or Loop()
    dataset, network = _dataset_of(data), _pair(network)
    every = max(1, -(-recipe.steps // 20)) if every is None else every
    counts = {"networks": networks, "validation_nets": validation_nets, "test_nets": test_nets, "every": every}
    _check_settings(key, recipe, batch_size, mode, theta is None, counts)
    first = jax.tree.map(jnp.array, first)  # copies, which the update may donate
    _check_arrays(dataset, network, first, theta)
    _check_loop(inner, window, len(first.step_sizes))
    train_key, validation_key, test_key = jax.random.split(key, 3)
    loss, objective_loss = (classification_loss(network.apply, criterion) for criterion in (cross_entropy, objective))
    train = trainer(loss, **inner._asdict(), window=window, mode=mode, adjoint_clip=recipe.adjoint_clip)
    outer = step_of_recipe(recipe, lambda step: train, objective_loss, learned, many=theta is None)
    batch_of = _batch_drawer(dataset, batch_size, real_augment)
    update = _update(train_key, outer, network, networks, theta, batch_of, dataset.train)
    score, total = _scorer(network, loss, len(dataset.class_names), inner, theta), len(first.step_sizes)

    def decoded(state: OuterState) -> Distilled:
        return jax.tree.map(np.array, learned.decode(state.params))

    state, history = outer.init(learned.init(first)), []
    distilled = decoded(state)
    for done in outer_loop(state, update, recipe.steps, rests=lambda step: step % every == 0):
        if not done.finite:
            raise Diverged(_refused(done), decoded(done.state), history)
        history.append({"step": done.step, "loss": done.loss, "gradient_norm": done.gradient_norm})
        if not done.rests:
            continue
        distilled = decoded(done.state)
        accuracy = score(validation_key, validation_nets, distilled, dataset.validation, (total,)).accuracy.mean()
        history.append({"step": done.step, "validation_accuracy": float(accuracy)})
        moment = Moment(done.step, recipe.steps, done.loss, float(accuracy), distilled)
        if callback is not None and callback(moment):
            break
    scores = score(test_key, test_nets, distilled, dataset.test, (0, total))
    return Distillation(distilled, scores, history, dataset)


def _update(key, outer, network, networks, theta, batch_of, split):
    """``(state, number of the step) -> (state, info)``: draws networks and a real batch, and makes the outer step."""
    take_step = in_turn(outer)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, number, theta, split):
        weights_key, batch_key, step_key = jax.random.split(jax.random.fold_in(key, number), 3)
        if theta is None:
            theta = jax.vmap(network.init)(jax.random.split(weights_key, networks))
        return take_step(step_key, state, theta, batch_of(batch_key, split), number)

    return lambda state, step: update(state, np.int32(step), theta, split)


def _batch_drawer(dataset, size, augment):
    """Draws real batches, ``(key, split) -> (images, labels)``, and augments their normalised images."""
    draw = batch_drawer(dataset, size)
    if augment is None:
        return draw

    def augmented(key, split):
        images, labels = draw(key, split)
        return augment(jax.random.fold_in(key, 1), images), labels

    return augmented


def _scorer(network, loss, classes, inner, theta):
    """``(key, networks, distilled, split, numbers of steps) -> Score`` of ``[K, numbers]``, numpy arrays."""
    known = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], theta)

    @functools.partial(jax.jit, static_argnames="at")
    def scores(keys, known, distilled, split, at):
        def of(theta):
            return evaluate(network.apply, theta, split, classes)

        draw = network.init if known is None else known
        return evaluate_nets(keys, draw, loss, distilled, Training(), of, at, inner)

    def score(key, networks, distilled, split, at):
        keys = jax.random.split(key, networks if known is None else 1)
        return jax.tree.map(np.asarray, scores(keys, known, distilled, split, at))

    return score


def _refused(done: Done) -> str:
    return (
        f"step {done.step}: the loss is {done.loss} and the meta-gradient's norm {done.gradient_norm}; "
        "lower recipe.learning_rate or the step sizes of first"
    )


def _dataset_of(data: Dataset | Mapping[str, Any]) -> Dataset:
    """The three splits on the device."""
    if isinstance(data, Mapping):
        try:
            data = make_dataset(from_fields("data", data))
        except ModuleNotFoundError as error:
            accepted = "'test_images', 'validation_images' and their labels too"
            raise ValueError(f"data: {error.name} is not installed, which holds images out; give {accepted}") from error
    accepted = "a Dataset, or a mapping with 'images' and 'labels'"
    require(isinstance(data, Dataset), "data", type(data).__name__, accepted)
    train, validation, test = jax.device_put(data[:3])
    return data._replace(train=train, validation=validation, test=test)


def _pair(network: Network) -> Network:
    is_pair = isinstance(network, tuple) and len(network) == 2 and all(map(callable, network))
    accepted = "a pair (init, apply), such as dd_jax.make_network or dd_jax.from_flax makes"
    require(is_pair, "network", type(network).__name__, accepted)
    return Network(*network)


def _check_settings(
    key: jax.Array, recipe: OuterRecipe, batch_size: int, mode: str, many: bool, counts: Mapping[str, int]
) -> None:
    is_key = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    require(is_key, "key", repr(key), "a JAX random key, such as jax.random.key(0)")
    for name, count in counts.items():
        require(count >= 1, name, count, "1 or more")
    with within("recipe"):
        check_recipe(recipe, many=many)
    accepted = f"a positive multiple of recipe.perturbations, {recipe.perturbations}"
    require(batch_size >= 1 and batch_size % recipe.perturbations == 0, "batch_size", batch_size, accepted)
    require(mode in MODES, "mode", repr(mode), f"one of {', '.join(MODES)}")


def _check_loop(inner: Loop, window: Window | None, total: int) -> None:
    if not inner.optimizer.is_plain:
        with within("inner"):
            check_differentiable(inner.optimizer)
    if window is not None:
        require(1 <= window.length <= total, "window", window.length, f"1 … {total}, the steps of the loop")


def _check_arrays(dataset: Dataset, network: Network, first: Distilled, theta: Params | None) -> None:
    with within("first"):
        check_distilled(first)
        shape, classes = dataset.image_shape, len(dataset.class_names)
        steps, images, *own = first.images.shape
        require(tuple(own) == shape, "images", f"shape {first.images.shape}", f"[S, M, {', '.join(map(str, shape))}]")
        accepted = f"{(steps, images, classes)}, [S, M, C]"
        require(first.labels.shape == (steps, images, classes), "labels", f"shape {first.labels.shape}", accepted)
    if theta is not None:
        check_theta(theta)
    try:
        weights = jax.eval_shape(network.init, jax.random.key(0)) if theta is None else theta
        check_network(network.apply, weights, shape, classes)
    except Exception as error:  # whatever a function of anyone's raises
        if isinstance(error, ValueError) and str(error).startswith("network:"):
            raise
        where = f"images of {'×'.join(map(str, shape))} (H×W×D) and {classes} classes"
        raise ValueError(f"network: on {where} it fails with {first_line(error)}") from error
