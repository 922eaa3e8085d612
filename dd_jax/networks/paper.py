"""Networks as plain ``(init, apply)`` pairs: LeNet and AlexCifarNet (paper, section 4 and its supplement)."""

from collections.abc import Callable
from functools import partial
from typing import cast

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dd_jax.base import Network
from dd_jax.networks.convolution import METHODS, Method, convolution, convolution_pool_relu, max_pool
from dd_jax.networks.surrogates import switches


class Conv(nn.Module):
    """A 5×5 convolution's weights, drawn and named as ``flax.linen.Conv``'s, given to ``layer(x, kernel, bias)``."""

    features: int
    layer: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (5, 5, x.shape[-1], self.features), jnp.float32)
        return self.layer(x, kernel, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32))


class LeNet(nn.Module):
    """LeNet: two 5×5 convolutions with 2×2 max-pooling, then 400→120→84→``outputs``; 28×28 or 32×32 images."""

    outputs: int = 10
    convolution: Method | None = None
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        switch = switches(self.switch_width)
        for features, padding in ((6, 2 if x.shape[1] == 28 else 0), (16, 0)):
            layer = partial(convolution_pool_relu, padding=padding, switches=switch, method=self.convolution)
            x = Conv(features, layer)(x)
        x = x.reshape(x.shape[0], -1)
        for features in (120, 84):
            x = switch.relu(nn.Dense(features)(x))
        return nn.Dense(self.outputs)(x)


class AlexCifarNet(nn.Module):
    """AlexCifarNet, after cuda-convnet: two 5×5×64 convolutions with normalisation, 4096→384→192→``outputs``; 32×32."""

    outputs: int = 10
    convolution: Method | None = None
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        relu, maximum = switches(self.switch_width)
        layer = partial(convolution, padding=2, method=self.convolution)
        x = relu(max_pool(Conv(64, layer)(x), 3, 2, padding=1, maximum=maximum))
        x = relu(Conv(64, layer)(local_response_norm(x)))
        x = max_pool(local_response_norm(x), 3, 2, padding=1, maximum=maximum)
        x = x.reshape(x.shape[0], -1)
        for features in (384, 192):
            x = relu(nn.Dense(features)(x))
        return nn.Dense(self.outputs)(x)


def local_response_norm(
    x: jax.Array, *, size: int = 4, alpha: float = 0.001 / 9, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """X / (k + α/size · Σ x²)^β over ``size`` neighbouring channels, c − size//2 … c + (size−1)//2.

    α is divided by the size, as PyTorch's ``LocalResponseNorm`` does; the defaults are AlexCifarNet's.

    Args:
      x: ``[..., D]``.
      size, alpha, beta, k: the constants above.

    Returns:
      An array like ``x``.
    """
    ahead = np.arange(x.shape[-1])[:, None] - np.arange(x.shape[-1])  # of channel c′ to channel c
    window = (-(size // 2) <= ahead) & (ahead <= (size - 1) // 2)
    total = (x * x) @ window.astype(x.dtype)  # XLA's CPU code for the derivatives of shifted sums is slow
    return x * jnp.exp(-beta * jnp.log(k + alpha / size * total))


IMAGE_SIZES = {"lenet": (28, 32), "alexcifarnet": (32,)}
_MODULES = {"lenet": LeNet, "alexcifarnet": AlexCifarNet}


def from_flax(module: nn.Module, image_shape: tuple[int, int, int]) -> Network:
    """Wraps a flax.linen module as a pair.

    Args:
      module: called as ``module(images)``, images ``[B, H, W, D]``; must hold no state but its parameters.
      image_shape: (H, W, D).

    Raises:
      ValueError: the module has collections besides ``params``, such as BatchNorm's statistics: they change in
        the forward pass, and treating them as constants would silently give another network; or its forward pass draws
        random numbers, as Dropout's does.
    """
    image = jnp.zeros((1, *image_shape), jnp.float32)  # flax's type of weights
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    state = sorted(set(shapes) - {"params"})
    if state:
        raise ValueError(
            f"network: {type(module).__name__} keeps state {state} that changes in the forward pass; "
            "use layers without it (GroupNorm or LayerNorm instead of BatchNorm)"
        )
    try:
        jax.eval_shape(module.apply, shapes, image)
    except flax.errors.InvalidRngError as error:
        raise ValueError(
            f"network: {type(module).__name__} draws random numbers in its forward pass, which has no key; "
            "leave dropout out, or make it Dropout(…, deterministic=True)"
        ) from error
    return Network(
        init=lambda key: module.init(key, image),
        apply=lambda theta, images: cast(jax.Array, module.apply(theta, images)),
    )


def make_network(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    switch_width: float = 0.0,
    convolution: Method | None = None,
) -> Network:
    """A network of the paper by name.

    Args:
      name: ``lenet`` or ``alexcifarnet``.
      image_shape: (H, W, D) of the images it will see.
      classes: C, the number of logits.
      switch_width: smooths the second derivative of ReLU and max-pooling (see
        :func:`dd_jax.networks.surrogates.switches`); the network itself is the same.
      convolution: how convolutions are computed, one of ``dd_jax.networks.convolution.METHODS``; what suits the backend
        if not given.

    Raises:
      ValueError: an unknown name or convolution, an image size the network does not take, fewer than two classes, or a
        negative width.
    """
    if name not in _MODULES:
        raise ValueError(f"network: {name!r} is unknown; use one of {', '.join(_MODULES)}")
    height, width, _ = image_shape
    if height != width or height not in IMAGE_SIZES[name]:
        accepted = " or ".join(f"{size}×{size}" for size in IMAGE_SIZES[name])
        raise ValueError(f"network: {name} takes images of {accepted} pixels, not {height}×{width}")
    if convolution is not None and convolution not in METHODS:
        raise ValueError(f"convolution: {convolution!r} is unknown; use one of {', '.join(METHODS)}")
    if classes < 2:
        raise ValueError(f"classes: {classes} is too few; use at least 2")
    module = _MODULES[name](classes, convolution, switch_width)
    return from_flax(module, image_shape)
