"""The picture of the distilled images, whatever their number."""

import jax
import numpy as np
import pytest

from dd_jax.report import draw_images
from dd_jax.unroll import noise


@pytest.mark.parametrize(("steps", "per_class"), [(1, 1), (3, 1), (1, 9), (2, 10)])
def test_every_image_is_drawn_in_order_and_the_page_stays_narrow(steps, per_class):
    distilled = noise(jax.random.key(0), (4, 4, 1), 7, steps=steps, epochs=1, images_per_class=per_class)
    figure = draw_images(distilled, "abcdefg")
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == steps * 7 * per_class
    assert figure.get_figwidth() <= 20
    shown = np.stack([axis.images[0].get_array() for axis in drawn]).reshape(distilled.images.shape[:-1])
    spread = 4 * float(distilled.images.std())
    np.testing.assert_allclose(shown, np.clip(0.5 + distilled.images[..., 0] / spread, 0, 1), atol=1e-6)
    titles = [axis.get_title() for axis in drawn[: 7 * per_class]]
    assert titles == sorted("abcdefg" * per_class)
    assert [axis.get_ylabel().split()[1] for axis in figure.axes if axis.get_ylabel()] == [str(s) for s in range(steps)]
    assert not any(axis.axison for axis in figure.axes if not axis.images)


def test_the_step_sizes_of_many_epochs_are_told_on_several_lines():
    distilled = noise(jax.random.key(0), (4, 4, 1), 7, steps=1, epochs=15, step_size=0.0123)
    label = draw_images(distilled, "abcdefg").axes[0].get_ylabel()
    assert label.count("0.0123") == 15
    assert max(map(len, label.splitlines())) <= 40
