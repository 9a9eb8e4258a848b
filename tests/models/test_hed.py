"""HED: the paper's table of fields and strides, its maps, and its first weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from tests.models.shapes import by_shapes, filled

NET = jc.models.hed((1, 1, 1), width=2)
APPLY = jax.jit(NET.apply)
HEADS = ("dsn1", "dsn2", "dsn3", "fuse")


def test_sides_see_what_the_papers_table_says():
    rows = jc.summary(jc.models.hed(), (1, 96, 96, 3)).rows
    fields = [row.receptive_field[0] for row in rows if row.path.startswith("dsn")]
    assert [(f.size, f.stride) for f in fields] == [(5, 1), (14, 2), (40, 4), (92, 8), (196, 16)]


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (4, 3)])
def test_all_maps_have_the_images_size(size):
    edges, sides = by_shapes(NET, (2, *size, 3))[0]
    assert edges.shape == (2, *size, 1)
    assert [side.shape for side in sides] == [(2, *size, 1)] * 3


def test_names_are_those_of_the_weights_in_keras():
    params, state = filled(NET, (1, 8, 8, 3))
    assert set(params) == {"block1", "block2", "block3", "dsn1", "dsn2", "dsn3", "fuse"}
    names = [f"block{i}/layers/conv2d" for i in (1, 2, 3)] + [f"dsn{i}" for i in (1, 2, 3)] + ["fuse"]
    leaves = [params["block1"]["0"], params["block2"]["1"], params["block3"]["1"]]
    leaves += [params[name] for name in names[3:]]
    arrays = {
        f"{n}/vars/{i}": p[k] for n, p in zip(names, leaves, strict=True) for i, k in enumerate(("kernel", "bias"))
    }
    found = jc.weights.from_keras(NET, arrays, (1, 8, 8, 3))
    jax.tree.map(np.testing.assert_array_equal, found, (params, state))


def test_edges_begin_as_the_mean_of_sides_that_are_zero():
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    params, state = filled(NET, x.shape)
    params |= jax.jit(lambda key: {name: NET.init(key, x.shape)[0][name] for name in HEADS})(jax.random.key(0))
    (edges, sides), _ = APPLY(params, state, x)
    assert not np.any(edges)
    assert not any(map(np.any, sides))
    for i in (1, 2, 3):
        params[f"dsn{i}"]["bias"] = jnp.full(1, float(i))
    (edges, sides), _ = APPLY(params, state, x)
    assert [float(side.mean()) for side in sides] == [1, 2, 3]
    np.testing.assert_allclose(edges, 2, rtol=1e-6)


def test_transform_input_takes_bytes_of_rgb():
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    params, state = filled(NET, x.shape)
    caffe = x[..., ::-1].astype(np.float32) - np.array([104.00699, 116.66877, 122.67892], np.float32)
    wanted = APPLY(params, state, caffe)[0]
    transforming = jc.models.hed((1, 1, 1), width=2, transform_input=True)
    got = jax.jit(transforming.apply)(params, state, x)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), got, wanted)
    assert np.any(got[0])


def test_transform_input_wants_colors():
    with pytest.raises(jc.ShapeError, match=r"x must have 3 channels.*got shape \(1, 8, 8, 1\)"):
        jc.models.hed(transform_input=True).init(jax.random.key(0), (1, 8, 8, 1))


def test_it_can_be_read():
    assert jc.models.hed() == jc.models.hed()
    assert len(repr(jc.models.hed()).splitlines()) < 100
