"""Dataset distillation in JAX: a handful of learned images, and step sizes, that train a network (arXiv:1811.10959).

The modules, in the order the data flows: ``data`` (readers, splits, batches) → ``networks`` and ``weights`` (θ₀) →
``unroll`` (the inner loop) → ``meta_gradient`` → ``outer_step`` (one update of the distilled data) → ``evaluation`` →
``files`` (distilled data, checkpoints, reports). ``base`` has the contracts between them.
"""

from importlib.metadata import version

__version__ = version("dd-jax")
