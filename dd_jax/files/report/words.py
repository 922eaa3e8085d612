"""What a page says in sentences."""

import math
from collections.abc import Mapping

import numpy as np

from dd_jax.files.report.facts import Facts
from dd_jax.files.text import percent


def result_sentence(facts: Facts) -> str:
    """The result in one sentence: data, networks, images, steps, accuracy and chance level."""
    _, count, total = facts.sizes
    images, test = facts.distilled.images.shape[0] * count, facts.result["test_accuracy"]
    networks, network = test["after"]["n"], _network(facts)
    who = f"a known {network}" if networks == 1 else f"{networks} known networks ({network})"
    if not facts.known:
        who = f"{networks:,} networks ({network}) that were never seen before"
        who = who if networks > 1 else f"one network ({network}) that was never seen before"
    dataset, classes = facts.result.get("dataset", "the data"), len(facts.class_names)
    return (
        f"{total:,} gradient {_plural(total, 'step')} on {images:,} distilled {_plural(images, 'image')} of {dataset} "
        f"take {who} from {_accuracy(test['before'])} to {_accuracy(test['after'])} "
        f"accuracy on {_test_set(facts)}; guessing among {classes:,} classes gives {100 / classes:.3g} %."
    )


def uncertainty_sentence(facts: Facts) -> str:
    """What the number of test images means for the last digit; empty where it is not known."""
    if facts.scored is None:
        return ""
    count, score = int(facts.scored.examples.sum()), facts.result["test_accuracy"]["after"]
    points = 100 * standard_error(score["mean"], count)
    said = (
        f"One test image of {count:,} is {_short(100 / count)} points. So many images leave a standard error of "
        f"{_short(points)} points (binomial), so a difference of less than about {_short(2 * points)} points from "
        "another result on other test images may be chance."
    )
    if score["n"] > 1:
        said += f" What follows ± is the standard deviation over {score['n']:,} networks, which share the test images."
    most = facts.scored.examples.max() / max(1, count)
    if most > 1.5 / len(facts.class_names):
        said += f" The classes differ in size: always naming the largest one gives {100 * most:.3g} %."
    return said


def standard_error(accuracy: float, count: int) -> float:
    """The binomial standard error of an accuracy on ``count`` examples, at least that of one error.

    >>> round(standard_error(0.95, 100), 4)
    0.0218
    """
    share = min(max(accuracy, 1 / count), 1 - 1 / count) if count > 1 else 0.5
    return math.sqrt(share * (1 - share) / count)


def greys_sentences(facts: Facts, reach: float) -> str:
    """What the greys of the images mean, and why they look as they do."""
    depth = facts.distilled.images.shape[-1]
    grey, ends = ("grey", "black and white") if depth == 1 else ("grey in each colour", "the darkest and brightest")
    said = (
        f"The pixels are numbers without bounds, so their greys are relative: mid-{grey} is zero, which is the mean of "
        f"real images, and {ends} lie two standard deviations of the pixels shown away from it, ±{reach:.3g} here, in "
        "units of the standard deviation of real pixels. "
    )
    if facts.known:
        return said + (
            "The images look like noise because they were made for known initial weights. They only have to push these "
            "very numbers the right way, and nothing makes them look like their class."
        )
    return said + (
        "They were made for random networks, and can use only what all of these have in common. So they keep more of "
        "the look of their class than images made for one known network, which look like noise."
    )


def moment_words(facts: Facts) -> list[str]:
    """What is said of each snapshot."""
    steps, accuracy = facts.series("validation_accuracy")
    total, said = facts.result["outer_steps"], []
    for moment in facts.snapshots:
        words = f"outer step {moment.step:,} of {total:,}" if moment.step else "before training"
        before = np.flatnonzero(steps == moment.step)
        if before.size:
            words += f" · validation accuracy {100 * accuracy[before[-1]]:.1f} %"
        said.append(f"{words} · black and white at ±{moment.reach:.2g}")
    return said


def _accuracy(score: Mapping[str, float]) -> str:
    """Mean and spread, where the number of networks is told beside it."""
    return percent(score, known=True).partition(" (n = ")[0]


def _network(facts: Facts) -> str:
    config = facts.result.get("config", {})
    return " ".join([str(config.get("network", "network")), *config.get("network_options", ())])


def _test_set(facts: Facts) -> str:
    return "the test images" if facts.scored is None else f"{int(facts.scored.examples.sum()):,} test images"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _short(points: float) -> str:
    return f"{points:.2g}"
