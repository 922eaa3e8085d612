"""Networks: by name, by import path, or from a flax module; and layers that are fast in a meta-gradient."""

from dd_jax.networks.make import NETWORKS, describe_network, make_network
from dd_jax.networks.modules import from_flax
from dd_jax.networks.options import parse_options

__all__ = ["NETWORKS", "describe_network", "from_flax", "make_network", "parse_options"]
