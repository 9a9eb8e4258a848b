"""Runs that are cut short and continued: within an epoch, by signals, by a kill; and what their folders hold."""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import optax
import pytest

from jaxconv.train import NonFiniteLossError, check, evaluate, fit, layout, restore, summaries
from jaxconv.train.progress import Progress
from jaxconv.train.saver import Saver
from tests.train.toys import Centered, assert_same, cross_entropy, data

TRAIN, VALIDATION = data(50), data(20, seed=1)
ADAM = optax.adamw(0.1)  # One object: runs share what is compiled.
NET = Centered()
TIMES = ("seconds", "images_per_second")


def run(*, arrays=TRAIN, **options):
    options = {"loss": cross_entropy, "epochs": 3, "batch_size": 12, "key": 5, "progress": False, **options}
    options.setdefault("validation", VALIDATION)
    return fit(options.pop("net", NET), *arrays, options.pop("optimizer", ADAM), **options)


def without_times(history):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


def assert_same_run(one, other):
    assert_same(one.train_state, other.train_state)
    assert_same((one.params, one.state), (other.params, other.state))
    assert without_times(one.history) == without_times(other.history)
    assert one.best_epoch == other.best_epoch


class Killed(BaseException):
    """As a kill is, for what runs: nothing catches it."""


@contextlib.contextmanager
def killed_at(step):
    """Has what runs end when it would look at a step, without being told."""
    on_step, count = Progress.on_step, [0]

    def counting(self, totals):
        count[0] += 1
        if count[0] == step:
            raise Killed
        on_step(self, totals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_step", counting)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("options", [{}, {"epoch_scan": True}, {"average": 0.9}, {"steps": 13, "epochs": None}])
def test_a_run_resumes_within_an_epoch(tmp_path, options):
    whole = run(**options)
    with killed_at(5 if "epoch_scan" in options else 8):  # A scan is looked at after steps 2, 4, 5, 6 and 8.
        run(**options, folder=tmp_path, checkpoint_every=2)
    assert layout.position(layout.checkpoints(tmp_path)[-1]) == (1, 1)
    assert check.main([str(tmp_path)]) == 0
    resumed = run(**options, folder=tmp_path, checkpoint_every=2, resume=True)
    assert_same_run(resumed, whole)
    assert_same(restore(tmp_path, "last", like=whole.train_state), whole.train_state)


def test_batches_resume_within_an_epoch(tmp_path):
    starts = []

    class Seeking:
        """As `jaxconv.data.batches`: an epoch from any batch on, in an order of its own."""

        def __len__(self):
            return 5

        def __iter__(self):
            raise AssertionError("read by epoch")

        def epoch(self, number, start=0):
            starts.append((number, start))
            order = np.random.default_rng(number).permutation(50)
            rows = [order[10 * i : 10 * i + 10] for i in range(start, 5)]
            return ((TRAIN[0][some], TRAIN[1][some]) for some in rows)

    class Stateful:
        """As an iterator of Grain: it has a state, and no end."""

        def __init__(self, as_bytes):
            self.at, self.as_bytes = 0, as_bytes

        def __next__(self):
            rows = np.random.default_rng(self.at).integers(0, 50, 10)
            self.at += 1
            return TRAIN[0][rows], TRAIN[1][rows]

        def __iter__(self):
            return self

        def get_state(self):
            return str(self.at).encode() if self.as_bytes else {"at": self.at}

        def set_state(self, state):
            starts.append(state)
            self.at = int(state) if self.as_bytes else state["at"]

    endless = {"epochs": 3, "steps": 15}
    cases = [
        (Seeking, {}, (1, 2)),
        (lambda: Stateful(True), endless, b"7"),
        (lambda: Stateful(False), endless, {"at": 7}),
    ]
    for i, (make, options, at) in enumerate(cases):
        folder = tmp_path / str(i)
        whole = run(arrays=(make(), None), **options)
        with killed_at(8):
            run(arrays=(make(), None), **options, folder=folder, checkpoint_every=7)
        starts.clear()
        assert_same_run(run(arrays=(make(), None), **options, folder=folder, resume=True), whole)
        assert at in starts


def test_a_checkpoint_after_some_time(tmp_path):
    with killed_at(4):
        run(folder=tmp_path, checkpoint_every=datetime.timedelta(microseconds=1))
    assert layout.checkpoints(tmp_path) == ["0.2", "0.3"], "the last and the one before"
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint of a finished epoch, but of 0\.3: the last"):
        restore(tmp_path)
    assert restore(tmp_path, "last").step == 3


def test_a_damaged_checkpoint_within_an_epoch_is_passed_over(tmp_path):
    whole = run()
    with killed_at(5):
        run(folder=tmp_path, checkpoint_every=2)
    (tmp_path / "0.4" / "record" / "metadata").write_bytes(b"{")
    with pytest.warns(UserWarning, match=r"0\.4: expected a whole .*; the checkpoint of epoch 0\.2 is used"):
        assert_same_run(run(folder=tmp_path, resume=True), whole)


def test_weights_that_are_not_finite_are_not_saved_within_an_epoch(tmp_path):
    optimizer = optax.sgd(lambda count: jax.numpy.where(count == 2, jax.numpy.inf, 0.1))
    with pytest.raises(NonFiniteLossError, match=r"parameter dense/\w+ is not finite at epoch 1, step 3 of 5"):
        run(optimizer=optimizer, folder=tmp_path, checkpoint_every=1)
    assert layout.checkpoints(tmp_path)[-1] == "0.2"


def sending(number, at):
    """Sends this process a signal in a step, as the system would."""
    seen = [0]

    def preprocess(x):
        def count(_):
            seen[0] += 1
            if seen[0] == at:
                os.kill(os.getpid(), number)

        jax.debug.callback(count, x[0, 0, 0], ordered=True)
        return x

    return preprocess


def same(x):
    return x


def test_ctrl_c_returns_the_result_so_far(tmp_path, capsys):
    for folder in (None, tmp_path):
        options = {"validation_preprocess": same, "preprocess": sending(signal.SIGINT, 8), "folder": folder}
        with pytest.warns(UserWarning, match=r"interrupted after epoch \d, step \d; the result so far is returned; "):
            result = run(epochs=4, **options)
        assert result.interrupted
        assert 1 <= len(result.history) <= 3
        assert result.train_state.step > result.history[-1]["step"]
        assert evaluate(NET, result.params, result.state, *VALIDATION, loss=cross_entropy)["loss"] > 0
        assert "SIGINT: fit stops after this step; once more to stop at once" in capsys.readouterr().err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert int(restore(tmp_path, "last").step) == int(result.train_state.step)
    resumed = run(epochs=4, folder=tmp_path, resume=True)
    assert_same_run(resumed, run(epochs=4))
    assert not resumed.interrupted


def test_ctrl_c_in_the_first_epoch():
    with pytest.warns(UserWarning, match=r"interrupted after epoch 1, step \d; .*; fit was given no folder"):
        result = run(preprocess=sending(signal.SIGINT, 1), validation_preprocess=same)
    assert (result.history, result.best_epoch) == ([], 0)
    assert_same((result.params, result.state), (result.train_state.params, result.train_state.state))
    assert repr(result) == "FitResult(best_epoch=0 of 0)"
    assert result.train_seconds == 0
    assert np.isnan(result.images_per_second)


def test_ctrl_c_in_the_last_step_is_too_late():
    result = run(epochs=1, log=lambda record: os.kill(os.getpid(), signal.SIGINT))
    assert not result.interrupted
    with pytest.warns(UserWarning, match=r"interrupted after epoch 1; "):
        assert len(run(epochs=2, log=lambda record: os.kill(os.getpid(), signal.SIGINT)).history) == 1


def test_sigterm_saves_and_ends_with_a_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run(folder=tmp_path, preprocess=sending(signal.SIGTERM, 3), validation_preprocess=same)
    assert caught.value.code == 143
    assert "SIGTERM: fit stopped after epoch 1, step " in (text := capsys.readouterr().err)
    assert f"; the checkpoint is in {tmp_path}, resume=True continues from there" in text
    assert_same_run(run(folder=tmp_path, resume=True), run())
    with pytest.raises(SystemExit):
        run(preprocess=sending(signal.SIGTERM, 3), validation_preprocess=same)
    assert "; fit was given no folder, so no checkpoint is kept" in capsys.readouterr().err


PROGRAM = """
import sys, time
from tests.train.test_run import *
if __name__ == "__main__":
    try:
        result = run(epochs=200, folder=sys.argv[1], checkpoint_every=3, resume=True,
                     log=lambda record: print("epoch", flush=True))
    except SystemExit as error:
        sys.exit(error.code)
    np.save(sys.argv[1] + "/.final.npy", np.asarray(result.train_state.params["dense"]["kernel"]))
"""


@pytest.mark.slow
def test_killed_at_random_moments_ends_bitwise_equal(tmp_path):
    whole = run(epochs=200)
    rng, kills = np.random.default_rng(0), 0
    # Compiled as the run in this process is: conftest.py.
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    while not (tmp_path / ".final.npy").exists():
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)], stdout=subprocess.PIPE, env=environment
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0, 1.5))
        if process.poll() is None and kills < 6:
            process.send_signal(signal.SIGKILL if kills % 2 else signal.SIGTERM)
            kills += 1
        process.communicate()
    assert kills > 2
    np.testing.assert_array_equal(np.load(tmp_path / ".final.npy"), whole.train_state.params["dense"]["kernel"])


def test_a_run_that_resumes_with_another_monitor_is_refused_before_it_trains(tmp_path):
    whole = run(folder=tmp_path, epochs=1, validation=None)
    with pytest.raises(ValueError, match=r"monitor must be a value of the run .*, loss, .* got 'validation_accuracy'"):
        run(folder=tmp_path, epochs=2, resume=True)
    assert restore(tmp_path, "last").step == whole.train_state.step


def test_on_epoch_stops_a_run_for_good(tmp_path):
    steps = []

    def on_epoch(record, train_state):
        steps.append(int(train_state.step))
        return record["epoch"] == 2

    result = run(on_epoch=on_epoch, folder=tmp_path)
    assert steps == [5, 10]
    assert len(result.history) == 2
    assert result.history[-1]["stopped"]
    again = run(on_epoch=on_epoch, folder=tmp_path, resume=True)
    assert_same_run(again, result)
    assert steps == [5, 10]


def test_the_folder_holds_configuration_history_and_figures(tmp_path):
    pytest.importorskip("matplotlib")
    numbers = {"batch_size": np.int64(12), "epochs": np.int64(3), "checkpoint_every": np.int64(2)}
    result = run(folder=tmp_path, metrics={"right": lambda y, t: y.argmax(-1) == t}, **numbers)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["program"] == "jaxconv.train.fit"
    config = written["configuration"]
    assert config["net"] == repr(NET)
    assert config["loss"].endswith("softmax_cross_entropy_with_integer_labels")
    assert (config["inputs"], config["batch_size"], config["epochs"]) == ("float32 (50, 4, 2)", 12, 3)
    assert "right" in config["metrics"]
    assert written["history"] == result.history
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    run(folder=tmp_path, resume=True)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"folder must hold nothing but a run of fit, got 'curves\.png'"):
        run(folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint_every": 2}, "checkpoint_every must come with a folder, got folder=None"),
        ({"checkpoint_every": 0, "folder": "x"}, "checkpoint_every must be a positive int, of steps, or .*, got 0"),
        ({"checkpoint_every": 1.5, "folder": "x"}, r"checkpoint_every must be a positive int, .*, got 1\.5"),
        (
            {"checkpoint_every": datetime.timedelta(minutes=1), "folder": "x", "epoch_scan": True},
            "checkpoint_every must be a number of steps with epoch_scan=True, got a timedelta",
        ),
    ],
)
def test_bad_input(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_a_run_json_that_cannot_be_written_says_so(tmp_path):
    summaries.write_run(tmp_path, {}, [{"epoch": 1}])
    before = (tmp_path / "run.json").read_text()
    (tmp_path / ".run.json.partial").mkdir()
    with pytest.raises(OSError, match=r"run.json could not be saved, the checkpoints are untouched: Is a directory"):
        summaries.write_run(tmp_path, {}, [{"epoch": 1}, {"epoch": 2}])
    assert (tmp_path / "run.json").read_text() == before


def test_a_signal_while_the_checkpoint_of_its_step_is_written(tmp_path, monkeypatch):
    save = Saver.save

    def interrupted(self, *arguments):
        save(self, *arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Saver, "save", interrupted)
    with pytest.warns(UserWarning, match="interrupted after epoch 1, step 2;"):
        result = run(folder=tmp_path, checkpoint_every=2)
    monkeypatch.undo()
    assert result.interrupted
    assert layout.checkpoints(tmp_path) == ["0.2"]
    assert_same_run(run(folder=tmp_path, resume=True), run())
