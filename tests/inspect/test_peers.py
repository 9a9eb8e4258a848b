"""What the docstrings say equals captum, scikit-learn or torchmetrics, against them: `make oracle`, where installed."""

import copy
import functools
import importlib.util

import jax
import jax.numpy as jnp
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


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("baseline", [0.0, 0.4])
@pytest.mark.parametrize("pooled", [False, True])
def test_deep_lift(both, baseline, pooled):
    params, state, x, model, tensor, attr = both
    net = NET
    if pooled:
        torch = pytest.importorskip("torch")
        # A convolution between both: captum's hooks of nonlinear modules that follow each other disturb each other.
        net = jc.serial(
            jc.Conv(4, 3, padding=1), jnp.tanh, jc.Conv(4, 3, padding=1), jc.MaxPool(2),
            jc.Flatten(channels_first=True), jc.Dense(3),
        )  # fmt: skip
        torch.manual_seed(1)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(4, 4, 3, padding=1),
            torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(36, 3),
        ).eval()  # fmt: skip
        params, state = jc.weights.from_torch(net, model.state_dict())
    theirs = attr.DeepLift(model).attribute(tensor, baselines=baseline, target=TARGET)
    close(jc.inspect.deep_lift(net, params, state, x, TARGET, baseline=baseline), last(theirs))


def test_expected_gradients(both, monkeypatch):
    """With captum's draws of baselines and points made equal to ours."""
    params, state, x, model, tensor, attr = both
    torch = pytest.importorskip("torch")
    baselines, samples, key = normal((3, *SHAPE[1:]), 5), 7, jax.random.key(5)
    ours = jc.inspect.expected_gradients(NET, params, state, x, TARGET, baselines=baselines, key=key, samples=samples)
    order_key, offset_key = jax.random.split(jc.child.child_key(key, "samples"))
    order = np.concatenate([jax.random.permutation(k, 3) for k in jax.random.split(order_key, 3)])[:samples]
    parts = (np.arange(samples) + np.asarray(jax.random.uniform(offset_key, (samples,)))) / samples
    # Captum's point 0 is the baseline; it has the samples of an example next to each other.
    monkeypatch.setattr(np.random, "choice", lambda n, size: np.tile(order, 2))
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.tile(parts, 2))
    theirs = attr.GradientShap(model).attribute(
        tensor, torch.from_numpy(np.moveaxis(baselines, -1, 1).copy()), n_samples=samples, stdevs=0.0, target=TARGET
    )
    close(ours, last(theirs))


@pytest.mark.parametrize(
    "rule", [{}, {"epsilon": 0.1}, {"name": "gamma", "gamma": 0.3}, {"name": "z_plus"}], ids=lambda rule: str(rule)
)
def test_lrp(both, rule):
    """Biases that are not positive, and inputs that are not negative: there the rules are the same."""
    params, state, x, model, tensor, attr = both
    torch = pytest.importorskip("torch")
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    rule = {"epsilon": 1e-5} | rule
    theirs = {
        "gamma": lambda: rules.GammaRule(rule["gamma"]),
        "z_plus": lambda: rules.Alpha1_Beta0_Rule(set_bias_to_zero=True),
    }.get(rule.get("name"), lambda: rules.EpsilonRule(rule["epsilon"]))
    model = copy.deepcopy(model)
    for layer in (model.conv1, model.conv2, model.fc):
        layer.bias.data = -layer.bias.data.abs()
        layer.rule = theirs()
        layer.rule.STABILITY_FACTOR = rule["epsilon"]
    params, state = jc.weights.from_torch(NET, model.state_dict())
    positive = tensor.detach().abs().requires_grad_()
    want = attr.LRP(model).attribute(positive, target=TARGET)
    close(jc.inspect.lrp(NET, params, state, np.abs(x), TARGET, rules=jc.inspect.Rule(**rule)), last(want))
    assert torch.isfinite(want).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity(both, normalize):
    params, state, x, model, tensor, _ = both
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("captum.metrics")
    noise = normal((6, *SHAPE), 3) * 0.2

    def perturb(key, x):
        at = jax.random.key_data(key)[-1]
        return jnp.asarray(noise)[at], x - jnp.asarray(noise)[at]

    def perturbed(inputs):
        # Captum has the samples of an example next to each other.
        drawn = torch.from_numpy(np.moveaxis(noise.swapaxes(0, 1).reshape(-1, *SHAPE[1:]), -1, 1).copy())
        return drawn, inputs - drawn

    a = jc.inspect.saliency(NET, params, state, x, TARGET)
    keys = jax.random.wrap_key_data(jnp.stack([jnp.zeros(6, jnp.uint32), jnp.arange(6, dtype=jnp.uint32)], 1))
    ours = jc.inspect.fidelity._infidelity(
        NET, None, perturb, normalize, jnp.asarray(TARGET), params, state, jnp.asarray(x), a, keys
    )
    theirs = metrics.infidelity(
        model, perturbed, tensor, torch.from_numpy(np.moveaxis(np.asarray(a), -1, 1).copy()), target=TARGET,
        n_perturb_samples=6, normalize=normalize,
    )  # fmt: skip
    assert_allclose(ours, theirs.detach().numpy(), rtol=1e-3)


def test_max_sensitivity(both):
    params, state, x, model, tensor, attr = both
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("captum.metrics")
    key, samples = jax.random.key(5), 6
    keys = jax.random.split(jc.child.child_key(key, "max_sensitivity"), samples)
    moved = np.stack([jax.random.uniform(k, x.shape, x.dtype, -0.05, 0.05) for k in keys], 1).reshape(-1, *SHAPE[1:])

    def perturbed(inputs):
        return inputs + torch.from_numpy(np.moveaxis(moved, -1, 1).copy())

    def explained(inputs):
        inputs = (inputs[0] if isinstance(inputs, tuple) else inputs).detach().requires_grad_()
        return (attr.Saliency(model).attribute(inputs, target=TARGET, abs=False),)

    theirs = metrics.sensitivity_max(explained, tensor, perturbed, n_perturb_samples=samples)
    explain = functools.partial(jc.inspect.saliency, NET, params, state, target=TARGET)
    ours = jc.inspect.max_sensitivity(explain, x, key=key, radius=0.05, samples=samples)
    assert_allclose(ours, theirs.numpy(), rtol=1e-3)


def test_tcav(both, tmp_path):
    """Captum's scores with our classifier, which it fits to its own activations."""
    params, state, x, model, tensor, attr = both
    torch = pytest.importorskip("torch")
    concept = pytest.importorskip("captum.concept")
    classifier = pytest.importorskip("captum.concept._utils.classifier")
    given = [normal((9, *SHAPE[1:]), seed) + shift for seed, shift in ((1, 1.0), (2, 0.0))]

    class Ours(classifier.Classifier):
        def __init__(self):
            self.vector = None

        def train_and_eval(self, dataloader, **options):
            batches = [[part.detach().numpy() for part in batch] for batch in dataloader]
            a, labels = (np.concatenate(parts).astype(np.float64) for parts in zip(*batches, strict=True))
            self.vector = jc.inspect.concepts._concept(a[labels == 0], a[labels == 1], 0.01).vector.ravel()
            return {}

        def weights(self):
            return torch.tensor(np.stack([self.vector, -self.vector]))

        def classes(self):
            return [0, 1]

    sets = [
        concept.Concept(i, name, torch.utils.data.DataLoader(torch.from_numpy(np.moveaxis(a, -1, 1).copy()), 4))
        for i, (name, a) in enumerate(zip(("concept", "others"), given, strict=True))
    ]
    slopes = attr.LayerGradientXActivation(model, model.relu2, multiply_by_inputs=False)
    theirs = concept.TCAV(model, ["relu2"], classifier=Ours(), layer_attr_method=slopes, save_path=str(tmp_path))
    found = theirs.interpret(tensor, [sets], target=TARGET)["0-1"]["relu2"]
    vector = jc.inspect.concept_vector(NET, params, state, *given, path="relu2").vector.ravel()[None]
    ours = np.asarray(
        jc.inspect.concepts._toward(
            NET, "relu2", None, None, jnp.asarray(TARGET), params, state, jnp.asarray(x), vector
        )
    )
    assert_allclose((ours > 0).mean(), found["sign_count"][0].item())
    assert_allclose(ours.mean(), found["magnitude"][0].item(), rtol=1e-3, atol=1e-6)


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
