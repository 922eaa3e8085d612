"""The README's Python examples run, and do what they say."""

import re
from pathlib import Path

import jax
import numpy as np


def test_the_examples_train_a_classifier_on_ten_images_and_take_an_objective():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict = {}
    exec(first, names)
    assert names["distilled"].images.shape == (1, 10, 8, 8, 1)
    assert names["accuracy"] > 0.8
    batch = names["images"], names["labels"]
    start = names["outer"].init(names["state"].params)
    _, plain = names["outer"].update(jax.random.key(0), start, names["theta"], batch)
    exec(second, names)
    _, info = names["outer"].update(jax.random.key(0), start, names["theta"], batch)
    zeros = np.asarray(batch[1][:, 0], bool)
    trained = names["trained"]
    share = names["loss"](trained, batch[0][zeros], batch[1][zeros]).mean() * zeros.mean()
    np.testing.assert_allclose(info.loss, plain.loss + share, rtol=1e-4)
