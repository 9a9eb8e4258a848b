"""Which versions of jaxlib are checked, how, and what is said where the check cannot run or fails."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.ops.lowering import onednn_check, table
from jaxconv.ops.lowering.onednn_check import Verdict, verdict

pytestmark = pytest.mark.skipif(
    onednn_check.platform.system() != "Linux" or onednn_check.platform.machine() != "x86_64",
    reason="jaxlib carries oneDNN on Linux and x86-64 only",
)
UNKNOWN = "99.0.0"
run = subprocess.run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder for each test, and nothing remembered from another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(onednn_check.VARIABLE, raising=False)
    onednn_check._verdict.cache_clear()
    onednn_check.warn.cache_clear()
    yield tmp_path / "jaxconv"
    onednn_check._verdict.cache_clear()


@pytest.fixture
def unknown(monkeypatch):
    monkeypatch.setattr(onednn_check.jaxlib.version, "__version__", UNKNOWN)


@pytest.fixture
def children(monkeypatch):
    """Counts the child processes; lets each run the code that is given here instead of the check."""
    started = []

    def start(code: str) -> list:
        def instead(arguments, **options):
            started.append(arguments)
            return run([sys.executable, "-c", code], **options)

        monkeypatch.setattr(onednn_check.subprocess, "run", instead)
        return started

    return start


@pytest.mark.parametrize("version", onednn_check.VERSIONS)
def test_a_known_version_starts_no_process(version, children, monkeypatch):
    monkeypatch.setattr(onednn_check.jaxlib.version, "__version__", version)
    started = children("raise SystemExit(1)")
    assert verdict() == Verdict(True)
    assert not started


@pytest.mark.usefixtures("unknown")
def test_an_unknown_version_is_checked_once_in_a_child_process(folder, children, monkeypatch):
    assert verdict() == Verdict(True)  # the check itself, of the jaxlib that is installed
    (file,) = folder.iterdir()
    assert file.name.startswith(f"onednn-{UNKNOWN}-")
    started = children("raise SystemExit(1)")
    onednn_check._verdict.cache_clear()
    assert verdict() == Verdict(True)
    assert not started
    monkeypatch.setenv(onednn_check.VARIABLE, "check")
    with pytest.warns(UserWarning, match="exit status 1"):
        assert not verdict().good
    assert len(started) == 1
    assert json.loads(file.read_text())["good"] is False


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.abort()", "exit status -6"),
        ("print('a largest relative difference of 2')", "printed 'a largest relative difference of 2'"),
        ("", "printed 'nothing'"),
        ("import time; time.sleep(60)", "did not end within 0.2 s"),
    ],
    ids=["it dies", "it is wrong", "it says nothing", "it hangs"],
)
def test_where_the_check_fails_the_answer_is_no_and_one_warning_says_why(code, says, folder, children, monkeypatch):
    if "sleep" in code:
        monkeypatch.setattr(onednn_check, "LIMIT", 0.2)
    started = children(code)
    with pytest.warns(UserWarning, match="convolutions on CPU are slower") as warned:
        found = verdict()
    assert not found.good
    assert says in found.why
    assert verdict() == found
    assert len(warned) == len(started) == 1
    assert len(list(folder.iterdir())) == 1


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("missing", ["folder", "interpreter", "permission", "frozen"])
def test_where_the_check_cannot_run_the_answer_is_no(missing, tmp_path, folder, monkeypatch):
    def refused(*args, **options):
        raise PermissionError("no processes here")

    if missing == "folder":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    elif missing == "interpreter":
        monkeypatch.setattr(sys, "executable", "")
    elif missing == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(onednn_check.subprocess, "run", refused)
    with pytest.warns(UserWarning, match=f"jaxlib {UNKNOWN} is unknown and its check cannot run"):
        assert not verdict().good
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"good": 1, "why": ""}', b'{"good": true}', b"\xff\xfe"])
def test_a_corrupt_verdict_is_named_and_made_again(text, folder, children):
    started = children("print('good')")
    verdict()
    (file,) = folder.iterdir()
    file.write_bytes(text)
    onednn_check._verdict.cache_clear()
    with pytest.warns(UserWarning, match=f"{file.name} must hold the verdict"):
        assert verdict().good
    assert len(started) == 2
    assert json.loads(file.read_text()) == {"good": True, "why": ""}


@pytest.mark.parametrize(("value", "good"), [("yes", True), ("no", False)])
@pytest.mark.usefixtures("unknown")
def test_the_environment_variable_decides_without_a_check_or_a_warning(value, good, children, monkeypatch):
    started = children("raise SystemExit(1)")
    monkeypatch.setenv(onednn_check.VARIABLE, value)
    assert verdict().good is good
    assert not started


def test_an_unknown_value_of_the_variable_is_refused(monkeypatch):
    monkeypatch.setenv(onednn_check.VARIABLE, "maybe")
    with pytest.raises(ValueError, match="JAXCONV_ONEDNN must be 'yes', 'no', 'check' or not set, got 'maybe'"):
        jax.jit(jc.conv).lower(jnp.ones((1, 5, 4, 3)), jnp.ones((2, 2, 3, 4)))


def test_another_machine_is_not_asked(monkeypatch):
    monkeypatch.setattr(onednn_check.platform, "machine", lambda: "aarch64")
    assert verdict() == Verdict(False, "jaxlib carries it on Linux and x86-64 only")


def test_explain_and_the_program_follow_the_verdict(monkeypatch):
    monkeypatch.setenv(onednn_check.VARIABLE, "no")
    x, k = jnp.ones((2, 9, 9, 8)), jnp.ones((3, 3, 8, 8))
    (row,) = jc.explain(jc.conv, x, k, platform="cpu")
    assert row.why.endswith(" oneDNN is not called, since JAXCONV_ONEDNN=no is set.")
    assert "onednn" not in row.form
    assert "__onednn" not in jax.jit(lambda x, k: jc.conv(x, k) + 4).lower(x, k).as_text()


def test_the_check_sees_a_wrong_value(monkeypatch):
    some = onednn_check.problems()[:3]
    assert onednn_check.largest_difference(some) < 1e-5
    fine = table.Solver.__call__

    def wrong(solve, p, first, second):
        y = fine(solve, p, first, second)
        return y if solve.mode == "xla" else y.at[(0,) * y.ndim].add(np.nan if p.role == "kernel" else 0)

    monkeypatch.setattr(table.Solver, "__call__", wrong)
    assert onednn_check.largest_difference(some) == np.inf
