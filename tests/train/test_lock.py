import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from jaxconv.train import lock
from jaxconv.train.lock import only_writer

# The lock alone, which needs neither JAX nor the package, so that the process is there at once.
PROGRAM = textwrap.dedent("""
    import importlib.util, os, sys, time
    from pathlib import Path
    spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
    lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lock)
    with lock.only_writer(Path(sys.argv[2])):
        parent = os.getpid()
        if not os.fork():
            # Printed by the child: what runs in it after a fork, has run.
            print(parent, os.getpid(), flush=True)
        time.sleep(60)
""")


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path, and its child."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, lock.__file__, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        _, child = map(int, process.stdout.readline().split())
        try:
            yield process
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ends_with_its_process_though_a_child_lives(tmp_path, other):
    with (
        pytest.raises(OSError, match=f"in use by process {other.pid} on "),
        only_writer(tmp_path),
    ):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with only_writer(tmp_path):
        pass


def test_ends_with_the_block(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "new" / "run"):
            1 / 0  # noqa: B018
    assert not lock._held


def test_one_in_a_process(tmp_path):
    with only_writer(tmp_path):
        for _ in range(2):
            with pytest.raises(OSError, match=rf"in use by process {os.getpid()} on"), only_writer(tmp_path):
                pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def unsupported(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", unsupported)
    with (
        pytest.warns(UserWarning, match="has no locks; see to it that no other process"),
        only_writer(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="folder: expected one that can be written to, got"),
        only_writer(tmp_path / "file"),
    ):
        pass
