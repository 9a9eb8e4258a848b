"""The switch for other people's code: what it reaches, that values are lax's, and that nothing of it is left behind."""

import ast
import functools
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.lax import conv_general_dilated as imported_by_name
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from tests.ops.compare import assert_close
from tests.ops.draws import Searched, uniform
from tests.ops.test_dropin import SPATIAL, layouts, placed
from tests.ops.transforms import quick_jit

REPLACED = lax.conv_general_dilated_p, lax.reduce_window_max_p, lax.reduce_window_sum_p
NHWC = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
X, K = uniform(1, (2, 6, 6, 4)).astype(np.float32), uniform(2, (3, 3, 4, 6)).astype(np.float32)
X1, K1 = X.reshape(2, 4, 36), K.reshape(6, 4, 9)  # as lax.conv wants them


def is_as_jax_made_it():
    return not any("bind" in vars(primitive) for primitive in REPLACED)


@pytest.fixture(autouse=True)
def nothing_is_left():
    assert is_as_jax_made_it()
    yield
    jc.patch_lax.uninstall()
    assert is_as_jax_made_it()


def trace(f, *args):
    return str(jax.make_jaxpr(f)(*args))


def conv(x=X, kernel=K):
    return lax.conv_general_dilated(x, kernel, **NHWC)


def is_ours(f=conv, *args):
    text = trace(f, *args)
    return "jaxconv" in text or "name=pool_sums" in text


# ---------------------------------------------------------------------------------------------------------------------
# What is reached


def default_argument(x, kernel, op=lax.conv_general_dilated):
    return op(x, kernel, **NHWC)


REACHED = {
    "general": (conv, X, K),
    "imported by name": (lambda x, k: imported_by_name(x, k, **NHWC), X, K),
    "kept as a default argument": (default_argument, X, K),
    "conv": (lambda x, k: lax.conv(x, k, (1,), "SAME"), X1, K1),
    "conv_with_general_padding": (
        lambda x, k: lax.conv_with_general_padding(x, k, (2,), [(1, 2)], (1,), (2,)),
        X1,
        K1,
    ),
    "conv_transpose": (lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"), X, K),
    "conv_transpose of the gradient": (
        lambda x, k: lax.conv_transpose(x, k, (2, 2), "VALID", transpose_kernel=True),
        X,
        np.swapaxes(K, 2, 3),
    ),
    "convolve": (lambda x, k: jnp.convolve(x[0, 0, :, 0], k[0, 0, 0]), X, K),
    "max pool": (lambda x, k: lax.reduce_window(x, -np.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "SAME"), X, K),
    "sum pool": (lambda x, k: lax.reduce_window(x, 0.0, lax.add, (1, 3, 2, 1), (1, 2, 2, 1), "SAME"), X, K),
    "channels first": (lambda x, k: lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"), X, K),
    "one example": (lambda x, k: lax.reduce_window(x[0], -np.inf, lax.max, (2, 2, 1), None, "VALID"), X, K),
    "global": (lambda x, k: lax.reduce_window(x, -np.inf, lax.max, (1, 6, 6, 1), None, "VALID"), X, K),
    "ceil mode": (
        lambda x, k: lax.reduce_window(
            x, -np.inf, lax.max, (1, 3, 3, 1), (1, 4, 4, 1), [(0, 0), (1, 3), (1, 3), (0, 0)]
        ),
        X,
        K,
    ),
}


@pytest.mark.parametrize("name", REACHED)
def test_what_is_reached(name):
    f, *args = REACHED[name]
    assert not is_ours(f, *args)

    @quick_jit
    def both(*args):
        with jc.patch_lax():
            ours = jax.vjp(f, *args)
        return [(y, pullback(jnp.cos(y))) for y, pullback in (ours, jax.vjp(f, *args))]

    with jc.patch_lax():
        text = trace(f, *args)
        assert is_ours(f, *args)
    assert not [p.name for p in REPLACED if f"{p.name}[" in text]
    for got, want in zip(*map(jax.tree.leaves, both(*args)), strict=True):
        assert got.dtype == want.dtype
        assert_close(got, want)


def window(x, init, op, dims, strides=None, padding="VALID", **options):
    return lambda: lax.reduce_window(x, init, op, dims, strides, padding, **options)


LEFT = {
    "integers": lambda: conv(X.astype(np.int32), K.astype(np.int32)),
    "complex": lambda: conv(X.astype(np.complex64), K.astype(np.complex64)),
    "8 bits": lambda: conv(jnp.asarray(X, jnp.float8_e4m3fn), jnp.asarray(K, jnp.float8_e4m3fn)),
    "to 8 bits": lambda: imported_by_name(X, K, **NHWC, preferred_element_type=jnp.float8_e4m3fn),
    "a weak type": window(lax.full((1, 4, 4, 1), 1.0), 0.0, lax.add, (1, 2, 2, 1)),
    "two types": lambda: imported_by_name(X, K.astype(jnp.bfloat16), **NHWC, preferred_element_type=jnp.float32),
    "groups of the batch": lambda: imported_by_name(X, K, **NHWC, batch_group_count=2),
    "a cumulative sum": window(X, 0.0, lax.add, (1, 6, 1, 1), None, [(0, 0), (5, 0), (0, 0), (0, 0)]),
    "channels": window(X, 0.0, lax.add, (1, 1, 1, 3), None, "SAME"),
    "all axes": window(X, 0.0, lax.add, X.shape),
    "no window": window(X, 0.0, lax.add, (1, 1, 1, 1)),
    "another initial value": window(X, 1.0, lax.add, (1, 2, 2, 1)),
    "a minimum": window(X, np.inf, lax.min, (1, 2, 2, 1)),
    "integers of a pool": window(X.astype(np.int32), 0, lax.add, (1, 2, 2, 1)),
    "spread": window(X, 0.0, lax.add, (1, 2, 2, 1), base_dilation=(1, 2, 1, 1)),
    "cropped": window(X, 0.0, lax.add, (1, 2, 2, 1), None, [(0, 0), (-1, 0), (0, 0), (0, 0)]),
    "empty": window(X[:0], 0.0, lax.add, (1, 2, 2, 1)),
    "a window that does not fit": window(X, 0.0, lax.add, (1, 7, 2, 1)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_goes_to_lax(name):
    f = LEFT[name]
    found = []
    for context in (jc.lowering("auto"), jc.patch_lax()):
        with context:
            try:
                found.append((jax.eval_shape(f), is_ours(f)))
            except (TypeError, ValueError) as error:
                found.append((type(error), str(error)))
    assert found[0] == found[1]
    assert found[1][1] is not True


def test_a_parameter_that_a_later_jax_adds_goes_to_jax():
    caught = []
    for context in (jc.lowering("auto"), jc.patch_lax()):
        with context, pytest.raises(TypeError) as error:
            lax.reduce_window_sum_p.bind(jnp.ones((2, 2)), novel=1)
        caught.append(str(error.value))
    assert caught[0] == caught[1]
    assert "novel" in caught[0]


@pytest.mark.parametrize(
    "bad",
    [{"window_strides": (1,)}, {"padding": "SOME"}, {"feature_group_count": 3}, {"rhs_dilation": (0, 1)}],
    ids=str,
)
def test_errors_are_those_of_lax(bad):
    f = functools.partial(imported_by_name, **NHWC | bad)
    caught = []
    for context in (jc.lowering("auto"), jc.patch_lax()):
        with context, pytest.raises(Exception) as error:
            jax.eval_shape(f, X, K)
        caught.append((error.type, str(error.value)))
    assert caught[0] == caught[1]


# ---------------------------------------------------------------------------------------------------------------------
# Values


def compared(f, args, *, differentiable=True, tolerance=1e-5, what=""):
    """Compares a function inside and outside, in one program: values, gradients, types."""

    @quick_jit
    def both(*args):
        results = []
        for context in (jc.patch_lax(), jc.lowering("auto")):
            with context:
                if differentiable:
                    y, pullback = jax.vjp(f, *args)
                    results.append((y, pullback(jnp.cos(y.astype(np.float32)).astype(y.dtype))))
                else:
                    results.append(f(*args))
        return results

    for got, want in zip(*map(jax.tree.leaves, both(*args)), strict=True):
        assert got.dtype == want.dtype, what
        assert_close(got.astype(np.float32), want.astype(np.float32), rtol=tolerance, atol=tolerance, what=what)


def tolerance_of(dtype):
    return {"bfloat16": 3e-2, "float16": 3e-3}.get(np.dtype(dtype).name, 1e-5)


def check_convolution(draws):
    rank = draws.integer(1, 2)
    s = SPATIAL[rank - 1]
    numbers = draws.choice(layouts(rank))
    window = dict(zip(s, draws.integers(1, 3, rank), strict=True))
    spread = draws.integers(1, 2, rank) if draws.flag() else None
    stride = (1,) * rank if spread and draws.flag() else draws.integers(1, 2, rank)
    dilation = draws.integers(1, 2, rank)
    # At most the window's reach: beyond it lax's own input gradient has negative low padding, with which XLA:CPU reads
    # out of bounds (openxla/xla#48713).
    reach = [(window[c] - 1) * d for c, d in zip(s, dilation, strict=True)]
    pairs = tuple((draws.integer(0, min(r, 2)), draws.integer(-1, 2)) for r in reach)
    groups = draws.integer(1, 2)
    batch_groups = draws.integer(1, 2) if groups == 1 else 1
    dtype = draws.choice([np.float32, np.float32, jnp.bfloat16, np.float16, np.int32])
    floating = jnp.issubdtype(dtype, jnp.floating)
    size = dict(zip(s, (6, 5)[:rank], strict=True))
    x = (2 * uniform(1, placed(numbers[0], size, 2, 2 * groups))).astype(dtype)
    kernel = (2 * uniform(2, placed(numbers[1], window, 2, 4, "IO"))).astype(dtype)
    options = {
        "window_strides": stride,
        "padding": pairs if spread else draws.choice(["SAME", "VALID", pairs]),
        "lhs_dilation": spread,
        "rhs_dilation": dilation,
        "dimension_numbers": numbers,
        "feature_group_count": groups,
        "batch_group_count": batch_groups,
        "preferred_element_type": draws.choice([None, np.float32 if floating else np.int32]),
    }
    f = functools.partial(lax.conv_general_dilated, **options)
    mapped = draws.choice([None, (0, None), (None, 0), (0, 0)])
    if mapped:
        f = jax.vmap(f, mapped)
        stacked = (np.stack([a, a[::-1]]) for a in (x, kernel))
        x, kernel = (b if axis == 0 else a for a, b, axis in zip((x, kernel), stacked, mapped, strict=True))
    what = f"{options}, {np.dtype(dtype)}, vmap over {mapped}"
    compared(f, (x, kernel), differentiable=floating, tolerance=tolerance_of(dtype), what=what)


def check_pool(draws):
    rank = draws.integer(1, 2)
    first = draws.flag()
    lead = draws.integer(1, 2)
    op, initial = draws.choice([(lax.max, -np.inf), (lax.add, 0.0)])
    dtype = draws.choice([np.float32, np.float32, jnp.bfloat16, np.float16])
    window, stride = draws.integers(1, 3, rank), draws.integers(1, 3, rank)
    # lax has no gradient for a maximum over dilated windows.
    dilation = draws.integers(1, 2, rank) if op is lax.add else (1,) * rank
    padding = draws.choice(["SAME", "VALID", "pairs"])
    if padding == "pairs":
        pairs = [
            (draws.integer(0, f // 2), draws.integer(0, f // 2 + s - 1)) for f, s in zip(window, stride, strict=True)
        ]
        padding = [(0, 0)] * lead + pairs if first else [(0, 0)] * (lead - 1) + [*pairs, (0, 0)]

    def of(numbers, other=1):
        return (other,) * lead + tuple(numbers) if first else (other,) * (lead - 1) + (*numbers, other)

    x = uniform(1, of((6, 5)[:rank], 2))
    x = (np.round(x * 3) if draws.flag() else x).astype(dtype)  # seven values: windows full of ties
    f = functools.partial(
        lax.reduce_window,
        init_value=initial,
        computation=op,
        window_dimensions=of(window),
        window_strides=of(stride),
        padding=padding,
        window_dilation=of(dilation),
    )
    what = f"{f.keywords}, {np.dtype(dtype)}, {x.shape}"
    compared(f, (x,), tolerance=tolerance_of(dtype), what=what)


@given(st.data())
@settings(max_examples=14)
def test_convolutions_have_the_values_and_gradients_of_lax(data):
    check_convolution(Searched(data))


@given(st.data())
@settings(max_examples=14)
def test_pools_have_the_values_and_gradients_of_lax(data):
    check_pool(Searched(data))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=30)
def test_values_and_gradients_are_those_of_lax_at_length(data):
    check_convolution(Searched(data))
    check_pool(Searched(data))


def test_of_equal_elements_the_first_takes_the_gradient_here_and_in_lax():
    pool = functools.partial(
        lax.reduce_window,
        init_value=-np.inf,
        computation=lax.max,
        window_dimensions=(1, 3, 3, 1),
        window_strides=(1, 2, 2, 1),
        padding="SAME",
    )
    x, t = jnp.zeros((1, 4, 4, 1)), jnp.arange(16.0).reshape(1, 4, 4, 1)
    want = np.zeros((4, 4))
    want[np.ix_((0, 2), (0, 2))] = 1
    for context in (jc.patch_lax(), jc.lowering("auto")):
        with context:
            np.testing.assert_array_equal(jax.grad(lambda x: pool(x).sum())(x)[0, ..., 0], want)
    with jc.patch_lax():  # forward mode agrees, which lax's need not
        np.testing.assert_array_equal(jax.jvp(pool, (x,), (t,))[1].ravel(), [0, 2, 8, 10])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_over_devices_results_are_split_as_those_of_lax(kind):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))

    def f(x, kernel):
        y = conv(x, kernel)
        y = lax.reduce_window(y, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")

    with jax.set_mesh(mesh):
        x, kernel = (
            jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in ((np.tile(X, (4, 1, 1, 1)), P("d")), (K, P()))
        )
        plain = jax.jit(lambda *a: (f(*a), jax.grad(lambda *a: jnp.sum(f(*a)), (0, 1))(*a)))
        shards = jax.jit(jax.shard_map(f, in_specs=(P("d"), P()), out_specs=P("d")))
        want = plain(x, kernel), shards(x, kernel)
        with jc.patch_lax():
            got = plain(x, kernel), shards(x, kernel)
    for ours, lax_ in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        assert jax.typeof(ours) == jax.typeof(lax_)
        assert ours.sharding.is_equivalent_to(lax_.sharding, ours.ndim)
        assert_close(ours, lax_)


def test_all_transformations_of_a_scan():
    def f(scale):
        once = jax.checkpoint(lambda x: lax.reduce_window(conv(x), 0.0, lax.add, (1, 2, 2, 1), None, "VALID"))
        return lax.scan(lambda c, _: (c + jnp.mean(once(X * scale) ** 2), None), 0.0, None, 2)[0]

    results = []
    for context in (jc.patch_lax(), jc.lowering("auto")):
        with context:
            results.append(quick_jit(lambda s: (jax.jacfwd(f)(s), jax.hessian(f)(s), jax.linearize(f, s)[1](s)))(2.0))
    for got, want in zip(*results, strict=True):
        assert_close(got, want)


# ---------------------------------------------------------------------------------------------------------------------
# Contexts


def test_a_compiled_function_obeys_and_each_program_is_kept():
    traced = []

    @jax.jit
    def f(x):
        traced.append(is_ours())
        return conv(x)

    for _ in range(2):
        outside = f(X)
        with jc.patch_lax():
            inside = f(X)
        assert_close(inside, outside)
    assert traced == [False, True]
    with jc.patch_lax():
        assert "jaxconv" in str(f.trace(X).jaxpr)
    assert "jaxconv" not in str(f.trace(X).jaxpr)


def test_jaxconvs_own_jit_obeys():
    f = jc.jit(lambda x: conv(x))
    outside = f(X)
    with jc.patch_lax():
        assert is_ours(f, X)
        assert_close(f(X), outside)
    assert not is_ours(f, X)


def test_explain_names_the_algorithm():
    with jc.patch_lax():
        inside = str(jc.explain(conv, X, K))
    assert "lax." not in inside
    assert "lax.conv_general_dilated" in str(jc.explain(conv, X, K))


def test_contexts_nest_and_are_left_by_errors():
    switch = jc.patch_lax()
    with switch, jc.patch_lax(), switch:
        assert is_ours()
    assert not is_ours()
    with pytest.raises(ZeroDivisionError), switch:
        raise ZeroDivisionError
    assert not is_ours()
    assert is_as_jax_made_it()


def test_an_error_of_lax_inside_leaves_the_switch_as_it_was():
    with jc.patch_lax():
        with pytest.raises(ValueError, match="feature dimension"):
            conv(X, K[..., :3, :])
        assert is_ours()


def test_it_decorates_functions():
    @jc.patch_lax()
    def inside(depth=1):
        return is_ours() and (depth == 0 or inside(depth - 1))

    assert inside()
    assert not is_ours()


def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_the_context_is_of_its_thread_and_install_of_all():
    with jc.patch_lax():
        assert is_ours()
        assert not in_thread(is_ours)
    jc.patch_lax.install()
    jc.patch_lax.install()
    assert is_ours()
    assert in_thread(is_ours)
    with jc.patch_lax():
        jc.patch_lax.uninstall()
        assert is_ours()
        assert not in_thread(is_ours)
    assert not is_ours()


def test_threads_that_overlap_leave_nothing_behind():
    """One object in both: enter first, enter second, leave first, leave second."""
    switch, steps = jc.patch_lax(), [threading.Event() for _ in range(3)]
    found = []

    def first():
        with switch:
            steps[0].set()
            steps[1].wait(60)
        found.append(is_ours())
        steps[2].set()

    def second():
        steps[0].wait(60)
        with switch:
            steps[1].set()
            steps[2].wait(60)
            found.append(is_ours())
        found.append(is_ours())

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [False, True, False]


def test_pullbacks_cross_the_border():
    kinds = []
    y, outside = jax.vjp(conv, X, K)
    with jc.patch_lax():
        ours, inside = jax.vjp(conv, X, K)
        kinds.append(outside(y))
    kinds.append(inside(ours))
    for got, want in zip(*kinds, strict=True):
        assert_close(got, want)


# ---------------------------------------------------------------------------------------------------------------------
# jaxconv itself


def test_forms_that_are_made_of_lax_are_not_replaced():
    """No recursion: each op, the drop-in, and its falling back, under both modes."""

    def everything(x, kernel):
        y = jc.conv(x, kernel) + jc.conv_general_dilated(x, kernel, **NHWC)
        z = jc.conv_general_dilated(x, kernel, **NHWC | {"padding": "SAME"}, preferred_element_type=np.float32)
        back = jc.conv_transpose(jc.max_pool(y, 2), kernel, stride=2)
        return y, z, back, jc.avg_pool(x, 3, stride=2), jc.avg_pool(x, 2), jc.local_response_norm(x, 3)

    want = quick_jit(everything)(X, K)
    for mode in ("auto", "xla"):
        with jc.patch_lax(), jc.lowering(mode):
            got = quick_jit(everything)(X, K)
            jax.tree.map(assert_close, got, want)
            assert is_ours() == (mode == "auto")
    with jc.patch_lax():
        assert_close(conv(), want[1])  # eager
        jax.tree.map(assert_close, everything(X, K), want)


def test_only_one_module_calls_laxs_functions():
    """All others take them from it, so that none calls itself inside the switch."""
    package = Path(jc.__file__).parent
    watched = {"conv", "conv_general_dilated", "conv_transpose", "conv_with_general_padding", "reduce_window"}
    callers = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in watched
                and ast.unparse(node.value) in ("lax", "jax.lax")
            ):
                callers.setdefault(path.relative_to(package).as_posix(), []).append(node.attr)
    assert callers == {"ops/lowering/original.py": ["conv_general_dilated", "reduce_window"]}


def test_a_size_that_is_a_symbol():
    """A convolution is exported by lax's form; a pool of unknown size is lax's own."""
    (batch,) = jax.export.symbolic_shape("b")

    def f(x):
        y = lax.conv_general_dilated(x, K, **NHWC)
        return lax.reduce_window(y, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    with jc.patch_lax(), jc.lowering("portable"):
        exported = jax.export.export(jax.jit(f))(jax.ShapeDtypeStruct((batch, 6, 6, 4), np.float32))
    assert_close(exported.call(X), f(X))
