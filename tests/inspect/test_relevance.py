"""Layer-wise relevance propagation: conservation, and values by hand in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import Rule, lrp, saliency
from tests.nets import Shift, ready

SHAPE = (2, 8, 8, 3)


def unbiased():
    conv = functools.partial(jc.Conv, bias=False)
    return jc.serial(
        stem=conv(4),
        relu=jax.nn.relu,
        block=jc.residual(jc.serial(a=conv(4), act=jax.nn.silu, b=conv(4)), conv(4, 1), after=jax.nn.relu6),
        branches=jc.concat(conv(3, 1), jc.serial(jc.MaxPool(3, stride=1, padding=1), conv(2, 1))),
        excite=jc.gate(jc.serial(jc.GlobalAvgPool(), jc.Dense(5), jax.nn.sigmoid)),
        pool=jc.AvgPool(2),
        flatten=jc.Flatten(),
        scores=jc.Dense(3, bias=False),
    )


@pytest.fixture(scope="module")
def made():
    net = unbiased()
    return net, *ready(net, SHAPE)


@pytest.mark.parametrize(
    ("rules", "range_of_x"),
    [
        ("epsilon", {}),
        ({"": "gamma", "stem": "epsilon"}, {}),
        # A convolution of few channels without rectifier has outputs without positive contributions.
        (
            {"": "z_plus", "stem": "z_box", "block.shortcut": "epsilon", "branches": Rule(epsilon=1e-5)},
            {"low": -4.0, "high": np.full(3, 5.0)},
        ),
    ],
)
def test_relevance_is_conserved(rules, range_of_x, made):
    net, params, state, x = made

    @jax.jit
    def run(x):
        return lrp(net, params, state, x, 1, rules=rules, **range_of_x), net.apply(params, state, x)[0][:, 1]

    got, score = run(x)
    assert_allclose(got.sum((1, 2, 3)), score, rtol=2e-3)
    assert np.abs(got).max() > 1e-3


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus"])
@pytest.mark.parametrize(
    "layer",
    [
        jc.Conv(6, groups=3, stride=2, bias=False),
        jc.ConvTranspose(4, stride=2, bias=False),
        jc.ConvLocal(4, bias=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_all_layers_with_a_kernel_conserve_relevance(layer, rule):
    net = jc.serial(layer, jax.nn.relu, jc.GlobalAvgPool())
    params, state, x = ready(net, (2, 5, 5, 3))
    x = np.abs(x)
    got, y = jax.jit(lambda x: (lrp(net, params, state, x, 1, rules=rule), net.apply(params, state, x)[0][:, 1]))(x)
    assert_allclose(got.sum((1, 2, 3)), y, rtol=2e-3)
    assert y.min() > 1e-3


def test_a_linear_network_is_exact():
    net = jc.serial(conv=jc.Conv(4, bias=False), pool=jc.AvgPool(2), flatten=jc.Flatten(), fc=jc.Dense(3, bias=False))
    params, state, x = ready(net, SHAPE)
    got, slopes = jax.jit(lambda x: (lrp(net, params, state, x, 2), saliency(net, params, state, x, 2)))(x)
    assert_allclose(got, x * slopes, atol=1e-4 * np.abs(got).max())


def by_hand(rule, x, kernels, biases, low, high, epsilon, gamma):
    """Relevance in a chain of dense layers and rectifiers, by the formulas of the papers."""
    activations = [x]
    for i, (w, b) in enumerate(zip(kernels, biases, strict=True)):
        z = activations[-1] @ w + b
        activations.append(z if i == len(kernels) - 1 else np.maximum(z, 0))
    r = activations[-1].copy()
    for a, w, b, first in reversed([*zip(activations[:-1], kernels, biases, [True] + [False] * 9, strict=False)]):
        parts = a[:, :, None] * w
        if rule == "epsilon":
            z = parts.sum(1) + b
        elif rule == "gamma":
            parts = a[:, :, None] * (w + gamma * np.maximum(w, 0))
            z = parts.sum(1) + b + gamma * np.maximum(b, 0)
        elif rule == "z_plus" or not first:
            parts = np.maximum(parts, 0)
            z = parts.sum(1)
        else:
            parts = parts - low * np.maximum(w, 0) - high * np.minimum(w, 0)
            z = parts.sum(1)
        r = (parts * (r / (z + np.where(z < 0, -epsilon, epsilon)))[:, None]).sum(2)
    return r


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus", "z_box"])
def test_rules_are_those_of_the_papers(rule):
    net = jc.serial(jc.Dense(5), jax.nn.relu, jc.Dense(4), jax.nn.relu, jc.Dense(1))
    params, state, x = ready(net, (3, 6))
    kernels, biases = ([np.asarray(params[n][k], np.float64) for n in "024"] for k in ("kernel", "bias"))
    want = by_hand(rule, x.astype(np.float64), kernels, biases, -3.0, 3.5, 0.01, 0.3)
    inner = "z_plus" if rule == "z_box" else rule
    rules = {"": Rule(inner, epsilon=0.01, gamma=0.3), "0": Rule(rule, epsilon=0.01, gamma=0.3)}
    got = lrp(net, params, state, x, 0, rules=rules, low=-3.0, high=3.5)
    assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_a_batch_norm_is_a_part_of_its_convolution():
    net = jc.serial(
        conv=jc.Conv(4, padding=0), bn=jc.BatchNorm(), relu=jax.nn.relu, pool=jc.GlobalAvgPool(), fc=jc.Dense(2)
    )
    params, state, x = ready(net, SHAPE)
    folded = jc.fold(net, params, state)
    got, want = jax.jit(lambda x: (lrp(net, params, state, x, 1, rules="z_plus"), lrp(*folded, x, 1, rules="z_plus")))(
        x
    )
    assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    # Bias has no relevance under z_plus, so a batch norm apart from its convolution would break this.
    score = net.apply(params, state, x)[0][:, 1]
    assert_allclose(got.sum((1, 2, 3)), score, rtol=2e-3)


@pytest.mark.parametrize(
    "norm",
    [
        jc.LayerNorm(bias=False),
        jc.GroupNorm(2, bias=False),
        jc.InstanceNorm(bias=False),
        jc.LocalResponseNorm(3, alpha=1.0),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_conserve_relevance(norm):
    net = jc.serial(norm, jc.Conv(3, bias=False), jc.GlobalAvgPool())
    params, state, x = ready(net, (2, 4, 4, 4))
    got, y = jax.jit(lambda x: (lrp(net, params, state, x, 1), net.apply(params, state, x)[0][:, 1]))(x)
    assert_allclose(got.sum((1, 2, 3)), y, rtol=2e-3)


@pytest.mark.parametrize("wrap", [jc.remat, lambda layer: jc.repeat(layer, 2)], ids=["remat", "repeat"])
def test_inside_wrappers(wrap):
    net = jc.serial(wrap(jc.serial(jc.Dense(4), jax.nn.relu)), jc.Dense(2))
    times = 1 if wrap is jc.remat else 2
    plain = jc.serial(*(jc.serial(jc.Dense(4), jax.nn.relu) for _ in range(times)), jc.Dense(2))
    params, state, x = ready(net, (3, 4))
    parts = [params["0"]] if times == 1 else [jax.tree.map(lambda a, i=i: a[i], params["0"]) for i in range(2)]
    same = {str(i): part for i, part in enumerate([*parts, params["1"]])}
    got, want = (lrp(n, p, state, x, 1, rules="gamma") for n, p in ((net, params), (plain, same)))
    assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_vmap_over_examples_is_the_batch(made):
    net, params, state, x = made
    one = jax.vmap(lambda x, target: lrp(net, params, state, x[None], target)[0])
    target = jnp.array([0, 2])
    got, want = jax.jit(lambda x: (one(x, target), lrp(net, params, state, x, target)))(x)
    assert_allclose(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("rules", "options", "message"),
    [
        ("zplus", {}, "name must be one of 'epsilon', 'gamma', 'z_plus', 'z_box', 'gradient', got 'zplus'"),
        ({"stam": "gamma"}, {}, "rules must name a layer of net, got 'stam': nearest are 'stem'"),
        ({"": 3}, {}, "rules must be names of rules or a Rule by path, got 3 for ''"),
        ({"stem": "z_box"}, {"low": 0.0}, 'low and high must be given for the rule "z_box", got 0.0 and None'),
        ("z_box", {"low": 0, "high": 1}, 'rules must name "z_box" only for layers that read the input of net, got'),
        (
            {"pool": "z_box"},
            {"low": 0, "high": 1},
            'rules must name "z_box" for a layer that reads the input.* got none',
        ),
        (
            {"stem": "z_box"},
            {"low": np.ones(2), "high": 1},
            r"low must broadcast to x \(2, 8, 8, 3\), got shape \(2,\)",
        ),
    ],
)
def test_wrong_rules_are_named(rules, options, message, made):
    with pytest.raises(jc.ArgumentError if "broadcast" not in message else jc.ShapeError, match=message):
        lrp(*made, 1, rules=rules, **options)


@pytest.mark.parametrize(("option", "value"), [("epsilon", 0.0), ("gamma", -1.0)])
def test_wrong_numbers_are_named(option, value):
    with pytest.raises(jc.ArgumentError, match="epsilon must be positive and gamma not negative, got"):
        Rule(**{option: value})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (jax.nn.softmax, r"body.act \(Fn\): lrp must have a rule for each layer, got .*softmax, not elementwise: name"),
        (Shift(), r"body.act \(Shift\): lrp must have a rule for each layer, got Shift: name a Rule"),
    ],
)
def test_layers_without_a_rule_are_named(layer, message):
    net = jc.serial(body=jc.serial(fc=jc.Dense(4, bias=False), act=layer), scores=jc.Dense(2, bias=False))
    params, state, x = ready(net, (2, 3))
    with pytest.raises(jc.ArgumentError, match=message):
        lrp(net, params, state, x, 0)
    assert lrp(net, params, state, x, 0, rules={"body.act": "gradient"}).shape == x.shape


def test_half_types_stay_half_types(made):
    net, params, state, x = made
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (params, state, x))
    assert jax.eval_shape(lambda *half: lrp(net, *half, 1), *half).dtype == jnp.bfloat16


def test_gradient_everywhere_is_input_times_gradient():
    net = jc.serial(jc.Dense(5), jnp.tanh, jc.Dense(2))
    params, state, x = ready(net, (3, 4))
    want = x * saliency(net, params, state, x, 1)
    assert_allclose(lrp(net, params, state, x, 1, rules="gradient"), want, rtol=1e-5)
