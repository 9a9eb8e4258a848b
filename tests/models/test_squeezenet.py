"""SqueezeNet's arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.inspect.trace import trace
from tests.models.shapes import by_shapes, filled

STEM = jc.Conv(8, 3, stride=2, padding="VALID")


def test_small_images_keep_their_size_up_to_the_second_pool():
    rows = {row.path: row for row in trace(jc.models.squeezenet1_1(10, small_images=True), (1, 32, 32, 1))}
    assert rows["features.0"].output.shape == (1, 32, 32, 64)
    assert rows["features.2"].output.shape == (1, 32, 32, 64)
    assert rows["features.5"].output.shape == (1, 16, 16, 128)
    assert rows["classifier"].output.shape == (1, 10)


def test_the_second_version_has_2_4_times_fewer_multiply_adds():
    first, second = (
        jc.summary(net, (1, 224, 224, 3)).macs for net in (jc.models.squeezenet1_0(), jc.models.squeezenet1_1())
    )
    assert first / second == pytest.approx(2.4, abs=0.1)


def test_a_fire_module_joins_its_two_expansions():
    module = dict(jc.models.squeezenet(STEM, (), 3, width=0.5).children)["features"]
    fire = dict(module.children)["2"]
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 8)).astype(np.float32)
    params, state = filled(fire, x.shape)
    assert set(params) == {"squeeze", "expand1x1", "expand3x3"}
    y, _ = fire.apply(params, state, x)
    squeezed = jax.nn.relu(jc.conv(x, **params["squeeze"]))
    halves = [jax.nn.relu(jc.conv(squeezed, **params[name])) for name in ("expand1x1", "expand3x3")]
    np.testing.assert_allclose(y, jnp.concatenate(halves, -1), rtol=1e-4, atol=1e-4)


def test_dropout_draws_in_training_only():
    y, train = by_shapes(jc.models.squeezenet(STEM, (0,), 3, width=0.5), (1, 16, 16, 3))
    assert y.shape == (1, 3)
    with pytest.raises(jc.MissingKeyError, match=r"classifier\.0 \(Dropout\)"):
        train()


def test_a_width_that_is_not_positive_is_refused():
    with pytest.raises(jc.ArgumentError, match=r"^width must be positive, got 0$"):
        jc.models.squeezenet1_1(width=0)
