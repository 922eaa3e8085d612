"""Figures the paper reports, as fractions, quoted from its tables (arXiv:1811.10959). None of them is ours."""

# (experiment, data set, S, E, images per class and step) -> test accuracy (section 4.1; table 1).
REPORTED = {
    ("fixed_init", "mnist", 1, 3, 1): {"before": 0.129, "after": 0.938},
    ("fixed_init", "mnist", 10, 3, 1): {"after": 0.966},
    ("fixed_init", "cifar10", 10, 3, 1): {"before": 0.088, "after": 0.540},
    ("random_init", "mnist", 10, 3, 1): {"after": 0.795, "std": 0.081},
    ("random_init", "cifar10", 10, 3, 1): {"after": 0.368, "std": 0.012},
}
