"""What the docstrings say equals captum, scikit-learn or torchmetrics, against them: `make oracle`, where installed."""

import importlib.util

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from tests.nets import normal
from tests.record_torchvision import torchvision

pytestmark = pytest.mark.torch

NET = jc.serial(
    conv1=jc.Conv(4, 3, padding=1), relu1=jax.nn.relu, conv2=jc.Conv(5, 3, padding=1), relu2=jax.nn.relu,
    flatten=jc.Flatten(channels_first=True), fc=jc.Dense(3),
)  # fmt: skip
SHAPE = (2, 6, 6, 3)
TARGET = 1


@pytest.fixture(scope="module")
def both():
    """The network with its arrays and input, here and in torch, and captum's attributions."""
    torch = pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")
    nn = torch.nn

    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
            self.conv2, self.relu2 = nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()
            self.fc = nn.Linear(180, 3)

        def forward(self, x):
            x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
            return self.fc(x.flatten(1))

    torch.manual_seed(0)
    model = Theirs().eval()
    params, state = jc.weights.from_torch(NET, model.state_dict())
    x = normal(SHAPE)
    return params, state, x, model, torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_(), attr


def last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def close(ours, theirs):
    assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_saliency(both):
    params, state, x, model, tensor, attr = both
    theirs = attr.Saliency(model).attribute(tensor, target=TARGET, abs=False)
    close(jc.inspect.saliency(NET, params, state, x, TARGET), last(theirs))


def test_smooth_grad(both, monkeypatch):
    """With the same noise: captum draws it for all copies at once, example by example."""
    params, state, x, model, tensor, attr = both
    torch = pytest.importorskip("torch")
    key, samples = jax.random.key(5), 6
    span = np.ptp(x, axis=(1, 2, 3), keepdims=True)
    keys = jax.random.split(jc.child.child_key(key, "noise"), samples)
    noise = np.stack([jax.random.normal(k, x.shape) for k in keys], 1) * 0.15 * span[:, None]
    drawn = torch.from_numpy(np.moveaxis(noise.reshape(-1, *SHAPE[1:]), -1, 1).copy())
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: drawn)
    tunnel = attr.NoiseTunnel(attr.Saliency(model))
    theirs = tunnel.attribute(tensor, nt_type="smoothgrad", nt_samples=samples, target=TARGET, abs=False)
    ours = jc.inspect.smooth_grad(NET, params, state, x, TARGET, key=key, samples=samples)
    close(ours, last(theirs))
    assert (ours < 0).any()


def test_integrated_gradients(both):
    params, state, x, model, tensor, attr = both
    theirs = attr.IntegratedGradients(model).attribute(tensor, target=TARGET, n_steps=16, method="riemann_middle")
    close(jc.inspect.integrated_gradients(NET, params, state, x, TARGET, steps=16), last(theirs))


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_guided_backprop(both):
    params, state, x, model, tensor, attr = both
    theirs = attr.GuidedBackprop(model).attribute(tensor, target=TARGET)
    close(jc.inspect.guided_backprop(NET, params, state, x, TARGET), last(theirs))


def test_grad_cam(both):
    params, state, x, model, tensor, attr = both
    theirs = attr.LayerGradCam(model, model.relu2).attribute(tensor, target=TARGET, relu_attributions=True)
    close(jc.inspect.grad_cam(NET, params, state, x, TARGET, path="relu2"), last(theirs)[..., 0])


def test_occlusion(both):
    """Windows that tile the image: then each pixel is covered once, and the mean is the sum."""
    params, state, x, model, tensor, attr = both
    theirs = attr.Occlusion(model).attribute(tensor, (3, 2, 2), strides=(3, 2, 2), target=TARGET)
    close(jc.inspect.occlusion(NET, params, state, x, TARGET, window=2, stride=2), last(theirs)[..., 0])


def test_neighbors_and_pca():
    neighbors = pytest.importorskip("sklearn.neighbors")
    decomposition = pytest.importorskip("sklearn.decomposition")
    database, queries = normal((50, 6), 1), normal((7, 6), 2)
    for metric, theirs in (("cosine", "cosine"), ("l2", "euclidean")):
        found = neighbors.NearestNeighbors(n_neighbors=4, algorithm="brute", metric=theirs).fit(database)
        _, indices = found.kneighbors(queries)
        np.testing.assert_array_equal(jc.inspect.nearest(queries, database, 4, metric=metric).indices, indices)
    theirs = decomposition.PCA(2, svd_solver="full").fit_transform(database)
    ours = np.asarray(jc.inspect.pca(database).points)
    assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_precision(k):
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision"):
        # torchmetrics imports it where it is installed.
        torchvision()
    torchmetrics = pytest.importorskip("torchmetrics.retrieval")
    rng = np.random.default_rng(0)
    database, queries = normal((30, 6), 1), normal((8, 6), 2)
    labels, query_labels = rng.integers(0, 3, 30), rng.integers(0, 3, 8)
    found = jc.inspect.nearest(queries, database, k, metric="l2")
    ours = jc.inspect.precision_at_k(found.indices, labels, query_labels)
    far = np.linalg.norm(queries[:, None].astype(float) - database, axis=-1)
    theirs = torchmetrics.RetrievalPrecision(top_k=k, empty_target_action="neg")(
        torch.from_numpy(1 / (1 + far.ravel())),
        torch.from_numpy((labels == query_labels[:, None]).ravel()),
        indexes=torch.arange(8).repeat_interleave(30),
    )
    assert ours == pytest.approx(float(theirs))
