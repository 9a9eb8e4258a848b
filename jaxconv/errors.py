"""What a user meets when something is wrong: one sentence, at the call that is wrong, behind the layer's path."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(path: Any, paths: Iterable[str]) -> str:
    """Returns the end of a sentence about a path that is none of ``paths``, with those most like it.

    >>> did_you_mean("con", ["conv", "relu"])
    "names no layer: nearest are 'conv'"
    """
    known = list(paths)
    close = difflib.get_close_matches(str(path), known, n=3, cutoff=0.3)
    return f"names no layer: {'nearest' if close else 'there'} are {', '.join(map(repr, close or known)) or 'none'}"


class LocatedError(Exception):
    """An error that knows in which layer of a network it arose.

    ``path`` is empty where an op is called by itself. Each composite that the error passes through puts the name of
    the child it was running in front.

    Args:
      message: one sentence naming the argument, what was expected and what came.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message
        self.path: tuple[str, ...] = ()
        self.layer = ""

    def locate(self, name: str, layer: str) -> None:
        """Puts ``name`` in front of the path; ``layer``, the kind of the layer, is kept the first time."""
        self.path = (name, *self.path) if name else self.path
        self.layer = self.layer or layer

    def __str__(self) -> str:
        if not self.layer:
            return self.message
        location = f"{'.'.join(self.path)} ({self.layer})" if self.path else self.layer
        return f"{location}: {self.message}"


class ShapeError(LocatedError, ValueError):
    """A shape, a size or a hyperparameter that does not fit: what `ValueError` says elsewhere."""


class DTypeError(LocatedError, TypeError):
    """An array of an element type that the op does not take."""


class MissingKeyError(LocatedError, ValueError):
    """A layer that draws random numbers got no ``key``."""


class ParameterError(LocatedError, KeyError):
    """``params`` or ``state`` lacks an entry that the layer wants."""
