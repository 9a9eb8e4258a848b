"""Dataclasses that print as the call that creates them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from jaxconv.layer import Layer


def name_of(value: Any) -> str:
    """Returns the printed form of a field: callables as module.qualname, dtypes by name, other values as their repr."""
    if isinstance(value, functools.partial):
        arguments = [*map(name_of, value.args), *(f"{k}={name_of(v)}" for k, v in value.keywords.items())]
        return f"functools.partial({', '.join([name_of(value.func), *arguments])})"
    if isinstance(value, np.dtype):
        return repr(value.name)
    # A jnp.ufunc has a __name__ only.
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if callable(value) and not isinstance(value, Layer) and name:
        return f"{value.__module__}.{name}"
    return repr(value)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


class Described:
    """Prints a dataclass as the call that creates it, without fields that have their default."""

    call: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, field.name, _frozen(value))
        self.check()

    def check(self) -> None:
        """Raises where a hyperparameter is not valid for any input."""

    def changed(self) -> dict[str, Any]:
        """Returns the fields that do not have their default."""
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {f.name: v for f, v in values.items() if v is not f.default and v != f.default}

    def arguments(self) -> list[str]:
        """Returns the printed arguments, without initializers that are local functions."""
        compared = {field.name for field in dataclasses.fields(self) if field.compare}  # type: ignore[arg-type]
        shown = {name: name_of(value) for name, value in self.changed().items()}
        return [f"{name}={text}" for name, text in shown.items() if name in compared or "<locals>" not in text]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        # The default initializers are closures, which cannot be pickled.
        return functools.partial(type(self), **self.changed()), ()

    def __repr__(self) -> str:
        arguments = self.arguments()
        name = self.call or type(self).__name__
        line = f"{name}({', '.join(arguments)})"
        if "\n" not in line and len(line) <= 100:
            return line
        inside = ",\n".join(arguments).replace("\n", "\n  ")
        return f"{name}(\n  {inside},\n)"
