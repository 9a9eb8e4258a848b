import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxconv as jc
from jaxconv.train import TrainState, steps_per_epoch, train_step
from tests.ops.transforms import strict_flags
from tests.train.toys import Centered, Linear, assert_same, cross_entropy, data


def make(net, optimizer, **options):
    images, labels = map(jnp.asarray, data(64))
    step = train_step(net, cross_entropy, optimizer, **options)
    return step, TrainState.create(net, optimizer, 0, images), images, labels


def test_reduces_the_loss():
    step, train_state, images, labels = make(Linear(), optax.adam(0.1))
    losses = []
    for _ in range(30):
        train_state, metrics = step(train_state, images, labels)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert metrics["accuracy"] > 0.9
    assert train_state.step == 30


def test_equals_the_update_written_out():
    step, train_state, images, labels = make(Linear(), optax.sgd(0.5), donate=False)
    logits = np.asarray(Linear().apply(train_state.params, {}, images)[0], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    onehot = np.eye(3)[np.asarray(labels)]
    x = np.asarray(images, np.float64).reshape(64, -1)
    kernel, bias = x.T @ (p - onehot) / 64, (p - onehot).mean(0)

    new, metrics = step(train_state, images, labels)
    expected = np.asarray(train_state.params["dense"]["kernel"]) - 0.5 * kernel
    np.testing.assert_allclose(new.params["dense"]["kernel"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], -np.log((p * onehot).sum(1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(1) == labels).mean())
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt((kernel**2).sum() + (bias**2).sum()), rtol=1e-5)


def test_donates_the_old_state():
    step, train_state, images, labels = make(Centered(rate=0.0), optax.adam(0.1))
    new, _ = step(train_state, images, labels)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((train_state.params, train_state.opt_state)))
    assert not any(leaf.is_deleted() for leaf in [images, labels, *jax.tree.leaves(new)])

    step, train_state, images, labels = make(Centered(rate=0.0), optax.adam(0.1), donate=False)
    step(train_state, images, labels)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(train_state))


def test_randomness_depends_on_the_step_alone():
    def augment(key, x):
        return x + jax.random.normal(key, x.shape)

    step, train_state, images, labels = make(Centered(), optax.sgd(0.0), augment=augment, donate=False)
    one, first = step(train_state, images, labels)
    _, again = step(train_state, images, labels)
    _, second = step(one, images, labels)
    assert first["loss"] == again["loss"] != second["loss"]


def test_augmentation_and_dropout_draw_from_different_keys():
    seen = []

    class Net(Linear):
        def apply(self, params, state, x, *, train=False, key=None):
            jax.debug.callback(lambda k: seen.append(tuple(k)), jax.random.key_data(key))
            return super().apply(params, state, x)

    def augment(key, x):
        jax.debug.callback(lambda k: seen.append(tuple(k)), jax.random.key_data(key))
        return x

    step, train_state, images, labels = make(Net(), optax.sgd(0.0), augment=augment)
    for _ in range(3):
        train_state, _ = step(train_state, images, labels)
    jax.effects_barrier()
    assert len({tuple(map(int, key)) for key in seen}) == 6


def test_preprocess_comes_before_augment():
    def preprocess(images):
        return images.astype(jnp.float32) / 255

    shapes = []

    def augment(key, x):
        shapes.append(x.dtype)
        return x

    net, optimizer = Linear(), optax.sgd(0.1)
    step = train_step(net, cross_entropy, optimizer, augment=augment, preprocess=preprocess)
    train_state = TrainState.create(net, optimizer, 0, jnp.zeros((4, 8)))
    _, metrics = step(train_state, jnp.full((4, 8), 255, jnp.uint8), jnp.zeros(4, jnp.int32))
    assert shapes == [jnp.float32]
    assert jnp.isfinite(metrics["loss"])


def test_state_of_the_layers_is_kept():
    step, train_state, images, labels = make(Centered(rate=0.0), optax.sgd(0.1))
    train_state, _ = step(train_state, images, labels)
    np.testing.assert_allclose(train_state.state["norm"]["mean"], 0.1 * images.mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.apply_if_finite(optax.adam(0.1), 5),
        optax.MultiSteps(optax.adam(0.1), 1, should_skip_update_fn=optax.skip_not_finite),
    ],
    ids=["apply_if_finite", "skip_not_finite"],
)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_skipped_step_leaves_the_layer_state(optimizer, value):
    step, train_state, images, labels = make(Centered(rate=0.0), optimizer, donate=False)
    train_state, _ = step(train_state, images, labels)
    skipped, metrics = step(train_state, images.at[3, 1, 1].set(value).at[4, 1, 1].set(-value), labels)
    assert not np.isfinite(metrics["grad_norm"])
    assert_same((skipped.params, skipped.state), (train_state.params, train_state.state))
    assert skipped.step == 2
    # As if that batch had never been.
    after, _ = step(skipped, images, labels)
    assert_same(after.state, step(train_state, images, labels)[0].state)


def test_a_step_that_is_not_skipped_takes_the_layer_state():
    # Gradients that aren't finite, of which the optimizer makes an update; and none at all, as in a warm-up.
    for optimizer, value in ((optax.chain(optax.zero_nans(), optax.sgd(0.1)), jnp.nan), (optax.sgd(0.0), 1.0)):
        net = Centered(rate=0.0)
        images, labels = map(jnp.asarray, data(64))

        def loss(logits, labels, value=value):
            return cross_entropy(logits, labels) + jnp.sqrt(jnp.where(value == 1.0, 1.0, 0.0 * logits[:, 2]))

        step = train_step(net, loss, optimizer, donate=False)
        train_state = TrainState.create(net, optimizer, 0, images)
        new, metrics = step(train_state, images, labels)
        assert np.isfinite(metrics["grad_norm"]) == (value == 1.0)
        np.testing.assert_allclose(new.state["norm"]["mean"], 0.1 * images.mean(0), rtol=1e-5)


def test_the_norm_of_float16_gradients_does_not_overflow():
    params = {"kernel": jnp.zeros((8, 3), jnp.float16)}

    class Half(Linear):
        def apply(self, params, state, x, *, train=False, key=None):
            return x.reshape(len(x), -1).astype(jnp.float16) @ params["kernel"], state

    images, labels = map(jnp.asarray, data(64))
    step = train_step(Half(), lambda y, labels: 1000 * cross_entropy(y, labels), optax.sgd(0.0), donate=False)
    _, metrics = step(TrainState.create(None, optax.sgd(0.0), 0, init=(params, {})), images, labels)
    assert metrics["grad_norm"].dtype == jnp.float32
    assert 256 < metrics["grad_norm"] < 10000


def test_scalar_loss_and_float_targets():
    def loss(y, targets):
        return jnp.mean((y - targets) ** 2)

    net, optimizer = Linear(2), optax.sgd(0.1)
    step = train_step(net, loss, optimizer)
    train_state = TrainState.create(net, optimizer, 0, jnp.zeros((4, 8)))
    _, metrics = step(train_state, jnp.ones((4, 8)), jnp.ones((4, 2)))
    assert set(metrics) == {"loss", "grad_norm"}


@pytest.mark.parametrize("name", ["loss", "grad_norm", "count", "validation_loss"])
def test_a_loss_may_not_name_a_value_as_the_step_does(name):
    def loss(outputs, targets):
        return cross_entropy(outputs, targets), {name: jnp.float32(7)}

    images, labels = data(8)
    train_state = TrainState.create(Linear(), optax.sgd(0.1), 0, images)
    with pytest.raises(ValueError, match=f"loss: a name must be a string other than loss, .*, got '{name}'"):
        train_step(Linear(), loss, optax.sgd(0.1))(train_state, images, labels)


def test_optimizers_that_ask_for_the_loss_get_it():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    step, train_state, images, labels = make(Linear(), optimizer)
    train_state, metrics = step(train_state, images, labels)
    assert train_state.opt_state[1].best_value == metrics["loss"]


def test_half_precision_loss_is_averaged_in_float32():
    class Half(Linear):
        def apply(self, params, state, x, *, train=False, key=None):
            return super().apply(params, state, x)[0].astype(jnp.bfloat16), state

    _, metrics = (made := make(Half(), optax.sgd(0.1)))[0](*made[1:])
    assert metrics["loss"].dtype == jnp.float32


def test_types_stay_so_that_one_program_is_compiled():
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    step, train_state, images, labels = make(Centered(rate=0.0), optimizer)
    for _ in range(3):
        train_state, _ = step(train_state, images, labels)
    assert step._cache_size() == 1


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(4000, 128, 32), (256, 128, 2), (1, 1, 1), (5, 4, 2)])
def test_steps_per_epoch(count, batch_size, steps):
    assert steps_per_epoch(count, batch_size) == steps


def test_same_in_float64():
    with jax.enable_x64(True):
        net, optimizer = Linear(), optax.sgd(0.1)
        images, labels = data(8)
        train_state = TrainState.create(net, optimizer, 0, images)
        new, metrics = train_step(net, cross_entropy, optimizer, donate=False)(train_state, images, labels)
        assert metrics["loss"].dtype == jnp.float64
        assert_same(jax.tree.map(jnp.zeros_like, new.params), jax.tree.map(jnp.zeros_like, train_state.params))


def test_strict_flags_stop_no_step():
    net = jc.serial(
        jc.Conv(4), jc.BatchNorm(), jax.nn.relu, jc.MaxPool(3, stride=2, padding=1), jc.GlobalAvgPool(), jc.Dense(3)
    )

    def augment(key, x):
        keys = jax.random.split(key, 4)
        x = jc.data.random_crop(keys[0], x, 8, padding=1, pad_mode="reflect")
        x = jc.data.random_shift(keys[1], jc.data.random_flip(keys[2], x), 1)
        return jc.data.cutout(keys[3], x, 3, value=[0.5, 0.25, 0.0])

    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    images, labels = jax.device_put((images, np.arange(6, dtype=np.int32) % 3))
    optimizer = optax.sgd(0.1, momentum=0.9)
    for model in (net, jc.mixed_precision(net)):
        train_state = TrainState.create(model, optimizer, 0, jax.ShapeDtypeStruct(images.shape, jnp.float32))
        step = train_step(
            model,
            optax.softmax_cross_entropy_with_integer_labels,
            optimizer,
            augment=augment,
            preprocess=lambda x: jc.data.normalize(x, [0.5] * 3, 0.25),
        )
        with strict_flags(transfer_guard="disallow"):
            train_state, metrics = step(train_state, images, labels)
        assert np.isfinite(metrics["loss"])
        with strict_flags():
            found = jc.train.evaluate(
                model, train_state.params, train_state.state, images.astype(jnp.float32), labels,
                loss=optax.softmax_cross_entropy_with_integer_labels, batch_size=4,
            )  # fmt: skip
        assert found["count"] == 6
