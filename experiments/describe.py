"""What ``distilled.npz`` says of itself: docs/distilled_file.md has every field."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dd_jax.augment import NONE
from dd_jax.data.dataset import TEST_FRACTION, Dataset
from dd_jax.data.readers import digits, usps_28
from dd_jax.networks import describe_network, parse_options

from .inner import Inner, optimizer_of
from .recipe import Config
from .settings import Setting, dataset_from, path_from


def meta_of(workdir: Path, config: Config, result: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """What distilled.npz says of itself. Paths in it are from its own folder on."""
    weights = config.weights
    bank = {} if weights.bank is None else {"bank": path_from(workdir, weights.bank)}
    if weights.bank_size is not None:
        bank |= {"bank_size": weights.bank_size}
    if weights.head != "loaded":
        bank |= {"head": weights.head, "head_layers": weights.head_layers}
    if weights.bank is not None:
        bank |= {"validation_nets": weights.validation_nets, "fingerprint": result["config"]["bank"]}
    return {
        "use": _use(config.inner),
        "recipe": recipe_of(config),
        "architecture": architecture_of(config, dataset),
        "preprocessing": preprocessing_of(config, dataset),
        "test_accuracy": result["test_accuracy"],
        "experiment": result["experiment"],
        "dataset": dataset_from(workdir, config.dataset),
        "data": result["config"]["data"],
        "validation_fraction": config.validation_fraction,
        "images": dataclasses.asdict(config.images),
        "network": config.network,
        "network_options": config.network_options,
        "inner": result["config"]["inner"],
        "objective": config.objective,
        "precision": config.precision,
        "initialisation": {"law": weights.law, "gain": weights.gain, "seed": config.seed, **bank},
        "steps": config.distilled.steps,
        "epochs": config.distilled.epochs,
        "class_names": dataset.class_names,
        "relabel": result["config"].get("relabel", {}),
        "versions": result["versions"],
    }


def _use(inner: Inner) -> str:
    """How to train on the data, in words."""
    step = "gradient descent on images[t % S], labels[t % S] with step_sizes[t]"
    if inner != Inner(window=inner.window, window_start=inner.window_start):
        step = "a step of what 'recipe' says (optimizer, order, augmentation), step_sizes[t] times its direction"
    return (
        f"for t in range(E * S): {step}, mean cross-entropy, from initial_weights or, without them, any weights of the "
        "initialisation (flax layout: kernels [H, W, in, out] and [in, out], NHWC images)"
    )


def recipe_of(config: Config) -> dict[str, Any]:
    """How networks train on the distilled data, as data."""
    inner, distilled = config.inner, config.distilled
    values = {name: float(value) for name, value in optimizer_of(inner).hyper.items()}
    learned = {name: f"hyper/{name}" for name in inner.learned}
    order: dict[str, Any] = {"kind": inner.order}
    if inner.minibatch is not None:
        order = {"kind": "minibatches", "images": inner.minibatch}
    if inner.classes is not None:
        order = {"kind": "class_subsets", "classes": inner.classes}
    kinds = {"kinds": inner.augment.split(","), "strength": inner.augment_strength}
    return {
        "optimizer": {"name": inner.optimizer, "hyper": values | learned},
        "update": "theta -= step_sizes[t] * direction",
        "steps": distilled.steps,
        "epochs": distilled.epochs,
        "order": order,
        "loss": "cross_entropy",
        "reduction": "mean",
        "logits": "one for each class, in the order of class_names, before the softmax",
        "labels": "unconstrained" if distilled.labels == "unconstrained" else "probabilities",
        "augmentation": None if inner.augment == NONE else kinds,
    }


def architecture_of(setting: Setting, dataset: Dataset) -> dict[str, Any]:
    """The network, layer by layer; of a network of someone's own, where it is imported from."""
    options = parse_options(setting.network_options)
    layers = describe_network(setting.network, dataset.image_shape, len(dataset.class_names), options)
    own = {"import_path": setting.network, "options": options}
    return {
        "input": dataset.image_shape,
        "layout": "NHWC; kernels [height, width, in, out] and [in, out]",
        **({"layers": layers} if layers is not None else own),
    }


def preprocessing_of(setting: Setting, dataset: Dataset) -> dict[str, Any]:
    """How real images are brought to the form of the distilled ones, and which of them are for testing."""
    form, test = setting.images, np.asarray(dataset.test.images)
    height, width, channels = dataset.image_shape
    steps = ["pixels / 255", "(pixels - mean) / std, channel by channel"]
    if form.zca is not None:
        steps += ["(flattened - whitening/mean) @ whitening/matrix, flattened as height, width, channels"]
    return {
        "image": {"height": height, "width": width, "channels": channels, "type": "uint8", "range": [0, 255]},
        "resize": None if form.size is None else {"to": form.size, "how": "bicubic, by Pillow, each channel as uint8"},
        "classes": form.classes or None,
        "channels": None if form.channels is None else {"to": form.channels, "how": _CHANNELS[form.channels]},
        "steps": steps,
        "mean_and_std": "of the training images / 255, without those for validation; each channel its own",
        "zca": form.zca,
        "test": {
            "examples": len(test),
            "which": _test_images(setting, dataset),
            "sha256": hashlib.sha256(np.ascontiguousarray(test).data).hexdigest(),
        },
        "train": {"examples": len(dataset.train.labels)},
        "validation": {"examples": len(dataset.validation.labels)},
    }


_CHANNELS = {
    1: "colour becomes its luma, (19595 R + 38470 G + 7471 B + 32768) >> 16, before any resizing",
    3: "grey is repeated, after any resizing",
}


def _test_images(setting: Setting, dataset: Dataset) -> str:
    """Which images accuracy is measured on."""
    own = {"digits": digits.HOW, "usps_28": usps_28.HOW}
    if setting.dataset in own:
        return own[setting.dataset]
    if setting.images.test_split is not None:
        return f"the data set's split {setting.images.test_split}"
    if "test" in dataset.held_out:
        return (
            f"a share of the images, {TEST_FRACTION} of each class: np.sort of the second part of scikit-learn's "
            f"train_test_split(np.arange(N), test_size={TEST_FRACTION}, stratify=labels, random_state=0)"
        )
    return "the data set's split for testing; where it has none, its split for validation"
