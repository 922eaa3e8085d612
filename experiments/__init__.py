"""One runnable module per result of the paper: ``python -m experiments.NAME``."""

import sys

if sys.argv[0] == "-m":  # Python is about to run one of them, and the imports take seconds
    print("loading JAX", file=sys.stderr, flush=True)
