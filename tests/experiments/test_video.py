"""Generated motion, the command end to end on small networks and on the user's files, and its target."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from experiments import moving, video
from experiments.moving import CLASSES, DIRECTIONS, SPEEDS, moving_scenes


def small(classes, *, width):
    return jc.serial(
        layer1=jc.serial(jc.Conv(width, (3, 3, 3)), jax.nn.relu), pool=jc.GlobalAvgPool(rank=3), fc=jc.Dense(classes)
    )


@pytest.fixture(autouse=True)
def small_networks(request, monkeypatch):
    if "slow" not in request.keywords:
        for name in video.MODELS:
            monkeypatch.setitem(video.MODELS, name, small)
        stream = lambda classes: jc.serial(jc.Conv(2, 3), jax.nn.relu, jc.GlobalAvgPool(), jc.Dense(classes))  # noqa: E731
        monkeypatch.setattr(video, "STREAM", stream)


def positions(clips):
    """Returns the middle of the one shape of each frame, `(clips, frames, 2)`: rows and columns on the torus."""
    size = clips.shape[2]
    base = np.median(clips, (2, 3), keepdims=True)
    mask = np.abs(clips - base).max(-1) > 40
    turn = np.exp(2j * np.pi * np.arange(size) / size)
    sums = np.stack([mask.any(3) @ turn, mask.any(2) @ turn], -1)
    return np.angle(sums) * size / (2 * np.pi)


@pytest.fixture
def alone(monkeypatch):
    """Scenes of one shape on a plain background."""
    monkeypatch.setattr(moving, "SHAPES", 1)
    monkeypatch.setattr(moving, "_waves", lambda rng, n, size: np.zeros((n, size, size, 3), np.float32))


def test_shapes_move_as_their_classes_say(alone):
    clips, labels = moving_scenes(64, 0)
    assert np.bincount(labels).tolist() == [8] * 8
    steps = (np.diff(positions(clips), axis=1) + 12) % 24 - 12
    mean = steps.mean(1)
    for velocity, label in zip(mean, labels, strict=True):
        direction, speed = CLASSES[label].split(", ")
        pace = np.hypot(*velocity)
        assert 0.8 < pace / SPEEDS[speed] < 1.2
        assert velocity @ DIRECTIONS[direction] > np.cos(np.radians(20)) * pace


def test_a_frame_does_not_tell_the_class(alone):
    clips, labels = moving_scenes(512, 0, frames=4)
    at = np.exp(2j * np.pi * positions(clips) / 24)
    for label in range(8):
        # The mean of n uniform directions is 1 / sqrt(n) long.
        assert np.abs(at[labels == label].mean(0)).max() < 4 / np.sqrt(64)


def test_scenes_are_those_of_their_seed():
    clips, labels = moving_scenes(9, 5, frames=3, size=10)
    assert (clips.shape, clips.dtype, labels.dtype) == ((9, 3, 10, 10, 3), np.uint8, np.int32)
    assert_array_equal(moving_scenes(9, 5, frames=3, size=10)[0], clips)
    assert (moving_scenes(9, 6, frames=3, size=10)[0] != clips).any()


def test_clips_to_train_on_to_test_on_and_for_validation_differ():
    data = video.generated(video.parser().parse_args(["--clips", "9", "--test-clips", "6", "--size", "12"]))
    assert [len(clips) for clips in (data.inputs, data.test_inputs, data.validation[0])] == [9, 6, 3]
    clips = np.concatenate([data.inputs, data.test_inputs, data.validation[0]])
    assert len(np.unique(clips, axis=0)) == 18


def test_curves_of_networks_with_and_without_validation():
    rows = [{"epoch": e, "loss": 1 / e, "accuracy": 0.1 * e} for e in (1, 2)]
    tested = [row | {"validation_loss": 2.0, "validation_accuracy": 0.05 * row["epoch"]} for row in rows]
    loss, accuracy = video.learning_curves({"a": rows, "b": tested}, 0.125).axes
    assert [line.get_label() for line in loss.lines] == ["a: loss", "b: loss", "b: validation loss"]
    assert_array_equal(accuracy.lines[2].get_xydata(), [[1, 0.05], [2, 0.1]])
    assert accuracy.lines[3].get_ydata()[0] == 0.125


def test_flow_is_the_motion():
    pytest.importorskip("skimage")
    scene = jax.random.uniform(jax.random.key(0), (1, 6, 6, 3))
    still = np.asarray(jc.resize(scene, (24, 24)) * 255).astype(np.uint8)
    clip = np.stack([np.roll(still[0], (t, -2 * t), (0, 1)) for t in range(3)])[None]
    flow = video.optical_flow(clip, quiet=True)
    assert flow.shape == (1, 24, 24, 4)
    inside = flow[0, 6:-6, 6:-6].reshape(-1, 4)
    assert np.abs(np.median(inside, 0) - [1, -2, 1, -2]).max() < 0.3
    colors = video.flow_colors(flow[0])
    assert colors.shape == (2, 24, 24, 3)
    assert 0 <= colors.min() <= colors.max() <= 1


def test_generated_scenes_from_training_to_the_report(tmp_path):
    pytest.importorskip("skimage")
    arguments = (
        "--models mc3 --clips 32 --test-clips 16 --flow-clips 16 --size 12 --frames 4 --width 2 --epochs 1 --quiet"
    )
    metrics = video.main([*arguments.split(), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert list(metrics["runs"]) == [
        "mc3",
        "mc3, one frame",
        "spatial stream (one frame)",
        "temporal stream (flow)",
        "two streams",
    ]
    assert (metrics["test_videos"], metrics["chance"]) == (16, 0.125)
    assert list(metrics["history"]) == ["mc3", "mc3, one frame"]
    ((row,), _) = metrics["history"].values()
    assert list(row) == ["epoch", "loss", "accuracy", "validation_loss", "validation_accuracy"]
    # Eight clips, half of those to test on.
    assert row["validation_accuracy"] * 8 == round(row["validation_accuracy"] * 8)
    assert (tmp_path / "out" / "strip.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "curves.png").exists()


def test_the_users_videos(tmp_path):
    pytest.importorskip("av", reason="av writes and reads the videos: pip install av")
    files, out = tmp_path / "videos", tmp_path / "out"
    assert video.main(["--clips", "40", "--size", "12", "--frames", "6", "--write", str(files), "--quiet"]) == {}
    assert len(list(files.glob("*/*.mp4"))) == 40
    net = small(400, width=2)
    arrays = net.init(jax.random.key(0), (1, 4, 12, 12, 3))
    jc.weights.write(tmp_path / "published.safetensors", jc.weights.to_torch(net, *arrays))
    arguments = ["--folder", str(files), "--models", "mc3", "--width", "2", "--frames", "4", "--size", "12", "--quiet"]
    arguments += ["--weights", str(tmp_path / "published.safetensors"), "--epochs", "1", "--views", "2"]
    metrics = video.main([*arguments, "--flip", "--out", str(out)])
    assert list(metrics["runs"]) == ["mc3", "mc3, one frame"]
    assert list(metrics["history"]["mc3"][0]) == ["epoch", "loss", "accuracy"]
    assert (metrics["test_videos"], len(metrics["classes"])) == (8, 8)
    assert (out / "report.html").exists()
    # A file that cannot be read is named.
    broken = next(files.glob("*/*.mp4"))
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(jc.data.DataError, match=broken.name):
        video.main([*arguments, "--out", str(out)])


def test_each_class_has_videos_to_train_on_and_to_test_on():
    labels = np.repeat([0, 1, 2], [2, 3, 20])
    for seed in range(5):
        kept, held_out = video.divided(labels, ["wave", "clap", "run"], seed)
        assert np.bincount(labels[kept]).tolist() == [1, 2, 16]
        assert np.bincount(labels[held_out]).tolist() == [1, 1, 4]
        assert sorted([*kept, *held_out]) == list(range(25))
    with pytest.raises(ValueError, match="at least 2 videos of each class, one of them to test on, got 1 of clap"):
        video.divided(np.array([0, 0, 1]), ["wave", "clap"], 0)


def test_published_weights_have_new_scores_only(tmp_path):
    net = small(7, width=2)
    params, state = net.init(jax.random.key(1), (1, 4, 8, 8, 3))
    jc.weights.write(tmp_path / "a.safetensors", jc.weights.to_torch(net, params, state))
    arguments = ["--weights", str(tmp_path / "a.safetensors"), "--frames", "4", "--size", "8", "--width", "2"]
    found, _ = video.with_weights(video.parser().parse_args(arguments), "r3d", 3)
    assert_array_equal(found["layer1"]["0"]["kernel"], params["layer1"]["0"]["kernel"])
    assert found["fc"]["kernel"].shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "a.pth"], "--models must be the one network of --weights, got r2plus1d mc3"),
        (["--weights", "a.pth", "--models", "mc3"], "--weights must come with --folder"),
        (["--write", "a", "--folder", "b"], "--write must come without --folder"),
    ],
)
def test_arguments_that_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        video.main([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_motion_is_recognized_and_one_frame_is_at_chance(tmp_path):
    runs = video.main(["--quiet", "--out", str(tmp_path)])["runs"]
    accuracy = {name: run["test_accuracy"] for name, run in runs.items()}
    assert accuracy["r2plus1d"] >= 0.9  # three runs have 0.934, 0.971 and 0.980
    assert accuracy["mc3"] >= 0.95
    # Chance is 1/8: of 512 clips within four standard deviations.
    for name in ("r2plus1d, one frame", "spatial stream (one frame)"):
        assert abs(accuracy[name] - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / 512)
    assert accuracy["temporal stream (flow)"] >= 0.9
