"""Exceptions. A message is one sentence, "x must be ..., got ...", after the path of the layer."""

import contextlib
import difflib
import functools
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = os.path.dirname(__file__) + os.sep


def no_layer(argument: str, path: Any, paths: Iterable[str]) -> str:
    """Returns the message about a path that is not in ``paths``, with the nearest paths.

    >>> no_layer("path", "con", ["conv", "relu"])
    "path must name a layer of net, got 'con': nearest are 'conv'"
    """
    known = list(paths)
    close = difflib.get_close_matches(str(path), known, n=3, cutoff=0.3)
    others = f"{'nearest' if close else 'there'} are {', '.join(map(repr, close or known)) or 'none'}"
    return f"{argument} must name a layer of net, got {path!r}: {others}"


class LocatedError(Exception):
    """An error with the path of the layer that raised it.

    ``path`` is empty where an op is called directly. Each composite that the error passes through prepends the name of
    its child to the path.

    Args:
      message: one sentence with the argument, the expected value and the actual value.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message
        self.path: tuple[str, ...] = ()
        self.layer = ""

    def locate(self, name: str, layer: str) -> None:
        """Prepends ``name`` to the path; ``layer``, the layer's type, is stored the first time."""
        self.path = (name, *self.path) if name else self.path
        self.layer = self.layer or layer

    def __str__(self) -> str:
        if not self.layer:
            return self.message
        location = f"{'.'.join(self.path)} ({self.layer})" if self.path else self.layer
        return f"{location}: {self.message}"


class ArgumentError(LocatedError, ValueError):
    """A name, an option or a value is not valid, whatever the shapes of the arrays are; a `ValueError`."""


class PathError(ArgumentError, KeyError):
    """A path names no layer, or a layer that the call cannot use; a `ValueError` and a `KeyError`."""


class ShapeError(LocatedError, ValueError):
    """The shape of an array does not fit the other arrays, the layer or the options; a `ValueError`."""


class DTypeError(LocatedError, TypeError):
    """An op does not accept the array's element type; a `TypeError`."""


class MissingKeyError(LocatedError, ValueError):
    """A layer that draws random numbers received no ``key``; a `ValueError`."""


class ParameterError(LocatedError, KeyError):
    """``params`` or ``state`` lacks an entry that the layer needs; a `KeyError`."""


def short_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """Returns a traceback without jaxconv's frames, but for the innermost of them.

    JAX leaves out its own frames. A network of nested composites would show four of ours a level. As with JAX's,
    ``JAX_TRACEBACK_FILTERING=off`` shows all.
    """
    if jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
        return traceback
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    ours = [i for i, entry in enumerate(frames) if entry.tb_frame.f_code.co_filename.startswith(_PACKAGE)]
    dropped = set(ours[:-1])
    short: TracebackType | None = None
    for i in reversed(range(len(frames))):
        if i not in dropped:
            entry = frames[i]
            short = TracebackType(short, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return short


def shortens_tracebacks(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function whose errors have short tracebacks: see `short_traceback`."""

    @functools.wraps(function)
    def shortened(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            error.__traceback__ = short_traceback(error.__traceback__)
            raise

    return shortened


class located:
    """Prepends the child's name to the path of an error that is raised inside, and shortens its traceback."""

    def __init__(self, name: str, layer: object):
        self.name, self.type = name, getattr(layer, "type_name", type(layer).__name__)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            return
        error.__traceback__ = short_traceback(traceback)
        if isinstance(error, LocatedError):
            error.locate(self.name, self.type)
            return
        path, where = getattr(error, "_jaxconv_path", ((), self.type))
        path = (self.name, *path) if self.name else path
        with contextlib.suppress(AttributeError):
            error._jaxconv_path = path, where  # type: ignore[attr-defined]
            _note(error, f"in layer {'.'.join(path)} ({where})")


def _note(error: Exception, note: str) -> None:
    """Keeps one note about the layer: the note of an outer layer contains, and so replaces, that of an inner layer."""
    notes = [n for n in getattr(error, "__notes__", ()) if not n.startswith("in layer ")]
    error.__notes__ = [*notes, note]
