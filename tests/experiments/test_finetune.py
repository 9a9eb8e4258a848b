"""What moves and what does not, the user's folder, and a whole run on a small network in the learned one's place."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import jaxconv as jc
from experiments import finetune, pretrained

TRAINED = ["_blocks.1", "_fc"]


def small(classes=5):
    block = jc.serial(_conv=jc.Conv(4, 3, stride=2), _bn=jc.BatchNorm(), _relu=jax.nn.relu)
    return jc.serial(
        _conv_stem=jc.Conv(4, 3, stride=2),
        _bn0=jc.BatchNorm(),
        _blocks=jc.serial(block, block),
        _pool=jc.GlobalAvgPool(),
        _fc=jc.Dense(classes),
    )


def test_only_what_is_named_moves_weight_decay_included():
    params, _ = small().init(jax.random.key(0), (1, 16, 16, 3))
    optimizer = finetune.optimizer(0.1, TRAINED)(10)
    grads = jax.tree.map(jnp.ones_like, params)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
    for keys, update in jax.tree_util.tree_leaves_with_path(updates):
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        assert bool(update.any()) == path.startswith(("_blocks.1.", "_fc.")), path


def test_a_name_that_is_the_beginning_of_another_trains_neither():
    labels = finetune.labels_of({"_blocks": {"1": 0, "10": 0, "15": {"a": 0}}}, ["_blocks.15", "_blocks.1"])
    assert labels == {"_blocks": {"1": "frozen", "10": "frozen", "15": {"a": "trained"}}}


# --- The user's folder ------------------------------------------------------------------------------------------------


def paint(path, color, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_a_folder_of_subfolders_is_a_data_set(tmp_path):
    for i in range(5):
        paint(tmp_path / "red" / f"{i}.png", (200 + i, 0, 0))
        paint(tmp_path / "blue" / "more" / f"{i}.JPG", (0, 0, 200 + i))
    (tmp_path / "red" / "notes.txt").write_text("not an image, and not taken for one")
    (tmp_path / "empty").mkdir()
    data = finetune.read_folder(tmp_path, 16, quiet=True)
    assert data.classes == ("blue", "red")
    assert data.train_images.shape == (8, 16, 16, 3)
    assert sorted(data.test_labels) == [0, 1]
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert_array_equal(images[..., 0].mean(axis=(1, 2)) > images[..., 2].mean(axis=(1, 2)), labels == 1)


def test_a_folder_without_classes_is_refused(tmp_path):
    paint(tmp_path / "red" / "0.png", (200, 0, 0))
    with pytest.raises(ValueError, match="two subfolders with at least two images each, got red: 1"):
        finetune.read_folder(tmp_path, 16, quiet=True)


def test_files_that_an_explorer_hides_are_no_images(tmp_path):
    for name in ("red", "blue"):
        for i in range(2):
            paint(tmp_path / name / f"{i}.png", (200, 0, 0))
    (tmp_path / "red" / "._0.png").write_bytes(b"not an image")
    (tmp_path / ".DS_Store").write_bytes(b"not a class")
    for name in (".ipynb_checkpoints", "lost+found", "red/.ipynb_checkpoints", "__MACOSX/red"):
        paint(tmp_path / name / "0.png", (0, 200, 0))
    data = finetune.read_folder(tmp_path, 16, quiet=True)
    assert len(data.train_images) == 2
    assert data.classes == ("blue", "red")
    assert not data.train_images[..., 1].any()


def test_an_image_that_is_none_is_named(tmp_path):
    for name in ("red", "blue"):
        for i in range(2):
            paint(tmp_path / name / f"{i}.png", (200, 0, 0))
    (tmp_path / "red" / "0.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"red/0.png is not an image"):
        finetune.read_folder(tmp_path, 16, quiet=True)


# --- A whole run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stripes(tmp_path):
    """Two classes of photographs, stripes across and down."""
    random = np.random.default_rng(0)
    for i in range(20):
        for name in ("across", "down"):
            stripes = np.zeros((32, 32, 3), np.uint8)
            stripes[random.integers(0, 2) :: 4] = random.integers(100, 255, 3)
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            image = stripes if name == "across" else stripes.transpose(1, 0, 2)
            Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def learned(monkeypatch):
    """A small network in the place of the one with real weights."""
    net = small()
    params, state = net.init(jax.random.key(3), (1, 16, 16, 3))
    monkeypatch.setattr(jc.models, "efficientnet_lite0", small)
    answer = pretrained.Pretrained(net, params, state, pretrained.scaled_around_127)
    monkeypatch.setattr(pretrained, "efficientnet_lite0", lambda path: answer)


@pytest.mark.slow
def test_both_runs_are_reported(learned, stripes, tmp_path):
    out = tmp_path / "out"
    metrics = finetune.main(
        f"--folder {stripes} --size 16 --epochs 3 --batch 8 --train _blocks.1 --quiet --out {out}".split()
    )
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert (out / "report.html").stat().st_size > 10_000
    assert metrics["train_images"] == 32
    assert metrics["test_images"] == 8
    tuned, scratch = metrics["runs"].values()
    assert tuned["trained_parameters"] == 4 * 2 + 2 + (3 * 3 * 4 * 4 + 4 + 4 + 4)
    assert scratch["trained_parameters"] > 2 * tuned["trained_parameters"]
    assert all(0 <= run["test_accuracy"] <= 1 for run in metrics["runs"].values())


def test_a_layer_that_is_not_there_is_named(learned, stripes, tmp_path):
    with pytest.raises(ValueError, match=r"--train must name a layer of net, got '_block.1': nearest are '_blocks.1'"):
        finetune.main(f"--folder {stripes} --train _block.1 --quiet --out {tmp_path / 'out'}".split())
    assert not (tmp_path / "out").exists()
