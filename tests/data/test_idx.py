import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxconv import ArgumentError
from jaxconv.data import DataError, read_idx

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_bytes(array):
    """The idx file of an array, written from the format's description."""
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def header(code, *dims):
    return bytes([0, 0, code, len(dims)]) + struct.pack(f">{len(dims)}I", *dims)


def value_or_refusal(call):
    """What a call returns, or what its DataError says."""
    try:
        return call()
    except DataError as error:
        return str(error)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("idx") / "file"


@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
    ),
    zipped=st.booleans(),
)
def test_round_trip(scratch, array, zipped):
    scratch.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    back = read_idx(scratch)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


@given(data=st.data())
def test_every_truncation_is_refused(scratch, data):
    content = idx_bytes(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    whole = gzip.compress(content) if data.draw(st.booleans()) else content
    scratch.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=str(scratch)):
        read_idx(scratch)


@given(data=st.data())
def test_every_changed_byte_of_the_compressed_stream_is_refused(scratch, data):
    content = idx_bytes(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    whole = bytearray(gzip.compress(content, mtime=0))
    # The ten bytes before the stream hold a time and flags that nothing checks.
    whole[data.draw(st.integers(10, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    scratch.write_bytes(whole)
    result = value_or_refusal(lambda: read_idx(scratch))
    if isinstance(result, str):
        assert str(scratch) in result
    else:
        # Padding bits between deflate's last block and the checksum carry nothing.
        assert idx_bytes(result) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file: it starts with nothing, expected 00 00"),
        (b"\x89PNG\r\n", "not an idx file: it starts with 89 50 4e 47"),
        (b"\0\0\x07\x01", "idx element type 0x07 is unknown, expected one of 0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x0e"),
        (b"\0\0\x08\0", "the idx header declares no dimensions"),
        (b"\0\0\x08\x03\0\0\0\x05\0", "the idx header is truncated: 3 dimensions take 12 bytes, 5 left"),
        (header(8, 3, 2) + b"12345", "truncated: 3x2 uint8 takes 6 bytes, "),
        (header(8, 3, 2) + b"1234567", "trailing bytes: 3x2 uint8 takes 6 bytes, more are there"),
        (header(0x0C, 3) + b"12345678901", "truncated: 3 int32 takes 12 bytes, "),
        (header(8, *[1] * 70) + b"1", "70 dimensions are too many for NumPy"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path, content, message, zipped):
    path = tmp_path / "train-images"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError) as raised:
        read_idx(path)
    assert str(raised.value).startswith(f"{path}: {message}")
    assert "\n" not in str(raised.value)


def test_a_truncated_file_says_how_much_is_there(tmp_path):
    path = tmp_path / "train-images"
    content = header(8, 30, 2) + bytes(59)
    path.write_bytes(content)
    with pytest.raises(DataError, match="30x2 uint8 takes 60 bytes, at most 59 are there"):
        read_idx(path)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="30x2 uint8 takes 60 bytes, 59 are there"):
        read_idx(path)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda z: z[:-1], "the gzip stream ends early: the file is truncated"),
        (lambda z: z[:-9], "the gzip stream ends early: the file is truncated"),
        (lambda z: z[:-8] + bytes(4) + z[-4:], "the gzip stream is damaged: CRC check failed"),
        (lambda z: z[:-4] + bytes(4), "the gzip stream is damaged: Incorrect length of data produced"),
        (lambda z: z + b"more", "the gzip stream is damaged: Not a gzipped file"),
        (lambda z: z[:10] + b"\xff" * 9, "the gzip stream is damaged: Error -3 while decompressing data"),
    ],
)
def test_a_damaged_gzip_stream_is_refused(tmp_path, cut, message):
    path = tmp_path / "labels.gz"
    path.write_bytes(cut(gzip.compress(idx_bytes(np.arange(50, dtype=np.uint8)))))
    with pytest.raises(DataError) as raised:
        read_idx(path)
    assert str(raised.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dims", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (60000, 28, 28)])
def test_absurd_dimensions_allocate_nothing(tmp_path, dims, zipped):
    # (2**31, 2**31, 4) counts 0 elements in 64-bit arithmetic.
    path = tmp_path / "images"
    content = header(8, *dims) + bytes(1000)
    path.write_bytes(gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="truncated"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_reading_stops_behind_the_declared_size(tmp_path):
    # 256 MB of zeros in 250 kB; the header declares 8 bytes.
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header(8, 8))
        for _ in range(64):
            stream.write(bytes(1 << 22))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="trailing bytes: 8 uint8 takes 8 bytes"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_gzipped_file_holds_no_more_than_asked_for(tmp_path):
    path = tmp_path / "images.gz"
    content = header(8, 1000, 1000) + bytes(1_000_000)
    path.write_bytes(gzip.compress(content))
    assert path.stat().st_size < 1100
    with pytest.raises(
        DataError, match=r"1000x1000 uint8 takes 1,000,000 bytes, more than most_bytes=999,999, .*: pass a larger"
    ):
        read_idx(path, most_bytes=999_999)
    assert read_idx(path, most_bytes=1_000_000).shape == (1000, 1000)
    # A plain file takes as much space as its elements, so that none is a bomb.
    path.write_bytes(content)
    assert read_idx(path, most_bytes=1).shape == (1000, 1000)


def test_a_bomb_is_refused_by_its_declared_size(tmp_path):
    # 2.5 MB that declare 2.5 GB; whether the elements follow is not looked at.
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(header(8, 2_500_000_000)) + bytes(2_500_000))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="takes 2,500,000,000 bytes, more than most_bytes=1,073,741,824"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("most_bytes", [0, -1, 1e9, None])
def test_most_bytes_must_be_a_positive_integer(tmp_path, most_bytes):
    with pytest.raises(ArgumentError, match="most_bytes must be"):
        read_idx(tmp_path / "images.gz", most_bytes=most_bytes)


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_idx(tmp_path / "nothing-here")
