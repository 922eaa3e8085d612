"""Batches made on the host in parallel, the next one while the device is busy with the one before."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dd_jax.data.streamed.crops import cropped_and_flipped
from dd_jax.data.streamed.originals import Originals

Batch = tuple[np.ndarray, np.ndarray]
"""uint8 images ``[B, size, size, 3]`` and int32 labels ``[B]``."""


def batches_ahead(
    originals: Originals,
    index_at: Callable[[int], np.ndarray],
    size: int,
    seed: int,
    *,
    last: int | None = None,
    workers: int | None = None,
) -> Callable[[int], Batch]:
    """Batches of random crops by step, in whatever order they are asked for: ``step -> (images, labels)``.

    Each picture is decoded, cropped and resized by a thread of its own; Pillow does so without Python's lock. What a
    batch is depends on the pictures, the seed, the step and its index alone: a run that is resumed has the same ones.
    When a step's batch is asked for, the making of the next step's begins.

    Args:
      originals: the pictures.
      index_at: which of them each step takes, ``step -> [B]``.
      size: height and width of the crops.
      seed: draws the crops.
      last: the last step, after which none is made ahead; if given.
      workers: threads; as many as there are cores if not given.
    """
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), thread_name_prefix="pictures")
    begun: dict[int, tuple[Batch, list[Future]]] = {}

    def crop(images: np.ndarray, step: int, place: int, number: int) -> None:
        rng = np.random.default_rng([seed, step, place])
        images[place] = cropped_and_flipped(rng, originals.picture(number), size)

    def begin(step: int) -> None:
        if step not in begun and (last is None or step <= last):
            index = index_at(step)
            images = np.empty((len(index), size, size, 3), np.uint8)
            crops = [pool.submit(crop, images, step, place, int(number)) for place, number in enumerate(index)]
            begun[step] = ((images, originals.labels[index]), crops)

    def batch_at(step: int) -> Batch:
        for other in [other for other in begun if other not in (step, step + 1)]:
            for crop in begun.pop(other)[1]:
                crop.cancel()
        begin(step)
        begin(step + 1)
        batch, crops = begun[step]  # kept until another step is asked for
        for crop in crops:
            crop.result()
        return batch

    return batch_at


def drawn_index(examples: int, count: int, seed: int) -> Callable[[int], np.ndarray]:
    """Which examples a step takes, drawn with replacement: ``step -> [B]``."""

    def index_at(step: int) -> np.ndarray:
        return np.random.default_rng([seed, step]).integers(0, examples, count)

    return index_at
