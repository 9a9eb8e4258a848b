"""DenseNet's arguments, and the paper's network for CIFAR."""

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.inspect.trace import trace
from tests.models.shapes import by_shapes, filled

SHAPE = (2, 8, 8, 3)


def small(**options):
    return jc.models.densenet(4, (2,), 5, width=6, small_images=True, **options)


@pytest.fixture(scope="module")
def drawn():
    return filled(small(), SHAPE)


def test_a_block_puts_each_layers_maps_beside_those_it_got(drawn):
    params, state = drawn
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    paths = [f"features.{p}" for p in ("conv0", "denseblock1.denselayer1", "denseblock1.denselayer2")]
    _, maps = jax.jit(lambda x: jc.inspect.activations(small(), params, state, x, paths=paths))(x)
    first, second, third = (maps[path] for path in paths)
    assert [m.shape[-1] for m in (first, second, third)] == [6, 10, 14]
    np.testing.assert_array_equal(second[..., :6], first)
    np.testing.assert_array_equal(third[..., :10], second)


def test_transitions_halve_channels_and_sizes():
    rows = {row.path: row for row in trace(jc.models.densenet(32, (6, 12, 1)), (1, 224, 224, 3))}
    shapes = [rows[f"features.{name}"].output.shape[1:] for name in ("pool0", "transition1", "transition2", "norm5")]
    assert shapes == [(56, 56, 64), (28, 28, 128), (14, 14, 256), (14, 14, 288)]


def test_growth_width_and_bn_size_are_arguments():
    net = jc.models.densenet(4, (1,), width=6, bn_size=3)
    params, _ = jax.eval_shape(lambda key: net.init(key, (1, 32, 32, 2)), jax.random.key(0))
    layer = params["features"]["denseblock1"]["denselayer1"]
    assert layer["conv1"]["kernel"].shape == (1, 1, 6, 12)
    assert layer["conv2"]["kernel"].shape == (3, 3, 12, 4)
    assert params["features"]["conv0"]["kernel"].shape == (7, 7, 2, 6)


@pytest.mark.slow
def test_memory_efficient_gives_the_same_gradients(drawn):
    params, state = drawn
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)

    def gradient(net):
        return jax.jit(jax.grad(lambda p: (net.apply(p, state, x, train=True)[0] ** 2).sum()))

    plain, saved = gradient(small()), gradient(small(memory_efficient=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain(params), saved(params))
    assert "remat" in str(jax.make_jaxpr(saved)(params))
    assert "remat" not in str(jax.make_jaxpr(plain)(params))


def test_dropout_draws_in_training_only():
    y, train = by_shapes(small(dropout=0.5), SHAPE)
    assert y.shape == (2, 5)
    with pytest.raises(jc.MissingKeyError, match=r"features\.denseblock1\.denselayer1\.dropout \(Dropout\)"):
        train()
