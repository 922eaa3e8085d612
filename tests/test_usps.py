"""USPS from LIBSVM's format to arrays: parsed, downloaded from a server here, prepared and read without TensorFlow."""

import bz2
import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from dd_jax.data.readers import RawData, read, tfds, usps, usps_28
from dd_jax.data.readers.usps_28 import TRAIN_FRACTION, framed, with_margin

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 16, 16), dtype=np.uint8)
IMAGES[0] = np.arange(256).reshape(16, 16)  # every level
DIGITS = np.arange(30) * 7 % 10


def libsvm(images, digits):
    """One line for each image: the digit 0 is label 1, black is −1 and white is 1."""
    rows = (" ".join(f"{i}:{v:.6g}" for i, v in enumerate(image.ravel() / 127.5 - 1, 1)) for image in images)
    return "".join(f"{digit + 1} {row} \n" for digit, row in zip(digits, rows, strict=True))


LINE = libsvm(IMAGES[:1], [3])


def test_a_line_is_an_image_and_its_digit():
    for digit in range(10):
        image, label = usps.parse_line(libsvm(IMAGES[:1], [digit]))
        assert label == digit
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, IMAGES[0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the label is ''; accepted are 1 to 10"),
        ("4", "the features are not 1 to 256 in order: 1 from  to "),
        ("0" + LINE[1:], "the label is '0'"),
        ("11" + LINE[1:], "the label is '11'"),
        ("4.5" + LINE[1:], "the label is '4.5'"),
        (LINE.rpartition(" 256:")[0], "the features are not 1 to 256 in order: 255 from 1 to 255"),
        (LINE.replace(" 9:", " 10:"), "the features are not 1 to 256 in order"),
        (LINE.replace(" 9:", " 9;"), "the features are not 1 to 256 in order"),
        (LINE + "257:0", "the features are not 1 to 256 in order: 257 from 1 to 257"),
        (LINE.replace(" 1:-1 ", " 1:dark "), "a value is no number .*dark"),
        (LINE.replace(" 1:-1 ", " 1: "), "a value is no number"),
        (LINE.replace(" 1:-1 ", " 1:-1.01 "), r"a value is -1\.01; accepted are -1 to 1"),
        (LINE.replace(" 1:-1 ", " 1:nan "), "a value is nan; accepted are -1 to 1"),
    ],
)
def test_malformed_lines_are_refused(line, message):
    with pytest.raises(ValueError, match=message):
        usps.parse_line(line)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder served in place of LIBSVM's, and an empty TFDS folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    urls = {split: f"{address}/{url.rpartition('/')[2]}" for split, url in usps.URLS.items()}
    monkeypatch.setattr(usps, "URLS", urls)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: None)  # no TensorFlow, even where it is
    yield folder
    server.shutdown()
    server.server_close()


def test_usps_is_downloaded_prepared_and_read_by_name(source, tmp_path):
    (source / "usps.bz2").write_bytes(bz2.compress(libsvm(IMAGES[:20], DIGITS[:20]).encode()))
    (source / "usps.t.bz2").write_bytes(bz2.compress(libsvm(IMAGES[20:], DIGITS[20:]).encode()))
    raw = read("usps")
    assert raw.test_images is not None
    assert raw.test_labels is not None
    order = [int(np.flatnonzero((image[..., 0] == IMAGES).all((1, 2)))[0]) for image in raw.images]
    test_order = [int(np.flatnonzero((image[..., 0] == IMAGES).all((1, 2)))[0]) for image in raw.test_images]
    assert sorted(order) == list(range(20))
    assert sorted(test_order) == list(range(20, 30))
    np.testing.assert_array_equal(raw.labels, DIGITS[order])
    np.testing.assert_array_equal(raw.test_labels, DIGITS[test_order])
    assert raw.class_names == tuple("0123456789")
    features = json.loads((tmp_path / "tfds/usps/1.0.0/features.json").read_text())["featuresDict"]["features"]
    assert features["image"]["image"] == {"dtype": "uint8", "shape": {"dimensions": ["16", "16", "1"]}}
    assert features["label"]["classLabel"] == {"numClasses": "10"}
    for path in source.iterdir():
        path.unlink()
    np.testing.assert_array_equal(read("usps").images, raw.images)  # prepared once, not downloaded again


def test_digits_are_brought_to_mnist_s_size_with_a_margin():
    bright = np.full((2, 16, 16, 1), 200, np.uint8)
    bright[1, 8:] = 0
    images = framed(bright)
    assert (images.shape, images.dtype) == ((2, 28, 28, 1), np.uint8)
    inside = np.argwhere(images[0][..., 0])
    assert (inside.min(0).tolist(), inside.max(0).tolist(), len(inside)) == ([4, 4], [23, 23], 400)
    np.testing.assert_array_equal(np.flatnonzero(images[1, :, 14, 0] > 100), range(4, 14))  # half of it, from the top


def test_all_images_of_usps_are_split_anew_in_the_same_way():
    every = np.random.default_rng(1).integers(0, 256, (50, 16, 16, 1), dtype=np.uint8)
    labels = np.arange(50, dtype=np.int32) % 10
    raw = RawData(every[:35], labels[:35], every[35:], labels[35:], tuple("0123456789"))
    split = with_margin(raw)
    assert [len(part) for part in (split.images, split.labels, split.test_images, split.test_labels)] == [
        40,
        40,
        10,
        10,
    ]
    numbers = {image.tobytes(): i for i, image in enumerate(framed(every))}
    order = [numbers[image.tobytes()] for image in np.concatenate([split.images, split.test_images])]
    assert sorted(order) == list(range(50))
    assert 0 < sum(i >= 35 for i in order[:40]) < 15  # of both former parts
    np.testing.assert_array_equal(np.concatenate([split.labels, split.test_labels]), labels[order])
    np.testing.assert_array_equal(with_margin(raw).images, split.images)
    assert int(TRAIN_FRACTION * 9298) == 7438


def test_usps_28_is_read_by_name(monkeypatch):
    asked = []
    raw = RawData(IMAGES[:20, ..., None], DIGITS[:20], IMAGES[20:, ..., None], DIGITS[20:], tuple("0123456789"))
    monkeypatch.setattr(usps_28, "read_tfds", lambda name: asked.append(name) or raw)
    assert read("usps_28").images.shape == (24, 28, 28, 1)
    assert read("usps_28", 32, 3).images.shape == (24, 32, 32, 3)
    assert asked == ["usps", "usps"]


def test_reading_registers_usps_by_itself():
    code = """
import tensorflow_datasets as tfds
from dd_jax.data.readers import read
tfds.builder = lambda name, **_: exit(tfds.builder_cls(name).__module__)
read("usps")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "dd_jax.data.readers.usps"


def test_a_source_that_cannot_be_used_is_refused_and_leaves_nothing_prepared(source, tmp_path):
    with pytest.raises(ValueError, match=r"'usps' cannot be prepared .*404.* by reading it where"):
        read("usps")
    lines = libsvm(IMAGES[:20], DIGITS[:20])
    (source / "usps.t.bz2").write_bytes(bz2.compress(lines.encode()))
    for content, message in (
        (bz2.compress(lines[:-50].encode()), "ValueError: line 20 of .*usps.*: the features are not 1 to 256 in order"),
        (bz2.compress(lines.encode())[:-50], "ValueError: Compressed data ended"),
        (lines.encode(), "OSError"),
    ):
        (source / "usps.bz2").write_bytes(content)
        shutil.rmtree(tmp_path / "tfds/downloads")  # where TFDS keeps what it downloaded
        with pytest.raises(ValueError, match=rf"'usps' cannot be prepared \({message}"):
            read("usps")
        assert not (tmp_path / "tfds/usps/1.0.0").exists()
