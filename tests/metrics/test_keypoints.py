"""Metrics of keypoints against loops and pycocotools."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.metrics import object_keypoint_similarity, pck

RNG = np.random.default_rng(0)


def test_correct_keypoints_are_counted_over_batches():
    found, true = RNG.normal(size=(2, 8, 5, 2)).astype(np.float32) * 5
    size = RNG.uniform(10, 40, 8).astype(np.float32)
    true[2, 3, 0] = np.nan
    found[4, 1] = np.nan
    metric = pck(0.2)
    total = None
    for part in (slice(0, 3), slice(3, 8)):
        update = jax.device_get(jax.jit(metric.update)(found[part], {"points": true[part], "size": size[part]}))
        total = update if total is None else metric.combine(total, update)
    right = np.linalg.norm(found - true, axis=-1) <= 0.2 * size[:, None]
    assert_allclose(metric.finish(total), right.sum() / 39)
    assert 0 < right.sum() < 39


def test_no_keypoint_is_nan():
    nowhere = {"points": np.full((1, 2, 2), np.nan), "size": np.ones(1)}
    assert np.isnan(pck().finish(jax.device_get(pck().update(np.zeros((1, 2, 2)), nowhere))))


def test_similarity_is_that_of_pycocotools():
    coco = pytest.importorskip("pycocotools.coco", reason="wants the extra detection")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    true, found = RNG.uniform(0, 50, (3, 17, 2)), None
    found = true[1] + RNG.normal(size=(4, 17, 2)) * 3
    visible, area = RNG.uniform(size=(3, 17)) > 0.3, np.array([300.0, 900.0, 2500.0])
    sides = []
    for points, seen, areas in ((true, visible, area), (found, np.ones((4, 17), bool), np.ones(4))):
        rows = [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "area": areas[i],
                "bbox": [0, 0, 50, 50],
                "score": 1.0 - i / 10,
                "num_keypoints": int(seen[i].sum()),
                "keypoints": np.concatenate([points[i], 2.0 * seen[i][:, None]], 1).ravel().tolist(),
            }
            for i in range(len(points))
        ]
        side = coco.COCO()
        side.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": rows}
        side.createIndex()
        sides.append(side)
    evaluation = cocoeval.COCOeval(*sides, "keypoints")
    evaluation._prepare()
    want = evaluation.computeOks(1, 1)
    got = object_keypoint_similarity(
        found[:, None].astype(np.float32), true[None].astype(np.float32), area.astype(np.float32)[None], visible=visible
    )
    assert_allclose(got, want, rtol=1e-3, atol=1e-6)
    assert got.max() > 0.3


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: pck(0), jc.ArgumentError, "threshold must be positive, got 0"),
        (lambda: pck().update(np.ones((2, 3, 2)), np.ones((2, 3, 2))), jc.ShapeError, "pck: outputs must have shape"),
        (
            lambda: pck().update(np.ones((2, 3, 2)), {"points": np.ones((2, 4, 2)), "size": np.ones(2)}),
            jc.ShapeError,
            r"pck: .*got float64 \(2, 4, 2\), float64 \(2,\) and outputs float64 \(2, 3, 2\)",
        ),
        (
            lambda: object_keypoint_similarity(np.ones((5, 2)), np.ones((17, 2)), np.ones(())),
            jc.ShapeError,
            r"points must have shape \(..., 17, 2\), one for each of the sigmas, got \(5, 2\)",
        ),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
