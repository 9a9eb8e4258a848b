"""Clips of videos that stay in their files: folders of classes and tables, read one clip at a time."""

import dataclasses
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.data import tables
from jaxconv.data.dataset import DataError
from jaxconv.data.files import StrPath
from jaxconv.data.folder import TABLES, ImageFolder, checked_classes, from_classes
from jaxconv.data.video import ENDINGS, Size, checked_video_size, open_video
from jaxconv.data.windows import Crop, Random
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VideoFolder:
    """Clips of the videos in files, with their targets: a data set that is read one clip at a time.

    ``source[i]`` is a clip, uint8 RGB `(frames, height, width, 3)`, and its target. `video_folder` makes it: with one
    clip of each video, whose beginning `jaxconv.data.batches` draws anew in each epoch. `evenly` gives clips at fixed
    positions, for evaluation.

    Args:
      files: the names and the targets of the clips' files.
      frames: the frames of a clip.
      stride: the distance between two frames of a clip, in frames of the video, or at ``rate`` in frames of that rate.
      rate: frames in a second, to which videos of any rate are sampled; None for each video's own rate.
      size: the size to which frames are resized, as in `jaxconv.data.read_video`.
      clips: None where the beginning is drawn; or integers `(N, 2)`: each example is clip k of n of its video.

    >>> source = video_folder("videos", 16).evenly(5)   # doctest: +SKIP
    >>> len(source), source.classes                     # doctest: +SKIP
    (10, ('down', 'up'))
    """

    files: ImageFolder
    frames: int
    stride: int = 1
    rate: float | None = None
    size: Size = None
    clips: np.ndarray | None = None

    @property
    def targets(self) -> Any:
        """The targets of the clips."""
        return self.files.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""
        return self.files.classes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        return self.load(index)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"VideoFolder({self.files.root!r}: {len(self)} clips of {self.frames} frames{classes})"

    def load(self, index: int, crop: Crop | None = None, random: Random | None = None) -> tuple[np.ndarray, Any]:
        """Returns a clip, and its target; ``crop`` chooses one window for all frames.

        Raises:
          DataError: the video cannot be read, or is shorter than a clip.
        """
        index = range(len(self))[index]
        random = random or (lambda: 0.0)
        with open_video(self.name(index)) as video:
            step = float(self.stride)
            if self.rate is not None:
                if not video.rate:
                    raise DataError(f"{self.name(index)} must have times to be sampled at a rate, got none")
                step *= video.rate / self.rate
            offsets = np.floor(np.arange(self.frames) * step + 1e-6).astype(int)
            last = video.count - 1 - int(offsets[-1])
            if last < 0:
                raise DataError(
                    f"{self.name(index)} must have at least {offsets[-1] + 1} frames for a clip of {self.frames}, got "
                    f"{video.count}"
                )
            if self.clips is None:
                start = int((last + 1) * random())
            else:
                clip, count = self.clips[index].tolist()
                start = clip * last // (count - 1) if count > 1 else last // 2
            return video.read((start + offsets).tolist(), self.size, crop, random), self.files.target(index)

    def name(self, index: int) -> str:
        """Returns the path of a clip's video."""
        return self.files.name(index)

    def take(self, indices: Any) -> "VideoFolder":
        """Returns the clips of some indices, such as those that `jaxconv.data.split` gives.

        >>> kept, held_out = jc.data.split(source.targets, 0.1, seed=0)                  # doctest: +SKIP
        >>> training, validation = source.take(kept), source.take(held_out).evenly(5)   # doctest: +SKIP
        """
        files = self.files.take(indices)
        clips = None if self.clips is None else self.clips[np.asarray(indices)]
        return dataclasses.replace(self, files=files, clips=clips)

    def evenly(self, clips: int) -> "VideoFolder":
        """Returns ``clips`` clips of each video: the first at its beginning, the last at its end, one in the middle.

        The clips of a video follow each other, so that ``scores.reshape(videos, clips, -1).mean(1)`` are the scores of
        the videos.

        Raises:
          ArgumentError: ``clips`` is below 1, or the clips are at fixed positions already.

        Equals torchvision's ``UniformClipSampler`` and PyTorchVideo's ``ConstantClipsPerVideoSampler`` for several
        clips; of one clip they take the beginning.
        """
        count = as_int(clips, "clips", least=1)
        if self.clips is not None:
            raise ArgumentError(f"evenly must be called once, got {self!r}, whose clips are at fixed positions")
        files = self.files.take(np.repeat(np.arange(len(self)), count))
        numbers = np.tile(np.arange(count), len(self))
        return dataclasses.replace(self, files=files, clips=np.stack([numbers, np.full_like(numbers, count)], 1))

    def fingerprint(self) -> str:
        """Returns a hash by which a checkpoint recognizes the data set."""
        clips = "drawn" if self.clips is None else f"{zlib.crc32(np.ascontiguousarray(self.clips).tobytes()):08x}"
        sampling = (self.frames, self.stride, self.rate, self.size, clips)
        return f"{self.files.fingerprint()}, frames {zlib.crc32(repr(sampling).encode()):08x}"


def video_folder(
    path: StrPath,
    frames: int,
    *,
    stride: int = 1,
    rate: float | None = None,
    size: Size = None,
    classes: Sequence[str] | None = None,
) -> VideoFolder:
    """Returns clips of the videos in a folder of classes or in a table, with their targets. No video is read yet.

    A folder has a subfolder for each class, such as `videos/wave/1.mp4`; a table, `.csv` or `.jsonl`, has a column
    `path`; both as `jaxconv.data.image_folder` reads them. A clip has ``frames`` frames, ``stride`` apart. Passed to
    `jaxconv.data.batches`, its beginning is a function of the key, the epoch and the clip's index, all beginnings
    within the video are equally likely, and a ``crop`` cuts the same window of all its frames.

    Args:
      path: the folder, or the table.
      frames: the frames of a clip, 16 or 32 usually.
      stride: the distance between two frames of a clip; 2 takes every second frame.
      rate: frames in a second, such as 15: frames are taken at this rate from videos of any rate, before ``stride``.
        None takes the frames as they are.
      size: the frames' size: an int for the shorter side, or (rows, columns); None leaves it unchanged.
      classes: the classes' names, as in `jaxconv.data.image_folder`.

    Raises:
      DataError: as `jaxconv.data.image_folder`. Videos that cannot be read, or are shorter than a clip, are errors when
        they are read; ``batches(..., broken="skip")`` skips and lists them.
      ArgumentError: an argument is out of range.
      OSError: ``path`` does not exist.

    >>> source = video_folder("videos", 16, stride=2, size=(128, 171))   # doctest: +SKIP
    >>> source[0][0].shape                                               # doctest: +SKIP
    (16, 128, 171, 3)
    """
    as_int(frames, "frames", least=1)
    as_int(stride, "stride", least=1)
    if rate is not None and not 0 < rate < float("inf"):
        raise ArgumentError(f"rate must be positive and finite, or None, got {rate!r}")
    checked_video_size(size)
    names = checked_classes(classes)
    path = Path(path).expanduser()
    if path.is_dir():
        files = from_classes(path, names, ENDINGS, "video")
    else:
        os.stat(path)
        if path.suffix.lower() not in TABLES:
            raise DataError(f"{path} must be a folder of videos or a table ({', '.join(TABLES)})")
        listed, targets = tables.read_table(path, names, "video")
        files = ImageFolder(str(path.parent), listed, targets, names)
    return VideoFolder(files, frames, stride, rate, size)
