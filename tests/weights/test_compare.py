import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.weights import WeightsError, compare, torch_activations
from tests.models.zoo import KNOWN, images
from tests.record_torchvision import build, fill

NET = jc.serial(
    # Named so that the order in which they run is not the alphabet's.
    stem=jc.serial(jc.Conv(4, 3), jnp.abs),
    body=jc.serial(down=jc.Conv(3, 3, stride=2), act=jnp.tanh),
    head=jc.serial(jc.GlobalAvgPool(), jc.Dense(2)),
)
PATHS = ["stem.0", "stem.1", "stem", "body.down", "body.act", "body", "head.0", "head.1", "head"]


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


PARAMS = {
    "stem": {"0": {"kernel": numbers(3, 3, 2, 4), "bias": numbers(4)}},
    "body": {"down": {"kernel": numbers(3, 3, 4, 3), "bias": numbers(3)}},
    "head": {"1": {"kernel": numbers(3, 2), "bias": numbers(2)}},
}
X = numbers(2, 6, 6, 2)


@pytest.fixture(scope="module")
def reference():
    _, found = jc.inspect.activations(NET, PARAMS, {}, X)
    return {path: np.asarray(found[path]) for path in sorted(found)}


def test_a_right_port(reference):
    result = compare(NET, PARAMS, {}, X, reference)
    assert result.first is None
    assert [row.path for row in result.rows] == PATHS
    assert all(row.difference == row.relative == 0 and not row.differs for row in result.rows)
    assert all(row.shape == row.reference_shape == reference[row.path].shape for row in result.rows)
    assert str(result).splitlines()[-1] == "9 outputs agree to 0.0001 of the largest number of each"


def test_a_wrong_weight_is_found_by_the_first_layer_that_differs(reference):
    kernel = PARAMS["body"]["down"]["kernel"]
    params = PARAMS | {"body": {"down": {"kernel": kernel.swapaxes(0, 1), "bias": PARAMS["body"]["down"]["bias"]}}}
    result = compare(NET, params, {}, X, reference)
    first = result.first
    assert first.path == "body.down"
    assert first.layer == NET.children[1][1].children[0][1]
    wrong, right = np.asarray(jc.inspect.activations(NET, params, {}, X)[1]["body.down"]), reference["body.down"]
    assert first.difference == pytest.approx(np.abs(wrong - right).max(), rel=1e-6)
    assert first.relative == pytest.approx(first.difference / np.abs(right).max(), rel=1e-6)
    assert [row.differs for row in result.rows] == [False] * 3 + [True] * 6
    lines = str(result).splitlines()
    assert [line.endswith("<- first to differ") for line in lines].count(True) == 1
    assert lines[5].split()[:2] == ["body.down", "Conv"]
    assert lines[5].endswith("<- first to differ")
    assert lines[6].endswith("differs")
    assert lines[-1].startswith("body.down is the first of 9 outputs to differ, by ")
    assert repr(result) == str(result)


def test_the_tolerance_is_relative_to_the_largest_reference():
    net = jc.serial(jnp.negative)
    x, reference = jnp.array([[1.0, 1000.0]]), {"0": [[-1.05, -1000.0]]}
    row = compare(net, {}, {}, x, reference).rows[0]
    assert row.difference == pytest.approx(0.05)
    assert row.relative == pytest.approx(5e-5)
    assert not row.differs
    assert compare(net, {}, {}, x, reference, tolerance=4e-5).first.path == "0"


def test_channels_first(reference):
    theirs = {path: np.moveaxis(a, -1, 1) if a.ndim > 2 else a for path, a in reference.items()}
    assert compare(NET, PARAMS, {}, X, theirs, channels_first=True).first is None
    wrong = compare(NET, PARAMS, {}, X, theirs).first
    # Of three channels by three by three, no shape says which they are.
    assert (wrong.path, wrong.shape, wrong.reference_shape) == ("body.down", (2, 3, 3, 3), (2, 3, 3, 3))


def test_either_layout_and_axes_of_length_1_where_the_shape_decides(reference):
    mixed = {
        "stem.0": reference["stem.0"],
        "stem.1": np.moveaxis(reference["stem.1"], -1, 1),
        "head.0": reference["head.0"][:, :, None, None],
    }
    for channels_first in (False, True):
        result = compare(NET, PARAMS, {}, X, mixed, channels_first=channels_first)
        assert result.first is None
        assert all(row.shape == row.reference_shape for row in result.rows)
    wrong = compare(NET, PARAMS, {}, X, {"stem.0": reference["stem.0"][..., :3]}).first
    assert wrong.reference_shape == (2, 6, 6, 3)
    assert np.isnan(wrong.difference)


def test_paths_that_name_no_layer_are_listed(reference):
    result = compare(NET, PARAMS, {}, X, {"stem": reference["stem"], "noise": X, "body.drop": X})
    assert [row.path for row in result.rows] == ["stem"]
    assert result.unknown == ("noise", "body.drop")
    assert str(result).splitlines()[-1] == "not in the net: noise, body.drop"
    assert result.first is None


def test_another_shape_differs(reference):
    result = compare(NET, PARAMS, {}, X, {"stem": reference["stem"], "body": reference["body"][:, 1:]})
    assert result.first.path == "body"
    assert "(2, 3, 3, 3), reference (2, 2, 3, 3)" in str(result)
    assert str(result).endswith("body is the first of 2 outputs to differ, by its shape")


@pytest.mark.parametrize(
    ("ours", "theirs", "difference", "relative"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0, 0),
        ([1.0, np.inf], [1.0, np.inf], 0, 0),
        ([1.0, np.nan], [1.0, 2.0], np.nan, np.nan),
        ([1.0, 2.0], [1.0, np.nan], np.nan, np.nan),
        ([1.0, np.inf], [1.0, -np.inf], np.inf, np.inf),
        ([0.0, 0.0], [0.0, 0.0], 0, 0),
        ([0.0, 1e-9], [0.0, 0.0], 1e-9, np.inf),
        ([], [], 0, 0),
    ],
)
def test_numbers_that_are_not_finite_and_zeros(ours, theirs, difference, relative):
    row = compare(jc.serial(jc.Identity()), {}, {}, jnp.array([ours]), {"0": [theirs]}).rows[0]
    np.testing.assert_allclose([row.difference, row.relative], [difference, relative], rtol=1e-6)
    assert row.differs is (relative != 0)


def test_half_types_and_integers():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.int8, jnp.bool_):
        x = jnp.array([[0, 1]], dtype)
        assert compare(jc.serial(jc.Identity()), {}, {}, x, {"0": x}).first is None


@pytest.mark.torch
def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x = jnp.array([[1.0, 2.0]])
    for tensor in (torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[1.0, 2.0]]).bfloat16()):
        assert compare(jc.serial(jc.Identity()), {}, {}, x, {"0": tensor}).first is None


def test_what_is_asked_for_wrongly(reference):
    with pytest.raises(WeightsError, match=r"must name a layer of net, got 'body\.dwon': nearest are 'body\.down'"):
        compare(NET, PARAMS, {}, X, {"body.dwon": reference["body"]})
    with pytest.raises(WeightsError, match="reference_activations must have an output at least, got none"):
        compare(NET, PARAMS, {}, X, {})
    pair = jc.serial(jc.parallel(jnp.abs, jnp.negative))
    with pytest.raises(WeightsError, match="0 must have one array for its output"):
        compare(pair, {}, {}, X, {"0": X})


def test_a_layer_that_runs_in_training_only():
    class Sometimes:
        children = (("aux", jc.Identity()),)

        def init(self, key, x):
            return {}, {}

        def apply(self, params, state, x, *, train=False, key=None):
            return x, state

    with pytest.raises(jc.PathError, match="did not run"):
        compare(jc.serial(Sometimes()), {}, {}, X, {"0.aux": X})


def test_repeated_layers_are_stacked():
    net = jc.serial(jc.repeat(jc.serial(jc.Dense(2)), 3))
    params = {"0": {"0": {"kernel": numbers(3, 2, 2), "bias": numbers(3, 2)}}}
    x = jnp.ones((1, 2))
    _, found = jc.inspect.activations(net, params, {}, x)
    assert compare(net, params, {}, x, found).first is None
    assert found["0.0"].shape == (3, 1, 2)


@pytest.mark.torch
def test_torch_activations_are_of_the_first_calls_and_not_overwritten():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 2, 1)
            self.drop = torch.nn.Dropout(0.5)
            self.relu = torch.nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.relu(self.drop(self.conv(x))) - 1)

    module = Net()
    module.conv.eval()
    x = np.array(numbers(1, 1, 3, 3))
    found = torch_activations(module, x)
    assert [m.training for m in module.modules()] == [True, False, True, True]
    assert not any(m._forward_hooks for m in module.modules())
    with torch.no_grad():
        conv = module.conv(torch.from_numpy(x)).numpy()
    assert list(found) == ["conv", "drop", "relu"]
    np.testing.assert_array_equal(found["conv"], conv)
    np.testing.assert_array_equal(found["drop"], conv)
    np.testing.assert_array_equal(found["relu"], np.maximum(conv, 0))


@pytest.mark.torch
@pytest.mark.parametrize("name", "resnet18 resnet50 vgg11 densenet121 mobilenet_v2 convnext_tiny googlenet".split())
def test_right_ports_of_torchvision_pass(name):
    pytest.importorskip("torch")
    if not importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is not installed")
    known = next(known for known in KNOWN if known.name == name)
    model, net = build(known), getattr(jc.models, name)(**known.options)
    params, state = jc.weights.from_torch(net, fill(model), known.shape)
    x = images(known.shape)
    recorded = torch_activations(model, np.moveaxis(x, -1, 1))
    result = compare(net, params, state, x, recorded, channels_first=True)
    assert result.first is None, result
    assert len(result.rows) > 0.8 * len(recorded)
    last = result.rows[-1].path
    path, layer = next((p, layer) for p, layer in jc.tree.walk(net) if isinstance(layer, jc.Conv))
    wrong = compare(net, params, state, 2 * x, recorded, channels_first=True).first
    assert (wrong.path, wrong.layer) == (path, layer)
    assert last in recorded
