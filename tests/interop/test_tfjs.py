"""Graph models of TensorFlow.js: each operator as TensorFlow.js computes it, and what a network of a graph can do."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from experiments.pretrained import npm_file
from jaxconv.interop.tfjs import from_tfjs
from jaxconv.weights import WeightsError
from tests.interop.tfjs_files import CASES, FIRST, PACKAGED, Model, drawn, inputs, ports


@functools.cache
def record():
    with np.load(Path(__file__).parent / "tfjs.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", CASES)
def test_each_operator_is_as_in_tensorflow_js(case, tmp_path):
    model = CASES[case]()
    net, params, state = from_tfjs(model.write(tmp_path))
    given = inputs(model)
    found, _ = jax.jit(net.apply)(params, state, given)
    assert list(found) == model.outputs
    for name in model.outputs:
        expected = record()[f"{case}/{name}"]
        assert found[name].dtype == expected.dtype, name
        np.testing.assert_allclose(found[name], expected, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGED)
def test_other_networks_of_the_package_are_as_in_tensorflow_js(name):
    try:
        path = npm_file("@vladmandic/human", f"models/{name}.json")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    net, params, state = from_tfjs(path)
    given, outputs = ports(path)
    found, _ = jax.jit(net.apply)(params, state, given)
    found = found if isinstance(found, dict) else {next(iter(outputs.values())): found}
    for public in outputs.values():
        expected = record()[f"{name}/{public}"]
        actual = np.asarray(found[public]).reshape(-1)[:FIRST]
        np.testing.assert_allclose(actual, expected, atol=2e-5 * max(1, abs(expected).max()), err_msg=public)


def small(batch=-1, size=8):
    m = Model(x=(batch, size, size, 3))
    ones = {"strides": [1, 1, 1, 1], "dilations": [1, 1, 1, 1], "padding": "SAME"}
    m("_FusedConv2D", "stem/conv.1", "x", drawn(3, 3, 3, 4), drawn(4), fused_ops=["BiasAdd", "Relu6"], **ones)
    m("DepthwiseConv2dNative", "deep", "stem/conv.1", drawn(3, 3, 4, 1), **(ones | {"strides": [1, 2, 2, 1]}))
    m("Mul", "scaled", "deep", drawn(4, seed=3))
    m("ResizeBilinear", "larger", "scaled", np.array([size, size]), align_corners=False, half_pixel_centers=True)
    m("AddV2", "both", "larger", "stem/conv.1")
    m("Mean", "pooled", "both", np.array([1, 2]), keep_dims=False)
    return m("MatMul", "scores", "pooled", drawn(4, 5), transpose_a=False, transpose_b=False), m


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    name, model = small()
    return from_tfjs(model.ends(name).write(tmp_path_factory.mktemp("small")))


def test_nodes_with_weights_are_layers(network):
    net, params, state = network
    layers = dict(net.children)
    assert layers["stem_conv_1"] == jc.Conv(4, (3, 3), stride=(1, 1), dilation=(1, 1))
    assert layers["deep"].groups == 4
    assert params["deep"]["kernel"].shape == (3, 3, 1, 4)
    assert isinstance(layers["scores"], jc.Dense)
    assert set(params["scaled"]) == {"scale"}
    assert not state
    summary = jc.summary(net, (2, 8, 8, 3))
    assert summary.parameters == sum(a.size for a in jax.tree.leaves(params)) == 3 * 9 * 4 + 4 + 9 * 4 + 4 + 4 * 5
    fields = jc.inspect.receptive_field(net, (1, 8, 8, 3))
    assert fields["deep"] == ((5, 2, -1), (5, 2, -1)) or fields["deep"][0].size == 5
    assert fields["both"][0] is not None
    assert "stem_conv_1_Relu6" in str(summary)


def test_a_network_can_be_trained_cut_saved_and_explained(network, tmp_path):
    net, params, state = network
    x = drawn(2, 8, 8, 3)
    gradient = jax.jit(jax.grad(lambda p: net.apply(p, state, x)[0].sum()))(params)
    assert all(bool(jnp.abs(g).max() > 0) for g in jax.tree.leaves(gradient))
    maps = jc.backbone(net, {"deep": "coarse", "stem_conv_1_Relu6": "fine"})
    found, _ = maps.apply(params, state, x)
    assert {name: y.shape for name, y in found.items()} == {"coarse": (2, 4, 4, 4), "fine": (2, 8, 8, 4)}
    assert "scores" not in dict(maps.children)
    fresh, _ = net.init(0, (1, 8, 8, 3))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
    jc.weights.save(tmp_path / "a.safetensors", net, params, state)
    again, _ = jc.weights.load(tmp_path / "a.safetensors", net)
    np.testing.assert_array_equal(again["deep"]["kernel"], params["deep"]["kernel"])
    assert jc.inspect.grad_cam(net, params, state, x, 1, path="both").shape == (2, 8, 8)


def test_sizes_are_free_where_no_node_fixes_them(tmp_path):
    name, model = small(batch=1)
    net, params, state = from_tfjs(model.ends(name).write(tmp_path / "free"))
    assert net.apply(params, state, jnp.ones((3, 8, 8, 3)))[0].shape == (3, 5)
    _, model = small(batch=1)
    model("Reshape", "flat", "both", np.array([1, -1]))
    net, params, state = from_tfjs(model.ends("flat").write(tmp_path / "fixed"))
    images = jnp.asarray(drawn(3, 8, 8, 3))
    with pytest.raises(jc.ShapeError, match=r"x must have shape \(1, 8, 8, 3\), got \(3, 8, 8, 3\): use jax.vmap for"):
        net.apply(params, state, images)
    assert jax.vmap(lambda x: net.apply(params, state, x[None])[0])(images).shape == (3, 1, 256)
    with pytest.raises(jc.ShapeError, match=r"x must have shape \(1, 8, 8, 3\), got \(1, 4, 4, 3\)$"):
        net.init(0, (1, 4, 4, 3))
    cut = jc.backbone(net, {"both": "maps"})
    assert cut.apply(params, state, images)[0]["maps"].shape == (3, 8, 8, 4)


def test_nodes_with_the_same_weights_are_one_layer(tmp_path):
    m = Model(x=(1, 4, 4, 2))
    kernel = m.constant("w", drawn(1, 1, 2, 2))
    options = {"strides": [1, 1, 1, 1], "padding": "SAME"}
    m("Conv2D", "two", m("Conv2D", "one", "x", kernel, **options), kernel, **options)
    net, params, state = from_tfjs(m.ends("two").write(tmp_path))
    assert list(params) == ["one"]
    x = drawn(1, 4, 4, 2)
    expected = jc.conv(jc.conv(x, drawn(1, 1, 2, 2)), drawn(1, 1, 2, 2))
    np.testing.assert_allclose(net.apply(params, state, x)[0], expected, rtol=1e-5)


def test_outputs_without_a_signature_and_order_of_the_file(tmp_path):
    m = Model(x=(1, 4, 4, 2))
    m("Neg", "b", m("Abs", "a", "x"))
    m("Sqrt", "c", "a")
    m.nodes.reverse()
    net, params, state = from_tfjs(m.write(tmp_path))
    found, _ = net.apply(params, state, jnp.full((1, 4, 4, 2), -4.0))
    assert {name: float(y[0, 0, 0, 0]) for name, y in found.items()} == {"b": -4, "c": 2}


def broken(change):
    _, model = small()
    document = model.ends("scores").document()
    change({node["name"]: node for node in document["modelTopology"]["node"]}, document)
    return model, document


def renamed(nodes, document):
    nodes["pooled"]["input"][0] = "nothing"


def circular(nodes, document):
    nodes["deep"]["input"][0] = "both"


def unknown(nodes, document):
    nodes["scaled"]["op"] = "Loop"
    nodes["pooled"]["op"] = "NonMaxSuppressionV5"


def without_array(nodes, document):
    nodes["deep/1"]["name"] = nodes["deep"]["input"][1] = "elsewhere"


def twice(nodes, document):
    document["modelTopology"]["node"].append(nodes["deep"])


def not_a_graph(nodes, document):
    document["modelTopology"] = {"model_config": {}}
    document["format"] = "layers-model"


def channels_first(nodes, document):
    nodes["deep"]["attr"]["data_format"] = {"s": "TkNIVw=="}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, "node 'pooled' reads 'nothing', which is no node"),
        (circular, "nodes must not wait for each other, got a cycle through"),
        (unknown, r"cannot be imported are:\n  Loop in 1 node: 'scaled'\n  NonMaxSuppressionV5 in 1 node: 'pooled'"),
        (without_array, "node 'elsewhere' .Const. has no array of its name in the list"),
        (twice, "two nodes have the name 'deep'"),
        (not_a_graph, "must be a graph model, .* got layers-model: jaxconv.weights.read returns its arrays"),
        (channels_first, "node 'deep' .DepthwiseConv2dNative.: data_format must be NHWC, got NCHW"),
    ],
)
def test_files_that_are_wrong(tmp_path, change, message):
    model, document = broken(change)
    path = model.write(tmp_path)
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=message) as caught:
        from_tfjs(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_cut_short(tmp_path):
    _, model = small()
    path = model.ends("scores").write(tmp_path)
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:-1])
    with pytest.raises(WeightsError, match=r"its arrays take .* bytes by the list, w\.bin have"):
        from_tfjs(path)
    with pytest.raises(FileNotFoundError):
        from_tfjs(tmp_path / "none.json")


def test_inputs_by_name_or_in_order(tmp_path):
    m = Model(x=(1, 2, 2, 1), y=(1, 2, 2, 1))
    net, params, state = from_tfjs(m.ends(m("Sub", "z", "x", "y")).write(tmp_path))
    x, y = drawn(1, 2, 2, 1), drawn(1, 2, 2, 1, seed=1)
    for given in ((x, y), {"y": y, "x": x}):
        np.testing.assert_array_equal(net.apply(params, state, given)[0], x - y)
    with pytest.raises(jc.ArgumentError, match=r"x must have the inputs \['x', 'y'\]"):
        net.apply(params, state, x)


def test_a_transposed_convolution_of_another_size_is_refused(tmp_path):
    m = Model(x=(1, 4, 4, 2))
    options = {"strides": [1, 2, 2, 1], "padding": "SAME"}
    m("Conv2DBackpropInput", "larger", np.array([1, 7, 8, 3]), drawn(3, 3, 3, 2), "x", **options)
    with pytest.raises(WeightsError, match=r"node 'larger' .*: input_sizes must be 2 times the size of x, got \[1, 7"):
        from_tfjs(m.ends("larger").write(tmp_path))
