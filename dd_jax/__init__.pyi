from .augment import augmentation
from .base import (
    Batch,
    Criterion,
    Distilled,
    Estimate,
    Loss,
    Network,
    Parametrisation,
    Params,
    Train,
)
from .distillation import Distillation, Diverged, Moment, distil
from .distilled import noise
from .estimates import meta_gradient, outer_objective, over_networks, perturbed
from .evaluation import Loop, Training, balanced_accuracy, evaluate, evaluate_nets, train_and_score
from .files.recorded import load
from .inner.loop import trainer, unroll
from .inner.optimizers import GRADIENT_DESCENT, InnerOptimizer, inner_optimizer
from .inner.schedule import Window, class_subsets, cycle, minibatches, random_start, shuffled
from .networks import from_flax, make_network
from .objectives import classification_loss, cross_entropy, relabelled
from .outer import OuterRecipe, OuterState, OuterStep, outer_optimizer, outer_step, recipe_estimate
from .parallel import device_mesh, over_devices
from .parametrisations import (
    FIXED,
    FREE,
    PIXELS,
    POSITIVE,
    UNIT,
    Field,
    parametrisation,
    per_step,
    probabilities,
    shared,
)
from .weights.laws import initial_weights

__all__ = [
    "FIXED",
    "FREE",
    "GRADIENT_DESCENT",
    "PIXELS",
    "POSITIVE",
    "UNIT",
    "Batch",
    "Criterion",
    "Distillation",
    "Distilled",
    "Diverged",
    "Estimate",
    "Field",
    "InnerOptimizer",
    "Loop",
    "Loss",
    "Moment",
    "Network",
    "OuterRecipe",
    "OuterState",
    "OuterStep",
    "Parametrisation",
    "Params",
    "Train",
    "Training",
    "Window",
    "augmentation",
    "balanced_accuracy",
    "class_subsets",
    "classification_loss",
    "cross_entropy",
    "cycle",
    "device_mesh",
    "distil",
    "evaluate",
    "evaluate_nets",
    "from_flax",
    "initial_weights",
    "inner_optimizer",
    "load",
    "make_network",
    "meta_gradient",
    "minibatches",
    "noise",
    "outer_objective",
    "outer_optimizer",
    "outer_step",
    "over_devices",
    "over_networks",
    "parametrisation",
    "per_step",
    "perturbed",
    "probabilities",
    "random_start",
    "recipe_estimate",
    "relabelled",
    "shared",
    "shuffled",
    "train_and_score",
    "trainer",
    "unroll",
]

__version__: str
