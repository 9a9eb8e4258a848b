"""Each family through ``jax.export`` to bytes and back, for a CPU and for a GPU."""

import importlib
import pkgutil

import jax
import numpy as np
import pytest

import jaxconv as jc
from tests.models.test_torchvision import SMALLEST
from tests.models.zoo import Known, images

RULES = jc.detect.RegionRules(before=10, after=8, max_detections=4)
# By family: the smallest network that torchvision has too, and these.
NETS = {known.family: known for known in reversed(SMALLEST)} | {
    known.family: known
    for known in (
        Known("all_cnn_c", "allconv", (16, 16)),
        Known("convnet", "convnet", (16, 16)),
        Known("efficientnet_lite0", "efficientnet_lite", (32, 32)),
        Known("hed", "hed", (32, 32)),
        Known("centernet_mobilenet_v2", "points", (64, 64), options={"classes": 3, "width": 8}),
        Known("descriptor", "descriptor", (32, 32), options={"width": 8, "small_images": True}),
        Known("dlinknet34", "linknet", (32, 32)),
        Known("fcos_resnet50_fpn", "detection", (64, 64), options={"classes": 3}),
        Known("nanodet_efficientnet_lite0", "nanodet", (64, 64), options={"classes": 3}),
        Known("pnet", "mtcnn", (16, 16)),
        Known("ssdlite320_mobilenet_v3_large", "ssd", (320, 320), options={"classes": 3}),
        Known("stardist", "stardist", (32, 32), options={"width": 4, "norm": jc.BatchNorm(), "features": 8}),
        Known("fasterrcnn_resnet50_fpn", "rcnn", (64, 64), options={"classes": 3, "rules": RULES}),
        Known("katago", "katago", options={"depth": 3, "width": 8, "middle": 6, "pooled": 2}),
        Known("minatar_dqn", "dqn", (10, 10), options={"actions": 3}),
        Known("face_landmarks", "faces", (112, 112)),
        Known("lenet5", "lenet", (28, 28)),
        Known("nin", "nin", (16, 16)),
        Known("transform_net", "style", (16, 16)),
        Known("unet", "unet", (32, 32), options={"width": 4, "padding": "SAME", "norm": jc.BatchNorm()}),
    )
}
# The shapes of inputs of several arrays.
SHAPES = {"katago": ((2, 9, 9, 22), (2, 19))}
# XLA takes seconds to compile the others, twice each.
QUICK = ("allconv", "convnet", "lenet", "mtcnn", "nin", "resnet", "unet")


def weights(net, shape):
    """Numbers of any size that neither grow nor vanish from layer to layer."""
    random = np.random.default_rng(0)

    def draw(struct):
        if len(struct.shape) > 1:
            return random.normal(size=struct.shape) * np.sqrt(2 / np.prod(struct.shape[:-1]))
        return random.uniform(0.5, 1.5, struct.shape)

    trees = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))
    return jax.tree.map(lambda struct: draw(struct).astype(struct.dtype), trees)


def test_all_families_are_here():
    modules = {module.name for module in pkgutil.iter_modules(jc.models.__path__)}
    # A captioner is made of the caller's layers.
    assert set(NETS) == modules - {"blocks", "variants", "captioner"}
    assert set(NETS) >= set(QUICK)


@pytest.mark.parametrize("family", [pytest.param(f, marks=[] if f in QUICK else [pytest.mark.slow]) for f in NETS])
def test_a_network_comes_back_from_bytes_as_it_was(family):
    known = NETS[family]
    net = getattr(importlib.import_module(f"jaxconv.models.{family}"), known.name)(**known.options)
    shape = SHAPES.get(family, known.shape)
    params, state = weights(net, shape)

    def output(params, state, x):
        y = net.apply(params, state, x)[0]
        # Of two stages the first: random scores leave no box.
        return y["rpn"] if known.family == "rcnn" else y

    x = jax.tree.map(images, shape, is_leaf=lambda leaf: isinstance(leaf[0], int))
    if family == "katago":
        x[0][..., 0] = 1  # all points are on the board
    arguments = params, state, x
    exported = jax.export.export(jax.jit(output), platforms=("cpu", "cuda"))(*arguments)
    back = jax.export.deserialize(exported.serialize())
    assert back.platforms == ("cpu", "cuda")
    got = back.call(*arguments)
    with jc.lowering("portable"):  # an export has no calls of oneDNN, which sums in another order
        wanted = jax.jit(output)(*arguments)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.std(b) > 1e-6
        assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()
