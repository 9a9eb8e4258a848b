"""Generated clips of moving shapes, in which no single frame tells how the shapes move.

One of two shapes moves over a still background, and leaves the picture on one side to enter it on the other. Its
position is uniform at all times, so that a frame has the same distribution for all directions and speeds: a network
that sees one frame cannot be better than chance.
"""

from pathlib import Path

import numpy as np

from jaxconv.extras import need

DIRECTIONS = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
SPEEDS = {"slow": 1.0, "fast": 2.5}
CLASSES = tuple(f"{direction}, {speed}" for direction in DIRECTIONS for speed in SPEEDS)
SHAPES = 2
CHUNK = 256


def moving_scenes(count: int, seed: int, *, frames: int = 8, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Returns clips and their classes, in random order, as many of each class as possible.

    Args:
      count: the number of clips.
      seed: a seed; other seeds give other clips.
      frames: the frames of a clip.
      size: the side of a frame, in pixels.

    Returns:
      Clips `(count, frames, size, size, 3)` uint8, and indices of `CLASSES` `(count,)` int32.

    >>> clips, labels = moving_scenes(16, 0)
    >>> clips.shape, np.bincount(labels).tolist()
    ((16, 8, 24, 24, 3), [2, 2, 2, 2, 2, 2, 2, 2])
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES)).astype(np.int32)
    parts = [_drawn(labels[i : i + CHUNK], rng, frames, size) for i in range(0, count, CHUNK)]
    return np.concatenate(parts), labels


def _drawn(labels: np.ndarray, rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
    n = len(labels)
    direction, speed = labels // len(SPEEDS), labels % len(SPEEDS)
    # Directions within 15 degrees of the class's, speeds within 15 percent.
    angle = rng.uniform(-np.pi / 12, np.pi / 12, n)
    pace = np.array([*SPEEDS.values()])[speed] * rng.uniform(0.85, 1.15, n)
    down, right = np.array([*DIRECTIONS.values()])[direction].T
    velocity = pace * np.stack(
        [down * np.cos(angle) + right * np.sin(angle), right * np.cos(angle) - down * np.sin(angle)]
    )
    still = np.zeros((SHAPES, 2, n))
    still[rng.integers(SHAPES, size=n), :, np.arange(n)] = velocity.T

    base = rng.uniform(60, 200, (n, 1, 1, 3))
    scene = (base + _waves(rng, n, size))[:, None].repeat(frames, 1)
    times = np.arange(frames)[:, None]
    grid = np.arange(size, dtype=np.float32)
    for shape in range(SHAPES):
        center = rng.uniform(0, size, (2, n)) + times[..., None] * still[shape]
        # The distance on a torus: what leaves on one side enters on the other.
        dy, dx = np.abs((grid[:, None, None, None] - center + size / 2) % size - size / 2).transpose(2, 3, 1, 0)
        dy, dx = dy[..., :, None].astype(np.float32), dx[..., None, :].astype(np.float32)
        distance = np.choose(
            rng.integers(3, size=n)[:, None, None, None], [np.hypot(dy, dx), np.maximum(dy, dx), (dy + dx) * 0.75]
        )
        radius = rng.uniform(3.0, 5.0, n)[:, None, None, None]
        cover = np.clip(radius - distance + 0.5, 0, 1)[..., None].astype(np.float32)
        color = (base[:, None] + 128 + rng.uniform(-50, 50, (n, 1, 1, 1, 3))) % 256
        scene = scene * (1 - cover) + color.astype(np.float32) * cover
    return np.round(np.clip(scene + rng.normal(0, 3, scene.shape), 0, 255)).astype(np.uint8)


def _waves(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Returns smooth patterns `(n, size, size, 3)`: four of the lowest waves for each color."""
    phase, number = rng.uniform(0, 2 * np.pi, (4, n, 1, 1, 3)), rng.integers(-2, 3, (4, 2, n, 1, 1, 3))
    at = 2 * np.pi * np.arange(size) / size
    y, x = at[:, None, None], at[None, :, None]
    return 20 * np.sin(phase + number[:, 0] * y + number[:, 1] * x).sum(0).astype(np.float32)


def write_videos(folder: Path, clips: np.ndarray, labels: np.ndarray, *, enlarge: int = 4) -> None:
    """Writes clips as MP4 files in a subfolder for each class, each pixel as a square of pixels.

    Raises:
      ModuleNotFoundError: av, of the extra ``video``, is not installed.
    """
    av = need("av", "writing videos", "video")
    for i, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        path = folder / CLASSES[label].replace(", ", "_") / f"{i:05}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=12, options={"crf": "18"})
            stream.width, stream.height, stream.pix_fmt = clip.shape[2] * enlarge, clip.shape[1] * enlarge, "yuv420p"
            for frame in clip.repeat(enlarge, 1).repeat(enlarge, 2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode(None))
