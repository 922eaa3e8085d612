"""Dataset distillation in JAX: a handful of learned images, and step sizes, that train a network (arXiv:1811.10959).

The modules, in the order the data flows: ``data`` (labelled images) → ``networks`` and ``weights`` (p(θ₀)) →
``distilled`` and ``parametrisations`` (what is learned) → ``inner`` (the loop that trains on it) → ``estimates`` (the
meta-gradient) → ``outer`` (one update) → ``evaluation`` → ``files``. ``base`` has the contracts between them.
"""

from importlib.metadata import version

import lazy_loader

# The public names are those of __init__.pyi; their modules are imported when they are first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("dd-jax")
