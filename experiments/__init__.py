"""One runnable module per result of the paper: ``python -m experiments.NAME``."""

import importlib.util
import sys

_BY_NAME = sys.argv[0] == "-m"  # Python is about to run one of them
if importlib.util.find_spec("tyro") is None:
    missing = "the experiments are not installed; pip install 'dd-jax[experiments]', or '.[experiments]' in a checkout"
    raise SystemExit(f"error: {missing}") if _BY_NAME else ImportError(missing)
if _BY_NAME:
    print("loading JAX", file=sys.stderr, flush=True)  # it takes seconds
