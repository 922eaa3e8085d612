"""Figures the paper reports, as fractions, quoted from its tables (arXiv:1811.10959). None of them is ours.

Each result says whether it was checked: against the paper's first figure, the authors' project page or their code. The
others are quoted from memory, and were not checked against the paper. Wherever a figure is shown,
:func:`dd_jax.files.text.percent_reported` says which of the two it is.
"""

import functools
from typing import TypedDict, cast


class Reported(TypedDict, total=False):
    """A result of the paper; empty where it has none."""

    before: float  # accuracy before any step
    after: float  # … and after the last one
    std: float  # … over networks
    checked: bool


def _result(after: float, std: float | None = None, *, before: float | None = None, checked: bool) -> Reported:
    figures = {"before": before, "after": after, "std": std}
    return cast(Reported, {name: figure for name, figure in figures.items() if figure is not None}) | {
        "checked": checked
    }


_checked = functools.partial(_result, checked=True)
_from_memory = functools.partial(_result, checked=False)


def fields(quoted: Reported) -> dict[str, float | None]:
    """As a result.json holds them."""
    return {
        "reported": quoted.get("after"),
        "reported_std": quoted.get("std"),
        "reported_before": quoted.get("before"),
        "reported_checked": quoted.get("checked"),
    }


# (experiment, data set, S, E, images per class and step) -> test accuracy (section 4.1; table 1).
REPORTED = {
    ("fixed_init", "mnist", 1, 3, 1): _checked(0.938, before=0.129),
    ("fixed_init", "mnist", 10, 3, 1): _from_memory(0.966),
    ("fixed_init", "cifar10", 10, 3, 1): _checked(0.540, before=0.088),
    ("random_init", "mnist", 10, 3, 1): _checked(0.795, 0.081),
    ("random_init", "cifar10", 10, 3, 1): _checked(0.368, 0.012),
}

# (preset, baseline) -> test accuracy, 10 images per class (tables 1 and 2), or one (table 3).
BASELINES = {
    ("mnist", "random real"): _from_memory(0.686, 0.098),
    ("mnist", "optimized real"): _from_memory(0.730, 0.076),
    ("mnist", "k-means"): _from_memory(0.764, 0.095),
    ("mnist", "average real"): _from_memory(0.771, 0.027),
    ("mnist", "random k-NN"): _from_memory(0.715, 0.021),
    ("mnist", "k-means k-NN"): _from_memory(0.922, 0.001),
    ("cifar10", "random real"): _from_memory(0.213, 0.015),
    ("cifar10", "optimized real"): _from_memory(0.234, 0.013),
    ("cifar10", "k-means"): _from_memory(0.225, 0.031),
    ("cifar10", "average real"): _from_memory(0.223, 0.007),
    ("cifar10", "random k-NN"): _from_memory(0.188, 0.013),
    ("cifar10", "k-means k-NN"): _from_memory(0.294, 0.003),
    ("mnist_usps", "no adaptation"): _from_memory(0.904, 0.030),
    ("mnist_usps", "random real"): _from_memory(0.949, 0.008),
    ("mnist_usps", "full training"): _from_memory(0.973, 0.003),
    ("usps_mnist", "no adaptation"): _checked(0.675, 0.039),
    ("usps_mnist", "random real"): _from_memory(0.871, 0.029),
    ("usps_mnist", "full training"): _from_memory(0.986, 0.005),
    ("svhn_mnist", "no adaptation"): _from_memory(0.516, 0.028),
    ("svhn_mnist", "random real"): _from_memory(0.846, 0.021),
    ("svhn_mnist", "full training"): _from_memory(0.986, 0.005),
    ("alexnet_voc", "random real"): _from_memory(0.1941, 0.0373),
    ("alexnet_voc", "optimized real"): _from_memory(0.2382, 0.0366),
    ("alexnet_voc", "average real"): _from_memory(0.0994),
    ("alexnet_voc", "full fine-tuning"): _from_memory(0.7557, 0.0018),
    ("alexnet_cub", "random real"): _from_memory(0.0711, 0.0066),
    ("alexnet_cub", "optimized real"): _from_memory(0.0723, 0.0078),
    ("alexnet_cub", "average real"): _from_memory(0.0288),
    ("alexnet_cub", "full fine-tuning"): _from_memory(0.4121, 0.0051),
}

# Domain adaptation, S = 10, E = 3, 100 images (section 4.2; table 2), by the preset of experiments.adaptation.
ADAPTATION = {
    "mnist_usps": _from_memory(0.954, 0.018, before=0.904),
    "usps_mnist": _checked(0.927, 0.014, before=0.675),
    "svhn_mnist": _from_memory(0.852, 0.047, before=0.516),
    "mnist_usps_fixed": _from_memory(0.979),
    "usps_mnist_fixed": _from_memory(0.932),
    "svhn_mnist_fixed": _from_memory(0.964),
}

# ImageNet's AlexNet on other classes, S = 1, E = 3, one image per class (section 4.2; table 3), by the preset of
# experiments.transfer.
TRANSFER = {"alexnet_voc": _from_memory(0.7075), "alexnet_cub": _from_memory(0.3876)}

# (data set, K, S, E, images per class and step) -> accuracy on class K itself, which an attack takes away (figure 1c).
ATTACK = {("cifar10", 0, 1, 1, 30): _checked(0.07, before=0.82)}
