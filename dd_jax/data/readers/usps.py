"""USPS, digits of American zip codes, as a TFDS set: TFDS has none. Importing this module registers it.

The source is LIBSVM's copy, https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps (Hull 1994).
"""

import bz2

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

_FOLDER = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass"
URLS = {"train": f"{_FOLDER}/usps.bz2", "test": f"{_FOLDER}/usps.t.bz2"}
_LABELS = [str(digit + 1) for digit in range(10)]  # label 1 is the digit 0, label 10 the digit 9
_INDICES = [str(pixel + 1) for pixel in range(16 * 16)]


def parse_line(line: str) -> tuple[np.ndarray, int]:
    """Parses LIBSVM's ``label 1:value … 256:value`` into an image ``[16, 16]`` of uint8 and its digit.

    >>> image, digit = parse_line("7 1:-1 2:1" + "".join(f" {i}:0.5" for i in range(3, 257)))
    >>> digit, image[0, :3]
    (6, array([  0, 255, 191], dtype=uint8))

    Raises:
      ValueError: a label other than 1 to 10, features other than 1 to 256 in order, a value outside [-1, 1].
    """
    label, _, rest = line.strip().partition(" ")
    indices, _, texts = zip(*(feature.partition(":") for feature in rest.split() or [""]), strict=True)
    if label not in _LABELS:
        raise ValueError(f"the label is {label[:20]!r}; accepted are 1 to 10")
    if list(indices) != _INDICES:
        raise ValueError(f"the features are not 1 to 256 in order: {len(indices)} from {indices[0]} to {indices[-1]}")
    try:
        values = np.array(texts, float)
    except ValueError as error:
        raise ValueError(f"a value is no number ({error})") from error
    outside = values[~(np.abs(values) <= 1)]  # NaN too
    if outside.size:
        raise ValueError(f"a value is {outside[0]}; accepted are -1 to 1")
    return np.round((values + 1) * 127.5).astype(np.uint8).reshape(16, 16), _LABELS.index(label)


class Usps(tfds.core.GeneratorBasedBuilder):
    """7,291 images for training and 2,007 for testing. Prepared to array_record without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="USPS handwritten digits (Hull 1994), 16x16 grey, 7291 train / 2007 test.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(16, 16, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            homepage=f"{_FOLDER}.html#usps",
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(dl_manager.download(url)) for split, url in URLS.items()}

    def _generate_examples(self, path):
        for i, line in enumerate(bz2.decompress(path.read_bytes()).decode("ascii").splitlines()):
            try:
                image, digit = parse_line(line)
            except ValueError as error:
                raise ValueError(f"line {i + 1} of {path.name}: {error}") from error
            yield i, {"image": Image.fromarray(image), "label": digit}
