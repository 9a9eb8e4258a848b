"""Every op of boxes, regions, heat maps and polygons: jit, vmap, strict flags and types, one row an op.

These ops make indices, take boxes whose corners are ordered, or have no batch axes, so `tests.ops.test_transforms`,
which draws any numbers, does not fit them. Values and gradients are in the tests of each module.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from tests.ops.box_oracles import draw_boxes
from tests.ops.transforms import quick_jit, strict_flags

MODULES = "anchors boxes heatmaps nms offsets overlaps polygons regions"
# Of no arrays, or on the host.
WITHOUT_ROW = {"anchor_grid", "default_boxes", "check_boxes"}


class Row(NamedTuple):
    """An op of arrays, and what draws its arguments: "boxes", "scores", "integers", "points", or a shape of floats."""

    op: Callable[..., Any]
    arguments: tuple[Any, ...]


PAIR = ("boxes", "boxes")
MAP = (1, 6, 7, 2)
ROWS = {
    "box_area": Row(jc.box_area, ("boxes",)),
    "box_convert": Row(lambda b: jc.box_convert(b, "xyxy", "cxcywh"), ("boxes",)),
    "box_iou": Row(jc.box_iou, PAIR),
    "box_levels": Row(lambda b: jc.box_levels(b, canonical_size=8), ("boxes",)),
    "batched_nms": Row(lambda b, s, i: jc.batched_nms(b, s, i, 0.5, 4), ("boxes", "scores", "integers")),
    "clip_boxes": Row(lambda b: jc.clip_boxes(b, (9, 7)), ("boxes",)),
    "complete_box_iou": Row(jc.complete_box_iou, PAIR),
    "decode_boxes": Row(jc.decode_boxes, ((5, 4), "boxes")),
    "decode_distances": Row(jc.decode_distances, ((5, 4), "boxes")),
    "distance_box_iou": Row(jc.distance_box_iou, PAIR),
    "encode_boxes": Row(jc.encode_boxes, PAIR),
    "encode_centers": Row(lambda p, i: jc.encode_centers(p, i, 1.0, 6, 3), ((5, 2), "integers")),
    "encode_distances": Row(jc.encode_distances, PAIR),
    "encode_heatmap": Row(lambda p: jc.encode_heatmap(p, 6, 1.0), ((5, 2),)),
    "gaussian_radius": Row(jc.gaussian_radius, ((5, 2),)),
    "generalized_box_iou": Row(jc.generalized_box_iou, PAIR),
    "heatmap_peaks": Row(lambda x: jc.heatmap_peaks(x, 5), ((6, 7, 2),)),
    "masks_to_boxes": Row(lambda x: jc.masks_to_boxes(x > 0.7), ((6, 7),)),
    "match_atss": Row(lambda b, a: jc.match_atss(b, a, (3, 2), candidates=2), PAIR),
    "match_boxes": Row(lambda b, a: jc.match_boxes(b, a, high=0.5, low=0.3, allow_low_quality=True), PAIR),
    "match_centers": Row(lambda b, a: jc.match_centers(b, a, (3, 2)), PAIR),
    "multiscale_roi_align": Row(
        lambda x, y, b, i: jc.multiscale_roi_align(
            (x, y), b, i, 2, spatial_scales=(1, 0.5), sampling_ratio=2, canonical_size=40
        ),
        ((1, 8, 6, 2), (1, 4, 3, 2), "boxes", "integers"),
    ),
    "nms": Row(lambda b, s: jc.nms(b, s, 0.5, 4), ("boxes", "scores")),
    "polygon_masks": Row(lambda p: jc.polygon_masks(10 * p, 6), ((5, 2),)),
    "roi_align": Row(lambda x, b, i: jc.roi_align(x, b, i, 2, sampling_ratio=2), (MAP, "boxes", "integers")),
    "roi_pool": Row(lambda x, b, i: jc.roi_pool(x, b, i, 2), (MAP, "boxes", "integers")),
    "soft_argmax": Row(jc.soft_argmax, ((6, 7, 2),)),
    "soft_nms": Row(lambda b, s: jc.soft_nms(b, s, 4), ("boxes", "scores")),
    "star_distances": Row(lambda i: jc.star_distances(i.reshape(1, 5), 4), ("integers",)),
    "star_polygons": Row(jc.star_polygons, ((5, 2), (5, 8))),
}


def arrays(row, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)

    def draw(what):
        if what == "boxes":
            return draw_boxes(rng, 5, 10, dtype=np.float32).astype(dtype)
        if what == "integers":
            return rng.integers(0, 3, 5).astype(np.int32)
        return rng.uniform(0.1, 1, 5 if what == "scores" else what).astype(dtype)

    return [draw(what) for what in row.arguments]


def same(got, want, rtol=1e-5):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == w.dtype
        assert_allclose(np.asarray(g, np.float64), np.asarray(w, np.float64), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_eager_jit_vmap_and_strict_flags(name):
    row = ROWS[name]
    lanes = [arrays(row, seed) for seed in range(2)]
    with strict_flags():
        eager = [row.op(*jax.device_put(lane)) for lane in lanes]
        jitted = quick_jit(row.op)
        for lane, want in zip(lanes, eager, strict=True):
            same(jitted(*lane), want)
    stacked = [np.stack(column) for column in zip(*lanes, strict=True)]
    batch = quick_jit(jax.vmap(row.op))(*stacked)
    for i, want in enumerate(eager):
        same(jax.tree.map(lambda a, i=i: a[i], batch), want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float64])
@pytest.mark.parametrize("name", ROWS)
def test_types_and_gradients(name, dtype):
    """Floats keep their type, but for areas and what is float32 always, and gradients have that of their array."""
    row = ROWS[name]
    with jax.enable_x64(dtype == np.float64):
        given = arrays(row, dtype=dtype)
        out = jax.eval_shape(row.op, *given)
        floats = [a.dtype for a in jax.tree.leaves(out) if jnp.issubdtype(a.dtype, jnp.floating)]
        always = {"masks_to_boxes", "star_distances"} | ({"box_area"} if dtype == jnp.bfloat16 else set())
        assert set(floats) <= {np.dtype(np.float32 if name in always else dtype)}
        movable = tuple(i for i, a in enumerate(given) if a.dtype == dtype)

        def total(*arrays):
            leaves = jax.tree.leaves(row.op(*arrays))
            return sum(
                (a.astype(dtype).sum() for a in leaves if jnp.issubdtype(a.dtype, jnp.floating)), jnp.zeros((), dtype)
            )

        if movable:
            gradients = quick_jit(jax.grad(total, movable))(*given)
            assert all(g.dtype == dtype and np.isfinite(np.asarray(g, np.float64)).all() for g in gradients)


def test_every_op_of_these_modules_has_a_row():
    ops = {
        name
        for name in dir(jc.ops)
        if inspect.isfunction(f := getattr(jc.ops, name)) and f.__module__.rpartition(".")[2] in MODULES.split()
    }
    assert ops - WITHOUT_ROW == set(ROWS)
