"""One layer that runs several times, in a custom composite, as everything that looks inside sees it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxconv as jc


@dataclass(frozen=True, repr=False)
class Pyramid(jc.Composite):
    """One head on each map of a tuple, and the scores joined."""

    children: Any

    def route(self, run, x):
        ((name, head),) = self.children
        found = [run(name, head, each) for each in x]
        return run.join(lambda *ys: jnp.concatenate([y.reshape(y.shape[0], -1, y.shape[-1]) for y in ys], 1), *found)


HEAD = jc.serial(conv=jc.Conv(4), bn=jc.BatchNorm(), relu=jax.nn.relu, score=jc.Conv(2, 1))
NET = Pyramid((("head", HEAD),))
X = (jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), jax.random.normal(jax.random.key(2), (2, 4, 4, 3)) + 3)


def by_hand(params, state, x, train=False):
    """The same, without the composite: state passes from map to map."""
    params, state, found = params["head"], state["head"], []
    for each in x:
        y, state = HEAD.apply(params, state, each, train=train)
        found.append(y.reshape(2, -1, 2))
    return jnp.concatenate(found, 1), {"head": state}


@pytest.fixture(scope="module")
def made():
    return NET.init(jax.random.key(0), X)


def test_it_is_initialized_once_as_alone(made):
    params, state = made
    alone = jc.serial(head=HEAD).init(jax.random.key(0), X[0])
    jax.tree.map(np.testing.assert_array_equal, (params, state), alone)
    assert list(params) == ["head"]


@pytest.mark.parametrize("train", [False, True])
def test_state_passes_from_run_to_run_in_order(made, train):
    got, want = NET.apply(*made, X, train=train), by_hand(*made, X, train)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    if train:
        mean = got[1]["head"]["bn"]["mean"]
        once = HEAD.apply(made[0]["head"], made[1]["head"], X[0], train=True)[1]["bn"]["mean"]
        assert not np.allclose(mean, once)


def test_gradients_add(made):
    params, state = made

    def loss(params, run):
        return jnp.sum(jnp.sin(run(params, state, X)[0]))

    got = jax.jit(jax.grad(lambda p: loss(p, NET.apply)))(params)
    want = jax.grad(lambda p: loss(p, by_hand))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_the_summary_counts_parameters_once_and_multiply_adds_each_time():
    table = jc.summary(NET, X)
    alone = [jc.summary(HEAD, x) for x in X]
    assert table.parameters == alone[0].parameters
    assert table.state_size == alone[0].state_size
    assert table.macs == sum(t.macs for t in alone)
    assert [row.path for row in table.rows][::4] == ["head.conv", "head[1].conv"]
    assert table.rows[4].parameters == 0
    assert table.rows[4].output.shape == (2, 4, 4, 4)


def test_a_shared_layer_inside_a_repeated_one_is_counted_for_each_iteration():
    net = jc.repeat(jc.shared(jc.Conv(3)), 3)
    table = jc.summary(net, ((1, 8, 8, 3), (1, 4, 4, 3)))
    params, _ = net.init(jax.random.key(0), ((1, 8, 8, 3), (1, 4, 4, 3)))
    assert table.parameters == sum(a.size for a in jax.tree.leaves(params)) == 3 * 84
    assert table.macs == 3 * (64 + 16) * 81


def test_activations_of_each_run_have_a_path(made):
    _, found = jc.inspect.activations(NET, *made, X)
    assert found["head.conv"].shape == (2, 8, 8, 4)
    assert found["head[1].conv"].shape == (2, 4, 4, 4)
    _, some = jc.inspect.activations(NET, *made, X, paths=["head[1].relu"])
    assert list(some) == ["head[1].relu"]
    np.testing.assert_array_equal(some["head[1].relu"], found["head[1].relu"])


def test_an_array_is_added_to_one_run_alone(made):
    def output(extra):
        return jc.inspect.activations(NET, *made, X, paths=[], add={"head[1].score": extra})[0]

    zero = jnp.zeros((2, 4, 4, 2))
    np.testing.assert_array_equal(output(zero), NET.apply(*made, X)[0])
    moved = np.asarray(jax.jit(output)(zero + 1) - output(zero))
    assert not moved[:, :64].any()
    np.testing.assert_allclose(moved[:, 64:], 1, rtol=1e-5)
    grad = jax.grad(lambda extra: output(extra).sum())(zero)
    np.testing.assert_array_equal(grad, np.ones_like(zero))


def test_activations_pass_through_remat(made):
    net = jc.remat(NET)
    _, want = jc.inspect.activations(NET, *made, X)
    _, found = jax.jit(lambda x: jc.inspect.activations(net, *made, x))(X)
    assert found.keys() == want.keys()
    y, _ = jc.inspect.activations(net, *made, X, add={"head[1].score": jnp.ones((2, 4, 4, 2))})
    assert not np.allclose(y, NET.apply(*made, X)[0])


def test_receptive_fields_of_a_shared_layer():
    net = jc.serial(a=jc.parallel(jc.Identity(), jc.MaxPool(2)), b=jc.shared(jc.Conv(4, 3)))
    rows = {row.path: row for row in jc.inspect.trace(net, (1, 8, 8, 3))}
    assert rows["a.1"].receptive_field[0].stride == 2
    assert rows["b"].output[1].shape == (1, 4, 4, 4)


def test_frozen_and_weights_of_torch_see_inside(made):
    params, state = made
    frozen = jc.frozen(NET, but=["head.score"])
    grads = jax.grad(lambda p: jnp.sum(frozen.apply(p, state, X, train=True)[0] ** 2))(params)
    assert not np.any(grads["head"]["conv"]["kernel"])
    assert np.any(grads["head"]["score"]["kernel"])
    tensors = jc.weights.to_torch(NET, params, state)
    assert {name.split(".")[0] for name in tensors} == {"head"}
    back = jc.weights.from_torch(NET, tensors)
    jax.tree.map(np.testing.assert_array_equal, back, (params, state))


def test_noise_differs_from_run_to_run():
    net = Pyramid((("head", jc.Dropout(0.5)),))
    x = (jnp.ones((1, 8, 8, 4)), jnp.ones((1, 8, 8, 4)))
    y, _ = net.apply({}, {}, x, train=True, key=jax.random.key(0))
    assert not np.array_equal(y[:, :64], y[:, 64:])


def test_an_error_names_the_run(made):
    with pytest.raises(jc.ShapeError, match=r"^head\[1\].conv \(Conv\): kernel"):
        NET.apply(*made, (X[0], jnp.ones((2, 4, 4, 5))))


@dataclass(frozen=True, repr=False)
class Twice(jc.Composite):
    """Runs its two children under the name of the first."""

    children: Any

    def route(self, run, x):
        (name, first), (_, second) = self.children
        return run(name, second, run(name, first, x))


@pytest.mark.parametrize("what", ["init", "apply", "summary"])
def test_two_layers_at_one_path_raise(what):
    net = Twice((("a", jc.Conv(3)), ("b", jc.Conv(3))))
    params = {name: jc.Conv(3).init(jax.random.key(0), (1, 4, 4, 3))[0] for name in "ab"}
    calls = {
        "init": lambda: net.init(jax.random.key(0), (1, 4, 4, 3)),
        "apply": lambda: net.apply(params, {}, jnp.ones((1, 4, 4, 3))),
        "summary": lambda: jc.summary(net, (1, 4, 4, 3)),
    }
    with pytest.raises(jc.ArgumentError, match="route must run one layer under the name 'a', got two: Conv and Conv"):
        calls[what]()


def test_a_composite_that_contains_itself_raises():
    net = Pyramid((("head", HEAD),))
    object.__setattr__(net, "children", (("head", jc.serial(body=net)),))
    with pytest.raises(
        jc.ArgumentError, match=r"children must not contain the layer itself, got a cycle at head\.body"
    ):
        net.init(jax.random.key(0), X)
    with pytest.raises(jc.ArgumentError, match=r"a cycle at head\.body"):
        jc.inspect.activations(net, {}, {}, X)
    with pytest.raises(jc.ArgumentError, match=r"a cycle at head\.body"):
        jc.summary(net, X)


class Forgets:
    """Returns a state without what it got."""

    def init(self, key, x):
        return {}, {"count": jnp.zeros(())}

    def apply(self, params, state, x, *, train=False, key=None):
        return x, {"other": state["count"]}


def test_a_wrong_state_raises_with_the_path():
    net = jc.serial(odd=Forgets())
    params, state = net.init(jax.random.key(0), (1, 3))
    with pytest.raises(
        jc.ParameterError,
        match=r"^odd \(Forgets\): apply must return a state .*\['count'\] of its argument, got \['other'\]",
    ):
        net.apply(params, state, jnp.ones((1, 3)))


def test_a_shared_layer_takes_any_tree(made):
    net = jc.serial(head=jc.shared(HEAD))
    params, state = net.init(jax.random.key(0), {"p3": X[0], "p4": X[1]})
    jax.tree.map(np.testing.assert_array_equal, (params, state), made)
    y, new = net.apply(params, state, {"p3": X[0], "p4": X[1]}, train=True)
    want, updated = NET.apply(*made, X, train=True)
    np.testing.assert_array_equal(jnp.concatenate([y["p3"].reshape(2, -1, 2), y["p4"].reshape(2, -1, 2)], 1), want)
    jax.tree.map(np.testing.assert_array_equal, new, updated)


def test_a_shared_leaf_is_counted_once():
    table = jc.summary(jc.serial(head=jc.shared(jc.Conv(4))), ((1, 8, 8, 3), (1, 4, 4, 3)))
    assert table.parameters == 112
    assert table.macs == (64 + 16) * 108


def scenes(key, count):
    """Images with a small or a large square, and where it is on maps of 1/2 and 1/4 of their size."""
    draws = jax.random.split(key, count)

    def scene(key):
        large, at = jax.random.bernoulli(key), jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, 12)
        size = jnp.where(large, 6, 2)
        inside = [(jnp.arange(16) >= start) & (jnp.arange(16) < start + size) for start in at]
        image = (inside[0][:, None] & inside[1]).astype(jnp.float32)[..., None]
        fine, coarse = jc.max_pool(image, 2) * (1 - large), jc.max_pool(image, 4) * large
        noise = 0.1 * jax.random.normal(jax.random.fold_in(key, 2), image.shape)
        return image + noise, jnp.concatenate([fine.ravel(), coarse.ravel()])

    return jax.vmap(scene)(draws)


def test_a_shared_head_learns_on_two_feature_maps():
    trunk = jc.serial(
        stem=jc.Conv(16, stride=2), relu=jax.nn.relu,
        fine=jc.serial(jc.Conv(16), jax.nn.relu), coarse=jc.serial(jc.Conv(16, stride=2), jax.nn.relu),
    )  # fmt: skip
    maps = jc.backbone(trunk, ["fine", "coarse"])
    head = Pyramid((("head", jc.serial(jc.Conv(16), jax.nn.relu, jc.Conv(1))),))
    net = jc.serial(maps=maps, levels=jc.Fn(lambda found: tuple(found.values())), heads=head)
    x, y = scenes(jax.random.key(0), 128)
    params, state = net.init(0, x)
    optimizer = optax.adam(1e-2)

    def loss(params):
        scores = net.apply(params, state, x)[0][..., 0]
        return optax.sigmoid_binary_cross_entropy(scores, y).mean(), scores

    @jc.jit
    def train(params):
        def step(carry, _):
            params, moments = carry
            grads, _ = jax.grad(loss, has_aux=True)(params)
            updates, moments = optimizer.update(grads, moments)
            return (optax.apply_updates(params, updates), moments), ()

        return jax.lax.scan(step, (params, optimizer.init(params)), length=60)[0][0]

    before, (after, scores) = loss(params)[0], loss(train(params))
    assert after < before / 10
    # At nine of ten output positions with a square, of both sizes.
    for level in (slice(0, 64), slice(64, None)):
        assert (scores[:, level] > 0)[y[:, level] > 0].mean() > 0.9
