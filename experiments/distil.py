"""Distillation as an experiment: the resumable run, and what it writes, for every kind of initial weights."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dd_jax.base import Distilled, Params
from dd_jax.checks import positive, require, within
from dd_jax.data.batches import batch_drawer, batch_maker, epoch_order
from dd_jax.data.dataset import Split
from dd_jax.data.normalisation import unwhitened
from dd_jax.evaluation import Loop
from dd_jax.files.atomic import write_json
from dd_jax.files.distilled_file import save_distilled
from dd_jax.files.scored import Scored, save_scored
from dd_jax.files.snapshots import save_snapshot, snapshot
from dd_jax.hosts import from_first, is_first
from dd_jax.inner.loop import trainer
from dd_jax.objectives import classification_loss
from dd_jax.outer import OuterState, check_recipe
from dd_jax.outer_loop import in_turn, step_of_recipe
from dd_jax.parallel import everywhere, of_networks, spread

from . import tensorboard
from .command_line import command_line
from .describe import meta_of
from .distilled import check_distilled_setting, parametrisation_of, stored_floats
from .first_data import Budget, initial_data
from .inner import check_inner, loop_of, optimizer_of, window_of
from .nets import count_of, part_of
from .precision import in_its_precision
from .problem import Problem, assemble, identity
from .recipe import (
    Config,
    augmentation_of,
    criterion_of,
    mesh_of,
    real_augmentation_of,
    reported,
    settings_of,
    workdir_of,
)
from .record import SCORES, SNAPSHOTS, draw_pictures, print_result
from .relabelled import NOTHING, Relabelled
from .reported import Reported, fields
from .say import say
from .scoring import accuracies, balanced, counts_for, is_imbalanced, mean_and_std, scored_of, scorer, some_steps
from .streams import streams
from .training import Trained, memory_needed, train
from .workdir import check_local, check_same_everywhere, claimed, compiled_beside, is_finished, provenance


def _check(config: Config) -> None:
    """Refuses what can be refused before reading data; the library checks the rest of its arguments itself."""
    with within("outer"):
        check_recipe(config.outer, many=config.weights.nets is not None or config.weights.known > 1)
    parts, size = config.outer.perturbations, config.batch_size
    require(size >= 1, "batch_size", size, "1 or more")
    require(size % parts == 0, "batch_size", size, f"a multiple of outer.perturbations, {parts}")
    require(config.shift >= 0, "shift", config.shift, "0 or more")
    positive("checkpoint_seconds", config.checkpoint_seconds)
    if config.tensorboard:
        tensorboard.writer()
    check_distilled_setting(config.distilled)
    optimizer_of(config.inner)
    real_augmentation_of(config)


@in_its_precision
def run(
    experiment: str,
    preset: str,
    config: Config,
    *,
    attack: Relabelled = NOTHING,
    known: Reported | None = None,
) -> dict[str, Any] | None:
    """Distils, evaluates once on the test set, and writes the results; or, with ``config.plan``, does none of that.

    Several processes call this together, all with the same arguments. The first one writes, in a folder that all see.

    Args:
      experiment, preset, config: what to run; they name the work folder too.
      attack: classes that count as others (see :func:`dd_jax.objectives.relabelled`), among the real examples, in the
        objective and in every accuracy, and, unless they keep their labels, among the distilled images.
      known: the paper's figures; :func:`reported`'s if not given.

    Returns:
      The content of result.json, or None with ``config.plan``.

    Raises:
      ValueError: settings or data that cannot be used, or that differ between processes; nothing has been written
        then.
      experiments.training.RunError: the loss was not finite.
    """
    _check(config)
    workdir = workdir_of(experiment, preset, config)
    check_local(workdir)
    settings = settings_of(config, workdir) | attack.settings()
    head = {"experiment": experiment, "preset": preset}
    here = {"workdir": str(workdir), "plan": config.plan, **provenance()["versions"]}
    check_same_everywhere(head | settings | here)
    if from_first(lambda: is_finished(workdir)) and not config.plan:  # then nothing needs to be compiled
        with claimed(workdir, head | settings | identity(config)) as finished:
            assert finished is not None
            from_first(lambda: draw_pictures(workdir))
            return finished
    problem = assemble(config, config.switch_width)
    settings |= problem.identity
    check_same_everywhere(settings)  # the data too
    prepared = _prepare(config, settings, problem, attack)
    if config.plan:
        _compile(config, prepared)
        return None
    known = reported(experiment, config) if known is None else known
    with claimed(workdir, head | settings) as finished:  # by another process meanwhile, if at all
        if finished is not None:
            return finished
        with compiled_beside(workdir):
            return _distil(workdir, config, head, settings, problem, attack, prepared, known)


class _Prepared(NamedTuple):
    """The outer step of a run, and what it starts from."""

    update: Any  # jitted: (state, step, θ₀, training split, which examples of it) -> (state, info)
    state: tuple[OuterState, jax.Array]
    theta_at: Callable[[int], Params]
    split_at: Callable[[int], Split]  # the real examples that a step takes some of
    index_at: Callable[[int], np.ndarray | None]  # which of them; None where the update draws them itself
    decode: Callable[[Any], Distilled]  # from what is learned
    inner: Loop
    total: int  # T
    earlier: "Budget"
    mesh: Mesh


def _prepare(config: Config, settings: dict[str, Any], problem: Problem, attack: Relabelled) -> _Prepared:
    dataset, network, nets, *_ = problem
    keys = streams(config.seed)
    distilled, earlier = initial_data(keys.noise, config, settings, problem)
    steps, images, total, classes = *distilled.images.shape[:2], len(distilled.step_sizes), len(dataset.class_names)
    check_inner(config.inner, total, steps * images, classes)
    before = int(earlier["outer_steps"])  # whose networks and real batches are not taken again
    if not isinstance(config.distilled.first, Path):  # those of a run are relabelled already
        distilled = attack.distilled(distilled)
    learned, distilled = parametrisation_of(keys.bases, config.distilled, config.inner, distilled)
    inner = loop_of(config.inner, distilled.labels)
    mesh = mesh_of(config, dataset.train.labels.shape[0], many=nets.many)
    loss = classification_loss(network.apply)
    objective = attack.objective(network, classes, criterion_of(config.objective))

    def train_at(step):
        how = {"window": window_of(config.inner, step / config.outer.steps), "adjoint_clip": config.outer.adjoint_clip}
        return trainer(loss, **inner._asdict(), mode=config.mode, **how)

    outer = step_of_recipe(config.outer, train_at, objective, learned, many=nets.many, mesh=mesh)
    take_step = in_turn(outer)
    augment, augment_normalised = augmentation_of(config), real_augmentation_of(config)
    draw_batch = batch_drawer(dataset, config.batch_size, augment=augment)
    batch_of = batch_maker(dataset, augment=augment)
    split_at, index_at = _examples_at(config, problem, keys.epochs, before, everywhere(mesh))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, step, theta, split, index):
        outer_state, key = state
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, before + outer_state.step))
        batch = draw_batch(draw_key, split) if index is None else batch_of(draw_key, split, index)
        if augment_normalised is not None:
            batch = (augment_normalised(jax.random.fold_in(draw_key, 1), batch[0]), batch[1])
        moved, info = take_step(update_key, outer_state, theta, batch, step)
        return (moved, key), info

    state = spread((outer.init(learned.init(distilled)), keys.batches), everywhere(mesh))
    dealt = of_networks(mesh, many=nets.many)
    known = None if nets.known is None else spread(nets.training(0), dealt)

    def theta_at(step):
        return spread(nets.training(before + step), dealt) if known is None else known

    return _Prepared(update, state, theta_at, split_at, index_at, learned.decode, inner, total, earlier, mesh)


def _examples_at(
    config: Config, problem: Problem, key: jax.Array, before: int, whole: NamedSharding
) -> tuple[Callable[[int], Split], Callable[[int], np.ndarray | None]]:
    """The real examples of steps 1, 2, …, and which of them each takes: all of them, where they are streamed."""
    train = problem.dataset.train
    examples = train.labels.shape[0]
    index_at = _index_at(config, key, examples, before)
    if problem.originals is None:
        resident = functools.cache(lambda: spread(train, whole))
        return lambda step: resident(), index_at
    from dd_jax.data.streamed.ahead import batches_ahead, drawn_index

    require(not config.augment, "augment", config.augment, "it without images.streamed, which crops and flips already")
    numbers_at = drawn_index(examples, config.batch_size, config.seed)  # by the number of the step, of all runs
    if config.batches == "epochs":
        numbers_at = epoch_order(key, examples, config.batch_size)
    last, size = before + config.outer.steps, problem.dataset.image_shape[0]
    batch_at = batches_ahead(problem.originals, lambda step: numbers_at(step - 1), size, config.seed, last=last)

    def split_at(step: int) -> Split:
        return spread(Split(*batch_at(before + step), train.normalisation), whole)

    return split_at, lambda step: np.arange(len(numbers_at(before + step - 1)), dtype=np.int32)


def _index_at(config: Config, key: jax.Array, examples: int, before: int) -> Callable[[int], np.ndarray | None]:
    """Which real examples steps 1, 2, … take after ``before`` others; None where each step draws its own."""
    if config.batches == "replaced":
        return lambda step: None
    size, parts = config.batch_size, config.outer.perturbations
    require(size <= examples, "batch_size", size, f"1 … {examples}, the training examples, with batches 'epochs'")
    last = examples % size
    accepted = f"'replaced', or outer.perturbations that divide {last}, the last batch of an epoch"
    require(last % parts == 0, "batches", repr(config.batches), accepted)
    index_at = epoch_order(key, examples, size)
    return lambda step: index_at(before + step - 1)


def _compile(config: Config, prepared: _Prepared) -> Callable:
    """``(state, step) -> (state, info)``, and a line on the memory it needs."""
    update, first, theta_at, split_at, index_at, *_ = prepared
    whole = everywhere(prepared.mesh)

    def arguments(step: int) -> tuple[Any, ...]:
        return spread(np.int32(step), whole), theta_at(step), split_at(step), spread(index_at(step), whole)

    say("compiling the outer step")
    of_first = arguments(1)
    compiled = update.lower(first, *of_first).compile()
    print(memory_needed(compiled, config.mode), flush=True)
    size = np.size(of_first[-1])
    del of_first  # its networks, which the first step sends again

    def updated(state, step):
        given = arguments(step)
        of_that_size = np.size(given[-1]) == size  # the last batch of an epoch is not, and compiled when it comes
        return (compiled if of_that_size else update)(state, *given)

    return updated


def _distil(
    workdir: Path,
    config: Config,
    head: dict[str, Any],
    settings: dict[str, Any],
    problem: Problem,
    attack: Relabelled,
    prepared: _Prepared,
    known: Reported,
) -> dict[str, Any]:
    """Runs the outer steps, evaluates, and writes the results; returns the content of result.json."""
    dataset, network, nets, *_ = problem
    after = scorer(dataset, network, at=(prepared.total,), inner=prepared.inner)
    validation, test = (attack.split(s, len(dataset.class_names)) for s in (dataset.validation, dataset.test))

    def validate(state):
        distilled = jax.device_get(prepared.decode(state[0].params))
        accuracy = after(distilled, nets.validation, validation).accuracy.mean()
        return {"validation_accuracy": float(accuracy), "step_size_mean": float(distilled.step_sizes.mean())}

    trained = train(
        workdir,
        prepared.state,
        _compile(config, prepared),
        steps=config.outer.steps,
        validate=validate,
        validate_every=max(1, -(-config.outer.steps // 20)),
        keep=functools.partial(_keep, workdir, prepared, dataset.train),
        checkpoint_seconds=config.checkpoint_seconds,
        remedy="lower --outer.learning-rate or --distilled.step-size",
        tensorboard=workdir / "tensorboard" if config.tensorboard else None,
    )
    distilled = jax.device_get(prepared.decode(trained.state[0].params))
    say(f"testing on {count_of(nets.test)}")
    tested, of_classes, scored = _tested(problem, prepared, distilled, validation, test)
    result = {
        **head,
        **_measured(config, prepared, trained, nets.known is not None),
        "test_accuracy": _before_and_after(tested),
        **({} if of_classes is None else {"balanced_test_accuracy": _before_and_after(of_classes)}),
        "validation_accuracy": validate(trained.state)["validation_accuracy"],
        **fields(known),
        "config": settings,
        **provenance(),
    }
    known_weights = _stored(nets.known)

    def write() -> dict[str, Any]:
        meta = meta_of(workdir, config, result, dataset)
        save_distilled(workdir / "distilled.npz", distilled, dataset.train.normalisation, meta, known_weights)
        save_scored(workdir / SCORES, scored)
        write_json(workdir / "result.json", result)
        draw_pictures(workdir)
        return result

    return from_first(write)


def _keep(workdir: Path, prepared: _Prepared, train_split: Split, step: int, state: tuple[OuterState, Any]) -> None:
    """Keeps what the images look like now, for the page."""
    images = jax.device_get(prepared.decode(state[0].params)).images
    if is_first():
        moment = snapshot(step, np.asarray(unwhitened(images, train_split.normalisation)))
        save_snapshot(workdir / SNAPSHOTS, moment)


_CURVE = 10  # validation networks whose accuracy after each step the page shows, at most


def _tested(
    problem: Problem, prepared: _Prepared, distilled: Distilled, validation: Split, test: Split
) -> tuple[np.ndarray, np.ndarray | None, Scored]:
    """Accuracies on the test split before and after the steps, ``[K, 2]``, and what the page shows beyond them.

    Between them, the balanced accuracies, where the classes are of unequal sizes. All are of the same answers. The
    accuracy after each step is that of some validation networks on the validation split.
    """
    dataset, network, nets, *_ = problem
    counts = scorer(dataset, network, measure=counts_for(dataset), inner=prepared.inner)
    tested, steps = np.asarray(counts(distilled, nets.test, test)), some_steps(prepared.total)
    few = part_of(nets.validation, slice(_CURVE))
    by_step = scorer(dataset, network, at=steps, inner=prepared.inner)(distilled, few, validation).accuracy
    scored = scored_of(tested, by_step, steps, dataset, test)
    of_classes = balanced(tested, test) if is_imbalanced(dataset) else None
    return accuracies(tested, test), of_classes, scored


def _stored(known: Params | None) -> Params | None:
    """The known networks' weights as the file has them: one's without a leading axis."""
    one = known is not None and jax.tree.leaves(known)[0].shape[0] == 1
    return jax.tree.map(lambda leaf: leaf[0], known) if one else known


def _before_and_after(accuracy: np.ndarray) -> dict[str, Any]:
    """Accuracies ``[K, 2]``, before and after the steps, as a result has them."""
    return {"before": mean_and_std(accuracy[:, 0]), "after": mean_and_std(accuracy[:, 1])}


def _measured(config: Config, prepared: _Prepared, trained: Trained, known: bool) -> dict[str, Any]:
    """The facts and figures of a run but for its accuracies."""
    return {
        "dataset": config.dataset,
        "seed": config.seed,
        "outer_steps": config.outer.steps,
        "stored_floats": stored_floats(trained.state[0].params),
        "wall_seconds": trained.seconds,
        "earlier": prepared.earlier,
        "networks": "known" if known else "random",
        "mesh": dict(prepared.mesh.shape),
    }


def run_from_command_line(
    experiment: str, presets: Mapping[str, Config], default: str, description: str, argv: list[str]
) -> None:
    """The command line that the experiments share: ``[PRESET] [--option value …]``."""
    preset, config = command_line(presets, default, description, argv, experiment)
    result = run(experiment, preset, config)
    if result is None:
        return
    print_result(result, workdir_of(experiment, preset, config))
