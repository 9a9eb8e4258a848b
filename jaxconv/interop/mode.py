"""The arguments and fields that switch a Flax module between training and evaluation."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from jaxconv.errors import ArgumentError

# Names with their values in training.
Flags = tuple[tuple[str, bool], ...]
TrainArgument = str | Mapping[str, bool] | Flags | None

_KNOWN = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


def parameters(module: Any) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of ``module.__call__``."""
    return inspect.signature(type(module).__call__).parameters


def train_flags(module: Any, given: TrainArgument, fields: Iterable[str] = ()) -> Flags:
    """Returns the arguments of ``module.__call__``, or the module's fields, that select training or evaluation.

    Args:
      module: a Flax module.
      given: a name, or a mapping from names to their values in training; None selects the usual names in Flax.
      fields: the names of the constructor's arguments, if they are allowed too.

    Raises:
      ArgumentError: a given name is neither an argument nor a field.
    """
    arguments = parameters(module)
    names = {*arguments, *fields}
    if given is None:
        return tuple((name, value) for name, value in _KNOWN.items() if name in names)
    flags = {given: _KNOWN.get(given, True)} if isinstance(given, str) else dict(given)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    for name in flags:
        if name not in names and not takes_any:
            raise ArgumentError(f"train_argument must name an argument of {type(module).__name__}, got {name!r}")
    return tuple(flags.items())


def spread(module: Any, flags: Flags, x: Any) -> tuple[Any, ...]:
    """Returns the positional arguments of ``module.__call__``: ``x``, or its entries if the call needs several.

    Args:
      module: a Flax module.
      flags: the arguments that select training, which are not inputs.
      x: the input; a tuple for a module such as a recurrent cell, whose call has several arguments without default.

    Raises:
      ArgumentError: the call needs several inputs, and ``x`` is not a tuple of that length.
    """
    names = [
        name
        for name, p in list(parameters(module).items())[1:]
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and name not in dict(flags)
    ]
    if len(names) < 2:
        return (x,)
    if not isinstance(x, tuple | list) or len(x) != len(names):
        got = f"{type(x).__name__}{f' of {len(x)}' if isinstance(x, tuple | list) else ''}"
        raise ArgumentError(
            f"x must be a tuple with an entry for each argument of {type(module).__name__}, ({', '.join(names)}), "
            f"got {got}"
        )
    return tuple(x)


def flag_values(flags: Flags, train: bool) -> dict[str, Any]:
    """Returns the arguments to pass, in training or in evaluation."""
    return {name: value == train for name, value in flags}
