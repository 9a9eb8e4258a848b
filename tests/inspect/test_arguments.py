"""Paths, and the stacked axes of activations inside a repeat."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv import inspect
from jaxconv.inspect import activations, objectives
from jaxconv.inspect.arguments import check_data, check_path, check_unstacked, stacked_axes
from jaxconv.tree import walk


def test_stacked_axes_are_those_that_activations_adds():
    body = jc.serial(dense=jc.Dense(3), twice=jc.repeat(jc.residual(jc.serial(inner=jc.Dense(3))), 2))
    net = jc.serial(
        jc.Dense(3), jc.remat(jc.repeat(body, 4)), jc.repeat(jc.Dense(3), 2), jc.inline(jc.serial(last=jc.Dense(3)))
    )
    params, state = jax.eval_shape(lambda key: net.init(key, (5, 3)), jax.random.key(0))
    found = jax.eval_shape(
        lambda p, s, x: activations(net, p, s, x)[1], params, state, jax.ShapeDtypeStruct((5, 3), "f4")
    )
    want = {path: len(struct.shape) - 2 for path, struct in found.items()}
    assert {path: stacked_axes(net, path) for path, _ in walk(net)} == want
    assert want == {"0": 0, "1": 0, "1.dense": 1, "1.twice": 1, "1.twice.inner": 2, "2": 0, "last": 0}


def test_paths_inside_a_repeat_and_unknown_ones_are_refused():
    net = jc.serial(conv=jc.Dense(3), twice=jc.repeat(jc.serial(inner=jc.Dense(3)), 2))
    check_unstacked(net, "twice")
    with pytest.raises(
        jc.PathError,
        match=r"path must name a layer outside of repeat, got 'twice\.inner': a repeat",
    ):
        check_unstacked(net, "twice.inner")
    check_unstacked(net, "")
    for wrong in ("con", "twice.iner", 3, None):
        with pytest.raises(jc.PathError, match=f"path must name a layer of net, got {wrong!r}: "):
            check_path(net, wrong)
    with pytest.raises(jc.PathError, match=r"nearest are 'twice\.inner'"):
        check_path(net, "twice.iner")


def test_the_networks_output_can_be_asked_for_and_added_to():
    net = jc.serial(jc.Dense(3), jnp.sin)
    params, state = net.init(jax.random.key(0), (1, 2))
    y, found = activations(net, params, state, jnp.ones((4, 2)), paths=["", "1"])
    assert sorted(found) == ["", "1"]
    assert (found[""] == y).all()
    moved, found = activations(net, params, state, jnp.ones((4, 2)), paths=[], add={"": jnp.ones(3)})
    assert (moved == y + 1).all()
    assert found == {}


@dataclasses.dataclass
class Thawed:
    """A layer that has no hash."""

    scale: float = 1.0

    def init(self, key, x):
        return {}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return self.scale * x, {}


X = np.full((2, 4, 4, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda net, *rest: inspect.embed(net, *rest, X, "inner"),
        lambda net, *rest: inspect.dead_units(net, *rest, X, paths=["inner"]),
        lambda net, *rest: inspect.top_patches(net, *rest, X, "inner", k=1),
        lambda net, *rest: inspect.maximize(net, *rest, X, objectives.layer("inner"), steps=1),
        lambda net, *rest: inspect.dream(net, *rest, X, "inner", steps=1),
        lambda net, *rest: inspect.invert(net, *rest, X, X, "inner", steps=1),
        lambda net, *rest: inspect.PerceptualLoss(net, ["inner"], []),
        lambda net, *rest: inspect.integrated_gradients(net, *rest, X, jnp.sum),
    ],
)
def test_a_layer_without_a_hash_is_named(call):
    net = jc.serial(jc.Identity(), inner=Thawed())
    with pytest.raises(TypeError, match=r"layer 'inner' must be hashable, such as a frozen dataclass, .* got Thawed"):
        call(net, {}, {})


NET = jc.serial(conv=jc.Conv(3, 1, bias=False))
LOSS = inspect.PerceptualLoss(NET, ["conv"], [])


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("embed", lambda p, x: inspect.embed(NET, p, {}, x, "conv")),
        ("dead_units", lambda p, x: inspect.dead_units(NET, p, {}, x, paths=["conv"])),
        ("top_patches", lambda p, x: inspect.top_patches(NET, p, {}, x, "conv", k=1)),
        ("maximize", lambda p, x: inspect.maximize(NET, p, {}, x, objectives.layer("conv"))),
        ("dream", lambda p, x: inspect.dream(NET, p, {}, x, "conv")),
        ("invert", lambda p, x: inspect.invert(NET, p, {}, X, x, "conv")),
        ("style_transfer", lambda p, x: inspect.style_transfer(LOSS, p, {}, x, x)),
        ("minimize", lambda p, x: inspect.minimize(None, x, p, None, 3, key=None, what="")),
        ("nearest", lambda p, x: inspect.nearest(x[0, 0], X[0, 0], 1)),
        ("precision_at_k", lambda p, x: inspect.precision_at_k(x.astype(int)[0, 0], np.arange(3), np.arange(4))),
    ],
)
def test_loops_of_the_host_say_so_inside_a_trace(name, call):
    params = {"conv": {"kernel": jnp.ones((1, 1, 3, 3))}}
    message = f"^{name} loops on the host, so jit, grad and vmap cannot trace it"
    with pytest.raises(TypeError, match=message):
        jax.jit(call)(params, X)
    if name not in ("nearest", "precision_at_k"):
        with pytest.raises(TypeError, match=message):
            jax.vmap(call, (0, None))(jax.tree.map(lambda a: a[None], params), X)


def test_wrong_data_is_named():
    for images in (np.ones((0, 3)), np.ones(()), jnp.ones((0, 3)), []):
        with pytest.raises(jc.ShapeError, match="images must be an array with at least one item on its first axis"):
            check_data(images, 2)
    with pytest.raises(jc.ArgumentError, match="batch_size must be at least 1, got 0"):
        check_data(np.ones((2, 3)), 0)
    assert check_data([[1, 2]], 5)[1] == 1
    assert isinstance(check_data(jnp.ones(3), 5)[0], jax.Array)
