"""One writer for a run's folder: a lock that the operating system releases when its process ends, however it ends."""

import contextlib
import errno
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

NAME = ".lock"

# What systems answer where a file system has no locks.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_held: set[int] = set()


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the lock of ``folder``, which is made where absent, until the end of the ``with`` block.

    The lock is ``flock`` on POSIX and ``msvcrt.locking`` on Windows, on the file ``.lock``, which stays. Linux extends
    it over NFS to other machines where the server has locks and the mount doesn't set ``local_lock`` or ``nolock``;
    with those two options it excludes the processes of one machine only.

    Args:
      folder: a run's folder.

    Raises:
      OSError: where another process, or another call in this one, holds the lock; where the folder can't be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, only_writer(Path(folder)):
      ...     with only_writer(Path(folder)):
      ...         pass
      Traceback (most recent call last):
      OSError: folder: expected no other writer, got .../... in use by process ...
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(f"folder: expected one that can be written to, got {folder}: {error.strerror}") from error
    try:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
            raise OSError(f"folder: expected no other writer, got {folder} in use by {holder}") from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            warnings.warn(
                f"folder: the file system of {folder} has no locks; see to it that no other process writes there",
                stacklevel=4,
            )
        _held.add(file)
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        _held.discard(file)
        os.close(file)


def _lock(file: int) -> None:
    """Locks an open file or raises at once."""
    if sys.platform == "win32":
        import msvcrt

        # Windows forbids others to read what is locked: a byte past the end leaves the text readable.
        os.lseek(file, 2**20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget() -> None:
    """Closes a forked child's copies: the lock would live as long as such a child, a data loader's worker say."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
