"""Receptive fields: numbers known by hand, and the region where the gradient is not zero."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

import jaxconv as jc
from jaxconv.fields import Field, InexactField
from jaxconv.inspect import receptive_field, trace
from tests.nets import COVERING, EXACT, WHOLE, Pass, Shift, networks

# --- The oracle -------------------------------------------------------------------------------------------------------


def positive(params, seed=0):
    """Positive numbers, small enough that no activation saturates: so no gradient is zero by chance."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape) / max(1, a.size // max(a.shape[-1], 1)), a.dtype), params
    )


def seen(net, shape, units):
    """For each unit of the output and each axis of the input: from where to where the gradient is not zero."""
    params, state = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))
    params, state = positive(params), jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)
    x = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, shape), jnp.float32)

    def output(x, unit):
        y = net.apply(params, state, x)[0][0].sum(-1)
        return y[tuple(unit)] if y.ndim else y

    gradients = jax.jit(jax.vmap(jax.grad(output), (None, 0)))(x, jnp.asarray(units, jnp.int32))
    live = np.any(np.asarray(gradients)[:, 0] != 0, axis=-1)
    rank = len(shape) - 2
    regions = []
    for region in live:
        lines = [np.flatnonzero(region.any(tuple(a for a in range(rank) if a != axis))) for axis in range(rank)]
        regions.append([(line[0], line[-1] + 1) if len(line) else None for line in lines])
    return regions


def choose(sizes):
    """Units at the rim and in the middle; every one of a map with one axis."""
    if len(sizes) == 1:
        return [(i,) for i in range(sizes[0])]
    return list(itertools.product(*(sorted({0, 1 % n, n // 2, n - 1}) for n in sizes)))


def intervals(fields, unit):
    """What the unit sees by its fields, for each axis; the output's axes are the first of the input's that are left."""
    unit = (*unit, *(0,) * (len(fields) - len(unit)))
    return [(f.offset + i * f.stride, f.offset + i * f.stride + f.size) for f, i in zip(fields, unit, strict=True)]


def inside(spans, shape):
    """Whether the unit is away from the rim. Without negative padding, then so is all that leads to it."""
    return all(start >= 0 and stop <= n for (start, stop), n in zip(spans, shape[1:-1], strict=True))


def check(net, shape, *, exact=True):
    """Checks that each unit's fields cover what it sees, and if exact that away from the rim they are it.

    Returns how many intervals were equal to the element.
    """
    fields = receptive_field(net, shape)[""]
    units = choose(trace(net, shape)[-1].output.shape[1:-1])
    equal = 0
    for unit, region in zip(units, seen(net, shape, units), strict=True):
        spans = intervals(fields, unit)
        compared = exact and inside(spans, shape)
        for span, ends in zip(spans, region, strict=True):
            if compared:
                assert ends == span, (unit, fields)
                equal += 1
            elif ends:
                assert span[0] <= ends[0] < ends[1] <= span[1], (unit, fields, ends)
    return equal


# --- Known numbers ----------------------------------------------------------------------------------------------------


def alexnet():
    def conv(features, window=3, **options):
        return jc.Conv(features, window, **options)

    pool = jc.MaxPool(3, stride=2)
    return jc.serial(
        conv(64, 11, stride=4, padding="VALID"), jax.nn.relu, pool, conv(192, 5), jax.nn.relu, pool,
        conv(384), jax.nn.relu, conv(384), jax.nn.relu, conv(256), jax.nn.relu, pool,
    )  # fmt: skip


def vgg16():
    layers = []
    for features, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [*[jc.Conv(features), jax.nn.relu] * count, jc.MaxPool(2)]
    return jc.serial(*layers)


@pytest.mark.parametrize(
    ("net", "size", "field"), [(alexnet(), 231, Field(195, 32, -64)), (vgg16(), 224, Field(212, 32, -90))]
)
def test_the_fields_published_by_araujo_et_al(net, size, field):
    # "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019: size, stride and padding.
    fields = receptive_field(net, (1, size, size, 3))
    assert fields[""] == (field, field)
    assert all(f.exact for f in fields[""])


def test_a_field_for_each_path():
    net = jc.serial(
        stem=jc.Conv(2, stride=2),
        block=jc.residual(
            jc.serial(conv1=jc.Conv(2), act=jax.nn.relu, conv2=jc.Conv(2)), jc.Conv(2, 1), after=jnp.tanh
        ),
        pool=jc.AvgPool(2),
        head=jc.serial(jc.Flatten(), jc.Dense(3)),
    )
    sizes = {path: fields[0] for path, fields in receptive_field(net, (1, 17, 17, 3)).items()}
    assert sizes == {
        "stem": (3, 2, -1),
        "block.conv1": (7, 2, -3),
        "block.act": (7, 2, -3),
        "block.conv2": (11, 2, -5),
        "block.shortcut": (3, 2, -1),
        "block.after": (11, 2, -5),
        "block": (11, 2, -5),
        "pool": (13, 4, -5),
        "head.0": (17, 0, 0),
        "head.1": (17, 0, 0),
        "head": (17, 0, 0),
        "": (17, 0, 0),
    }


def test_a_users_field_of_one_layer_is_that_of_a_network_of_it():
    for layer in (jc.Conv(2, (3, 5), stride=(2, 1)), jc.MaxPool(2), jc.Identity()):
        assert receptive_field(layer, (1, 9, 9, 1))[""] == receptive_field(jc.serial(layer), (1, 9, 9, 1))["0"]


CASES = {
    # name: (net, input shape, fields, exact, how many intervals are compared to the element at least)
    "conv 1-D": (jc.Conv(2, (3,), padding="VALID"), (1, 9, 1), [(3, 1, 0)], True, 7),
    "stride and dilation": (
        jc.Conv(2, (3, 2), stride=(2, 3), dilation=(2, 1), padding=((1, 2), (0, 1))),
        (1, 12, 10, 2),
        [(5, 2, -1), (2, 3, 0)],
        True,
        4,
    ),
    "conv 3-D": (
        jc.serial(jc.Conv(2, (3, 2, 1), padding="VALID"), jc.AvgPool((1, 2, 2))),
        (1, 6, 7, 6, 1),
        [(3, 1, 0), (3, 2, 0), (2, 2, 0)],
        True,
        8,
    ),
    "groups": (jc.serial(jc.Conv(4, (3,), groups=2), jc.Conv(4, (3,), groups=4)), (1, 12, 2), [(5, 1, -2)], True, 6),
    "cropping": (
        jc.serial(jc.Pad(((-2, 0),), rank=1), jc.Conv(1, (3,), padding=((-1, 1),))),
        (1, 16, 1),
        [(3, 1, 3)],
        True,
        4,
    ),
    "padding by a layer": (
        jc.serial(jc.Pad(((2, 1),), rank=1), jc.Conv(1, (4,), padding="VALID")),
        (1, 9, 1),
        [(4, 1, -2)],
        True,
        4,
    ),
    "residual": (
        jc.residual(jc.serial(jc.Conv(2, (3,)), jc.Conv(2, (2,))), jc.Conv(2, (5,), padding=((4, 0),))),
        (1, 16, 2),
        [(7, 1, -4)],
        True,
        6,
    ),
    "concat": (
        jc.concat(jc.Conv(1, (1,), stride=2), jc.Conv(1, (5,), stride=2), jc.AvgPool((3,), stride=2, padding=1)),
        (1, 16, 2),
        [(5, 2, -1)],
        True,
        5,
    ),
    "gate": (jc.gate(jc.Conv(2, (3,), dilation=2)), (1, 12, 2), [(5, 1, -2)], True, 6),
    "repeat": (jc.repeat(jc.Conv(2, (3,)), 3), (1, 14, 2), [(7, 1, -3)], True, 6),
    "wrapped": (jc.mixed_precision(jc.remat(jc.Conv(2, (3,)))), (1, 8, 2), [(3, 1, -1)], True, 5),
    "split": (jc.split(jc.Conv(1, (3,)), jc.Identity()), (1, 8, 2), [(3, 1, -1)], True, 5),
    "one axis of two": (jc.Conv(2, (3,), padding="VALID"), (1, 5, 8, 2), [(1, 1, 0), (3, 1, 0)], True, 9),
    "dense after flatten": (
        jc.serial(jc.Conv(2, padding="VALID"), jc.Flatten(), jc.Dense(3)),
        (1, 8, 7, 2),
        [(8, 0, 0), (7, 0, 0)],
        True,
        2,
    ),
    "what a strided window leaves over": (
        jc.serial(jc.Conv(2, (3,), stride=2, padding="VALID"), jc.GlobalAvgPool(rank=1)),
        (1, 8, 2),
        [(7, 0, 0)],
        True,
        1,
    ),
    "global pool": (jc.serial(jc.Conv(2), jc.GlobalAvgPool()), (1, 6, 7, 2), [(6, 0, 0), (7, 0, 0)], True, 2),
    "flatten one axis of two": (
        jc.serial(jc.Conv(2, 3, padding="VALID"), jc.Flatten(1), jc.Conv(2, (3,), padding="VALID")),
        (1, 8, 6, 2),
        [(5, 1, 0), (6, 0, 0)],
        True,
        4,
    ),
    "instance norm": (
        jc.serial(jc.InstanceNorm(), jc.Conv(2)),
        (1, 6, 7, 2),
        [(6, 0, 0), (7, 0, 0)],
        True,
        12,
    ),
    "group norm of a strided map": (
        jc.serial(jc.Conv(2, (2,), stride=3, padding="VALID"), jc.GroupNorm(1, rank=1), jc.Conv(2, (3,))),
        (1, 10, 2),
        [(8, 0, 0)],
        True,
        3,
    ),
    "squeeze and excitation": (
        jc.gate(jc.serial(jc.GlobalAvgPool(rank=1), jc.Dense(2), jax.nn.softplus)),
        (1, 6, 2),
        [(6, 0, 0)],
        True,
        6,
    ),
    "adaptive pool that tiles": (jc.AdaptiveAvgPool(3, rank=1), (1, 12, 1), [(4, 4, 0)], True, 3),
    "adaptive pool": (
        jc.AdaptiveAvgPool(3, rank=1), (1, 5, 1), [(3, Fraction(5, 3), Fraction(-2, 3))], False, 0
    ),
    "transposed, stride 1": (jc.ConvTranspose(1, (3,), padding=1), (1, 9, 1), [(3, 1, -1)], True, 6),
    "transposed, windows that tile": (
        jc.ConvTranspose(1, (2,), stride=2, padding=0),
        (1, 5, 1),
        [(Fraction(3, 2), Fraction(1, 2), Fraction(-1, 2))],
        False,
        0,
    ),
    "transposed": (
        jc.serial(jc.Conv(1, (3,), stride=2), jc.ConvTranspose(1, (4,), stride=2, padding=1), jc.Conv(1, (3,))),
        (1, 12, 1),
        [(8, 1, -3)],
        False,
        0,
    ),
    "transposed and dilated": (
        jc.ConvTranspose(1, (2,), stride=2, dilation=3, padding=0), (1, 6, 1), None, False, 0
    ),
    "pixel shuffle": (jc.serial(jc.Conv(4, (3,)), jc.PixelShuffle(4, rank=1)), (1, 8, 1), None, False, 0),
    "bilinear after a stride": (
        jc.serial(jc.Conv(1, (3,), stride=2), jc.Resize(factor=2, rank=1)), (1, 12, 1), None, False, 0
    ),
    "align_corners": (jc.Resize(5, align_corners=True, rank=1), (1, 17, 1), [(1, 4, 0)], True, 5),
    "align_corners, larger": (jc.Resize(21, align_corners=True, rank=1), (1, 9, 1), None, False, 0),
    "antialias": (jc.Resize(4, antialias=True, method="bicubic", rank=1), (1, 18, 1), None, False, 0),
    "nearest": (jc.Resize(7, method="nearest", rank=1), (1, 4, 1), None, False, 0),
    "nearest, smaller by a factor": (jc.Resize(4, method="nearest", rank=1), (1, 8, 1), [(1, 2, 0)], True, 4),
    "area": (jc.Resize(4, method="area", rank=1), (1, 10, 1), None, False, 0),
    "resize to the same": (jc.Resize(6, rank=1), (1, 6, 1), [(1, 1, 0)], True, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_fields_are_where_the_gradient_is_not_zero(name):
    net, shape, fields, exact, least = CASES[name]
    got = receptive_field(net, shape)[""]
    assert fields is None or list(got) == fields
    assert {f.exact for f in got} == {exact}
    assert check(net, shape, exact=exact) >= least


@given(networks(EXACT, sizes=(16, 32), ranks=(1,), depth=4, head=False, batch=1, crop=False))
@settings(max_examples=10)
def test_fields_of_random_rows_are_exact(case):
    check_exact(*case)


@given(networks(EXACT, sizes=(10, 14), ranks=(2,), depth=3, head=False, batch=1, stride=2, crop=False))
@settings(max_examples=6)
def test_fields_of_random_maps_are_exact(case):
    check_exact(*case)


@given(networks((*EXACT, *COVERING, *WHOLE), sizes=(8, 16), ranks=(1,), depth=4, batch=1))
@settings(max_examples=10)
def test_fields_of_random_networks_cover(case):
    check(*case, exact=False)


@pytest.mark.slow
@given(networks(EXACT, sizes=(16, 40), depth=5, head=False, batch=1, crop=False))
@settings(max_examples=200)
def test_fields_of_many_random_maps_are_exact(case):
    check_exact(*case)


@pytest.mark.slow
@given(networks((*EXACT, *COVERING, *WHOLE), depth=5, batch=1))
@settings(max_examples=200)
def test_fields_of_many_random_networks_cover(case):
    check(*case, exact=False)


def check_exact(net, shape):
    sizes = trace(net, shape)[-1].output.shape[1:-1]
    fields = receptive_field(net, shape)[""]
    assert all(f.exact for f in fields)
    assume(inside(intervals(fields, [n // 2 for n in sizes]), shape))
    assert check(net, shape) >= len(sizes)


# --- What is not known ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [jax.nn.softmax, lambda x: x[:, ::-1], lambda x: x - x.mean(), Pass(), Shift()])
def test_an_unknown_layer_and_all_after_it_are_unknown(unknown):
    net = jc.serial(jc.Conv(2), jc.serial(unknown, jax.nn.relu), jc.Conv(2), jc.GlobalAvgPool())
    fields = receptive_field(net, (1, 8, 8, 3))
    assert fields["0"] == (Field(3, 1, -1),) * 2
    assert all(fields[path] is None for path in ("1.0", "1.1", "1", "2", "3", ""))


def test_a_branch_that_is_unknown_makes_the_whole_unknown():
    for net in (jc.concat(jc.Conv(2), Pass()), jc.residual(Pass()), jc.gate(jax.nn.softmax)):
        assert receptive_field(net, (1, 8, 8, 2))[""] is None


def test_a_layer_that_tells_its_geometry_is_known():
    class Blur(Pass):
        def geometry(self, x):
            return (Field(5, 1, -2),) * 2

    assert receptive_field(jc.serial(jc.Conv(2), Blur()), (1, 8, 8, 2))["1"] == (Field(7, 1, -3),) * 2


def test_trees_have_no_field():
    net = jc.serial(jc.parallel(jc.Conv(2), jc.Conv(2, 5)), jc.Fn(lambda xs: xs[0] + xs[1]))
    fields = receptive_field(net, (1, 8, 8, 2))
    assert fields["0.1"] == (Field(5, 1, -2),) * 2
    assert fields["0"] is None
    assert fields["1"] is None
    assert receptive_field(jc.Fn(lambda xs: xs[0]), [(1, 8, 8, 2), (1, 3)]) == {"": None}


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_padding_by_the_maps_own_values_is_inexact(mode):
    shape = (1, 12, 1)
    for net in (
        jc.Conv(1, (3,), pad_mode=mode),
        jc.serial(jc.Pad(1, mode=mode, rank=1), jc.Conv(1, (3,), padding="VALID")),
    ):
        (field,) = receptive_field(net, shape)[""]
        assert field == (3, 1, -1)
        assert not field.exact
        # Away from the rim it is what is seen.
        assert seen(net, shape, [(5,)]) == [intervals([field], (5,))]
    (field,) = receptive_field(jc.Conv(1, (3,), padding="VALID", pad_mode=mode), shape)[""]
    assert field.exact


def test_inexact_fields_say_so():
    (field,) = receptive_field(jc.ConvTranspose(1, (4,), stride=2), (1, 8, 1))[""]
    assert isinstance(field, InexactField)
    assert repr(field).startswith("InexactField(size=")


# --- trace ------------------------------------------------------------------------------------------------------------


def test_trace_has_composites_where_they_finish():
    net = jc.serial(a=jc.residual(jc.serial(conv=jc.Conv(2)), jc.Conv(2, 1)), b=jc.repeat(jc.serial(c=jc.Conv(2)), 2))
    rows = trace(net, (1, 8, 8, 3))
    assert [row.path for row in rows] == ["a.conv", "a.shortcut", "a", "b.c", "b", ""]
    assert [type(row.layer).__name__ for row in rows] == ["Conv", "Conv", "Residual", "Conv", "Repeat", "Serial"]
    assert rows[2].input.shape == (1, 8, 8, 3)
    assert rows[2].output.shape == (1, 8, 8, 2)


def test_tracing_computes_nothing():
    """It works on shapes: under jit, and for a network whose arrays would not fit in memory."""
    net = jc.serial(jc.Conv(2), jc.Dense(3))

    @jax.jit
    def inside(x):
        assert trace(net, x)[-1].output.shape == (1, 8, 8, 3)
        return x

    inside(jnp.ones((1, 8, 8, 3)))
    assert trace(net, (10**6, 10**4, 10**4, 3))[-1].output.shape == (10**6, 10**4, 10**4, 3)
