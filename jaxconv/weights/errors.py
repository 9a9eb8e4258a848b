"""Errors of weights: files that cannot be read, and arrays that do not fit."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

StrPath = str | os.PathLike[str]


class WeightsError(ValueError):
    """A file of weights is damaged, unknown or inconsistent, or tensors do not fit the network."""


@contextlib.contextmanager
def refusing(path: StrPath) -> Iterator[None]:
    """Turns exceptions about the contents of a file into a WeightsError that names the file."""
    try:
        yield
    except (ImportError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:
        what = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: it is damaged, truncated or of another type: {what}") from error


@contextlib.contextmanager
def naming(source: Any) -> Iterator[None]:
    """Puts the path of the source, if it has one, in front of any WeightsError of the block."""
    try:
        yield
    except WeightsError as error:
        if isinstance(source, str | os.PathLike):
            raise WeightsError(f"{os.fspath(source)}: {error}") from error
        raise
