"""Convolutions with what follows them in one call: the same values and derivatives, and what is fused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.fusing import fuse
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.fused import ACTIVATIONS

relu = jax.nn.relu
SHAPE = (2, 7, 6, 4)


def made(net, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    params, state = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))
    draw = lambda s: jnp.asarray(rng.normal(size=s.shape) / 2, s.dtype)  # noqa: E731
    params, state = jax.tree.map(draw, (params, state))
    return lambda params, x: net.apply(params, state, x)[0], params, jnp.asarray(rng.normal(size=shape), jnp.float32)


def check(net, shape=SHAPE):
    """Compares values, and returns what `explain` calls the convolutions."""
    f, params, x = made(net, shape)
    got, want = jax.jit(fuse(f))(params, x), jax.jit(f)(params, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * max(1, np.abs(want).max()))
    return [row.op for row in jc.explain(fuse(f), params, x) if row.op.startswith(("conv", "dense"))]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_activations(name, bias):
    function = ACTIVATIONS[name].function
    ops = ["conv + bias + " + name if bias else "conv + " + name]
    assert check(jc.serial(jc.Conv(6, bias=bias), function)) == ops


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 30, 40), (2, 5)])
def test_dense_layers(name, shape):
    net = jc.serial(jc.Dense(60), ACTIVATIONS[name].function, jc.Dense(60, bias=False))
    assert check(net, shape) == [f"dense + bias + {name}", "dense"]


def test_the_sum_of_a_dense_layer():
    net = jc.residual(jc.serial(jc.Dense(90), jax.nn.gelu, jc.Dense(40)))
    assert check(net, (2, 30, 40)) == ["dense + bias + gelu_tanh", "dense + bias + add"]


@pytest.mark.parametrize(("layer", "form"), [(jc.Dense(8), "xla"), (jc.Conv(8, 1), "gemm > xla")])
def test_small_products_are_xlas(layer, form):
    f, params, x = made(jc.serial(layer, relu))
    (row,) = jc.explain(fuse(f), params, x, platform="cpu")
    assert row.form == form
    if onednn.carried():
        assert "so small a matrix product" in row.why
        assert "onednn" not in jax.jit(fuse(f)).lower(params, x).as_text()


@pytest.mark.parametrize(
    "function", [lambda x, k: jnp.einsum("nhwc,dc->nhwd", x, k), lambda x, k: jnp.tensordot(x, k, (1, 0))]
)
def test_other_products_are_left_as_they_are(function):
    x, kernel = jnp.ones(SHAPE), jnp.ones((7, 4))
    assert jc.explain(fuse(function), x, kernel) == ()
    with jc.lowering("portable"):
        assert jc.explain(fuse(lambda x, k: x @ k.T), x, kernel) == ()


CONVS = {
    "strided": jc.Conv(6, 3, stride=2, padding=1),
    "1x1": jc.Conv(256, 1),
    "dilated": jc.Conv(6, 2, dilation=2),
    "grouped": jc.Conv(6, groups=2),
    "depthwise": jc.Conv(4, groups=4),
    "depthwise strided": jc.Conv(4, 5, groups=4, stride=2),
    "reflected": jc.Conv(6, padding=1, pad_mode="reflect"),
}


@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
def test_convolutions(conv):
    assert check(jc.serial(conv, jax.nn.silu)) == ["conv + bias + silu"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("conv", [*CONVS.values(), jc.Conv(6, bias=False)], ids=[*CONVS, "without bias"])
def test_half_precision(conv, dtype):
    net = jc.serial(conv, relu, jc.residual(jc.Conv(conv.features), after=jax.nn.silu), jc.Dense(5), relu)
    f, *given = made(net)
    params, x = jax.tree.map(lambda a: a.astype(dtype), given)
    got, want = jax.jit(fuse(f))(params, x), jax.jit(f)(params, x)
    assert got.dtype == want.dtype == dtype
    np.testing.assert_array_equal(got, want)
    names = ["conv + bias + relu" if conv.bias else "conv + relu", "conv + bias + add + silu"]
    for platform in ("cpu", "cuda"):
        assert [row.op for row in jc.explain(fuse(f), params, x, platform=platform)][:2] == names
    grads = [jax.grad(lambda p, g=g: jnp.sum(g(p, x).astype("float32") ** 2))(params) for g in (fuse(f), f)]
    jax.tree.map(np.testing.assert_array_equal, *grads)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_not_converted_on_cuda(dtype):
    """XLA:GPU has a call of cuDNN for a convolution, a bias, a sum and ReLU in one type."""
    f, *given = made(jc.residual(jc.Conv(4), after=relu))
    params, x = jax.tree.map(lambda a: a.astype({"bf16": "bfloat16", "f16": "float16"}[dtype]), given)

    def types(g):
        text = jax.jit(g).trace(params, x).lower(lowering_platforms=("cuda",)).as_text()
        return set(re.findall(r"stablehlo.(?:add|convolution).*x(\w+)>", text))

    assert types(fuse(f)) == {dtype}
    assert types(f) == {dtype, "f32"}


def test_sums_that_no_library_rounds_are_rounded_once_on_cuda():
    """jaxconv adds the taps of this depthwise layer itself."""
    conv = jc.Conv(4, 2, groups=4, padding=((0, 1), (0, 1)))
    f, *given = made(jc.serial(conv, relu))
    params, x = jax.tree.map(lambda a: a.astype("bfloat16"), given)
    [row] = jc.explain(fuse(f), params, x, platform="cuda")
    assert (row.op, row.form) == ("conv + bias + relu", "shift_add")
    text = jax.jit(fuse(f)).trace(params, x).lower(lowering_platforms=("cuda",)).as_text()
    assert set(re.findall(r"stablehlo.add .*x(\w+)>", text)) == {"f32"}


def test_a_float32_result_of_half_precision_is_not_rounded():
    x, kernel, bias = (jnp.linspace(-1, 1, n).astype("bfloat16") for n in (2 * 7 * 6 * 4, 3 * 3 * 4 * 5, 5))
    x, kernel = x.reshape(2, 7, 6, 4), kernel.reshape(3, 3, 4, 5)
    f = lambda x: relu(jc.conv(x, kernel, bias, preferred_element_type="float32"))  # noqa: E731
    got, want = jax.jit(fuse(f))(x), jax.jit(f)(x)
    assert got.dtype == "float32"
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("conv", [jc.Conv(4), jc.Conv(4, 1), jc.Conv(4, groups=4)])
def test_sums(conv):
    assert check(jc.residual(conv, after=relu)) == ["conv + bias + add + relu"]
    # The sum is computed by one of the two convolutions.
    both = check(jc.residual(conv, jc.Conv(4, 1), after=jax.nn.hard_swish))
    assert sorted(both) == ["conv + bias", "conv + bias + add"]


@pytest.mark.parametrize(
    ("shape", "conv"),
    [((2, 9, 4), jc.Conv(6, (3,))), ((2, 4, 5, 3, 4), jc.Conv(6, (3, 2, 3))), ((2, 9, 4), jc.Conv(4, (3,), groups=4))],
)
def test_other_ranks(shape, conv):
    assert check(jc.serial(conv, relu), shape) == ["conv + bias + relu"]


def test_a_value_that_others_read_is_not_fused():
    f, params, x = made(jc.Conv(4))

    def read_twice(params, x):
        y = f(params, x)
        return relu(y) + y

    ops = [row.op for row in jc.explain(fuse(read_twice), params, x)]
    assert ops == ["conv + bias"]
    np.testing.assert_allclose(fuse(read_twice)(params, x), read_twice(params, x), atol=1e-5)
    assert [row.op for row in jc.explain(fuse(lambda p, x: (f(p, x), relu(f(p, x)))), params, x)] == [
        "conv + bias",
        "conv + bias + relu",
    ]


@pytest.mark.parametrize("function", [lambda y: jnp.maximum(y, 0.5), lambda y: jnp.minimum(y, 0), jax.nn.hard_swish])
def test_other_functions_are_not_taken_for_activations(function):
    assert check(jc.serial(jc.Conv(4), function)) == ["conv + bias"]


def test_derivatives_are_those_of_separate_operations():
    net = jc.serial(jc.residual(jc.serial(jc.Conv(4), jax.nn.silu, jc.Conv(4)), after=jnp.tanh))
    f, params, x = made(net)
    loss = lambda g: lambda params, x: jnp.sum(jnp.sin(g(params, x)))  # noqa: E731
    close = lambda got, want: jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), got, want)  # noqa: E731
    close(jax.jit(jax.grad(loss(fuse(f)), (0, 1)))(params, x), jax.jit(jax.grad(loss(f), (0, 1)))(params, x))
    jvp = lambda g: jax.jvp(lambda x: g(params, x), (x,), (jnp.cos(x),))[1]  # noqa: E731
    close(jvp(fuse(f)), jvp(f))
    close(jax.vmap(lambda x: fuse(f)(params, x[None]))(x), jax.vmap(lambda x: f(params, x[None]))(x))


def test_inside_of_remat_and_repeat():
    assert check(jc.remat(jc.serial(jc.Conv(4), relu))) == ["conv + bias + relu"]
    assert check(jc.repeat(jc.serial(jc.Conv(4, 1), relu), 2)) == ["conv + bias + relu"]


@pytest.mark.skipif(not onednn.carried(), reason="this jaxlib's oneDNN is not called")
def test_a_folded_resnet_is_calls_of_onednn():
    net = jc.models.resnet18()
    params, state = jax.tree.map(
        lambda s: np.ones(s.shape, s.dtype), jax.eval_shape(lambda k: net.init(k, (1, 64, 64, 3)), jax.random.key(0))
    )
    folded, params, state = jc.fold(net, params, state)
    f = fuse(lambda params, x: folded.apply(params, state, x)[0])
    rows = [row for row in jc.explain(f, params, jnp.ones((1, 64, 64, 3)), platform="cpu") if "conv" in row.op]
    assert {row.form for row in rows} == {"onednn"}
    assert "in one call" in rows[0].why
    ops = [row.op for row in rows]
    assert [ops.count(f"conv + bias{more}") for more in (" + relu", " + add + relu", "")] == [9, 8, 3]
    # Elsewhere it is what it was.
    assert {
        row.form for row in jc.explain(f, params, jnp.ones((1, 64, 64, 3)), platform="tpu") if "conv" in row.op
    } == {"xla"}
