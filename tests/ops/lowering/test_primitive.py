"""What JAX does to the primitive: vmap in all combinations, higher derivatives, remat, meshes, several platforms."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify, sparse
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from jaxconv.ops.lowering import forms, table
from jaxconv.ops.lowering.primitive import conv_p
from tests.ops.compare import assert_close
from tests.ops.draws import uniform
from tests.ops.transforms import quick_jit

X, K = uniform(1, (2, 6, 7, 4)).astype(np.float32), uniform(2, (3, 2, 2, 6)).astype(np.float32)
conv = functools.partial(jc.conv, stride=(2, 1), dilation=(1, 2), groups=2, padding=((1, 1), (0, 1)))


def by_lax(x, k):
    return jax.lax.conv_general_dilated(
        x,
        k,
        (2, 1),
        ((1, 1), (0, 1)),
        rhs_dilation=(1, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )


def lanes(a, *counts):
    return np.stack([uniform(i + 10, a.shape) for i in range(int(np.prod(counts)))]).reshape(*counts, *a.shape)


def convolutions(f, *args):
    return [e for e in jax.make_jaxpr(f)(*args).jaxpr.eqns if e.primitive is conv_p]


# Which of the two operands each vmap maps, the outermost first.
VMAPS = [
    ("x",),
    ("k",),
    ("xk",),
    ("x", "k"),
    ("k", "x"),
    ("xk", "x"),
    ("xk", "k"),
    ("xk", "xk"),
    ("x", "xk"),
    ("k", "k"),
]


@pytest.mark.parametrize("order", VMAPS, ids="-".join)
def test_nested_vmaps_of_all_three_roles(order):
    """Against lax's batching, in the value and in both gradients."""
    counts = (2, 3)[: len(order)]
    x = lanes(X, *(n for n, who in zip(counts, order, strict=True) if "x" in who)).astype(np.float32)
    k = lanes(K, *(n for n, who in zip(counts, order, strict=True) if "k" in who)).astype(np.float32)

    def everything(f):
        def one(x, k):
            out, pullback = jax.vjp(f, x, k)
            return out, pullback(jnp.cos(out))

        for who in reversed(order):
            one = jax.vmap(one, (0 if "x" in who else None, 0 if "k" in who else None))
        return quick_jit(one)(x, k)

    for got, want in zip(jax.tree.leaves(everything(conv)), jax.tree.leaves(everything(by_lax)), strict=True):
        assert_close(got, want, what=str(order))


@pytest.mark.parametrize(("dims", "ensemble"), [((0, None), False), ((None, 0), False), ((0, 0), True)])
def test_a_lane_over_one_operand_is_folded_and_over_both_is_an_ensemble(dims, ensemble):
    x, k = (lanes(a, 3) if d == 0 else a for a, d in zip((X, K), dims, strict=True))
    (eqn,) = convolutions(jax.vmap(conv, dims), x, k)
    assert [v.aval.ndim for v in eqn.invars] == [5 if ensemble else 4] * 2
    assert eqn.params["geometry"].groups == 2


def test_nested_ensembles_merge_into_one():
    (eqn,) = convolutions(jax.vmap(jax.vmap(conv)), lanes(X, 2, 3), lanes(K, 2, 3))
    assert eqn.invars[0].aval.shape == (6, *X.shape)


def test_per_example_gradients():
    def loss(k, x):
        return jnp.sum(jnp.sin(conv(x[None], k)))

    got = quick_jit(jax.vmap(jax.grad(loss), (None, 0)))(K, X)
    for i in range(2):
        assert_close(got[i], jax.grad(loss)(K, X[i]))


def test_hessian_is_that_of_lax():
    def hessian(f):
        return quick_jit(jax.hessian(lambda k: jnp.sum(jnp.sin(f(X, k)))))(K)

    assert_close(hessian(conv), hessian(by_lax))


def test_linear_transpose_in_each_operand():
    y = uniform(3, jax.eval_shape(conv, X, K).shape).astype(np.float32)
    for position in (0, 1):
        for f in (conv, by_lax):
            linear = (lambda x, f=f: f(x, K)) if position == 0 else (lambda k, f=f: f(X, k))
            (got,) = quick_jit(jax.linear_transpose(linear, (X, K)[position]))(y)
            if f is conv:
                ours = got
        assert_close(ours, got)


def test_derivatives_of_all_orders_are_the_primitive_again():
    def third(k):
        return jax.grad(lambda k: jnp.sum(jax.grad(lambda k: jnp.sum(conv(X, k) ** 3))(k) ** 2))(k)

    names = {e.primitive.name for e in jax.make_jaxpr(third)(K).jaxpr.eqns}
    assert "conv_general_dilated" not in names
    roles = {e.params["role"] for e in convolutions(third, K)}
    assert roles == {"output", "kernel"}


def test_the_remat_policy_saves_convolutions():
    def saved(policy):
        f = jax.checkpoint(lambda x, k: jnp.sum(jnp.sin(conv(jnp.sin(x), k))), policy=policy)
        inner = str(jax.make_jaxpr(jax.grad(f, 1))(X, K))
        return inner.count("role=output")

    assert saved(jc.convs_saveable) < saved(None)
    assert jc.convs_saveable(jax.lax.dot_general_p)
    assert not jc.convs_saveable(jax.lax.sin_p)


@pytest.mark.parametrize("name", ["xla", "gemm_per_tap"])
def test_lowering_is_obeyed_by_functions_already_compiled(name):
    f = jax.jit(lambda x, k: jc.conv(x, k))
    x, k = np.ones((1, 6, 6, 3), np.float32), np.ones((1, 1, 3, 4), np.float32)
    with jc.lowering("portable"):
        assert "dot_general" in f.lower(x, k).as_text()
    with jc.lowering("xla" if name == "xla" else (name,)):
        assert ("convolution" in f.lower(x, k).as_text()) == (name == "xla")
        (eqn,) = convolutions(lambda x, k: jc.conv(x, k), x, k)
        assert eqn.params["lowering"] == ("xla" if name == "xla" else (name,))
    assert convolutions(lambda x, k: jc.conv(x, k), x, k)[0].params["lowering"] == "auto"
    assert "stablehlo.convolution" not in f.lower(x, k).as_text()


def test_lowering_stays_with_what_was_staged_under_it():
    """A gradient taken outside of the context is still that of what was staged inside."""
    x, k = np.ones((1, 6, 6, 3), np.float32), np.ones((1, 1, 3, 4), np.float32)
    with jc.lowering("xla"):
        jaxpr = jax.make_jaxpr(lambda k: jnp.sum(jc.conv(x, k)))(k)
    gradient = jax.make_jaxpr(jax.grad(lambda k: jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, k)[0]))(k)
    assert {e.params["lowering"] for e in gradient.eqns if e.primitive is conv_p} == {"xla"}


@pytest.mark.parametrize("wrong", ["fast", ("gemm_per_tap", "xlb"), ()])
def test_lowering_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match="lowering must be"):
        jc.lowering(wrong)


def test_an_export_for_two_platforms_holds_each_ones_choice():
    """A strided window of one tap is a matrix product on CPU, lax's convolution on other platforms."""
    x, k = jax.ShapeDtypeStruct((1, 6, 6, 8), np.float32), jax.ShapeDtypeStruct((1, 1, 8, 4), np.float32)
    f = jax.jit(lambda x, k: jc.conv(x, k, stride=2))
    texts = {p: jax.export.export(f, platforms=[p])(x, k).mlir_module() for p in ("cpu", "cuda", "tpu")}
    assert {p: "stablehlo.convolution" in t for p, t in texts.items()} == {"cpu": False, "cuda": True, "tpu": True}
    both = jax.export.export(f, platforms=["cpu", "cuda"])(x, k)
    assert "stablehlo.convolution" in both.mlir_module()
    assert "stablehlo.dot_general" in both.mlir_module()
    again = jax.export.deserialize(both.serialize())
    image, kernel = uniform(1, x.shape).astype(np.float32), uniform(2, k.shape).astype(np.float32)
    assert_close(again.call(image, kernel), jc.conv(image, kernel, stride=2))


def test_an_export_with_a_symbolic_batch():
    batch = jax.export.symbolic_shape("b")[0]
    x = jax.ShapeDtypeStruct((batch, *X.shape[1:]), np.float32)
    exported = jax.export.export(jax.jit(lambda x: conv(x, K)))(x)
    assert_close(exported.call(X), conv(X, K))


def test_shard_map_refuses_out_specs_that_are_not_true():
    """The result of a split image varies over the devices: a primitive without types would let this pass."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(conv, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    with pytest.raises(Exception, match="out_specs"):
        jax.eval_shape(split, X, K)


def test_gradients_of_a_shared_kernel_are_summed_over_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def loss(k, x):
        return jax.lax.psum(jnp.sum(jnp.sin(conv(x, k))), "data")

    split = jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    assert_close(quick_jit(split)(K, X), jax.grad(lambda k: jnp.sum(jnp.sin(conv(X, k))))(K))


def test_matmul_precision_is_taken_where_the_op_is_called():
    with jax.default_matmul_precision("highest"):
        (eqn,) = convolutions(conv, X, K)
    assert eqn.params["precision"] == "highest"


def test_every_platform_has_a_table_and_every_row_a_reason():
    for name, platform in table.PLATFORMS.items():
        assert platform.name == name
        for row in (*platform.rows, *table.ANYWHERE):
            assert row.form in forms.forms_of(row.form.problem).values()
            assert row.why[-1] == "."
            assert " " in row.why
            assert not re.search(r"\.json|\.py|\.md|TODO", row.why)


def test_cotangents_of_half_types_stay_half():
    """So that a gradient on an accelerator is a convolution of halves; nothing is lost, they were rounded already."""
    x, k = jnp.asarray(X, jnp.bfloat16), jnp.asarray(K, jnp.bfloat16)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(conv(x, k, jnp.ones(6, jnp.bfloat16))), (0, 1)))(x, k)
    gradients = [e for e in jaxpr.eqns if e.primitive is conv_p and e.params["role"] != "output"]
    assert len(gradients) == 2
    assert {v.aval.dtype for e in gradients for v in e.invars} == {jnp.dtype(jnp.bfloat16)}
    wide = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(conv(x, k, preferred_element_type=jnp.float32) ** 2)))(k)
    (kernel,) = (e for e in wide.eqns if e.primitive is conv_p and e.params["role"] == "kernel")
    assert kernel.invars[1].aval.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("first", [0.0, -0.0, np.nan, -1.0])
def test_what_is_computed_once_is_computed_whatever_the_first_number(dtype, first):
    """A sum of shifted maps runs in a branch whose condition is read off the first element's bits."""
    with jax.enable_x64(True), jc.lowering("portable"):
        x = jnp.ones((1, 4, 4, 4), dtype).at[0, 0, 0, 0].set(first)
        f = jax.jit(lambda x: jc.conv(x, jnp.ones((3, 3, 1, 4), dtype), groups=4))
        assert "stablehlo.case" in f.lower(x).as_text()
        assert f(x)[0, 2, 2].astype(np.float32).tolist() == [9.0] * 4


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0)], ids=str)
def test_a_vmap_over_nothing_gives_nothing(dims):
    x, k = (np.zeros((0, *a.shape), a.dtype) if d == 0 else a for a, d in zip((X, K), dims, strict=True))
    assert jax.vmap(conv, dims)(x, k).shape == (0, *jax.eval_shape(conv, X, K).shape)


def test_an_export_with_symbolic_sizes_and_gradients():
    h = jax.export.symbolic_shape("h", constraints=["h >= 6"])[0]
    x = jax.ShapeDtypeStruct((2, h, 7, 4), np.float32)

    def f(x, k):
        y, pullback = jax.vjp(lambda x, k: jc.conv(x, k, padding=1, groups=2), x, k)
        return y, pullback(y)

    exported = jax.export.export(jax.jit(f))(x, jax.ShapeDtypeStruct(K.shape, K.dtype))
    for got, want in zip(jax.tree.leaves(exported.call(X, K)), jax.tree.leaves(f(X, K)), strict=True):
        assert_close(got, want)


@pytest.mark.parametrize(
    ("groups", "inner", "outer", "window"), [(32, 32, 32, 3), (37, 2, 2, 3), (3, 8, 8, 3), (24, 20, 20, 1)], ids=str
)
def test_no_grouped_convolution_falls_to_the_naive_one(groups, inner, outer, window):
    x, k = jnp.ones((1, 6, 6, groups * inner)), jnp.ones((window, window, inner, groups * outer))
    rows = jc.explain(jax.grad(lambda x, k: jnp.sum(jc.conv(x, k, groups=groups) ** 2), (0, 1)), x, k, platform="cpu")
    assert len(rows) == 3
    assert all(row.form != "xla" for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# Other interpreters of JAX's programs


def pooled(x):
    return jc.avg_pool(jc.max_pool(conv(x, K), 2), (1, 1)).sum(axis=(1, 2, 3))


@pytest.mark.parametrize(
    "through",
    [
        lambda f: jax.linearize(f, X)[0],
        lambda f: jax.linearize(f, X)[1](X),
        lambda f: jax.vmap(jax.custom_batching.sequential_vmap(f))(X[None])[0],
        lambda f: sparse.sparsify(f)(X),
        lambda f: checkify.checkify(f, errors=checkify.nan_checks)(X)[1],
        lambda f: jax.grad(lambda x: jnp.sum(f(x)))(X),
    ],
    ids=["linearize", "linear", "sequential_vmap", "sparsify", "checkify", "disable_jit"],
)
def test_other_interpreters_take_our_primitives(through, request):
    want = quick_jit(lambda: through(pooled))()
    with jax.disable_jit("disable_jit" in request.node.name):
        assert_close(through(pooled), want)


def test_checkify_finds_what_is_not_a_number():
    error, _ = checkify.checkify(lambda x: conv(jnp.log(x), K), errors=checkify.nan_checks)(-np.abs(X) - 1)
    assert "nan generated by primitive: log" in error.get()


def test_a_portable_program_tells_its_cost():
    """Not a call that XLA does not look into, whose operations it counts as -1."""
    x, k = X, uniform(3, (3, 3, 4, 6)).astype(np.float32)

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    def lax(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for mode in ("portable", "xla"):
        with jc.lowering(mode):
            assert flops(jc.conv, x, k) == flops(lax, x, k) > 0
            assert flops(jax.grad(lambda x, k: jnp.sum(jnp.sin(jc.conv(x, k))), (0, 1)), x, k) > 2 * flops(lax, x, k)
