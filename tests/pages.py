"""Facts of runs that never were, for tests of their pages."""

import numpy as np

from dd_jax.files.report.facts import Facts, Shown
from dd_jax.files.scored import Scored
from dd_jax.files.snapshots import snapshot


def made_up(classes=10, steps=1, epochs=3, depth=1, size=8, *, moments=3, names=None, networks=1, **fields) -> Facts:
    """The facts of a run of 100 outer steps; ``fields`` go to its result."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps, classes, size, size, depth)).astype(np.float32)
    labels = np.tile(np.eye(classes, dtype=np.float32), (steps, 1, 1))
    names = names or [f"class {c}" for c in range(classes)]
    confusion = np.stack([np.full((classes, classes), 4), np.eye(classes, dtype=int) * 3 * classes + 1])
    accuracy = np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2))
    result = {
        "experiment": "fixed_init",
        "preset": "digits",
        "dataset": "digits",
        "outer_steps": 100,
        "wall_seconds": 12.3,
        "seed": 0,
        "device": "1 × cpu",
        "networks": "known" if networks == 1 else "random",
        "versions": {"dd_jax": "0", "jax": "0"},
        "test_accuracy": {
            when: {"mean": float(a), "std": 0.01 * (networks > 1), "n": networks}
            for when, a in zip(("before", "after"), accuracy, strict=True)
        },
        "reported": None,
        "reported_before": None,
        "config": {"network": "lenet", "dataset": "digits"},
    } | fields
    metrics = [{"step": t, "loss": 2.0 * np.exp(-t / 30) + 0.05 * rng.random()} for t in range(1, 101)]
    metrics += [{"step": t, "validation_accuracy": 1 - 0.9 * np.exp(-t / 25)} for t in range(5, 101, 5)]
    total = steps * epochs
    scored = Scored(
        examples=confusion[0].sum(1),
        networks=np.asarray(networks),
        right=networks * np.diagonal(confusion, axis1=1, axis2=2),
        confusion=networks * confusion if classes <= 200 else np.zeros((2, 0, 0), int),
        steps=np.arange(total + 1),
        accuracy=np.linspace(0.1, 0.97, total + 1),
        spread=np.zeros(total + 1),
        real_images=rng.integers(0, 256, (min(classes, 100), size, size, depth), np.uint8),
        real_classes=np.arange(min(classes, 100)),
    )
    return Facts(
        f"{result['experiment']} · {result['preset']}",
        result,
        Shown(images, labels, rng.uniform(0.1, 0.4, total).astype(np.float32)),
        names,
        metrics,
        [snapshot(t, rng.normal(size=images.shape)) for t in np.linspace(0, 90, moments).astype(int)],
        scored,
        command="python -m experiments.fixed_init digits --outer.steps 100",
        changed=[("outer.steps", "1000", "100")],
    )
