import gzip
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.data import DataError, cifar, cifar10
from jaxconv.data.cifar import BATCHES
from tests.data.test_idx import value_or_refusal

PER_BATCH = 4


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXCONV_CIFAR10", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def planes(count=6 * PER_BATCH):
    """Images as CIFAR stores them, channels first, and their labels."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 3, 32, 32), np.uint8), random.integers(0, 10, count)


def binary_batch(images, labels):
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def python3_batch(images, labels, protocol=2):
    rows = images.reshape(len(images), -1)
    return pickle.dumps({b"batch_label": b"x", b"labels": [int(v) for v in labels], b"data": rows}, protocol=protocol)


def dumps(data, labels):
    return pickle.dumps({b"data": data, b"labels": labels}, protocol=2)


def python2_batch(images, labels, declared=None):
    """What Python 2's cPickle wrote with protocol 2 and NumPy 1: the form of the original files."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    shape = (
        b"J"
        + struct.pack("<i", len(images) if declared is None else declared)
        + b"J"
        + struct.pack("<i", 3072)
        + b"\x86"
    )
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    raw = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([v]) for v in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


VERSIONS = {"binary": (".bin", binary_batch), "python2": ("", python2_batch), "python3": ("", python3_batch)}
FOLDERS = {"binary": "cifar-10-batches-bin", "python2": "cifar-10-batches-py", "python3": "cifar-10-batches-py"}


def batches(version):
    suffix, encode = VERSIONS[version]
    images, labels = planes()
    cuts = [slice(i * PER_BATCH, (i + 1) * PER_BATCH) for i in range(6)]
    return {f"{name}{suffix}": encode(images[c], labels[c]) for name, c in zip(BATCHES, cuts, strict=True)}


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def tar_bytes(contents, *, prefix="cifar-10-batches-bin/", extra=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member, content in extra:
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def assert_is_the_data(data):
    images, labels = planes()
    train = 5 * PER_BATCH
    got = np.concatenate([data.train_images, data.test_images])
    # Pixel by pixel, in words: row, column, channel of ours is channel, row, column of theirs.
    for n, y, x, c in np.random.default_rng(1).integers(0, [len(images), 32, 32, 3], (200, 4)):
        assert got[n, y, x, c] == images[n, c, y, x]
    np.testing.assert_array_equal(got, np.moveaxis(images, 1, 3))
    np.testing.assert_array_equal(data.train_labels, labels[:train])
    np.testing.assert_array_equal(data.test_labels, labels[train:])
    assert data.classes[0] == "airplane"
    assert data.classes[9] == "truck"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", ["files", "unpacked", "archive", "archive in a folder", "variable", "cache"])
def test_both_versions_are_read_from_everywhere(tmp_path, monkeypatch, version, way):
    contents, folder = batches(version), FOLDERS[version]
    if way == "files":
        found = write(tmp_path / "mine", contents)
    elif way == "unpacked":
        found = write(tmp_path / "mine" / folder, contents).parent
    else:
        name = "cifar-10-binary.tar.gz" if version == "binary" else "cifar-10-python.tar.gz"
        archive = {name: gzip.compress(tar_bytes(contents, prefix=f"{folder}/"), 1)}
        root = tmp_path / "cache/jaxconv/cifar10" if way == "cache" else tmp_path / "mine"
        found = write(root, archive) / (name if way == "archive" else "")
    if way == "variable":
        monkeypatch.setenv("JAXCONV_CIFAR10", str(found))
    assert_is_the_data(cifar10() if way in ("variable", "cache") else cifar10(found))


def test_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(DataError) as raised:
        cifar10()
    message = str(raised.value)
    for part in (f"{tmp_path}/cache/jaxconv/cifar10 (the cache", "argument folder", "JAXCONV_CIFAR10", "download=True"):
        assert part in message
    with pytest.raises(DataError, match=r"has neither the six batch files nor cifar-10-binary\.tar\.gz nor"):
        cifar10(tmp_path)
    contents = batches("binary")
    del contents["data_batch_3.bin"]
    with pytest.raises(DataError, match=r"has some batches of the binary version but no data_batch_3\.bin"):
        cifar10(write(tmp_path / "mine", contents))


def test_a_download_asks_for_the_binary_version_with_its_hash(tmp_path, monkeypatch):
    asked = []

    def fetch(url, sha256, folder):
        asked.append((url, sha256, folder))
        write(folder, {"cifar-10-binary.tar.gz": gzip.compress(tar_bytes(batches("binary")), 1)})

    monkeypatch.setattr(cifar, "fetch", fetch)
    for _ in range(2):
        assert_is_the_data(cifar10(download=True))
    (url, sha256, folder) = asked.pop()
    assert not asked
    assert url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert len(bytes.fromhex(sha256)) == 32
    assert folder == tmp_path / "cache/jaxconv/cifar10"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "expected whole records of 3073 bytes, got 12,291 bytes, 3072 after the last record"),
        (lambda b: b + b"\0", ".*got 12,293 bytes, 1 after the last record"),
        (lambda b: b"", ".*got 0 bytes"),
        (lambda b: b[:3073] + b"\x0a" + b[3074:], "label 1 is 10, expected 0 to 9"),
        (lambda b: b[:-3073], "3 images, but .*data_batch_1.bin has 4"),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_a_wrong_binary_batch_is_refused_by_name(tmp_path, change, message, archived):
    contents = batches("binary")
    contents["data_batch_2.bin"] = change(contents["data_batch_2.bin"])
    if archived:
        contents = {"cifar-10-binary.tar.gz": gzip.compress(tar_bytes(contents), 1)}
    with pytest.raises(DataError, match=f"data_batch_2.bin: {message}"):
        cifar10(write(tmp_path / "mine", contents))


@pytest.mark.parametrize("archived", [False, True])
def test_an_enormous_batch_is_refused_before_it_is_read(tmp_path, monkeypatch, archived):
    monkeypatch.setattr(cifar, "LARGEST_BATCH", 10_000)
    contents = batches("binary")
    if archived:
        contents = {"cifar-10-binary.tar.gz": gzip.compress(tar_bytes(contents), 1)}
    with pytest.raises(DataError, match=r"data_batch_1.bin: .*too large for a batch of CIFAR-10"):
        cifar10(write(tmp_path / "mine", contents))


def damaged(kind):
    tar = tar_bytes(batches("binary"))
    whole = gzip.compress(tar, 1)
    if kind == "cut stream":
        return whole[: len(whole) // 2]
    if kind == "cut checksum":
        return whole[:-2]
    if kind == "changed":
        return whole[:-8] + bytes(4) + whole[-4:]
    if kind == "cut tar":
        return gzip.compress(tar[: len(tar) // 2], 1)
    if kind == "not a tar":
        return gzip.compress(b"words" * 1000)
    if kind == "not gzipped":
        return tar
    if kind == "no batches":
        return gzip.compress(tar_bytes({"readme.html": b""}), 1)
    link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    if kind == "link":
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        return gzip.compress(tar_bytes({}, extra=[(link, b"")]), 1)
    assert kind == "twice"
    return gzip.compress(tar_bytes(batches("binary"), extra=[(link, b"")]), 1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut stream", "the gzip stream ends early: the file is truncated"),
        ("cut checksum", "the gzip stream ends early: the file is truncated"),
        ("changed", "the gzip stream is damaged: CRC check failed"),
        ("cut tar", "not a readable tar archive: unexpected end of data"),
        ("not a tar", "not a readable tar archive"),
        ("not gzipped", "the gzip stream is damaged: Not a gzipped file"),
        ("no batches", r"not an archive of CIFAR-10: it has no data_batch_1\[.bin\], no data_batch_2"),
        ("link", "cifar-10-batches-bin/data_batch_1.bin: expected a regular file, got tar type b'2'"),
        ("twice", "cifar-10-batches-bin/data_batch_1.bin: the archive has two files of this name"),
    ],
)
def test_a_wrong_archive_is_refused_and_nothing_is_unpacked(tmp_path, kind, message):
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(damaged(kind))
    with pytest.raises(DataError, match=f"{archive}: {message}"):
        cifar10(archive)
    assert [p.name for p in tmp_path.iterdir()] == ["archive.tar.gz"]


class Touch:
    """An object whose pickle makes a file when it is loaded the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def refused(folder, content):
    contents = batches("python3")
    contents["data_batch_4"] = content
    with pytest.raises(DataError) as raised:
        cifar10(write(folder, contents))
    message = str(raised.value)
    assert message.startswith(f"{folder / 'data_batch_4'}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, protocol):
    trap = tmp_path / "trap"
    content = pickle.dumps({b"data": Touch(trap), b"labels": []}, protocol=protocol)
    message = refused(tmp_path / "mine", content)
    assert "refused: it names " in message
    assert message.endswith(".open, which no NumPy array needs; no code was run")
    assert not trap.exists()
    # The trap is one: loaded the ordinary way, it makes the file.
    pickle.loads(content)[b"data"].close()
    assert trap.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x80\x02cos\nsystem\n(U\x04truetR.", "os.system"),
        (b"(U\x04trueios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"\x80\x02cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x15ndarray.__class__.mro\x93.", "numpy.ndarray.__class__.mro"),
    ],
)
def test_names_that_no_array_needs_are_refused(tmp_path, content, name):
    assert f"it names {name}, which" in refused(tmp_path / "mine", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable pickle: EOFError"),
        (b"\x80\x02}.more", 'expected a pickled dict with the keys b"data" and b"labels"'),
        (pickle.dumps([1, 2]), 'expected a pickled dict with the keys b"data" and b"labels"'),
        (pickle.dumps({b"data": 1, b"labels": [1]}), 'b"data" must be a NumPy array, got int'),
        (python3_batch(*planes(4))[:-9], "not a readable pickle: EOFError"),
        (python3_batch(planes(4)[0], [1, 2, 3]), "4 images but 3 labels"),
        (python3_batch(planes(4)[0], [1, 2, 3, 10]), "label 3 is 10, expected 0 to 9"),
        (python3_batch(planes(4)[0], [1, 2, 3, -(2**70)]), f"label 3 is {-(2**70)}, expected 0 to 9"),
        (python2_batch(planes(0)[0], []), "has no images"),
        (python3_batch(planes(4)[0][:, :2], [1] * 4), 'b"data" must be (N, 3072) u1, got (4, 2048) u1'),
        (python3_batch(planes(4)[0].astype("i2"), [1] * 4), 'b"data" must be (N, 3072) u1, got (4, 3072) i2'),
        (dumps(np.zeros(3, "u1"), []), 'b"data" is not a pickled two-dimensional array'),
        (dumps(np.zeros((1, 3072), "u1"), (1,)), 'b"labels" must be a list of integers'),
        (dumps(np.zeros((1, 3072), "u1"), [1.0]), 'b"labels" must be a list of integers'),
        # A shape that the bytes do not fill.
        (
            python2_batch(*planes(4), declared=2**31 - 1),
            'b"data" must have 2147483647 images of 3072 bytes, got 12',
        ),
        (python2_batch(*planes(4), declared=-1), 'b"data" must have -1 images'),
        # One number in the file asks for 2**40 bytes; and one tries to set an attribute on a stand-in.
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "not a readable pickle: KeyError 150"),
        (b"\x80\x02cnumpy\ndtype\nN}U\x01aK\x01s\x86b.", "not a readable pickle: TypeError"),
    ],
)
def test_a_wrong_pickle_is_refused_with_what_is_wrong(tmp_path, content, message):
    assert message in refused(tmp_path / "mine", content)


def test_a_pickle_in_fortran_order_is_read(tmp_path):
    images, labels = (part[:PER_BATCH] for part in planes())
    rows = np.asfortranarray(images.reshape(PER_BATCH, -1))
    contents = batches("python3")
    contents["data_batch_1"] = pickle.dumps({b"labels": labels.tolist(), b"data": rows}, protocol=2)
    assert_is_the_data(cifar10(write(tmp_path / "mine", contents)))


SMALL = python2_batch(*planes(1))


@given(data=st.data())
def test_no_changed_pickle_gets_past(data):
    # Whatever is done to the file: the same data, other pixels or labels, or one DataError; nothing else.
    content = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        # The pixels are most of the file; the rest is what can hurt.
        spot = data.draw(st.one_of(st.integers(0, 180), st.integers(len(content) - 30, len(content) - 1)))
        content[spot] = data.draw(st.integers(0, 255))
    result = value_or_refusal(lambda: cifar._decode(cifar.Batch("batch", "python", bytes(content))))
    if isinstance(result, str):
        assert result.startswith("batch: ")
    else:
        images, labels = result
        assert images.shape == (1, 32, 32, 3)
        assert images.dtype == np.uint8
        assert 0 <= labels[0] < 10


def test_reading_changes_no_stand_in():
    before = {name: dict(vars(kind)) for name, kind in cifar.STAND_INS.items()}
    cifar._decode(cifar.Batch("batch", "python", SMALL))
    for content in (b"\x80\x02c_codecs\nencode\nN}U\x01aK\x01s\x86b.", b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb."):
        with pytest.raises(DataError):
            cifar._decode(cifar.Batch("batch", "python", content))
    assert before == {name: dict(vars(kind)) for name, kind in cifar.STAND_INS.items()}


CANONICAL = os.environ.get("JAXCONV_CIFAR10")


@pytest.mark.skipif(not CANONICAL, reason="JAXCONV_CIFAR10 names no folder with the original")
def test_the_whole_of_cifar10():
    data = cifar10(CANONICAL)
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(data.train_labels).tolist() == [5000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    assert data.train_images.mean((0, 1, 2)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
