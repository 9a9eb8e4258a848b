"""The page of all layers, on a small network of the same names; and one image of a class, on the real one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments import pretrained, visualize
from jaxconv.inspect import objectives
from jaxconv.inspect.maximization import maximize
from tests.experiments.photographs import need_lite0


def block(stride):
    return jc.serial(_depthwise_conv=jc.Conv(4, groups=4, stride=stride), _bn1=jc.BatchNorm())


@pytest.fixture
def small(monkeypatch, tmp_path):
    net = jc.serial(
        _conv_stem=jc.Conv(4, stride=2),
        _bn0=jc.BatchNorm(),
        _blocks=jc.serial(block(1), jc.residual(block(1))),
        _bn1=jc.BatchNorm(),
        _avg_pooling=jc.GlobalAvgPool(),
        _fc=jc.Dense(1000),
    )
    model = pretrained.Pretrained(net, *net.init(jax.random.key(0), (1, 16, 16, 3)), pretrained.scaled_around_127)
    monkeypatch.setattr(pretrained, "efficientnet_lite0", lambda path=None: model)
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    monkeypatch.setattr(visualize, "PHOTOGRAPHS", [str(path)])
    monkeypatch.setattr(visualize, "PIECE", 16)
    monkeypatch.setattr(visualize, "SMALL", 20)
    monkeypatch.setattr(visualize, "LARGE", 24)


def test_every_layer_is_on_the_page(small, tmp_path):
    out = tmp_path / "out"
    arguments = ["--channels", "2", "--patches", "3", "--steps", "2", "--explain", "--quiet", "--out", str(out)]
    images = visualize.main(arguments)
    paths = ["_bn0", "_blocks.0", "_blocks.1", "_bn1", "_fc"]
    assert sorted(images) == sorted(paths)
    # What sees little gets small images.
    assert {path: image.shape for path, image in images.items()} == {
        path: (2, *(2 * (24 if path == "_fc" else 20,)), 3) for path in paths
    }
    figures = {path.stem for path in out.glob("*.png")}
    assert figures == {f"{path}_channels" for path in paths} | {f"{path}_filters" for path in paths[:3]}
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(figures)


def test_pieces_lie_side_by_side(small):
    squares = visualize.pieces(visualize.PHOTOGRAPHS, 16)
    # 40 x 60 becomes 32 x 48.
    image = visualize.sized(visualize.photograph(visualize.PHOTOGRAPHS[0]), 32)[0]
    assert squares.shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(squares[1], image[:16, 16:32])
    np.testing.assert_array_equal(squares[5], image[16:, 32:])


def test_wrong_layers_are_named(small, tmp_path):
    with pytest.raises(jc.PathError, match=r"path must name a layer of net, got '_blocks.7': nearest are '_blocks"):
        visualize.main(["--layers", "_blocks.7", "--quiet", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_network_takes_the_image_of_a_class_for_that_class():
    need_lite0()
    model = pretrained.efficientnet_lite0()
    classes = jnp.array(visualize.CLASSES)
    images, _ = maximize(
        *model[:3],
        (len(classes), 112, 112, 3),
        objectives.logit(visualize.CLASSES),
        steps=64,
        preprocess=model.preprocess,
    )
    logits, _ = jax.jit(model.net.apply)(model.params, model.state, model.preprocess(images))
    assert (jax.nn.softmax(logits)[jnp.arange(len(classes)), classes] > 0.9).all()
