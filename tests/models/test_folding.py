"""Every network with its batch norms folded: the same outputs."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxconv as jc
from jaxconv.tree import walk
from tests.models.test_export import NETS
from tests.models.zoo import KNOWN, Known

# Besides those that torchvision has.
OTHERS = tuple(
    Known(name, family, size)
    for family, names, size in (
        ("allconv", "all_cnn_a all_cnn_b all_cnn_c", (16, 16)),
        ("convnet", "convnet", (16, 16)),
        ("efficientnet_lite", "efficientnet_lite0 efficientnet_lite4", (32, 32)),
        ("hed", "hed", (32, 32)),
        ("lenet", "lenet5", (28, 28)),
        ("nin", "nin", (16, 16)),
        ("resnet", "resnet20 resnet110", (16, 16)),
        ("style", "transform_net", (16, 16)),
        ("unet", "unet", (32, 32)),
    )
    for name in names.split()
)
QUICK = ("convnet", "resnet20", "shufflenet_v2_x0_5", "unet")


def channels(known):
    return 1 if known.name == "lenet5" else 3


def arrays(net, shape, seed, spread):
    """Arrays that keep activations near 1, with variances that differ by a factor of ``spread`` squared."""
    rng = np.random.default_rng(seed)

    def draw(path, struct):
        name, shape = path[-1].key, struct.shape
        if name in ("var", "scale"):
            return np.exp(rng.uniform(-np.log(spread), np.log(spread), shape))
        if name == "kernel":
            return rng.normal(size=shape) * np.sqrt(1 / np.prod(shape[:-1]))
        return rng.normal(size=shape) * 0.2

    trees = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))
    trees = jax.tree_util.tree_map_with_path(lambda path, s: draw(path, s).astype(s.dtype), trees)
    return *trees, rng.normal(size=shape).astype(np.float32)


def check(known, examples):
    options = dict(NETS[known.family].options if known.family == "unet" else known.options)
    net, shape = getattr(jc.models, known.name)(**options), (1, *known.size, channels(known))
    report = jc.fold_report(net, shape)
    norms = {path for path, layer in walk(net) if isinstance(layer, jc.BatchNorm | jc.LayerScale)}
    assert norms == report.folded.keys() | report.kept.keys()
    runs = {}

    @settings(max_examples=examples)
    @given(st.integers(0, 2**32 - 1), st.floats(1, 4))
    def same(seed, spread):
        params, state, x = arrays(net, shape, seed, spread)
        folded = jc.fold(net, params, state, shape)
        for used in (net, folded[0]):
            runs.setdefault(used, jax.jit(used.apply))
        want, got = (jax.tree.leaves(runs[n](p, s, x)[0]) for n, p, s in ((net, params, state), folded))
        for a, b in zip(got, want, strict=True):
            assert np.isfinite(b).all()
            assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()

    same()


@pytest.mark.parametrize("known", [k for k in (*KNOWN, *OTHERS) if k.name in QUICK], ids=str)
def test_a_folded_network_computes_the_same(known):
    check(known, 3)


@pytest.mark.slow
@pytest.mark.parametrize("known", [k for k in (*KNOWN, *OTHERS) if k.name not in QUICK], ids=str)
def test_any_folded_network_computes_the_same(known):
    check(known, 3)


# What is not folded, by network: a norm before a ReLU, behind a concatenation or on an output that others read.
@pytest.mark.parametrize(
    ("name", "folded", "kept"),
    [
        ("resnet50", 53, 0),
        ("mobilenet_v2", 52, 0),
        ("efficientnet_b0", 49, 0),
        ("regnet_y_400mf", 53, 0),
        ("shufflenet_v2_x0_5", 56, 0),
        ("googlenet", 57, 2),
        ("inception_v3", 94, 2),
        ("densenet121", 59, 62),
        ("vgg16_bn", 13, 0),
        ("convnext_tiny", 18, 0),
    ],
)
def test_how_many_are_folded(name, folded, kept):
    report = jc.fold_report(getattr(jc.models, name)())
    assert (len(report.folded), len(report.kept)) == (folded, kept)
