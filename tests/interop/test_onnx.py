"""ONNX files as layers: they equal ONNX's own evaluator, and what works on jaxconv's networks works on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import jaxconv as jc  # noqa: E402
from jaxconv.inspect.rectifiers import rectifier_paths  # noqa: E402
from jaxconv.interop.onnx import OnnxError, from_onnx  # noqa: E402
from tests.interop.onnx_files import LIGHT, light, model, node, small_convnet  # noqa: E402


def first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def image(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def small():
    proto = small_convnet()
    return proto, *from_onnx(proto.SerializeToString())


def test_it_equals_the_reference_at_any_batch_and_size(small):
    proto, net, params, state = small
    reference = ReferenceEvaluator(proto)
    for shape in ((1, 16, 16, 3), (3, 17, 12, 3)):
        x = image(*shape)
        y, _ = jax.jit(net.apply)(params, state, x)
        np.testing.assert_allclose(y, reference.run(None, {"x": first(x)})[0], rtol=1e-4, atol=1e-5)


def test_nodes_are_the_layers(small):
    _, net, params, state = small
    layers = dict(net.children)
    assert isinstance(layers["stem_conv"], jc.Conv)
    assert isinstance(layers["stem_bn_0"], jc.BatchNorm)
    assert isinstance(layers["head_fc"], jc.Dense)
    assert params["stem_conv"]["kernel"].shape == (3, 3, 3, 8)
    assert params["head_fc"]["kernel"].shape == (8, 5)
    assert params["body_gain"]["scale"].shape == (1, 8, 1, 1)
    assert set(state) == {"stem_bn_0"}


def test_the_summary_has_names_shapes_and_fields(small):
    _, net, _, _ = small
    summary = jc.summary(net, (2, 16, 16, 3))
    rows = {row.path: row for row in summary.rows}
    assert list(rows) == [name for name, _ in net.children]
    assert rows["stem_conv"].output.shape == (2, 8, 8, 8)
    assert rows["stem_conv"].parameters == 8 * 27 + 8
    assert rows["stem_conv"].macs == 2 * 64 * 8 * 27
    assert rows["body_depthwise"].receptive_field[0][:2] == (7, 2)
    # The gate sees the whole map.
    assert rows["body_add"].receptive_field[0].size == 16
    assert "body_add" in str(summary)
    assert "Mul" in str(summary)


def test_receptive_fields_are_where_gradients_are():
    nodes = [
        node("Conv", "x w", "a", "a", pads=[1, 1, 1, 1]),
        node("MaxPool", "a", "b", "b", kernel_shape=[2, 2], strides=[2, 2]),
        node("Slice", "b one end axes", "c", "c"),
        node("Pad", "c pads", "d", "d"),
        node("Resize", "d  scales", "e", "e", mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
        node("Transpose", "e", "f", "f", perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    nodes[4].input[1] = ""
    nodes[4].input.insert(2, "scales")
    del nodes[4].input[3:]
    tensors = {
        "w": np.ones((4, 1, 3, 3), np.float32),
        "one": np.array([1, 1]),
        "end": np.array([2**60, 2**60]),
        "axes": np.array([2, 3]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 0, 0]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    net, params, state = from_onnx(model(nodes, {"x": [1, 1, 16, 16]}, "f", tensors).SerializeToString())
    x = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 1), np.float32))
    fields = jc.inspect.receptive_field(net, x)
    for path in "abcdef":
        for i in (3, 4):

            def unit(x, path=path, i=i):
                return jc.inspect.activations(net, params, state, x, paths=[path])[1][path][0, i, i].sum()

            seen = np.flatnonzero(np.abs(jax.grad(unit)(x))[0, :, :, 0].sum(1))
            size, stride, offset = fields[path][0]
            start = offset + i * stride
            assert start <= seen.min(), path
            assert seen.max() < start + size, path


def test_batch_norm_trains(small):
    _, net, params, state = small
    x = image(4, 8, 8, 3)
    _, new = net.apply(params, state, x, train=True)
    assert not np.allclose(new["stem_bn_0"]["mean"], state["stem_bn_0"]["mean"])
    _, same = net.apply(params, state, x)
    np.testing.assert_array_equal(same["stem_bn_0"]["mean"], state["stem_bn_0"]["mean"])


def test_gradients_reach_every_parameter_and_equal_differences(small):
    _, net, params, state = small
    x, key = image(2, 12, 12, 3), jax.random.key(0)

    def loss(params):
        return jnp.sum(net.apply(params, state, x)[0] ** 2)

    grads = jax.grad(loss)(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    keys = jax.random.split(key, len(jax.tree.leaves(params)))
    draws = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, jax.tree.leaves(params), strict=True)]
    direction = jax.tree.unflatten(jax.tree.structure(params), draws)
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), draws, strict=True))

    def along(t):
        return loss(jax.tree.map(lambda p, d: p + t * d, params, direction))

    np.testing.assert_allclose((along(1e-3) - along(-1e-3)) / 2e-3, slope, rtol=2e-2)


def test_frozen_and_saved_and_cut(small, tmp_path):
    _, net, params, state = small
    x = image(2, 12, 12, 3)
    tuned = jc.frozen(net, but=["head_fc"])
    grads = jax.grad(lambda p: tuned.apply(p, state, x, train=True)[0].sum())(params)
    assert np.abs(grads["head_fc"]["kernel"]).max() > 0
    assert all(np.abs(leaf).max() == 0 for name in grads if name != "head_fc" for leaf in jax.tree.leaves(grads[name]))
    jc.weights.save(tmp_path / "net.safetensors", net, params, state)
    back, _ = jc.weights.load(tmp_path / "net.safetensors", net)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, params))
    maps = jc.backbone(net, {"stem_relu": "early", "body_add": "late"})
    assert {name for name, _ in maps.children} == {
        "stem_conv", "stem_bn_0", "stem_relu", "body_depthwise", "body_pool", "body_squeeze", "body_gate", "body_mul",
        "body_add"}  # fmt: skip
    found = maps.apply(params, state, x)[0]
    _, wanted = jc.inspect.activations(net, params, state, x, paths=["stem_relu", "body_add"])
    np.testing.assert_array_equal(found["early"], wanted["stem_relu"])
    np.testing.assert_array_equal(found["late"], wanted["body_add"])
    head = jc.serial(maps=maps, head=jc.on_map("late", jc.serial(jc.GlobalAvgPool(), jc.Dense(2))))
    fresh, _ = head.init(jax.random.key(0), x)
    assert fresh["head"]["1"]["kernel"].shape == (8, 2)
    with pytest.raises(jc.PathError, match=r"paths must name a layer of the graph, got .*stem_rule"):
        jc.backbone(net, ["stem_rule"])


def test_grad_cam_and_other_views(small):
    _, net, params, state = small
    x = image(2, 16, 16, 3)
    heat = jc.inspect.grad_cam(net, params, state, x, 1, path="body_add", resize=True)
    assert heat.shape == (2, 16, 16)
    assert rectifier_paths(net) == ["stem_relu"]
    ablated, _ = jc.inspect.activations(net, params, state, x, add={"body_mul": jnp.ones(())})
    assert not np.allclose(ablated, net.apply(params, state, x)[0])


def test_fresh_weights_have_the_same_shapes(small):
    _, net, params, state = small
    fresh = net.init(jax.random.key(0), (1, 8, 8, 3))
    assert jax.tree.structure(fresh) == jax.tree.structure((params, state))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, (params, state))


def test_wrappers_and_transforms(small):
    _, net, params, state = small
    x = image(2, 8, 8, 3)
    y, _ = net.apply(params, state, x)
    np.testing.assert_allclose(jc.remat(net).apply(params, state, x)[0], y, rtol=1e-5)
    half = jc.mixed_precision(net).apply(params, state, x)[0]
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, y, rtol=0.1, atol=0.1)
    stacked = jax.vmap(lambda x: net.apply(params, state, x)[0])(x[None])
    np.testing.assert_allclose(stacked[0], y, rtol=1e-5)
    assert hash(net) == hash(from_onnx(small_convnet().SerializeToString())[0])
    assert net == from_onnx(small_convnet().SerializeToString())[0]


def test_half_precision():
    proto = small_convnet(dtype=np.float16)
    net, params, state = from_onnx(proto.SerializeToString())
    x = image(1, 8, 8, 3).astype(np.float16)
    y, _ = net.apply(params, state, x)
    assert y.dtype == jnp.float16
    wide = jax.tree.map(lambda a: np.asarray(a, np.float32), (params, state))
    np.testing.assert_allclose(y, net.apply(*wide, x.astype(np.float32))[0], rtol=1e-2, atol=1e-2)


def test_several_inputs_and_outputs():
    nodes = [node("Conv", "image w", "m", "conv"), node("Mul", "m weight", "y", "mul"), node("ReduceMax", "y", "z")]
    tensors = {"w": np.ones((2, 1, 1, 1), np.float32)}
    proto = model(nodes, {"image": [1, 1, 4, 4], "weight": [1]}, "y z", tensors)
    net, params, state = from_onnx(proto.SerializeToString())
    x, weight = image(1, 4, 4, 1), np.array([2.0], np.float32)
    by_name, _ = net.apply(params, state, {"weight": weight, "image": x})
    by_position, _ = net.apply(params, state, (x, weight))
    np.testing.assert_array_equal(by_name["y"], by_position["y"])
    np.testing.assert_allclose(by_name["y"][..., 0], 2 * x[..., 0], rtol=1e-6)
    assert by_name["z"].shape == (1, 1, 1, 1)
    with pytest.raises(jc.ArgumentError, match=r"x must have the inputs \['image', 'weight'\]"):
        net.apply(params, state, {"image": x})


def test_a_fixed_batch_is_free_and_shapes_are_folded():
    # The shape is computed from the input's, and the first reshape fixes the batch of the file.
    nodes = [
        node("Conv", "x w", "a", "conv"),
        node("Shape", "a", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "shape", axis=0),
        node("Reshape", "a shape", "b", "flat"),
        node("Reshape", "b fixed", "y", "fixed_reshape"),
    ]
    tensors = {
        "w": np.ones((2, 3, 1, 1), np.float32),
        "zero": np.array(0),
        "axes": np.array([0]),
        "rest": np.array([-1]),
        "fixed": np.array([1, 4, 8]),
    }
    proto = model(nodes, {"x": [1, 3, 4, 4]}, "y", tensors)
    net, params, state = from_onnx(proto.SerializeToString())
    assert [name for name, _ in net.children] == ["conv", "flat", "fixed_reshape"]
    x = image(5, 4, 4, 3)
    y, _ = net.apply(params, state, x)
    reference = ReferenceEvaluator(proto)
    wanted = np.concatenate([reference.run(None, {"x": first(x[i : i + 1])})[0] for i in range(5)])
    np.testing.assert_allclose(y, wanted, rtol=1e-5)
    with pytest.raises(jc.ShapeError, match=r"fixed_reshape \(Reshape\): shape must have as many elements"):
        net.apply(params, state, image(5, 5, 4, 3))


def test_transposes_are_pushed_out():
    # A channel shuffle, written out: nothing is permuted but the channels.
    nodes = [
        node("Conv", "x w", "a", "conv"),
        node("Reshape", "a split", "b", "split"),
        node("Transpose", "b", "c", "swap", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "c merge", "d", "merge"),
        node("Conv", "d v", "y", "last"),
    ]
    tensors = {
        "w": image(6, 3, 1, 1),
        "v": image(6, 1, 3, 3),
        "split": np.array([0, 2, 3, 5, 7]),
        "merge": np.array([0, 6, 5, 7]),
    }
    nodes[-1].attribute.append(onnx.helper.make_attribute("group", 6))
    proto = model(nodes, {"x": ["n", 3, 5, 7]}, "y", tensors)
    net, params, state = from_onnx(proto.SerializeToString())
    x = image(2, 5, 7, 3)
    y, _ = net.apply(params, state, x)
    np.testing.assert_allclose(first(y), ReferenceEvaluator(proto).run(None, {"x": first(x)})[0], rtol=1e-4, atol=1e-5)
    jaxpr = jax.make_jaxpr(lambda x: net.apply(params, state, x)[0])(x)
    perms = [eqn.params["permutation"] for eqn in jaxpr.eqns if eqn.primitive.name == "transpose"]
    assert perms == [(0, 1, 2, 4, 3)]
    assert jc.inspect.receptive_field(net, x)["last"][0].size == 3


def test_nodes_with_the_same_weights_are_one_layer():
    nodes = [node("Conv", "x w", "a", "one"), node("Conv", "a w", "y", "two")]
    net, params, state = from_onnx(model(nodes, {"x": [1, 2, 4, 4]}, "y", {"w": image(2, 2, 1, 1)}).SerializeToString())
    assert list(params) == ["one"]
    x = image(1, 4, 4, 2)
    kernel = params["one"]["kernel"]
    np.testing.assert_allclose(net.apply(params, state, x)[0], jc.conv(jc.conv(x, kernel), kernel), rtol=1e-5)


def test_int8_pairs_round_and_pass_the_gradient():
    nodes = [
        node("DequantizeLinear", "q s1", "w"),
        node("QuantizeLinear", "x s2 z2", "a"),
        node("DequantizeLinear", "a s2 z2", "b", "round"),
        node("Conv", "b w", "y", "conv"),
    ]
    rng = np.random.default_rng(0)
    tensors = {
        "q": rng.integers(-127, 127, (4, 3, 1, 1)).astype(np.int8),
        "s1": np.float32(0.02),
        "s2": np.float32(0.1),
        "z2": np.int8(3),
    }
    proto = model(nodes, {"x": [1, 3, 4, 4]}, "y", tensors, opset=19)
    net, params, state = from_onnx(proto.SerializeToString())
    assert [name for name, _ in net.children] == ["round", "conv"]
    x = image(1, 4, 4, 3)
    y, _ = net.apply(params, state, x)
    np.testing.assert_allclose(first(y), ReferenceEvaluator(proto).run(None, {"x": first(x)})[0], rtol=1e-4, atol=1e-4)
    grad = jax.grad(lambda x: net.apply(params, state, x)[0].sum())(x)
    np.testing.assert_allclose(grad[0, 0, 0], params["conv"]["kernel"][0, 0].sum(-1), rtol=1e-4)
    beyond = jax.grad(lambda x: net.apply(params, state, x)[0].sum())(x + 100)
    assert np.abs(beyond).max() == 0


def test_dropout_is_there_in_training():
    proto = model([node("Dropout", "x", "y", "drop")], {"x": [1, 8]}, "y", opset=11)
    net, params, state = from_onnx(proto.SerializeToString())
    x = jnp.ones((1, 8))
    np.testing.assert_array_equal(net.apply(params, state, x)[0], x)
    assert (net.apply(params, state, x, train=True, key=jax.random.key(1))[0] == 0).any()


def test_local_functions_are_written_out():
    body = [onnx.helper.make_node("Relu", ["a"], ["r"]), onnx.helper.make_node("Neg", ["r"], ["b"])]
    opsets = [onnx.helper.make_opsetid("", 17)]
    function = onnx.helper.make_function("local", "Block", ["a"], ["b"], body, opsets)
    proto = model([onnx.helper.make_node("Block", ["x"], ["y"], domain="local")], {"x": [2]}, "y", functions=[function])
    proto.opset_import.append(onnx.helper.make_opsetid("local", 1))
    net, params, state = from_onnx(proto.SerializeToString())
    np.testing.assert_array_equal(net.apply(params, state, jnp.array([-1.0, 2.0]))[0], [0, -2])


def test_wrong_inputs_are_said_at_the_door(small):
    _, net, params, state = small
    with pytest.raises(
        jc.ShapeError, match=r"x must have shape \(\?, \?, \?, 3\) with the channels last, got \(1, 3, "
    ):
        net.apply(params, state, image(1, 3, 8, 8))


@pytest.mark.parametrize(
    "name", [n if n in ("squeezenet", "shufflenet") else pytest.param(n, marks=pytest.mark.slow) for n in LIGHT]
)
def test_published_networks_give_their_stored_outputs(name):
    path = light(name)
    net, params, state = from_onnx(path)
    n = 3 * 224 * 224
    x = (np.arange(n).reshape(1, 3, 224, 224) / n).astype(np.float32)
    y = jax.jit(net.apply)(params, state, np.moveaxis(x, 1, -1))[0]
    wanted = numpy_helper.to_array(onnx.load_tensor(str(path)[:-5] + "_output_0.pb"))
    np.testing.assert_allclose(y.reshape(wanted.shape), wanted, rtol=1e-3, atol=1e-6)


def test_an_error_is_a_value_error():
    assert issubclass(OnnxError, ValueError)


@pytest.mark.parametrize("opset", [7, 9])
def test_old_opsets_have_their_numbers_as_attributes(opset):
    up = {"scales": [1.0, 1.0, 2.0, 2.0]} if opset < 9 else {}
    nodes = [
        node("Conv", "x w", "a"),
        node("Clip", "a", "b", min=-0.5, max=0.5),
        node("Pad", "b", "c", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=3.0),
        node("Slice", "c", "d", axes=[2, 3], starts=[1, 0], ends=[4, 2**31 - 1]),
        node("Upsample", "d" if up else "d scales", "e", mode="nearest", **up),
        node("Dropout", "e", "f", ratio=0.3),
        node("ReduceSum", "f", "g", axes=[2], keepdims=1),
        node("Squeeze", "g", "h", axes=[2]),
        node("Unsqueeze", "h", "i", axes=[0]),
        node("Squeeze", "i", "j", axes=[0]),
        node("Softmax", "j", "y", axis=1),
    ]
    tensors = {"w": image(2, 3, 1, 1), "scales": np.array([1, 1, 2, 2], np.float32)}
    proto = model(nodes, {"x": ["n", 3, 5, 6]}, "y", tensors if not up else {"w": tensors["w"]}, opset=opset)
    net, params, state = from_onnx(proto.SerializeToString())
    x = image(2, 5, 6, 3)
    clipped = np.clip(first(x).transpose(0, 2, 3, 1) @ tensors["w"][:, :, 0, 0].T, -0.5, 0.5).transpose(0, 3, 1, 2)
    padded = np.pad(clipped, ((0, 0), (0, 0), (1, 0), (0, 2)), constant_values=3.0)[:, :, 1:4]
    summed = padded.repeat(2, 2).repeat(2, 3).sum(2)
    # Before opset 13 the axes from this one on are one.
    wanted = np.exp(summed) / np.exp(summed).sum((1, 2), keepdims=True)
    y = np.asarray(net.apply(params, state, x)[0])
    np.testing.assert_allclose(y if y.shape == wanted.shape else first(y), wanted, rtol=1e-4)
