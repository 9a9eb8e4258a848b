"""Paths, and what stands in front of what is found there."""

import jax
import pytest

import jaxconv as jc
from jaxconv.inspect import activations
from jaxconv.inspect.arguments import check_path, check_unstacked, stacked_axes
from jaxconv.layer import walk


def test_stacked_axes_are_those_that_activations_adds():
    body = jc.serial(dense=jc.Dense(3), twice=jc.repeat(jc.residual(jc.serial(inner=jc.Dense(3))), 2))
    net = jc.serial(
        jc.Dense(3), jc.remat(jc.repeat(body, 4)), jc.repeat(jc.Dense(3), 2), jc.inline(jc.serial(last=jc.Dense(3)))
    )
    params, state = jax.eval_shape(lambda key: net.init(key, (5, 3)), jax.random.key(0))
    found = jax.eval_shape(
        lambda p, s, x: activations(net, p, s, x)[1], params, state, jax.ShapeDtypeStruct((5, 3), "f4")
    )
    want = {path: len(struct.shape) - 2 for path, struct in found.items()}
    assert {path: stacked_axes(net, path) for path, _ in walk(net)} == want
    assert want == {"0": 0, "1": 0, "1.dense": 1, "1.twice": 1, "1.twice.inner": 2, "2": 0, "last": 0}


def test_paths_inside_a_repeat_and_unknown_ones_are_refused():
    net = jc.serial(conv=jc.Dense(3), twice=jc.repeat(jc.serial(inner=jc.Dense(3)), 2))
    check_unstacked(net, "twice")
    with pytest.raises(jc.ShapeError, match=r"path 'twice\.inner' stands inside a repeat, where the outputs of all"):
        check_unstacked(net, "twice.inner")
    for wrong in ("con", "twice.iner", 3, None):
        with pytest.raises(jc.ShapeError, match=f"path {wrong!r} names no layer: "):
            check_path(net, wrong)
    with pytest.raises(jc.ShapeError, match=r"nearest are 'twice\.inner'"):
        check_path(net, "twice.iner")
