"""All networks against live torchvision: outputs of all, one training step of the smallest of each family."""

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest

import jaxconv as jc
from tests.models.test_torchvision import SMALLEST, ours
from tests.models.zoo import KNOWN, images
from tests.record_torchvision import build, fill, run

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _torchvision():
    pytest.importorskip("torch")
    if not importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is not installed")


@pytest.mark.parametrize("known", KNOWN, ids=str)
def test_outputs_are_torchvisions(known):
    model = build(known)
    net = ours(known)
    params, state = jc.weights.from_torch(net, fill(model), known.shape)
    x = images(known.shape)
    y, _ = jax.jit(net.apply)(params, state, x)
    wanted = run(model, x)
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_images_are_normalized_again_as_torchvision_does(name):
    [known] = [known for known in KNOWN if known.name == name]
    option = {"transform_input": True}
    known = dataclasses.replace(known, options=option, their_options={**known.their_options, **option})
    model = build(known)
    net = ours(known)
    params, state = jc.weights.from_torch(net, fill(model), known.shape)
    x = images(known.shape)
    y, _ = jax.jit(net.apply)(params, state, x)
    wanted = run(model, x)
    assert np.abs(y - wanted).max() <= 1e-4 * np.abs(wanted).max()


def _without_noise(net):
    quiet = (jc.Dropout, jc.DropPath)
    return jc.map_layers(net, lambda layer: jc.Identity() if isinstance(layer, quiet) else layer)


def _score(y):
    """Sums squares over all outputs, the auxiliary ones included."""
    if isinstance(y, dict):
        y = tuple(y.values())
    return sum(map(_score, y)) if isinstance(y, tuple) else (y**2).sum()


@pytest.mark.parametrize("known", SMALLEST, ids=str)
def test_a_training_step_has_torchvisions_gradients_and_statistics(known):
    """In float64, so that no ReLU falls on the other side of its kink."""
    import torch

    model = build(known)
    drawn = fill(model.double(), np.float64)
    model.train()
    for module in model.modules():
        for attribute in ("p", "dropout"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    x = images(known.shape).astype(np.float64)

    theirs = model(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    _score(theirs).backward()
    net = _without_noise(ours(known))
    with jax.enable_x64(True):
        params, state = jc.weights.from_torch(net, drawn)

        @jax.jit
        def gradient(params):
            def loss(params):
                y, new = net.apply(params, state, x, train=True, key=jax.random.key(0))
                return _score(y), new

            return jax.grad(loss, has_aux=True)(params)

        grads, new_state = gradient(params)
        found = jc.weights.to_torch(net, grads, new_state)
    wanted = {name: p.grad for name, p in model.named_parameters()}
    wanted |= {name: b for name, b in model.named_buffers() if not name.endswith("num_batches_tracked")}
    assert set(found) == set(wanted)
    largest = max(g.abs().max().item() for g in wanted.values())
    for name, tensor in wanted.items():
        error = np.abs(found[name] - tensor.numpy()).max()
        assert error <= 1e-6 * np.abs(tensor.numpy()).max() + 1e-10 * largest, f"{name}: {error:.2e}"
