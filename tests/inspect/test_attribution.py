"""Which pixels a score depends on, on networks whose answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import (
    expected_gradients,
    guided_backprop,
    integrated_gradients,
    occlusion,
    saliency,
    smooth_grad,
)
from tests.nets import normal, ready

KEY = jax.random.key(3)
SHAPE = (3, 6, 5, 2)


def convnet():
    return jc.serial(
        conv=jc.Conv(4, 1),
        relu=jax.nn.relu,
        block=jc.residual(jc.serial(dense=jc.Dense(4), relu6=jax.nn.relu6), after=jax.nn.relu),
        pool=jc.GlobalAvgPool(),
        scores=jc.Dense(3),
    )


@pytest.fixture(scope="module")
def made():
    net = convnet()
    return net, *ready(net, SHAPE)


WAYS = {
    "saliency": saliency,
    "smooth_grad": functools.partial(smooth_grad, key=KEY, samples=3),
    "integrated_gradients": functools.partial(integrated_gradients, steps=3),
    "expected_gradients": functools.partial(
        expected_gradients, baselines=normal((2, *SHAPE[1:]), 7), key=KEY, samples=2
    ),
    "guided_backprop": guided_backprop,
    "occlusion": functools.partial(occlusion, window=2),
}


def pick_first(y):
    return y[:, 0]


# --- Which score ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_targets_of_all_kinds_name_the_same_score(way, made):
    net, params, state, x = made

    @jax.jit
    def run(x):
        top = jnp.argmax(net.apply(params, state, x)[0], axis=1)
        call = functools.partial(WAYS[way], net, params, state, x)
        return call(), call(top), call(2), call(lambda y: y[:, 2]), call([0, 2, 1])

    none, top, one, function, each = run(x)
    assert_allclose(none, top, atol=1e-6)
    assert_allclose(function, one, atol=1e-6)
    assert_allclose(each[1], one[1], atol=1e-6)
    assert np.abs(each[0] - one[0]).max() > 1e-4


@pytest.mark.parametrize("way", ["saliency", "integrated_gradients", "guided_backprop", "occlusion"])
def test_vmap_over_examples_is_the_batch(way, made):
    net, params, state, x = made
    one = jax.vmap(lambda x, target: WAYS[way](net, params, state, x[None], target)[0])
    target = jnp.array([0, 2, 1])
    got, want = jax.jit(lambda x: (one(x, target), WAYS[way](net, params, state, x, target)))(x)
    assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "target", "message"),
    [
        (jc.ArgumentError, 3, r"target must be from 0 to 2 for 3 classes, got \[3\]"),
        (jc.ArgumentError, [0, -1, 2], r"target must be from 0 to 2 for 3 classes, got \[-1  0  2\]"),
        (
            jc.ArgumentError,
            [0, 1],
            r"target must be a class index, an array of one for each of the 3 examples.* got int64 \(2,\)",
        ),
        (jc.ArgumentError, 1.5, r"target must be a class index.* got float64 \(\)"),
        (jc.ArgumentError, True, r"target must be a class index.* got bool \(\)"),
        (jc.ShapeError, lambda y: y, r"target must return a score for each example, shape \(3,\), got \(3, 3\)"),
    ],
)
def test_wrong_targets_are_named(error, target, message, made):
    net, params, state, x = made
    with pytest.raises(error, match=message):
        saliency(net, params, state, x, target)


def test_an_index_out_of_range_inside_a_program_gives_nan(made):
    net, params, state, x = made
    got = jax.jit(lambda target: saliency(net, params, state, x, target))(jnp.array([0, 3, -1]))
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1:]).any((1, 2, 3)).all()


def test_an_output_without_classes_wants_a_function():
    net = jc.serial(jc.parallel(jc.Identity(), jnp.sin))
    with pytest.raises(jc.ShapeError, match=r"target must be a function of the output.* got \(1, 4, 4, 1\) \(1, 4"):
        saliency(net, {}, {}, jnp.ones((1, 4, 4, 1)))
    got = saliency(net, {}, {}, jnp.ones((1, 4, 4, 1)), lambda y: y[1].sum((1, 2, 3)))
    assert_allclose(got, np.full((1, 4, 4, 1), np.cos(1)), rtol=1e-6)


def test_inputs_that_no_gradient_reaches_are_refused(made):
    net, params, state, x = made
    with pytest.raises(jc.DTypeError, match="x must be a floating-point array, scaled as the network expects it, got"):
        saliency(net, params, state, jnp.ones(SHAPE, jnp.uint8))
    with pytest.raises(jc.ShapeError, match=r"x must have shape \(batch, ..., channels\), got \(4,\)"):
        saliency(net, params, state, jnp.ones(4))
    with pytest.raises(jc.ShapeError, match=r"x must have shape \(batch, \*spatial, channels\), got \(3, 4\)"):
        occlusion(net, params, state, jnp.ones((3, 4)), window=1)
    with pytest.raises(jc.ShapeError, match=r"conv \(Conv\): kernel"):
        saliency(net, params, state, x[..., :1])


# --- Gradients --------------------------------------------------------------------------------------------------------


def test_saliency_is_the_gradient(made):
    net, params, state, x = made
    one = jax.grad(lambda one: net.apply(params, state, one[None])[0][0, 1])
    got, want = jax.jit(lambda x: (saliency(net, params, state, x, 1), jax.vmap(one)(x)))(x)
    assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_smooth_grad_without_noise_is_saliency(made):
    net, params, state, x = made
    plain = functools.partial(smooth_grad, key=KEY, samples=2, noise=0.0)
    got, want = jax.jit(lambda x: tuple(way(net, params, state, x, 1) for way in (plain, saliency)))(x)
    assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_smooth_grad_is_the_mean_over_noisy_copies():
    net = jc.serial(jc.Flatten(), jnp.square, jc.Dense(1, bias=False))
    params = {"2": {"kernel": jnp.ones((1, 1))}}
    # The range of each example is what its noise is measured by: none in a single number, 2 in the second.
    assert_allclose(smooth_grad(net, params, {}, jnp.full((1, 1, 1, 1), 3.0), key=KEY), np.full((1, 1, 1, 1), 6.0))
    pair = jnp.array([3.0, 5.0]).reshape(1, 1, 2, 1)
    params = {"2": {"kernel": jnp.ones((2, 1))}}
    once = lambda key: smooth_grad(net, params, {}, pair, key=key, samples=1, noise=0.5)  # noqa: E731
    got = np.asarray(jax.jit(jax.vmap(once))(jax.random.split(KEY, 400)))
    assert_allclose(got.mean(0).ravel(), [6, 10], atol=0.4)
    assert_allclose(got.std(0).ravel(), [2 * 0.5 * 2] * 2, rtol=0.15)


def test_smooth_grad_keeps_the_top_class_of_the_image():
    # The image's top class is the first; noise would turn it.
    net = jc.serial(jc.Flatten(), jc.Dense(2, bias=False))
    kernel = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    x = jnp.array([1.0, 0.9]).reshape(1, 1, 2, 1)
    got = smooth_grad(net, {"1": {"kernel": kernel}}, {}, x, key=KEY, noise=100.0)
    assert_array_equal(got.ravel(), [1, 0])


@pytest.mark.parametrize(
    ("activation", "baseline", "steps", "part"),
    [(None, 0.0, 256, 1e-2), (None, np.linspace(-1, 1, 2), 256, 1e-2), (jnp.tanh, 0.3, 32, 1e-3)],
)
def test_integrated_gradients_are_complete(activation, baseline, steps, part, made):
    net, params, state, x = made
    if activation:
        net = jc.map_layers(net, lambda layer: jc.Fn(activation) if isinstance(layer, jc.Fn) else layer)

    @jax.jit
    def run(x):
        low = jnp.broadcast_to(jnp.asarray(baseline, jnp.float32), x.shape)
        scores = [net.apply(params, state, x)[0][:, 2] for x in (x, low)]
        return integrated_gradients(net, params, state, x, 2, baseline=baseline, steps=steps), scores[0] - scores[1]

    got, want = run(x)
    assert_allclose(got.sum((1, 2, 3)), want, atol=part * np.abs(want).max())
    assert np.abs(want).min() > 1e-2


def test_integrated_gradients_of_a_square_are_its_terms():
    net = jc.serial(jc.Flatten(), jnp.square, jc.Dense(1, bias=False))
    x = jnp.array([1.0, -2.0, 3.0, 0.0]).reshape(1, 2, 2, 1)
    got = integrated_gradients(net, {"2": {"kernel": jnp.ones((4, 1))}}, {}, x, steps=1)
    assert_allclose(got.ravel(), [1, 4, 9, 0], rtol=1e-6)


def test_expected_gradients_are_complete(made):
    net, params, state, x = made
    baselines = normal((5, *SHAPE[1:]), 7) + 1

    @jax.jit
    def run(x):
        scores = [net.apply(params, state, x)[0][:, 2] for x in (x, baselines)]
        found = expected_gradients(net, params, state, x, 2, baselines=baselines, key=KEY, samples=1000)
        return found, scores[0] - scores[1].mean()

    got, want = run(x)
    assert_allclose(got.sum((1, 2, 3)), want, atol=0.03 * np.abs(want).max())
    assert np.abs(want).max() > 0.1


def test_expected_gradients_of_a_linear_network_use_all_baselines_alike():
    net = jc.serial(jc.Flatten(), jc.Dense(2))
    params, state, x = ready(net, SHAPE)
    baselines = normal((4, *SHAPE[1:]), 7)
    got = expected_gradients(net, params, state, x, 1, baselines=baselines, key=KEY, samples=8)
    kernel = np.asarray(params["1"]["kernel"])[:, 1].reshape(SHAPE[1:])
    assert_allclose(got, (x - baselines.mean(0)) * kernel, rtol=1e-4, atol=1e-5)


def test_half_types_stay_half_types(made):
    net, params, state, x = made
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, state, x))
    for way in WAYS.values():
        assert jax.eval_shape(lambda *half, way=way: way(net, *half, 1), *half).dtype == jnp.bfloat16
    run = jax.jit(lambda *args: saliency(net, *args, 1))
    got, want = (np.asarray(run(*args), np.float32) for args in (half, made[1:]))
    assert_allclose(got, want, atol=0.05 * np.abs(want).max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (functools.partial(smooth_grad, key=KEY, samples=0), "samples must be at least 1, got 0"),
        (functools.partial(smooth_grad, key=KEY, noise=-1.0), "noise must be at least 0, got -1.0"),
        (functools.partial(smooth_grad, key=None), "key must be a random key, got None"),
        (functools.partial(integrated_gradients, steps=0), "steps must be at least 1, got 0"),
        (
            functools.partial(expected_gradients, baselines=np.ones((2, *SHAPE[1:])), key=None),
            "key must be a random key",
        ),
        (
            functools.partial(expected_gradients, baselines=np.ones((2, *SHAPE[1:])), key=KEY, samples=0),
            "samples must be at least 1, got 0",
        ),
        (
            functools.partial(expected_gradients, baselines=np.ones(SHAPE[1:]), key=KEY),
            r"baselines must have the shape \(count, ...\) of examples like \(3, 6, 5, 2\), got \(6, 5, 2\)",
        ),
        (
            functools.partial(integrated_gradients, baseline=np.ones((6, 4, 2))),
            r"baseline must broadcast to x \(3, 6, 5, 2\), got shape \(6, 4, 2\)",
        ),
        (
            functools.partial(occlusion, window=7),
            "window must be .* got window 7, stride 1 and size 6 on spatial axis 0",
        ),
        (functools.partial(occlusion, window=(6, 2), stride=(1, 3)), "window 2, stride 3 and size 5 on spatial axis 1"),
        (functools.partial(occlusion, window=1, value=np.ones(3)), r"value must broadcast to x .* got shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(call, message, made):
    with pytest.raises(ValueError, match=message):
        call(*made)


# --- Guided backpropagation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "relu",
    [jax.nn.relu, jax.nn.relu6, lambda x: jnp.maximum(x, 0), functools.partial(jnp.clip, min=0, max=9)],
    ids=["relu", "relu6", "lambda", "partial"],
)
def test_guided_backprop_by_hand(relu):
    net = jc.serial(jc.Dense(3, bias=False), relu, jc.Dense(2, bias=False), relu, jc.Dense(1, bias=False))
    first = np.array([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.5], [0.5, 1.0, 1.0]])
    second, last = np.array([[1.0, -0.5], [2.0, 1.0], [-1.0, 1.0]]), np.array([[1.0], [-1.0]])
    params = {"0": {"kernel": first}, "2": {"kernel": second}, "4": {"kernel": last}}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    x = np.array([[0.5, -1.0, 0.8]])
    before = x @ first
    between = np.maximum(before, 0) @ second
    g = (between > 0) * np.maximum(last.T, 0)
    g = (before > 0) * np.maximum(g @ second.T, 0)
    want = g @ first.T
    got = jax.jit(lambda x: guided_backprop(net, params, {}, x))(x.astype(np.float32))
    assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert np.abs(want).max() > 0
    assert np.abs(want - saliency(net, params, {}, x.astype(np.float32))).max() > 1e-3


def test_guided_backprop_reaches_into_composites(made):
    net, params, state, x = made

    def relu(x):
        @jax.custom_vjp
        def f(x):
            return jnp.maximum(x, 0)

        f.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, g: (jnp.where(x > 0, jnp.maximum(g, 0), 0),))
        return f(x)

    def relu6(x):
        @jax.custom_vjp
        def f(x):
            return jnp.clip(x, 0, 6)

        f.defvjp(lambda x: (jnp.clip(x, 0, 6), x), lambda x, g: (jnp.where((x > 0) & (x < 6), jnp.maximum(g, 0), 0),))
        return f(x)

    by_hand = {jax.nn.relu: relu, jax.nn.relu6: relu6}
    replaced = jc.map_layers(net, lambda layer: jc.Fn(by_hand[layer.function]) if isinstance(layer, jc.Fn) else layer)

    @jax.jit
    def run(x):
        return guided_backprop(net, params, state, x, 0), *(saliency(n, params, state, x, 0) for n in (replaced, net))

    guided, want, plain = run(x)
    assert_allclose(guided, want, rtol=1e-5, atol=1e-7)
    assert np.abs(guided - plain).max() > 1e-4


@pytest.mark.parametrize("wrap", [jc.remat, lambda layer: jc.repeat(layer, 2)], ids=["remat", "repeat"])
def test_guided_backprop_inside_wrappers(wrap):
    net = jc.serial(wrap(jc.serial(jc.Dense(3), jax.nn.relu)), jc.Dense(1))
    times = 1 if wrap is jc.remat else 2
    plain = jc.serial(*(jc.serial(jc.Dense(3), jax.nn.relu) for _ in range(times)), jc.Dense(1))
    params, state, x = ready(net, (2, 3))
    if wrap is jc.remat:
        same = params
    else:
        parts = [jax.tree.map(lambda a, i=i: a[i], params["0"]) for i in range(2)]
        same = {"0": parts[0], "1": parts[1], "2": params["1"]}
    got, want = jax.jit(lambda x: (guided_backprop(net, params, state, x), guided_backprop(plain, same, {}, x)))(x)
    assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_guided_backprop_without_rectifiers_says_so():
    net = jc.serial(jc.Dense(3), jax.nn.gelu, jax.nn.leaky_relu, lambda x: jax.nn.relu(x - x.mean()), jc.Dense(1))
    params, state, _ = ready(net, (2, 3))
    with pytest.raises(jc.ArgumentError, match=r"net must have a rectifier as a layer, .* got none"):
        guided_backprop(net, params, state, jnp.ones((2, 3)))


# --- Occlusion --------------------------------------------------------------------------------------------------------


@functools.cache
def scored(net):
    return jax.jit(lambda params, state, x: net.apply(params, state, x)[0][:, 1])


def sum_of_one_pixel(row, column, size):
    kernel = jnp.zeros((*size, 1)).at[row, column].set(7.0).reshape(-1, 1)
    return jc.serial(jc.Flatten(), jc.Dense(1, bias=False)), {"1": {"kernel": kernel}}


def test_occlusion_finds_the_only_pixel_that_matters():
    net, params = sum_of_one_pixel(4, 2, (6, 5))
    got = occlusion(net, params, {}, jnp.ones((2, 6, 5, 1)), window=1)
    want = np.zeros((2, 6, 5))
    want[:, 4, 2] = 7
    assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ("window", "stride", "batch_size"), [(2, 1, 1), (3, 2, 4), ((2, 4), (2, 3), 100), ((6, 5), 1, 4)]
)
def test_occlusion_is_the_mean_fall_over_windows(window, stride, batch_size, made):
    net, params, state, x = made
    apply = scored(net)
    value = np.array([0.5, -0.5], np.float32)
    total, count = np.zeros(x.shape[:-1]), np.zeros(x.shape[1:-1])
    (h, w), (s, t) = ((n, n) if isinstance(n, int) else n for n in (window, stride))
    rows = sorted({min(i, 6 - h) for i in range(0, 6 - h + s, s)})
    columns = sorted({min(j, 5 - w) for j in range(0, 5 - w + t, t)})
    for i in rows:
        for j in columns:
            covered = np.array(x)
            covered[:, i : i + h, j : j + w] = value
            fall = apply(params, state, x) - apply(params, state, covered)
            total[:, i : i + h, j : j + w] += np.asarray(fall)[:, None, None]
            count[i : i + h, j : j + w] += 1
    run = jax.jit(
        lambda x: occlusion(net, params, state, x, 1, window=window, stride=stride, value=value, batch_size=batch_size)
    )
    assert count.min() >= 1
    assert_allclose(run(x), total / count, atol=1e-5)


def test_occlusion_takes_other_ranks():
    net = jc.serial(jc.Flatten(1), jc.Dense(1, bias=False))
    params = {"1": {"kernel": jnp.zeros((8, 1)).at[3].set(7.0)}}
    got = occlusion(net, params, {}, jnp.ones((1, 8, 1)), window=1)
    with pytest.raises(jc.ArgumentError, match="window must be an int or one int for each of the 1"):
        occlusion(net, params, {}, jnp.ones((1, 8, 1)), window=(1, 1))
    assert_allclose(got, [[0, 0, 0, 7, 0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("target", [None, 1, [0, 1, 2], pick_first])
@pytest.mark.parametrize("way", ["smooth_grad", "integrated_gradients", "occlusion"])
def test_calls_with_an_equal_network_trace_it_once(way, target):
    traced = []

    def look(x):
        traced.append(x.shape)
        return x

    def made():
        return jc.serial(look=look, flatten=jc.Flatten(), fc=jc.Dense(4))

    params, state, x = ready(made(), (3, 4, 5, 2))
    before = None
    for step in range(2):
        WAYS[way](made(), params, state, x + step, target)
        before, last = len(traced), before
    assert before == last


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_occlusion_does_not_depend_on_the_batch(batch_size, made):
    net, params, state, x = made
    run = functools.partial(occlusion, net, params, state, x, 1, window=2)
    assert_allclose(run(batch_size=batch_size), run(), rtol=1e-5, atol=1e-6)


def test_noise_may_be_traced(made):
    net, params, state, x = made
    run = functools.partial(smooth_grad, net, params, state, x, 1, key=KEY, samples=2)
    assert_allclose(jax.jit(lambda noise: run(noise=noise))(0.15), run(), rtol=1e-4, atol=1e-6)
    with pytest.raises(jc.ArgumentError, match="noise must be at least 0, got nan"):
        run(noise=float("nan"))


def test_an_int_is_a_seed():
    net = jc.serial(jc.Dense(2))
    params, state = net.init(0, (1, 3))
    seeded, keyed = (smooth_grad(net, params, state, jnp.ones((1, 3)), 1, key=key) for key in (5, jax.random.key(5)))
    np.testing.assert_array_equal(seeded, keyed)
