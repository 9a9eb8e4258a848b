"""A whole run of fine-tuning a graph, on a small one in the published one's place."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("PIL")

from experiments import finetune_onnx  # noqa: E402
from tests.interop.onnx_files import model, node  # noqa: E402


def classifier():
    random = np.random.default_rng(0)

    def draw(*shape):
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    tensors = {"w1": draw(4, 3, 5, 5), "w2": draw(2, 4), "b2": draw(2), "ones": np.ones(4, np.float32)}
    tensors["zeros"] = np.zeros(4, np.float32)
    nodes = [
        node("Conv", "x w1", "a", "conv", strides=[4, 4]),
        node("BatchNormalization", "a ones zeros zeros ones", "b", "norm"),
        node("Relu", "b", "c", "relu"),
        node("GlobalMaxPool", "c", "d", "pool"),
        node("Flatten", "d", "e", "flat"),
        node("Gemm", "e w2 b2", "f", "fc", transB=1),
        node("Softmax", "f", "y", "softmax"),
    ]
    return model(nodes, {"x": [1, 3, None, None]}, "y", tensors)


def test_lines_are_mirrored_in_turn():
    images, labels = finetune_onnx.lines(4, 3)
    again, _ = finetune_onnx.lines(4, 3)
    assert images.shape == (4, 48, 192, 3)
    assert list(labels) == [0, 1, 0, 1]
    assert images.min() >= -1
    assert images.max() <= 1
    np.testing.assert_array_equal(images, again)
    # Words begin on the left: in its mirror image the ink is on the right.
    ink = (images[..., 0] < 0).sum(1)
    halves = [(row[:96].sum(), row[96:].sum()) for row in ink]
    assert all((left >= right) == (label == 0) for (left, right), label in zip(halves, labels, strict=True))


def test_a_run_writes_what_moved(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(classifier(), path)
    arguments = ["--file", str(path), "--images", "12", "--test-images", "6", "--epochs", "2", "--batch", "6"]
    metrics = finetune_onnx.main([*arguments, "--out", str(tmp_path / "out")])
    assert set(metrics["moved"]) == {"conv", "norm", "fc"}
    assert min(metrics["moved"].values()) > 0
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"report.html", "moved.png", "cam_before.png"}
