"""Clips of videos in files: where they begin, one crop for all frames, and the loader's order, shards and errors."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxconv.data import CenterCrop, DataError, RandomResizedCrop, batches, read_video, split, video_folder
from jaxconv.errors import ArgumentError

pytest.importorskip("av", reason="av reads and writes the videos: pip install av")

from tests.data.videos import LOSSLESS, shades, video_classes, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return video_classes(tmp_path_factory.mktemp("videos"))


def numbers(clip):
    """Returns the positions of a clip's frames in the first video of `video_classes`, modulo those of the others."""
    return (clip[:, 0, 0, 0].astype(int) - 10) // 3 % 10


def test_a_folder_of_classes(folder):
    (folder / "up" / "notes.txt").write_text("no video")
    source = video_folder(folder, 4, stride=3)
    assert (len(source), source.classes, source.targets.tolist()) == (7, ("down", "up"), [0, 0, 0, 1, 1, 1, 1])
    clip, label = source[3]
    assert label == 1
    # Nothing draws the beginning here.
    assert_array_equal(clip, read_video(folder / "up" / "0.mkv", [0, 3, 6, 9]), strict=True)
    assert video_folder(folder, 4, size=12)[0][0].shape == (4, 12, 16, 3)
    assert repr(source) == f"VideoFolder({str(folder)!r}: 7 clips of 4 frames, 2 classes)"
    with pytest.raises(IndexError):
        source[7]


def test_a_table(folder):
    table = folder / "table.csv"
    table.write_text("path,speed\ndown/1.mkv,0.5\nup/2.mkv,2\n")
    source = video_folder(table, 12)
    assert_array_equal(source.targets, np.array([0.5, 2], np.float32))
    assert_array_equal(source[1][0], read_video(folder / "up" / "2.mkv"))
    table.write_text("path,speed\ndown/1.mkv,0.5\nup/9.mkv,2\n")
    with pytest.raises(DataError, match=r"line 3: the video .*9\.mkv does not exist"):
        video_folder(table, 12)
    table.unlink()


def test_beginnings_are_drawn_evenly_by_key_epoch_and_clip(folder):
    # 12 frames, clips that span 4: nine beginnings.
    source = video_folder(folder, 2, stride=3)
    loader = batches(source, 7, key=0)

    def begun(loader, epoch):
        ((clips, _),) = loader.epoch(epoch)
        return [int(numbers(clip)[0]) for clip in clips]

    first = [begun(loader, epoch) for epoch in range(20)]
    assert first[:3] == [begun(batches(source, 7, key=0, workers=3, ahead=5), epoch) for epoch in range(3)]
    assert first[0] != first[1]
    assert first[0] != begun(batches(source, 7, key=1), 0)
    counts = np.bincount(np.ravel(first), minlength=9)
    # 140 draws of nine: each 16 times, within five standard deviations.
    assert len(counts) == 9
    assert abs(counts - 140 / 9).max() < 5 * np.sqrt(140 / 9)


def test_even_clips_cover_the_video(folder):
    source = video_folder(folder, 3, stride=2)
    # 12 frames, a span of 5: the last beginning is 7.
    for clips, begins in ((1, [3]), (2, [0, 7]), (3, [0, 3, 7]), (8, list(range(8)))):
        even = source.evenly(clips)
        assert len(even) == 7 * clips
        assert_array_equal(even.targets, np.repeat(source.targets, clips))
        for i, begin in enumerate(begins):
            assert_array_equal(numbers(even[clips + i][0]), (begin + np.array([0, 2, 4])) % 10)
            assert even.name(clips + i) == source.name(1)
    # Even without a key nothing is drawn.
    one, other = (np.concatenate([x for x, _ in batches(source.evenly(3), 4).epoch(n)]) for n in (0, 5))
    assert_array_equal(one, other)
    with pytest.raises(ArgumentError, match="evenly must be called once"):
        source.evenly(2).evenly(2)


def test_parts_keep_their_clips(folder):
    source = video_folder(folder, 3)
    kept, held_out = split(source.targets, 0.3, seed=0)
    part = source.take(held_out)
    assert [part.name(i) for i in range(len(part))] == [source.name(i) for i in held_out]
    even = source.evenly(4)
    assert_array_equal(even.take([5, 27])[1][0], even[27][0])
    prints = [s.fingerprint() for s in (source, source.take(kept), even, source.evenly(2), even.take([0, 1]))]
    prints += [video_folder(folder, 3, stride=2).fingerprint(), video_folder(folder, 3, size=8).fingerprint()]
    assert len(set(prints)) == len(prints)
    assert source.fingerprint() == video_folder(folder, 3).fingerprint()


def test_a_rate_samples_videos_of_other_rates_alike(tmp_path):
    # 30 frames a second, of which 12 a second are taken: every 2.5-th, rounded down, as torchvision resamples.
    for name in ("a", "b"):
        write_video(tmp_path / name / "1.mkv", shades(40), rate=30, **LOSSLESS)
    source = video_folder(tmp_path, 5, rate=12)
    assert ((source[0][0][:, 0, 0, 0].astype(int) - 10) // 3).tolist() == [0, 2, 5, 7, 10]
    assert ((dataclasses.replace(source, stride=2)[0][0][:, 0, 0, 0] - 10) // 3).tolist() == [0, 5, 10, 15, 20]
    same = video_folder(tmp_path, 5, rate=30)
    assert ((same[0][0][:, 0, 0, 0].astype(int) - 10) // 3).tolist() == [0, 1, 2, 3, 4]


def test_a_crop_is_the_same_for_all_frames(tmp_path):
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3)).astype(np.uint8), 6, 0)
    for name in ("a", "b"):
        write_video(tmp_path / name / "1.mkv", still, **LOSSLESS)
    loader = batches(video_folder(tmp_path, 4), 2, key=0, crop=RandomResizedCrop(12))
    seen = [clip for epoch in range(8) for clip in next(loader.epoch(epoch))[0]]
    for clip in seen:
        assert clip.shape == (4, 12, 12, 3)
        assert (clip == clip[:1]).all()
    assert len({clip.tobytes() for clip in seen}) > 12
    center, _ = next(iter(batches(video_folder(tmp_path, 4), 2, crop=CenterCrop(24, 1.0))))
    assert_array_equal(center[0], still[:4, :, 4:28])


def test_shards_and_resuming_are_those_of_one_run(folder):
    source = video_folder(folder, 4)
    options = {"key": 3, "remainder": "drop", "crop": RandomResizedCrop(8)}
    whole = list(batches(source, 2, **options).epoch(1))
    parts = [list(batches(source, 2, shard=(i, 2), **options).epoch(1)) for i in range(2)]
    for step, (clips, labels) in enumerate(whole):
        assert_array_equal(clips, np.concatenate([part[step][0] for part in parts]))
        assert_array_equal(labels, np.concatenate([part[step][1] for part in parts]))
    loader = batches(source, 2, **options)
    next(iter(loader))
    state = loader.state()
    other = batches(source, 2, **options)
    other.restore(state)
    assert_array_equal(next(iter(other))[0], list(batches(source, 2, **options).epoch(0))[1][0])
    with pytest.raises(DataError, match="state must be of these batches, whose data is"):
        batches(video_folder(folder, 4, stride=2), 2, **options).restore(state)


@pytest.fixture
def damaged(tmp_path):
    """Seven videos of which one is text, one has one frame, and one is shorter than a clip."""
    path = video_classes(tmp_path / "videos")
    (path / "down" / "0.mkv").write_text("no video")
    write_video(path / "up" / "1.mkv", shades(1), **LOSSLESS)
    write_video(path / "up" / "2.mkv", shades(3), **LOSSLESS)
    return path


def test_broken_videos_raise_or_are_skipped_and_listed(damaged):
    source = video_folder(damaged, 4)
    with pytest.raises(DataError, match=r"0\.mkv is no video"):
        list(batches(source, 7))
    loader = batches(source, 7, broken="skip")
    ((clips, labels),) = loader
    assert (clips.shape, labels.tolist()) == ((4, 4, 24, 32, 3), [0, 0, 1, 1])
    assert sorted(name.rsplit("/", 2)[1:] for name in loader.skipped) == [
        ["down", "0.mkv"],
        ["up", "1.mkv"],
        ["up", "2.mkv"],
    ]
    assert "2.mkv must have at least 4 frames for a clip of 4, got 3" in loader.skipped[str(damaged / "up" / "2.mkv")]
    assert "at least 2 frames, got 1" in loader.skipped[str(damaged / "up" / "1.mkv")]
    with pytest.raises(DataError, match=r"must have at least 10 frames for a clip of 4, got 3"):
        video_folder(damaged, 4, stride=3)[5]
    padded = batches(source, 7, broken="skip", remainder="pad")
    assert next(iter(padded))[2].tolist() == [False, True, True, True, False, False, True]


def test_folders_that_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match=r"a subfolder of videos for each class, got no videos; video files end with"):
        video_folder(tmp_path, 4)
    video_classes(tmp_path, [("x", 1)], 2)
    with pytest.raises(DataError, match="must have videos of at least two classes, got only 'x'"):
        video_folder(tmp_path, 4)
    (tmp_path / "1.tar").touch()
    with pytest.raises(DataError, match=r"1\.tar must be a folder of videos or a table"):
        video_folder(tmp_path / "1.tar", 4)
    with pytest.raises(FileNotFoundError):
        video_folder(tmp_path / "nowhere", 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"rate": 0}, "rate must be positive and finite, or None, got 0"),
        ({"rate": float("nan")}, "rate must be positive"),
        ({"size": 0}, "size must be at least 1, got 0"),
    ],
)
def test_arguments_that_are_refused(folder, options, message):
    with pytest.raises(ArgumentError, match=message):
        video_folder(folder, **{"frames": 4, **options})
