"""The README's Python example runs, and does what its comment says."""

import re
from pathlib import Path


def test_the_example_trains_a_classifier_on_ten_images():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict = {}
    exec(example, names)
    assert names["state"].distilled.images.shape == (1, 10, 8, 8, 1)
    assert names["accuracy"] > 0.8
