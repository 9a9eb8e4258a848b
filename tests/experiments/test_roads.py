"""The baseline against a loop, tiles and their loss, a whole small run, and the figures on the real image."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import jaxconv as jc
from experiments import masks, nuclei, report, roads


def town(size=(96, 192), seed=0):
    """A gray image with darker stripes, its roads, among brighter and darker blocks."""
    random = np.random.default_rng(seed)
    image = random.normal(1000, 60, size)
    for _ in range(12):
        y, x = (int(random.integers(0, n)) for n in size)
        image[y : y + 14, x : x + 14] += random.choice([-500, 500])
    road = np.zeros(size, bool)
    road[40:50], road[:, 60:68], road[:, 130:138] = True, True, True
    image[road] = random.normal(650, 25, road.sum())
    return image.astype(np.uint16), (road * 255).astype(np.uint8)


def test_the_baseline_has_the_best_of_all_thresholds():
    image, mask = town((48, 70))
    pair = masks.pair("a", image[..., None], mask[..., None])
    found = roads.best_thresholds([pair], levels=12)
    got = masks.iou(found(pair.image), pair.mask > 0)
    best = 0
    for smoothing in (0.0, 1.0, 2.0, 4.0, 8.0):
        values = roads.smoothed(pair.image, smoothing)
        edges = np.quantile(values, np.linspace(0, 1, 13))
        for low in edges:
            for high in edges[edges > low]:
                best = max(best, masks.iou((values >= low) & (values < high), pair.mask > 0))
    assert got == pytest.approx(best, abs=0.02)
    assert best > 0.5


def test_the_level_with_the_best_iou_is_taken():
    _, mask = town((48, 70))
    pair = masks.pair("a", mask[..., None], mask[..., None])
    probabilities = np.where(mask > 0, 0.32, 0.27)
    assert roads.best_level([probabilities], [pair]) == pytest.approx(0.3)


def test_tiles_of_an_image_that_is_too_small_are_continued_with_pixels_that_do_not_count():
    image, mask = town((40, 100))
    images, labels = roads.tiles([masks.pair("a", image[..., None], mask[..., None])], 3, 64, 1, seed=0)
    assert images.shape == (3, 64, 64, 1)
    assert_array_equal(labels[:, 40:], roads.IGNORED)
    columns = [mask[:, left : left + 64] > 0 for left in range(37)]
    assert all(any(np.array_equal(tile[:40], part) for part in columns) for tile in labels)
    scores = np.random.default_rng(0).normal(size=(3, 64, 64, 1)).astype(np.float32)
    other = scores.copy()
    other[:, 40:] = 9
    assert_array_equal(roads.loss(scores, labels), roads.loss(other, labels))
    assert (np.asarray(roads.loss(scores, labels)) > 0.5).all()
    right = np.where(labels[..., None] > 0, 20, -20).astype(np.float32)
    assert_allclose(roads.loss(right, labels), 0, atol=1e-3)


def test_images_and_roads_move_alike():
    _, mask = town((64, 64))
    images = np.stack([mask / 255.0] * 4)[..., None].astype(np.float32)
    labels = np.stack([mask > 0] * 4).astype(np.int8)
    moved, roads_moved = jax.jit(roads.augment)(jax.random.key(0), images, labels)
    known = np.asarray(roads_moved) != roads.IGNORED
    for one, label, there in zip(np.asarray(moved)[..., 0], np.asarray(roads_moved), known, strict=True):
        bright, dark = one[there & (label == 1)], one[there & (label == 0)]
        assert np.median(bright) > np.median(dark) + 0.5
    assert not known.all()


def test_smaller_images_are_means():
    image = np.arange(5 * 7.0).reshape(5, 7, 1)
    got = masks.smaller(image, 2)
    assert got.shape == (3, 4, 1)
    assert got[0, 0, 0] == image[:2, :2].mean()
    assert got[2, 3, 0] == image[4, 6, 0]


@pytest.fixture
def data(tmp_path):
    image, mask = town()
    Image.fromarray(image).save(tmp_path / "road_mask_input.tif")
    Image.fromarray(mask).save(tmp_path / "sample_road_raster_mask.tif")
    return tmp_path


def test_the_network_scores_each_pixel():
    assert jc.inspect.trace(roads.network(4), (1, 64, 96, 1))[-1].output.shape == (1, 64, 96, 1)


def test_a_small_run_trains_finds_and_compares(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(roads, "network", lambda width: jc.serial(jc.Conv(width, 5), jax.nn.relu, jc.Conv(1, 3)))
    out = tmp_path / "out"
    options = f"--data {data} --out {out} --epochs 1 --tiles 8 --batch 4 --tile 64 --scale 1 --width 4 --quiet"
    metrics = roads.main(options.split())
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert set(metrics["iou"]) == {"D-LinkNet", "thresholds"}
    assert all(0 <= value <= 1 for value in metrics["iou"].values())
    assert (out / "report.html").stat().st_size > 10_000
    own = tmp_path / "mine.tif"
    Image.fromarray(town((70, 50), seed=2)[0]).save(own)
    again = roads.main([*options.split(), "--resume", "--image", str(own)])
    assert again["iou"] == metrics["iou"]
    for name in ("mine_roads.png", "mine_overlay.png"):
        with Image.open(out / name) as written:
            assert written.size == (50, 70)
    assert "of the pixels are roads" in capsys.readouterr().out
    # The weights alone find the same roads, with the options of their run.
    used = f"--weights {out / 'weights.safetensors'} --image {own} --out {tmp_path / 'used'}".split()
    assert roads.main(used)["roads"]["mine"] >= 0
    with Image.open(out / "mine_roads.png") as first, Image.open(tmp_path / "used/mine_roads.png") as second:
        assert_array_equal(np.asarray(first), np.asarray(second))
    assert {path.name for path in (tmp_path / "used").iterdir()} == {"mine_roads.png", "mine_overlay.png"}


def test_weights_need_their_run_and_images(tmp_path):
    weights = tmp_path / "weights.safetensors"
    for command in (roads, nuclei):
        for arguments, error, message in [
            ("", ValueError, "--weights needs --image"),
            ("--image a.png --resume", ValueError, "--weights must come without --data, --folder and --resume"),
        ]:
            with pytest.raises(error, match=message):
                command.main(f"--weights {weights} {arguments} --out {tmp_path / 'out'}".split())
    with pytest.raises(FileNotFoundError, match=r"--weights must be .* an earlier run, .*safetensors does not exist"):
        report.metrics_of(weights)
    weights.write_bytes(b"")
    for text in ("{}", '{"arguments": {"width": 16}}'):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.json must be written by an earlier run of this command"):
            report.metrics_of(weights, "width", "tile")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_before_anything_is_written(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="--tile must be a multiple of 64, got 96"):
        roads.main(f"--data {data} --out {out} --tile 96".split())
    color = tmp_path / "color.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(color)
    with pytest.raises(ValueError, match=r"color.png must have 1 channel, as road_mask_input.tif has, got 3"):
        roads.main(f"--data {data} --out {out} --image {color}".split())
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(data / "sample_road_raster_mask.tif")
    with pytest.raises(ValueError, match="the mask must have the size of the image, 192 x 96, got 9 x 9"):
        roads.main(f"--data {data} --out {out}".split())
    assert not out.exists()


@pytest.mark.slow
def test_roads_of_the_real_image(tmp_path):
    try:
        masks.from_package("solaris", roads.FILES, roads.INSTALL)
    except FileNotFoundError:
        pytest.skip("the package solaris is not installed")
    metrics = roads.main(["--out", str(tmp_path / "out"), "--quiet"])
    assert metrics["iou"]["D-LinkNet"] > metrics["iou"]["thresholds"] + 0.1
