"""A multilayer perceptron: fully connected layers on the pixels."""

import flax.linen as nn

from dd_jax.networks import description
from dd_jax.networks.options import ImageShape
from dd_jax.networks.surrogates import surrogates


class MLP(nn.Module):
    """Fully connected layers of ``hidden`` units with ReLU, then a linear layer."""

    outputs: int = 10
    hidden: tuple[int, ...] = (128, 128)
    switch_width: float = 0.0

    @nn.compact
    def __call__(self, x):
        relu = surrogates(self.switch_width).relu
        x = x.reshape(x.shape[0], -1)
        for features in self.hidden:
            x = relu(nn.Dense(features)(x))
        return nn.Dense(self.outputs)(x)


def mlp(
    image_shape: ImageShape, classes: int, *, hidden: tuple[int, ...] = (128, 128), switch_width: float = 0.0
) -> MLP:
    """A multilayer perceptron for images of any size.

    Args:
      image_shape: (H, W, D).
      classes: C.
      hidden: units of each hidden layer; none for a linear classifier.
      switch_width: as :func:`dd_jax.networks.make_network`'s.
    """
    del image_shape
    return MLP(classes, hidden, switch_width)


def describe_mlp(
    image_shape: ImageShape, classes: int, *, hidden: tuple[int, ...] = (128, 128)
) -> list[description.Layer]:
    """A multilayer perceptron as data (see :mod:`dd_jax.networks.description`)."""
    del image_shape
    layers = [description.flatten()]
    for features in hidden:
        layers += [description.dense(features), description.relu()]
    return description.with_names([*layers, description.dense(classes)])
