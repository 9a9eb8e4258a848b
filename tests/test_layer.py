"""The protocol, what runs a child, its errors, and a network as data."""

import dataclasses
import os
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.layer import as_struct, broadcasts, child_key, walk
from tests.nets import Pass, Shift, Twice, normal

KEY = jax.random.key(0)


# --- The protocol -----------------------------------------------------------------------------------------------------


def test_any_object_with_the_two_methods_is_a_layer():
    assert isinstance(Shift(), jc.Layer)
    assert isinstance(jc.Conv(8), jc.Layer)
    assert not isinstance(jax.nn.relu, jc.Layer)


def test_a_struct_of_anything_with_a_shape():
    want = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    for x in (jnp.zeros((2, 3)), np.zeros((2, 3), np.float32), want, (2, 3), (np.int64(2), 3)):
        assert as_struct(x) == want
    assert as_struct(np.zeros((2, 3), np.uint8)).dtype == np.uint8
    tree = {"image": (2, 8, 8, 3), "both": [(2, 3), jnp.zeros(4)]}
    assert jax.tree.map(lambda s: s.shape, as_struct(tree)) == {"image": (2, 8, 8, 3), "both": [(2, 3), (4,)]}


@pytest.mark.parametrize("wrong", [8, "8", [1, 8, 8, 3], 8.0])
def test_what_has_no_shape_is_refused(wrong):
    with pytest.raises(jc.ShapeError, match="x must be an array, a ShapeDtypeStruct or a shape tuple, batch axis"):
        jc.serial(jc.Conv(8)).init(KEY, wrong)


def test_a_childs_key_is_of_its_name_only():
    assert child_key(None, "a") is None
    assert child_key(KEY, "") is KEY
    keys = [jax.random.key_data(child_key(KEY, name)).tolist() for name in ("0", "1", "conv", "conv1")]
    assert len({tuple(key) for key in keys}) == 4
    assert keys[0] == jax.random.key_data(jax.random.fold_in(KEY, 0xF4DBDF21)).tolist()  # crc32(b"0")


@pytest.mark.parametrize(
    ("shape", "to"),
    [
        *((shape, (2, 3)) for shape in ((), (3,), (1, 3), (2, 1), (2, 3), (2,), (1, 2, 3), (3, 2))),
        *(((2, 3), (2, 1)), ((0,), (3,)), ((1,), (0,))),
    ],
)
def test_broadcasts_as_numpy(shape, to):
    try:
        want = np.broadcast_shapes(shape, to) == to
    except ValueError:
        want = False
    assert broadcasts(shape, to) == want


# --- Tracebacks -------------------------------------------------------------------------------------------------------

PACKAGE = os.path.dirname(jc.__file__)


def deep(layer, levels=6):
    for _ in range(levels):
        layer = jc.residual(jc.serial(jc.Identity(), layer))
    return layer


def frames_of(function, *args):
    """The frames of the error that a call raises: those of jaxconv, and all names."""
    with pytest.raises(Exception) as raised:
        function(*args)
    frames = traceback.extract_tb(raised.value.__traceback__)
    return [f.name for f in frames if f.filename.startswith(PACKAGE)], [f.name for f in frames], raised.value


NARROW = jc.Conv(4)
FAULTS = {
    "a shape": (deep(NARROW), (1, 8, 8, 4), jnp.ones((1, 8, 8, 5))),
    "a user's function": (deep(jc.Fn(lambda x: jnp.reshape(x, (3,)))), None, jnp.ones((1, 8))),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.grad, jc.jit], ids=["eager", "jit", "grad", "jc.jit"])
def test_an_error_shows_few_frames_of_ours(fault, wrap):
    net, shape, x = FAULTS[fault]
    params, state = net.init(KEY, shape) if shape else ({}, {})

    def users_loss(x):
        return jnp.sum(net.apply(params, state, x)[0])

    ours, names, error = frames_of(wrap(users_loss), x)
    assert len(ours) <= 10
    assert "users_loss" in names
    if fault == "a shape":
        assert names[-1] == "conv"
        assert str(error).startswith("1.1.1.1.1.1 (Conv): kernel")
    else:
        assert names.count("<lambda>") == 1
    assert error.__cause__ is None or type(error.__cause__).__module__.startswith("jax")


def test_init_and_summary_show_few_frames_of_ours():
    for call in (lambda: deep(NARROW).init(KEY, (1, 8)), lambda: jc.summary(deep(NARROW), (1, 8))):
        ours, names, _ = frames_of(call)
        assert len(ours) <= 10
        assert names[-1] == "batched_sizes"


def test_all_frames_are_shown_where_jax_shows_all():
    net, shape, x = FAULTS["a shape"]
    params, state = net.init(KEY, shape)
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        ours, _, _ = frames_of(jax.jit(lambda x: net.apply(params, state, x)[0]), x)
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert len(ours) > 20


# --- Errors -----------------------------------------------------------------------------------------------------------


def nested(leaf):
    """A leaf three composites deep, behind each of those that add no level, at a.b.c.1."""
    inner = jc.remat(jc.concat(jc.Identity(), leaf))
    return jc.serial(
        a=jc.residual(jc.serial(b=jc.mixed_precision(jc.serial(c=inner), output="float32")), jc.Identity())
    )


def raises_once(error, path, kind, call):
    """Runs ``call`` and checks that its error names the place in front, and once."""
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert message.startswith(f"{path} ({kind}): ")
    assert message.count(path) == 1
    assert message.count(kind) == 1
    assert not [note for note in getattr(raised.value, "__notes__", ()) if note.startswith("in layer")]
    return message


def test_a_path_stands_in_front_of_an_error_once():
    net = nested(jc.Conv(2, 5, padding="VALID"))
    x = jnp.ones((1, 4, 4, 3))
    params = {"a": {"b": {"c": {"1": {"kernel": jnp.ones((5, 5, 3, 2)), "bias": jnp.ones(2)}}}}}
    for call in (
        lambda: net.init(KEY, x),
        lambda: net.apply(params, {}, x),
        lambda: jax.jit(net.apply)(params, {}, x),
        lambda: jax.grad(lambda p: net.apply(p, {}, x)[0].sum())(params),
        lambda: jc.summary(net, x),
        lambda: jc.inspect.receptive_field(net, x),
        lambda: jc.inspect.activations(net, params, {}, x),
    ):
        message = raises_once(jc.ShapeError, "a.b.c.1", "Conv", call)
        assert message.endswith("window 5 is larger than the padded input on spatial axis 0: 4 + 0 + 0 = 4")


def test_an_error_says_what_was_expected_and_what_came():
    net = jc.serial(features=jc.serial(jc.Identity(), jc.Identity(), jc.Identity(), jc.Conv(128)))
    params, state = net.init(KEY, (8, 28, 28, 64))
    with pytest.raises(jc.ShapeError) as raised:
        net.apply(params, state, jnp.ones((8, 28, 28, 32)))
    assert str(raised.value) == (
        "features.3 (Conv): kernel (3, 3, 64, 128) takes 64 input channels, x has 32: shape (8, 28, 28, 32)"
    )
    assert raised.value.path == ("features", "3")
    assert raised.value.layer == "Conv"


def test_integer_images_are_refused_with_the_layers_path():
    net = jc.serial(stem=jc.Conv(4))
    images = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    for call in (lambda: net.init(KEY, images), lambda: jc.summary(net, images)):
        with pytest.raises(
            jc.DTypeError, match=r"^stem \(Conv\): x must be a floating-point array, got uint8: convert"
        ):
            call()


def test_a_layer_by_itself_has_no_path():
    with pytest.raises(jc.ShapeError) as raised:
        jc.Conv(8).apply({"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.ones(8)}, {}, jnp.ones((1, 8, 8, 3)))
    assert str(raised.value).startswith("kernel (3, 3, 4, 8) takes 4 input channels")


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (jc.ShapeError, ValueError),
        (jc.DTypeError, TypeError),
        (jc.MissingKeyError, ValueError),
        (jc.ParameterError, KeyError),
    ],
)
def test_errors_are_pythons_own_and_print_as_one_sentence(error, base):
    assert issubclass(error, base)
    raised = error("x must be this, got that")
    assert str(raised) == "x must be this, got that"
    raised.locate("1", "Conv")
    raised.locate("", "Gate")
    raised.locate("features", "Serial")
    assert str(raised) == "features.1 (Conv): x must be this, got that"


def explode(x):
    raise ZeroDivisionError("no more")


def test_an_error_of_another_library_gets_one_note():
    net = nested(explode)
    x = jnp.ones((1, 4, 4, 3))
    for call in (lambda: net.apply({}, {}, x), lambda: net.init(KEY, x), lambda: jc.summary(net, x)):
        with pytest.raises(ZeroDivisionError, match="no more") as raised:
            call()
        notes = [note for note in raised.value.__notes__ if note.startswith("in layer")]
        assert notes == ["in layer a.b.c.1 (Fn)"]


def test_a_note_of_the_error_itself_stays():
    def noted(x):
        error = ValueError("mine")
        error.add_note("a hint")
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        jc.serial(a=jc.serial(noted)).apply({}, {}, jnp.ones(3))
    assert raised.value.__notes__ == ["a hint", "in layer a.0 (Fn)"]


class Wrong:
    """A layer whose author forgot the state."""

    def init(self, key, x):
        return {}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return x


def test_a_layer_that_returns_no_state_is_named():
    with pytest.raises(jc.ShapeError, match=r"^0 \(Wrong\): apply must return \(y, state\) with a dict as state"):
        jc.serial(Wrong()).apply({}, {}, jnp.ones(3))


# --- A network as data ------------------------------------------------------------------------------------------------


def block():
    return jc.serial(conv1=jc.Conv(4), relu=jax.nn.relu, conv2=jc.Conv(4))


def network():
    return jc.serial(
        jc.Conv(4),
        layer1=jc.serial(jc.residual(block(), jc.Conv(4, 1), after=jc.MaxPool(2), name="downsample")),
        more=jc.repeat(block(), 2),
        mixed=jc.mixed_precision(jc.remat(jc.gate(block()))),
        head=jc.serial(jc.inline(jc.serial(pool=jc.GlobalAvgPool())), jc.Dense(3)),
    )


def test_walk_gives_each_named_layer_with_its_path():
    places = dict(walk(network()))
    assert list(places) == [
        "0",
        *("layer1", "layer1.0", "layer1.0.conv1", "layer1.0.relu", "layer1.0.conv2", "layer1.0.downsample"),
        "layer1.0.after",
        *("more", "more.conv1", "more.relu", "more.conv2"),
        *("mixed", "mixed.conv1", "mixed.relu", "mixed.conv2"),
        *("head", "head.pool", "head.1"),
    ]
    assert places["layer1.0.after"] == jc.MaxPool(2)
    assert places["head.1"] == jc.Dense(3)


def test_map_layers_rebuilds_with_names_kept():
    def change(layer):
        if isinstance(layer, jc.Conv):
            return dataclasses.replace(layer, features=2 * layer.features)
        return jc.AvgPool(layer.window) if isinstance(layer, jc.MaxPool) else layer

    net, changed = network(), jc.map_layers(network(), change)
    assert [path for path, _ in walk(changed)] == [path for path, _ in walk(net)]
    for (path, old), (_, new) in zip(walk(net), walk(changed), strict=True):
        if not hasattr(old, "children"):
            assert new == change(old), path
        else:
            assert type(new) is type(old), path
    assert dict(walk(changed))["layer1.0.conv1"] == jc.Conv(8)
    assert dict(walk(changed))["layer1.0.after"] == jc.AvgPool(2)
    assert dict(walk(changed))["more"].n == 2
    assert net == network()


def test_map_layers_returns_the_same_network_where_nothing_changes():
    net = network()
    assert jc.map_layers(net, lambda layer: layer) is net
    assert jc.map_layers(jc.Conv(4), lambda layer: jc.Conv(8)) == jc.Conv(8)


def test_map_layers_goes_from_the_inside_out():
    seen = []
    jc.map_layers(jc.serial(a=jc.serial(jc.Conv(4))), lambda layer: seen.append(type(layer).__name__) or layer)
    assert seen == ["Conv", "Serial", "Serial"]


def test_map_layers_rebuilds_a_users_composite():
    net = jc.serial(Twice((("conv", jc.Conv(4)),)))
    changed = jc.map_layers(net, lambda layer: jc.Dense(4) if isinstance(layer, jc.Conv) else layer)
    assert changed == jc.serial(Twice((("conv", jc.Dense(4)),)))


class Closed(Pass):
    """A composite that is no dataclass."""

    children = (("conv", jc.Conv(4)),)


def test_map_layers_says_what_it_cannot_rebuild():
    assert jc.map_layers(jc.serial(Closed()), lambda layer: layer)
    with pytest.raises(TypeError, match="Closed must be a dataclass with a field children"):
        jc.map_layers(jc.serial(Closed()), lambda layer: jc.Dense(4) if isinstance(layer, jc.Conv) else layer)


# --- A user's layers --------------------------------------------------------------------------------------------------


def added(ys):
    return ys[0] + ys[1]


def composites(layer):
    """Every composite of one layer."""
    return {
        "serial": jc.serial(layer),
        "parallel": jc.serial(jc.parallel(layer, layer), added),
        "concat": jc.concat(layer, jc.Identity()),
        "split": jc.split(layer, jc.Identity()),
        "gate": jc.gate(layer),
        "residual": jc.residual(layer),
        "inline": jc.serial(jc.inline(layer)),
        "repeat": jc.repeat(layer, 2),
        "remat": jc.remat(layer),
        "mixed_precision": jc.mixed_precision(layer),
    }


@pytest.mark.parametrize("name", composites(Pass()))
@pytest.mark.parametrize("layer", [Shift(), Pass()], ids=["Shift", "Pass"])
def test_a_users_layer_works_in_every_composite(name, layer):
    net, x = composites(layer)[name], jnp.asarray(normal((2, 4)))
    params, state = net.init(KEY, x)
    y, same = net.apply(params, state, x)
    assert jax.tree.structure(same) == jax.tree.structure(state)
    trained, moved = jax.jit(lambda p, s, x: net.apply(p, s, x, train=True, key=KEY))(params, state, x)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(moved), strict=True):
        assert_array_equal(new, old + 1)
    np.testing.assert_allclose(trained, y, rtol=1e-2)
    assert hash(net) == hash(composites(layer)[name])
    assert net == composites(layer)[name]
    assert jc.summary(net, x).parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert jc.inspect.activations(net, params, state, x)[0].shape == y.shape


def test_an_inlined_layer_that_returns_its_state_keeps_no_siblings_state_back():
    net = jc.serial(jc.BatchNorm(), jc.inline(Pass()), shift=Shift())
    x = jnp.asarray(normal((8, 3)))
    params, state = net.init(KEY, x)
    _, moved = net.apply(params, state, x, train=True)
    _, want = jc.BatchNorm().apply(params["0"], state["0"], x, train=True)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    jax.tree.map(assert_array_equal, moved["0"], want)
    assert moved["shift"]["passes"] == 1
    assert np.any(moved["0"]["mean"] != state["0"]["mean"])
