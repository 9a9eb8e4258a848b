"""Training on a folder of images, end to end: generated images, a small network, and a run that is continued."""

import json

import jax
import numpy as np
import optax
import pytest

import jaxconv as jc
from experiments import imagenet_train
from tests.data.photos import jpeg


def small(classes):
    return jc.serial(
        conv=jc.Conv(8, 3, stride=2), bn=jc.BatchNorm(), relu=jax.nn.relu, pool=jc.GlobalAvgPool(), fc=jc.Dense(classes)
    )


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 6)):
        for channel, name in enumerate(("red", "green", "blue")):
            path = tmp_path / "images" / part / name
            path.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40, 50, 3)).astype(np.uint8)
                pixels[..., channel] += 100
                (path / f"{i}.jpg").write_bytes(jpeg(pixels))
    return tmp_path / "images"


@pytest.mark.parametrize("cached", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_grows_its_images_learns_and_continues(folder, tmp_path, monkeypatch, capsys, cached):
    monkeypatch.setitem(imagenet_train.MODELS, "resnet18", small)
    options = ["--folder", str(folder), "--model", "resnet18", "--size", "48", "--validation-size", "32", "--quiet"]
    options += ["--batch-size", "24", "--average", "0.5", "--workers", "2", "--out", str(tmp_path / "out")]
    options += ["--cache", str(tmp_path / "cache")] if cached else []
    imagenet_train.main([*options, "--epochs", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "2 epochs, 32 pixels",
        "3 epochs, 32 pixels",
        "4 epochs, 48 pixels",
    ]
    assert "images/s" in lines[0]
    history = json.loads((tmp_path / "out" / "metrics.json").read_text())["history"]
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["validation_top5"] == 1.0
    assert history[-1]["average_validation_accuracy"] > 0.6
    # A run that is started again is that one.
    imagenet_train.main([*options, "--epochs", "4"])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["history"] == history


def test_the_learning_rate_rises_and_falls_and_only_kernels_decay():
    optimizer = imagenet_train.optimizer(512, 160)
    params = {"kernel": jax.numpy.ones((2, 2)), "bias": jax.numpy.ones(2)}
    zeros = jax.tree.map(jax.numpy.zeros_like, params)
    state, steps = optimizer.init(params), []
    for _ in range(160):
        updates, state = optimizer.update(zeros, state, params)
        steps.append(optax.tree.norm(updates["kernel"]).item())
        assert not updates["bias"].any()
    assert 18 <= int(np.argmax(steps)) <= 40
    assert steps[0] == 0
    assert steps[-1] < steps[80] / 10


def test_a_folder_without_parts_ends_with_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"imagenet_train: .*train"):
        imagenet_train.main(["--folder", str(tmp_path), "--out", str(tmp_path / "out")])
