"""The outer steps that the benchmarks time: real batch, meta-gradient, and Adam on the distilled data.

========  ============================================================================================
W1        LeNet on 28×28×1, 1 step × 1 epoch, 10 images
W2        LeNet, 10 steps × 3 epochs, 10 images a step, the mean over 4 nets
W3        AlexCifarNet on 32×32×3, 10 steps × 3 epochs, 10 images a step
W4        LeNet, 10 steps × 3 epochs, 10 images a step
W5        ConvNet of width 32 on 32×32×3, 10 steps × 3 epochs, 10 images a step
========  ============================================================================================

``LARGE`` has those of the paper's largest setting: AlexNet on 224×224×3, 1 step × 3 epochs, one image per class.
``voc`` has 20 classes and a real batch of 64; ``cub`` has 200 classes and a real batch of 256.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dd_jax.base import Distilled
from dd_jax.distilled import noise
from dd_jax.estimates import meta_gradient, outer_objective
from dd_jax.inner.loop import trainer
from dd_jax.inner.modes import Mode
from dd_jax.networks import from_flax, make_network
from dd_jax.networks.convolution import Method
from dd_jax.objectives import classification_loss
from dd_jax.outer import OuterRecipe, outer_optimizer, recipe_estimate
from dd_jax.parallel import device_mesh, everywhere, of_networks
from dd_jax.parametrisations import PIXELS
from dd_jax.weights.laws import initial_weights

BATCH = 1024
Over = Callable[[Callable[[Any], Any], Any], Any]
RECIPE = OuterRecipe(steps=1000, learning_rate=0.01, clip=None)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One outer step's shape."""

    network: str
    image_shape: tuple[int, int, int]
    steps: int
    epochs: int
    nets: int = 1
    classes: int = 10  # and as many images a step
    batch: int = BATCH  # real examples
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the network


WORKLOADS = {
    "W1": Workload("lenet", (28, 28, 1), 1, 1),
    "W2": Workload("lenet", (28, 28, 1), 10, 3, nets=4),
    "W3": Workload("alexcifarnet", (32, 32, 3), 10, 3),
    "W4": Workload("lenet", (28, 28, 1), 10, 3),
    "W5": Workload("convnet", (32, 32, 3), 10, 3, options={"width": 32}),
}
LARGE = {
    "voc": Workload("alexnet", (224, 224, 3), 1, 3, classes=20, batch=64),
    "cub": Workload("alexnet", (224, 224, 3), 1, 3, classes=200, batch=256),
}


def arguments(workload: Workload, batch: int | None = None) -> tuple[Distilled, Any, tuple[jax.Array, jax.Array]]:
    """Distilled data, the weights of all nets (leading axis), and a real batch; the same for every implementation."""
    noise_key, weights_key, batch_key = jax.random.split(jax.random.key(0), 3)
    classes, batch = workload.classes, batch or workload.batch
    network = make_network(workload.network, workload.image_shape, classes, options=workload.options)
    thetas = jax.jit(jax.vmap(initial_weights(network)))(jax.random.split(weights_key, workload.nets))
    counts = {"steps": workload.steps, "epochs": workload.epochs}
    distilled = noise(noise_key, workload.image_shape, classes, **counts, step_size=0.02)
    images = jax.random.normal(batch_key, (batch, *workload.image_shape))
    return distilled, thetas, (images, jnp.eye(classes)[jnp.arange(batch) % classes])


def ours(
    workload: Workload,
    mode: Mode = "forward_over_reverse",
    convolution: Method | None = None,
    mesh: Mesh | None = None,
    over: Over | None = None,
    **how: Any,
) -> Callable:
    """The meta-gradient of this package: ``(key, learned, thetas, batch) -> (loss, gradient)``.

    With a mesh, networks and real examples are dealt out over it. ``over``, if given, goes through several networks, as
    ``jax.lax.map`` does. ``how`` is of the loop.
    """
    options, classes = workload.options, workload.classes
    network = make_network(workload.network, workload.image_shape, classes, convolution=convolution, options=options)
    loss = classification_loss(network.apply)

    train, many = trainer(loss, mode=mode, **how), workload.nets > 1
    estimate = recipe_estimate(RECIPE, jnp.zeros((), jnp.int32), train, loss, PIXELS.decode, many=many, mesh=mesh)
    of_one = meta_gradient(train, loss, PIXELS.decode)

    def gradient(key, learned, thetas, batch):
        if many and over is not None:
            of_each = over(lambda theta: of_one(key, learned, theta, batch), thetas)
            return jax.tree.map(lambda a: a.mean(0), of_each)
        return estimate(key, learned, thetas if many else jax.tree.map(lambda w: w[0], thetas), batch)

    return gradient


def devices_for(workload: Workload) -> Mesh | None:
    """The devices that its networks are dealt out over; None for a single network."""
    return None if workload.nets == 1 else device_mesh(math.gcd(workload.nets, jax.device_count()), 1)


class _FlaxLeNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        for features, padding in ((6, 2), (16, 0)):
            x = nn.relu(nn.Conv(features, (5, 5), padding=padding)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for features in (120, 84):
            x = nn.relu(nn.Dense(features)(x))
        return nn.Dense(10)(x)


def _local_response_norm(x):
    channels = x.shape[-1]
    squares = jnp.pad(x * x, ((0, 0),) * 3 + ((2, 1),))
    return x / (1 + 0.001 / 9 / 4 * sum(squares[..., i : i + channels] for i in range(4))) ** 0.75


class _FlaxAlexCifarNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        pool = {"window_shape": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1))}
        x = _local_response_norm(nn.max_pool(nn.relu(nn.Conv(64, (5, 5), padding=2)(x)), **pool))
        x = nn.max_pool(_local_response_norm(nn.relu(nn.Conv(64, (5, 5), padding=2)(x))), **pool)
        x = x.reshape(x.shape[0], -1)
        for features in (384, 192):
            x = nn.relu(nn.Dense(features)(x))
        return nn.Dense(10)(x)


class _FlaxConvNet(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Conv(self.width, (3, 3))(x)
            x = nn.avg_pool(nn.relu(nn.InstanceNorm(epsilon=1e-5)(x)), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


_FLAX = {"lenet": _FlaxLeNet, "alexcifarnet": _FlaxAlexCifarNet, "convnet": _FlaxConvNet}


def idiomatic(workload: Workload, **how: Any) -> Callable:
    """What one writes first in JAX: flax convolutions, ``jax.grad`` through the scan, ``vmap`` over nets."""
    module = _FLAX[workload.network](**workload.options)
    loss = classification_loss(from_flax(module, workload.image_shape).apply)

    objective = outer_objective(trainer(loss, mode="plain", **how), loss, PIXELS.decode)

    def mean_objective(key, learned, thetas, batch):
        def one(theta):
            return objective(key, learned, theta, batch)

        return jax.vmap(one)(thetas).mean() if workload.nets > 1 else one(jax.tree.map(lambda w: w[0], thetas))

    return jax.value_and_grad(mean_objective, argnums=1)


def outer_step(gradient: Callable) -> Callable:
    """``(key, learned, state, thetas, batch) -> (learned, state, loss)``: the gradient, and Adam."""
    optimizer = outer_optimizer(RECIPE)

    def step(key, learned, state, thetas, batch):
        loss, direction = gradient(key, learned, thetas, batch)
        updates, state = optimizer.update(direction, state, learned)
        return optax.apply_updates(learned, updates), state, loss

    return step


def step_arguments(distilled: Distilled, thetas: Any, batch: tuple) -> tuple:
    """What :func:`outer_step` takes first, of :func:`arguments`."""
    learned = PIXELS.init(distilled)
    return jax.random.key(0), learned, outer_optimizer(RECIPE).init(learned), thetas, batch


def compile_step(
    gradient: Callable, arguments: tuple, mesh: Mesh | None = None
) -> tuple[jax.stages.Compiled, tuple, float]:
    """The compiled outer step, its arguments, on the devices of a mesh if given, and the seconds that this took."""
    arguments = step_arguments(*arguments)
    if mesh is not None:
        whole = everywhere(mesh)
        arguments = jax.device_put(arguments, (whole, whole, whole, of_networks(mesh, many=True), whole))
    began = time.perf_counter()
    compiled = jax.jit(outer_step(gradient)).lower(*arguments).compile()
    return compiled, arguments, time.perf_counter() - began


def flops(workload: Workload, batch: int | None = None) -> float:
    """The work itself: with F of a forward pass on an image, 3 F for a gradient and 6 F for pulling a step back."""
    if workload.network in _FLAX:
        network = from_flax(_FLAX[workload.network](**workload.options), workload.image_shape)
    else:
        shape, options = workload.image_shape, workload.options
        network = make_network(workload.network, shape, workload.classes, convolution="lax", options=options)
    theta = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *workload.image_shape), jnp.float32)
    analysis = jax.jit(network.apply).lower(theta, images).cost_analysis() or {}
    images = workload.classes * workload.steps * workload.epochs
    return analysis["flops"] * workload.nets * (3 * (batch or workload.batch) + 9 * images)
