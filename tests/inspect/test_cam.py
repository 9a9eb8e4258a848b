"""Class activation maps, on networks that look at one position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import activations, grad_cam, grad_cam_plus_plus
from tests.nets import ready

WAYS = {"grad_cam": grad_cam, "grad_cam_plus_plus": grad_cam_plus_plus}
SHAPE = (2, 8, 6, 3)


def small():
    return jc.serial(
        conv=jc.Conv(4, 1),
        relu=jax.nn.relu,
        pool=jc.MaxPool(2),
        twice=jc.repeat(jc.serial(dense=jc.Dense(4), relu=jax.nn.relu), 2),
        mean=jc.GlobalAvgPool(),
        scores=jc.Dense(3),
    )


@pytest.fixture(scope="module")
def made():
    net = small()
    return net, *ready(net, SHAPE)


@pytest.mark.parametrize("way", WAYS)
def test_a_net_that_looks_at_one_corner_lights_that_corner(way):
    corners = np.zeros((8, 8, 2), np.float32)
    corners[:2, 6:, 0] = corners[6:, :2, 1] = 1
    net = jc.serial(
        look=lambda x: x * corners, relu=jax.nn.relu, mean=jc.GlobalAvgPool(), scores=jc.Dense(2, bias=False)
    )
    params = {"scores": {"kernel": jnp.eye(2)}}
    x = np.random.default_rng(0).uniform(0.5, 1, (2, 8, 8, 1)).astype(np.float32)
    heat = jax.jit(lambda x: WAYS[way](net, params, {}, x, [0, 1], path="relu"))(x)
    for i in range(2):
        lit = corners[..., i] > 0
        assert heat[i][lit].min() > 0
        assert_array_equal(heat[i][~lit], 0)


def spotted():
    """A net of two channels: the first weighs for class 0 and against class 1, the second the other way round."""
    net = jc.serial(
        conv=jc.Conv(2, 1, bias=False), relu=jax.nn.relu, mean=jc.GlobalAvgPool(), scores=jc.Dense(2, bias=False)
    )
    params = {
        "conv": {"kernel": jnp.eye(2).reshape(1, 1, 2, 2)},
        "scores": {"kernel": jnp.array([[1.0, -1.0], [-1.0, 1.0]])},
    }
    return net, params


@pytest.mark.parametrize("way", WAYS)
def test_the_map_is_where_the_class_is_seen(way):
    net, params = spotted()
    x = np.zeros((1, 8, 8, 2), np.float32)
    x[0, :2, 6:, 0], x[0, 5, 1, 1] = 1, 2
    run = jax.jit(lambda x, target: WAYS[way](net, params, {}, x, target, path="relu"))
    for target, position in ((0, (slice(2), slice(6, 8))), (1, (slice(5, 6), slice(1, 2)))):
        heat = np.array(run(x, target)[0])
        assert heat[position].min() > 0
        heat[position] = 0
        assert_array_equal(heat, 0)


def test_grad_cam_by_hand(made):
    net, params, state, x = made
    _, found = activations(net, params, state, x, paths=["relu"])
    maps = np.asarray(found["relu"])

    @jax.jit
    @jax.grad
    def slope(maps):
        y = jc.serial(*(layer for _, layer in net.children[2:])).apply(
            {"1": params["twice"], "3": params["scores"]}, {}, maps
        )[0]
        return y[jnp.arange(2), jnp.array([2, 1])].sum()

    slopes = np.asarray(slope(maps))
    want = np.maximum((slopes.mean((1, 2), keepdims=True) * maps).sum(-1), 0)
    run = jax.jit(lambda x: grad_cam(net, params, state, x, jnp.array([2, 1]), path="relu"))
    assert_allclose(run(x), want, rtol=1e-4, atol=1e-6)
    assert want.max() > 0

    # What pytorch_grad_cam computes, in its words, without the eps of 1e-6 in the denominator and with it.
    run = jax.jit(lambda x, scale: grad_cam_plus_plus(net, params, state, x, lambda y: scale * pick(y), path="relu"))
    for scale, eps, rtol in ((1.0, 0, 1e-3), (1e3, 1e-6, 1e-3), (1e-20, 0, 1e-3)):
        grads = slopes.astype(np.float64) * scale
        with np.errstate(invalid="ignore", divide="ignore"):
            aij = grads**2 / (2 * grads**2 + maps.sum((1, 2), keepdims=True) * grads**3 + eps)
        aij = np.where(grads != 0, aij, 0)
        weights = (np.maximum(grads, 0) * aij).sum((1, 2), keepdims=True)
        want = np.maximum((weights * maps).sum(-1), 0)
        assert want.max() > 0
        assert_allclose(run(x, scale), want, rtol=rtol, atol=1e-5 * want.max())


def pick(y):
    return y[jnp.arange(2), jnp.array([2, 1])]


@pytest.mark.parametrize("way", WAYS)
def test_resized_to_the_image(way, made):
    net, params, state, x = made
    call = functools.partial(WAYS[way], net, params, state, path="pool")
    at_layer, at_image = jax.jit(lambda x: (call(x, 0), call(x, 0, resize=True)))(x)
    assert at_layer.shape == (2, 4, 3)
    assert_allclose(at_image, jc.resize(at_layer[..., None], (8, 6))[..., 0], rtol=1e-6)


def test_inside_a_repeat_iterations_come_first(made):
    net, params, state, x = made
    heat, last, large = jax.jit(
        lambda x: (
            grad_cam(net, params, state, x, 1, path="twice.relu"),
            grad_cam(net, params, state, x, 1, path="twice"),
            grad_cam(net, params, state, x, 1, path="twice.relu", resize=True),
        )
    )(x)
    assert heat.shape == (2, 2, 4, 3)
    assert_allclose(heat[1], last, rtol=1e-4, atol=1e-6)
    assert large.shape == (2, 2, 8, 6)


def test_vmap_is_the_batch_and_remat_changes_nothing(made):
    net, params, state, x = made
    call = functools.partial(grad_cam_plus_plus, path="relu")
    want = jax.jit(lambda x: call(net, params, state, x))(x)
    mapped = jax.vmap(lambda one: call(net, params, state, one[None])[0])
    got, again = jax.jit(lambda x: (mapped(x), call(jc.remat(net), params, state, x)))(x)
    assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert_allclose(again, want, rtol=1e-4, atol=1e-6)


def test_other_ranks_and_half_types():
    net = jc.serial(jc.Dense(4), jax.nn.relu, jc.GlobalAvgPool(rank=1), jc.Dense(2))
    params, state, x = ready(net, (2, 10, 3))
    run = jax.jit(lambda params, x: grad_cam(net, params, state, x, 1, path="1", resize=True))
    heat = run(params, x)
    assert heat.shape == (2, 10)
    halved = run(*jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x)))
    assert halved.dtype == jnp.float32
    assert_allclose(halved, heat, atol=0.05 * float(heat.max()) + 1e-4)


@pytest.mark.parametrize(
    ("error", "path", "message"),
    [
        (
            jc.ShapeError,
            "scores",
            r"path 'scores' must name a layer with feature maps of 2 spatial axes, such as 'twice', got .* \(2, 3\)",
        ),
        (
            jc.ShapeError,
            "mean",
            r"path 'mean' must name a layer with feature maps .* such as 'twice', got an output of shape \(2, 4\)",
        ),
        (jc.PathError, "con", r"path must name a layer of net, got 'con': nearest are 'conv'"),
        (jc.PathError, "twice.dens", r"path must name a layer of net, got 'twice.dens': nearest are 'twice.dense'"),
    ],
)
def test_layers_without_maps_say_so(error, path, message, made):
    with pytest.raises(error, match=message):
        grad_cam(*made, path=path)


def test_arrays_of_other_ranks_are_no_maps():
    net = jc.serial(mean=jc.GlobalAvgPool(rank=1), body=jc.repeat(jc.serial(fc=jc.Dense(8)), 3), scores=jc.Dense(2))
    params, state, x = ready(net, (2, 6, 8))
    with pytest.raises(jc.ShapeError, match=r"maps of 1 spatial axes, .* got an output of shape \(3, 2, 8\)"):
        grad_cam(net, params, state, x, path="body.fc")
    net = jc.serial(conv=jc.Conv(4, 1), split=lambda x: x.reshape(*x.shape[:3], 2, 2), mean=lambda x: x.mean((1, 2, 3)))
    params, state, x = ready(net, SHAPE)
    with pytest.raises(
        jc.ShapeError, match=r"maps of 2 spatial axes, such as 'conv', got an output of shape \(2, 8, 6, 2, 2\)"
    ):
        grad_cam(net, params, state, x, path="split")


def test_the_networks_output_has_maps_where_it_ends_with_some():
    net = jc.serial(conv=jc.Conv(4, 1), relu=jax.nn.relu)
    params, state, x = ready(net, SHAPE)
    score = lambda y: y[..., 1].mean((1, 2))  # noqa: E731
    run = jax.jit(lambda x: [grad_cam(net, params, state, x, score, path=path) for path in ("relu", "")])
    want, got = run(x)
    assert_allclose(got, want)


def test_a_network_without_maps_says_so():
    net = jc.serial(flatten=jc.Flatten(), scores=jc.Dense(3))
    params, state, _ = ready(net, SHAPE)
    with pytest.raises(jc.ShapeError, match="maps of 2 spatial axes, which this network lacks, got"):
        grad_cam(net, params, state, jnp.ones(SHAPE), path="flatten")
