"""Figures the paper reports, as fractions, quoted from its tables (arXiv:1811.10959). None of them is ours."""

# (experiment, data set, S, E, images per class and step) -> test accuracy (section 4.1; table 1).
REPORTED = {
    ("fixed_init", "mnist", 1, 3, 1): {"before": 0.129, "after": 0.938},
    ("fixed_init", "mnist", 10, 3, 1): {"after": 0.966},
    ("fixed_init", "cifar10", 10, 3, 1): {"before": 0.088, "after": 0.540},
    ("random_init", "mnist", 10, 3, 1): {"after": 0.795, "std": 0.081},
    ("random_init", "cifar10", 10, 3, 1): {"after": 0.368, "std": 0.012},
}

# (preset, baseline) -> (mean, std) of test accuracy, 10 images per class (tables 1 and 2).
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
    ("mnist_usps", "no adaptation"): (0.904, 0.030),
    ("mnist_usps", "random real"): (0.949, 0.008),
    ("mnist_usps", "full training"): (0.973, 0.003),
    ("usps_mnist", "no adaptation"): (0.675, 0.039),
    ("usps_mnist", "random real"): (0.871, 0.029),
    ("usps_mnist", "full training"): (0.986, 0.005),
    ("svhn_mnist", "no adaptation"): (0.516, 0.028),
    ("svhn_mnist", "random real"): (0.846, 0.021),
    ("svhn_mnist", "full training"): (0.986, 0.005),
}

# Domain adaptation, S = 10, E = 3, 100 images (section 4.2; table 2), by the preset of experiments.adaptation.
ADAPTATION = {
    "mnist_usps": {"before": 0.904, "after": 0.954, "std": 0.018},
    "usps_mnist": {"before": 0.675, "after": 0.927, "std": 0.014},
    "svhn_mnist": {"before": 0.516, "after": 0.852, "std": 0.047},
    "mnist_usps_fixed": {"after": 0.979},
    "usps_mnist_fixed": {"after": 0.932},
    "svhn_mnist_fixed": {"after": 0.964},
}
