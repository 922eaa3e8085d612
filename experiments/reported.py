"""Figures the paper reports, as fractions, quoted from its tables (arXiv:1811.10959). None of them is ours."""

# (experiment, data set, S, E, images per class and step) -> test accuracy (section 4.1; table 1).
REPORTED = {
    ("fixed_init", "mnist", 1, 3, 1): {"before": 0.129, "after": 0.938},
    ("fixed_init", "mnist", 10, 3, 1): {"after": 0.966},
    ("fixed_init", "cifar10", 10, 3, 1): {"before": 0.088, "after": 0.540},
    ("random_init", "mnist", 10, 3, 1): {"after": 0.795, "std": 0.081},
    ("random_init", "cifar10", 10, 3, 1): {"after": 0.368, "std": 0.012},
}

# (data set, baseline) -> (mean, std) of test accuracy, 10 images per class (table 1).
BASELINES = {
    ("mnist", "random real"): (0.686, 0.098),
    ("mnist", "optimized real"): (0.730, 0.076),
    ("mnist", "k-means"): (0.764, 0.095),
    ("mnist", "average real"): (0.771, 0.027),
    ("mnist", "random k-NN"): (0.715, 0.021),
    ("mnist", "k-means k-NN"): (0.922, 0.001),
    ("cifar10", "random real"): (0.213, 0.015),
    ("cifar10", "optimized real"): (0.234, 0.013),
    ("cifar10", "k-means"): (0.225, 0.031),
    ("cifar10", "average real"): (0.223, 0.007),
    ("cifar10", "random k-NN"): (0.188, 0.013),
    ("cifar10", "k-means k-NN"): (0.294, 0.003),
}
