"""Gram matrices, the loss, and both ways to lower it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect.descent import NonFiniteGradientError
from jaxconv.inspect.images import Parameterization, total_variation
from jaxconv.inspect.style import PerceptualLoss, fast_style_step, gram, relative_distance, style_transfer
from jaxconv.models.style import transform_net
from tests.nets import normal

KEY = jax.random.key(0)
NET = jc.serial(conv1=jc.Conv(4), relu1=jax.nn.relu, pool=jc.AvgPool(2), conv2=jc.Conv(6), relu2=jax.nn.relu)
A, B = jax.random.uniform(KEY, (2, 1, 12, 16, 3))
LOSS = PerceptualLoss(NET, ["relu2"], ["relu1", "relu2"])


@pytest.fixture(scope="module")
def params():
    return NET.init(KEY, A)[0]


def test_gram_is_numpys():
    y = normal((2, 3, 4, 5), 1)
    flat = np.asarray(y, np.float64).reshape(2, 12, 5)
    assert_allclose(gram(y), flat.transpose(0, 2, 1) @ flat / 60, rtol=1e-5, atol=1e-6)
    assert gram(y.astype(jnp.bfloat16)).dtype == jnp.float32
    assert_allclose(gram(y[:, ::-1, ::-1]), gram(y), rtol=1e-5, atol=1e-6)
    with pytest.raises(jc.ShapeError, match=r"y must have shape \(batch, \*spatial, channels\), got \(2, 3\)"):
        gram(y[:, 0, :, 0][..., :3])


def value(loss, params, x, content, style):
    return loss(params, {}, x, loss.features(params, {}, content), loss.grams(params, {}, style))


def test_an_image_has_no_distance_from_itself(params):
    assert_allclose(value(LOSS, params, A, A, A), [0], atol=1e-12)
    assert value(LOSS, params, A, B, A)[0] > 0.01
    assert value(LOSS, params, A, A, B)[0] > 0


def test_the_loss_is_what_it_says(params):
    loss = PerceptualLoss(NET, {"conv2": 2}, {"relu1": 1, "relu2": 3}, 5.0, 7.0, 0.5)
    _, a = jc.inspect.activations(NET, params, {}, A)
    _, b = jc.inspect.activations(NET, params, {}, B)

    def apart(x, y):
        return float(np.square(np.asarray(x) - y).sum() / np.square(y).sum())

    want = 5 * apart(a["conv2"], b["conv2"]) + 0.5 * float(total_variation(A)[0])
    want += 7 * (0.25 * apart(gram(a["relu1"]), gram(b["relu1"])) + 0.75 * apart(gram(a["relu2"]), gram(b["relu2"])))
    assert_allclose(value(loss, params, A, B, B), [want], rtol=1e-4)


def test_the_loss_sees_what_the_preprocess_gives(params):
    halved = PerceptualLoss(NET, ["relu2"], [], preprocess=half)
    assert_allclose(halved.features(params, {}, A)["relu2"], LOSS.features(params, {}, A / 2)["relu2"], rtol=1e-5)


def half(x):
    return x / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "start"),
    [(None, "content"), (None, "noise"), (optax.lbfgs(), "content")],
    ids=["adam", "adam from noise", "lbfgs"],
)
def test_transfer_lowers_the_loss(params, optimizer, start):
    y, losses = style_transfer(LOSS, params, {}, A, B, start=start, steps=12, optimizer=optimizer)
    assert y.shape == A.shape
    assert 0 <= y.min() < y.max() <= 1
    assert losses[-1] < losses[0] / 2
    first = A if start == "content" else jax.random.uniform(KEY, A.shape)
    assert_allclose(losses[0], value(LOSS, params, first, A, B)[0], rtol=1e-4)


def test_style_alone_makes_textures_of_any_size(params):
    loss = PerceptualLoss(NET, [], ["relu1"])
    y, losses = style_transfer(loss, params, {}, A, B[:, :7, :9], start="noise", steps=60, rate=0.05)
    assert losses[-1] < losses[0] / 10
    assert_allclose(loss.grams(params, {}, y)["relu1"], loss.grams(params, {}, B[:, :7, :9])["relu1"], atol=0.02)


@pytest.mark.slow
def test_several_images_at_once_are_as_one_by_one(params):
    images = jnp.concatenate([A, B])
    together, _ = style_transfer(LOSS, params, {}, images, B, steps=4)
    alone, _ = style_transfer(LOSS, params, {}, A, B, steps=4)
    assert_allclose(together[:1], alone, atol=1e-3)
    own, _ = style_transfer(LOSS, params, {}, images, images, steps=2, parameterization=Parameterization())
    assert_allclose(own, images, atol=0.2)


def test_steps_are_told_and_starts_kept(params):
    seen = []
    y, losses = style_transfer(
        LOSS, params, {}, A, B, start=B, steps=3, rate=1e-6, on_step=lambda i, loss: seen.append(loss)
    )
    assert_allclose(y, B, atol=1e-4)
    assert_allclose(seen, losses)
    assert_array_equal(
        style_transfer(LOSS, params, {}, A, B, start="noise", steps=2)[0],
        style_transfer(LOSS, params, {}, A, B, start="noise", steps=2, key=KEY)[0],
    )


@pytest.mark.parametrize(
    ("error", "make", "message"),
    [
        (
            jc.PathError,
            lambda: PerceptualLoss(NET, ["relu3"], []),
            "path must name a layer of net, got 'relu3': nearest are 'relu2', 'relu1'",
        ),
        (
            jc.ArgumentError,
            lambda: PerceptualLoss(NET, [], {"relu1": -1.0}),
            "style must have shares that are not negative",
        ),
        (
            jc.ArgumentError,
            lambda: PerceptualLoss(NET, [], {"relu1": 0.0}),
            "style must have shares that are not negative",
        ),
        (
            jc.ArgumentError,
            lambda: PerceptualLoss(NET, [], {"relu1": np.inf}),
            "style must have shares that are not negative",
        ),
        (
            jc.ArgumentError,
            lambda: PerceptualLoss(NET, ["relu1", "relu1"], []),
            r"content must name each layer once, got \['relu1', 'relu1'",
        ),
        (jc.ArgumentError, lambda: PerceptualLoss(NET, [], []), "content or style must name a layer, got none"),
        (
            jc.ArgumentError,
            lambda: PerceptualLoss(NET, [], ["relu1"], style_weight=-1.0),
            "style_weight must be a number that is not neg",
        ),
        (
            jc.ArgumentError,
            lambda: PerceptualLoss(NET, [], ["relu1"], 1.0, np.nan),
            "style_weight must be a number that is not negative",
        ),
        (jc.ShapeError, lambda: style_transfer(LOSS, {}, {}, A[0], B), "content_image must have shape"),
        (
            jc.ShapeError,
            lambda: style_transfer(LOSS, {}, {}, A, B[..., :1]),
            r"style_image must have shape \(batch, .*, 3\), got",
        ),
        (jc.ArgumentError, lambda: style_transfer(LOSS, {}, {}, A, 2 + B), r"style_image must have values in \[0, 1\]"),
        (
            jc.ShapeError,
            lambda: style_transfer(LOSS, {}, {}, A, jnp.concatenate([B, B])),
            "style_image must be one image, or 1",
        ),
        (
            jc.ArgumentError,
            lambda: style_transfer(LOSS, {}, {}, A, B, start="gray"),
            'start must be "content", "noise" or images',
        ),
        (
            jc.ShapeError,
            lambda: style_transfer(LOSS, {}, {}, A, B, start=B[:, :4]),
            "start must have content_image's shape",
        ),
    ],
)
def test_what_is_wrong_is_named(error, make, message):
    with pytest.raises(error, match=message):
        make()


def test_a_string_of_paths_is_named():
    with pytest.raises(TypeError, match=r"content must be .* the string 'relu1': write \['relu1'\]"):
        PerceptualLoss(NET, "relu1", [])


def test_a_layer_of_several_arrays_is_named():
    net = jc.serial(pair=jc.parallel(jc.Identity(), jc.Identity()), first=lambda xs: xs[0])
    with pytest.raises(
        jc.ShapeError, match=r"'pair' must name a layer that returns an array .*, got \(1, 12, 16, 3\) \("
    ):
        style_transfer(PerceptualLoss(net, ["pair"], []), {}, {}, A, B)
    with pytest.raises(jc.ShapeError, match=r"path 'first' must name a layer .* for 1 images"):
        style_transfer(PerceptualLoss(net, ["first"], [], preprocess=twice), {}, {}, A, B)


def twice(x):
    return jnp.concatenate([x, x])


def test_a_layer_that_gives_zeros_is_named(params):
    dark = params | {"conv1": jax.tree.map(jnp.zeros_like, params["conv1"])}
    for loss in (PerceptualLoss(NET, ["relu1"], []), PerceptualLoss(NET, [], ["relu1"])):
        with pytest.raises(jc.ArgumentError, match="path 'relu1' must have a target with a value other than 0"):
            style_transfer(loss, dark, {}, A, B)


def test_distances_of_half_types_are_those_of_float32():
    target, y = (jax.random.normal(key, (2, 40, 40, 64)).astype(jnp.float16) for key in jax.random.split(KEY))
    want = np.square(np.asarray(y, np.float64) - target).sum((1, 2, 3)) / np.square(np.asarray(target, float)).sum(
        (1, 2, 3)
    )
    got = relative_distance(y, target)
    assert got.dtype == jnp.float32
    assert_allclose(got, want, rtol=1e-4)


def test_equal_losses_share_a_program():
    traced = []

    def look(x):
        traced.append(x.shape)
        return x

    counts = []
    for _ in range(2):
        loss = PerceptualLoss(jc.serial(look=look), ["look"], ["look"])
        style_transfer(loss, {}, {}, A, B, steps=1)
        counts.append(len(traced))
    assert counts[0] == counts[1]


def test_nan_gradients_stop_it(params):
    with pytest.raises(
        NonFiniteGradientError, match="style_transfer: the gradient or the step is not finite at step 1 of 2"
    ):
        style_transfer(LOSS, jax.tree.map(lambda a: a * np.nan, params), {}, A, B, steps=2)


@pytest.mark.slow
def test_a_few_steps_of_the_fast_kind_lower_the_loss(params):
    net = transform_net(widths=(3, 4), blocks=1)
    optimizer = optax.adam(0.01)
    images = jax.random.uniform(KEY, (2, 12, 16, 3))
    weights, _ = jax.jit(lambda key: net.init(key, images))(KEY)
    train_state = jc.train.TrainState.create(net, optimizer, 0, init=(weights, {}))
    grams = LOSS.grams(params, {}, B)
    step = fast_style_step(net, LOSS, optimizer)
    losses = []
    for _ in range(15):
        train_state, metrics = step(train_state, images, params, {}, grams)
        losses.append(float(metrics["loss"]))
    painted, _ = jax.jit(net.apply)(weights, {}, images)
    assert_allclose(losses[0], value(LOSS, params, painted, images, B).mean(), rtol=1e-3)
    assert losses[-1] < losses[0] / 2


def test_a_style_layer_without_maps_is_named():
    net = jc.serial(conv=jc.Conv(4), mean=jc.GlobalAvgPool())
    params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    x = jnp.full((1, 8, 8, 3), 0.5)
    with pytest.raises(
        jc.ShapeError, match=r"path 'mean' must name a layer with feature maps, got an output of shape \(1, 4\)"
    ):
        style_transfer(PerceptualLoss(net, ["conv"], ["mean"]), params, state, x, x, steps=1)
