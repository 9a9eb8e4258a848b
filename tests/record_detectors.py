"""Records what torchvision's detectors give: ``python -m tests.record_detectors`` writes ``detectors.npz``.

It needs torch and torchvision, whose compiled operators need not load: non-maximum suppression is replaced, and
RoIAlign is torchvision's own in Python. The weights are drawn from the names of the tensors, so that they need no file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.models.detectors import (
    ANCHORS,
    BOXES,
    CELLS,
    CLASSES,
    POINTS,
    RCNN_ANCHORS,
    SMALL,
    WIDTH,
    Pair,
    images,
    targets,
)
from tests.record_torchvision import fill, shapes_of, torchvision

RECORD = Path(__file__).parent / "models" / "detectors.npz"
# Every so manieth number of raw outputs is recorded.
EVERY = 17
# And this number of detections.
MOST = 40
AS_IT_IS = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


def greedy_nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """Non-maximum suppression as torchvision documents it."""
    import torch

    order = torch.argsort(scores, descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        iou = shared / (areas[best] + areas[order] - shared)
        order = order[~(iou > iou_threshold)]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def detection() -> Any:
    """Imports torchvision's detectors, with operators that run without a compiled extension."""
    module = torchvision().models.detection
    if not torchvision().extension._has_ops():
        torchvision().ops.boxes.nms = greedy_nms
    return module


def _trunk(extra: Any) -> Any:
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import BasicBlock, ResNet

    maps = {"layer2": "0", "layer3": "1", "layer4": "2"}
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    return BackboneWithFPN(net, maps, [128, 256, 512], WIDTH, extra_blocks=extra)


def build(pair: Pair) -> Any:
    """Returns torchvision's detector, random weights, in evaluation; images pass through as they are."""
    models = detection()
    size = {"min_size": pair.size, "max_size": 10 * pair.size, **AS_IT_IS, "_skip_resize": True}
    if not pair.name.startswith("small_"):
        if pair.name.startswith("ssd"):
            del size["min_size"], size["max_size"]
        if "rcnn" in pair.name:
            size |= {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 50, "rpn_score_thresh": 0.0}
        return getattr(models, pair.name)(weights=None, weights_backbone=None, **size).eval()
    return _small(pair, size).eval()


def _small(pair: Pair, size: dict[str, Any]) -> Any:
    import functools

    from torch import nn
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.fcos import FCOS
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.ops import MultiScaleRoIAlign
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

    def anchors(grid: Any) -> Any:
        return AnchorGenerator(grid.sizes, (grid.ratios,) * len(grid.sizes))

    name = pair.name.removeprefix("small_")
    if name == "retinanet":
        return RetinaNet(_trunk(LastLevelP6P7(WIDTH, WIDTH)), CLASSES, anchor_generator=anchors(ANCHORS), **size)
    if name == "retinanet_v2":
        head = RetinaNetHead(WIDTH, 3, CLASSES, norm_layer=functools.partial(nn.GroupNorm, 32))
        head.regression_head._loss_type = "giou"
        trunk = _trunk(LastLevelP6P7(512, WIDTH))
        return RetinaNet(trunk, CLASSES, anchor_generator=anchors(ANCHORS), head=head, **size)
    if name == "fcos":
        return FCOS(_trunk(LastLevelP6P7(WIDTH, WIDTH)), CLASSES, anchor_generator=anchors(CELLS), **size)
    if name == "ssd":
        from torchvision.models._utils import IntermediateLayerGetter

        trunk = IntermediateLayerGetter(ResNet(BasicBlock, [1, 1, 1, 1]), {"layer2": "0", "layer3": "1", "layer4": "2"})
        trunk.out_channels = [128, 256, 512]
        boxes = DefaultBoxGenerator([list(r) for r in BOXES.ratios], scales=list(BOXES.scales))
        return SSD(trunk, boxes, (64, 64), CLASSES, **AS_IT_IS)
    names = ["0", "1", "2"]
    size |= {
        "rpn_anchor_generator": anchors(RCNN_ANCHORS),
        "rpn_head": RPNHead(WIDTH, 3),
        "rpn_pre_nms_top_n_train": 40, "rpn_post_nms_top_n_train": 25,
        "rpn_pre_nms_top_n_test": 30, "rpn_post_nms_top_n_test": 20,
        "rpn_batch_size_per_image": 10_000, "box_batch_size_per_image": 4096,
        "box_score_thresh": 0.2, "box_detections_per_img": 10,
        "box_roi_pool": MultiScaleRoIAlign(names, 7, 2),
        "box_head": TwoMLPHead(WIDTH * 49, 32),
        "box_predictor": FastRCNNPredictor(32, CLASSES),
    }  # fmt: skip
    size |= {
        "mask_roi_pool": MultiScaleRoIAlign(names, 14, 2),
        "mask_head": MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1),
        "mask_predictor": MaskRCNNPredictor(WIDTH, WIDTH, CLASSES),
    }
    model = MaskRCNN(_trunk(LastLevelMaxPool()), **size)
    # Keypoints beside masks, which torchvision's own functions do not build.
    model.roi_heads.keypoint_roi_pool = MultiScaleRoIAlign(names, 14, 2)
    model.roi_heads.keypoint_head = KeypointRCNNHeads(WIDTH, [32] * 8)
    model.roi_heads.keypoint_predictor = KeypointRCNNPredictor(32, POINTS)
    return model


# The standard deviation of what the last layer of each head gives, so that scores differ and boxes overlap in part.
SPREAD = {
    "cls_logits": 1.5, "cls_score": 1.5, "classification_head": 1.5, "mask_fcn_logits": 1.5, "kps_score_lowres": 1.5,
    "bbox_ctrness": 1.0, "bbox_reg": 0.3, "bbox_pred": 0.3, "regression_head": 0.3,
}  # fmt: skip


def _spread(name: str) -> float | None:
    """Returns what a layer of this name is to give; None for other layers than the last of a head."""
    parts = name.split(".")
    if "module_list" in parts:
        return SPREAD[parts[1]] if parts[-2] == "module_list" or parts[-1] == "1" else None
    return SPREAD.get(parts[-1])


def filled(model: Any, x: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Gives the detector the zoo's weights, those of the last layers scaled; returns the tensors, and the factors."""
    import torch

    fill(model, np.float64)
    factors: dict[str, float] = {}

    def hook(name: str, wanted: float) -> Any:
        def scale(module: Any, _: Any, y: Any) -> Any:
            if name in factors or len(y) == 0:
                return y
            factors[name] = wanted / float(y.std())
            for parameter in module.parameters():
                parameter.mul_(factors[name])
            return y * factors[name]

        return scale

    hooks = []
    for name, module in model.named_modules():
        wanted = _spread(name)
        if wanted is not None and not list(module.children()):
            # FCOS' boxes are distances in strides.
            wanted = 2.0 if type(model).__name__ == "FCOS" and name.endswith("bbox_reg") else wanted
            hooks.append(module.register_forward_hook(hook(name, wanted)))
    with torch.no_grad():
        model(first(x, next(model.parameters()).dtype))
    for each in hooks:
        each.remove()
    shapes = shapes_of(model)
    held = model.state_dict()
    return {name: held[name].numpy() for name in shapes}, factors


def first(x: np.ndarray, dtype: Any) -> list[Any]:
    """Returns images as torchvision takes them: a list, channels first."""
    import torch

    return [torch.from_numpy(np.moveaxis(each, -1, 0).copy()).to(dtype) for each in x]


def raw(model: Any, x: np.ndarray) -> list[np.ndarray]:
    """Returns class scores, box regression and so on, ``(batch, anchors, columns)``."""
    import torch
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        features = list(model.backbone(torch.stack(first(x, dtype))).values())
        if hasattr(model, "rpn"):
            scores, deltas = concat_box_prediction_layers(*model.rpn.head(features))
            return [scores.reshape(len(x), -1, 1).numpy(), deltas.reshape(len(x), -1, 4).numpy()]
        outputs = model.head(features)
    order = ("cls_logits", "bbox_regression", "bbox_ctrness")
    return [outputs[name].numpy() for name in order if name in outputs]


def found(model: Any, x: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Returns the detections in each image."""
    import torch

    with torch.no_grad():
        return [
            {name: t.numpy() for name, t in each.items()} for each in model(first(x, next(model.parameters()).dtype))
        ]


def losses(model: Any, pair: Pair, x: np.ndarray) -> dict[str, float]:
    """Returns the losses in training, which moves batch statistics."""
    import torch

    dtype = next(model.parameters()).dtype
    given = targets(pair)
    model.train()
    wanted = []
    for i, valid in enumerate(given["valid"]):
        wanted.append(
            {
                "boxes": torch.from_numpy(given["boxes"][i][valid]).to(dtype),
                "labels": torch.from_numpy(given["labels"][i][valid]).to(torch.int64),
                "masks": torch.from_numpy(given["masks"][i][valid]),
                "keypoints": torch.from_numpy(given["keypoints"][i][valid]),
            }
        )
    with torch.no_grad():
        found = {name: float(value) for name, value in model(first(x, dtype), wanted).items()}
    model.eval()
    return found


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for pair in SMALL:
        model = build(pair).double()
        x = images(pair)
        _, factors = filled(model, x)
        arrays[f"{pair}/names"] = np.array(sorted(shapes_of(model)))
        arrays[f"{pair}/scaled"] = np.array(list(factors))
        arrays[f"{pair}/factors"] = np.array(list(factors.values()))
        for i, array in enumerate(raw(model, x)):
            arrays[f"{pair}/raw{i}"] = array.reshape(-1)[::EVERY].astype(np.float32)
        for i, each in enumerate(found(model, x)):
            for name, array in each.items():
                array = (array[..., ::8, ::8] if name == "masks" else array)[:MOST]
                arrays[f"{pair}/found{i}/{name}"] = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        for name, value in losses(model, pair, x).items():
            arrays[f"{pair}/loss/{name}"] = np.float32(value)
    np.savez_compressed(RECORD, **arrays)
    print(f"{RECORD.name}: {RECORD.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
