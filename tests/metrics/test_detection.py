"""Average precision against pycocotools, called as its users do, and of instances against an assignment."""

import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.metrics import average_precision, instance_precision
from jaxconv.metrics.detection import NAMES
from tests.ops.box_oracles import draw_boxes

RNG = np.random.default_rng(0)


@pytest.fixture
def cocoeval():
    pytest.importorskip("pycocotools", reason="wants the extra detection")
    return pytest.importorskip("pycocotools.cocoeval")


def draw(images, found, true):
    """Objects of three classes; detections near them, and some that are none."""
    boxes = np.stack([draw_boxes(RNG, true, 300) for _ in range(images)])
    labels = RNG.integers(1, 4, (images, true))
    targets = {"boxes": boxes, "labels": labels, "valid": RNG.uniform(size=(images, true)) > 0.2}
    near = RNG.integers(0, true, (images, found))
    moved = np.take_along_axis(boxes, near[..., None], 1) + RNG.normal(size=(images, found, 4)) * 4
    moved[..., 2:] = np.maximum(moved[..., 2:], moved[..., :2] + 1)
    outputs = {
        "boxes": moved.astype(np.float32),
        "scores": RNG.uniform(size=(images, found)).astype(np.float32),
        "labels": np.where(RNG.uniform(size=near.shape) > 0.2, np.take_along_axis(labels, near, 1), 3),
        "valid": RNG.uniform(size=(images, found)) > 0.1,
    }
    return outputs, targets


def by_files(cocoeval, kind, batches, folder):
    """What the command-line way gives: JSON files, and `loadRes`."""
    from pycocotools.coco import COCO

    images, annotations, results = [], [], []
    for outputs, targets in batches:
        for n in range(len(targets["valid"])):
            images.append({"id": len(images)})
            for g in np.flatnonzero(targets["valid"][n]):
                x1, y1, x2, y2 = map(float, targets["boxes"][n, g])
                row = {
                    "id": len(annotations) + 1,
                    "image_id": images[-1]["id"],
                    "category_id": int(targets["labels"][n, g]),
                }
                row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                if kind == "keypoints":
                    seen = targets["visible"][n, g]
                    points = np.concatenate([targets["points"][n, g], 2.0 * seen[:, None]], 1)
                    row |= {"keypoints": points.ravel().tolist(), "num_keypoints": int(seen.sum())}
                annotations.append(row)
            for d in np.flatnonzero(outputs["valid"][n]):
                row = {"image_id": images[-1]["id"], "category_id": int(outputs["labels"][n, d])}
                row["score"] = float(outputs["scores"][n, d])
                if kind == "keypoints":
                    points = outputs["points"][n, d]
                    row["keypoints"] = np.concatenate([points, np.full((len(points), 1), 2.0)], 1).ravel().tolist()
                else:
                    x1, y1, x2, y2 = map(float, outputs["boxes"][n, d])
                    row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
                results.append(row)
    files = folder / "true.json", folder / "found.json"
    categories = [{"id": i, "name": str(i)} for i in (1, 2, 3)]
    files[0].write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    files[1].write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO(str(files[0]))
        evaluation = cocoeval.COCOeval(true, true.loadRes(str(files[1])), {"boxes": "bbox"}.get(kind, kind))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES[kind], evaluation.stats, strict=True))


def measured(metric, batches):
    total = None
    for outputs, targets in batches:
        update = jax.device_get(jax.jit(metric.update)(outputs, targets))
        total = update if total is None else metric.combine(total, update)
    return metric.finish(total)


def test_precision_of_boxes_is_that_of_pycocotools(cocoeval, tmp_path, capsys):
    batches = [draw(4, 12, 6), draw(3, 9, 8)]
    got = measured(average_precision(), batches)
    want = by_files(cocoeval, "boxes", batches, tmp_path)
    assert got == pytest.approx(want, abs=1e-6)
    assert 0.05 < got["AP"] < got["AP50"] < 1
    capsys.readouterr()


def test_precision_of_keypoints_is_that_of_pycocotools(cocoeval, tmp_path):
    outputs, targets = draw(5, 8, 4)
    targets["points"] = RNG.uniform(size=(5, 4, 17, 2)) * 100
    targets["visible"] = RNG.uniform(size=(5, 4, 17)) > 0.3
    near = RNG.integers(0, 4, (5, 8))
    outputs["points"] = (
        np.take_along_axis(targets["points"], near[..., None, None], 1) + RNG.normal(size=(5, 8, 17, 2)) * 4
    )
    outputs["labels"] = np.take_along_axis(targets["labels"], near, 1)
    del outputs["boxes"]
    with jax.enable_x64(True):
        got = measured(average_precision("keypoints"), [(outputs, targets)])
    want = by_files(cocoeval, "keypoints", [(outputs, targets)], tmp_path)
    assert got == pytest.approx(want, abs=1e-6)
    assert 0.05 < got["AP"] < 1


def test_right_detections_have_precision_one_and_none_zero(cocoeval):
    _, targets = draw(3, 1, 4)
    outputs = {**targets, "scores": np.ones((3, 4), np.float32)}
    assert measured(average_precision(), [(outputs, targets)])["AP"] == 1
    nothing = {**outputs, "valid": np.zeros((3, 4), bool)}
    assert measured(average_precision(), [(nothing, targets)])["AP"] == 0
    assert measured(average_precision(), [(nothing, {**targets, "valid": np.zeros((3, 4), bool)})])["AP"] == -1


def test_crowds_and_areas_are_pycocotools_own(cocoeval):
    _, targets = draw(2, 1, 3)
    targets["valid"][:] = True
    targets["labels"][:] = 1
    outputs = {**targets, "scores": np.ones((2, 3), np.float32)}
    crowd = np.zeros((2, 3), bool)
    crowd[:, 0] = True
    without = {**outputs, "valid": ~crowd}
    assert measured(average_precision(), [(without, targets)])["AR100"] == pytest.approx(2 / 3)
    assert measured(average_precision(), [(without, {**targets, "crowd": crowd})])["AR100"] == 1
    small = {**targets, "area": np.full((2, 3), 10.0)}
    result = measured(average_precision(), [(outputs, small)])
    assert (result["AP_small"], result["AP_large"]) == (1, -1)


def test_boxes_of_targets_in_the_wrong_order_are_named(cocoeval):
    outputs, targets = draw(2, 3, 3)
    targets["boxes"] = targets["boxes"][..., [2, 3, 0, 1]]
    with pytest.raises(jc.ArgumentError, match=r"boxes of targets must have x1 <= x2 and y1 <= y2, got .*index \(0, "):
        measured(average_precision(), [(outputs, targets)])


def test_it_is_a_metric_of_evaluate(cocoeval):
    """Batches of one size, the last of which reaches back; a network that gives the objects themselves."""
    outputs, targets = draw(5, 6, 4)

    class Same:
        def init(self, key, x):
            return {}, {}

        def apply(self, params, state, x, *, train=False, key=None):
            return x, state

    def loss(outputs, targets):
        return jnp.zeros(len(outputs["valid"]))

    result = jc.train.evaluate(
        Same(), {}, {}, outputs, targets, loss=loss, metrics={"coco": average_precision()}, batch_size=2
    )
    want = measured(average_precision(), [(outputs, targets)])
    assert {name: result[f"coco_{name}"] for name in want} == pytest.approx(want)


def instances(seed, shape=(3, 30, 40)):
    """Label images: rectangles, and the same moved, with other numbers, some of them lost or new."""
    rng = np.random.default_rng(seed)
    true, found = np.zeros((2, *shape), np.int32)
    for n in range(shape[0]):
        for k in range(6):
            y, x = rng.integers(0, 20), rng.integers(0, 30)
            dy, dx = rng.integers(-1, 2, 2)
            true[n, y : y + 8, x : x + 8] = k + 1
            if k:
                found[n, max(y + dy, 0) : y + dy + 8, max(x + dx, 0) : x + dx + 8] = 20 - k
        found[n, :3, :3] = 9
    return true, found


def by_assignment(pairs, threshold):
    """stardist's matching: as many pairs as can be with at least this IoU."""
    from scipy.optimize import linear_sum_assignment

    matched = objects = 0
    for true, found in pairs:
        masks = [[a == label for label in np.unique(a) if label] for a in (true, found)]
        iou = np.array([[(a & b).sum() / (a | b).sum() for b in masks[1]] for a in masks[0]])
        rows, columns = linear_sum_assignment(-(iou >= threshold).astype(float))
        matched += int((iou[rows, columns] >= threshold).sum())
        objects += len(masks[0]) + len(masks[1])
    return matched / (objects - matched)


def test_precision_of_instances_over_batches():
    pairs = [instances(seed) for seed in range(3)]
    metric = instance_precision((0.5, 0.6, 0.75), max_objects=20)
    got = measured(metric, [(found, true) for true, found in pairs])
    flat = [(t, f) for true, found in pairs for t, f in zip(true, found, strict=True)]
    want = {f"AP{round(100 * t)}": by_assignment(flat, t) for t in (0.5, 0.6, 0.75)}
    assert got == pytest.approx({**want, "AP": np.mean(list(want.values()))})
    assert 0 < got["AP75"] < got["AP50"] < 1


def test_no_instances_at_all():
    nothing = np.zeros((1, 4, 4), int)
    assert np.isnan(measured(instance_precision([0.5]), [(nothing, nothing)])["AP"])
    assert measured(instance_precision([0.5]), [(nothing, nothing + 1)])["AP"] == 0


O = {
    "boxes": np.ones((2, 3, 4)),
    "scores": np.ones((2, 3)),
    "labels": np.ones((2, 3), int),
    "valid": np.ones((2, 3), bool),
}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: average_precision("masks"), jc.ArgumentError, "kind must be one of boxes, keypoints, got 'masks'"),
        (
            lambda: average_precision().update({**O, "boxes": np.ones((2, 3, 5))}, O),
            jc.ShapeError,
            r"outputs must have scores, labels, valid, boxes .*boxes float64 \(2, 3, 5\)",
        ),
        (
            lambda: average_precision().update(O, {"boxes": O["boxes"]}),
            jc.ShapeError,
            "targets must have boxes, labels, valid for each image and object",
        ),
        (
            lambda: instance_precision([0.3]),
            jc.ArgumentError,
            r"thresholds must be numbers from 0.5 to 1, got \(0.3,\)",
        ),
        (
            lambda: instance_precision().update(np.ones((1, 4, 4), int), np.ones((1, 4, 5), int)),
            jc.ShapeError,
            r"instance_precision: outputs and targets must be integers .*got int64 \(1, 4, 5\)",
        ),
        (
            lambda: measured(
                instance_precision([0.5], max_objects=2), [(np.full((1, 2, 2), 3), np.ones((1, 2, 2), int))]
            ),
            jc.ArgumentError,
            "labels must be from 0 to max_objects, got 4 pixels with others",
        ),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
