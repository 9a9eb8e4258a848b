"""Kernels in oneDNN's order: the order is learned, and the products are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.ops.lowering import onednn, packed, windows
from jaxconv.ops.lowering.fused import ACTIVATIONS, Epilogue
from jaxconv.ops.lowering.packed import Call, Order
from jaxconv.ops.lowering.problem import Geometry, Problem, Product
from tests.nets import Twice

onednn_only = pytest.mark.skipif(not onednn.carried(), reason="this jaxlib's oneDNN is not called")


@pytest.mark.parametrize("order", [Order(4, 1), Order(4, 3), Order(16, 16), Order(5, 2)])
def test_an_order_puts_each_element_where_it_says(order):
    matrix = np.arange(1.0, 1 + 7 * 10).reshape(7, 10)
    flat = order.pack(matrix)
    np.testing.assert_array_equal(flat[order.indices(list(range(7)), 7, 10)], matrix)
    assert np.count_nonzero(flat) == matrix.size
    np.testing.assert_array_equal(order.unpack(flat, matrix.shape), matrix)
    kernel = matrix.reshape(7, 1, 2, 5)
    np.testing.assert_array_equal(order.unpack(order.pack(kernel), kernel.shape), kernel)


EPILOGUES = {name: Epilogue(True, False, name) for name in ("", *ACTIVATIONS)} | {
    "none": Epilogue(False, False, ""),
    "add": Epilogue(True, True, "relu"),
    "only add": Epilogue(False, True, ""),
}


@onednn_only
@pytest.mark.parametrize("epilogue", EPILOGUES.values(), ids=EPILOGUES)
def test_products_of_any_size(epilogue):
    calls = [Call(*sizes, epilogue) for sizes in ((1, 3, 5), (2, 40, 70), (50, 64, 64), (9, 130, 17), (300, 20, 100))]
    orders = packed.orders(calls)
    assert orders  # most are known on AVX2 and AVX-512
    rng = np.random.default_rng(0)
    for call, order in orders.items():
        draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
        x, kernel = draw(call.rows, call.inner), draw(call.inner, call.columns) / np.sqrt(call.inner)
        operands = [draw(call.columns)] * epilogue.bias + [draw(call.rows, call.columns)] * epilogue.added
        p = Product("channels", *call[:3], dtype=np.dtype("float32"))
        got = jax.jit(lambda *arrays, p=p, call=call: packed.packed(p, call, *arrays))(x, order.pack(kernel), *operands)
        want = sum(map(np.float64, operands), x.astype(np.float64) @ kernel)
        if epilogue.activation:
            want = ACTIVATIONS[epilogue.activation].function(jnp.asarray(want, jnp.float32))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


WINDOWS = [  # size, window, stride, padding, dilation
    ((7, 6), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1)),
    ((9, 8), (2, 3), (1, 2), ((0, 0), (2, 1)), (3, 2)),
    ((6,), (3,), (2,), ((1, 0),), (2,)),
    ((4, 5, 3), (2, 3, 2), (1, 2, 1), ((1, 0), (1, 1), (0, 0)), (1, 1, 1)),
    ((5, 4), (1, 1), (2, 1), ((0, 0), (0, 0)), (1, 1)),
]


@pytest.mark.parametrize("sizes", WINDOWS, ids=str)
def test_elements_under_a_window(sizes):
    g = Geometry(*sizes, 1)
    p = Problem("output", g, 2, 3, 4, jnp.dtype("float32"))
    x = np.random.default_rng(0).normal(size=p.shape("input")).astype(np.float32)
    padded = np.pad(x, [(0, 0), *g.padding, (0, 0)])
    want = np.zeros((2, *g.out, p.taps, 3), np.float32)
    for at in np.ndindex(*g.out):
        for tap, index in enumerate(np.ndindex(*g.window)):
            under = (i * s + t * d for i, s, t, d in zip(at, g.stride, index, g.dilation, strict=True))
            want[:, *at, tap] = padded[:, *under]
    np.testing.assert_array_equal(jax.jit(lambda x: windows.under_window(p, x))(x), want.reshape(2, *g.out, -1))


NETS = {
    "few positions": (jc.serial(jc.Conv(70, 3, stride=2, padding=1), jax.nn.relu), (1, 9, 8, 5)),
    "dilated": (jc.serial(jc.Conv(40, 2, dilation=2), jax.nn.silu), (1, 6, 6, 5)),
    "1x1": (jc.serial(jc.Conv(33, 1), jax.nn.relu6), (2, 9, 8, 40)),
    "1x1 strided": (jc.serial(jc.Conv(33, 1, stride=2)), (2, 19, 18, 40)),
    "1-D and 3-D": (
        jc.parallel(jc.serial(jc.Conv(40, (3,))), jc.serial(lambda x: x[:, None, None], jc.Conv(40, (1, 1, 3)))),
        (1, 6, 4),
    ),
    "dense": (jc.residual(jc.serial(jc.Dense(70), jax.nn.gelu, jc.Dense(40))), (2, 30, 40)),
    "run twice": (Twice((("a", jc.Dense(40)),)), (50, 40)),
    "repeated": (jc.repeat(jc.serial(jc.Conv(40, 1), jax.nn.relu), 3), (2, 5, 5, 40)),
    "grouped": (jc.serial(jc.Conv(6, groups=3), jax.nn.relu), (1, 4, 4, 6)),
}


@pytest.mark.parametrize(("net", "shape"), NETS.values(), ids=NETS)
def test_predictions(net, shape):
    params, state = net.init(0, shape)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = jc.predictor(net, params, state, batch_sizes=(shape[0],))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), got, net.apply(params, state, x)[0])


@onednn_only
def test_what_is_stored(monkeypatch):
    net, shape = NETS["few positions"]
    params, state = net.init(0, shape)

    def stored():
        predict = jc.predictor(net, params, state, batch_sizes=(1, 8), x=shape)
        return {(s.leaf, s.order) for s in predict._stored}

    # With 8 examples there are more positions than features.
    found = stored()
    assert {leaf for leaf, order in found if order is None} == {0, 1}
    assert {leaf for leaf, order in found if order is not None} == {1}
    monkeypatch.setattr(packed, "_learned", {})
    monkeypatch.setattr(packed, "_orders", lambda call: [Order(7, 7)])
    assert stored() == {(0, None), (1, None)}
