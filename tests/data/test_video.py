"""Frames of videos: any of them in any format are those of decoding the whole, and files that are refused."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxconv.data import DataError, read_video
from jaxconv.data.video import open_video
from jaxconv.errors import ArgumentError

av = pytest.importorskip("av", reason="av reads and writes the videos: pip install av")

from tests.data.videos import LOSSLESS, shades, write_video  # noqa: E402

FORMATS = {
    "b-frames.mp4": {"options": {"g": "8", "bf": "3"}},
    "matroska.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "transport.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "6"}, "rate": 25},
    "program.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}, "rate": 25},
    "pictures.mov": {"codec": "png", "pixels": "rgb24"},
    "flash.flv": {},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
}


@pytest.fixture
def lossless(tmp_path):
    return write_video(tmp_path / "a.mkv", shades(9), **LOSSLESS)


def test_frames_are_those_written(lossless):
    frames = shades(9)
    assert_array_equal(read_video(lossless), frames, strict=True)
    assert_array_equal(read_video(lossless, slice(1, 8, 3)), frames[1:8:3])
    assert_array_equal(read_video(lossless, [7, 2, 2, -1]), frames[[7, 2, 2, -1]])
    assert_array_equal(read_video(lossless, range(3, 5)), frames[3:5])


@pytest.mark.parametrize("name", FORMATS)
def test_each_frame_by_itself_is_that_of_the_whole(tmp_path, name):
    path = write_video(tmp_path / name, shades(20, 48, 64), **FORMATS[name])
    with av.open(str(path)) as file:
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert_array_equal(read_video(path), whole, strict=True)
    for number in range(20):
        assert_array_equal(read_video(path, [number])[0], whole[number])
    # The order is that of showing, not of decoding.
    if "bf" in FORMATS[name].get("options", {}):
        assert (np.diff(whole[..., 0].mean((1, 2))) > 0).all()
    with open_video(path) as video:
        assert video.rate == pytest.approx(FORMATS[name].get("rate", 10), rel=0.02)


def test_only_the_frames_from_a_key_frame_on_are_decoded(tmp_path):
    path = write_video(tmp_path / "a.mp4", shades(40), options={"g": "8", "bf": "0", "sc_threshold": "0"})
    with open_video(path) as video:
        assert [video._key_packet(number) for number in (0, 7, 8, 21, 39)] == [0, 0, 8, 16, 32]
        assert [position for position, _ in video._decoded(16)] == list(range(16, 40))


def test_frames_without_times_are_counted(lossless):
    with open_video(lossless) as video:
        timed = video.read([4, 8])
        video._times = []
        assert_array_equal(video.read([4, 8]), timed)


def test_a_video_that_is_stored_on_its_side_is_turned(tmp_path):
    path = write_video(tmp_path / "a.mov", shades(3, 24, 32), codec="png", pixels="rgb24")
    content = bytearray(path.read_bytes())
    # The matrix of a telephone held upright: a quarter turn to the right, 16.16 fixed-point numbers and one of 2.30.
    matrix = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = matrix
    path.write_bytes(content)
    assert_array_equal(read_video(path), np.rot90(shades(3, 24, 32), -1, (1, 2)))


def test_sizes(lossless):
    assert read_video(lossless, [0], size=12).shape == (1, 12, 16, 3)
    assert read_video(lossless, [0], size=(10, 20)).shape == (1, 10, 20, 3)
    halved = read_video(lossless, size=12).astype(float)
    # Away from the borders antialiasing does not change the mean of colors that rise linearly.
    means = shades(9).reshape(9, 12, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(halved - means)[:, 1:-1, 1:-1].max() <= 1


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([9], r"frames must be a slice, or positions from -9 to 8 in .*a\.mkv, got \[9\]"),
        ([-10], r"got \[-10\]"),
        ([0.5], "frames must be a slice, or positions"),
        ([], "frames must be a slice, or positions"),
        (3, "frames must select frames of the 9 in"),
        (slice(5, 5), "frames must select frames of the 9 in"),
    ],
)
def test_frames_that_are_refused(lossless, frames, message):
    with pytest.raises(ArgumentError, match=message):
        read_video(lossless, frames)


@pytest.mark.parametrize("size", [0, (3, 0), (3, 4, 5)])
def test_sizes_that_are_refused(tmp_path, size):
    with pytest.raises(ArgumentError, match="size"):
        read_video(tmp_path / "not looked for", size=size)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi", "a.gif"])
def test_one_frame_is_no_video(tmp_path, name):
    codec = {"a.gif": {"codec": "gif", "pixels": "rgb8"}, "a.avi": {"codec": "mpeg4"}}.get(name, {})
    path = write_video(tmp_path / name, shades(1, 48, 64), **codec)
    with pytest.raises(DataError, match=rf"{name} must be a video of at least 2 frames, got 1"):
        read_video(path)


def test_no_frame_is_no_video(tmp_path):
    path = write_video(tmp_path / "a.mkv", shades(6, 48, 64))
    content = path.read_bytes()
    # The header names the stream; the file ends within the first frame.
    path.write_bytes(content[: content.index(b"\x1f\x43\xb6\x75") + 40])
    with pytest.raises(DataError, match=r"a\.mkv must be a video of at least 2 frames, got 0"):
        read_video(path)


def test_frames_of_several_sizes_are_refused(tmp_path):
    settings = {"codec": "mpeg2video", "rate": 25}
    small = write_video(tmp_path / "small.ts", shades(5, 48, 64), **settings)
    large = write_video(tmp_path / "large.ts", shades(5, 64, 96), start=5, **settings)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(DataError, match=r"both\.ts must have frames of one size, got 64 x 48 and 96 x 64"):
        read_video(path)


def test_files_that_are_no_videos_are_refused(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("a page about videos\n" * 100)
    # A playlist would have FFmpeg open the files that it names.
    write_video(tmp_path / "named.ts", shades(5, 48, 64), codec="mpeg2video", rate=25)
    (tmp_path / "list.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path}/named.ts\n#EXT-X-ENDLIST\n"
    )
    for name in ("empty.mp4", "text.mp4", "list.mp4"):
        with pytest.raises(DataError, match=rf"{name} is no video of a supported format, or is damaged"):
            read_video(tmp_path / name)
    with pytest.raises(DataError, match="must be a video file, got a folder"):
        read_video(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path / "nowhere.mp4")


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(DataError, match=r"sound\.mkv must have a video stream of a known codec, got streams: audio"):
        read_video(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
def test_videos_cut_short_are_refused(tmp_path, share):
    # The index is at the beginning, so that the file can be opened and says how many frames it should have.
    path = write_video(tmp_path / "a.mp4", shades(20, 48, 64), container={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"a\.mp4 is (truncated: it has \d+ of 20|no video of a supported format)"):
        read_video(path, [0])


def test_a_damaged_frame_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mov", shades(20, 48, 64), codec="png", pixels="rgb24")
    content = bytearray(path.read_bytes())
    frames = [at for at in range(len(content)) if content[at : at + 4] == b"IHDR"]
    content[frames[7] : frames[7] + 4] = b"XXXX"
    path.write_bytes(content)
    assert read_video(path, [6]).shape == (1, 48, 64, 3)
    with pytest.raises(DataError, match=r"a\.mov .*damaged"):
        read_video(path, [7])


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package av: pip install '\.\[video\]'"):
        read_video(tmp_path / "a.mp4")
