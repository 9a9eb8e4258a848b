"""Reading videos: chosen frames of a file as an array, decoded by FFmpeg's libraries through the package av."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.data.dataset import DataError
from jaxconv.data.files import StrPath
from jaxconv.data.images import check_file, check_size
from jaxconv.data.windows import ArrayImage, Crop, Random, Window
from jaxconv.errors import ArgumentError
from jaxconv.extras import need
from jaxconv.geometry import as_int, as_tuple

# FFmpeg's names of the supported formats, and their file endings. Other formats may name further files or addresses.
FORMATS = {
    "mov": (".mp4", ".m4v", ".mov", ".3gp"),
    "matroska": (".mkv", ".webm"),
    "avi": (".avi",),
    "mpeg": (".mpg", ".mpeg"),
    "mpegts": (".ts", ".mts", ".m2ts"),
    "asf": (".wmv", ".asf"),
    "flv": (".flv",),
    "ogg": (".ogv",),
    "gif": (".gif",),
}
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}

Size = int | Sequence[int] | None


def read_video(path: StrPath, frames: slice | Sequence[int] | None = None, *, size: Size = None) -> np.ndarray:
    """Returns frames of the video in a file as uint8 RGB, rotated as the file's metadata require.

    Reads MP4 and MOV, Matroska and WebM, AVI, MPEG, MPEG-TS, WMV, FLV, Ogg and animated GIF; the content, not the name,
    decides which. Decoding begins at the last key frame before the first of ``frames``. Sound is ignored, transparency
    is dropped, and pixels are taken as square.

    Args:
      path: a file of at most 1 GiB.
      frames: the positions of the frames: None for all, a slice, or integers in any order, negative ones counted from
        the end. Position 0 is the first frame shown.
      size: None for the frames' size; an int, to which the shorter side is resized; or (rows, columns). Bilinear, with
        antialiasing.

    Returns:
      An array of shape ``(frames, height, width, 3)``.

    Raises:
      DataError: the path is a folder; the file is empty, damaged, truncated or has another format; it has no video, or
        one of fewer than two frames; the frames change their size, or are larger than `read_image` permits.
      ArgumentError: ``frames`` selects none, or one that the video lacks; ``size`` is below 1.
      OSError: the file does not exist, or cannot be opened.
      ModuleNotFoundError: av, of the extra ``video``, is not installed.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "three.gif")
    ...     first, *others = [Image.new("RGB", (16, 12), color) for color in ("black", "red", "white")]
    ...     first.save(path, save_all=True, append_images=others)
    ...     clip = read_video(path, [2, 0], size=6)
    ...     clip.shape, clip[:, 0, 0].tolist()
    ((2, 6, 8, 3), [[255, 255, 255], [0, 0, 0]])
    """
    checked_video_size(size)
    with open_video(path) as video:
        try:
            index = frames if isinstance(frames, slice) else np.asarray(frames)
            chosen = np.arange(video.count)[slice(None) if frames is None else index]
        except IndexError as error:
            valid = f"{-video.count} to {video.count - 1}"
            raise ArgumentError(
                f"frames must be a slice, or positions from {valid} in {path}, got {frames!r}"
            ) from error
        if chosen.ndim != 1 or not chosen.size:
            raise ArgumentError(f"frames must select frames of the {video.count} in {path}, got {frames!r}")
        return video.read(chosen.tolist(), size)


def checked_video_size(size: Size) -> None:
    """Raises ArgumentError unless ``size`` is None, a positive int or two."""
    if isinstance(size, Sequence):
        as_tuple(size, 2, "size")
    elif size is not None:
        as_int(size, "size", least=1)


@contextlib.contextmanager
def open_video(path: StrPath) -> Iterator["Video"]:
    """Yields the video in a file, with its compressed frames in memory; see `read_video` for the errors."""
    av = need("av", "reading videos", "video")
    check_file(Path(path), "a video")
    try:
        with av.open(f"file:{Path(path)}", options=_OPTIONS, **_replaced(av)) as container:
            yield Video(path, container)
    except av.error.FFmpegError as error:
        raise DataError(
            f"{path} is no video of a supported format, or is damaged or truncated: {error.strerror}"
        ) from error


def _replaced(av: Any) -> dict[str, str]:
    """Returns the options by which titles in an unknown encoding are no error; av needs none from version 19 on."""
    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


class Video:
    """A video in an open file, whose frames can be decoded in any order.

    Decoders need the frames between a key frame and the one that is wanted. The compressed frames are read once, so
    that the choice of the key frame does not depend on a format's support for seeking.

    Attributes:
      count: the number of frames.
      rate: the mean number of frames in a second; 0 where the file has no times.
    """

    def __init__(self, path: StrPath, container: Any) -> None:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
            raise DataError(f"{path} must have a video stream of a known codec, got streams: {kinds}")
        self.path, self._codec = path, stream.codec_context
        # `jaxconv.data.batches` reads several files at a time.
        self._codec.thread_count = 1
        check_size(path, self._codec.width, self._codec.height)
        self._packets = [packet for packet in container.demux(stream) if packet.size]
        if len(self._packets) < stream.frames:
            raise DataError(f"{path} is truncated: it has {len(self._packets)} of {stream.frames} frames")
        times = [packet.pts for packet in self._packets if not packet.is_discard]
        self.count = len(times)
        if self.count < 2:
            raise DataError(f"{path} must be a video of at least 2 frames, got {self.count}")
        # Frames are recognized by their times, or counted from the first one where times lack or repeat.
        timed = None not in times and len(set(times)) == len(times)
        self._times = sorted(times) if timed else []
        span = (self._times[-1] - self._times[0]) * stream.time_base if timed else 0
        self.rate = float((self.count - 1) / span) if span else float(stream.average_rate or 0)

    def read(
        self, positions: Sequence[int], size: Size = None, crop: Crop | None = None, random: Random = lambda: 0.0
    ) -> np.ndarray:
        """Returns the frames at some positions, resized, then cropped: all to the same window, `(T, H, W, 3)` uint8."""
        wanted, found, window = set(positions), dict[int, np.ndarray](), None
        # Videos may begin anew at frames that are not marked as key frames: then decoding begins at the first.
        for start in dict.fromkeys([self._key_packet(min(wanted)), 0]):
            for position, frame in self._decoded(start):
                if position in wanted and position not in found:
                    image = ArrayImage(_pixels(frame))
                    if size is not None:
                        whole = Window(0, 0, image.height, image.width)
                        image = ArrayImage(image.window(whole, _shape(image.height, image.width, size)))
                    if crop is not None:
                        window = window or crop.window(image.height, image.width, random)
                        image = ArrayImage(image.window(window, (crop.size, crop.size), crop.method))
                    found[position] = image.pixels
                if len(found) == len(wanted):
                    return np.stack([found[position] for position in positions])
        raise DataError(f"{self.path} is damaged: frame {min(wanted - set(found))} of {self.count} cannot be decoded")

    def _key_packet(self, position: int) -> int:
        """Returns the index of the last key frame that is shown at ``position`` or before."""
        if not self._times:
            return 0
        keys = [i for i, p in enumerate(self._packets) if p.is_keyframe and p.pts <= self._times[position]]
        return max(keys, default=0)

    def _decoded(self, start: int) -> Iterator[tuple[int, Any]]:
        """Yields the frames from a packet on, with their positions; -1 for frames that belong to an earlier start."""
        position_of = {time: i for i, time in enumerate(self._times)}
        self._codec.flush_buffers()
        shape, count = None, 0
        for packet in [*self._packets[start:], None]:
            for frame in self._codec.decode(packet):
                shape = shape or (frame.width, frame.height)
                position = position_of.get(frame.pts, -1) if position_of else count
                count += 1
                if (frame.width, frame.height) != shape:
                    raise DataError(
                        f"{self.path} must have frames of one size, got {shape[0]} x {shape[1]} and "
                        f"{frame.width} x {frame.height}"
                    )
                yield (-1 if frame.is_corrupt else position), frame


def _pixels(frame: Any) -> np.ndarray:
    """Returns a frame as uint8 RGB, rotated upright."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _shape(height: int, width: int, size: int | Sequence[int]) -> tuple[int, int]:
    """Returns the size of a resized frame."""
    if isinstance(size, Sequence):
        rows, columns = size
        return rows, columns
    scale = size / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
