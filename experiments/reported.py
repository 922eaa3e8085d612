"""Figures the paper reports, as fractions, quoted from its tables (arXiv:1811.10959). None of them is ours."""

# (data set, S, E, images per class and step) -> test accuracy with a fixed, known initialisation (section 4.1).
FIXED_INIT = {
    ("mnist", 1, 3, 1): {"before": 0.129, "after": 0.938},
    ("mnist", 10, 3, 1): {"after": 0.966},
    ("cifar10", 10, 3, 1): {"before": 0.088, "after": 0.540},
}
