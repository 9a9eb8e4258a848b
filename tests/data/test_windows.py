"""Windows of images: their distribution, and their pixels against a full decode with Pillow."""

import io

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from jaxconv.data import CenterCrop, DataError, RandomResizedCrop
from jaxconv.data.images import decode_image
from jaxconv.data.loader import uniform
from jaxconv.data.windows import ArrayImage, JpegImage, Window, image_window, lazy_image
from jaxconv.errors import ArgumentError, ShapeError
from tests.data.photos import jpeg, photo


def expected(pixels, window, size, method=Image.Resampling.BILINEAR):
    top, left, height, width, flip = window
    part = Image.fromarray(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
    part = np.asarray(part.resize((size, size), method))
    return part[:, ::-1] if flip else part


def test_random_windows_have_the_areas_and_ratios_asked_for():
    crop = RandomResizedCrop(224)
    windows = [crop.window(375, 500, uniform(0, i)) for i in range(4000)]
    area = np.array([w.height * w.width / (375 * 500) for w in windows])
    ratio = np.array([w.width / w.height for w in windows])
    assert 0.079 < area.min() < 0.09
    assert area.max() > 0.95
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.345
    assert abs(np.mean([w.flip for w in windows]) - 0.5) < 0.03
    assert all(w.top >= 0 and w.top + w.height <= 375 and w.left >= 0 and w.left + w.width <= 500 for w in windows)
    small = [w for w in windows if w.height < 150]
    # All positions are equally likely: the mean is half of the room.
    assert_allclose(np.mean([w.top / (375 - w.height) for w in small]), 0.5, atol=0.03)


def test_random_windows_have_the_distribution_of_torchvision():
    def reference(height, width, rng):
        for _ in range(10):
            area = height * width * rng.uniform(0.08, 1)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if w <= width and h <= height:
                return h, w
        return None

    rng = np.random.default_rng(0)
    theirs = np.array([r for _ in range(10_000) if (r := reference(375, 500, rng))])
    ours = np.array([RandomResizedCrop(8).window(375, 500, uniform(1, i))[2:4] for i in range(10_000)])
    assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.02)
    assert_allclose(ours.std(0), theirs.std(0), rtol=0.04)


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10)])
def test_an_image_that_no_window_fits_gives_its_center(height, width):
    window = RandomResizedCrop(8, scale=(1.0, 1.0), flip=False).window(height, width, uniform(0))
    long, short = max(window.height, window.width), min(window.height, window.width)
    assert (short, long) == (10, 13)
    assert (window.top, window.left) == ((height - window.height) // 2, (width - window.width) // 2)


def test_center_crop():
    assert CenterCrop(224).window(256, 400) == Window(16, 88, 224, 224)
    assert CenterCrop(8, fraction=1.0).window(5, 3) == Window(1, 0, 3, 3)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_pixels_are_those_of_pillow(method):
    pixels = photo(1, 100, 140)
    content = jpeg(pixels)
    crop = RandomResizedCrop(48, method=method)
    for i in range(8):
        window = crop.window(100, 140, uniform(0, i))
        got = image_window(content, "x.jpg", crop, uniform(0, i))
        pillow = expected(decode_image(content, "x"), window, 48, Image.Resampling[method.upper()])
        assert_allclose(got.astype(int), pillow, atol=2)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_scaled_decoding_is_close_to_full_decoding(factor):
    # The window has `factor` times the pixels that are needed, of an image whose sides are not multiples of it.
    pixels = photo(2, 8 * 60 + 5, 8 * 70 + 3, period=50 * factor)
    content = jpeg(pixels)
    window = Window(13, 21, 448, 448, True)
    size = 448 // factor
    got = lazy_image(content, "x.jpg").window(window, (size, size))
    difference = np.abs(got.astype(int) - expected(pixels, window, size))
    assert difference.mean() < 1.5
    assert difference.max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(photo(3, 40, 56), exif=exif)
    image = lazy_image(content, "x.jpg")
    assert isinstance(image, JpegImage)
    upright = decode_image(content, "x.jpg")
    assert (image.height, image.width) == upright.shape[:2] == ((56, 40) if orientation > 4 else (40, 56))
    assert_array_equal(image.whole(), upright)
    scaled = image.window(Window(0, 0, image.height, image.width), (20, 20))
    difference = np.abs(scaled.astype(int) - expected(upright, Window(0, 0, *upright.shape[:2]), 20))
    assert difference.mean() < 2


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def forms():
    pixels = photo(4)
    image = Image.fromarray(pixels)
    gray = image.convert("L")
    alpha = Image.merge("LA", (gray, Image.new("L", gray.size, 77)))
    wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + 5)
    moving = encoded(gray, "GIF", save_all=True, append_images=[Image.new("L", gray.size, 9)])
    return {
        "cmyk.jpg": (encoded(image.convert("CMYK"), "JPEG", quality=95, subsampling=0), pixels, 8),
        "gray.jpg": (encoded(gray, "JPEG", quality=95), np.asarray(gray), 3),
        "progressive.jpg": (encoded(image, "JPEG", quality=95, progressive=True, subsampling=0), pixels, 8),
        "alpha.png": (encoded(alpha, "PNG"), np.asarray(gray), 0),
        "sixteen.png": (encoded(wide, "PNG"), pixels[..., 0], 0),
        "palette.png": (encoded(image.quantize(64), "PNG"), np.asarray(image.quantize(64).convert("RGB")), 0),
        "moving.gif": (moving, np.asarray(gray), 4),
        "lossless.webp": (encoded(image, "WEBP", lossless=True), pixels, 0),
    }


@pytest.mark.parametrize("name", forms())
def test_the_forms_that_images_come_in(name):
    content, pixels, tolerance = forms()[name]
    whole = image_window(content, name, None, uniform(0))
    pixels = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels
    assert whole.dtype == np.uint8
    assert_allclose(whole.astype(int), pixels.astype(int), atol=tolerance)
    # The window is not twice the result, for which a JPEG would be decoded at half its size.
    crop = RandomResizedCrop(40)
    got = image_window(content, name, crop, uniform(5))
    assert_allclose(got.astype(int), expected(whole, crop.window(60, 80, uniform(5)), 40), atol=1)


def test_data_that_libjpeg_warns_of_are_decoded_as_pillow_does():
    content = jpeg(photo(5))
    extra = content[:-2] + b"\x01\x02\x03" + content[-2:]
    assert_array_equal(image_window(extra, "x.jpg", None, uniform(0)), decode_image(content, "x.jpg"))


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: c[:100], lambda c: b"", lambda c: b"hello"])
def test_a_broken_image_is_named(damage):
    with pytest.raises(DataError, match=r"photos/7\.jpg"):
        image_window(damage(jpeg(photo(6))), "photos/7.jpg", CenterCrop(8), uniform(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(0), "size must be at least 1, got 0"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.1)), "scale must be two increasing fractions"),
        (lambda: RandomResizedCrop(8, ratio=(2, 1)), "ratio must be two increasing positive numbers"),
        (lambda: CenterCrop(8, fraction=1.5), "fraction must be more than 0 and at most 1, got 1.5"),
        (lambda: CenterCrop(8, method="lanczos"), "method must be one of bilinear, bicubic, got 'lanczos'"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    "pixels", [np.ones((8, 8, 3), np.float32), np.ones((8, 8), np.uint8), np.ones((8, 8, 1), np.uint8)]
)
def test_pixels_that_are_no_image_are_refused(pixels):
    with pytest.raises(ShapeError, match=rf"must be \(height, width, 3\) uint8 .*, got {pixels.dtype} \(8, 8"):
        ArrayImage(pixels)
