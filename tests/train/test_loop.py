import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxconv as jc
from jaxconv.train import FitResult, NonFiniteLossError, evaluate, fit, layout, restore
from jaxconv.train.epoch import epoch_order
from jaxconv.train.lock import only_writer
from jaxconv.train.result import Monitor
from jaxconv.train.sources import Arrays
from tests.train.toys import Centered, Linear, assert_same, cross_entropy, data

TRAIN, VALIDATION = data(50), data(20, seed=1)
ADAM = optax.adam(0.05)  # One object: runs share what is compiled.
NET = Centered(rate=0.0)  # Random numbers take most of the compilation: only the tests of them draw any.
DROPOUT = Centered()


def noise(key, x):
    return x + 0.1 * jax.random.uniform(key, (1,))


def run(*, net=NET, arrays=TRAIN, optimizer=None, **options):
    options = {"loss": cross_entropy, "epochs": 3, "batch_size": 16, "key": 5, "progress": False, **options}
    return fit(net, *arrays, optimizer or ADAM, **options)


def without_times(history):
    return [{k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in history]


def test_learns():
    result = run(epochs=20, validation=VALIDATION)
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert result.history[-1]["validation_accuracy"] > 0.7
    assert result.train_state.step == 20 * 4
    names = ["epoch", "step", "loss", "accuracy", "grad_norm", "seconds", "images_per_second"]
    assert list(result.history[0]) == [*names, "validation_loss", "validation_accuracy", "best_epoch"]
    assert [record["epoch"] for record in result.history] == list(range(1, 21))
    assert result.train_seconds == pytest.approx(sum(record["seconds"] for record in result.history))
    assert result.images_per_second == pytest.approx(20 * 64 / result.train_seconds)
    assert repr(result).startswith(f"FitResult(best_epoch={result.best_epoch} of 20, loss=")


def test_best_is_by_validation():
    result = run(epochs=8, validation=VALIDATION, optimizer=optax.sgd(3.0))
    accuracies = [record["validation_accuracy"] for record in result.history]
    equal = [record for record in result.history if record["validation_accuracy"] == max(accuracies)]
    assert result.best_epoch == min(equal, key=lambda record: record["validation_loss"])["epoch"]
    assert accuracies[-1] < max(accuracies), "the last epoch is not the best, or this test shows nothing"
    measured = evaluate(Centered(), result.params, result.state, *VALIDATION, loss=cross_entropy)
    assert measured["accuracy"] == max(accuracies)


def test_best_without_accuracy_is_by_validation_loss():
    images, _ = TRAIN
    targets = images.reshape(50, -1)[:, :2]

    def squared(y, targets):
        return ((y - targets) ** 2).mean(-1)

    options = {"loss": squared, "optimizer": optax.sgd(1.0), "epochs": 6}
    result = run(net=Linear(2), arrays=(images, targets), validation=(images[:9], targets[:9]), **options)
    losses = [record["validation_loss"] for record in result.history]
    assert result.best_epoch == 1 + int(np.argmin(losses))


def test_without_validation_best_is_last():
    result = run()
    assert result.best_epoch == 3
    assert_same((result.params, result.state), (result.train_state.params, result.train_state.state))
    assert "validation_loss" not in result.history[0]


@pytest.mark.parametrize(
    ("record", "best", "better"),
    [
        ({"validation_accuracy": 0.5}, {"validation_accuracy": 0.5}, True),
        ({"validation_accuracy": 1.0, "validation_loss": 0.06}, {"validation_accuracy": 1.0}, True),
        ({"validation_accuracy": 1.0, "validation_loss": 1.01}, {"validation_accuracy": 1.0}, False),
        ({"validation_accuracy": 1.0, "validation_loss": float("nan")}, {"validation_accuracy": 1.0}, False),
        ({"validation_loss": float("nan")}, {"validation_loss": float("nan")}, True),
        ({"validation_accuracy": 0.6}, {"validation_accuracy": 0.5}, True),
        ({"validation_accuracy": 0.4}, {"validation_accuracy": 0.5}, False),
        ({"validation_loss": 0.4}, {"validation_loss": 0.5}, True),
        ({"validation_loss": float("nan")}, {"validation_loss": 0.5}, False),
        ({"validation_loss": 9.0}, {"validation_loss": float("nan")}, True),
    ],
)
def test_better(record, best, better):
    """By accuracy, then by loss, then the later one."""
    name = "validation_accuracy" if "validation_accuracy" in record else "validation_loss"
    monitor = Monitor(name, largest=name.endswith("accuracy"))
    assert monitor.better({"validation_loss": 1.0, **record}, {"validation_loss": 1.0, **best}) is better


def test_fraction_holds_out_training_images():
    held = []

    def spy(images):
        jax.debug.callback(lambda x: held.append(np.asarray(x)), images)
        return images

    images = np.arange(50, dtype=np.float32)[:, None] / 50
    labels = np.tile([0, 1, 1, 1, 1], 10)
    result = run(net=Linear(2), arrays=(images, labels), validation=0.2, batch_size=10, epochs=1, preprocess=spy)
    jax.effects_barrier()
    *train, validation = [set(np.round(50 * batch[:, 0]).astype(int).tolist()) for batch in held]
    assert len(validation) == 10
    assert len(set.union(*train)) == 40
    assert not validation & set.union(*train)
    assert sum(labels[i] == 0 for i in validation) == 2
    assert result.train_state.step == 4


def test_same_key_same_result():
    one, same, other = [run(augment=noise, key=key, epochs=1).train_state for key in (5, jax.random.key(5), 6)]
    assert_same(one, same)
    assert (one.params["dense"]["kernel"] != other.params["dense"]["kernel"]).any()


def test_scan_equals_loop():
    results = [run(net=DROPOUT, augment=noise, validation=VALIDATION, epoch_scan=scan) for scan in (False, True)]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, results[0].params, results[1].params)
    jax.tree.map(close, *(without_times(result.history) for result in results))


def test_loop_on_cpu_by_default():
    assert not Arrays(*TRAIN, 16).scan


def test_init_continues_from_given_weights():
    params, state = Centered().init(jax.random.key(9), jnp.zeros((1, 4, 2)))
    result = run(init=(params, state), optimizer=optax.sgd(0.0), epochs=1)
    assert_same(result.params, params)


def test_optimizer_made_from_the_number_of_steps():
    seen = []

    def optimizer(steps):
        seen.append(steps)
        return optax.sgd(optax.cosine_decay_schedule(0.1, steps))

    run(optimizer=optimizer)
    assert seen == [3 * 4]


def test_checkpoints_hold_best_and_last(tmp_path):
    result = run(epochs=6, validation=VALIDATION, optimizer=optax.sgd(3.0), folder=tmp_path)
    assert layout.epochs(tmp_path) == sorted({result.best_epoch, 5, 6})
    best = restore(tmp_path, "best")
    assert_same((best.params, best.state), (result.params, result.state))
    assert_same(restore(tmp_path, "last", like=result.train_state), result.train_state)


def test_resume_is_bitwise_the_uninterrupted_run(tmp_path):
    options = {"net": DROPOUT, "augment": noise, "validation": 0.2, "optimizer": optax.adamw(0.3), "batch_size": 12}
    whole = run(epochs=5, **options)
    run(epochs=2, **options, folder=tmp_path)
    resumed = run(epochs=5, **options, folder=tmp_path, resume=True)
    assert_same(resumed.train_state, whole.train_state)
    assert_same((resumed.params, resumed.state), (whole.params, whole.state))
    assert resumed.best_epoch == whole.best_epoch
    assert without_times(resumed.history) == without_times(whole.history)


@pytest.mark.parametrize("there", [False, True])
def test_resume_without_a_checkpoint_starts_anew(tmp_path, there):
    folder = tmp_path if there else tmp_path / "runs" / "a"
    if there:
        (tmp_path / ".DS_Store").touch()
        (tmp_path / "9").mkdir()
    assert_same(run(epochs=1, folder=folder, resume=True).train_state, run(epochs=1).train_state)
    assert layout.epochs(folder) == [1]


def damage(folder, epoch):
    file = folder / str(epoch) / "record" / "metadata"
    file.write_bytes(file.read_bytes()[:100])


def test_resume_passes_over_a_damaged_checkpoint(tmp_path):
    options = {"net": DROPOUT, "validation": 0.2, "optimizer": optax.adamw(0.3), "batch_size": 12}
    whole = run(epochs=4, **options)
    run(epochs=3, **options, folder=tmp_path)
    damage(tmp_path, 3)
    with pytest.warns(UserWarning, match=r"3: expected a whole checkpoint, got a record .*; the checkpoint of epoch 2"):
        resumed = run(epochs=4, **options, folder=tmp_path, resume=True)
    assert_same(resumed.train_state, whole.train_state)
    assert_same((resumed.params, resumed.state), (whole.params, whole.state))
    assert resumed.best_epoch == whole.best_epoch
    assert layout.epochs(tmp_path) == sorted({whole.best_epoch, 3, 4})
    assert (tmp_path / "3.damaged" / "record" / "metadata").stat().st_size == 100


def test_resume_without_the_best_checkpoint(tmp_path):
    options = {"validation": VALIDATION, "optimizer": optax.sgd(3.0), "folder": tmp_path}
    result = run(epochs=6, **options)
    assert result.best_epoch < 6, "or this test shows nothing"
    damage(tmp_path, result.best_epoch)
    with pytest.warns(
        UserWarning, match=rf"{result.best_epoch}: expected a whole .*; epoch 6 counts as the best so far"
    ):
        resumed = run(epochs=6, **options, resume=True)
    assert resumed.best_epoch == 6
    assert_same(resumed.params, result.train_state.params)


def test_two_runs_on_one_folder(tmp_path):
    refused = []

    def again(_):
        with pytest.raises(OSError, match=r"folder: expected no other writer, got .* in use by process \d+ on"):
            run(epochs=2, folder=tmp_path, resume=True)
        refused.append(True)

    def spy(images):
        jax.debug.callback(again, jnp.zeros(()))
        return images

    with only_writer(tmp_path):
        again(None)
    run(epochs=1, batch_size=50, folder=tmp_path, preprocess=spy)
    jax.effects_barrier()
    assert len(refused) == 2
    run(epochs=2, batch_size=50, folder=tmp_path, resume=True)


def test_resume_of_a_finished_run_returns_it(tmp_path):
    options = {"epochs": 3, "validation": VALIDATION, "folder": tmp_path}
    whole = run(**options)
    resumed = run(**options, resume=True)
    assert_same(dataclasses.replace(resumed, history=[]).train_state, whole.train_state)
    assert resumed.history == whole.history
    assert_same(resumed.params, whole.params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net": Centered(classes=4)}, r"params/dense/bias: expected float32 \(4,\), .* got float32 \(3,\)"),
        ({"optimizer": optax.sgd(0.1)}, r"opt_state/0/count: expected nothing, .* got int32"),
        ({"batch_size": 10}, "batch_size must be 16, as in the run that .* holds, got 10"),
        ({"key": 6}, "key must be .*, as in the run that .* holds, got"),
        ({"arrays": data(49)}, "examples must be 50, as in the run that .* holds, got 49"),
    ],
)
def test_resume_of_another_run_is_refused(tmp_path, options, message):
    run(epochs=1, folder=tmp_path)
    with pytest.raises(ValueError, match=message):
        run(epochs=2, folder=tmp_path, resume=True, **options)


def poison(epoch, steps=4):
    """SGD whose rate becomes infinite in an epoch's second step, so that the third has no finite loss."""
    return optax.sgd(lambda count: jnp.where(count == (epoch - 1) * steps + 1, jnp.inf, 0.1))


@pytest.mark.parametrize("epoch_scan", [False, True])
def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path, epoch_scan):
    good = run(epochs=1, optimizer=poison(2), epoch_scan=epoch_scan)
    with pytest.raises(NonFiniteLossError, match="epoch 2, step 3 of 4; the last good state is the checkpoint of") as e:
        run(epochs=9, optimizer=poison(2), epoch_scan=epoch_scan, folder=tmp_path)
    assert (e.value.epoch, e.value.step, e.value.folder) == (2, 3, tmp_path)
    np.testing.assert_array_equal(e.value.indices, epoch_order(good.train_state.key, 1, 50, 16)[2])
    assert str(e.value).endswith(", ".join(map(str, e.value.indices[-3:].tolist())) + "]]")
    assert without_times(e.value.history) == without_times(good.history)
    assert_same(restore(tmp_path, "last", like=good.train_state), good.train_state)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    # The last step of the second epoch spoils the parameters; no loss has seen them yet.
    optimizer = optax.sgd(lambda count: jnp.where(count == 7, jnp.inf, 0.1))
    with pytest.raises(NonFiniteLossError, match=r"parameter dense/\w+ is not finite at epoch 2, step 4 of 4"):
        run(optimizer=optimizer, folder=tmp_path)
    assert layout.epochs(tmp_path) == [1]
    assert jnp.isfinite(restore(tmp_path).params["dense"]["kernel"]).all()


@dataclasses.dataclass(frozen=True)
class Watched(Linear):
    """A linear layer that keeps the largest input it saw. No output depends on it; gradients may."""

    overflows: bool = False

    def init(self, key, x):
        return Linear.init(self, key, x)[0], {"largest": jnp.zeros(())}

    def apply(self, params, state, x, *, train=False, key=None):
        logits, _ = Linear.apply(self, params, {}, jnp.where(jnp.isfinite(x), x, 0))
        if self.overflows:
            # Zero, with a gradient that is NaN, where an input isn't finite.
            logits += jnp.sqrt(jnp.isfinite(x).all() * jnp.exp(params["dense"]["bias"]))
        return logits, {"largest": jnp.maximum(state["largest"], jnp.abs(x).max())} if train else state


def test_a_state_that_is_not_finite_stops_the_run(tmp_path):
    images, labels = TRAIN
    images = images.copy()
    images[3, 1, 1] = np.inf
    with pytest.raises(NonFiniteLossError, match="layer state largest is not finite at epoch 1, step 4 of 4; no epoch"):
        run(net=Watched(), arrays=(images, labels), folder=tmp_path)
    assert layout.epochs(tmp_path) == []


def test_a_batch_that_overflows_is_skipped_for_good():
    images, labels = TRAIN
    images = images.copy()
    images[3, 1, 1] = np.inf
    optimizer = optax.apply_if_finite(optax.adam(0.05), 5)
    result = run(net=Watched(overflows=True), arrays=(images, labels), optimizer=optimizer)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((result.params, result.state)))
    assert np.isnan(result.history[-1]["grad_norm"])
    assert result.train_state.opt_state.total_notfinite >= 3


def test_a_bad_first_epoch_leaves_no_checkpoint(tmp_path):
    with pytest.raises(NonFiniteLossError, match="no epoch ended well"):
        run(optimizer=poison(1), folder=tmp_path)


def test_a_save_that_fails_stops_the_run(tmp_path, monkeypatch):
    whole = run(epochs=1, folder=tmp_path)

    def no_space(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(layout.ocp.Checkpointer, "save", no_space)
    with pytest.raises(OSError, match=r"epoch 2 could not be saved, the checkpoint of epoch 1 is untouched: No space"):
        run(epochs=2, folder=tmp_path, resume=True)
    monkeypatch.undo()
    assert_same(restore(tmp_path, "last", like=whole.train_state), whole.train_state)


def test_the_bar_runs_to_the_end(capsys):
    run(progress=True, epochs=2, validation=VALIDATION)
    text = capsys.readouterr().err
    assert "epoch 2/2: 100%" in text
    assert "validation_accuracy=" in text


IMAGES, LABELS = TRAIN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be an int of 1 or more, got 0"),
        ({"epochs": 2.5}, r"epochs must be an int of 1 or more, got 2\.5"),
        ({"batch_size": 51}, "batch_size must be at most 50, the number of training examples, got 51"),
        (
            {"batch_size": 46, "validation": 0.1},
            "batch_size must be at most 45, the number of training examples, got 46",
        ),
        ({"batch_size": 0}, "batch_size must be an int of 1 or more, got 0"),
        ({"arrays": (IMAGES, LABELS[:-1])}, r"^targets must have 50 examples, as the inputs have, got shape \(49,\)"),
        ({"arrays": (IMAGES, None)}, "targets must have 50 examples, as the inputs have, got None"),
        ({"arrays": (IMAGES, LABELS + 1)}, "^targets must be 0 to 2 for 3 classes, got 1 to 3"),
        ({"arrays": (IMAGES, LABELS + 0.5)}, "^targets must be what softmax_cross_entropy_with_integer_labels takes"),
        (
            {"validation": (IMAGES, LABELS[1:])},
            r"validation targets must have 50 examples, as the inputs have, got shape \(49,\)",
        ),
        ({"validation": (IMAGES, LABELS - 1)}, "validation targets must be 0 to 2 for 3 classes, got -1 to 1"),
        ({"validation": 1.5}, r"validation must be \(inputs, targets\), a fraction between 0 and 1 or .*, got 1\.5"),
        ({"validation": 10}, r"validation must be \(inputs, targets\), a fraction between 0 and 1 or .*, got 10"),
        ({"validation": 0.001}, r"validation must be a fraction that leaves no part empty, got 0\.001"),
        ({"resume": True}, "resume must come with a folder, got folder=None"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_folder_is_checked_before_anything_runs(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"folder must hold nothing but a run of fit, got 'thesis\.tex'"):
        run(net=None, folder=tmp_path)


def test_caller_keeps_its_arrays():
    images, labels = map(jnp.asarray, TRAIN)
    key = jax.random.key(5)
    run(arrays=(images, labels), key=key, validation=(images[:9], labels[:9]))
    assert not any(array.is_deleted() for array in (images, labels, key))


def test_result_is_data():
    assert [field.name for field in dataclasses.fields(FitResult)] == [
        "params",
        "state",
        "train_state",
        "history",
        "best_epoch",
        "interrupted",
    ]


def test_tracebacks_are_short():
    """The caller's line, and the one that says what is wrong; a bad loss adds the caller's own line."""

    def loss(outputs, targets):
        raise RuntimeError("mine")

    for options, error, frames in (
        ({"batch_size": 51}, ValueError, 2),
        ({"validation": (IMAGES, LABELS - 1)}, ValueError, 2),
        ({"loss": loss}, RuntimeError, 3),
        ({"optimizer": poison(1)}, NonFiniteLossError, 2),
    ):
        with pytest.raises(error) as caught:
            run(**options)
        ours = [entry for entry in caught.traceback if "/jax/" not in str(entry.path)]
        assert len(ours) - 1 <= frames, [f"{entry.path}:{entry.lineno}" for entry in ours]  # One more: this test's.


def test_colors_of_normalized_images_stop_the_run_with_the_reason():
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    net = jc.serial(jc.Flatten(), dense=jc.Dense(1))

    def augment(key, x):
        return jc.data.color_jitter(key, x, brightness=0.2)

    message = r"epoch 1, step 1 of 2; .*; color_jitter in augment returns NaN if images are not from 0 to 1: if so"
    with pytest.raises(NonFiniteLossError, match=message):
        fit(net, images, np.zeros((8, 1)), optax.sgd(1e-3), loss=optax.l2_loss, epochs=1, batch_size=4,
            augment=augment, preprocess=lambda x: jc.data.normalize(x, 0.45, 0.225), progress=False)  # fmt: skip
