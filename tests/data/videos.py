"""Small videos that tests write, of known frames."""

import av
import numpy as np

# Lossless, so that the frames read are those written.
LOSSLESS = {"codec": "ffv1", "pixels": "bgr0"}


def shades(count, height=24, width=32, first=10):
    """Returns frames `(count, height, width, 3)` uint8 whose red tells their number; no two columns are equal."""
    red = np.broadcast_to((first + 3 * np.arange(count))[:, None, None], (count, height, width))
    rows, columns = np.mgrid[0:height, 0:width]
    rest = np.broadcast_to(np.stack([5 * rows, 7 * columns], -1), (count, height, width, 2))
    return np.concatenate([red[..., None], rest], -1).astype(np.uint8)


def write_video(path, frames, *, codec="libx264", pixels="yuv420p", rate=10, start=0, options=None, container=None):
    """Writes a video; ``options`` are the codec's, ``container`` those of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        for number, pixel in enumerate(frames, start):
            frame = av.VideoFrame.from_ndarray(pixel, "rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def video_classes(path, counts=(("down", 3), ("up", 4)), frames=12):
    """Writes a folder of lossless videos with a subfolder for each class, and returns its path."""
    number = 0
    for name, count in counts:
        for i in range(count):
            write_video(path / name / f"{i}.mkv", shades(frames, first=10 + 30 * number), **LOSSLESS)
            number += 1
    return path
