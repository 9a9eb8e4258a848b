"""The endurance test's cases, shortly; a clock that goes back, in this process."""

import itertools
import json
import os
import time

import numpy as np
import optax
import pytest

from experiments import endurance
from jaxconv.train import fit
from tests.train.toys import Linear, assert_same, cross_entropy, data


@pytest.mark.slow
def test_all_cases(tmp_path):
    assert endurance.main(["--minutes", "0", "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["cases"]) == set(endurance.CASES)
    assert all(case.get("as expected") or case.get("left out") for case in found["cases"].values())


def test_what_is_not_expected_is_counted(capsys):
    case = endurance.Case("right", 1.0, None)
    process = endurance.subprocess.CompletedProcess([], 0, "begins\nwrong", "")
    case.check_end(process, "a run")
    case.check_refused(process, "message", "a refused run")
    case.digest = "wrong"
    case.check_end(process, "a run")
    assert case.counts == {"unexpected": 2, "as expected": 1}
    assert "unexpected: a run" in capsys.readouterr().err
    refused = endurance.subprocess.CompletedProcess([], 1, "begins", "Traceback (most recent\nOSError: message, more\n")
    case.check_refused(refused, "message", "a refused run")
    assert case.counts["as expected"] == 2


def test_a_clock_that_goes_back(tmp_path, monkeypatch):
    options = {"loss": cross_entropy, "batch_size": 8, "progress": False}
    whole = fit(Linear(), *data(16), optax.adam(0.1), epochs=3, **options)
    fit(Linear(), *data(16), optax.adam(0.1), epochs=2, folder=tmp_path, **options)
    for i, entry in enumerate(sorted(tmp_path.rglob("*"), reverse=True)):
        os.utime(entry, (2e9 + i, 2e9 + i))  # The oldest checkpoint is the newest by its time.
    backward = itertools.count(1e9, -1000)
    monkeypatch.setattr(time, "time", lambda: float(next(backward)))
    resumed = fit(Linear(), *data(16), optax.adam(0.1), epochs=3, folder=tmp_path, resume=True, **options)
    monkeypatch.undo()
    assert_same(resumed.train_state, whole.train_state)
    assert [record["loss"] for record in resumed.history] == [record["loss"] for record in whole.history]
    assert all(np.isfinite(record["seconds"]) and record["seconds"] > 0 for record in resumed.history)
