"""Every layer, one row each: what is true of all of them, then what is particular to one."""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv import layers
from tests.nets import double, normal, randomized
from tests.ops.transforms import strict_flags

KEY = jax.random.key(7)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A layer, the shapes of its input and output, and the equivalent op: ``op(params, state, x)``."""

    layer: Any
    x: tuple[int, ...]
    y: tuple[int, ...]
    op: Callable[..., Any]
    params: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    name: str = ""

    def __str__(self):
        return self.name or type(self.layer).__name__


POOL = {"stride": (2, 1), "padding": ((1, 0), 1), "dilation": (1, 2)}

ROWS = [
    Row(
        jc.Conv(6, (3, 2), stride=(2, 1), padding=((1, 0), 1), dilation=(1, 2), groups=2),
        (2, 8, 7, 4),
        (2, 4, 7, 6),
        lambda p, s, x: jc.conv(x, **p, stride=(2, 1), padding=((1, 0), 1), dilation=(1, 2), groups=2),
        {"kernel": (3, 2, 2, 6), "bias": (6,)},
    ),
    Row(
        jc.Conv(3, (5,), pad_mode="reflect", bias=False),
        (2, 9, 2),
        (2, 9, 3),
        lambda p, s, x: jc.conv(x, p["kernel"], pad_mode="reflect"),
        {"kernel": (5, 2, 3)},
        "Conv 1-D",
    ),
    Row(
        jc.Conv(2, (2, 2, 2), padding="VALID"),
        (1, 3, 4, 3, 2),
        (1, 2, 3, 2, 2),
        lambda p, s, x: jc.conv(x, **p, padding="VALID"),
        {"kernel": (2, 2, 2, 2, 2), "bias": (2,)},
        "Conv 3-D",
    ),
    Row(
        jc.ConvTranspose(4, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 5, 6),
        (2, 8, 10, 4),
        lambda p, s, x: jc.conv_transpose(x, **p, stride=2, padding=1, output_padding=1, groups=2),
        {"kernel": (3, 3, 2, 6), "bias": (4,)},
    ),
    Row(
        jc.ConvLocal(3, 2, stride=2, padding=1),
        (2, 4, 6, 2),
        (2, 3, 4, 3),
        lambda p, s, x: jc.conv_local(x, **p, stride=2, padding=1),
        {"kernel": (3, 4, 2, 2, 2, 3), "bias": (3, 4, 3)},
    ),
    Row(
        jc.Dense(3),
        (2, 5, 4),
        (2, 5, 3),
        lambda p, s, x: jc.dense(x, **p),
        {"kernel": (4, 3), "bias": (3,)},
    ),
    Row(
        jc.Dense(3, bias=False),
        (2, 4),
        (2, 3),
        lambda p, s, x: jc.dense(x, p["kernel"]),
        {"kernel": (4, 3)},
        "Dense without bias",
    ),
    Row(jc.MaxPool((3, 2), **POOL), (2, 8, 7, 3), (2, 4, 7, 3), lambda p, s, x: jc.max_pool(x, (3, 2), **POOL)),
    Row(
        jc.MaxPool(3, stride=2, ceil_mode=True),
        (1, 6, 6, 2),
        (1, 3, 3, 2),
        lambda p, s, x: jc.max_pool(x, 3, stride=2, ceil_mode=True),
        name="MaxPool ceil_mode",
    ),
    Row(
        jc.AvgPool((3, 2), **POOL, count_include_pad=False),
        (2, 8, 7, 3),
        (2, 4, 7, 3),
        lambda p, s, x: jc.avg_pool(x, (3, 2), **POOL, count_include_pad=False),
    ),
    Row(
        jc.LpPool((3, 2), **POOL, p=3),
        (2, 8, 7, 3),
        (2, 4, 7, 3),
        lambda p, s, x: jc.lp_pool(x, (3, 2), **POOL, p=3),
    ),
    Row(jc.GlobalAvgPool(), (2, 3, 4, 5), (2, 5), lambda p, s, x: jc.global_avg_pool(x)),
    Row(jc.GlobalMaxPool(rank=1), (2, 3, 4, 5), (2, 3, 5), lambda p, s, x: jc.global_max_pool(x, rank=1)),
    Row(jc.GlobalGemPool(2.0), (2, 3, 4, 5), (2, 5), lambda p, s, x: jc.global_gem_pool(x, p["p"]), {"p": (1,)}),
    Row(
        jc.AdaptiveAvgPool((2, 3)),
        (2, 5, 7, 3),
        (2, 2, 3, 3),
        lambda p, s, x: jc.adaptive_avg_pool(x, (2, 3)),
    ),
    Row(jc.AdaptiveMaxPool(3), (2, 5, 7, 3), (2, 3, 3, 3), lambda p, s, x: jc.adaptive_max_pool(x, 3)),
    Row(jc.Flatten(), (2, 3, 4, 5), (2, 60), lambda p, s, x: x.reshape(2, 60)),
    Row(
        jc.Flatten(1, channels_first=True),
        (2, 3, 4, 5),
        (2, 3, 20),
        lambda p, s, x: x.transpose(0, 1, 3, 2).reshape(2, 3, 20),
        name="Flatten channels_first",
    ),
    Row(
        jc.BatchNorm(eps=0.1),
        (4, 3, 3, 5),
        (4, 3, 3, 5),
        lambda p, s, x: jc.batch_norm(x, **s, **p, eps=0.1),
        {"scale": (5,), "bias": (5,)},
    ),
    Row(
        jc.LayerNorm(eps=0.1),
        (4, 3, 5),
        (4, 3, 5),
        lambda p, s, x: jc.layer_norm(x, **p, eps=0.1),
        {"scale": (5,), "bias": (5,)},
    ),
    Row(
        jc.GroupNorm(2, scale=False),
        (2, 3, 4, 6),
        (2, 3, 4, 6),
        lambda p, s, x: jc.group_norm(x, 2, **p),
        {"bias": (6,)},
    ),
    Row(
        jc.InstanceNorm(eps=0.1, bias=False, rank=1),
        (2, 4, 3),
        (2, 4, 3),
        lambda p, s, x: jc.instance_norm(x, **p, eps=0.1, rank=1),
        {"scale": (3,)},
    ),
    Row(
        jc.LocalResponseNorm(3, alpha=0.5, beta=0.5, k=2.0),
        (2, 3, 3, 5),
        (2, 3, 3, 5),
        lambda p, s, x: jc.local_response_norm(x, 3, alpha=0.5, beta=0.5, k=2.0),
    ),
    Row(jc.UnitNorm(), (2, 3, 5), (2, 3, 5), lambda p, s, x: jc.unit_norm(x)),
    Row(
        jc.UnitNorm(20.0),
        (2, 3, 5),
        (2, 3, 5),
        lambda p, s, x: jc.unit_norm(x) * p["scale"],
        {"scale": (5,)},
        "UnitNorm with a scale",
    ),
    Row(jc.LayerScale(0.25), (2, 3, 5), (2, 3, 5), lambda p, s, x: x * p["scale"], {"scale": (5,)}),
    Row(jc.PReLU(), (2, 3, 5), (2, 3, 5), lambda p, s, x: jnp.where(x > 0, x, p["scale"] * x), {"scale": (1,)}),
    Row(
        jc.PReLU(shared=False),
        (2, 3, 5),
        (2, 3, 5),
        lambda p, s, x: jnp.where(x > 0, x, p["scale"] * x),
        {"scale": (5,)},
        "PReLU for each channel",
    ),
    Row(jc.Dropout(0.5), (2, 3, 5), (2, 3, 5), lambda p, s, x: x),
    Row(jc.DropPath(0.5), (2, 3, 5), (2, 3, 5), lambda p, s, x: x),
    Row(
        jc.Pad(((1, 0), (-1, 2)), mode="edge"),
        (2, 4, 4, 3),
        (2, 5, 5, 3),
        lambda p, s, x: jc.pad(x, ((1, 0), (-1, 2)), mode="edge"),
    ),
    Row(
        jc.Pad(1, value=2.0, rank=1),
        (2, 4, 3),
        (2, 6, 3),
        lambda p, s, x: jc.pad(x, 1, value=2.0, rank=1),
        name="Pad 1-D",
    ),
    Row(
        jc.Resize((5, 3), method="bicubic", align_corners=True),
        (2, 4, 4, 3),
        (2, 5, 3, 3),
        lambda p, s, x: jc.resize(x, (5, 3), method="bicubic", align_corners=True),
    ),
    Row(
        jc.Resize(factor=3, method="nearest", rank=1),
        (2, 4, 3),
        (2, 12, 3),
        lambda p, s, x: jc.resize(x, 12, method="nearest", rank=1),
        name="Resize by a factor",
    ),
    Row(jc.PixelShuffle(2), (2, 3, 4, 8), (2, 6, 8, 2), lambda p, s, x: jc.pixel_shuffle(x, 2)),
    Row(jc.ChannelShuffle(3), (2, 3, 6), (2, 3, 6), lambda p, s, x: jc.channel_shuffle(x, 3)),
    Row(jc.Identity(), (2, 3), (2, 3), lambda p, s, x: x),
    Row(jc.Fn(double), (2, 3), (2, 3), lambda p, s, x: 2 * x),
]

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
has_rank = ("Conv", "Pool", "Flatten", "GroupNorm", "InstanceNorm", "Pad", "Resize", "PixelShuffle", "Dense")
needs_batch = [row for row in ROWS if any(word in type(row.layer).__name__ for word in has_rank)]
has_params = [row for row in ROWS if row.params]


@functools.cache
def ready(row):
    """Params and state shaped like those of ``init``, and an input."""
    params, state = jax.eval_shape(lambda key: row.layer.init(key, row.x), KEY)
    return randomized(params), randomized(state, 0, 0.5, 1.5), jnp.asarray(normal(row.x))


def test_the_table_has_every_layer():
    assert {type(row.layer).__name__ for row in ROWS} == set(layers.__all__)
    assert set(layers.__all__) <= set(dir(jc))


# --- init -------------------------------------------------------------------------------------------------------------


@every_row
def test_init_gives_float32_of_these_shapes(row):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        x = jax.ShapeDtypeStruct(row.x, dtype)
        params, state = jax.eval_shape(lambda key, x=x: row.layer.init(key, x), KEY)
        assert {name: leaf.shape for name, leaf in params.items()} == row.params
        assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} <= {np.dtype(np.float32)}


@every_row
def test_a_layer_declares_what_it_stores(row):
    """With an input the shapes are those of `init`; without one, a length that only an input tells is None."""
    params, state = row.layer.init(KEY, row.x)
    stored = {("params", name): leaf for name, leaf in params.items()}
    stored |= {("state", name): leaf for name, leaf in state.items()}
    declared = row.layer.stored(jax.ShapeDtypeStruct(row.x, jnp.float32))
    assert {(a.collection, a.name): a.shape for a in declared} == {key: leaf.shape for key, leaf in stored.items()}
    for array, full in zip(row.layer.stored(), declared, strict=True):
        assert array.name == full.name
        if array.shape is not None:
            assert all(n in (None, m) for n, m in zip(array.shape, full.shape, strict=True))
        if not callable(array.init):
            assert_array_equal(stored[array.collection, array.name], np.full(full.shape, array.init))


@every_row
def test_init_takes_an_array_a_struct_or_a_shape(row):
    ways = [jnp.zeros(row.x), jax.ShapeDtypeStruct(row.x, jnp.float32), row.x, tuple(np.int64(n) for n in row.x)]
    programs = [jax.make_jaxpr(lambda key, x=x: row.layer.init(key, x))(KEY) for x in ways]
    assert len({str(program) for program in programs}) == 1


@every_row
def test_shapes_are_those_of_apply_and_of_the_table(row):
    params, state, x = ready(row)
    y, new_state = jax.eval_shape(row.layer.apply, params, state, x)
    assert y.shape == row.y
    assert y.dtype == x.dtype
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    table = jc.summary(row.layer, row.x)
    (entry,) = table.rows
    assert (entry.path, entry.layer) == ("", row.layer)
    assert (entry.input.shape, entry.output.shape) == (row.x, row.y)
    assert table.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert table.state_size == sum(leaf.size for leaf in jax.tree.leaves(state))


# --- apply ------------------------------------------------------------------------------------------------------------


@every_row
def test_the_layer_is_its_op(row):
    params, state, x = ready(row)
    y, _ = row.layer.apply(params, state, x)
    assert_array_equal(y, row.op(params, state, x))
    jitted, _ = jax.jit(row.layer.apply)(params, state, x)
    assert_allclose(jitted, y, rtol=1e-5, atol=1e-5)


@every_row
def test_eval_mode_wants_no_key_and_leaves_the_state(row):
    params, state, x = ready(row)
    _, new_state = row.layer.apply(params, state, x)
    jax.tree.map(assert_array_equal, new_state, state)


@pytest.mark.parametrize("row", needs_batch, ids=str)
def test_a_missing_batch_axis_is_an_error(row):
    params, state, _ = ready(row)
    bare = row.x[-getattr(row.layer, "rank", 0) - 1 :]
    with pytest.raises(jc.ShapeError, match=r"x must have a batch axis.* got shape"):
        row.layer.apply(params, state, jnp.zeros(bare))
    if row.params:
        with pytest.raises(jc.ShapeError, match=r"x must have a batch axis"):
            row.layer.init(KEY, bare)


@pytest.mark.parametrize("row", has_params, ids=str)
def test_a_missing_parameter_is_named_with_its_path(row):
    params, state, x = ready(row)
    net = jc.serial(features=jc.serial(jc.Identity(), row.layer))
    kind = type(row.layer).__name__
    for name in params:
        left = {other: leaf for other, leaf in params.items() if other != name}
        with pytest.raises(jc.ParameterError) as raised:
            net.apply({"features": {"1": left}}, {"features": {"1": state}}, x)
        has = ", ".join(map(repr, left)) or "none"
        assert str(raised.value) == f"features.1 ({kind}): params must have an entry {name!r}, got {has}"


def test_a_missing_state_is_named_with_its_path():
    net = jc.serial(bn=jc.BatchNorm())
    params, _ = net.init(KEY, (2, 3))
    with pytest.raises(jc.ParameterError, match=r"^bn \(BatchNorm\): state must have an entry 'mean', got none$"):
        net.apply(params, {}, jnp.ones((2, 3)))


# --- Layers are data --------------------------------------------------------------------------------------------------

NAMES = {name: getattr(jc, name) for name in dir(jc) if not name.startswith("_")} | {"jax": jax}


@every_row
def test_repr_makes_an_equal_layer(row):
    import tests.nets

    names = NAMES | {"tests": __import__("types").SimpleNamespace(nets=tests.nets)}
    assert eval(repr(row.layer), names) == row.layer
    assert repr(eval(repr(row.layer), names)) == repr(row.layer)


@every_row
def test_equality_hash_copy_and_pickle(row):
    layer = row.layer
    for same in (dataclasses.replace(layer), copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(same) is type(layer)
        assert same == layer
        assert hash(same) == hash(layer)
    assert [other.layer == layer for other in ROWS].count(True) == 1
    assert layer != "a string"


@every_row
def test_a_layer_is_frozen(row):
    fields = dataclasses.fields(row.layer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.layer.anything = 1
    for field in fields:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(row.layer, field.name, 1)


def test_replace_changes_a_hyperparameter_and_checks_it():
    layer = jc.Conv(8, 3, stride=2)
    assert dataclasses.replace(layer, features=4) == jc.Conv(4, 3, stride=2)
    assert dataclasses.replace(layer, features=4) != layer
    with pytest.raises(jc.ArgumentError, match="features must be at least 1, got 0"):
        dataclasses.replace(layer, features=0)


def test_initializers_take_no_part_in_equality():
    ones = jax.nn.initializers.ones
    for layer in (jc.Conv, jc.ConvTranspose, jc.ConvLocal, jc.Dense):
        assert layer(8, kernel_init=ones, bias_init=ones) == layer(8)
        assert hash(layer(8, kernel_init=ones)) == hash(layer(8))
        assert layer(8, bias=False) != layer(8)
    params, _ = jc.Conv(8, kernel_init=ones, bias_init=ones).init(KEY, (1, 4, 4, 3))
    assert_array_equal(params["kernel"], np.ones((3, 3, 3, 8)))
    assert_array_equal(params["bias"], np.ones(8))


def test_repr_shows_what_differs_from_the_default():
    assert repr(jc.Conv(8)) == "Conv(features=8)"
    assert repr(jc.Conv(8, [3, 5], stride=2)) == "Conv(features=8, window=(3, 5), stride=2)"
    assert repr(jc.BatchNorm()) == "BatchNorm()"
    assert repr(jc.Fn(jax.nn.relu)) == f"Fn(function={jax.nn.relu.__module__}.relu)"
    assert repr(jc.Fn(jnp.negative)).endswith(".negative)")
    assert repr(jc.Fn(functools.partial(jax.nn.leaky_relu, negative_slope=0.2))) == (
        f"Fn(function=functools.partial({jax.nn.leaky_relu.__module__}.leaky_relu, negative_slope=0.2))"
    )
    assert repr(jc.Conv(8, kernel_init=jax.nn.initializers.zeros)).endswith("initializers.zeros)")


def test_lists_become_tuples_so_that_a_layer_hashes():
    layer = jc.Conv(8, [3, 5], padding=[[1, 2], 0])
    assert (layer.window, layer.padding) == ((3, 5), ((1, 2), 0))
    assert layer == jc.Conv(8, (3, 5), padding=((1, 2), 0))
    assert isinstance(hash(layer), int)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jc.Conv(0), "features must be at least 1, got 0"),
        (lambda: jc.Conv(2.0), "features must be an integer, got 2.0"),
        (lambda: jc.Dense(True), "features must be an integer, got True"),
        (lambda: jc.Conv(8, 0), "window must be at least 1, got 0"),
        (
            lambda: jc.Conv(8, (3, 3), stride=(1, 2, 3)),
            "stride must be an int or one int for each of the 2 spatial axes",
        ),
        (lambda: jc.Conv(8, stride=-1), "stride must be at least 1, got -1"),
        (lambda: jc.Conv(8, padding="FULL"), "padding must be one of VALID, SAME, SAME_LOWER"),
        (lambda: jc.Conv(8, groups=0), "groups must be at least 1, got 0"),
        (lambda: jc.Conv(8, groups=3), "groups must divide features, got 3 groups for 8 features"),
        (lambda: jc.ConvTranspose(8, groups=3), "groups must divide features, got 3 groups for 8 features"),
        (lambda: jc.Conv(8, pad_mode="mirror"), "pad_mode must be one of zeros, reflect, edge, circular, got 'mirror'"),
        (lambda: jc.ConvTranspose(8, output_padding=1), "padding must be integers where output_padding is given"),
        (lambda: jc.ConvTranspose(8, stride=2, padding=0, output_padding=2), "output_padding must be smaller than"),
        (lambda: jc.MaxPool(()), "window must have at least one axis, got ()"),
        (lambda: jc.MaxPool(2, dilation=0), "dilation must be at least 1, got 0"),
        (lambda: jc.AdaptiveAvgPool((2, 2, 2)), "size must be an int or one int for each of the 2 spatial axes"),
        (lambda: jc.GlobalAvgPool(rank=0), "rank must be at least 1, got 0"),
        (lambda: jc.Flatten(0), "rank must be at least 1, got 0"),
        (lambda: jc.BatchNorm(momentum=1.5), "momentum must be between 0 and 1, got 1.5"),
        (lambda: jc.BatchNorm(eps=-1.0), "eps must not be negative, got -1.0"),
        (lambda: jc.GroupNorm(0), "groups must be at least 1, got 0"),
        (lambda: jc.LocalResponseNorm(0), "size must be at least 1, got 0"),
        (lambda: jc.Dropout(1.5), "rate must be between 0 and 1, got 1.5"),
        (lambda: jc.DropPath(-0.5), "rate must be between 0 and 1, got -0.5"),
        (lambda: jc.Resize(), "exactly one of size and factor must be given, got None and None"),
        (lambda: jc.Resize(8, factor=2), "exactly one of size and factor must be given, got 8 and 2"),
        (lambda: jc.Resize(factor=0), "factor must be at least 1, got 0"),
        (lambda: jc.PixelShuffle(0), "factor must be at least 1, got 0"),
    ],
)
def test_what_no_input_can_make_right_raises_at_construction(make, message):
    with pytest.raises(jc.ArgumentError) as raised:
        make()
    assert str(raised.value).startswith(message)


def test_a_function_must_be_callable():
    with pytest.raises(TypeError, match=r"^function must be callable, got 'relu'$"):
        jc.Fn("relu")


@pytest.mark.parametrize(
    ("error", "layer", "shape", "message"),
    [
        (
            jc.ShapeError,
            jc.Conv(4, groups=2),
            (1, 4, 4, 3),
            "groups must divide the channels of x, got 2 groups for 3 channels",
        ),
        (
            jc.ShapeError,
            jc.ConvTranspose(4, groups=2),
            (1, 4, 4, 3),
            "groups must divide the channels of x, got 2 groups",
        ),
        (
            jc.ShapeError,
            jc.GroupNorm(2),
            (1, 4, 4, 3),
            "groups must divide the channels of x, got 2 groups for 3 channels",
        ),
        (
            jc.ShapeError,
            jc.ConvLocal(4, 5),
            (1, 4, 4, 3),
            "window must be at most the padded input, 4 + 0 + 0 = 4, got 5 on spatial axis 0",
        ),
        (jc.ShapeError, jc.Conv(4), (1, 0, 4, 3), "x must have no empty spatial axis, got shape (1, 0, 4, 3)"),
        (jc.ShapeError, jc.InstanceNorm(), (1, 4, 0, 3), "x must have no empty spatial axis, got shape (1, 4, 0, 3)"),
        (
            jc.ArgumentError,
            jc.Dense(3),
            "8",
            "x must be an array, a ShapeDtypeStruct or a shape tuple, batch axis included, got '8'",
        ),
    ],
)
def test_what_an_input_makes_wrong_raises_in_init(error, layer, shape, message):
    with pytest.raises(error) as raised:
        layer.init(KEY, shape)
    assert str(raised.value).startswith(message)


# --- Initializers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in", "gain"),
    [
        (jc.Conv(64, 3), (1, 8, 8, 16), 3 * 3 * 16, 2),
        (jc.Conv(64, 3, groups=4), (1, 8, 8, 64), 3 * 3 * 16, 2),
        (jc.ConvTranspose(64, 3), (1, 8, 8, 16), 3 * 3 * 16, 2),
        (jc.ConvLocal(16, 3), (1, 4, 4, 16), 3 * 3 * 16, 2),
        (jc.Dense(64), (1, 144), 144, 1),
    ],
)
def test_the_default_kernel_has_the_papers_variance(layer, shape, fan_in, gain):
    params, _ = jax.jit(lambda key: layer.init(key, shape))(KEY)
    kernel = np.asarray(params["kernel"], np.float64)
    assert_allclose(kernel.var(), gain / fan_in, rtol=0.06)
    assert abs(kernel.mean()) < 5 * kernel.std() / np.sqrt(kernel.size)
    assert not np.any(params["bias"])


# --- BatchNorm --------------------------------------------------------------------------------------------------------


def test_batch_norm_trains_as_torch_says():
    layer = jc.BatchNorm(momentum=0.3, eps=1e-3)
    x = normal((4, 3, 5, 2), 1) * 3 + 7
    params, state = layer.init(KEY, x)
    params, state = randomized(params), randomized(state, 1, 0.5, 1.5)
    y, new = layer.apply(params, state, x, train=True)
    wide = x.astype(np.float64)
    mean, biased, unbiased = wide.mean((0, 1, 2)), wide.var((0, 1, 2)), wide.var((0, 1, 2), ddof=1)
    want = (wide - mean) / np.sqrt(biased + 1e-3) * params["scale"] + params["bias"]
    assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    assert_allclose(new["mean"], 0.7 * state["mean"] + 0.3 * mean, rtol=1e-6)
    assert_allclose(new["var"], 0.7 * state["var"] + 0.3 * unbiased, rtol=1e-5)
    # Afterwards the running statistics are what counts.
    y, same = layer.apply(params, new, x)
    want = (wide - new["mean"]) / np.sqrt(np.asarray(new["var"], np.float64) + 1e-3) * params["scale"] + params["bias"]
    assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    jax.tree.map(assert_array_equal, same, new)


@pytest.mark.parametrize("axis_name", ["batch", ("batch",), ("batch", "more")])
def test_batch_norm_over_a_mapped_axis_is_that_of_the_whole_batch(axis_name):
    x = jnp.asarray(normal((2, 3, 4, 5)))
    whole = jc.BatchNorm()
    params, state = whole.init(KEY, x)
    params = randomized(params)
    parts = jc.BatchNorm(axis_name=axis_name)

    def run(x):
        return parts.apply(params, state, x, train=True)

    for name in ("more", "batch"):
        if name in axis_name:
            run = jax.vmap(run, axis_name=name)
    want, want_state = whole.apply(params, state, x, train=True)
    y, new_state = run(x)
    for name, leaf in new_state.items():
        for mapped in leaf.reshape(-1, 5):
            assert_allclose(mapped, want_state[name], rtol=1e-5, atol=1e-6)
    assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_batch_norm_keeps_float32_statistics_of_half_types():
    layer = jc.BatchNorm()
    x = jnp.asarray(normal((64, 4)) * 0.01 + 100, jnp.bfloat16)
    params, state = layer.init(KEY, x)
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    y, new = layer.apply(params, state, x, train=True)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in new.values()} == {np.dtype(np.float32)}
    assert_allclose(new["mean"], 0.1 * np.asarray(x, np.float64).mean(0), rtol=1e-6)


def test_batch_norm_wants_two_values_and_stops_the_statistics_gradient():
    layer = jc.BatchNorm()
    params, state = layer.init(KEY, (1, 3))
    with pytest.raises(jc.ShapeError, match="x must have more than one value for each channel in training"):
        layer.apply(params, state, jnp.ones((1, 3)), train=True)

    def running(x):
        return layer.apply(params, state, x, train=True)[1]["var"].sum()

    assert_array_equal(jax.grad(running)(jnp.asarray(normal((4, 3)))), np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (jc.InstanceNorm(), (4, 1, 1, 6)),
        (jc.InstanceNorm(rank=1), (4, 2, 1, 6)),
        (jc.GroupNorm(6), (1, 1, 1, 6)),
        (jc.GroupNorm(6), (4, 1, 1, 6)),
    ],
    ids=str,
)
def test_the_norm_of_one_value_is_an_error_in_training(layer, shape):
    net = jc.serial(features=jc.serial(norm=layer))
    params, state = net.init(KEY, shape)
    x = jnp.asarray(normal(shape))
    with pytest.raises(jc.ShapeError) as raised:
        net.apply(params, state, x, train=True)
    assert str(raised.value) == (
        f"features.norm ({type(layer).__name__}): x must have more than one value for each mean in training, "
        f"got shape {shape}"
    )
    assert_array_equal(net.apply(params, state, x)[0], np.zeros(shape))
    wide = jnp.concatenate([x, x], axis=-2)
    assert net.apply(params, state, wide + jnp.asarray(normal(wide.shape)), train=True)[0].any()


def test_groups_of_two_values_and_layer_norm_of_one_are_as_in_torch():
    x = jnp.asarray(normal((4, 1, 1, 6)))
    for layer in (jc.GroupNorm(3), jc.LayerNorm()):
        params, _ = layer.init(KEY, x)
        assert layer.apply(params, {}, x, train=True)[0].any()
    assert_array_equal(
        jc.LayerNorm().apply({"scale": jnp.ones(1), "bias": jnp.ones(1)}, {}, x[..., :1], train=True)[0], 1
    )


# --- Flags ------------------------------------------------------------------------------------------------------------


@every_row
def test_strict_flags_stop_nothing(row):
    params, state, x = ready(row)

    def everything(params, x, key):
        y, pullback = jax.vjp(lambda p, x: row.layer.apply(p, state, x, train=True, key=key)[0], params, x)
        return row.layer.init(key, x), row.layer.apply(params, state, x), pullback(y)

    with strict_flags():
        jax.jit(everything).lower(params, x, KEY)


# --- Noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [jc.Dropout(0.5), jc.DropPath(0.5)])
def test_noise_wants_a_key_in_training_only(layer):
    net = jc.serial(features=jc.serial(jc.Identity(), jc.Identity(), jc.Identity(), layer))
    x = jnp.ones((64, 3))
    assert_array_equal(net.apply({}, {}, x)[0], x)
    with pytest.raises(jc.MissingKeyError) as raised:
        net.apply({}, {}, x, train=True)
    assert str(raised.value) == f"features.3 ({type(layer).__name__}): key must be given in training, got None"
    y, _ = net.apply({}, {}, x, train=True, key=KEY)
    assert set(np.unique(y)) == {0.0, 2.0}
    assert_array_equal(net.apply({}, {}, x, train=True, key=KEY)[0], y)
    assert np.any(net.apply({}, {}, x, train=True, key=jax.random.key(8))[0] != y)
    whole_examples = bool(np.all(np.asarray(y) == np.asarray(y)[:, :1]))
    assert whole_examples == isinstance(layer, jc.DropPath)


@pytest.mark.parametrize("layer", [jc.Dropout(0.0), jc.DropPath(0)])
def test_no_noise_wants_no_key(layer):
    x = jnp.ones((2, 3))
    assert_array_equal(layer.apply({}, {}, x, train=True)[0], x)


@pytest.mark.parametrize("kind", [jc.Dropout, jc.DropPath])
def test_noise_is_the_ops(kind):
    op = {jc.Dropout: jc.dropout, jc.DropPath: jc.drop_path}[kind]
    x = jnp.asarray(normal((16, 3)))
    assert_array_equal(kind(0.3).apply({}, {}, x, train=True, key=KEY)[0], op(x, 0.3, KEY))


# --- Others -----------------------------------------------------------------------------------------------------------


def test_flatten_channels_first_is_torchs_order():
    x = np.arange(24).reshape(1, 2, 3, 4)
    y, _ = jc.Flatten(channels_first=True).apply({}, {}, jnp.asarray(x))
    assert_array_equal(y, np.moveaxis(x, -1, 1).reshape(1, 24))


@pytest.mark.parametrize("value", [0.25, 0.1])
def test_prelu_begins_with_its_slope(value):
    params, _ = jc.PReLU(value).init(KEY, (1, 3))
    y, _ = jc.PReLU(value).apply(params, {}, jnp.array([[-2.0, 0.0, 2.0]]))
    assert_allclose(y, [[-2 * value, 0, 2]], rtol=1e-6)
    with pytest.raises(jc.ShapeError, match=r"scale must have shape \(1,\) for x"):
        jc.PReLU(value).apply({"scale": jnp.ones(3)}, {}, jnp.ones((1, 3)))


def test_layer_scale_begins_small():
    params, _ = jc.LayerScale(1e-4).init(KEY, (1, 3))
    assert_allclose(params["scale"], np.full(3, 1e-4), rtol=1e-6)
    with pytest.raises(jc.ShapeError, match=r"scale must have shape \(3,\) for x of shape"):
        jc.LayerScale().apply({"scale": jnp.ones(4)}, {}, jnp.ones((1, 3)))


@pytest.mark.parametrize(
    ("layer", "other"),
    [
        (jc.AvgPool(2), jc.MaxPool),
        (jc.LpPool(2), jc.MaxPool),
        (jc.GlobalMaxPool(), jc.GlobalAvgPool),
        (jc.AdaptiveMaxPool(2), jc.AdaptiveAvgPool),
        (jc.DropPath(0.5), jc.Dropout),
    ],
)
def test_a_layer_is_no_instance_of_its_sibling(layer, other):
    assert not isinstance(layer, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jc.Pad(1, mode="mirror"), "mode must be one of"),
        (lambda: jc.Pad([1, 2, 3]), "padding must have"),
        (lambda: jc.Resize(4, method="lanczos"), "method must be one of"),
        (
            lambda: jc.Resize(4, method="nearest", antialias=True),
            "method must be bilinear or bicubic for antialias, got",
        ),
        (lambda: jc.LpPool(2, p=0.5), "p must be at least 1"),
        (lambda: jc.LpPool(2, p=float("inf")), "p must be at least 1 and finite"),
        (lambda: jc.LayerNorm(-1.0), "eps must not be negative"),
        (lambda: jc.GroupNorm(2, -1.0), "eps must not be negative"),
        (lambda: jc.InstanceNorm(-1.0), "eps must not be negative"),
    ],
)
def test_what_suits_no_input_is_refused_when_the_layer_is_made(make, message):
    with pytest.raises(jc.ArgumentError, match=message):
        make()


def test_an_initializer_prints_where_a_name_leads_to_it():
    assert repr(jc.Conv(8, kernel_init=jax.nn.initializers.he_uniform())) == "Conv(features=8)"
    shown = repr(jc.Conv(8, kernel_init=jax.nn.initializers.zeros))
    assert shown == f"Conv(features=8, kernel_init={jax.nn.initializers.zeros.__module__}.zeros)"
