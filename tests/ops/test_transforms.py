"""Every op through every transformation, element type, batch and mesh: one row an op."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from tests.ops import test_box_transforms, transforms
from tests.ops.transforms import Row, floats


def with_options(op, *arguments, **options):
    """The op with what follows its arrays."""
    return lambda *arrays: op(*arrays, *arguments, **options)


def unpool(y, indices):
    """Indices that no two elements share: four places each, of which one is taken."""
    places = jnp.arange(y.shape[-2] * y.shape[-3]).reshape(*y.shape[-3:-1], 1) * 4
    places = places.reshape(*(1,) * (indices.ndim - places.ndim), *places.shape)
    return jc.max_unpool(y, indices + places, (4, 4))


def grouped(x, scale, bias):
    return jc.group_norm(x, 2, scale, bias, rank=1)


def channels_first(x, kernel):
    """The drop-in wants exactly one batch axis."""
    batched = x.reshape(-1, *x.shape[-3:])
    y = jc.conv_general_dilated(
        batched, kernel, (2, 1), [(1, 1), (0, 1)], rhs_dilation=(1, 2), dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return y.reshape(*x.shape[:-3], *y.shape[1:])


KEY = (0, 7)


def key():
    """Made where it is used: no array outside a test."""
    return jax.random.wrap_key_data(jnp.array(KEY, jnp.uint32), impl="threefry2x32")


IMAGE = (5, 4, 2)

ROWS = [
    Row("conv", with_options(jc.conv, stride=2), (IMAGE, (3, 3, 2, 3), (3,))),
    Row("conv-1x1", with_options(jc.conv), (IMAGE, (1, 1, 2, 3), (3,))),
    Row("conv-1d-dilated", with_options(jc.conv, padding=((3, -1),), dilation=2), ((6, 2), (3, 2, 3))),
    Row("conv-depthwise", with_options(jc.conv, groups=2, padding=1), (IMAGE, (3, 3, 1, 4))),
    Row("conv-grouped", with_options(jc.conv, groups=2, stride=(1, 2)), ((5, 4, 4), (3, 2, 2, 2))),
    Row("conv-reflect", with_options(jc.conv, padding=1, pad_mode="reflect"), (IMAGE, (3, 3, 2, 3))),
    Row("conv-3d", with_options(jc.conv, padding="VALID"), ((3, 3, 2, 2), (2, 2, 2, 2, 2))),
    Row("conv_transpose", with_options(jc.conv_transpose, stride=2), ((3, 2, 2), (3, 3, 3, 2), (3,))),
    Row(
        "conv_transpose-grouped",
        with_options(jc.conv_transpose, stride=2, padding=1, output_padding=1, groups=2),
        ((3, 2, 4), (3, 3, 2, 4), (4,)),
    ),
    Row("conv_local", with_options(jc.conv_local), ((4, 3, 2), (3, 2, 2, 2, 2, 3), (3, 2, 3))),
    Row("conv_general_dilated", channels_first, ((2, 5, 4), (3, 2, 3, 2))),
    Row("dense", jc.dense, ((5,), (5, 3), (3,))),
    Row("max_pool", with_options(jc.max_pool, 2), (IMAGE,)),
    Row("max_pool-overlapping", with_options(jc.max_pool, 3, stride=2, padding=1, ceil_mode=True), (IMAGE,)),
    Row("max_pool-dilated", with_options(jc.max_pool, (2, 2), stride=1, dilation=2, padding=1), (IMAGE,)),
    Row("max_pool-long", with_options(jc.max_pool, (9,), stride=2), ((12, 2),)),
    Row("max_pool_with_indices", with_options(jc.max_pool_with_indices, (3, 2), stride=2), (IMAGE,)),
    Row("max_unpool", unpool, ((2, 2, 3), (2, 2, 3)), batched=(0, 1), integers={1: 4}),
    Row("avg_pool", with_options(jc.avg_pool, 2), (IMAGE,)),
    Row(
        "avg_pool-overlapping",
        with_options(jc.avg_pool, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        (IMAGE,),
    ),
    Row("avg_pool-long", with_options(jc.avg_pool, (11,), stride=1, padding=3), ((12, 2),)),
    Row("lp_pool", with_options(jc.lp_pool, (2, 3), stride=(1, 2), p=2), (IMAGE,)),
    Row("lp_pool-3", with_options(jc.lp_pool, 2, p=3), (IMAGE,)),
    Row("global_avg_pool", jc.global_avg_pool, (IMAGE,)),
    Row("global_max_pool", jc.global_max_pool, (IMAGE,)),
    Row("global_lp_pool", jc.global_lp_pool, (IMAGE,)),
    Row("global_gem_pool", jc.global_gem_pool, (IMAGE, (1,)), positive=(1,)),
    Row("adaptive_avg_pool", with_options(jc.adaptive_avg_pool, (3, 2)), (IMAGE,)),
    Row("adaptive_max_pool", with_options(jc.adaptive_max_pool, (3, 2)), (IMAGE,)),
    Row("batch_norm", jc.batch_norm, ((3, 2), (2,), (2,), (2,), (2,)), positive=(2,)),
    Row("batch_statistics", jc.batch_statistics, ((3, 2),), separate=False, batch_out=False, keeps_type=False),
    Row("layer_norm", jc.layer_norm, ((3, 4), (4,), (4,))),
    Row("group_norm", grouped, ((3, 4), (4,), (4,))),
    Row("instance_norm", with_options(jc.instance_norm, rank=1), ((4, 2), (2,), (2,))),
    Row("local_response_norm", with_options(jc.local_response_norm, 3, alpha=0.5), ((2, 5),)),
    Row("unit_norm", jc.unit_norm, ((2, 5),)),
    Row("pad", with_options(jc.pad, ((1, -1), 2), value=0.5), (IMAGE,)),
    Row("pad-reflect", with_options(jc.pad, ((1, 2), 1), mode="reflect"), (IMAGE,)),
    Row("pad-edge", with_options(jc.pad, ((1, 2), 1), mode="edge"), (IMAGE,)),
    Row("pad-circular", with_options(jc.pad, ((1, 2), 1), mode="circular"), (IMAGE,)),
    Row("resize", with_options(jc.resize, (7, 3)), (IMAGE,)),
    Row("resize-bicubic", with_options(jc.resize, (3, 6), method="bicubic", antialias=True), (IMAGE,)),
    Row("resize-nearest", with_options(jc.resize, (7, 3), method="nearest"), (IMAGE,)),
    Row("resize-area", with_options(jc.resize, (3, 3), method="area"), (IMAGE,)),
    Row("channel_shuffle", with_options(jc.channel_shuffle, 2), ((2, 3, 8),)),
    Row("pixel_shuffle", with_options(jc.pixel_shuffle, 2), ((2, 3, 8),)),
    Row("dropout", lambda x: jc.dropout(x, 0.25, key()), ((5, 2),), separate=False),
    Row("drop_path", lambda x: jc.drop_path(x, 0.25, key()), ((5, 2),), separate=False),
]

CHECKS = {name.removeprefix("check_"): check for name, check in vars(transforms).items() if name.startswith("check_")}


# What the arguments of an op change most. The rest of the checks takes an op's first row alone, or much time.
OF_ARGUMENTS = {"vmap", "derivatives", "strict_flags"}


def cases():
    for row in ROWS:
        for check in CHECKS:
            again = "-" in row.name and check not in OF_ARGUMENTS
            yield pytest.param(row, check, id=f"{row.name}-{check}", marks=[pytest.mark.slow] * again)


@pytest.mark.parametrize(("row", "check"), list(cases()))
def test_every_op(row, check):
    CHECKS[check](row)


def test_every_op_has_a_row():
    """A new op comes with a row, here or, for boxes and their like, in `tests.ops.test_box_transforms`."""
    ops = {name: getattr(jc.ops, name).__module__.rpartition(".")[2] for name in dir(jc.ops)}
    functions = {name for name in ops if inspect.isfunction(getattr(jc.ops, name))}
    elsewhere = {name for name in functions if ops[name] in test_box_transforms.MODULES.split()}
    assert {row.name.split("-")[0] for row in ROWS} == functions - elsewhere


@pytest.mark.parametrize("row", [row for row in ROWS if row.shapes == (IMAGE,)], ids=lambda row: row.name)
def test_channels_split_over_devices_stay_split(row):
    """Pools, pads and resizes mix no channels: on an explicit mesh the result is split as the image is."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    sharding = NamedSharding(mesh, P(None, None, None, "data"))
    image = jax.ShapeDtypeStruct((2, *IMAGE[:-1], 4), np.float32, sharding=sharding)
    with jax.set_mesh(mesh):
        for out in jax.tree.leaves(jax.eval_shape(row.op, image)):
            assert out.sharding.spec == P(*[None] * (out.ndim - 1), "data")


def test_arrays_that_a_user_mixes_are_jaxs_own_error_under_strict_promotion():
    x, kernel = jnp.ones((2, 4, 4, 2)), jnp.ones((3, 3, 2, 3), jnp.bfloat16)
    assert jc.conv(x, kernel).dtype == np.float32
    with jax.numpy_dtype_promotion("strict"), pytest.raises(jax.dtypes.TypePromotionError, match="promotion=strict"):
        jc.conv(x, kernel)


# Sides so long that what an op holds as a constant of its map's size shows in its program, and odd.
LONG, SHORT = (1, 4001, 3001, 2), (1, 1001, 701, 2)
MAPS = {
    "conv": (with_options(jc.conv, padding=3, stride=2), LONG, (7, 7, 2, 3)),
    "conv-depthwise": (with_options(jc.conv, groups=2), LONG, (3, 3, 1, 4)),
    "conv-reflect": (with_options(jc.conv, pad_mode="reflect"), LONG, (3, 3, 2, 3)),
    "conv_transpose": (with_options(jc.conv_transpose, stride=2), LONG, (3, 3, 3, 2)),
    "conv_local": (with_options(jc.conv_local), (1, 61, 41, 2), (61, 41, 1, 1, 2, 3)),
    "max_pool": (with_options(jc.max_pool, 3, stride=2, padding=1), LONG),
    "max_pool_with_indices": (with_options(jc.max_pool_with_indices, 2), LONG),
    "max_unpool": (lambda y: jc.max_unpool(*jc.max_pool_with_indices(y, 2), LONG[1:3]), LONG),
    "avg_pool": (with_options(jc.avg_pool, 3, stride=1, padding=1, count_include_pad=False), LONG),
    "lp_pool": (with_options(jc.lp_pool, 3, stride=2, padding="SAME"), LONG),
    "global_avg_pool": (jc.global_avg_pool, LONG),
    "global_max_pool": (jc.global_max_pool, SHORT),
    "global_lp_pool": (jc.global_lp_pool, LONG),
    "global_gem_pool": (jc.global_gem_pool, LONG, (1,)),
    "batch_norm": (jc.batch_norm, LONG, (2,), (2,), (2,), (2,)),
    "batch_statistics": (jc.batch_statistics, LONG),
    "layer_norm": (jc.layer_norm, LONG, (2,), (2,)),
    "group_norm": (with_options(jc.group_norm, 1), LONG),
    "instance_norm": (jc.instance_norm, LONG),
    "local_response_norm": (with_options(jc.local_response_norm, 3), LONG),
    "unit_norm": (jc.unit_norm, LONG),
    "pad": (with_options(jc.pad, 2, mode="circular"), LONG),
    "channel_shuffle": (with_options(jc.channel_shuffle, 2), LONG),
    "pixel_shuffle": (with_options(jc.pixel_shuffle, 1), LONG),
    "dropout": (lambda x: jc.dropout(x, 0.25, key()), LONG),
    "drop_path": (lambda x: jc.drop_path(x, 0.25, key()), LONG),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_program_for_a_large_map_is_small(name):
    """Neither the op nor its gradients hold a constant that grows with the map: its text stays below 100 kB."""
    op, *shapes = MAPS[name]

    def everything(*arrays):
        out, pullback = jax.vjp(lambda *a: floats(op(*a)), *arrays)
        return out, pullback(out)

    arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    assert len(jax.jit(everything).lower(*arrays).as_text()) < 100_000
