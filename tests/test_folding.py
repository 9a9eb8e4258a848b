"""Batch norms and layer scales folded into linear layers: the same outputs, and what is said of each."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxconv as jc
from jaxconv.folding import SCALING
from jaxconv.tree import walk
from tests.nets import Twice, networks

relu = jax.nn.relu
SHAPE = (2, 6, 5, 4)


def drawn(net, x, seed=0):
    """Params, state and input of random numbers; variances are positive, and some near zero."""
    params, state = jax.eval_shape(lambda key: net.init(key, x), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        positive = path[-1].key in ("var", "scale")
        return jnp.asarray(rng.uniform(0.05, 2, leaf.shape) if positive else rng.normal(size=leaf.shape), leaf.dtype)

    params, state = jax.tree_util.tree_map_with_path(fill, (params, state))
    x = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), x, is_leaf=lambda s: isinstance(s, tuple))
    return params, state, x


def close(got, want, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


def check(net, x=SHAPE, given_x=None):
    """Folds, compares the outputs, and returns the report."""
    params, state, value = drawn(net, x)
    folded, new, left = jc.fold(net, params, state, given_x)
    report = jc.fold_report(net, given_x)
    close(folded.apply(new, left, value)[0], net.apply(params, state, value)[0])
    assert jc.fold_report(folded, given_x) == report
    # Every one is in the report, and only those that are folded are gone.
    norms = {path for path, layer in walk(net) if isinstance(layer, SCALING)}
    assert norms <= report.folded.keys() | report.kept.keys()
    assert norms & report.kept.keys() == {p for p, layer in walk(folded) if isinstance(layer, SCALING)}
    # The other layers keep their places and their arrays.
    assert [path for path, _ in walk(folded)] == [path for path, _ in walk(net)]
    wanted = jax.eval_shape(lambda key: folded.init(key, x), jax.random.key(0))
    assert jax.tree.structure(wanted) == jax.tree.structure((new, left))
    assert [a.shape for a in jax.tree.leaves(wanted)] == [a.shape for a in jax.tree.leaves((new, left))]
    return report


CONVS = {
    "plain": jc.Conv(6),
    "no bias": jc.Conv(6, bias=False),
    "strided": jc.Conv(6, (3, 2), stride=2, dilation=(1, 2)),
    "grouped": jc.Conv(6, groups=2, bias=False),
    "depthwise": jc.Conv(8, groups=4),
    "transposed": jc.ConvTranspose(6, 4, stride=2, bias=False),
    "grouped transposed": jc.ConvTranspose(6, 3, groups=2, stride=2, output_padding=0, padding=1),
    "local": jc.ConvLocal(3, 2),
    "local without bias": jc.ConvLocal(3, 2, bias=False),
    "dense": jc.Dense(7),
    "dense without bias": jc.Dense(7, bias=False),
}


@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
def test_a_batch_norm_after_a_linear_layer(conv):
    report = check(jc.serial(conv=conv, bn=jc.BatchNorm(eps=1e-3), relu=relu))
    assert (report.folded, report.kept) == ({"bn": "conv"}, {})


@pytest.mark.parametrize("options", [{"scale": False}, {"bias": False}, {"scale": False, "bias": False, "eps": 0.0}])
def test_a_batch_norm_without_scale_or_bias(options):
    assert check(jc.serial(jc.Conv(3, bias=False), jc.BatchNorm(**options))).folded == {"1": "0"}


BEFORE = {
    "valid": jc.Conv(6, padding="VALID"),
    "no padding": jc.Conv(6, (2, 3), padding=0, stride=2, bias=False),
    "1x1": jc.Conv(6, 1, stride=2),
    "grouped": jc.Conv(6, padding="VALID", groups=2, bias=False),
    "depthwise": jc.Conv(8, padding=((0, 0), 0), groups=4),
    "reflected": jc.Conv(6, padding=1, pad_mode="reflect"),
    "local": jc.ConvLocal(3, 2, bias=False),
    "dense": jc.Dense(7),
}


@pytest.mark.parametrize("conv", BEFORE.values(), ids=BEFORE)
def test_a_batch_norm_before_a_linear_layer_without_padding(conv):
    report = check(jc.serial(relu=relu, bn=jc.BatchNorm(), conv=conv))
    assert (report.folded, report.kept) == ({"bn": "conv"}, {})


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (jc.Conv(6), "pads its input with zeros"),
        (jc.Conv(6, padding=((0, 1), 0)), "pads its input with zeros"),
        (jc.Conv(6, 2, stride=2), "pads its input with zeros"),
        (jc.ConvTranspose(6), "sums a number of elements"),
    ],
)
def test_a_batch_norm_before_a_layer_that_pads_is_kept(conv, reason):
    report = check(jc.serial(relu=relu, bn=jc.BatchNorm(), conv=conv))
    assert not report.folded
    assert reason in report.kept["bn"]


def test_with_the_shape_of_the_input_padding_that_is_none_is_seen():
    net = jc.serial(bn=jc.BatchNorm(), conv=jc.Conv(6, 2, stride=2))
    assert "pads" in check(net, (1, 4, 4, 2)).kept["bn"]
    assert check(net, (1, 4, 4, 2), (1, 4, 4, 2)).folded == {"bn": "conv"}
    assert "pads" in check(net, (1, 5, 5, 2), (1, 5, 5, 2)).kept["bn"]


def bottleneck(features):
    body = {"conv1": jc.Conv(3, 1, bias=False), "bn1": jc.BatchNorm(), "relu": relu, "conv2": jc.Conv(features)}
    return jc.serial(**body, bn2=jc.BatchNorm())


SHORTCUT = jc.serial(jc.Conv(4, 1, bias=False), jc.BatchNorm())
COMPOSITIONS = {
    "residual": (
        jc.residual(bottleneck(4), SHORTCUT, after=relu, name="downsample"),
        {"bn1": "conv1", "bn2": "conv2", "downsample.1": "downsample.0"},
    ),
    "the end of a body": (jc.serial(jc.residual(jc.Conv(4)), bn=jc.BatchNorm()), {}),
    "concat": (
        jc.concat(jc.serial(jc.Conv(2), jc.BatchNorm()), jc.serial(jc.Conv(3), relu, jc.BatchNorm(), jc.Conv(3, 1))),
        {"0.1": "0.0", "1.2": "1.3"},
    ),
    "parallel": (jc.parallel(a=jc.serial(jc.Conv(2), jc.BatchNorm()), b=jc.BatchNorm()), {"a.1": "a.0"}),
    "split": (jc.split(jc.serial(jc.Conv(2), jc.BatchNorm()), jc.Identity()), {"0.1": "0.0"}),
    "gate": (jc.gate(jc.serial(jc.GlobalAvgPool(), jc.Dense(4), jc.BatchNorm(), jax.nn.sigmoid)), {"2": "1"}),
    "across levels": (
        jc.serial(stem=jc.serial(jc.Conv(3), jc.Dropout(0.5)), norm=jc.serial(jc.Identity(), jc.BatchNorm())),
        {"norm.1": "stem.0"},
    ),
    "inline": (jc.serial(jc.inline(jc.serial(conv=jc.Conv(3, bias=False))), jc.inline(jc.serial(bn=jc.BatchNorm()))),
               {"bn": "conv"}),
    "leaves at one level": (jc.serial(a=jc.serial(jc.inline(jc.Conv(3, bias=False)), jc.BatchNorm())), {"a.1": "a"}),
    "remat": (jc.serial(jc.remat(jc.Conv(3)), jc.remat(jc.BatchNorm())), {"1": "0"}),
    "repeat": (jc.serial(blocks=jc.repeat(jc.residual(bottleneck(4)), 3)), {"blocks.bn1": "blocks.conv1",
                                                                          "blocks.bn2": "blocks.conv2"}),
    "repeat of repeat": (jc.repeat(jc.repeat(jc.serial(bn=jc.BatchNorm(), conv=jc.Conv(4, 1)), 2), 2), {"bn": "conv"}),
    "across a repeat": (jc.serial(jc.Conv(4), jc.repeat(jc.BatchNorm(), 2)), {}),
    "frozen": (jc.frozen(bottleneck(4)), {"bn1": "conv1", "bn2": "conv2"}),
    "each frozen": (jc.serial(jc.frozen(jc.Conv(4)), jc.frozen(jc.BatchNorm())), {"1": "0"}),
    "half frozen": (jc.serial(jc.frozen(jc.Conv(4)), jc.BatchNorm()), {}),
    "both sides": (jc.serial(a=jc.BatchNorm(), b=jc.Conv(3, 1, bias=False), c=jc.BatchNorm(), d=jc.BatchNorm()),
                   {"a": "b", "c": "b", "d": "b"}),
    "shared": (jc.serial(jc.parallel(jc.Identity(), jnp.abs), jc.shared(bottleneck(4))),
               {"1.bn1": "1.conv1", "1.bn2": "1.conv2"}),
    "resized": (jc.resized(jc.serial(jc.Conv(3, stride=2), jc.BatchNorm())), {"1": "0"}),
    "auxiliary": (
        jc.auxiliary(jc.serial(a=jc.Conv(3), b=jc.BatchNorm()), head=("a", jc.serial(jc.Dense(2), jc.BatchNorm()))),
        {"b": "a"},
    ),
    "the layer itself": (jc.BatchNorm(), {}),
}  # fmt: skip


@pytest.mark.parametrize(("net", "folded"), COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_composites(net, folded):
    assert check(net).folded == folded


def test_reasons():
    net = jc.serial(
        a=jc.BatchNorm(),
        b=jc.concat(jc.Conv(2), jc.Conv(3)),
        c=jc.BatchNorm(),
        d=relu,
        e=jc.serial(jc.Conv(2), jc.MaxPool(2), jc.BatchNorm()),
    )
    assert check(net).kept == {
        "a": "its input is the network's input; its output is read by 2 layers",
        "c": "its input is a function of other layers' outputs; its output is the input of 'd' (Fn)",
        "e.2": "its input is the output of 'e.1' (MaxPool); its output is joined with others, or returned",
    }


def test_a_feature_map_of_a_backbone_stays_what_it_is():
    net = jc.serial(conv=jc.Conv(3), bn=jc.BatchNorm(), relu=relu)
    report = check(jc.backbone(net, ["conv", "relu"]))
    assert report.kept == {"bn": "other layers read the output of 'conv' too; its output is the input of 'relu' (Fn)"}
    assert check(jc.backbone(net, ["bn"])).folded == {"bn": "conv"}


# --- Layers that run several times ------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Wired(jc.Composite):
    """Runs children by wires (child, what it reads), and adds the outputs that none reads."""

    children: Any
    wires: Any

    def route(self, run, x):
        layers, found = dict(self.children), [x]
        unread = set()
        for name, source in self.wires:
            found.append(run(name, layers[name], found[source]))
            unread = (unread - {source}) | {len(found) - 1}
        return run.join(lambda *ys: sum(ys), *(found[i] for i in sorted(unread)))


def wired(*wires, **layers):
    return Wired(tuple(layers.items()), wires)


PAIR = {"conv": jc.Conv(4), "bn": jc.BatchNorm()}


def test_a_convolution_that_runs_twice_each_time_before_the_same_batch_norm():
    net = wired(("conv", 0), ("bn", 1), ("conv", 2), ("bn", 3), **PAIR)
    assert check(net).folded == {"bn": "conv"}


def test_a_convolution_that_runs_twice_once_before_the_batch_norm():
    net = wired(("conv", 0), ("bn", 1), ("conv", 2), **PAIR)
    assert check(net).kept == {"bn": "other layers read the output of 'conv' too; 'conv' has other inputs too"}


def test_a_batch_norm_that_follows_two_layers():
    net = wired(("conv", 0), ("bn", 1), ("other", 0), ("bn", 3), **PAIR, other=jc.Conv(4, 1))
    assert check(net).kept["bn"].startswith("its input is the output of several layers")


def test_a_batch_norm_that_two_layers_read():
    net = wired(
        ("relu", 0), ("bn", 1), ("a", 2), ("b", 2), relu=jc.Fn(relu), bn=jc.BatchNorm(), a=jc.Conv(4, 1), b=jc.Dense(4)
    )
    assert check(net).kept == {"bn": "its input is the output of 'relu' (Fn); its output is read by 2 layers"}
    net = wired(("conv", 0), ("bn", 1), ("a", 2), ("b", 2), **PAIR, a=jc.Conv(4, 1), b=jc.Dense(4))
    assert check(net).folded == {"bn": "conv"}


def test_a_convolution_that_two_layers_read():
    net = wired(("conv", 0), ("bn", 1), ("relu", 1), **PAIR, relu=jc.Fn(relu))
    assert not check(net).folded


def test_one_layer_object_under_two_names():
    conv, norm = jc.Conv(4), jc.BatchNorm()
    assert check(jc.serial(a=conv, b=norm, c=conv, d=relu, e=norm)).folded == {"b": "a"}


# --- Composites that are not followed ---------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Picky(jc.Composite):
    """Looks at shapes."""

    children: Any

    def route(self, run, x):
        assert x.ndim == 4
        for name, layer in self.children:
            x = run(name, layer, x)
        return x


@dataclass(frozen=True, repr=False)
class Halved(jc.Composite):
    """Computes with other params."""

    children: Any

    def route(self, run, x):
        ((name, layer),) = self.children
        return run(name, layer, x)

    def apply(self, params, state, x, *, train=False, key=None):
        return super().apply(jax.tree.map(lambda a: a / 2, params), state, x, train=train, key=key)


@dataclass(frozen=True, repr=False)
class Fixed(jc.Composite):
    """Has children that no other can replace."""

    conv: Any
    bn: Any

    @property
    def children(self):
        return (("conv", self.conv), ("bn", self.bn))

    def route(self, run, x):
        return run("bn", self.bn, run("conv", self.conv, x))


def test_a_route_that_reads_shapes_is_followed_with_a_shape():
    net = Picky((("conv", jc.Conv(3)), ("bn", jc.BatchNorm()), ("body", bottleneck(4))))
    report = check(net)
    assert report.folded == {"body.bn1": "body.conv1", "body.bn2": "body.conv2"}
    assert "Picky, which reads shapes: give x" in report.kept["bn"]
    assert check(net, SHAPE, SHAPE).folded == {"bn": "conv", **report.folded}


def test_composites_that_compute_otherwise_are_left_alone():
    pair = jc.serial(conv=jc.Conv(3), bn=jc.BatchNorm())
    net = jc.serial(
        a=Halved((("body", pair),)),
        b=Twice((("body", jc.serial(jc.Conv(3), jc.BatchNorm())),)),
        c=Fixed(*[layer for _, layer in pair.children]),
    )
    assert check(net).kept == {
        "a.body.bn": "a (Halved) has its own apply",
        "b.body.1": "b (Twice) is not a Composite",
        "c.bn": "c (Fixed) has children that with_children cannot replace",
    }


def test_a_subclass_of_batch_norm_is_left_alone():
    @dataclass(frozen=True, repr=False)
    class Doubled(jc.BatchNorm):
        def apply(self, *args, **kwargs):
            y, state = super().apply(*args, **kwargs)
            return 2 * y, state

    assert check(jc.serial(jc.Conv(3), Doubled())).kept == {"1": "Doubled is a subclass of BatchNorm"}


def test_a_bias_that_would_take_anothers_place():
    net = jc.serial(jc.inline(jc.Conv(3, bias=False)), bn=jc.BatchNorm(), after=jc.Fn(relu), norm=jc.LayerNorm())
    assert check(net).folded == {"bn": ""}
    beside = jc.serial(jc.inline(jc.Conv(3, bias=False)), jc.inline(jc.LayerNorm()))
    net = jc.serial(jc.inline(jc.Conv(3, bias=False)), jc.BatchNorm(), jc.inline(jc.LayerNorm()))
    assert "cannot have a bias" in check(net).kept["1"]
    assert not check(beside).kept


def test_flax_modules_are_left_alone():
    linen = pytest.importorskip("flax.linen")
    from jaxconv.interop.flax import from_linen

    module = from_linen(linen.BatchNorm())
    net = jc.serial(conv=jc.Conv(3), flax=module, bn=jc.BatchNorm())
    report = check(net)
    assert report.unseen == {"flax": "FromLinen"}
    assert report.kept["bn"].startswith("its input is the output of 'flax' (FromLinen)")


# --- Networks, gradients, training ------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(networks(("conv", "transpose", "local", "norm", "norm", "residual", "concat", "gate", "repeat", "split", "remat",
                 "pointwise", "noise", "pool"), ranks=(1, 2, 3), sizes=(4, 8)), st.integers(0, 2**32 - 1))  # fmt: skip
def test_random_networks(drawn_net, seed):
    net, shape = drawn_net
    params, state, x = drawn(net, shape, seed)
    want = net.apply(params, state, x)[0]
    for known in (None, shape):
        folded, new, left = jc.fold(net, params, state, known)
        close(folded.apply(new, left, x)[0], want, 1e-4)


def test_it_is_differentiable_under_jit():
    net = jc.serial(conv=jc.Conv(3, bias=False), bn=jc.BatchNorm(), relu=jnp.tanh, blocks=jc.repeat(bottleneck(3), 2))
    params, state, x = drawn(net, SHAPE)

    def loss(params, state, folded):
        used = jc.fold(net, params, state) if folded else (net, params, state)
        return jnp.sum(jnp.sin(used[0].apply(*used[1:], x)[0]))

    for arguments in (0, 1):
        got, want = (jax.jit(jax.grad(loss, arguments), static_argnums=2)(params, state, f) for f in (True, False))
        assert jax.tree.structure(got) == jax.tree.structure(want)
        close(got, want, 1e-4)


def test_training_is_refused_with_the_path():
    net = jc.serial(stem=jc.Conv(3), body=jc.residual(bottleneck(3)))
    folded, params, state = jc.fold(net, *drawn(net, SHAPE)[:2])
    with pytest.raises(jc.ShapeError, match=r"^body\.bn1 \(Folded\): train must be False .* 'body\.conv1', got True"):
        folded.apply(params, state, jnp.ones(SHAPE), train=True)


def test_a_frozen_batch_norm_is_folded_and_training_goes_on():
    net = jc.serial(features=jc.frozen(bottleneck(4)), drop=jc.Dropout(0.5), scores=jc.Dense(2))
    params, state, x = drawn(net, SHAPE)
    folded, new, left = jc.fold(net, params, state)
    key = jax.random.key(1)
    close(folded.apply(new, left, x, train=True, key=key)[0], net.apply(params, state, x, train=True, key=key)[0])


def test_a_network_without_batch_norm_is_returned_as_it_is():
    net = jc.serial(jc.Conv(3), relu)
    params, state, _ = drawn(net, SHAPE)
    folded = jc.fold(net, params, state)
    assert all(a is b for a, b in zip(folded, (net, params, state), strict=True))
    assert str(jc.fold_report(net)) == "no batch norm or layer scale: nothing to fold"


def test_the_report_is_a_table():
    text = str(jc.fold_report(jc.serial(conv=jc.Conv(8), norm=jc.BatchNorm(), relu=relu, last=jc.BatchNorm())))
    assert text.splitlines()[0] == "norm  folded into conv"
    assert text.splitlines()[-1] == "1 of 2 layers folded"


def test_what_it_is_given_does_not_change():
    net = jc.serial(conv=jc.Conv(3, bias=False), bn=jc.BatchNorm())
    params, state, _ = drawn(net, SHAPE)
    before = jax.tree.map(np.array, (params, state))
    jc.fold(net, params, state)
    jax.tree.map(np.testing.assert_array_equal, (params, state), before)


def test_it_is_idempotent():
    net = jc.serial(bottleneck(3), relu, jc.BatchNorm())
    once = jc.fold(net, *drawn(net, SHAPE)[:2])
    again = jc.fold(*once)
    assert all(a is b for a, b in zip(again, once, strict=True))


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("var", -1e-3, r"^a\.bn \(BatchNorm\): state's var must be finite and not negative, got -0\.001"),
        ("var", np.nan, "state's var must be finite and not negative, got nan"),
        ("var", np.inf, "state's var must be finite and not negative, got inf"),
        ("mean", np.nan, "state's mean must be finite, got nan"),
        ("mean", -np.inf, "state's mean must be finite, got -inf"),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_statistics_that_no_batch_has(name, value, message, times):
    body = jc.serial(conv=jc.Conv(4), bn=jc.BatchNorm())
    net = jc.serial(a=body if times == 1 else jc.repeat(body, times))
    params, state, _ = drawn(net, SHAPE)
    statistic = state["a"]["bn"][name]
    state["a"]["bn"][name] = statistic.at[(-1,) * statistic.ndim].set(value)
    with pytest.raises(jc.ParameterError, match=message):
        jc.fold(net, params, state)


def test_arrays_that_are_missing_or_do_not_fit():
    net = jc.serial(conv=jc.Conv(3), bn=jc.BatchNorm())
    params, state, _ = drawn(net, SHAPE)
    with pytest.raises(jc.ParameterError, match=r"^bn \(BatchNorm\): state must have an entry 'mean', got none"):
        jc.fold(net, params, {})
    with pytest.raises(jc.ParameterError, match=r"^conv \(Conv\): params must have an entry 'kernel', got none"):
        jc.fold(net, {"bn": params["bn"]}, state)
    with pytest.raises(jc.ShapeError, match=r"^bn \(BatchNorm\): mean must have shape \(3,\), .* got \(4,\)"):
        jc.fold(net, params, {"bn": state["bn"] | {"mean": jnp.zeros(4)}})


def test_a_shape_that_does_not_fit_the_network():
    net = jc.serial(conv=jc.Conv(3, groups=3), bn=jc.BatchNorm())
    with pytest.raises(jc.ShapeError, match="conv"):
        jc.fold_report(net, (1, 8, 8, 4))


@pytest.mark.parametrize("linear", [jc.Dense(4), jc.Dense(4, bias=False), jc.Conv(4), jc.Conv(4, groups=4)])
def test_layer_scales(linear):
    body = jc.serial(linear, jc.LayerScale(), jc.DropPath(0.5))
    assert check(jc.residual(body, after=relu)).folded == {"1": "0"}
    assert check(jc.serial(jc.LayerScale(), jc.BatchNorm(), linear)).kept.keys() <= {"0", "1"}


def test_statistics_of_a_batch_norm_that_is_kept_are_checked():
    net = jc.serial(jax.nn.relu, bn=jc.BatchNorm())
    params, state = net.init(0, (1, 4, 4, 3))
    state["bn"]["var"] = jnp.array([1.0, -1.0, 1.0])
    with pytest.raises(jc.ParameterError, match=r"^bn \(BatchNorm\): state's var must be finite and not negative"):
        jc.fold(net, params, state)


def test_a_layer_scale_is_folded_into_a_convolution_that_pads():
    net = jc.serial(jax.nn.relu, jc.LayerScale(0.5), jc.Conv(4))
    params, state = net.init(0, (1, 5, 5, 3))
    params["1"] = {"scale": jnp.array([0.5, 2.0, -1.0])}
    x = jax.random.normal(jax.random.key(1), (1, 5, 5, 3))
    folded, *arrays = jc.fold(net, params, state)
    assert jc.fold_report(net).folded == {"1": "2"}
    np.testing.assert_allclose(folded.apply(*arrays, x)[0], net.apply(params, state, x)[0], atol=1e-5)


def test_a_layer_scale_that_is_missing_is_named():
    net = jc.serial(dense=jc.Dense(3), scale=jc.LayerScale())
    params, state, _ = drawn(net, SHAPE)
    with pytest.raises(jc.ParameterError, match=r"^scale .*'scale'"):
        jc.fold(net, {"dense": params["dense"]}, state)


def test_a_network_of_an_onnx_file():
    pytest.importorskip("onnx")
    net = jc.serial(
        jc.Conv(6, 3, stride=2, padding=1, bias=False),
        jc.BatchNorm(),
        relu,
        jc.residual(jc.serial(jc.Conv(6, bias=False), jc.BatchNorm(), relu, jc.Conv(6), jc.BatchNorm()), after=relu),
        jc.GlobalAvgPool(),
        jc.Dense(3),
    )
    params, state, x = drawn(net, SHAPE)
    file = jc.interop.onnx.to_onnx(net, params, state, SHAPE).SerializeToString()
    read, *weights = jc.interop.onnx.from_onnx(file)
    report = jc.fold_report(read, SHAPE)
    assert (len(report.folded), len(report.kept)) == (3, 0)
    folded, *weights = jc.fold(read, *weights, SHAPE)
    close(folded.apply(*weights, x)[0], net.apply(params, state, x)[0])
