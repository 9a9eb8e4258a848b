"""Files that cannot be imported: one clear error each, and nothing has run."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from jaxconv.interop.onnx import OnnxError, from_onnx  # noqa: E402
from tests.interop.onnx_files import model, node, small_convnet  # noqa: E402


def relu(**options):
    return model([node("Relu", "x", "y", "relu")], {"x": [1, 3]}, "y", **options)


def refused(proto, match):
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    with pytest.raises(OnnxError, match=match) as caught:
        from_onnx(data)
    return str(caught.value)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """Plans are what runs a node."""
    from jaxconv.interop.onnx.values import Plan

    def ran(self):
        raise AssertionError("a node has run")

    monkeypatch.setattr(Plan, "evaluated", ran)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(part):
    data = small_convnet().SerializeToString()
    refused(data[: int(part * len(data))], "it is not a complete ONNX file|which no node, input or init|has shape")


def test_every_truncation_is_an_error():
    data = relu().SerializeToString()
    for n in range(len(data) - 1):
        with pytest.raises(OnnxError):
            from_onnx(data[:n])


def test_what_is_no_file(tmp_path):
    refused(b"\x89PNG\r\n", "not a complete ONNX file")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(OnnxError, match=f"{path}: it is not a complete ONNX file"):
        from_onnx(path)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(OnnxError, match="source must be a path or the bytes of an ONNX file, got a int"):
        from_onnx(3)


def test_all_unknown_operators_are_listed_at_once():
    nodes = [
        node("Relu", "x", "a"),
        node("LSTM", "a a a", "b", "first", hidden_size=3),
        node("LSTM", "b a a", "c", "second", hidden_size=3),
        helper.make_node("Magic", ["c"], ["d"], name="third", domain="com.example"),
        node("NoSuch", "d", "y", "fourth"),
    ]
    text = refused(model(nodes, {"x": [1, 3]}, "y"), "operators of opset 17 that cannot be imported")
    assert "LSTM in 2 nodes: 'first', 'second'" in text
    assert "com.example.Magic in 1 node: 'third'" in text
    assert "NoSuch in 1 node: 'fourth'" in text
    assert "Relu" not in text


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_control_flow_is_refused_by_name(op):
    graph = relu().graph
    attribute = {"If": "then_branch"}.get(op, "body")
    made = helper.make_node(op, ["x"], ["y"], name="branch", **{attribute: graph})
    refused(model([made], {"x": [1]}, "y"), f"{op} in 1 node: 'branch'")


@pytest.mark.parametrize("opset", [1, 6, 29, 99])
def test_a_wrong_opset(opset):
    refused(relu(opset=opset), f"its opset must be between 7 and 28, got {opset}")


def test_no_opset_and_two_opsets():
    proto = relu()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refused(proto, "its opset must be between 7 and 28, got 17, 13")
    del proto.opset_import[:]
    refused(proto, "no nodes or no opset")


def external(location, folder=None, offset=None, length=None, size=12):
    proto = model([node("Add", "x w", "y", "add")], {"x": [1, 3]}, "y", {"w": np.zeros(3, np.float32)})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    if folder is None:
        return proto.SerializeToString()
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights.bin").write_bytes(np.arange(size // 4, dtype=np.float32).tobytes())
    (folder / "secret.bin").write_bytes(bytes(12))
    path = folder / "model" / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_inside_the_folder_are_read(tmp_path):
    _, params, _ = from_onnx(external("weights.bin", tmp_path))
    np.testing.assert_array_equal(params["add"]["bias"], [0, 1, 2])


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "", ".."])
def test_external_data_outside_the_folder(location, tmp_path):
    with pytest.raises(OnnxError, match=r"initializer 'w' must be stored inside the model's folder|is no file in"):
        from_onnx(external(location, tmp_path))


def test_external_data_behind_a_link(tmp_path):
    path = external("link.bin", tmp_path)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(OnnxError, match="must be stored inside the model's folder"):
        from_onnx(path)


@pytest.mark.parametrize(
    "about", [{"offset": 4}, {"length": 8}, {"offset": -4}, {"length": 2**40}, {"offset": "x"}, {"size": 8}]
)
def test_external_data_that_do_not_fit(about, tmp_path):
    with pytest.raises(OnnxError, match=r"initializer 'w' (is 12 bytes, got|must have integers as offset)"):
        from_onnx(external("weights.bin", tmp_path, **about))
    with pytest.raises(OnnxError, match="source must be the path of the model, got bytes"):
        from_onnx(external("weights.bin"))


def test_two_gigabytes_claimed_in_a_kilobyte():
    proto = model([node("Add", "x w", "y", "add")], {"x": [1, 3]}, "y", {"w": np.zeros(3, np.float32)})
    proto.graph.initializer[0].dims[:] = [2**29]
    refused(
        proto, r"initializer 'w' has shape \(536870912,\), which is 2,147,483,648 bytes of float32, but the file has"
    )
    proto.graph.initializer[0].dims[:] = [-3]
    refused(proto, "must have sizes from 0 up")


def test_a_cycle():
    nodes = [node("Add", "x b", "a", "one"), node("Relu", "a", "b", "two"), node("Relu", "b", "y", "three")]
    refused(model(nodes, {"x": [1]}, "y"), "got a cycle through 'one', 'two'")
    refused(model([node("Relu", "y", "y", "self")], {"x": [1]}, "y"), "a cycle through 'self'")


def test_two_outputs_of_one_name():
    nodes = [node("Relu", "x", "a", "one"), node("Neg", "x", "a", "two"), node("Add", "a a", "y")]
    refused(model(nodes, {"x": [1]}, "y"), r"node 'two' \(Neg\) has the output 'a', which is also of node 'one'")
    refused(model([node("Relu", "x", "x", "over")], {"x": [1]}, "x"), "which is also an input or initializer")


def test_what_is_read_but_not_there():
    refused(model([node("Add", "x z", "y", "add")], {"x": [1]}, "y"), r"node 'add' \(Add\) reads 'z', which no node")
    refused(model([node("Relu", "x", "y")], {"x": [1]}, "other"), "output 'other' must be a node's")


def test_attributes():
    def conv(**attributes):
        nodes = [node("Conv", "x w", "y", "conv", **attributes)]
        return model(nodes, {"x": [1, 1, 4, 4]}, "y", {"w": np.ones((1, 1, 3, 3), np.float32)})

    refused(conv(group=1.5), r"node 'conv' \(Conv\): attribute 'group' must be of type INT, got FLOAT")
    refused(conv(strides=2), "attribute 'strides' must be of type INTS, got INT")
    refused(conv(auto_pad=1), "attribute 'auto_pad' must be of type STRING, got INT")
    refused(conv(color=1), "attribute 'color' is none that Conv has in opset 17")
    refused(conv(strides=[2, 2, 2]), "strides must have an integer for each of 2 axes, got")
    twice = conv(group=1)
    twice.graph.node[0].attribute.append(helper.make_attribute("group", 1))
    refused(twice, "attribute 'group' is there twice")
    refused(model([node("Cast", "x", "y", "cast")], {"x": [1]}, "y"), "must have the attribute 'to'")
    refused(model([node("Relu", "x x", "y", "relu")], {"x": [1]}, "y"), "must have between 1 and 1 inputs, got 2")


def test_types():
    refused(relu(dtype=TensorProto.STRING), "input 'x' must be of floating point .*, got STRING")
    refused(relu(dtype=TensorProto.INT4), "got INT4")
    proto = relu()
    proto.graph.input[0].type.Clear()
    refused(proto, "input 'x' must be a tensor, got no type")


def test_no_inputs_and_no_outputs():
    proto = relu()
    del proto.graph.output[:]
    refused(proto, "it must have at least one output")
    constant = model([node("Constant", "", "y", value_float=1.0)], {}, "y")
    del constant.graph.node[0].input[:]
    refused(constant, "it must have at least one input")


def test_damaged_bytes_give_no_other_error():
    data = small_convnet().SerializeToString()
    random = np.random.default_rng(0)
    refusals = 0
    for _ in range(200):
        damaged = bytearray(data)
        for place in random.integers(0, 1200, 3):
            damaged[place] = random.integers(256)
        try:
            from_onnx(bytes(damaged))
        except OnnxError:
            refusals += 1
    assert refusals > 50
