"""Networks of a family, which differ from each other in some arguments: ResNet-18 and ResNet-50, for example."""

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from jaxconv.layer import Layer

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


@overload
def variant(name: str, doc: str, family: Callable[P, Layer], /, **defaults: Any) -> Callable[P, Layer]: ...
@overload
def variant(
    name: str, doc: str, family: Callable[Concatenate[A, P], Layer], a: A, /, **defaults: Any
) -> Callable[P, Layer]: ...
@overload
def variant(
    name: str, doc: str, family: Callable[Concatenate[A, B, P], Layer], a: A, b: B, /, **defaults: Any
) -> Callable[P, Layer]: ...
@overload
def variant(
    name: str,
    doc: str,
    family: Callable[Concatenate[A, B, C, D, E, P], Layer],
    a: A,
    b: B,
    c: C,
    d: D,
    e: E,
    /,
    **defaults: Any,
) -> Callable[P, Layer]: ...
def variant(name: str, doc: str, family: Callable[..., Layer], /, *given: Any, **defaults: Any) -> Callable[..., Layer]:
    """Returns a function of a family's remaining arguments, with its own defaults, name and docstring.

    `inspect.signature`, editors and type checkers show the remaining arguments as if they were written out.

    Args:
      name: the function's name in the family's module.
      doc: the function's docstring.
      family: the function that builds the networks of the family.
      given: the family's first arguments.
      defaults: defaults that differ from those of the family.

    Raises:
      TypeError: the family has no argument of a name in ``defaults``.

    >>> small = variant("small", "Returns a small VGG.", jc.models.vgg, (1, 1), width=16)
    >>> inspect.signature(small).parameters["width"].default
    16
    >>> small(10) == jc.models.vgg((1, 1), 10, width=16)
    True
    """
    signature = inspect.signature(family)
    free = list(signature.parameters.values())[len(given) :]
    if unknown := defaults.keys() - {p.name for p in free}:
        raise TypeError(f"defaults must be for arguments of {family.__name__}, got {', '.join(sorted(unknown))}")

    def build(*args: Any, **kwargs: Any) -> Layer:
        return family(*given, *args, **defaults | kwargs)

    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in free]
    build.__name__ = build.__qualname__ = name
    build.__module__, build.__doc__ = family.__module__, doc
    vars(build).update(family=family, __signature__=signature.replace(parameters=parameters))
    return build
