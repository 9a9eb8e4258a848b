"""Training steps divided over a mesh: the values of one device, what is divided, and what is sent."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxconv as jc
from jaxconv.train import TrainState, evaluate, fit, predict, train_step
from jaxconv.train.mesh import Placement
from tests.train.toys import Centered, Linear, assert_same, cross_entropy, data

ROOT = Path(__file__).parents[2]
P = PartitionSpec


@functools.cache
def cases():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.mesh_cases"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows_of(what):
    return [row for row in cases() if what in row]


def test_steps_of_eight_devices_are_those_of_one():
    """Batch statistics, clipping by the norm of all gradients, augmentation and dropout included; one program each."""
    assert len(rows_of("shard_params")) == 6
    for row in rows_of("shard_params"):
        assert row["off"] < 1e-4, row
        assert row["compiled_again"] == 0, row
        assert row["kinds"] == [row["kind"]]


def test_parameters_and_the_optimizer_s_state_are_divided():
    """And gathered once each for the forward pass; with whole parameters nothing is gathered."""
    for row in rows_of("shard_params"):
        kernel, momentum = row["specs"]
        assert kernel == momentum
        divided = {None: [], "data": ["data"], "model": ["model"], "by_path": ["data", "model"]}[row["shard_params"]]
        assert [axis for axis in ("data", "model") if repr(axis) in kernel] == divided, row
        gathered = {None: 0, "data": 3}
        if row["shard_params"] in gathered:
            assert row["sent"].get("all-gather", 0) == gathered[row["shard_params"]], row
            assert not set(row["sent"]) & {"all-to-all", "collective-permute"}, row


def test_evaluation_on_eight_devices_is_that_of_one():
    """Batches of any size, the last ones smaller; metrics that are divided as the outputs are."""
    assert len(rows_of("evaluated")) == 6
    for row in rows_of("evaluated"):
        assert row["off"] < 1e-5, row
        assert row["count"] == 21, row


def test_a_divided_train_state_is_made_in_parts():
    """With the values and the shardings of one that was made on one device, and room for a part on each device."""
    assert len(rows_of("created")) == 3
    for row in rows_of("created"):
        assert row["off"] < 1e-6, row
        assert row["sharded_alike"], row
        assert row["divided"] == 16, "four kernels, two moments of each, and its average"
        assert row["bytes_a_device"] < row["bytes"] / 5, "biases are on each device"
        assert row["temporaries"] < 5 * 64 * 64 * 4, "some times the room of one kernel, however many there are"
        assert row["compiled_again"] == 0, row


# ---------------------------------------------------------------------------------------------------------------------
# In this process, which has four devices


def mesh_of(*shape, names=("data", "model")):
    return jax.make_mesh(shape, names[: len(shape)], axis_types=(AxisType.Auto,) * len(shape))


def state_of(optimizer=None, shape=(8, 4, 2)):
    return TrainState.create(Centered(4), optimizer or optax.adam(1e-3), 0, jnp.zeros(shape))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(1e-3),
        optax.chain(optax.clip(1.0), optax.masked(optax.adam(1e-3), {"dense": {"kernel": True, "bias": False}})),
        optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2),
        optax.partition({"a": optax.adam(1e-3), "b": optax.sgd(0.1)}, {"dense": {"kernel": "a", "bias": "b"}}),
        optax.contrib.schedule_free_adamw(1e-3),
    ],
    ids=["adam", "masked", "accumulated", "partition", "schedule_free"],
)
def test_state_of_optimizers_follows_the_parameters(optimizer):
    train_state = state_of(optimizer)
    specs = Placement(mesh_of(4), "data").specs(train_state)
    assert specs.params == {"dense": {"kernel": P("data"), "bias": P()}}
    assert specs.state == {"norm": {"mean": P()}}
    pairs = zip(jax.tree.leaves(train_state.opt_state), jax.tree.leaves(specs.opt_state), strict=True)
    assert {spec == P("data") for leaf, spec in pairs if leaf.shape == (8, 4)} == {True}
    assert (specs.step, specs.key) == (P(), P())


def test_which_axis_divides():
    """The last of the largest axes that it can; vectors stay whole."""
    params = {"a": (3, 3, 8, 8), "b": (3, 3, 12, 6), "c": (16,), "d": (3, 5), "e": (4, 9)}
    params = {name: jnp.zeros(shape) for name, shape in params.items()}
    train_state = TrainState.create(None, optax.identity(), 0, init=(params, {}))
    assert Placement(mesh_of(4), "data").specs(train_state).params == {
        "a": P(None, None, None, "data"),
        "b": P(None, None, "data"),
        "c": P(),
        "d": P(),
        "e": P("data"),
    }


def test_a_state_or_a_batch_may_be_on_the_mesh_already():
    images, labels = data(8, classes=4)
    placement = Placement(mesh_of(4), "data")
    step = train_step(Centered(4), cross_entropy, optax.adam(1e-3), donate=False, mesh=mesh_of(4), shard_params="data")
    want = step(state_of(), images, labels)
    assert_same(step(placement.put(state_of()), *placement.put_batch((images, labels))), want)
    with jax.set_mesh(mesh_of(4)):
        assert_same(step(state_of(), images, labels), want)


def test_what_does_not_fit_is_refused():
    make = functools.partial(train_step, Centered(4), cross_entropy, optax.adam(1e-3))
    images, labels = data(6, classes=4)
    with pytest.raises(
        ValueError, match="the size of a batch must be a multiple of 4, the size of the mesh's axis 'data', got 6"
    ):
        make(mesh=mesh_of(4))(state_of(), images, labels)
    with pytest.raises(ValueError, match=r"mesh must have an axis 'data' for the batch, got axes \('batch',\)"):
        make(mesh=mesh_of(4, names=("batch",)))
    with pytest.raises(ValueError, match=r"mesh must be a jax.sharding.Mesh, got int"):
        make(mesh=4)
    with pytest.raises(ValueError, match=r"shard_params must be None, one of the mesh's axes \('data',\) .* 'model'"):
        make(mesh=mesh_of(4), shard_params="model")
    with pytest.raises(ValueError, match="shard_params must come with a mesh, got mesh=None and 'data'"):
        make(shard_params="data")


# ---------------------------------------------------------------------------------------------------------------------
# fit


TRAIN, HELD = data(40, classes=4), data(21, classes=4, seed=1)


def run(inputs=TRAIN[0], targets=TRAIN[1], **options):
    options = {"epochs": 2, "batch_size": 16, "key": 5, "progress": False, "average": 0.9, **options}
    return fit(Centered(4), inputs, targets, optax.adam(0.05), loss=cross_entropy, **options)


def assert_equal(got, want):
    """Up to the order of sums."""
    for record, other in zip(got.history, want.history, strict=True):
        for name in record:
            if name not in ("seconds", "images_per_second"):
                assert record[name] == pytest.approx(other[name], rel=1e-4), name
    for one, other in zip(
        *(jax.tree.leaves((r.params, r.state, r.train_state.opt_state)) for r in (got, want)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def batches():
    """Batches of 16, of which the validation's last is smaller."""
    return [(TRAIN[0][i : i + 16], TRAIN[1][i : i + 16]) for i in (0, 16)]


def held():
    return [(HELD[0][i : i + 6], HELD[1][i : i + 6]) for i in range(0, 21, 6)]


@pytest.mark.parametrize("kind", [pytest.param("arrays", marks=pytest.mark.slow), "scan", "batches"])
def test_fit_on_a_mesh(kind):
    options = {"validation": HELD, "epoch_scan": kind == "scan"}
    if kind == "batches":
        options = {"inputs": batches(), "targets": None, "validation": held()}
    explicit = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    want, whole, divided = (
        run(**options),
        run(mesh=mesh_of(4), **options),
        run(mesh=explicit, shard_params="data", **options),
    )
    for got in (whole, divided):
        assert_equal(got, want)
    if kind == "arrays":
        with jax.set_mesh(explicit):
            assert_equal(run(mesh=explicit, shard_params="data", **options), want)
        measured = evaluate(Centered(4), divided.params, divided.state, *HELD, loss=cross_entropy)
        assert measured["loss"] == pytest.approx(divided.history[-1]["validation_loss"], rel=1e-5)
    kernel = divided.train_state.opt_state[0].mu["dense"]["kernel"]
    assert kernel.sharding == jax.NamedSharding(explicit, P("data", None))
    assert divided.params["dense"]["kernel"].sharding == kernel.sharding
    assert divided.train_state.average["dense"]["kernel"].sharding == kernel.sharding
    assert whole.params["dense"]["kernel"].sharding.is_fully_replicated


def test_a_run_goes_on_on_another_mesh(tmp_path):
    want = run(epochs=3, validation=0.2, folder=tmp_path / "whole")
    for epochs, options in enumerate(
        [
            {"mesh": mesh_of(4), "shard_params": "data"},
            {},
            {"mesh": mesh_of(2, 2), "shard_params": "model"},
        ],
        start=1,
    ):
        got = run(epochs=epochs, validation=0.2, folder=tmp_path / "divided", resume=True, **options)
    assert_equal(got, want)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 256), (3, 2), (21, 6), (21, 20), (24, 8)])
@pytest.mark.parametrize("put", [np.asarray, jnp.asarray])
def test_evaluation_of_any_count(count, batch_size, put):
    images, labels = (put(leaf) for leaf in data(count, classes=4, seed=count))
    net = Centered(4)
    params, state = net.init(jax.random.key(0), images)
    options = {"loss": cross_entropy, "batch_size": batch_size}
    want, got = (evaluate(net, params, state, images, labels, mesh=m, **options) for m in (None, mesh_of(4)))
    assert got == pytest.approx(want, rel=1e-6)
    one, other = (predict(net, params, state, images, batch_size=batch_size, mesh=m) for m in (None, mesh_of(2, 2)))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_mesh_that_is_none_is_refused_in_evaluation():
    for call in (
        lambda: predict(Centered(4), {}, {}, TRAIN[0], mesh=4),
        lambda: evaluate(Centered(4), {}, {}, *TRAIN, loss=cross_entropy, mesh=4),
    ):
        with pytest.raises(ValueError, match=r"mesh must be a jax.sharding.Mesh, got int"):
            call()


def loader(count=40, size=16, **options):
    return jc.data.batches(list(zip(*data(count, classes=4), strict=True)), size, key=0, **options)


class TorchLike:
    """As a torch DataLoader says what its batches are."""

    batch_size, drop_last, sampler = 16, False, range(40)

    def __len__(self):
        return 3

    def __iter__(self):
        raise AssertionError("nothing is read")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda: loader(42), "the size of the last batch must be a multiple of 4, the size .* 'data', got 10"),
        (lambda: loader(42, remainder="pad"), "the size of the last batch must be a multiple of 4, .*, got 10"),
        (lambda: loader(40, 10), "the size of a batch must be a multiple of 4, .*, got 10"),
        (lambda: loader(broken="skip"), 'remainder must be "drop" with broken="skip" on a mesh, .*, got \'short\''),
        (
            lambda: loader(shard=(0, 2), remainder="drop"),
            r"shard must be \(0, 1\), .* for this process, got \(0, 2\)",
        ),
        (lambda: [*batches(), (TRAIN[0][:5], TRAIN[1][:5])], "the size of the last batch must be .*, got 5; leave out"),
        (TorchLike, "the size of a batch must be a multiple of 3, .*, got 16"),
    ],
)
def test_batches_that_the_mesh_does_not_divide_are_refused_before_one_is_read(inputs, message):
    with pytest.raises(ValueError, match=f"^inputs: {message}"):
        run(inputs(), None, mesh=mesh_of(3) if inputs is TorchLike else mesh_of(4))


def test_a_last_batch_that_the_mesh_divides_is_trained_on():
    want, got = (run(loader(40), None, mesh=mesh) for mesh in (None, mesh_of(4)))
    assert_equal(got, want)
    assert got.history[-1]["step"] == 6, "of 16, 16 and 8 examples"


def test_a_smaller_batch_of_a_generator_is_named_when_it_comes():
    def generate():
        yield from batches()
        yield TRAIN[0][:5], TRAIN[1][:5]

    with pytest.raises(ValueError, match=r"the size of a batch must be a multiple of 4, .*, got 5; leave out a last"):
        run(generate, None, mesh=mesh_of(4))


def test_what_fit_refuses():
    with pytest.raises(
        ValueError, match="batch_size must be a multiple of 4, the size of the mesh's axis 'data', got 10"
    ):
        run(batch_size=10, mesh=mesh_of(4))
    with pytest.raises(ValueError, match=r"the size of a batch must be a multiple of 4, .*, got 10"):
        run([(TRAIN[0][:10], TRAIN[1][:10])], None, mesh=mesh_of(4))
    with pytest.raises(ValueError, match="shard_params must come with a mesh, got mesh=None and 'data'"):
        run(shard_params="data")
    with pytest.raises(ValueError, match="mesh must have an axis 'data'"):
        run(mesh=mesh_of(4, names=("x",)))


@pytest.mark.parametrize("spec", [P("expert"), P(None, None, "data"), P(None, "data"), None])
def test_a_spec_that_does_not_fit_names_the_parameter(spec):
    placement = Placement(mesh_of(4), lambda path, shape: spec if path.endswith("kernel") else P())
    train_state = TrainState.create(Linear(3), optax.identity(), 0, jnp.zeros((1, 8)))
    with pytest.raises(
        ValueError, match=r"shard_params must return for dense/kernel \(8, 3\) a PartitionSpec over axes"
    ):
        placement.put(train_state)


def test_the_part_of_a_process():
    assert Placement(mesh_of(4)).shard() == (0, 1)

    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    def shard(processes, axes=("data",)):
        placement = Placement(mesh_of(4))
        devices = np.vectorize(Device)(np.asarray(processes))
        object.__setattr__(
            placement,
            "mesh",
            type(
                "M", (), {"devices": devices, "axis_names": axes, "shape": dict(zip(axes, devices.shape, strict=True))}
            )(),
        )
        return placement.shard()

    assert shard([0, 0, 1, 1]) == (0, 2)
    assert shard([1, 1, 0, 0]) == (1, 2)
    assert shard([[0, 1], [0, 1]], ("model", "data")) == (0, 2)
    assert shard([[0, 1], [2, 3]], ("data", "model")) == (0, 2)
    with pytest.raises(
        ValueError, match="mesh must have the devices of a process next to each other on the axis 'data'"
    ):
        shard([0, 1, 0, 1])
