"""`jaxconv.explain` finds every convolution and pool, wherever it stands, and says what the compiler is given."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from jaxconv.ops.lowering import onednn

X, K = np.ones((2, 8, 8, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)


def f(x, k):
    return jnp.sum(jc.conv(x, k))


@pytest.mark.parametrize(
    ("wrapped", "inside"),
    [
        (f, ()),
        (jax.jit(f), ("f",)),
        (lambda x, k: jax.lax.scan(lambda c, _: (c + f(x, k), None), 0.0, length=3)[0], ("scan",)),
        (lambda x, k: jax.lax.cond(x[0, 0, 0, 0] > 0, f, lambda x, k: 0.0, x, k), ("cond",)),
        (jax.checkpoint(f), ("remat",)),
        (lambda x, k: jax.lax.fori_loop(0, 2, lambda i, c: c + f(x, k), 0.0), ("scan",)),
        (jax.jit(jax.checkpoint(f)), ("f", "remat")),
    ],
    ids=["plain", "jit", "scan", "cond", "remat", "loop", "nested"],
)
def test_a_convolution_is_found_inside(wrapped, inside):
    (row,) = jc.explain(wrapped, X, K, platform="cpu")
    assert row.op == "conv"
    assert row.shapes == (X.shape, K.shape)
    assert len(row.inside) == len(inside)
    assert all(name in found for name, found in zip(inside, row.inside, strict=True))


def test_a_convolution_is_found_inside_shard_map():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(jc.conv, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    (row,) = jc.explain(split, X, K, platform="cpu")
    assert row.shapes[0] == (1, 8, 8, 4)


@pytest.mark.parametrize("name", ["broadcast", "joint_max", "doubling_max", "xla"])
def test_a_function_may_have_the_name_of_an_algorithm(name):
    def function(x, k):
        return jc.conv(x, k)

    function.__name__ = name
    rows = jc.explain(jax.jit(function), jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    assert [(row.op, row.inside) for row in rows] == [("conv", (name,))]


def test_long_windows_are_found_with_their_gradient_and_the_reason():
    loss = lambda x: jnp.sum(jc.max_pool(x, (1, 40)) ** 2)  # noqa: E731
    rows = [row for row in jc.explain(jax.grad(loss), jnp.ones((1, 2, 80, 3))) if row.form == "doubling_max"]
    assert [row.op for row in rows] == ["max_pool", "max_pool: gradient"]
    assert all(row.why.startswith("Windows of more than 8 taps are computed by doubling") for row in rows)
    with jc.lowering(("doubling_max",)):
        rows = jc.explain(lambda x: jc.max_pool(x, (1, 3)), jnp.ones((1, 2, 80, 3), jnp.bfloat16))
    assert [(row.op, row.form) for row in rows] == [("max_pool", "doubling_max")] * 2
    assert rows[0].how == "bfloat16"
    assert rows[0].why == "The lowering mode names this algorithm."


def test_max_pools_of_xla_are_max_pools_and_not_laxs_operations():
    with jc.lowering("xla"):
        rows = jc.explain(jax.grad(lambda x: jnp.sum(jc.max_pool(x, 2) ** 2)), X)
    assert [(row.op, row.form) for row in rows] == [("max_pool", "xla"), ("max_pool: gradient", "xla")]
    assert {row.why for row in rows} == {'The lowering mode is "xla".'}


@pytest.mark.parametrize("mode", ["auto", "xla"])
def test_the_record_of_a_choice_is_compiled_to_nothing(mode):
    with jc.lowering(mode):
        text = jax.jit(lambda x: jc.max_pool(x, (1, 40))).lower(jnp.ones((1, 2, 80, 3))).as_text()
    assert "jaxconv_chosen" not in text
    assert "custom_call" not in text


def test_gradients_pools_and_ensembles_are_told_apart():
    def loss(k, x):
        return jnp.sum(jc.avg_pool(jc.max_pool(jc.conv(x, k), 2), 3, stride=1) ** 2)

    ops = [row.op for row in jc.explain(jax.grad(loss, (0, 1)), K, X, platform="cpu")]
    assert ops.count("conv") == 1
    assert ops.count("conv: gradient of the kernel") == 1
    assert sum("gradient of the input" in op for op in ops) == 1
    assert "max_pool" in ops
    assert "avg_pool or lp_pool" in ops
    (row,) = (r for r in jc.explain(jax.vmap(f), np.stack([X, X]), np.stack([K, K]), platform="cpu"))
    assert row.op == "conv, 2 of them"
    assert row.macs == 2 * 2 * 8 * 8 * 9 * 4 * 4


def test_what_is_said_is_what_is_compiled():
    """A matrix product in the text where the row says one, a convolution where it says lax's."""
    k = np.ones((1, 1, 4, 4), np.float32)
    for mode, form, operation in (("portable", "gemm > xla", "dot_general"), ("xla", "xla", "stablehlo.convolution")):
        with jc.lowering(mode):
            (row,) = jc.explain(f, X, k, platform="cpu")
            assert row.form == form
            assert operation in jax.jit(f).trace(X, k).lower(lowering_platforms=("cpu",)).as_text()


def test_other_platforms_have_their_own_choice():
    k = np.ones((1, 1, 4, 4), np.float32)
    strided = lambda x, k: jc.conv(x, k, stride=2)  # noqa: E731
    with jc.lowering("portable"):
        found = [jc.explain(strided, X, k, platform=p)[0].form for p in ("cpu", "cuda", "tpu")]
    assert found == ["gemm > xla", "xla", "xla"]
    pools = [jc.explain(lambda x: jc.max_pool(x, 3, stride=1), X, platform=p)[0].form for p in ("cpu", "cuda")]
    assert pools == ["separable_max", "xla"]
    rows = jc.explain(jax.grad(lambda x: jnp.sum(jc.max_pool(x, 2))), X, platform="cuda")
    assert [(row.op, row.form) for row in rows] == [("max_pool", "joint_max"), ("max_pool: gradient", "joint_max")]


def test_how_the_windows_lie_is_shown():
    k, x = jnp.ones((3, 3, 1, 4), jnp.bfloat16), jnp.ones((2, 8, 8, 4), jnp.bfloat16)
    rows = [
        *jc.explain(lambda x: jc.conv(x, k, stride=(2, 1), padding="SAME", dilation=2, groups=4), x),
        *jc.explain(lambda x: jc.conv(x, k, padding=((1, 0), (1, 0)), groups=4), x),
        *jc.explain(lambda x: jc.conv(x, jnp.ones((1, 1, 4, 2))), X),
    ]
    assert [row.how for row in rows] == [
        "stride (2, 1), padding ((1, 2), (2, 2)), dilation 2, groups 4, bfloat16",
        "padding ((1, 0), (1, 0)), groups 4, bfloat16",
        "",
    ]


def test_what_a_form_leaves_is_shown():
    k = np.ones((3, 3, 1, 4), np.float32)
    rows = jc.explain(jax.grad(lambda x: jnp.sum(jc.conv(x, k, stride=2, groups=4))), X, platform="cpu")
    assert rows[-1].form == "polyphase > flipped_conv > shift_add"


@pytest.mark.skipif(not onednn.carried(), reason="this jaxlib has no oneDNN")
@pytest.mark.parametrize(
    ("size", "window", "form"), [(16, 3, "shift_add"), (16, 6, "depthwise_space_to_depth > onednn")]
)
def test_large_strided_windows_of_depthwise_kernels_are_split(size, window, form):
    x, k = jnp.ones((2, size, size, 8)), jnp.ones((window, window, 1, 8))
    rows = jc.explain(jax.grad(lambda k: jnp.sum(jc.conv(x, k, stride=2, groups=8) ** 2)), k, platform="cpu")
    assert rows[-1].form == form


def test_laxs_own_are_listed_too():
    numbers = ("NHWC", "HWIO", "NHWC")
    rows = jc.explain(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers), X, K)
    assert [row.op for row in rows] == ["lax.conv_general_dilated"]


def test_it_prints_as_a_table():
    lines = str(jc.explain(f, X, K, platform="cpu")).splitlines()
    assert lines[0].split() == ["op", "shapes", "how", "inside", "form", "why"]
    assert "2x8x8x4, 3x3x4x4" in lines[1]


def test_a_platform_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="platform must be one of cpu, cuda, rocm, tpu, got 'gpus'"):
        jc.explain(f, X, K, platform="gpus")


def test_it_is_a_table_in_a_terminal_and_in_a_notebook():
    rows = jc.explain(lambda x, k: jnp.sum(jc.max_pool(jc.conv(x, k, stride=2), 2)), X, K, platform="tpu")
    assert repr(rows) == str(rows)
    lines = repr(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["op", "conv", "max_pool"]
    table = ElementTree.fromstring(rows._repr_html_())
    cells = [[cell.text or "" for cell in row] for row in table.iter("tr")]
    assert cells[0] == ["op", "shapes", "how", "inside", "form", "why"]
    assert cells[1][:3] == ["conv", "2x8x8x4, 3x3x4x4", f"stride 2, {rows[0].how.split(', ', 1)[1]}"]
    assert [row[0] for row in cells[1:]] == [row.op for row in rows]


def test_an_explanation_of_nothing_is_a_table_without_rows():
    rows = jc.explain(lambda x: x + 1, X, platform="tpu")
    assert repr(rows) == "op  shapes  how  inside  form  why"
    assert len(list(ElementTree.fromstring(rows._repr_html_()).iter("tr"))) == 1
