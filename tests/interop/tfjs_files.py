"""Graph models of TensorFlow.js that tests write: a case for each family of operators."""

import base64
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def attribute(value: Any) -> Any:
    """Returns an attribute as JSON has it; "DT_FLOAT" and the like are types, other text is bytes."""
    if isinstance(value, bool):
        return {"b": value}
    if isinstance(value, int):
        return {"i": str(value)}
    if isinstance(value, float):
        return {"f": value}
    if isinstance(value, str) and value.startswith("DT_"):
        return {"type": value}
    if isinstance(value, str):
        return {"s": base64.b64encode(value.encode()).decode()}
    if isinstance(value, dict):
        return {"shape": {"dim": [{"size": str(n)} for n in value["shape"]]}}
    kinds = [attribute(each) for each in value]
    return {"list": {kind: [each[kind] for each in kinds] for kind in {k for each in kinds for k in each}}}


class Model:
    """A graph that grows by a call for each node; a NumPy array among a node's inputs becomes a Const."""

    def __init__(self, **inputs: tuple[int, ...]):
        self.nodes: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []
        for name, shape in inputs.items():
            attr = {"dtype": attribute("DT_FLOAT"), "shape": attribute({"shape": shape})}
            self.nodes.append({"op": "Placeholder", "name": name, "attr": attr})

    def __call__(self, op: str, name: str, *inputs: Any, **attributes: Any) -> str:
        names = []
        for i, value in enumerate(inputs):
            if not isinstance(value, str):
                value = self.constant(f"{name}/{i}", np.asarray(value))
            names.append(value)
        attr = {key: attribute(each) for key, each in attributes.items()}
        # TensorFlow.js reads the type of some operators' arrays.
        attr = {"T": attribute("DT_FLOAT")} | attr
        attr |= {"num_args": attribute(len(inputs) - 2)} if "fused_ops" in attr else {}
        self.nodes.append({"op": op, "name": name, "input": names, "attr": attr})
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        kept = array.astype(np.int32 if array.dtype.kind in "iu" else bool if array.dtype == bool else np.float32)
        self.arrays[name] = kept
        kind = {"i": "DT_INT32", "b": "DT_BOOL", "f": "DT_FLOAT"}[kept.dtype.kind]
        self.nodes.append({"op": "Const", "name": name, "attr": {"dtype": attribute(kind)}})
        return name

    def ends(self, *names: str) -> "Model":
        self.outputs += names
        return self

    def document(self) -> dict[str, Any]:
        weights = [
            {"name": name, "shape": list(array.shape), "dtype": {"b": "bool"}.get(array.dtype.kind, array.dtype.name)}
            for name, array in self.arrays.items()
        ]
        signature = {"inputs": {}, "outputs": {name: {"name": name} for name in self.outputs}}
        for node in self.nodes:
            if node["op"] == "Placeholder":
                about = {"name": node["name"], "dtype": "DT_FLOAT", "tensorShape": node["attr"]["shape"]["shape"]}
                signature["inputs"][node["name"]] = about
        return {
            "format": "graph-model",
            "signature": signature if self.outputs else None,
            "modelTopology": {"node": self.nodes, "versions": {}, "library": {}},
            "weightsManifest": [{"paths": ["w.bin"], "weights": weights}],
        }

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "w.bin").write_bytes(b"".join(array.tobytes() for array in self.arrays.values()))
        (folder / "model.json").write_text(json.dumps(self.document()))
        return folder / "model.json"


@functools.cache
def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns multiples of 1/16, which have the same products and sums in any order."""
    array = np.random.default_rng([seed, *shape]).integers(-32, 33, shape) / 16
    return array.astype(np.float32)


X = (1, 5, 6, 4)
UNARY = """Abs Ceil Cos Elu Erf Exp Floor Neg Relu Relu6 Round Selu Sigmoid Sign Sin Softplus Square Tanh LeakyRelu
Identity Softmax StopGradient""".split()
BINARY = """Add AddV2 Sub Mul RealDiv DivNoNan FloorMod Maximum Minimum SquaredDifference Equal NotEqual
Greater GreaterEqual Less LessEqual""".split()


def unary() -> Model:
    m = Model(x=X)
    for op in UNARY:
        m(op, op.lower(), "x")
    m("Log", "log", m("AddV2", "positive", "exp", np.float32(0.5)))
    m("Sqrt", "sqrt", "positive")
    m("Rsqrt", "rsqrt", "positive")
    m("Reciprocal", "reciprocal", "positive")
    m("Cast", "integers", "x", DstT="DT_INT32", SrcT="DT_FLOAT")
    m("Cast", "truths", m("Greater", "above", "x", np.float32(0)), DstT="DT_FLOAT", SrcT="DT_BOOL")
    m("LogicalNot", "not", "above")
    names = [op.lower() for op in UNARY]
    return m.ends(*names, "log", "sqrt", "rsqrt", "reciprocal", "integers", "truths", "not")


def binary() -> Model:
    m = Model(x=X, y=X)
    for op in BINARY:
        m(op, f"{op}_both", "x", "y")
        m(op, f"{op}_vector", "x", drawn(4, seed=1))
        m(op, f"{op}_number", np.float32(0.75), "y")
    m("BiasAdd", "biased", "x", drawn(4, seed=2))
    m("AddN", "sum", "x", "y", "biased")
    m("LogicalAnd", "and", "Less_both", "Less_vector")
    m("LogicalOr", "or", "Less_both", "Less_vector")
    m("SelectV2", "chosen", "or", "x", "y")
    m("Pow", "power", m("Abs", "size", "x"), np.float32(1.5))
    m("Prelu", "sloped", "x", drawn(1, 1, 4, seed=3))
    ends = [f"{op}_{kind}" for op in BINARY for kind in ("both", "vector", "number")]
    return m.ends(*ends, "biased", "sum", "and", "or", "chosen", "power", "sloped")


def over_axes() -> Model:
    m = Model(x=X)
    for op in ("Mean", "Sum", "Max", "Min", "Prod"):
        m(op, f"{op}_kept", "x", np.array([1, 2]), keep_dims=True)
        m(op, f"{op}_dropped", "x", np.array([1, 2]), keep_dims=False)
        m(op, f"{op}_last", "x", np.array(-1), keep_dims=True)
    m("Greater", "above", "x", np.float32(1.5))
    m("All", "all", "above", np.array([3]), keep_dims=False)
    m("Any", "any", "above", np.array([3]), keep_dims=False)
    m("ArgMax", "highest", "x", np.array(3), output_type="DT_INT32")
    m("ArgMin", "lowest", "x", np.array(1), output_type="DT_INT32")
    m("Reshape", "flat", "x", np.array([1, -1]))
    m("TopKV2", "top", "flat", np.array(7), sorted=True)
    m("LogSoftmax", "logs", "flat")
    m("MatMul", "dense", "Mean_dropped", drawn(3, 4, seed=4), transpose_a=False, transpose_b=True)
    m("_FusedMatMul", "fused", "dense", drawn(3, 2), drawn(2), fused_ops=["BiasAdd", "Relu"])
    m("BatchMatMulV2", "batched", "x", m("Transpose", "swapped", "x", np.array([0, 1, 3, 2])), adj_x=False, adj_y=False)
    ends = [f"{op}_{kind}" for op in ("Mean", "Sum", "Max", "Min", "Prod") for kind in ("kept", "dropped", "last")]
    return m.ends(*ends, "all", "any", "highest", "lowest", "top", "top:1", "logs", "dense", "fused", "batched")


def shapes() -> Model:
    m = Model(x=X)
    m("Squeeze", "squeezed", "x", squeeze_dims=[0])
    m("ExpandDims", "wider", "squeezed", np.array(-1))
    m("Transpose", "swapped", "x", np.array([0, 2, 1, 3]))
    m("Unpack", "rows", "x", axis=1, num=5)
    m("Pack", "packed", "rows:1", "rows", "rows:4", axis=2, N=3)
    m("Split", "halves", np.array(3), "x", num_split=2)
    m("SplitV", "pieces", "x", np.array([1, 3]), np.array(3), num_split=2)
    m("ConcatV2", "joined", "halves:1", "pieces:1", "halves", np.array(3), N=3)
    m("Slice", "cut", "x", np.array([0, 1, 2, 0]), np.array([1, 3, -1, 2]))
    m("Pad", "padded", "x", np.array([[0, 0], [1, 2], [0, 3], [0, 0]]))
    m("PadV2", "filled", "x", np.array([[0, 0], [1, 0], [0, 0], [0, 1]]), np.float32(2.5))
    m("MirrorPad", "mirrored", "x", np.array([[0, 0], [1, 2], [2, 0], [0, 0]]), mode="REFLECT")
    masks = {"begin_mask": 0, "end_mask": 0, "ellipsis_mask": 0, "new_axis_mask": 0, "shrink_axis_mask": 0}
    m("StridedSlice", "steps", "x", np.array([0, 4, 1, 0]), np.array([1, 0, 6, 9]), np.array([1, -2, 2, 1]), **masks)
    open_ends = masks | {"begin_mask": 7, "end_mask": 15}
    m("StridedSlice", "tail", "x", np.array([0, 0, 0, -2]), np.array([0, 0, 0, 0]), np.array([1, 1, 1, 1]), **open_ends)
    one = masks | {"shrink_axis_mask": 2, "begin_mask": 1, "end_mask": 1}
    m("StridedSlice", "row", "x", np.array([0, 2]), np.array([0, 3]), np.array([1, 1]), **one)
    m("Shape", "sizes", "x", out_type="DT_INT32")
    m(
        "StridedSlice",
        "first",
        "sizes",
        np.array([0]),
        np.array([1]),
        np.array([1]),
        **(masks | {"shrink_axis_mask": 1}),
    )
    m("Pack", "target", "first", np.array(-1), axis=0, N=2)
    m("Reshape", "flat", "x", "target")
    m("DepthToSpace", "blocks", "x", block_size=2, data_format="NHWC")
    ends = "squeezed wider swapped rows rows:4 packed halves pieces joined cut padded filled mirrored steps tail row"
    return m.ends(*ends.split(), "flat", "blocks")


def indices() -> Model:
    m = Model(x=X)
    m("GatherV2", "taken", "x", np.array([3, 0, 2]), np.array(1), batch_dims=0)
    m("GatherV2", "table", "x", np.array([[3, 0], [1, 1]]), np.array(3), batch_dims=0)
    m("GatherNd", "points", "x", np.array([[0, 4, 5], [0, 0, 1]]))
    m("Cast", "where", m("Abs", "size", "x"), DstT="DT_INT32", SrcT="DT_FLOAT")
    m("GatherV2", "chosen", np.arange(3.0, dtype=np.float32) * 2, "where", np.array(0), batch_dims=0)
    m("FloorDiv", "third", "where", np.array(2), T="DT_INT32")
    m("FloorMod", "rest", "where", np.array(2), T="DT_INT32")
    return m.ends("taken", "table", "points", "chosen", "third", "rest")


def resized() -> Model:
    m = Model(x=X)
    ends = []
    for kind, options in {
        "plain": {"align_corners": False, "half_pixel_centers": False},
        "corners": {"align_corners": True, "half_pixel_centers": False},
        "centers": {"align_corners": False, "half_pixel_centers": True},
    }.items():
        for op in ("ResizeBilinear", "ResizeNearestNeighbor"):
            for size in ((10, 12), (3, 4), (7, 5)):
                ends.append(m(op, f"{op}_{kind}_{size[0]}", "x", np.array(size), **options))
    return m.ends(*ends)


def windows() -> Model:
    m = Model(x=X)
    ones = {"strides": [1, 1, 1, 1], "dilations": [1, 1, 1, 1], "data_format": "NHWC"}
    twos = ones | {"strides": [1, 2, 2, 1]}
    m("Conv2D", "same", "x", drawn(3, 3, 4, 6), padding="SAME", **twos)
    m("Conv2D", "valid", "x", drawn(2, 3, 4, 2), padding="VALID", **(ones | {"dilations": [1, 2, 1, 1]}))
    m(
        "Conv2D",
        "explicit",
        "x",
        drawn(3, 3, 4, 2),
        padding="EXPLICIT",
        explicit_paddings=[0, 0, 1, 0, 2, 1, 0, 0],
        **ones,
    )
    m("DepthwiseConv2dNative", "depthwise", "x", drawn(3, 3, 4, 2), padding="SAME", **twos)
    bias = drawn(6, seed=5)
    for act in ("Relu", "Relu6", "Elu", "Sigmoid"):
        m(
            "_FusedConv2D",
            f"fused_{act}",
            "x",
            drawn(1, 1, 4, 6),
            bias,
            padding="SAME",
            fused_ops=["BiasAdd", act],
            **ones,
        )
    m("_FusedConv2D", "fused", "x", drawn(3, 3, 4, 6), bias, padding="SAME", fused_ops=["BiasAdd"], **twos)
    more = {"padding": "SAME", **ones}
    slope = drawn(1, 1, 6, seed=6)
    m("_FusedConv2D", "sloped", "x", drawn(1, 1, 4, 6), bias, slope, fused_ops=["BiasAdd", "Prelu"], **more)
    leaky = {"fused_ops": ["BiasAdd", "LeakyRelu"], "leakyrelu_alpha": 0.25}
    m("_FusedConv2D", "leaky", "x", drawn(1, 1, 4, 6), bias, **leaky, **more)
    fused = {"fused_ops": ["BiasAdd", "Relu6"], **more}
    m("FusedDepthwiseConv2dNative", "fused_depthwise", "x", drawn(3, 3, 4, 1), drawn(4, seed=7), **fused)
    pool = {"ksize": [1, 3, 3, 1], "strides": [1, 2, 2, 1], "data_format": "NHWC"}
    m("MaxPool", "highest", "x", padding="SAME", **pool)
    m("AvgPool", "mean", "x", padding="SAME", **pool)
    m("MaxPool", "inner", "x", padding="VALID", **pool)
    norm = (drawn(4, seed=8), drawn(4, seed=9), drawn(4, seed=10), np.abs(drawn(4, seed=11)))
    m("FusedBatchNormV3", "norm", "x", *norm, epsilon=0.001, is_training=False, data_format="NHWC")
    sizes = np.array([1, 10, 12, 3])
    m("Conv2DBackpropInput", "larger", sizes, drawn(3, 3, 3, 4), "x", padding="SAME", **twos)
    ends = "same valid explicit depthwise fused_Relu fused_Relu6 fused_Elu fused_Sigmoid fused sloped leaky"
    return m.ends(*ends.split(), "fused_depthwise", "highest", "mean", "inner", "norm", "larger")


CASES: dict[str, Callable[[], Model]] = {
    f.__name__: f for f in (unary, binary, over_axes, shapes, indices, resized, windows)
}


def inputs(model: Model) -> dict[str, np.ndarray]:
    """Returns an array for each input of a case."""
    found = model.document()["modelTopology"]["node"]
    return {n["name"]: drawn(*X, seed=i) for i, n in enumerate(n for n in found if n["op"] == "Placeholder")}


# Other networks of npm's @vladmandic/human, and how much of their outputs is recorded.
PACKAGED = "antispoof blazeface emotion facemesh faceres handlandmark-lite iris liveness".split()
FIRST = 64


def ports(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns an array for each input of a file by the signature, and the public names of its outputs by node."""
    document = json.loads(path.read_text())
    signature = document.get("signature") or document["userDefinedMetadata"]["signature"]
    given = {}
    for about in signature["inputs"].values():
        shape = [max(int(n["size"]), 1) for n in about["tensorShape"]["dim"]]
        given[about["name"].removesuffix(":0")] = drawn(*shape) / 2
    return given, {about["name"].removesuffix(":0"): name for name, about in signature["outputs"].items()}
