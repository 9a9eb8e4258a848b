"""Options of a run: averaged weights, accumulated gradients, the learning rate, half precision, early stopping."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.train import TrainState, dynamic_loss_scale, early_stopping, evaluate, fit, train_step
from jaxconv.train.loss_scale import loss_scale_of
from tests.train.toys import Linear, assert_same, cross_entropy, data

IMAGES, LABELS = data(48)
NET = Linear()


def run(**options):
    options = {"loss": cross_entropy, "epochs": 3, "batch_size": 16, "key": 5, "progress": False, **options}
    return fit(options.pop("net", NET), IMAGES, LABELS, options.pop("optimizer", optax.sgd(0.5)), **options)


def steps_of(optimizer, count, **options):
    """The train states and values of some steps on the same batch."""
    step = train_step(NET, cross_entropy, optimizer, donate=False, **options)
    state = TrainState.create(NET, optimizer, 0, IMAGES, average=options.get("average"))
    states, values = [state], []
    for _ in range(count):
        state, measured = step(state, IMAGES, LABELS)
        states.append(state)
        values.append(measured)
    return states, values


def test_the_average_is_that_of_numpy():
    states, _ = steps_of(optax.sgd(0.5), 20, average=0.6)
    want = np.asarray(states[0].params["dense"]["kernel"], np.float64)
    for t, state in enumerate(states[1:]):
        decay = min(0.6, (1 + t) / (10 + t))
        want = decay * want + (1 - decay) * np.asarray(state.params["dense"]["kernel"], np.float64)
    assert_allclose(states[-1].average["dense"]["kernel"], want, rtol=1e-5)


def test_the_average_follows_the_parameters_beside_frozen_ones():
    net = jc.serial(jc.frozen(jc.serial(jc.Dense(2), jc.BatchNorm())), jc.Dense(3))
    optimizer = optax.sgd(0.5)
    state = TrainState.create(net, optimizer, 0, IMAGES.reshape(len(IMAGES), -1), average=0.6)
    before = np.array(state.average["1"]["kernel"])
    state, _ = train_step(net, cross_entropy, optimizer, average=0.6)(state, IMAGES.reshape(len(IMAGES), -1), LABELS)
    want = before + 0.9 * (np.array(state.params["1"]["kernel"]) - before)
    assert_allclose(state.average["1"]["kernel"], want, rtol=1e-5)
    assert np.abs(want - before).max() > 1e-3


def test_a_train_state_without_an_average_is_refused():
    state = TrainState.create(NET, optax.sgd(0.5), 0, IMAGES)
    with pytest.raises(ValueError, match=r"train_state must have an average, .*, got None"):
        train_step(NET, cross_entropy, optax.sgd(0.5), average=0.6)(state, IMAGES, LABELS)


def test_an_average_of_half_precision_is_float32():
    params = {"kernel": jnp.ones(3, jnp.bfloat16), "count": jnp.arange(2)}
    state = TrainState.create(None, optax.sgd(0.1), 0, init=(params, {}), average=0.9)
    assert {name: leaf.dtype for name, leaf in state.average.items()} == {"kernel": jnp.float32, "count": jnp.int32}
    assert TrainState.create(None, optax.sgd(0.1), 0, init=(params, {})).average is None


def test_the_average_is_validated_beside_the_parameters():
    held = data(20, seed=1)
    options = {"average": 0.9, "optimizer": optax.sgd(3.0), "validation": held}
    result = run(**options, monitor="average_validation_loss")
    losses = [record["average_validation_loss"] for record in result.history]
    assert result.best_epoch == 1 + int(np.argmin(losses))
    found = evaluate(NET, result.params, result.state, *held, loss=cross_entropy)
    assert_allclose(found["loss"], min(losses), rtol=1e-6)
    assert losses != [record["validation_loss"] for record in result.history]
    assert "average_validation_accuracy" in result.history[0]
    assert_same(run(**options).train_state, result.train_state)


def test_accumulated_gradients_are_those_of_the_large_batch():
    kernel = {}
    for name, optimizer, size in (("large", optax.sgd(0.5), 48), ("small", optax.MultiSteps(optax.sgd(0.5), 3), 16)):
        result = run(optimizer=optimizer, batch_size=size, average=0.5)
        kernel[name] = result.train_state.params["dense"]["kernel"], result.history[-1]
        want = evaluate(NET, result.train_state.params, {}, IMAGES, LABELS, loss=cross_entropy)["loss"]
        assert want < result.history[-1]["loss"] < result.history[0]["loss"]
    assert_allclose(kernel["small"][0], kernel["large"][0], rtol=1e-5)
    for value in ("loss", "accuracy"):
        assert_allclose(kernel["small"][1][value], kernel["large"][1][value], rtol=1e-5)


def test_a_step_that_only_accumulates_leaves_the_average():
    states, _ = steps_of(optax.MultiSteps(optax.sgd(0.5), 2), 4, average=0.5)
    assert_same(states[1].average, states[0].average)
    assert_same(states[3].average, states[2].average)
    assert (states[2].average["dense"]["kernel"] != states[1].average["dense"]["kernel"]).any()


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: optax.chain(optax.clip_by_global_norm(1.0), o)])
def test_the_learning_rate_is_in_the_record(wrap):
    schedule = optax.linear_schedule(0.5, 0.0, 9)
    result = run(optimizer=lambda steps: wrap(optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)))
    assert_allclose([record["learning_rate"] for record in result.history], [schedule(2), schedule(5), schedule(8)])
    assert "learning_rate" not in run(optimizer=optax.sgd(schedule), epochs=1).history[0]


def test_early_stopping_by_the_monitor(tmp_path):
    held = data(20, seed=1)
    options = {"validation": held, "optimizer": optax.sgd(3.0), "epochs": 30, "on_epoch": early_stopping(3)}
    whole = run(**options)
    assert len(whole.history) == whole.best_epoch + 3 < 30
    with pytest.raises(KeyError):
        run(**options, folder=tmp_path, log=lambda record: {}[1] if record["epoch"] == len(whole.history) - 1 else 0)
    resumed = run(**options, folder=tmp_path, resume=True)
    assert_same(resumed.train_state, whole.train_state)
    assert_same(run(**options, folder=tmp_path, resume=True).train_state, whole.train_state)
    with pytest.raises(ValueError, match="patience must be an int of 1 or more, got 0"):
        early_stopping(0)


def test_loss_scale_grows_and_shrinks():
    optimizer = dynamic_loss_scale(optax.sgd(1.0), initial=8.0, period=2)
    state, good, bad = optimizer.init({"a": jnp.ones(2)}), {"a": jnp.ones(2)}, {"a": jnp.array([1.0, jnp.nan])}
    scales = []
    for grads in (good, good, good, bad, bad, bad, bad, bad, bad, good, good):
        updates, state = optimizer.update(grads, state)
        scales.append(float(state.loss_scale))
        assert_array_equal(updates["a"], -grads["a"] if grads is good else jnp.zeros(2))
    assert scales == [8, 16, 16, 8, 4, 2, 1, 1, 1, 1, 2]
    for wrong in ({"initial": 0.5}, {"period": 0}, {"factor": 1.0}):
        with pytest.raises(ValueError, match="initial and period must be at least 1 and factor above 1, got"):
            dynamic_loss_scale(optax.sgd(1.0), **wrong)


def test_loss_scale_changes_no_result_in_float32():
    plain, _ = steps_of(optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1)), 5)
    inner = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1))
    scaled, values = steps_of(dynamic_loss_scale(inner, period=2), 5)
    assert float(loss_scale_of(scaled[-1].opt_state)) == 2.0**17
    assert_same(scaled[-1].params, plain[-1].params)
    assert values[0]["grad_norm"] < 10, "of gradients that are not scaled"
    assert loss_scale_of(plain[-1].opt_state) is None


@dataclasses.dataclass(frozen=True)
class Faint:
    """A product of small factors: in float16 its gradient is zero unless the loss is scaled."""

    def init(self, key, x):
        return {"weight": jnp.ones(x.shape[-1])}, {"seen": jnp.zeros(())}

    def apply(self, params, state, x, *, train=False, key=None):
        y = (x * params["weight"] * 1e-4).sum(-1)
        return y, {"seen": state["seen"] + 1}


def faint_loss(y, targets):
    return 1e-4 * y.astype(jnp.float32)


def test_small_gradients_survive_float16():
    net = jc.mixed_precision(Faint(), jnp.float16)
    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.float32)
    moved = {}
    for name, optimizer in {"plain": optax.sgd(1e7), "scaled": dynamic_loss_scale(optax.sgd(1e7))}.items():
        step = train_step(net, faint_loss, optimizer, donate=False)
        state = TrainState.create(net, optimizer, 0, x)
        moved[name] = (step(state, x, y)[0].params["weight"] - 1).mean()
    assert moved["plain"] == 0
    assert_allclose(moved["scaled"], -0.1, rtol=0.01)


def test_a_step_that_overflows_is_skipped_and_the_scale_is_kept(tmp_path):
    net = jc.mixed_precision(Faint(), jnp.float16)
    optimizer = dynamic_loss_scale(optax.sgd(1e3), initial=2.0**50)
    x, y = np.ones((8, 3), np.float32), np.zeros(8, np.float32)
    options = {"loss": faint_loss, "epochs": 5, "batch_size": 1, "progress": False, "folder": tmp_path}
    result = fit(net, x, y, optimizer, **options)
    state = result.train_state
    assert loss_scale_of(state.opt_state) < 2.0**50
    assert 0 < state.state["seen"] < 40, "skipped steps leave the layer's state"
    assert np.isfinite(result.params["weight"]).all()
    assert (result.params["weight"] != 1).all()
    assert_same(fit(net, x, y, optimizer, **options, resume=True).train_state, state)


def test_each_fit_reuses_what_is_compiled(monkeypatch):
    optimizer, traces = optax.sgd(0.25), []

    def loss(y, targets):
        traces.append(1)
        return cross_entropy(y, targets)

    def schedule(steps):
        return optax.sgd(optax.cosine_decay_schedule(0.5, steps))

    for made in (optimizer, schedule):
        run(optimizer=made, loss=loss, validation=(IMAGES, LABELS))
        before = len(traces)
        with jax.log_compiles(False):
            from jaxconv.train.epoch import _cached

            misses = _cached.cache_info().misses
        run(optimizer=made, loss=loss, validation=(IMAGES, LABELS))
        assert _cached.cache_info().misses == misses
        assert len(traces) - before <= 3, "the shapes of a step and a validation are looked at; nothing is compiled"
