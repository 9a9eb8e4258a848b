"""Networks of action values: the papers' sizes, and the dueling sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc

# By hand: 3 convolutions, then one hidden layer of 512, or two of them.
CONVS = (8 * 8 * 4 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64
HIDDEN = (7 * 7 * 64 + 1) * 512


@pytest.mark.parametrize("actions", [4, 6, 18])
def test_the_nature_network_has_the_papers_parameters(actions):
    def count(**options):
        return jc.summary(jc.models.nature_dqn(actions, **options), (1, 84, 84, 4)).parameters

    assert count() == CONVS + HIDDEN + 513 * actions
    assert count(dueling=True) == CONVS + 2 * HIDDEN + 513 * (actions + 1)
    assert count(layer_norm=True) == count() + 2 * (32 + 64 + 64 + 512)
    assert count(transform_input=True) == count()


def test_the_minatar_network_is_a_quarter_as_wide():
    def count(channels, **options):
        return jc.summary(jc.models.minatar_dqn(3, **options), (1, 10, 10, channels)).parameters

    assert count(4) == (9 * 4 + 1) * 16 + (8 * 8 * 16 + 1) * 128 + 129 * 3 == 132_179
    assert count(6) - count(4) == 9 * 2 * 16
    assert count(4, dueling=True) == (9 * 4 + 1) * 16 + 2 * (8 * 8 * 16 + 1) * 128 + 129 * (3 + 1)


def test_dueling_streams_add_up_to_the_values():
    net = jc.models.minatar_dqn(3, dueling=True)
    x = jax.random.normal(jax.random.key(0), (4, 10, 10, 4))
    params, state = net.init(jax.random.key(1), x)
    y, _ = net.apply(params, state, x)
    value, advantage = jc.inspect.activations(net, params, state, x, paths=["streams"])[1]["streams"]
    assert (value.shape, advantage.shape, y.shape) == ((4, 1), (4, 3), (4, 3))
    np.testing.assert_allclose(y, value + advantage - np.asarray(advantage).mean(1, keepdims=True), rtol=1e-6)
    # The mean of the values is the value of the state.
    np.testing.assert_allclose(y.mean(1), value[:, 0], rtol=1e-5)


def test_frames_of_bytes_are_scaled():
    frames = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 4), np.uint8)
    nets = [jc.models.nature_dqn(2, transform_input=transformed) for transformed in (True, False)]
    params, state = nets[0].init(jax.random.key(0), (1, 84, 84, 4))
    a, b = (
        net.apply(params, state, x)[0]
        for net, x in zip(nets, (jnp.asarray(frames), jnp.asarray(frames, jnp.float32) / 255), strict=True)
    )
    np.testing.assert_array_equal(a, b)


def test_numbers_of_actions_below_one_are_refused():
    for network in (jc.models.nature_dqn, jc.models.minatar_dqn):
        with pytest.raises(ValueError, match="actions must be"):
            network(0)
