"""Images from files: what is read, and what is refused with one sentence."""

import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from experiments.images import central_crop, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def write(tmp_path):
    def write(image, name="image.png", **options):
        path = tmp_path / name
        Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else path.write_bytes(image)
        return path

    return write


def png(width, height):
    """Returns a PNG whose header gives these sizes and whose data are those of no image."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_colours_are_read_as_they_are(write):
    assert_array_equal(read_image(write(PIXELS)), PIXELS)


def test_grey_is_repeated(write):
    grey = PIXELS[..., 0]
    assert_array_equal(read_image(write(grey)), np.repeat(grey[..., None], 3, axis=-1))


def test_transparency_is_dropped(write):
    assert_array_equal(read_image(write(np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1))), PIXELS)


def test_a_palette_and_an_animation_are_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 5, 3), value, np.uint8)) for value in (40, 200)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert_array_equal(read_image(tmp_path / "two.gif"), np.full((4, 5, 3), 40, np.uint8))


def test_an_image_on_its_side_is_put_upright(write):
    turned = Image.Exif()
    turned[0x0112] = 6  # The camera was turned: the first row of the file is the right side of the scene.
    assert_array_equal(read_image(write(PIXELS, exif=turned)), np.rot90(PIXELS, -1))


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" + bytes(100)])
def test_what_is_no_image_is_refused(write, content):
    refused(write(content), "is not an image|is damaged or cut short")


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.gif", "image.bmp", "image.tif"])
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_truncated_image_is_refused(write, name, share):
    path = write(PIXELS, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "is damaged or cut short|is not an image")


def test_an_image_without_its_data_is_refused(write):
    refused(write(png(30, 20)), "is damaged or cut short")


def test_a_side_of_40_000_pixels_is_refused(write):
    refused(write(png(40_000, 10)), "at most 16,384 pixels along each side, it has 40,000 x 10")


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_too_many_pixels_are_refused_before_they_are_decoded(write, side):
    refused(write(png(side, side)), f"at most 89,478,485 pixels in all: .*{side**2}")


def test_more_than_8_bits_are_refused(write):
    refused(write(PIXELS[..., 0].astype(np.uint16) * 200), "must have 8 bits a channel")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("transposed", [False, True])
def test_the_crop_is_the_middle(transposed):
    image = np.random.default_rng(1).integers(0, 256, (256, 301, 3), np.uint8)
    wanted = image[16:240, 38:262]
    if transposed:
        image, wanted = image.swapaxes(0, 1), wanted.swapaxes(0, 1)
    assert_array_equal(central_crop(image), wanted)


def test_the_crop_is_resized():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    rows = central_crop(ramp, 8, share=0.5)[:, 0, 0].astype(float)
    wanted = 64 + 16 * np.arange(8) + 7.5
    assert np.abs(rows[1:-1] - wanted[1:-1]).max() <= 0.5  # Bicubic: exact on a ramp, away from the border.


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 2)])
def test_the_smallest_images_have_a_crop(shape):
    assert central_crop(np.full((*shape, 3), 9, np.uint8), 4).tolist() == [[[9] * 3] * 4] * 4
