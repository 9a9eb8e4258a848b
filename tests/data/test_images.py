"""Images from files: what is read, and what is refused with one sentence."""

import io
import itertools
import os
import struct
import sys
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from jaxconv.data import DataError, read_image
from jaxconv.data.images import images_by_class

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
SMOOTH = (np.add.outer(np.arange(20) * 5, np.arange(30) * 3)[..., None] + [0, 20, 40]).astype(np.uint8)
# Each value that tells `value >> 8` from `value // 257` and from the nearest of 255 levels.
WORDS = np.array([0, 1, 255, 256, 257, 511, 512, 32767, 32768, 40000, 65279, 65280, 65534, 65535], np.uint16)
FORMATS = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")


@pytest.fixture
def write(tmp_path):
    def write(image, name="image.png", **options):
        path = tmp_path / name
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image.save(path, **options) if isinstance(image, Image.Image) else path.write_bytes(image)
        return path

    return write


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, *, bits=8, color=2, rows=b"", extra=b""):
    """Returns a PNG with this header, these rows, a filter's number before each, and other chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png16(pixels, color):
    """Returns a PNG of 16 bits a channel, of shape ``(height, width, channels)``."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, bits=16, color=color, rows=rows)


def tiff(pixels, *, order="<", bits=16, photometric=None, sample_format=1):
    """Returns an uncompressed TIFF of one strip, of shape ``(height, width, channels)``, from the format's text."""
    height, width, channels = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        pairs = pixels.reshape(-1, 2).astype(int)
        data = b"".join(struct.pack(">I", a << 12 | b)[1:] for a, b in pairs)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, bits), (259, 3, 1, 1)]
    tags.append((262, 3, 1, photometric if photometric is not None else {1: 1, 3: 2}[channels]))
    tags += [(273, 4, 1, None), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data))]
    tags.append((339, 3, channels, sample_format))
    extra_at = 8 + 2 + 12 * len(tags) + 4
    extra, entries = b"", b""
    data_at = extra_at + 2 * 2 * (channels if channels > 1 else 0)
    for tag, kind, count, value in tags:
        value = data_at if value is None else value
        if count > 2:
            packed = struct.pack(f"{order}I", extra_at + len(extra))
            extra += struct.pack(f"{order}{count}H", *[value] * count)
        else:
            packed = struct.pack(f"{order}I", value) if kind == 4 else struct.pack(f"{order}HH", value, 0)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + packed
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    return (start + entries + bytes(4) + extra).ljust(data_at, b"\0") + data


def saved(kind, pixels=SMOOTH, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind), **options)
    return file.getvalue()


def gray(values):
    return np.repeat(values[..., None], 3, axis=-1)


# --- What is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"name": "a.png"}, {"name": "a.bmp"}, {"name": "a.tif"}, {"name": "a.ppm"}], ids=str
)
def test_colors_are_read_as_they_are(write, options):
    found = read_image(write(PIXELS, **options))
    assert found.dtype == np.uint8
    assert_array_equal(found, PIXELS)


def test_a_lossless_webp_is_read_as_it_is(write):
    assert_array_equal(read_image(write(PIXELS, "a.webp", lossless=True)), PIXELS)


def test_the_name_does_not_matter(write):
    assert_array_equal(read_image(write(saved("png"), "photograph.jpg")), SMOOTH)


def test_gray_is_repeated(write):
    assert_array_equal(read_image(write(PIXELS[..., 0])), gray(PIXELS[..., 0]))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_fewer_bits_spans_all_levels(write, bits):
    levels = np.arange(2**bits, dtype=np.uint8).repeat(8)
    packed = np.packbits(np.unpackbits(levels[:, None], axis=1)[:, -bits:])
    found = read_image(write(png(len(levels), 1, bits=bits, color=0, rows=b"\0" + packed.tobytes())))
    assert_array_equal(found, gray(levels[None] * (255 // (2**bits - 1))))


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_is_dropped(write, channels):
    alpha = RANDOM.integers(0, 256, (20, 30, 1), np.uint8)
    base = PIXELS[..., : channels - 1]
    wanted = np.broadcast_to(base, PIXELS.shape)
    assert_array_equal(read_image(write(np.concatenate([base, alpha], axis=-1))), wanted)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 256, 2))], ids=["opaque", "one", "several"])
def test_a_palette_is_looked_up(write, transparency):
    palette = Image.fromarray(PIXELS).quantize(64)
    wanted = np.asarray(palette.convert("RGB"))
    options = {} if transparency is None else {"transparency": transparency}
    assert_array_equal(read_image(write(palette, **options)), wanted)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_read(write, kind):
    frames = [Image.fromarray(np.full((4, 5, 3), value, np.uint8)) for value in (40, 200)]
    options = {"lossless": True} if kind == "webp" else {}
    path = write(frames[0], f"two.{kind}", save_all=True, append_images=frames[1:], **options)
    assert_array_equal(read_image(path), np.full((4, 5, 3), 40, np.uint8))


def test_of_a_multi_picture_jpeg_the_first_is_read(write):
    first, second = (Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (40, 200))
    path = write(first, "phone.jpg", format="mpo", save_all=True, append_images=[second])
    assert_array_equal(read_image(path), np.full((16, 16, 3), 40, np.uint8))


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_cmyk_is_turned_into_red_green_and_blue(write, kind):
    cyan, yellow = (255, 0, 0, 0), (0, 0, 255, 0)
    image = Image.new("CMYK", (32, 16), cyan)
    image.paste(yellow, (16, 0, 32, 16))
    options = {"quality": 100} if kind == "jpg" else {}
    found = read_image(write(image, f"print.{kind}", **options)).astype(int)
    assert np.abs(found[:, :16] - [0, 255, 255]).max() <= 3
    assert np.abs(found[:, 16:] - [255, 255, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_an_image_is_put_upright(write, orientation, bits):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # The order of a file's rows and columns for each orientation, from EXIF 2.3's table of tag 0x0112.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    image = PIXELS if bits == 8 else PIXELS[..., 0].astype(np.uint16) << 8
    wanted = PIXELS if bits == 8 else gray(PIXELS[..., 0])
    assert_array_equal(read_image(write(np.ascontiguousarray(stored(image)), exif=exif)), wanted)


# --- Sixteen bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_of_16_bits_in_a_png_the_upper_8_are_kept(write, channels):
    colors = 1 if channels < 3 else 3
    pixels = np.stack([np.roll(WORDS, i) for i in range(channels)], axis=-1)[None]
    wanted = np.broadcast_to((pixels[..., :colors] >> 8).astype(np.uint8), (*pixels.shape[:2], 3))
    assert_array_equal(read_image(write(png16(pixels, {1: 0, 2: 4, 3: 2, 4: 6}[channels]))), wanted)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_of_16_bits_in_a_tiff_the_upper_8_are_kept(write, order, channels):
    pixels = np.stack([np.roll(WORDS, i) for i in range(channels)], axis=-1)[None]
    wanted = np.broadcast_to((pixels >> 8).astype(np.uint8), (1, len(WORDS), 3))
    assert_array_equal(read_image(write(tiff(pixels, order=order), "a.tif")), wanted)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_a_compressed_tiff_of_16_bits(write, compression):
    words = np.resize(WORDS, (16, 16))
    assert_array_equal(read_image(write(words, "a.tif", compression=compression)), gray((words >> 8).astype(np.uint8)))


def test_a_tiff_of_12_bits_spans_all_levels(write):
    values = np.array([0, 15, 16, 2047, 2048, 4079, 4080, 4095], np.uint16)
    found = read_image(write(tiff(values[None, :, None], bits=12), "a.tif"))
    assert_array_equal(found, gray((values >> 4).astype(np.uint8)[None]))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_as_zero_is_inverted(write, bits):
    values = WORDS if bits == 16 else (WORDS >> 8).astype(np.uint8)
    found = read_image(write(tiff(values[None, :, None], bits=bits, photometric=0), "a.tif"))
    assert_array_equal(found, gray(255 - (WORDS >> 8).astype(np.uint8)[None]))


@pytest.mark.parametrize("head", [b"P5", b"P2"])
def test_a_pgm_of_16_bits(write, head):
    data = WORDS.astype(">u2").tobytes() if head == b"P5" else b" ".join(b"%d" % word for word in WORDS)
    found = read_image(write(head + b" %d 1 65535\n" % len(WORDS) + data, "a.pgm"))
    assert_array_equal(found, gray((WORDS >> 8).astype(np.uint8)[None]))


# --- What is refused --------------------------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(DataError, match=match) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("dtype", "sample_format", "mode"), [("f4", 3, "F"), ("i4", 2, "I"), ("u4", 1, "I"), ("i2", 2, "I")]
)
def test_elements_of_unknown_range_are_refused_with_the_way_out(write, dtype, sample_format, mode):
    pixels = np.arange(6, dtype=dtype).reshape(2, 3, 1)
    content = tiff(pixels, bits=8 * pixels.itemsize, sample_format=sample_format)
    match = (
        rf"unsigned integers of at most 16 bits a channel, got Pillow's mode '{mode}': .*np\.asarray\(PIL\.Image\.open"
    )
    refused(write(content, "a.tif"), match)


@pytest.mark.parametrize(
    "content", [b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" + bytes(100), bytes(1000), b"<svg></svg>"]
)
def test_what_is_no_image_is_refused(write, content):
    refused(write(content), "is not an image of the formats PNG, JPEG|is damaged or truncated")


@pytest.mark.parametrize("kind", ["pdf", "eps", "jpeg2000", "ico", "tga", "pcx"])
def test_pillows_other_formats_are_not_read(write, kind):
    path = write(PIXELS, "image.png", format=kind)
    refused(path, "is not an image of the formats PNG, JPEG, GIF, BMP, WEBP, TIFF, PPM")


def test_an_empty_file_is_refused(write):
    refused(write(b""), "must be an image file, got an empty file")


def test_a_folder_is_refused(tmp_path):
    refused(tmp_path, "must be an image file, got a folder")


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes among files")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "must be an image file, got a pipe or device")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_image(tmp_path / "nowhere.png")


def image_or_refusal(path):
    """The image, or what the DataError says."""
    try:
        return read_image(path)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_anywhere_is_refused_or_the_same(tmp_path, kind, quiet):
    content = saved(kind)
    path = tmp_path / f"image.{kind}"
    path.write_bytes(content)
    whole = read_image(path)
    kept = 0
    for length in [*range(0, len(content) - 64, 37), *range(max(0, len(content) - 64), len(content))]:
        path.write_bytes(content[:length])
        # What is refused must not depend on whether the user makes errors of Pillow's warnings.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if quiet else "error")
            found = image_or_refusal(path)
        if isinstance(found, str):
            assert str(path) in found
        else:
            assert_array_equal(found, whole)
            kept += 1
    assert kept <= 4, f"{kept} of the file's ends did not matter"


@pytest.mark.parametrize("interlaced", [False, True])
def test_every_altered_byte_of_a_png_is_refused(tmp_path, interlaced):
    text = chunk(b"tEXt", b"Comment\0a photograph")
    content = saved("png")
    if interlaced:
        # One pixel is the same in all passes but the first, which are empty.
        content = png(1, 1, rows=b"\0" + bytes([1, 2, 3]), extra=text)[:-12]
        content = content[:28] + b"\1" + struct.pack(">I", zlib.crc32(content[12:28] + b"\1")) + content[33:]
        content += chunk(b"IEND", b"")
    path = tmp_path / "image.png"
    path.write_bytes(content)
    read_image(path)
    for at, flip in itertools.product(range(len(content)), (1, 4, 128)):
        path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
        refused(path, "is damaged or truncated|is not an image|must have at most")


def test_bytes_after_a_pngs_end_do_not_matter(write):
    assert_array_equal(read_image(write(saved("png") + b"more")), SMOOTH)


def test_an_image_without_its_data_is_refused(write):
    refused(write(png(30, 20)), "is damaged or truncated")


# --- Bombs ------------------------------------------------------------------------------------------------------------


def test_a_side_of_40_000_pixels_is_refused(write):
    refused(write(png(40_000, 10)), "at most 16,384 pixels along each side, got 40,000 x 10")


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_too_many_pixels_are_refused_before_they_are_decoded(write, side):
    refused(write(png(side, side)), f"at most 89,478,485 pixels in total: .*{side**2}")


def test_too_many_pixels_are_refused_where_pillow_only_warns(write):
    with pytest.warns(Image.DecompressionBombWarning):
        refused(write(png(10_000, 10_000)), "at most 89,478,485 pixels in total, got 10,000 x 10,000")


def scans(side, count):
    """Returns a progressive JPEG whose last scan comes ``count`` times more, and the number of its scans."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "jpeg", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:], content.count(b"\xff\xda") + count


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(write):
    content, count = scans(2000, 1100)
    path = write(content, "bomb.jpg")
    start = time.perf_counter()
    refused(path, f"at most 1,073 scans for its 4,000,000 pixels, got {count:,}: no encoder writes more")
    assert time.perf_counter() - start < 2


def test_scans_are_counted_outside_of_metadata_and_up_to_the_end(write):
    # A thumbnail has scans too, a phone stores a film behind the photograph, and fill bytes come before markers.
    content, _ = scans(2000, 0)
    inside = b"\xff\xda\0\2" * 10_000
    segment = b"\xff\xff\xff\xe5" + struct.pack(">H", 2 + len(inside)) + inside
    read_image(write(content[:2] + segment + content[2:] + b"\xff\xda\0\2" * 10_000, "phone.jpg"))


def test_a_jpegs_markers_are_found_in_linear_time(write):
    content, _ = scans(64, 0)
    start = time.perf_counter()
    read_image(write(content[:2] + b"\xff" * 2_000_000 + content[2:], "filled.jpg"))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "progressive": True}], ids=str)
def test_what_encoders_write_is_read(write, options):
    path = write(SMOOTH, "a.jpg", quality=95, **options)
    assert_array_equal(read_image(path), np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")))


def test_a_pngs_inflated_text_is_refused(write):
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 26)))
    path = write(png(1, 1, rows=b"\0abc", extra=bomb))
    tracemalloc.start()
    try:
        refused(path, "is damaged or truncated: .*too large")
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_a_file_of_more_than_a_gibibyte_is_not_read(tmp_path):
    path = tmp_path / "large.tif"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # A sparse file takes no space.
    refused(path, "at most 1,073,741,824 bytes, got 1,073,741,825")


# --- Folders ----------------------------------------------------------------------------------------------------------

LEFTOVERS = (".DS_Store", "Thumbs.db", "desktop.ini", "._photo.png", ".hidden.png", ".nfs000000000001.png")
LEFT_FOLDERS = (".ipynb_checkpoints", "lost+found", "@eaDir", "__MACOSX", ".git", "$RECYCLE.BIN")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_what_systems_leave_behind_is_neither_a_class_nor_an_image(tmp_path):
    touch(tmp_path, "cat/1.png", "cat/more/2.JPG", "dog/1.webp")
    touch(tmp_path, *LEFTOVERS, *(f"cat/{name}" for name in LEFTOVERS))
    touch(tmp_path, *(f"{folder}{left}/1.png" for folder in ("", "cat/", "cat/more/") for left in LEFT_FOLDERS))
    touch(tmp_path, "notes.txt", "dog/notes.txt", "readme/notes.txt")
    (tmp_path / "empty").mkdir()
    found = images_by_class(tmp_path)
    names = {name: [path.relative_to(tmp_path).as_posix() for path in paths] for name, paths in found.items()}
    assert names == {"cat": ["cat/1.png", "cat/more/2.JPG"], "dog": ["dog/1.webp"]}


def test_the_order_is_that_of_code_points_in_composed_form(tmp_path):
    # "é" as one code point comes after "z", and so it does where a system writes it as two, "e" and an accent.
    decomposed = "e\u0301clair"
    touch(tmp_path, *(f"{name}/1.png" for name in ("zebra", "Zebra", "ant", "Bee", decomposed, "10", "9", "_x")))
    assert list(images_by_class(tmp_path)) == ["10", "9", "Bee", "Zebra", "_x", "ant", "zebra", "\u00e9clair"]
    touch(tmp_path, "ant/B.png", "ant/a.png", "ant/a-b/1.png", "ant/a/1.png", "ant/10.png", "ant/9.png")
    names = [path.relative_to(tmp_path / "ant").as_posix() for path in images_by_class(tmp_path)["ant"]]
    assert names == ["1.png", "10.png", "9.png", "B.png", "a/1.png", "a-b/1.png", "a.png"]


def test_a_folder_that_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        images_by_class(tmp_path / "nowhere")


def test_without_pillow_the_package_is_named(write, monkeypatch):
    path = write(PIXELS)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"read_image needs the package Pillow: pip install '\.\[data\]'"):
        read_image(path)
