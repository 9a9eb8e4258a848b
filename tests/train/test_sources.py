"""Batches from iterables: of each kind, in each length, and those that are wrong."""

import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.train import NonFiniteLossError, evaluate, fit, predict
from jaxconv.train.sources import Batches, is_iterable, known_length
from tests.train.toys import Centered, Linear, assert_same, cross_entropy, data

IMAGES, LABELS = data(48)
ADAM = optax.adam(0.05)  # One object: runs share what is compiled.


def batches(images=IMAGES, labels=LABELS, size=16):
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


def run(inputs, **options):
    options = {"loss": cross_entropy, "epochs": 3, "key": 5, "progress": False, **options}
    return fit(options.pop("net", Centered()), inputs, None, options.pop("optimizer", ADAM), **options)


class Loader:
    """An iterable with a length, as torch's and Grain's are."""

    def __init__(self, length=3):
        self.length, self.epochs = length, []

    def __len__(self):
        return self.length

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        return iter(batches())


def endless():
    return itertools.chain.from_iterable(batches() for _ in itertools.count())


@pytest.mark.parametrize(
    "make",
    [
        batches,
        Loader,
        lambda: lambda: iter(batches()),
        lambda: lambda epoch: iter(batches()),
        lambda: iter(batches() * 3),
        lambda: [[pair[0], jnp.asarray(pair[1])] for pair in batches()],
    ],
    ids="list loader function function_of_epoch iterator lists_of_both".split(),
)
def test_each_kind_trains_alike(make):
    inputs = make()
    options = {"steps": 9} if hasattr(inputs, "__next__") else {}
    result = run(inputs, **options)
    assert_same(result.train_state, run(batches()).train_state)
    assert [record["step"] for record in result.history] == [3, 6, 9]
    if isinstance(inputs, Loader):
        assert inputs.epochs == [0, 1, 2]


def test_iterables_train_as_arrays_do_in_the_same_order(monkeypatch):
    monkeypatch.setattr(
        "jaxconv.train.sources.epoch_order", lambda key, epoch, count, size: jnp.arange(count).reshape(-1, size)
    )
    arrays = fit(Centered(), IMAGES, LABELS, ADAM, loss=cross_entropy, epochs=3, key=5, batch_size=16, progress=False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        arrays.train_state.params,
        run(batches()).train_state.params,
    )


def test_batches_without_an_end():
    whole = run(batches())
    for inputs in (endless, endless(), type("Stream", (), {"__iter__": lambda self: endless()})()):
        result = run(inputs, steps=9, epochs=3)
        assert_same(result.train_state, whole.train_state)
        assert len(result.history) == 3
    assert [record["step"] for record in run(endless(), steps=7, epochs=3).history] == [3, 6, 7]
    assert [record["step"] for record in run(lambda: iter(batches()), steps=7, epochs=None).history] == [3, 6, 7]


def test_resume_reads_on_where_the_run_was(tmp_path):
    def shuffled(epoch):
        order = np.random.default_rng(epoch).permutation(48)
        return iter(batches(IMAGES[order], LABELS[order]))

    for make, options in ((lambda: shuffled, {"epochs": 4}), (endless, {"epochs": 4, "steps": 12})):
        whole = run(make(), **options)
        folder = tmp_path / str(len(options))
        with pytest.raises(KeyError):
            run(make(), **options, folder=folder, log=lambda record: {1: 1, 2: 2}[record["epoch"]])
        resumed = run(make(), **options, folder=folder, resume=True)
        assert_same(resumed.train_state, whole.train_state)
        assert len(resumed.history) == 4


def test_a_last_smaller_batch_counts_exactly_in_validation():
    held = batches(size=20)
    result = run(batches(), validation=held)
    params, state = result.train_state.params, result.train_state.state
    want = evaluate(Centered(), params, state, IMAGES, LABELS, loss=cross_entropy)
    for name in ("loss", "accuracy"):
        assert result.history[-1][f"validation_{name}"] == pytest.approx(want[name], rel=1e-6)
    from_batches = evaluate(Centered(), params, state, iter(held), loss=cross_entropy)
    assert from_batches["count"] == 48
    assert from_batches["loss"] == pytest.approx(want["loss"], rel=1e-6)
    outputs = predict(Centered(), params, state, (pair for pair in held))
    np.testing.assert_allclose(outputs, predict(Centered(), params, state, IMAGES), rtol=1e-5, atol=1e-6)


def test_padding_that_is_masked_does_not_count():
    """As `jaxconv.data.batches` pads, also where an image in the middle could not be read."""
    padded = [(*pair, np.ones(16, bool)) for pair in batches()]
    padded[1] = (np.zeros_like(IMAGES[:16]), LABELS[:16] * 0, np.arange(16) % 2 == 0)
    padded[1][0][::2], padded[1][1][::2] = IMAGES[16:32:2], LABELS[16:32:2]
    kept = np.r_[0:16, 16:32:2, 32:48]
    params, state = Centered().init(jax.random.key(0), IMAGES)
    found = evaluate(Centered(), params, state, padded, loss=cross_entropy)
    want = evaluate(Centered(), params, state, IMAGES[kept], LABELS[kept], loss=cross_entropy)
    assert found["count"] == want["count"] == 40
    assert found["loss"] == pytest.approx(want["loss"], rel=1e-6)
    short = [(IMAGES[:16], LABELS[:16]), (IMAGES[16:32:2], LABELS[16:32:2]), (IMAGES[32:], LABELS[32:])]
    assert_same(run(padded, epochs=1).train_state, run(short, epochs=1).train_state)


def test_batches_that_are_all_padding_are_left_out_of_an_evaluation():
    """The last one of a shard may be, and the first one where no image could be read."""
    none = (IMAGES[:16] * 0, LABELS[:16] * 0, np.zeros(16, bool))
    params, state = Centered().init(jax.random.key(0), IMAGES)
    padded = [none, *((*pair, np.ones(16, bool)) for pair in batches()), none]
    found = evaluate(Centered(), params, state, padded, loss=cross_entropy)
    assert found["count"] == 48
    assert found["loss"] == pytest.approx(evaluate(Centered(), params, state, batches(), loss=cross_entropy)["loss"])
    assert predict(Centered(), params, state, iter(padded)).shape == (48, 3)
    with pytest.raises(ValueError, match="inputs must have at least one example, got only padding"):
        evaluate(Centered(), params, state, [none], loss=cross_entropy)
    with pytest.raises(ValueError, match="inputs: the mask of a batch must be True for at least one example"):
        run(padded)


def test_an_iterable_may_fill_the_same_arrays_again():
    """JAX's CPU backend shares the memory of a NumPy array at such an address."""
    memory = np.zeros(16 * 8 * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    shared = memory[start : start + 16 * 8 * 4].view(np.float32).reshape(16, 4, 2)

    def refilled():
        for images, labels in batches():
            shared[...] = images
            yield shared, labels

    waiting = [jax.device_put(images) for images, _ in Batches(refilled)._pairs(0, 0, None)]
    assert_array_equal(np.concatenate(waiting), IMAGES)


def test_batches_of_a_data_set_resume(tmp_path):
    pytest.importorskip("grain")

    def loader():
        return jc.data.batches(
            [(image, label) for image, label in zip(IMAGES, LABELS, strict=True)], 10, key=3, workers=1
        )

    whole = run(loader(), epochs=2)
    assert whole.train_state.step == 10, "five batches, of which the last has eight examples"
    with pytest.raises(SystemExit):
        run(loader(), epochs=2, folder=tmp_path, on_epoch=lambda *_: signal.raise_signal(signal.SIGTERM))
    assert_same(run(loader(), epochs=2, folder=tmp_path, resume=True).train_state, whole.train_state)


def test_one_program_runs_smaller_batches_of_validation():
    from jaxconv.train.forward import forward

    params, _ = Linear().init(jax.random.key(0), IMAGES)
    before = forward._cache_size()
    evaluate(Linear(), params, {}, batches(size=20), loss=cross_entropy)
    assert forward._cache_size() <= before + 1


def test_torch_loader():
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS).long())
    loader = torch.utils.data.DataLoader(pairs, batch_size=16)
    assert_same(run(loader).train_state, run(batches()).train_state)


def test_the_next_batch_is_read_while_the_device_computes():
    """The reader is one batch ahead of the step, and no more than two."""
    events = []

    def read():
        for i, pair in enumerate(batches() * 2):
            events.append(("read", i))
            yield pair

    def spy(x):
        jax.debug.callback(lambda _: events.append(("step", 0)), x[0, 0, 0], ordered=True)
        return x

    run(read, epochs=1, preprocess=spy)
    jax.effects_barrier()
    ahead = 0
    for kind, _ in events:
        ahead += 1 if kind == "read" else -1
        assert -1 <= ahead <= 3
    assert sum(kind == "step" for kind, _ in events) == 6


def bad(change):
    def make():
        for i, (x, y) in enumerate(batches()):
            yield change(x, y) if i == 1 else (x, y)

    return make


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            bad(lambda x, y: (x, {"label": y})),
            r"inputs: targets must be int32 .* as in batch 1, got nothing in batch 2",
        ),
        (bad(lambda x, y: (x[:, :3], y)), r"inputs: inputs must be float32 \(16, 4, 2\), .*, got float32 \(16, 3, 2\)"),
        (bad(lambda x, y: (x, y.astype(np.float32))), r"inputs: targets must be int32 \(16,\), .* got float32 \(16,\)"),
        (
            bad(lambda x, y: (x, y[:-1])),
            r"inputs: targets must have 16 examples, as the inputs have, got shape \(15,\)",
        ),
        (bad(lambda x, y: (x, y + 1)), r"batch 2: targets must be 0 to 2 for 3 classes, got 1 to 3"),
        (bad(lambda x, y: x), "inputs must be arrays, with targets, or give batches .*, got ndarray"),
        (bad(lambda x, y: (x, y, y)), "inputs must be .* give batches .*, got tuple of 3"),
        (bad(lambda x, y: (x, np.array(["a"] * 16))), "a batch must hold numbers, got <U1"),
        (Loader(5), "inputs must give 5 batches in an epoch, got 3 in epoch 1"),
        (iter(batches()), "inputs must give at least one batch in an epoch, got 0 in epoch 2; a generator ends once"),
        ([], "inputs must give at least one batch, got none"),
        (lambda: iter(()), "inputs must give at least one batch, got none"),
        ((IMAGES, LABELS), "inputs must be arrays, with targets, or give batches .*, got ndarray"),
        (IMAGES, "targets must have 48 examples, as the inputs have, got None"),
        ({"a": IMAGES}, "targets must have 48 examples, as the inputs have, got None"),
    ],
)
def test_bad_input(inputs, message):
    with pytest.raises(ValueError, match=message):
        run(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": lambda steps: optax.sgd(0.1)}, "steps must be given where inputs have no length"),
        ({"validation": 0.2}, r"validation must be \(inputs, targets\) or an iterable of batches, got 0\.2"),
        ({"epochs": None}, "epochs or steps must be given, got neither"),
        ({"validation": iter(batches())}, "validation must give at least one batch in an epoch, got 0 .* ends once"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        run(lambda: iter(batches()), **options)


def test_an_endless_source_that_ends():
    with pytest.raises(ValueError, match="inputs must give 2 batches in an epoch, got 1 in epoch 2"):
        run(iter(batches()), steps=6, epochs=3)


def test_a_loss_that_is_not_finite_names_the_batch():
    images = IMAGES.copy()
    images[20] = np.inf
    with pytest.raises(NonFiniteLossError, match="at epoch 1, step 2 of 3") as caught:
        run(batches(images), net=Linear())
    assert caught.value.indices is None


def test_kinds():
    assert is_iterable(batches(), None)
    assert is_iterable(endless, None)
    assert not is_iterable(batches(), LABELS)
    assert not is_iterable(IMAGES, None)
    assert not is_iterable(3, None)
    assert known_length(Loader()) == 3
    assert known_length(endless()) is None
    assert known_length(range(2**40)) is None
    source = Batches(Loader())
    assert_array_equal(source.example()[0].shape, (16, 4, 2))
