"""Layers as ONNX files: onnxruntime, or ONNX's own evaluator where it is not installed, gives the same output."""

import functools
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import jaxconv as jc  # noqa: E402
from jaxconv.compose.structure import Many  # noqa: E402
from jaxconv.interop.onnx import OnnxError, from_onnx, to_onnx  # noqa: E402
from jaxconv.interop.onnx.export import _named  # noqa: E402
from tests.interop.onnx_files import small_convnet  # noqa: E402
from tests.models.test_export import NETS, QUICK, SHAPES, weights  # noqa: E402
from tests.models.zoo import images  # noqa: E402


def first(x):
    return np.moveaxis(np.asarray(x), -1, 1) if x.ndim > 2 else np.asarray(x)


def evaluate(model, *inputs):
    onnx.checker.check_model(model, full_check=True)
    names = [port.name for port in model.graph.input]
    try:
        import onnxruntime
    except ImportError:
        return ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs, strict=True)))


def drawn(net, shape):
    """Weights and statistics that are none of the usual ones."""
    params, state = net.init(jax.random.key(0), shape)
    leaves, tree = jax.tree.flatten((params, state))
    keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))
    changed = [leaf + 0.1 * jnp.abs(jax.random.normal(k, leaf.shape)) for k, leaf in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(tree, changed)


def check(net, shape, *, back=True, rtol=1e-3, atol=1e-4):
    """Compares the written network, on another batch size, and what is read from it again."""
    params, state = drawn(net, shape)
    model = to_onnx(net, params, state, shape)
    x = np.random.default_rng(0).standard_normal((shape[0] + 1, *shape[1:])).astype(np.float32)
    y, _ = jax.jit(net.apply)(params, state, x)
    for got, want in zip(evaluate(model, first(x)), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(got, first(want), rtol=rtol, atol=atol)
    if back:
        # A graph that neither convolves nor pools does not say which axis has the channels.
        again, *trees = from_onnx(model.SerializeToString())
        given = x if again.inputs[0].channels_last else first(x)
        for got, want in zip(jax.tree.leaves(again.apply(*trees, given)[0]), jax.tree.leaves(y), strict=True):
            want = np.asarray(want) if got.shape == want.shape else first(want)
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
    return model


LAYERS = {
    "conv": jc.Conv(4, 3, stride=2),
    "conv lower": jc.Conv(4, (3, 4), stride=(2, 1), padding="SAME_LOWER", dilation=2, bias=False),
    "conv groups": jc.Conv(8, 3, padding=((1, 0), (2, 1)), groups=4),
    "conv reflect": jc.Conv(4, 3, padding=1, pad_mode="reflect"),
    "conv edge": jc.Conv(4, 3, padding=1, pad_mode="edge"),
    "transposed": jc.ConvTranspose(6, 4, stride=2, padding=1, groups=2),
    "transposed same": jc.ConvTranspose(6, 3, stride=2),
    "transposed more": jc.ConvTranspose(6, 3, stride=3, padding=1, output_padding=1),
    "max pool": jc.MaxPool(3, stride=2, padding=1, ceil_mode=True),
    "max pool same": jc.MaxPool(2, padding="SAME"),
    "mean pool": jc.AvgPool(3, stride=2, padding=1),
    "mean pool apart": jc.AvgPool(3, stride=2, padding="SAME", count_include_pad=False),
    "lp pool": jc.LpPool(2),
    "adaptive": jc.AdaptiveAvgPool((5, 2)),
    "adaptive uneven": jc.AdaptiveAvgPool((3, 4)),
    "adaptive more": jc.AdaptiveAvgPool((20, 12)),
    "adaptive max": jc.AdaptiveMaxPool((5, 2)),
    "global": jc.serial(jc.GlobalAvgPool(), jc.Dense(3)),
    "global max": jc.GlobalMaxPool(),
    "flatten": jc.serial(jc.Flatten(), jc.Dense(3, bias=False)),
    "flatten first": jc.serial(jc.Flatten(channels_first=True), jc.Dense(3)),
    "dense on maps": jc.Dense(5),
    "batch norm": jc.BatchNorm(eps=1e-3),
    "batch norm bare": jc.BatchNorm(scale=False, bias=False),
    "layer norm": jc.LayerNorm(),
    "layer norm bare": jc.LayerNorm(scale=False, bias=False),
    "group norm": jc.GroupNorm(2),
    "instance norm": jc.InstanceNorm(scale=False),
    "local": jc.LocalResponseNorm(3, alpha=0.1),
    "scale": jc.LayerScale(0.5),
    "prelu": jc.PReLU(shared=False),
    "prelu shared": jc.PReLU(),
    "pad": jc.Pad([1, (0, 2)], value=0.5),
    "pad reflect": jc.Pad(1, mode="reflect"),
    "pad around": jc.Pad(1, mode="circular"),
    "resize": jc.Resize(factor=2),
    "resize nearest": jc.Resize((7, 9), method="nearest"),
    "resize exact": jc.Resize((20, 12), method="nearest_exact"),
    "resize cubic": jc.Resize((15, 5), method="bicubic"),
    "resize corners": jc.Resize((15, 5), align_corners=True),
    "shuffle": jc.PixelShuffle(2),
    "channel shuffle": jc.ChannelShuffle(2),
    "noise": jc.serial(jc.Dropout(0.5), jc.DropPath(0.2), jc.Identity()),
    "residual": jc.residual(jc.serial(jc.Conv(8), jax.nn.relu), after=jax.nn.relu),
    "shortcut": jc.residual(jc.Conv(8, stride=2), jc.Conv(8, 1, stride=2)),
    "concat": jc.concat(jc.Conv(3), jc.MaxPool(3, stride=1, padding=1)),
    "gate": jc.gate(jc.serial(jc.GlobalAvgPool(), jc.Dense(8), jax.nn.sigmoid)),
    "split": jc.split(jc.Identity(), jc.Conv(4)),
    "repeat": jc.repeat(jc.serial(jc.Conv(8), jc.BatchNorm()), 3),
    "around": jc.remat(jc.frozen(jc.mixed_precision(jc.Conv(4), jnp.float32))),
    "inline": jc.serial(jc.inline(jc.serial(conv=jc.Conv(4))), jax.nn.relu),
    "parallel": jc.parallel(jc.Conv(3), jc.serial(jc.GlobalAvgPool(), jc.Dense(2))),
    "top down": jc.serial(
        maps=jc.backbone(jc.serial(a=jc.Conv(4), b=jc.serial(jc.MaxPool(2), jc.Conv(6))), ["a", "b"]),
        head=jc.top_down("b", {"a": (jc.Resize(factor=2), jc.Conv(3))}),
    ),
}
FUNCTIONS = [jax.nn.relu, jax.nn.relu6, jax.nn.sigmoid, jnp.tanh, jax.nn.gelu,
             functools.partial(jax.nn.gelu, approximate=False), jax.nn.silu, jax.nn.softplus, jax.nn.elu,
             jax.nn.leaky_relu, jax.nn.hard_sigmoid, jax.nn.hard_swish, jax.nn.hard_tanh, jax.nn.log_sigmoid,
             jax.nn.soft_sign, jnp.square, lambda x: jnp.where(x > 0, 1 / (1 + x), x**3) * 2 - 1]  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    check(LAYERS[name], (2, 10, 6, 8), back=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_read_again(name):
    check(LAYERS[name], (2, 10, 6, 8))


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    net = jc.serial(jc.Conv(4, (3,) * rank), jax.nn.relu, jc.MaxPool((2,) * rank), jc.GlobalAvgPool(rank=rank))
    check(net, (1, *(6,) * rank, 2))


def test_functions():
    net = jc.serial(*[jc.residual(jc.serial(function)) for function in FUNCTIONS])
    check(net, (2, 3, 3, 4), rtol=1e-3, atol=1e-3)


def test_softmax_over_channels():
    for shape in ((2, 3, 3, 4), (2, 4)):
        check(jc.serial(jax.nn.softmax), shape)
        check(jc.serial(jax.nn.log_softmax), shape)


def test_weights_and_nodes_are_named_by_path():
    net = jc.serial(stem=jc.Conv(4), body=jc.serial(jc.BatchNorm(), jax.nn.relu))
    model = check(net, (1, 4, 4, 3))
    assert [node.name for node in model.graph.node][:3] == ["stem", "body.0", "body.1"]
    names = {tensor.name for tensor in model.graph.initializer}
    assert names == {"stem.kernel", "stem.bias", "body.0.scale", "body.0.bias", "body.0.mean", "body.0.var"}


def test_what_cannot_be_written_is_listed_at_once():
    net = jc.serial(jc.ConvLocal(2), jc.Conv(4), odd=lambda x: x - x.mean(), area=jc.Resize(3, method="area"))
    params, state = net.init(jax.random.key(0), (1, 6, 6, 2))
    with pytest.raises(OnnxError) as caught:
        to_onnx(net, params, state, (1, 6, 6, 2))
    text = str(caught.value)
    assert "0 (ConvLocal)" in text
    assert "odd (Fn of <lambda>): it does not work element by element" in text
    assert "area (Resize): ONNX's method differs from area" in text
    assert "1 (Conv)" not in text


@pytest.mark.parametrize("shape", [(1, 16, 16, 3), (2, 12, 20, 3)])
def test_a_network_that_was_read_and_trained(shape):
    net, params, state = from_onnx(small_convnet().SerializeToString())
    params = jax.tree.map(lambda a: a * 1.1, params)
    model = to_onnx(jc.frozen(net, but=["head_fc"]), params, state, shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(evaluate(model, first(x))[0], net.apply(params, state, x)[0], rtol=1e-4, atol=1e-5)
    assert {node.op_type for node in model.graph.node} >= {"BatchNormalization", "Conv", "Gemm"}


class _Keyed(Many):
    """Its inputs and outputs are dicts with one key in common."""

    call = "Keyed"

    def route(self, run, x):
        (pair,) = self.children
        return run(*pair, (x["maps"], x["vectors"]))


class _Pair(Many):
    call = "Pair"

    def route(self, run, x):
        conv, dense = self.children
        maps, vectors = x
        return {"maps": [run(*conv, maps), maps], "vectors": run(*dense, vectors)}


def test_pytrees_of_inputs_and_outputs():
    net, shapes = _Pair((("conv", jc.Conv(4)), ("dense", jc.Dense(3)))), ((2, 6, 5, 3), (2, 7))
    params, state = net.init(jax.random.key(0), shapes)
    model = to_onnx(net, params, state, shapes)
    assert [port.name for port in model.graph.input] == ["x0", "x1"]
    assert [port.name for port in model.graph.output] == ["maps.0", "maps.1", "vectors"]
    x = tuple(map(images, shapes))
    y, _ = net.apply(params, state, x)
    for got, want in zip(evaluate(model, *map(first, x)), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(got, first(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [None, 3.0])
@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 3, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_unit_norm(value, shape, dtype):
    net = jc.serial(jc.UnitNorm(value))
    params, state = jax.tree.map(lambda a: a.astype(dtype), drawn(net, shape))
    x = (300 * images(shape)).astype(dtype)  # the sum of squares overflows float16
    x[0] = 0
    y = net.apply(params, state, x)[0]
    model = to_onnx(net, params, state, jax.ShapeDtypeStruct(shape, dtype))
    [got] = evaluate(model, first(x))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, first(y), rtol=0, atol=4 * float(jnp.finfo(dtype).eps))


def test_names_of_pytrees():
    class Boxes(NamedTuple):
        boxes: Any
        scores: Any

    assert _named(Boxes(1, [2, 3]), "y") == {"boxes": 1, "scores.0": 2, "scores.1": 3}
    pair = _Pair((("conv", jc.Conv(4)), ("dense", jc.Dense(3))))
    named = {"vectors": (2, 7), "maps": (2, 6, 5, 3)}
    net = _Keyed((("pair", pair),))
    with pytest.raises(OnnxError, match="must have different names, got both for vectors"):
        to_onnx(net, *net.init(jax.random.key(0), named), named)
    twice = {"a": {"b": (2, 3)}, "a.b": (2, 3)}
    with pytest.raises(OnnxError, match=r"must have different names, got a\.b twice"):
        to_onnx(jc.serial(), {}, {}, twice)


def test_a_tuple_of_inputs_of_a_network_that_was_read():
    """One is a map, one an array of three axes that is not."""
    inputs = [helper.make_tensor_value_info(n, 1, s) for n, s in (("a", ["N", 2, 4, 5]), ("b", ["N", 3, 7]))]
    outputs = [helper.make_tensor_value_info(n, 1, None) for n in ("c", "d")]
    nodes = [
        helper.make_node("GlobalAveragePool", ["a"], ["c"]),
        helper.make_node("ReduceSum", ["b", "axes"], ["d"], keepdims=0),
    ]
    axes = numpy_helper.from_array(np.array([1]), "axes")
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, [axes]))
    model.opset_import[0].version, model.ir_version = 21, 10
    net, params, state = from_onnx(model.SerializeToString())
    by_name = to_onnx(net, params, state, {"a": (1, 4, 5, 2), "b": (1, 3, 7)})
    by_place = to_onnx(net, params, state, ((1, 4, 5, 2), (1, 3, 7)))
    sizes = [
        [[d.dim_value for d in port.type.tensor_type.shape.dim][1:] for port in model.graph.input]
        for model in (by_name, by_place)
    ]
    assert sizes == [[[2, 4, 5], [3, 7]], [[2, 4, 5], [3, 7]]]


# By family, layers that have no nodes.
NOT_IN_ONNX = {"rcnn": ("roi_heads", "(Proposals)", "(RegionPool)"), "katago": ("policy_head,",)}


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in NETS])
def test_a_network_of_each_family(family):
    known = NETS[family]
    net = getattr(importlib.import_module(f"jaxconv.models.{family}"), known.name)(**known.options)
    shape = SHAPES.get(family, known.shape)
    params, state = weights(net, shape)
    if family in NOT_IN_ONNX:
        with pytest.raises(OnnxError) as caught:
            to_onnx(net, params, state, shape)
        assert set(NOT_IN_ONNX[family]) <= set(str(caught.value).split())
        return
    model = to_onnx(net, params, state, shape)
    x = images(known.shape)
    y, _ = jax.jit(net.apply)(params, state, x)
    # With random weights, a float32 result of SSD is 5e-3 from the float64 result.
    error = 1e-2 if family == "ssd" else 1e-3
    for got, want in zip(evaluate(model, first(x)), jax.tree.leaves(y), strict=True):
        want = first(want)
        np.testing.assert_allclose(got, want, rtol=error, atol=error * np.abs(want).max())
