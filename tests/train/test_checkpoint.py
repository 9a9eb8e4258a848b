import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxconv.train import TrainState, check, layout, restore, save
from jaxconv.train.checkpoint import load, save_locked
from jaxconv.train.lock import only_writer
from tests.train.toys import Centered, Linear, assert_same

# A restore that fails closes its event loop; a read of TensorStore that ends later finds it closed, and says so in
# whatever test runs then.
pytestmark = pytest.mark.filterwarnings(r"ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning")

HISTORY = [{"loss": 1.0}, {"loss": 0.1}, {"loss": float("nan")}, {"loss": 0.3}]


def make(net=None, optimizer=None, *, key=0):
    return TrainState.create(net or Centered(), optimizer or optax.adam(1e-3), key, jnp.zeros((1, 8)))


def names(folder):
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.name != ".lock")


def test_comes_back_bit_for_bit(tmp_path):
    train_state = make(optimizer=optax.chain(optax.clip(1.0), optax.masked(optax.adam(1e-3), {"dense": True})), key=5)
    save(tmp_path / "run", train_state, HISTORY[:2], run={"batch": 4})
    restored, record = load(tmp_path / "run", like=train_state)
    assert_same(restored, train_state)
    assert record["history"] == HISTORY[:2]
    assert record["run"] == {"batch": 4}
    assert_same(restore(tmp_path / "run", like=jax.eval_shape(lambda tree: tree, train_state)), train_state)


def test_without_like_params_and_state_are_dicts(tmp_path):
    train_state = make()
    save(tmp_path, train_state, HISTORY[:1])
    restored = restore(tmp_path)
    assert_same((restored.params, restored.state), (train_state.params, train_state.state))
    assert_same((restored.step, restored.key), (train_state.step, train_state.key))
    assert_same(restored.opt_state["0"]["mu"], train_state.opt_state[0].mu)


def test_empty_state_and_empty_arrays(tmp_path):
    params = {"a": jnp.zeros((0, 3)), "b": jnp.ones(2, jnp.bfloat16), "c": jnp.arange(3), "d": jnp.asarray(True)}
    train_state = TrainState.create(Linear(), optax.identity(), 0, init=(params, {}))
    save(tmp_path, train_state, HISTORY[:1])
    assert_same(restore(tmp_path, like=train_state), train_state)
    assert_same(restore(tmp_path).params, params)
    assert restore(tmp_path).state == {}


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_keep_their_kind(tmp_path, impl):
    train_state = make(key=jax.random.key(5, impl=impl))
    save(tmp_path, train_state, HISTORY[:1])
    for restored in (restore(tmp_path, like=train_state), restore(tmp_path)):
        assert jax.random.key_impl(restored.key) == jax.random.key_impl(train_state.key)
        assert_same(restored.key, train_state.key)


def test_keeps_best_and_the_last_two(tmp_path):
    for epoch, best in enumerate([1, 1, 1, 1], start=1):
        save(tmp_path, make(key=epoch), HISTORY[:epoch], best_epoch=best)
    assert names(tmp_path) == ["1", "3", "4"]
    assert_same(restore(tmp_path, "best", like=make()), make(key=1))
    assert_same(restore(tmp_path, "last", like=make()), make(key=4))
    assert_same(restore(tmp_path, 3, like=make()), make(key=3))
    assert len(load(tmp_path, "last")[1]["history"]) == 4
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of epoch 2, but of 1, 3, 4"):
        restore(tmp_path, 2)


def test_goes_to_the_devices_of_like(tmp_path):
    train_state = make()
    save(tmp_path, train_state, HISTORY[:1])
    device = jax.devices()[-1]
    restored = restore(tmp_path, like=jax.device_put(train_state, device))
    assert {next(iter(leaf.devices())) for leaf in jax.tree.leaves(restored.params)} == {device}


def test_no_function_compiles_again_for_what_is_restored(tmp_path, caplog):
    train_state = make()
    save(tmp_path, train_state, HISTORY[:1])

    @jax.jit
    def copied(train_state):
        return jax.tree.map(jnp.copy, train_state)

    with jax.log_compiles():
        for one in (train_state, restore(tmp_path, like=train_state), copied(restore(tmp_path, like=train_state))):
            copied(one)
    # Not by the size of the function's cache, which has one list of entries with all functions of the process.
    assert sum("Finished XLA compilation of jit(copied)" in message for message in caplog.messages) == 1


def test_sharded_arrays_come_back_sharded(tmp_path):
    mesh = jax.make_mesh((len(jax.devices()),), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    params = {"kernel": jax.device_put(jnp.arange(16.0), sharding)}
    train_state = TrainState(params, {}, (), jnp.int32(3), jax.random.key(0))
    save(tmp_path, train_state, HISTORY[:1])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), train_state
    )
    for like in (train_state, shapes):
        restored = restore(tmp_path, like=like)
        assert_same(restored, train_state)
        assert restored.params["kernel"].sharding == sharding
    assert_same(restore(tmp_path).params, {"kernel": jnp.arange(16.0)})


@pytest.mark.parametrize(
    ("net", "optimizer", "message"),
    [
        (Centered(classes=4), None, r"params/dense/bias: expected float32 \(4,\), .* got float32 \(3,\)"),
        (Linear(), None, r"state/norm/mean: expected nothing, .* got float32 \(8,\)"),
        (None, optax.sgd(0.1, momentum=0.9), r"opt_state/0/trace/dense/bias: expected float32 \(3,\), .* got nothing"),
        (None, optax.sgd(0.1), r"opt_state/0/count: expected nothing, .* got int32 \(\)"),
    ],
)
def test_another_network_or_optimizer_is_refused(tmp_path, net, optimizer, message):
    save(tmp_path, make(), HISTORY[:1])
    with pytest.raises(ValueError, match=message):
        restore(tmp_path, like=make(net, optimizer))


def test_an_altered_history_is_refused(tmp_path):
    save(tmp_path, make(), [{"validation_accuracy": 0.125}])
    file = tmp_path / "1" / "record" / "metadata"
    file.write_text(file.read_text().replace("0.125", "0.875"))
    with pytest.raises(ValueError, match=r"1: expected checksum .* of the record"):
        restore(tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        restore(tmp_path)
    save(tmp_path, make(), HISTORY[:2])
    with pytest.raises(ValueError, match="which: expected 'best', 'last' or an epoch, got 'first'"):
        restore(tmp_path, "first")
    with pytest.raises(ValueError, match=r"history: expected more than the 2 epochs that .* holds, got 2"):
        save(tmp_path, make(), HISTORY[:2])
    with pytest.raises(ValueError, match=r"best_epoch: expected 3 or an epoch whose checkpoint is in .*, got 1"):
        save(tmp_path, make(), HISTORY[:3], best_epoch=1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(tmp_path, make(), [*HISTORY[:2], {"loss": object()}])
    assert names(tmp_path) == ["2"]


def test_what_someone_else_wrote_is_refused(tmp_path):
    with ocp.CheckpointManager(tmp_path, item_names=("arrays", "record")) as manager:
        args = ocp.args.Composite(arrays=ocp.args.StandardSave({"a": jnp.ones(3)}), record=ocp.args.JsonSave({"a": 1}))
        manager.save(1, args=args)
    with pytest.raises(ValueError, match=r"1: expected a checkpoint of jaxconv\.train, format 2, got another"):
        restore(tmp_path)


# Orbax starts to read all arrays at once, and drops the others' coroutines when one fails.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <coroutine object _read_array:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("arrays", "flipped"),
        ("record/metadata", "truncated"),
        pytest.param("arrays", "truncated", marks=pytest.mark.slow),
        pytest.param("arrays/_METADATA", "truncated", marks=pytest.mark.slow),
        pytest.param("record/metadata", "flipped", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_blocks_no_other(tmp_path, part, damage, capsys):
    first, second = [
        TrainState.create(None, optax.identity(), 0, init=({"kernel": jax.random.normal(key, (100, 30))}, {}))
        for key in jax.random.split(jax.random.key(0))
    ]
    save(tmp_path, first, HISTORY[:1])
    save(tmp_path, second, HISTORY[:2], best_epoch=1)
    (tmp_path / "9").mkdir()  # A copy that was cut short: no checkpoint.
    assert check.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2: whole, 3 arrays, 0.012 MB, the last",
        "1: whole, 3 arrays, 0.012 MB, the best",
    ]
    place = tmp_path / "2" / part
    file = max((f for f in [place, *place.rglob("*")] if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)

    for wanted in (2, first), (2, None):
        with pytest.raises(ValueError, match=r"^.*/2: expected [^\n]*$") as caught:
            restore(tmp_path, wanted[0], like=wanted[1])
        assert len(str(caught.value)) < 250 + len(str(tmp_path)), "one sentence"
    with pytest.warns(UserWarning, match=r"/2: expected .*; the checkpoint of epoch 1 is used in its place"):
        assert_same(restore(tmp_path, "last", like=first), first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        assert_same(restore(tmp_path, "best", like=first), first)
    assert len(caught) == part.startswith("record"), "the best needs no more of the last than its record"
    assert check.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2: damaged: ")
    assert lines[1:] == ["1: whole, 3 arrays, 0.012 MB, the last, the best"]

    save(tmp_path, second, HISTORY[:2])
    assert names(tmp_path) == ["1", "2", "2.damaged", "9"]
    assert_same(restore(tmp_path, "last", like=first), second)
    assert check.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2.damaged: set aside by a run that wrote this epoch again"
    gc.collect()  # So that the warning comes here, where it is expected.


def test_all_checkpoints_damaged(tmp_path):
    for epoch in (1, 2):
        save(tmp_path, make(), HISTORY[:epoch])
        (tmp_path / str(epoch) / "record" / "metadata").write_bytes(b"")
    for which in ("best", "last"):
        with pytest.raises(ValueError, match=r"/2: expected a whole checkpoint, got a record that can't be read"):
            restore(tmp_path, which)


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    save(tmp_path, make(key=1), HISTORY[:1])
    read = layout.read_record

    def late(path, epoch):
        monkeypatch.undo()
        for count in (2, 3):
            save(tmp_path, make(key=count), HISTORY[:count])
        return read(path, epoch)

    monkeypatch.setattr(layout, "read_record", late)
    assert_same(restore(tmp_path, "last", like=make()), make(key=3))


def test_a_failure_that_is_no_damage_is_not_taken_for_it(tmp_path, monkeypatch):
    save(tmp_path, make(key=1), HISTORY[:1])
    save(tmp_path, make(key=2), HISTORY[:2])

    def full(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", full)
    monkeypatch.setattr(layout, "verify", lambda *_: {})
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        restore(tmp_path, "last", like=make())


def test_check_of_nothing(tmp_path, capsys):
    assert check.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path} holds no checkpoint\n"
    with pytest.raises(SystemExit, match="2"):
        check.main([str(tmp_path / "absent")])
    assert "folder: expected a folder, got" in capsys.readouterr().err


def test_two_writers(tmp_path):
    save(tmp_path, make(key=1), HISTORY[:1])
    with only_writer(tmp_path):
        with pytest.raises(OSError, match="folder: expected no other writer"):
            save(tmp_path, make(key=2), HISTORY[:2])
        assert_same(restore(tmp_path, like=make()), make(key=1))
    assert names(tmp_path) == ["1"]
    # Where the file system has no locks, a name of each writer's own and a rename keep what is there whole.
    arrays = {"a": jnp.ones(3)}
    with pytest.raises(OSError, match="not empty"):
        layout.write(tmp_path, "1", arrays, layout.seal({}))
    assert_same(restore(tmp_path, like=make()), make(key=1))


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    with only_writer(folder):
        save_locked(folder, make(key=1), HISTORY[:1])
        folder.rename(tmp_path / "moved")
        with pytest.raises(OSError, match=r"run: epoch 2 could not be saved, for the folder was removed or moved"):
            save_locked(folder, make(key=2), HISTORY[:2])
    assert not folder.exists()
    assert_same(restore(tmp_path / "moved", like=make()), make(key=1))


def test_leftovers_of_a_crash_do_no_harm(tmp_path):
    save(tmp_path, make(key=1), HISTORY[:1])
    save(tmp_path, make(key=2), HISTORY[:2], best_epoch=1)
    # A save that was killed, and the removal of an old checkpoint that was.
    (tmp_path / ".partial-3-0123" / "arrays").mkdir(parents=True)
    (tmp_path / ".partial-1-4567" / "record").mkdir(parents=True)
    assert_same(restore(tmp_path, "last", like=make()), make(key=2))
    save(tmp_path, make(key=3), HISTORY[:3])
    assert names(tmp_path) == ["2", "3"]
    assert_same(restore(tmp_path, like=make()), make(key=3))


def test_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, make(key=1), HISTORY[:1])

    async def no_space(*_, **__):
        await asyncio.sleep(0.5)
        raise OSError(errno.ENOSPC, "No space left on device")

    # The arrays are written by then, the record is not.
    monkeypatch.setattr(ocp.JsonCheckpointHandler, "async_save", no_space)
    with pytest.raises(
        OSError, match=r"epoch 2 could not be saved, the checkpoint of epoch 1 is untouched: .*No space"
    ):
        save(tmp_path, make(key=2), HISTORY[:2])
    assert_same(restore(tmp_path, "last", like=make()), make(key=1))

    monkeypatch.undo()
    save(tmp_path, make(key=2), HISTORY[:2])
    assert names(tmp_path) == ["1", "2"]
    assert_same(restore(tmp_path, "last", like=make()), make(key=2))


# A save of 8 MB that says when it begins; its arrays hold the number of the epoch.
PROGRAM = """
    import sys, jax, jax.numpy as jnp, optax
    from jaxconv.train import TrainState, save
    def make(epoch):
        params = {str(i): jnp.full((256, 1024), epoch, jnp.float32) for i in range(8)}
        return TrainState.create(None, optax.identity(), 0, init=(params, {}))
    save(sys.argv[1], make(1), [{}])
    print("saved", flush=True)
    %s
"""


def start(folder, rest):
    program = textwrap.dedent(PROGRAM) % rest
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_whole(folder):
    restored, record = load(folder, "last")
    epoch = len(record["history"])
    assert len(restored.params) == 8
    for leaf in restored.params.values():
        np.testing.assert_array_equal(leaf, np.full((256, 1024), epoch, np.float32))
    return epoch


def test_killed_while_saving_leaves_the_previous_checkpoint(tmp_path):
    rest = "[save(sys.argv[1], make(epoch), [{}] * epoch) for epoch in range(2, 1000)]"
    with start(tmp_path, rest) as process:
        try:
            assert process.stdout.readline() == "saved\n"
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(".partial-[3-9]-*/arrays*")):
                assert process.poll() is None
                assert time.monotonic() < deadline
        finally:
            process.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob(".partial-*")), "the kill came between two saves"
    epoch = check_whole(tmp_path)
    assert 2 <= epoch < 10


def test_file_limit_leaves_the_previous_checkpoint(tmp_path):
    pytest.importorskip("resource")
    rest = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save(sys.argv[1], make(2).__class__.create(None, optax.identity(), 1, init=(
        {"w": jax.random.normal(jax.random.key(0), (1000, 1000))}, {})), [{}] * 2)
except OSError as error:
    print(error, flush=True)
"""
    with start(tmp_path, rest) as process:
        out, err = process.communicate(timeout=60)
    assert "epoch 2 could not be saved, the checkpoint of epoch 1 is untouched" in out, err
    assert check_whole(tmp_path) == 1
