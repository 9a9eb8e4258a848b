"""Weight norm and spectral norm: by their formulas, and against torch."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.weights import WeightsError, from_torch
from jaxconv.weights.folding import base
from tests.nets import normal

NET = jc.serial(
    conv=jc.Conv(4, 3),
    up=jc.ConvTranspose(6, 2, stride=2),
    pool=jc.GlobalAvgPool(),
    fc=jc.Dense(5),
    norm=jc.LayerNorm(),
)
SHAPES = {"conv": (4, 3, 3, 3), "up": (4, 6, 2, 2), "fc": (5, 6), "norm": (5,)}
BIASES = {f"{name}.bias": normal((n,), 9) for name, n in (("conv", 4), ("up", 6), ("fc", 5), ("norm", 5))}
V = {name: normal(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
WEIGHTS = {f"{name}.weight": v for name, v in V.items()}

FORMS = {"old": ("{}.weight_g", "{}.weight_v"), "new": (
    "{}.parametrizations.weight.original0", "{}.parametrizations.weight.original1")}  # fmt: skip
SPECTRAL = {
    "old": ("{}.weight_orig", "{}.weight_u", "{}.weight_v"),
    "new": (
        "{}.parametrizations.weight.original",
        "{}.parametrizations.weight.0._u",
        "{}.parametrizations.weight.0._v",
    ),
}


def filled(name, parts):
    """Returns the weight that a layer gets, in torch's layout, when its own is given in parts."""
    tensors = {n: w for n, w in (WEIGHTS | BIASES).items() if n != f"{name}.weight"} | parts
    return jc.weights.to_torch(NET, *from_torch(NET, tensors))[f"{name}.weight"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", [0, 1, 3, None])
@pytest.mark.parametrize("name", ["conv", "up"])
def test_weight_norm_by_its_formula(form, dim, name):
    v = V[name]
    shape = () if dim is None else tuple(n if i == dim else 1 for i, n in enumerate(v.shape))
    g = normal(shape, 7)
    wide = v.astype(np.float64)
    wanted = np.empty(v.shape)
    for at in np.ndindex(v.shape):
        along = wide if dim is None else wide.take(at[dim], dim)
        own = g if dim is None else g.reshape(-1)[at[dim]]
        wanted[at] = own * wide[at] / np.sqrt((along**2).sum())
    parts = dict(zip([part.format(name) for part in FORMS[form]], (g, v), strict=True))
    found = filled(name, parts)
    assert found.dtype == np.float32
    assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", SPECTRAL)
@pytest.mark.parametrize(("name", "dim"), [("conv", 0), ("up", 1), ("up", 0), ("fc", 0), ("fc", 1)])
def test_spectral_norm_by_its_formula(form, name, dim):
    weight = V[name]
    u, v = normal((weight.shape[dim],), 5), normal((weight.size // weight.shape[dim],), 6)
    sigma = np.float64(0)
    for i in range(weight.shape[dim]):
        sigma += float(u[i]) * float(weight.take(i, dim).reshape(-1).astype(np.float64) @ v)
    parts = dict(zip([part.format(name) for part in SPECTRAL[form]], (weight, u, v), strict=True))
    assert_allclose(filled(name, parts), weight / sigma, rtol=1e-5)


def test_transposed_kernels_that_are_square_take_torchs_default_axis():
    net = jc.serial(conv=jc.Conv(3, 2, bias=False), up=jc.ConvTranspose(3, 2, bias=False))
    weight, u, v = normal((3, 3, 2, 2), 0), normal((3,), 1), normal((12,), 2)
    tensors = {part.format(name): a for name in ("conv", "up")
               for part, a in zip(SPECTRAL["old"], (weight, u, v), strict=True)}  # fmt: skip
    found = jc.weights.to_torch(net, *from_torch(net, tensors))
    assert_allclose(found["conv.weight"], weight / (u @ weight.reshape(3, 12) @ v), rtol=1e-5)
    assert_allclose(found["up.weight"], weight / (u @ weight.swapaxes(0, 1).reshape(3, 12) @ v), rtol=1e-5)


def test_names_under_a_prefix_and_in_repeated_layers():
    net = jc.serial(blocks=jc.repeat(jc.serial(conv=jc.Conv(2, 1, bias=False)), 2))
    tensors = {}
    for i in range(2):
        tensors |= {f"module.blocks.{i}.conv.weight_g": np.full((2, 1, 1, 1), i + 1, np.float32),
                    f"module.blocks.{i}.conv.weight_v": np.ones((2, 4, 1, 1), np.float32)}  # fmt: skip
    with pytest.raises(WeightsError, match=re.escape("hint: all names begin with 'module.': give rename={\"module.\"")):
        from_torch(net, tensors)
    params, _ = from_torch(net, tensors, rename={"module.": ""})
    assert_array_equal(params["blocks"]["conv"]["kernel"][:, 0, 0, 0, 0], np.float32([0.5, 1.0]))


def test_a_weight_that_is_there_is_taken():
    parts = {"conv.weight": V["conv"], "conv.weight_g": np.ones((4, 1, 1, 1), np.float32)}
    with pytest.raises(WeightsError, match=r"no place in the net:\n  conv.weight_g"):
        filled("conv", parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"conv.weight_g": np.ones(4), "conv.weight_v": V["conv"]},
            r"norms of shape \(4, 3, 3, 3\), or 1s, got \(4,\)",
        ),
        ({"conv.weight_g": np.ones((4, 1, 1, 2)), "conv.weight_v": V["conv"]}, r"or 1s, got \(4, 1, 1, 2\)"),
        ({"conv.weight_g": np.ones((4, 1, 1, 1)), "conv.weight_v": 0 * V["conv"]}, "values that are not finite"),
        (
            {"conv.weight_orig": V["conv"], "conv.weight_u": np.ones(4), "conv.weight_v": np.ones(26)},
            r"vectors that fit \(4, 3, 3, 3\), got \(4,\) and \(26,\)",
        ),
        ({"conv.weight_g": np.ones((4, 1, 1, 1))}, "hint: conv.weight is computed from conv.weight_g and others"),
        (
            {"conv.parametrizations.weight.original": V["conv"], "conv.parametrizations.weight.0.base": np.ones(3)},
            r"hint: .* by a parametrization that has no rule: in torch call .*remove_parametrizations",
        ),
        ({"conv.parametrizations.weight.original": V["conv"]}, "a parametrization that has no rule"),
    ],
)
def test_parts_that_do_not_fit(parts, message):
    with pytest.raises(WeightsError, match=message):
        filled("conv", parts)


def test_the_name_of_the_whole():
    assert base("weight_v") == "weight"
    assert base("a.parametrizations.kernel.original1") == "a.kernel"
    assert base("a.my_weight_v") == "a.my_weight_v"


@pytest.mark.torch
def test_every_form_gives_torchs_weights():
    torch = pytest.importorskip("torch")
    utils, new = torch.nn.utils, torch.nn.utils.parametrizations
    applied = {
        "weight norm": lambda layer: new.weight_norm(layer),
        "weight norm of all": lambda layer: new.weight_norm(layer, dim=None),
        "weight norm of inputs": lambda layer: new.weight_norm(layer, dim=1),
        "spectral norm": lambda layer: new.spectral_norm(layer),
        "spectral norm of inputs": lambda layer: new.spectral_norm(layer, dim=1),
        "both": lambda layer: new.spectral_norm(new.weight_norm(layer)),
        "old spectral norm": lambda layer: utils.spectral_norm(layer),
    }
    torch.manual_seed(0)
    for name, apply in applied.items():
        module = torch.nn.Sequential(
            torch.nn.Conv2d(4, 6, 3, groups=2), torch.nn.ConvTranspose2d(6, 4, 2, groups=2), torch.nn.Linear(5, 5)
        )
        for layer in module:
            apply(layer)
        module.eval()
        for i, x in enumerate((torch.ones(1, 4, 4, 4), torch.ones(1, 6, 4, 4), torch.ones(1, 5))):
            module[i](x)
        wanted = {f"{i}.weight": layer.weight.detach().numpy() for i, layer in enumerate(module)}
        net = jc.serial(jc.Conv(6, 3, groups=2), jc.ConvTranspose(4, 2, groups=2), jc.Dense(5))
        found = jc.weights.to_torch(net, *from_torch(net, module.state_dict()))
        for weight, array in wanted.items():
            assert_allclose(found[weight], array, rtol=1e-5, atol=1e-6, err_msg=f"{name} {weight}")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_old_weight_norm_gives_torchs_weights():
    torch = pytest.importorskip("torch")
    net = jc.serial(jc.Conv(6, 3), jc.ConvTranspose(4, 2))
    for dim in (0, 1, None):
        module = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3), torch.nn.ConvTranspose2d(6, 4, 2))
        for layer in module:
            torch.nn.utils.weight_norm(layer, dim=dim)
            layer.weight_g.data.mul_(1.5)
        found = jc.weights.to_torch(net, *from_torch(net, module.state_dict()))
        for layer in module:
            torch.nn.utils.remove_weight_norm(layer)
        for weight, tensor in module.state_dict().items():
            assert_allclose(found[weight], tensor.numpy(), rtol=1e-5, atol=1e-6, err_msg=f"{dim} {weight}")
