"""Several processes that train as one: the values of one process, and one that fails ends the others."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import launch
from jaxconv.train import check, layout, restore
from jaxconv.train.checkpoint import load
from tests.train import process_cases

ROOT = Path(__file__).parents[2]
CASE = [sys.executable, "-m", "tests.train.process_cases"]
ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}


def launched(*command, processes=2, devices=2):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.launch",
            f"--processes={processes}",
            f"--devices={devices}",
            "--",
            *command,
        ],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def epochs_of(done):
    return [line for line in done.stdout.splitlines() if "epoch" in line]


def ended(folder):
    """The run to its end, in a folder where it was stopped."""
    done = launched(*CASE, str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    assert epochs_of(done)[-1] == "epoch 3"
    # Process 0 writes to the same pipe as the launcher, so that lines may be joined.
    for line in ("process 0 of 2 is done", "[1] process 1 of 2 is done"):
        assert line in done.stdout, (done.stdout, done.stderr[-3000:])


@pytest.mark.slow
def test_where_one_process_is_killed_the_others_stop_and_the_run_continues(tmp_path):
    killed = launched(*CASE, str(tmp_path), "SIGKILL", "5")
    [at] = [line.split()[-1] for line in killed.stdout.splitlines() if "ends at" in line]
    assert time.time() - float(at) < 60, "the others stop within a minute"
    assert killed.returncode == 1
    assert killed.stderr.splitlines()[-1].startswith(
        "launch: process 1 of 2 was ended by SIGKILL, so the others were stopped. To continue, run the same command"
    ), killed.stderr
    assert "Traceback" not in killed.stderr
    assert epochs_of(killed) == ["epoch 1"]
    assert layout.checkpoints(tmp_path)[-1] == "1.1"
    ended(tmp_path)


def test_two_processes_train_as_one_and_lose_nothing(tmp_path):
    # All processes stop after the same step.
    stopped = launched(*CASE, str(tmp_path), "SIGTERM", "4")
    assert stopped.returncode == 1, stopped.stderr
    said = [line for line in stopped.stderr.splitlines() if "SIGTERM: fit stopped after" in line]
    assert sorted(said) == [said[0].removeprefix("[1] "), f"[1] {said[0].removeprefix('[1] ')}"]
    ended(tmp_path)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    # Both processes say the same of the whole set.
    wanted = [found for count in (21, 3) for found in process_cases.evaluated(mesh, count)]
    for index in range(2):
        said = json.loads(Path(f"{tmp_path}.{index}.json").read_text())
        for one, other in zip(said["evaluated"], wanted, strict=True):
            np.testing.assert_allclose(one.pop("predicted"), other["predicted"], rtol=1e-5, atol=1e-6)
            assert one == pytest.approx({name: other[name] for name in one}, rel=1e-5)
        assert said["refused"].startswith(
            "inputs: remainder must be \"drop\" where 2 processes train on 8 examples a batch, got 'pad': their parts"
        )

    want = process_cases.run(mesh)
    # Written by two processes in parts, and read by this one, onto four devices and onto one.
    assert check.main([str(tmp_path)]) == 0
    for like in (want.train_state, None):
        got, record = load(tmp_path, "last", like=like)
        np.testing.assert_allclose(
            got.params["dense"]["kernel"], want.train_state.params["dense"]["kernel"], rtol=1e-4, atol=1e-5
        )
    for one, other in zip(record["history"], want.history, strict=True):
        assert {name: one[name] for name in one if "second" not in name} == pytest.approx(
            {name: other[name] for name in other if "second" not in name}, rel=1e-4
        )
    divided = restore(tmp_path, "last", like=want.train_state)
    assert divided.opt_state[0].mu["dense"]["kernel"].sharding.spec == jax.P("data")


def test_launch_says_which_process_failed(capfd):
    program = "import os, sys, time; time.sleep(60 * (os.environ['JAX_PROCESS_ID'] != '2')); sys.exit(3)"
    start = time.monotonic()
    assert launch.launch([sys.executable, "-c", program], 3) == 1
    assert time.monotonic() - start < 20
    assert "launch: process 2 of 3 failed with status 3, so the others were stopped." in capfd.readouterr().err


def test_launch_shows_whose_lines_they_are(capfd):
    program = "import os; print(*[os.environ[f'JAX_{name}'] for name in ('PROCESS_ID', 'NUM_PROCESSES')])"
    assert launch.main(["--processes", "2", "--", sys.executable, "-c", program]) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["0 2", "[1] 1 2"]


@pytest.mark.parametrize("arguments", [["--processes=0", "--", "true"], ["--processes=2"], ["--", "true"]])
def test_launch_refuses(arguments, capfd):
    with pytest.raises(SystemExit, match="2"):
        launch.main(arguments)
    assert "usage: python -m experiments.launch" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_without_a_launcher_the_others_stop_too(tmp_path, which):
    """As on several machines."""
    program = """
import jax, jaxconv.train, time
jaxconv.train.initialize_distributed()
from jax.experimental import multihost_utils
print("begins", flush=True)
while True:
    multihost_utils.process_allgather(jax.numpy.ones(2))
    time.sleep(0.01)
"""
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{launch.free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = []
    for index in range(2):
        environment = os.environ | ENVIRONMENT | shared | {"JAX_PROCESS_ID": str(index), "JAX_PLATFORMS": "cpu"}
        with open(tmp_path / f"{index}.err", "w") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
                )
            )
    try:
        for process in processes:
            assert any("begins" in line for line in process.stdout)
        processes[which].kill()
        assert processes[1 - which].wait(60) != 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    said = (tmp_path / f"{1 - which}.err").read_text()
    assert "another process of this run ended" in said or "another task died" in said


@pytest.mark.slow
def test_an_exception_ends_its_process_at_once():
    """It does not wait for the others, which wait for it."""
    program = """
import jax, jaxconv.train
jaxconv.train.initialize_distributed(heartbeat_seconds=10)
if jax.process_index() == 1:
    raise RuntimeError("of the second process")
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("never")
"""
    start = time.monotonic()
    done = launched(sys.executable, "-c", program)
    assert done.returncode == 1
    assert "[1] RuntimeError: of the second process" in done.stderr
    assert "launch: process 1 of 2 failed with status 1" in done.stderr
    assert time.monotonic() - start < 60
