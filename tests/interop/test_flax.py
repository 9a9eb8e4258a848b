"""Flax's own loops and transforms over our networks, our composites over Flax's modules, and round trips."""

import functools
import importlib.util
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.core import freeze
from flax.errors import ModifyScopeVariableError, TraceContextError
from flax.training.train_state import TrainState
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.interop.flax import from_linen, from_nnx, to_linen, to_nnx
from tests.nets import Shift, normal, ready

KEY = jax.random.key(3)
SHAPE = (4, 6, 6, 2)
X = normal(SHAPE)
LABELS = np.arange(4) % 3


def from_key(key, shape, dtype=jnp.float32):
    """Initial weights that differ for different keys and take no time to compile."""
    number = jax.random.key_data(key)[-1] % 1000
    return (number + jnp.arange(math.prod(shape)).reshape(shape) % 7).astype(dtype) / 1000


FC = jc.Dense(3, kernel_init=from_key)
PLAIN = jc.serial(pool=jc.GlobalAvgPool(), fc=FC)
BLOCK = jc.residual(jc.serial(conv1=jc.Conv(4, 1), bn1=jc.BatchNorm(), drop=jc.Dropout(0.3)), after=jax.nn.relu)
NET = jc.serial(
    jc.Conv(4, kernel_init=from_key), layer1=jc.serial(BLOCK), pool=jc.GlobalAvgPool(), drop=jc.Dropout(0.5), fc=FC
)
SMALL = jc.serial(layer1=jc.serial(norm=jc.BatchNorm(), drop=jc.Dropout(0.5)), fc=FC)
NETS = {
    "leaf": jc.Conv(3),
    "plain": PLAIN,
    "residual": NET,
    "repeat": jc.serial(jc.Conv(4), jc.repeat(BLOCK, 3), jc.inline(jc.serial(last=jc.BatchNorm()))),
    "mixed": jc.mixed_precision(jc.serial(jc.remat(BLOCK), train=jc.BatchNorm(), eval=jc.Conv(2))),
    "nothing": jc.serial(jax.nn.relu),
}
nets = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def shape_for(net):
    return (2, 5, 5, 4) if net is NETS["mixed"] else SHAPE


def assert_same(got, want):
    """Same structure and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(assert_array_equal, got, want)


def assert_near(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(net, params, state, x, *, train=False, key=None):
    return net.apply(params, state, x, train=train, key=key)


@nnx.jit
def run(module, x, rngs=None):
    return module(x, rngs=rngs)


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


TX = optax.sgd(0.1, momentum=0.9)


@jax.jit
def our_step(params, state, opt_state, key):
    def objective(params):
        logits, new = NET.apply(params, state, X, train=True, key=key)
        return loss_of(logits), new

    (loss, new), grads = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = TX.update(grads, opt_state, params)
    return loss, optax.apply_updates(params, updates), new, opt_state


def our_steps(params, state, keys):
    """Yields the loss, params and state after each step of a loop in plain jax."""
    opt_state = TX.init(params)
    for key in keys:
        loss, params, state, opt_state = our_step(params, state, opt_state, key)
        yield loss, params, state


class Key(linen.Module):
    """Gives the random key that a linen module of the same scope would draw."""

    @linen.compact
    def __call__(self, stream="dropout"):
        return self.make_rng(stream)


def drawn(key):
    return Key().apply({}, rngs={"dropout": key})


def test_a_missing_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "flax" else find(name))
    spec = importlib.util.spec_from_file_location("jaxconv.interop.flax", jc.interop.flax.__file__)
    with pytest.raises(ImportError, match=r"jaxconv\.interop\.flax needs the package flax: pip install '\.\[flax\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# --- to_linen ---------------------------------------------------------------------------------------------------------


@nets
def test_the_collections_of_linen_are_our_trees(net):
    shape = shape_for(net)
    params, state = jax.eval_shape(lambda key: net.init(key, shape), KEY)
    variables = jax.eval_shape(to_linen(net).init, KEY, jnp.zeros(shape))
    wanted = {"params": params, "batch_stats": state}
    assert variables == {name: tree for name, tree in wanted.items() if tree}


def test_init_draws_from_the_key_that_flax_derives_and_leaves_the_statistics():
    net = jc.serial(PLAIN, jc.BatchNorm())
    params, state = net.init(Key().init_with_output(KEY, "params")[0], SHAPE)
    for train in (False, True):
        y, variables = to_linen(net).init_with_output(KEY, X, train=train)
        assert_same(variables, {"params": params, "batch_stats": state})
        assert y.shape == (4, 3)


@pytest.fixture(scope="module")
def given():
    return ready(SMALL, (4, 2))


def test_apply_is_ours(given):
    params, state, x = given
    module, variables = to_linen(SMALL), {"params": params, "batch_stats": state}
    want = apply(SMALL, params, state, x)[0]
    for tree in (variables, freeze(variables)):
        assert_same(jax.jit(module.apply)(tree, x), want)
    want, new = apply(SMALL, params, state, x, train=True, key=drawn(KEY))
    for stream in ("dropout", "params"):
        y, updates = jax.jit(
            lambda v, x, key, stream=stream: module.apply(v, x, True, rngs={stream: key}, mutable=["batch_stats"])
        )(variables, x, KEY)
        assert_near((y, dict(updates)), (want, {"batch_stats": new}))


def test_linen_says_what_is_missing(given):
    params, state, x = given
    module, variables = to_linen(SMALL), {"params": params, "batch_stats": state}
    with pytest.raises(ModifyScopeVariableError, match="batch_stats"):
        module.apply(variables, x, train=True, rngs={"dropout": KEY})
    with pytest.raises(jc.MissingKeyError, match=r'^layer1.drop \(Dropout\): rngs must have a key "dropout"'):
        module.apply(variables, x, train=True, mutable=["batch_stats"])
    with pytest.raises(jc.ParameterError, match=r"^layer1.norm \(BatchNorm\): state must have an entry 'mean'"):
        module.apply({"params": params}, x)
    with pytest.raises(TypeError, match="must be an instance, got the class Conv"):
        to_linen(jc.Conv)


def test_a_linen_module_is_compared_and_hashed_by_its_network():
    assert to_linen(jc.Conv(3)) == to_linen(jc.Conv(3)) != to_linen(jc.Conv(4))
    assert hash(to_linen(NET)) == hash(to_linen(NET))
    assert "Conv(features=3)" in repr(to_linen(jc.Conv(3)))


def test_tabulate_counts_all_parameters():
    table = to_linen(NET).tabulate(KEY, X, console_kwargs={"width": 200, "force_jupyter": False})
    count = jc.summary(NET, SHAPE).parameters
    assert "LinenNet" in table
    assert f"Total Parameters: {count + 8}" in table  # flax counts the two statistics of 4 channels too


OUTSIDE = linen.Dense(4, kernel_init=from_key)
STEM = jc.serial(jc.Dense(3, kernel_init=from_key), jc.BatchNorm())


class Compact(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = to_linen(STEM, name="stem")(x, train)
        return to_linen(FC)(to_linen(from_linen(OUTSIDE))(x.mean((1, 2))))


class Setup(linen.Module):
    part: linen.Module

    def setup(self):
        self.shared = to_linen(jc.Dense(2, kernel_init=from_key))

    def __call__(self, x, train=False):
        return self.shared(self.shared(self.part(x, train)))


def test_inside_other_linen_modules():
    variables = Compact().init(KEY, X)
    assert variables["params"]["stem"]["0"]["kernel"].shape == (2, 3)
    assert sorted(variables["params"]) == ["Dense_0", "LinenNet_0", "stem"]
    y, updates = jax.jit(lambda v: Compact().apply(v, X, train=True, mutable=["batch_stats"]))(variables)
    assert y.shape == (4, 3)
    before, after = (tree["batch_stats"]["stem"]["1"]["mean"] for tree in (variables, updates))
    assert not np.array_equal(before, after)

    whole = Setup(to_linen(jc.serial(jc.Dense(2, kernel_init=from_key), jc.Dropout(0.5))))
    variables = whole.init(KEY, X)
    assert sorted(variables["params"]) == ["part", "shared"]
    params = variables["params"]
    want = X
    for weights in (params["part"]["0"], params["shared"], params["shared"]):
        want = jc.dense(want, **weights)
    assert_near(whole.apply(variables, X), want)
    different = [whole.apply(variables, X, True, rngs={"dropout": jax.random.key(i)}) for i in (0, 1)]
    assert not np.array_equal(*different)


class Lifted(linen.Module):
    """A network under one of the transforms of linen, which gives each example a separate key, or all the same."""

    transform: str

    @linen.compact
    def __call__(self, x):
        net = jc.serial(fc=FC, drop=jc.Dropout(0.5))
        rngs = {"params": False, "dropout": True}
        if self.transform == "scan":
            step = linen.scan(lambda m, carry, x: (carry, m(x, True)), variable_broadcast="params", split_rngs=rngs)
            return step(to_linen(net, name="net"), (), x)[1]
        kind = type(to_linen(net))
        if self.transform == "vmap":
            kind = linen.vmap(kind, in_axes=(0, None), variable_axes={"params": None}, split_rngs=rngs)
        else:
            kind = {"jit": linen.jit, "remat": linen.remat}[self.transform](kind, static_argnums=(2,))
        return kind(net, name="net")(x, True)


@pytest.mark.parametrize("transform", ["jit", "remat", "vmap", "scan"])
def test_under_the_transforms_of_linen(transform):
    module, x = Lifted(transform), normal((3, 5, 2))
    params, _ = ready(FC, (5, 2))[:2]
    variables = {"params": {"net": {"fc": params}}}
    assert jax.tree.map(jnp.shape, jax.eval_shape(module.init, KEY, x)) == jax.tree.map(jnp.shape, variables)

    def outcome(variables):
        y = module.apply(variables, x, rngs={"dropout": KEY})
        return y.sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(outcome, has_aux=True))(variables)
    kept = y != 0
    assert 0.2 < kept.mean() < 0.8
    assert_near(y, jnp.where(kept, 2 * jc.dense(x, **params), 0))
    assert_near(grads["params"]["net"]["fc"]["bias"], 2.0 * kept.sum((0, 1)))


@pytest.mark.slow
def test_a_loop_of_linen_trains_as_ours():
    module = to_linen(NET)
    params, state, _ = ready(NET, SHAPE)
    variables = {"params": params, "batch_stats": state}
    keys = [jax.random.fold_in(KEY, i) for i in range(4)]

    class State(TrainState):
        batch_stats: dict

    @jax.jit
    def step(train_state, key):
        def objective(params):
            variables = {"params": params, "batch_stats": train_state.batch_stats}
            logits, updates = train_state.apply_fn(
                variables, X, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return loss_of(logits), updates

        (loss, updates), grads = jax.value_and_grad(objective, has_aux=True)(train_state.params)
        return loss, train_state.apply_gradients(grads=grads, batch_stats=updates["batch_stats"])

    train_state = State.create(apply_fn=module.apply, tx=TX, **variables)
    ours = our_steps(params, state, map(drawn, keys))
    losses = []
    for key, want in zip(keys, ours, strict=True):
        loss, train_state = step(train_state, key)
        assert_near((loss, train_state.params, train_state.batch_stats), want)
        losses.append(float(loss))
    assert len(set(losses)) == 4


# --- to_nnx -----------------------------------------------------------------------------------------------------------


@nets
def test_the_variables_of_nnx_are_our_trees(net):
    shape = shape_for(net)
    module = nnx.eval_shape(lambda: to_nnx(net, shape, rngs=nnx.Rngs(0)))
    want = jax.eval_shape(lambda key: net.init(key, shape), KEY)
    for name, kind, tree in zip(("params", "state"), (nnx.Param, nnx.BatchStat), want, strict=True):
        assert nnx.as_pure(getattr(module, name)) == tree
        found = nnx.to_flat_state(nnx.state(module, kind))
        assert {path for path, _ in found} == {
            (name, *(part.key for part in path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        }


def test_nnx_draws_fresh_weights_from_its_stream():
    for x in (SHAPE, X, jax.ShapeDtypeStruct(SHAPE, np.float32)):
        module = to_nnx(PLAIN, x, rngs=nnx.Rngs(0))
        assert_same(nnx.as_pure((module.params, module.state)), PLAIN.init(nnx.Rngs(0).params(), X))


@pytest.mark.slow
def test_a_loop_of_nnx_trains_as_ours():
    params, state, _ = ready(NET, SHAPE)
    module = to_nnx(NET, params=params, state=state, rngs=nnx.Rngs(dropout=7))
    optimizer = nnx.Optimizer(module, TX, wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        loss, grads = nnx.value_and_grad(lambda module: loss_of(module(X)))(module)
        optimizer.update(module, grads)
        return loss

    stream = nnx.Rngs(dropout=7)["dropout"].fork()
    for want in our_steps(params, state, [stream() for _ in range(4)]):
        loss = step(module, optimizer)
        assert_near((loss, *nnx.as_pure((module.params, module.state))), want)


def test_the_mode_of_nnx(given):
    params, state, x = given
    module = to_nnx(SMALL, params=params, state=state)
    evaluation = apply(SMALL, params, state, x)[0]
    training, new = apply(SMALL, params, state, x, train=True, key=KEY)
    module.eval()
    assert_near(run(module, x), evaluation)
    assert_same(nnx.as_pure(module.state), state)
    module.train()
    assert (module.deterministic, module.use_running_average) == (False, False)
    assert_near(run(module, x, KEY), training)
    assert_near(nnx.as_pure(module.state), new)
    assert_near(run(nnx.view(module, deterministic=True, use_running_average=True), x), apply(SMALL, params, new, x)[0])
    with pytest.raises(jc.MissingKeyError, match=r"^layer1.drop \(Dropout\): rngs must be given"):
        module(x)
    with pytest.raises(TraceContextError):
        jax.jit(lambda x: module(x, rngs=KEY))(x)
    module.set_attributes(deterministic=True)
    with pytest.raises(jc.ArgumentError, match="must be equal for a jaxconv network, got True and False"):
        module(x)


def test_where_nnx_draws_from(given):
    params, state, x = given
    rngs = nnx.Rngs(dropout=1)
    module = to_nnx(SMALL, params=params, state=state, rngs=rngs)
    first, second = run(module, x), run(module, x)
    assert not np.array_equal(first, second)
    key = nnx.Rngs(dropout=5).dropout()
    want = apply(SMALL, params, state, x, train=True, key=key)[0]
    for source in (nnx.Rngs(dropout=5), nnx.Rngs(5), nnx.Rngs(dropout=5).dropout, key):
        assert_near(to_nnx(SMALL, params=params, state=state)(x, rngs=source), want)
    # The stream is forked: what the caller draws next does not depend on how often the module ran.
    assert rngs.dropout.count[...] == 1
    assert to_nnx(FC, x, rngs=nnx.Rngs(params=0))(x).shape == (4, 3)


def test_split_merge_and_the_transforms_of_nnx(given):
    params, state, x = given
    module = to_nnx(SMALL, params=params, state=state, rngs=nnx.Rngs(0))
    graph, variables, rest = nnx.split(module, nnx.Param, ...)
    assert hash(graph) == hash(nnx.graphdef(to_nnx(SMALL, params=params, state=state, rngs=nnx.Rngs(1))))
    again = nnx.merge(graph, variables, rest)
    again.eval()
    want = apply(SMALL, params, state, x)[0]
    assert_near(run(again, x), want)
    each = nnx.vmap(lambda module, row: module(row[None])[0], in_axes=(None, 0))(again, x)
    assert_near(each, want)

    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def ensemble(rngs):
        return to_nnx(FC, (4, 2), rngs=rngs)

    many = ensemble(nnx.Rngs(0))
    assert many.params["kernel"].shape == (2, 2, 3)
    assert nnx.vmap(lambda module, x: module(x), in_axes=(0, None))(many, x).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of x, for initial weights, and params must be given, got neither"),
        ({"x": SHAPE, "params": {}}, "got both"),
        ({"x": SHAPE}, "rngs must be given to draw initial weights, got None"),
    ],
)
def test_to_nnx_says_what_is_missing(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_nnx(NET, **arguments)


# --- from_linen -------------------------------------------------------------------------------------------------------


class Classic(linen.Module):
    """What a Flax user has: a mode in the call, statistics, dropout, a noise stream of another name."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Dense(3, kernel_init=from_key)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        x = linen.Dropout(0.5, rng_collection="noise", deterministic=not train)(x)
        if train:
            linen.Dense(2, kernel_init=from_key, name="auxiliary")(x)
        return x


def test_a_linen_module_is_a_layer():
    layer = from_linen(Classic())
    assert isinstance(layer, jc.Layer)
    assert layer == from_linen(Classic())
    assert hash(layer) == hash(from_linen(Classic()))
    assert pickle.loads(pickle.dumps(layer)) == layer
    params, state = layer.init(KEY, SHAPE)
    variables = Classic().init({"params": KEY, "dropout": KEY}, X, True)
    assert_same({"params": params, **state}, variables)
    assert_near(layer.apply(params, state, X), (Classic().apply(variables, X, False), state))
    y, new = layer.apply(params, state, X, train=True, key=KEY)
    rngs = {"dropout": KEY, "noise": jc.child.child_key(KEY, "params")}
    want, updates = Classic().apply(variables, X, True, rngs=rngs, mutable=["batch_stats"])
    assert_near((y, new), (want, dict(updates)))
    with pytest.raises(jc.MissingKeyError, match="key must be given to a module with random numbers, got None"):
        layer.apply(params, state, X, train=True)


@pytest.mark.slow
def test_linen_modules_inside_our_composites():
    net = jc.serial(
        stem=from_linen(linen.Conv(3, (3, 3), kernel_init=from_key)),
        body=jc.repeat(from_linen(Classic()), 2),
        pool=jc.GlobalAvgPool(),
    )
    params, state = jax.jit(lambda key: net.init(key, SHAPE))(KEY)
    assert params["body"]["Dense_0"]["kernel"].shape == (2, 3, 3)
    y, found = jc.inspect.activations(net, params, state, X)
    assert y.shape == (4, 3)
    assert found["stem"].shape == (4, 6, 6, 3)
    rows = {row.path: row for row in jc.summary(net, SHAPE).rows}
    assert rows["stem"].parameters == 3 * 3 * 2 * 3 + 3
    assert rows["stem"].macs is rows["stem"].receptive_field is None
    grads = jax.jit(jax.grad(lambda p: net.apply(p, state, X, train=True, key=KEY)[0].sum()))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    with pytest.raises(jc.MissingKeyError, match=r"^body"):
        net.apply(params, state, X, train=True)
    # And back again, as one linen module.
    back = jax.eval_shape(to_linen(net).init, KEY, X)["params"]
    assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, params)


class Mode(linen.Module):
    """Says by its output what its mode was."""

    training: bool | None = None
    frozen: bool = True

    @linen.compact
    def __call__(self, x, deterministic=None, **options):
        return jnp.array([self.training is True, self.frozen, deterministic is True, options.get("learn", False)])


@pytest.mark.parametrize(
    ("module", "argument", "flags", "evaluation", "training"),
    [
        (Mode(), None, ("training", "deterministic"), [0, 1, 1, 0], [1, 1, 0, 0]),
        (Mode(training=True), None, ("training", "deterministic"), [0, 1, 1, 0], [1, 1, 0, 0]),
        (Mode(), "deterministic", ("deterministic",), [0, 1, 1, 0], [0, 1, 0, 0]),
        (Mode(), "learn", ("learn",), [0, 1, 0, 0], [0, 1, 0, 1]),
        (Mode(), {"frozen": False, "learn": True}, ("frozen", "learn"), [0, 1, 0, 0], [0, 0, 0, 1]),
        (Mode(), {}, (), [0, 1, 0, 0], [0, 1, 0, 0]),
    ],
)
def test_how_a_linen_module_is_told_that_it_trains(module, argument, flags, evaluation, training):
    layer = from_linen(module, train_argument=argument)
    assert tuple(name for name, _ in layer.train_argument) == flags
    assert_array_equal(layer.apply({}, {}, X)[0], evaluation)
    assert_array_equal(layer.apply({}, {}, X, train=True)[0], training)
    assert from_linen(module, train_argument=layer.train_argument) == layer


def test_flaxs_own_layers_switch():
    norm = from_linen(linen.BatchNorm(use_running_average=False))
    params, state = norm.init(KEY, SHAPE)
    assert_near(norm.apply(params, state, X)[0], X / np.sqrt(np.float32(1 + 1e-5)))
    y, new = norm.apply(params, state, X, train=True)
    assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    assert_allclose(new["batch_stats"]["mean"], 0.01 * X.mean((0, 1, 2)), rtol=1e-4)
    drop = from_linen(linen.Dropout(0.5))
    assert_array_equal(drop.apply({}, {}, X)[0], X)
    assert (drop.apply({}, {}, X, train=True, key=KEY)[0] == 0).any()


class Sows(linen.Module):
    @linen.compact
    def __call__(self, x):
        self.sow("losses", "norm", (x**2).sum())
        self.sow("intermediates", "x", x)
        return x


class Boxed(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2, kernel_init=linen.with_partitioning(linen.initializers.ones, (None, "model")))(x)


def test_what_a_linen_module_must_not_do():
    with pytest.raises(TypeError, match=r"module must be a flax.linen module, got Conv\(features=3\)"):
        from_linen(jc.Conv(3))
    with pytest.raises(jc.ArgumentError, match="train_argument must name an argument of Classic, got 'learn'"):
        from_linen(Classic(), train_argument="learn")


class Counting(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        seen = self.variable("batch_stats", "seen", lambda: jnp.zeros(()))
        if train:
            seen.value += 1
        return linen.Dense(2)(x)


def test_the_state_begins_as_in_flax():
    layer = from_linen(Counting())
    params, state = layer.init(KEY, (1, 3))
    assert state["batch_stats"]["seen"] == 0
    assert layer.apply(params, state, jnp.ones((1, 3)), train=True)[1]["batch_stats"]["seen"] == 1


def test_what_a_linen_module_sows_is_no_state():
    layer = from_linen(Sows())
    assert layer.init(KEY, SHAPE) == ({}, {})
    for train in (False, True):
        y, state = layer.apply({}, {}, X, train=train)
        assert_array_equal(y, X)
        assert state == {}


def test_boxes_of_metadata_are_opened():
    params, _ = from_linen(Boxed()).init(KEY, SHAPE)
    assert_array_equal(params["Dense_0"]["kernel"], np.ones((2, 2)))
    variables = Boxed().init(KEY, X)
    assert_near(from_linen(Boxed()).apply(variables["params"], {}, X)[0], Boxed().apply(variables, X))


# --- from_nnx ---------------------------------------------------------------------------------------------------------


class Modern(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Conv(2, 3, (1, 1), kernel_init=from_key, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.tied = self.layers[0].bias

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.drop(x) + self.tied[...]


@pytest.fixture(scope="module")
def modern():
    module = Modern(nnx.Rngs(0))
    for _, leaf in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat))):
        leaf[...] = leaf[...] + 0.5
    return module


def test_an_nnx_module_is_a_layer(modern):
    layer, params, state = from_nnx(modern)
    assert isinstance(layer, jc.Layer)
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert layer == from_nnx(Modern(nnx.Rngs(1)))[0]
    assert hash(layer) == hash(from_nnx(Modern(nnx.Rngs(1)))[0])
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves([*vars(layer).values()]))
    assert jax.tree.map(jnp.shape, params) == {"layers": {
        "0": {"kernel": (1, 1, 2, 3), "bias": (3,)}, "1": {"scale": (3,), "bias": (3,)}}}  # fmt: skip
    assert jax.tree.map(jnp.shape, state) == {"layers": {"1": {"mean": (3,), "var": (3,)}}}

    y, same = jax.jit(layer.apply)(params, state, X)
    assert_same(same, state)
    evaluated = nnx.view(modern, deterministic=True, use_running_average=True)
    assert_near(y, evaluated(X))

    y, new = layer.apply(params, state, X, train=True, key=KEY)
    trained = nnx.clone(modern)
    trained.drop.rngs = nnx.RngStream(jc.child.child_key(KEY, "drop.rngs.key"), tag="dropout")
    assert_near(y, trained(X))
    assert_near(new["layers"]["1"]["mean"], trained.layers[1].mean[...])
    assert_near(layer.apply(params, state, X, train=True, key=KEY)[0], y)
    assert not np.array_equal(layer.apply(params, state, X, train=True, key=jax.random.key(4))[0], y)
    # The module itself was left alone.
    assert_same(nnx.as_pure(modern.layers[1].mean), state["layers"]["1"]["mean"])


def test_a_missing_key_raises_where_it_is_drawn_from(modern):
    layer, params, state = from_nnx(modern)
    net = jc.serial(body=layer)
    for apply in (net.apply, jax.jit(net.apply, static_argnames="train")):
        with pytest.raises(jc.MissingKeyError, match="key must be given to an nnx module with random numbers"):
            apply({"body": params}, {"body": state}, X, train=True)

    class Copies(nnx.Module):
        def __init__(self, rngs):
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return nnx.jit(lambda drop, x: drop(x))(self.drop, x)

    # No random numbers are drawn from keys that are only passed on.
    layer, params, state = from_nnx(Copies(nnx.Rngs(0)))
    assert_array_equal(layer.apply(params, state, X)[0], X)
    with pytest.raises(jc.MissingKeyError):
        layer.apply(params, state, X, train=True)


def test_nnx_modules_inside_our_composites(modern):
    layer, params, _ = from_nnx(modern, make=Modern)
    net = jc.serial(body=layer, pool=jc.GlobalAvgPool(), fc=FC)
    fresh, fresh_state = net.init(KEY, SHAPE)
    assert jax.tree.map(jnp.shape, fresh["body"]) == jax.tree.map(jnp.shape, params)
    assert not np.array_equal(fresh["body"]["layers"]["0"]["kernel"], params["layers"]["0"]["kernel"])
    y, found = jc.inspect.activations(net, fresh | {"body": params}, fresh_state, X)
    assert y.shape == (4, 3)
    assert_near(found["body"], layer.apply(params, fresh_state["body"], X)[0])
    with pytest.raises(jc.ParameterError, match=r"^body \(FromNnx\): params must have an entry 'layers', got none"):
        net.apply(fresh | {"body": {}}, fresh_state, X)


def test_init_of_an_nnx_module_wants_to_know_how_it_is_made(modern):
    layer, params, _ = from_nnx(modern)
    net = jc.serial(body=layer)
    assert jc.summary(net, SHAPE).rows[0].parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    with pytest.raises(jc.ArgumentError, match=r"^init cannot draw the weights of an nnx module: give from_nnx make="):
        layer.init(KEY, SHAPE)
    with pytest.raises(jc.ArgumentError, match=r"make must return a module like .* got a difference at 'bias'"):
        from_nnx(modern, make=lambda rngs: nnx.Linear(2, 3, rngs=rngs))[0].init(KEY, SHAPE)
    with pytest.raises(TypeError, match=r"module must be a flax\.nnx module, got Dense"):
        from_nnx(linen.Dense(3))


class Split(nnx.Module):
    """One stream of keys for each of two members, and a mode in the call."""

    def __init__(self, rngs):
        self.rngs = rngs.split(2)

    def __call__(self, x, training):
        return jnp.stack([jax.random.bits(key) for key in self.rngs.default.key[...]]) if training else x


def test_an_nnx_module_with_split_keys_and_a_mode_in_its_call():
    layer, params, state = from_nnx(Split(nnx.Rngs(0)))
    assert (params, state) == ({}, {})
    assert layer.apply({}, {}, X)[0] is X
    one, two = layer.apply({}, {}, X, train=True, key=KEY)[0]
    assert one != two


# --- Modules with several inputs --------------------------------------------------------------------------------------


CARRY = (normal((4, 5), seed=1), normal((4, 5), seed=2))
CELLS = {
    "nnx.LSTMCell": functools.partial(nnx.LSTMCell, 2, 5),
    "nnx.OptimizedLSTMCell": functools.partial(nnx.OptimizedLSTMCell, 2, 5),
    "nnx.GRUCell": functools.partial(nnx.GRUCell, 2, 5),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_recurrent_cell_of_nnx_is_a_layer_of_a_tuple(name):
    cell = CELLS[name](rngs=nnx.Rngs(0))
    layer, params, state = from_nnx(cell, make=lambda rngs: CELLS[name](rngs=rngs))
    carry, x = CARRY[0] if "GRU" in name else CARRY, X[:, 0, 0]
    for train in (False, True):
        y, same = jax.jit(layer.apply, static_argnames="train")(params, state, (carry, x), train=train)
        assert_near(y, cell(carry, x))
        assert_same(same, state)
    again, _ = layer.init(KEY, (carry, x))
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, params)
    net = jc.serial(cell=layer, last=jc.Fn(lambda pair: pair[1]), fc=FC)
    fresh, none = net.init(KEY, (carry, x))
    assert net.apply(fresh, none, (carry, x))[0].shape == (4, 3)
    back = to_nnx(layer, params=params, state=state)
    assert_near(back(carry, x), cell(carry, x))


def test_a_scan_over_a_cell_is_nnxs_rnn():
    cell = CELLS["nnx.LSTMCell"](rngs=nnx.Rngs(0))
    layer, params, state = from_nnx(cell)
    x = X[:, :, 0]

    def outputs(params):
        zeros = (jnp.zeros((4, 5)), jnp.zeros((4, 5)))
        step = lambda carry, x: layer.apply(params, state, (carry, x))[0]  # noqa: E731
        return jnp.swapaxes(jax.lax.scan(step, zeros, jnp.swapaxes(x, 0, 1))[1], 0, 1)

    # The module's own loop wants a carry, or keys that it does not use for zeros.
    rnn = nnx.RNN(cell)
    assert_near(outputs(params), rnn(x, initial_carry=(jnp.zeros((4, 5)), jnp.zeros((4, 5)))))
    gradients = jax.grad(lambda params: (outputs(params) ** 2).sum())(params)
    wanted = nnx.grad(lambda rnn: (rnn(x, initial_carry=(jnp.zeros((4, 5)),) * 2) ** 2).sum())(rnn)
    assert_near(gradients, nnx.to_pure_dict(wanted)["cell"])


def test_a_recurrent_cell_of_linen_is_a_layer_of_a_tuple():
    cell, x = linen.LSTMCell(5), X[:, 0, 0]
    layer = from_linen(cell)
    params, state = layer.init(KEY, (CARRY, x))
    assert state == {}
    assert_near(layer.apply(params, state, (CARRY, x))[0], cell.apply({"params": params}, CARRY, x))


@pytest.mark.parametrize("x", [X, (X,), {"carry": CARRY, "inputs": X}])
def test_a_module_of_two_inputs_names_them_where_it_gets_others(x):
    layer, params, state = from_nnx(CELLS["nnx.LSTMCell"](rngs=nnx.Rngs(0)))
    match = r"x must be a tuple with an entry for each argument of LSTMCell, \(carry, inputs\), got "
    with pytest.raises(jc.ArgumentError, match=match):
        layer.apply(params, state, x)
    with pytest.raises(jc.ArgumentError, match=match):
        from_linen(linen.LSTMCell(5)).init(KEY, x)


# --- Round trips ------------------------------------------------------------------------------------------------------


@nets
def test_round_trips_keep_our_networks_and_every_array(net):
    params, state, x = ready(net, shape_for(net))
    assert from_linen(to_linen(net)) == net
    layer, *trees = from_nnx(to_nnx(net, params=params, state=state, rngs=nnx.Rngs(0)))
    assert layer == net
    assert_same(trees, [params, state])
    module = to_linen(net)
    y, same = jax.jit(lambda v, x: module.apply(v, x, mutable=True))({"params": params, "batch_stats": state}, x)
    assert_same(dict(same), {"params": params, "batch_stats": state})
    assert_near(y, jax.jit(net.apply)(params, state, x)[0])


def test_round_trips_keep_flaxs_modules_and_every_array(modern):
    module = Classic()
    assert to_linen(from_linen(module)) == module

    layer, params, state = from_nnx(modern)
    back = to_nnx(layer, params=params, state=state, rngs=nnx.Rngs(0))
    assert type(back) is Modern
    assert nnx.graphdef(back) == nnx.graphdef(modern)
    arrays = (nnx.Param, nnx.BatchStat)
    assert_same(nnx.as_pure(nnx.state(back, arrays)), nnx.as_pure(nnx.state(modern, arrays)))
    assert back(X).shape == (4, 6, 6, 3)
    with pytest.raises(jc.MissingKeyError, match="rngs to to_nnx"):
        to_nnx(layer, params=params, state=state)(X)


def test_a_users_layer_goes_through_both():
    net = jc.serial(Shift(), FC)
    params, state = net.init(KEY, SHAPE)
    _, updates = to_linen(net).apply({"params": params, "batch_stats": state}, X, train=True, mutable=["batch_stats"])
    module = to_nnx(net, params=params, state=state)
    module(X)
    assert updates["batch_stats"]["0"]["passes"] == module.state["0"]["passes"][...] == 1


def test_layers_print_as_the_call_that_makes_them(modern):
    assert repr(from_nnx(modern)[0]).endswith(f"from_nnx({Modern.__module__}.Modern)")
    assert repr(from_linen(linen.Dense(3))).startswith("from_linen(\n  Dense(")


@pytest.mark.parametrize(
    ("module", "write"),
    [(linen.Dense(3), "from_linen"), (nnx.Linear(3, 3, rngs=nnx.Rngs(0)), "from_nnx")],
    ids=["linen", "nnx"],
)
def test_a_module_of_flax_itself_is_no_layer(module, write):
    with pytest.raises(TypeError, match=rf"a layer must be .*: write jaxconv.interop.flax.{write}\(\.\.\.\)$"):
        jc.serial(module)


# --- Saved ------------------------------------------------------------------------------------------------------------


class Dropping(nnx.Module):
    def __init__(self, rngs, features=4):
        self.linear = nnx.Linear(4, features, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.drop(self.linear(x)))


def test_the_mode_of_a_module_is_no_part_of_its_layer():
    module = Dropping(nnx.Rngs(0))
    before = from_nnx(module)[0]
    module.eval()
    after, params, state = from_nnx(module)
    assert module.drop.deterministic
    assert module.norm.use_running_average
    assert before == after
    assert hash(before) == hash(after)
    assert not to_nnx(after, params=params, state=state).drop.deterministic


def test_layers_of_flax_are_saved_and_loaded(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    layer, params, state = from_nnx(Dropping(nnx.Rngs(0)))
    jc.weights.save(path, layer, params, state)
    again = from_nnx(Dropping(nnx.Rngs(1)), make=Dropping)[0]
    assert_same(jc.weights.load(path, again), (params, state))
    with pytest.raises(
        jc.weights.WeightsError, match=r"differs is .*kernel\(4, 4\).*, net has .*kernel\(4, 3\)"
    ) as raised:
        jc.weights.load(path, from_nnx(Dropping(nnx.Rngs(0), 3))[0])
    assert len(str(raised.value)) < 1000

    net = jc.serial(from_linen(linen.SpectralNorm(linen.Dense(3)), train_argument="update_stats"))
    params, state = net.init(KEY, (2, 4))
    jc.weights.save(path, net, params, state)
    assert_same(jc.weights.load(path, net), (params, state))
