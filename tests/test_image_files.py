"""Pictures of every kind, as they are read and refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sources import COLOUR, FLOATS, IMAGES, WITH_NAN, write_classes

from dd_jax.data.pictures import read_picture, shown
from dd_jax.data.readers import read


def picture(tmp_path, image, name="one.png", **options):
    image.save(tmp_path / name, **options)
    return read_picture(tmp_path / name)


GREY16 = np.array([[0, 1, 128, 129, 257], [32767, 32768, 65000, 65407, 65535]], np.uint16)
AS_8_BITS = np.round(GREY16 / 257).astype(np.uint8)[..., None]


@pytest.mark.parametrize("name", ["one.png", "one.tif", "one.pgm"])
def test_grey_of_16_bits_is_scaled(tmp_path, name):
    np.testing.assert_array_equal(picture(tmp_path, Image.fromarray(GREY16), name), AS_8_BITS)


def test_tiffs_say_how_many_bits_they_have_and_which_level_is_white(tmp_path):
    inverted = picture(tmp_path, Image.fromarray(GREY16), "one.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(inverted, 255 - AS_8_BITS)
    big_endian = Image.new("I;16B", (5, 2))
    big_endian.frombytes(GREY16.astype(">u2").tobytes())
    np.testing.assert_array_equal(picture(tmp_path, big_endian, "one.tif"), AS_8_BITS)
    packed = bytes([0x00, 0x0F, 0xFF])  # 12 bits each: 0x000 and 0xFFF
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 12 * 8 + 4), (277, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + packed
    (tmp_path / "one.tif").write_bytes(content)
    np.testing.assert_array_equal(read_picture(tmp_path / "one.tif"), [[[0], [255]]])


def test_floats_are_in_0_to_1_and_integers_of_32_bits_are_refused(tmp_path):
    np.testing.assert_array_equal(picture(tmp_path, Image.fromarray(FLOATS[0]), "one.tif"), IMAGES[0][..., None])
    for levels, message in (
        (FLOATS[0] * 255, r"levels are from \S+ to 2\d\d\S+; floats must be in \[0, 1\]"),
        (WITH_NAN[3], "levels are from nan to nan"),
        (IMAGES[0].astype(np.int32), "integers of 32 bits or signed"),
    ):
        with pytest.raises(ValueError, match=rf"one.tif cannot be read as an image .*{message}.*save it anew"):
            picture(tmp_path, Image.fromarray(levels), "one.tif")


RED, HALF, CLEAR = (200, 0, 0, 255), (0, 0, 100, 51), (10, 20, 30, 0)
ON_WHITE = [[[200, 0, 0], [204, 204, 224], [255, 255, 255]]]


def test_white_shows_through_where_a_picture_is_transparent(tmp_path):
    image = Image.new("RGBA", (3, 1))
    image.putdata([RED, HALF, CLEAR])
    for name, options in (("one.png", {}), ("one.tif", {}), ("one.webp", {"lossless": True, "exact": True})):
        np.testing.assert_array_equal(picture(tmp_path, image, name, **options), ON_WHITE)
    np.testing.assert_array_equal(shown(image.convert("RGBa"))[0, 0], RED[:3])
    palette = Image.new("P", (3, 1))
    palette.putpalette([200, 0, 0, 0, 0, 100, 10, 20, 30])
    palette.putdata([0, 1, 2])
    shades = picture(tmp_path, palette, transparency=bytes([255, 51, 0]))
    np.testing.assert_array_equal(shades, ON_WHITE)
    for name in ("one.png", "one.gif"):
        np.testing.assert_array_equal(
            picture(tmp_path, palette, name, transparency=2), [[[200, 0, 0], [0, 0, 100], [255, 255, 255]]]
        )
    pa = Image.new("PA", (3, 1))
    pa.putpalette([200, 0, 0, 0, 0, 100, 10, 20, 30])
    pa.putdata([(0, 255), (1, 51), (2, 0)])
    np.testing.assert_array_equal(shown(pa), ON_WHITE)
    colour = picture(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    np.testing.assert_array_equal(colour, [[[255, 255, 255]]])


def test_grey_with_transparency_stays_grey(tmp_path):
    image = Image.new("LA", (3, 1))
    image.putdata([(9, 255), (100, 51), (0, 0)])
    np.testing.assert_array_equal(picture(tmp_path, image), [[[9], [224], [255]]])
    np.testing.assert_array_equal(shown(image.convert("La"))[0, 0], [9])
    for levels, level in ((IMAGES[0], int(IMAGES[0, 0, 0])), (np.eye(2) > 0, 255)):
        seen = picture(tmp_path, Image.fromarray(levels), transparency=level)
        levels = levels.astype(np.uint8) * (255 if levels.dtype == bool else 1)
        np.testing.assert_array_equal(seen[..., 0], np.where(levels == level, 255, levels))


def png(width, bits, kind, row, transparent=b""):
    """A PNG of one row, of kinds and bits that Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + bytes(row))), (b"IEND", b"")]
    parts[1:1] = [(b"tRNS", transparent)] if transparent else []
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_pngs_of_other_than_8_bits_are_read_right_or_refused(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(png(2, 16, 4, [90, 0, 255, 255, 90, 0, 0, 0]))  # grey with transparency
    np.testing.assert_array_equal(read_picture(path), [[[90], [255]]])
    path.write_bytes(png(2, 16, 2, [1, 0, 2, 0, 3, 0, 255, 255, 0, 0, 9, 0]))
    np.testing.assert_array_equal(read_picture(path), [[[1, 2, 3], [255, 0, 9]]])
    path.write_bytes(png(2, 4, 0, [0x0F]))
    np.testing.assert_array_equal(read_picture(path), [[[0], [255]]])
    for bits, kind, row, level in (
        (4, 0, [0x0F], b"\0\x0f"),
        (16, 0, [0, 0, 255, 255], b"\xff\xff"),
        (16, 2, bytes(12), bytes(6)),
    ):
        path.write_bytes(png(2, bits, kind, row, level))
        with pytest.raises(ValueError, match=r"one.png cannot be read .*levels is transparent"):
            read_picture(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P", "RGBA", "1", "L"])
def test_other_modes_look_as_pillow_shows_them(mode):
    image = Image.fromarray(COLOUR)
    if mode == "LAB":
        image = Image.fromarray(COLOUR, "RGB").convert("LAB")
    elif mode != "RGB":
        image = image.convert(mode)
    grey = mode in ("1", "L")
    expected = np.atleast_3d(np.asarray(image.convert("L" if grey else "RGB")))
    np.testing.assert_array_equal(shown(image), expected)
    assert expected.shape == (6, 7, 1 if grey else 3)


@pytest.mark.parametrize("name", ["one.jpg", "one.png", "one.tif", "one.webp"])
def test_pictures_are_upright(tmp_path, name):
    wide = np.zeros((16, 32), np.uint8)
    wide[:, 16:] = 255
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise by a quarter
    seen = picture(tmp_path, Image.fromarray(wide), name, exif=exif)
    assert seen.shape[:2] == (32, 16)
    assert seen[:14].max() < 50
    assert seen[18:].min() > 200
    deep = picture(tmp_path, Image.fromarray(GREY16), exif=exif)
    np.testing.assert_array_equal(deep, np.rot90(AS_8_BITS, -1))


@pytest.mark.parametrize("name", ["one.gif", "one.tif", "one.webp", "one.png"])
def test_of_several_frames_the_first_is_read(tmp_path, name):
    frames = [Image.new("L", (4, 4), level) for level in (0, 200, 255)]
    seen = picture(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(seen, 0)


def test_damaged_and_enormous_pictures_are_refused_by_name(tmp_path, monkeypatch):
    write_classes(tmp_path)
    path = tmp_path / "dog" / "01.png"
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[:-30], whole[:20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"dog/01.png cannot be read as an image \([^\n]*$"):
            read(str(tmp_path))
    path.unlink()
    path.symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"dog/01.png cannot be read as an image \(FileNotFoundError"):
        read(str(tmp_path))
    path.unlink()
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(ValueError, match=r"cat/00.png cannot be read as an image \(DecompressionBombError[^\n]*$"):
        read(str(tmp_path))
