"""Dataset distillation in JAX: a handful of learned images, and step sizes, that train a network (arXiv:1811.10959).

The modules, in the order the data flows: ``pictures``, ``readers`` and ``data`` → ``networks`` and
``initial_weights`` → ``unroll`` (the inner loop) → ``meta`` (the meta-gradient) → ``outer`` (one update of the
distilled data) → ``evaluation`` → ``storage``, ``checkpoint`` and ``report``.
"""

from importlib.metadata import version

__version__ = version("dd-jax")
