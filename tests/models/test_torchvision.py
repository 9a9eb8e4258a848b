"""The networks against what was recorded of torchvision's: names, shapes, outputs."""

import functools
import gzip
import json

import jax
import numpy as np
import pytest

import jaxconv as jc
from tests.models.zoo import KNOWN, Known, images, tensors
from tests.record_torchvision import LOGITS, SHAPES

SMALLEST = [known for known in KNOWN if known.smallest]


@functools.cache
def recorded_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    shapes = json.loads(gzip.decompress(SHAPES.read_bytes()))
    return {net: {name: tuple(shape) for name, shape in entries.items()} for net, entries in shapes.items()}


def ours(known: Known) -> jc.Layer:
    return getattr(jc.models, known.name)(**known.options)


# These take seconds to compile or to multiply; their layers are in others.
LONG = {"alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "inception_v3", "vgg11"}
# The others of a family repeat its blocks: their tests are slow ones.
NETWORKS = [known if known.smallest else pytest.param(known, marks=pytest.mark.slow) for known in KNOWN]


@pytest.mark.parametrize("known", NETWORKS, ids=str)
def test_names_and_shapes_are_torchvisions(known):
    net = ours(known)
    params, state = jax.eval_shape(lambda key: net.init(key, known.shape), jax.random.key(0))
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), (params, state))
    found = {name: a.shape for name, a in jc.weights.to_torch(net, *zeros).items()}
    assert found == recorded_shapes()[known.name]


@pytest.mark.parametrize(
    "known", [pytest.param(k, marks=[pytest.mark.slow] * (k.name in LONG)) for k in SMALLEST], ids=str
)
def test_the_smallest_of_each_family_gives_torchvisions_numbers(known):
    net = ours(known)
    params, state = jc.weights.from_torch(net, tensors(recorded_shapes()[known.name]))
    y, _ = jax.jit(net.apply)(params, state, images(known.shape))
    with np.load(LOGITS) as recorded:
        wanted = recorded[known.name]
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() <= 1e-4 * np.abs(wanted).max()
