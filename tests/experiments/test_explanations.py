"""The figures of explanations and the explorer's command, on a small network of the same names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from experiments import explanations, explore, pretrained
from experiments.images import central_crop, read_image
from tests.experiments.photographs import need_lite0, photograph


def block():
    return jc.residual(jc.serial(_depthwise_conv=jc.Conv(4, groups=4), _bn1=jc.BatchNorm(), _relu1=jax.nn.relu6))


@pytest.fixture(scope="module")
def model():
    photograph("chelsea.png")
    net = jc.serial(
        _conv_stem=jc.Conv(4, stride=2),
        _bn0=jc.BatchNorm(),
        _blocks=jc.serial(block(), block()),
        _avg_pooling=jc.GlobalAvgPool(),
        _fc=jc.Dense(1000),
    )
    return pretrained.Pretrained(net, *net.init(jax.random.key(0), (1, 16, 16, 3)), pretrained.scaled_around_127)


@pytest.mark.parametrize(
    "name", [n if n == "attributions" else pytest.param(n, marks=pytest.mark.slow) for n in explanations.FIGURES]
)
def test_figures_are_drawn(name, model, monkeypatch):
    monkeypatch.setattr(explanations, "LAYERS", ("_blocks.0", "_blocks.1"))
    monkeypatch.setattr(explanations, "ATLAS", "_blocks.1")
    squares = np.random.default_rng(0).uniform(size=(18, 16, 16, 3)).astype(np.float32)
    ((file, caption, figure),) = explanations.parts(explanations.Subject(model, squares, quick=0.1), [name])
    assert file == name
    assert caption
    count = {"attributions": 10, "caricatures": 3}.get(name, 1)
    assert len([ax for ax in figure.axes if ax.has_data()]) == count


def test_stripes_are_stripes():
    stripes = explanations.gratings(2, 32)
    assert stripes.shape == (2, 32, 32, 3)
    assert 0 <= stripes.min() < stripes.max() <= 1


def test_the_explorer_of_the_network(model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pretrained, "efficientnet_lite0", lambda path=None: model)
    monkeypatch.setattr(explore, "PHOTOGRAPHS", ["chelsea.png"])
    options = ["--units", "2", "--steps", "1", "--size", "16", "--piece", "16", "--layers", "_blocks.0", "_fc"]
    page = explore.main([*options, "--quiet", "--out", str(tmp_path / "out")])
    assert page.exists()
    assert "tench" in (page.parent / "data.js").read_text()
    assert f"open {page} (" in capsys.readouterr().out


@pytest.mark.slow
def test_contributions_on_the_real_network_sum_to_the_difference_of_its_scores():
    need_lite0()
    net, params, state, preprocess = pretrained.efficientnet_lite0()
    x = preprocess(central_crop(read_image(photograph("chelsea.png")), 96)[None])
    run = jax.jit(lambda x: net.apply(params, state, x)[0][:, 285])
    difference = run(x) - run(jnp.zeros_like(x))
    found = jax.jit(lambda x: jc.inspect.deep_lift(net, params, state, x, 285))(x)
    assert_allclose(found.sum(), difference[0], rtol=1e-3)
