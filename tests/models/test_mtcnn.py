"""MTCNN's networks: names and counts, and the package's own modules with its weights."""

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxconv as jc

NETS = {"pnet": (21, 17), "rnet": (24, 24), "onet": (48, 48)}
COUNTS = {"pnet": 6_632, "rnet": 100_178, "onet": 389_040}


@pytest.mark.parametrize("name", NETS)
def test_counts_are_the_papers(name):
    net = getattr(jc.models, name)()
    assert jc.summary(net, (1, *NETS[name], 3)).parameters == COUNTS[name]


def test_probabilities_sum_to_one_and_the_columns_come_first():
    net = jc.models.rnet()
    params, state = net.init(0, (2, 24, 24, 3))
    y, _ = jax.jit(net.apply)(params, state, np.ones((2, 24, 24, 3), np.float32))
    assert list(y) == ["dense5_1", "dense5_2"]
    np.testing.assert_allclose(np.sum(y["dense5_1"], 1), 1, rtol=1e-5)
    x = np.arange(12).reshape(1, 2, 3, 2)
    assert jc.models.mtcnn.columns_first(x).tolist() == [[0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]]


@pytest.fixture(scope="module")
def package():
    """The folder of facenet-pytorch, which needs torchvision and PIL to be imported: its networks' file does not."""
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None:
        pytest.skip("facenet-pytorch is not installed")
    return Path(spec.submodule_search_locations[0])


@pytest.mark.torch
@pytest.mark.parametrize("name", NETS)
def test_outputs_are_the_packages_with_its_weights(package, name):
    torch = pytest.importorskip("torch")
    source = (package / "models" / "mtcnn.py").read_text().replace("from .utils", "# from .utils")
    module = type(sys)("mtcnn")
    exec(compile(source, "mtcnn.py", "exec"), module.__dict__)
    theirs = getattr(module, name.upper().replace("NET", "Net"))(pretrained=False)
    file = package / "data" / f"{name}.pt"
    theirs.load_state_dict(torch.load(file))
    net, x = getattr(jc.models, name)(), np.random.default_rng(0).normal(size=(2, *NETS[name], 3)).astype(np.float32)
    params, state = jc.weights.from_torch(net, file, x.shape)
    y, _ = jax.jit(net.apply)(params, state, x)
    with torch.no_grad():
        boxes, *points, scores = theirs.eval()(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    wanted = [scores, boxes, *points]
    assert len(y) == len(wanted)
    for got, expected in zip(y.values(), wanted, strict=True):
        expected = np.moveaxis(expected.numpy(), 1, -1)
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
