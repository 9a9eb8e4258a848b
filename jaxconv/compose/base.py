"""What all composites share: a value as a layer, names of children, and composites of one layer."""

import dataclasses
import keyword
from collections.abc import Sequence
from dataclasses import dataclass

from jaxconv.composite import Composite, Run
from jaxconv.described import name_of
from jaxconv.errors import ArgumentError
from jaxconv.layer import Children, Layer, LayerLike, Tree
from jaxconv.layers import Fn

_FROM_FLAX = {"flax.linen": "from_linen", "flax.nnx": "from_nnx"}


def as_layer(value: LayerLike) -> Layer:
    """Returns a layer: the value itself if it has ``init`` and ``apply``, or `jaxconv.Fn` of a callable."""
    if isinstance(value, type):
        raise TypeError(f"a layer must be an instance, got the class {value.__name__}: write {value.__name__}(...)")
    # Flax modules would be taken for layers: linen's have init and apply too, nnx's are callable and hide arrays.
    for base in type(value).__mro__:
        package = ".".join(base.__module__.split(".")[:2])
        if base.__name__ == "Module" and package in _FROM_FLAX:
            raise TypeError(
                f"a layer must be a jaxconv layer, got Flax's {type(value).__name__}: "
                f"write jaxconv.interop.flax.{_FROM_FLAX[package]}(...)"
            )
    if isinstance(value, Layer):
        return value
    if callable(value):
        return Fn(value)
    if isinstance(value, list | tuple):
        raise TypeError(
            f"a layer must have init and apply, or be callable, got a {type(value).__name__}: write (*layers)"
        )
    raise TypeError(f"a layer must have init and apply, or be callable, got {value!r}")


def check_name(name: str) -> None:
    """Raises where a child's name is not valid in a path."""
    if not isinstance(name, str) or not name or "." in name or "/" in name:
        raise ArgumentError(f'name of a child must be a non-empty string without "." and "/", got {name!r}')


def as_keyword(name: str, text: str) -> str:
    """Returns the source text of a keyword argument, for names that are not identifiers too."""
    plain = name.isidentifier() and not keyword.iskeyword(name)
    return f"{name}={text}" if plain else f"**{{{name!r}: {text}}}"


@dataclass(frozen=True, repr=False)
class Wrapper(Composite):
    """The base class of composites of one layer, whose parameters are at the composite's level."""

    layer: Layer

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The layer, without a name."""
        return (("", self.layer),)

    def with_children(self, layers: Sequence[Layer]) -> Composite:
        return dataclasses.replace(self, layer=layers[0])

    def arguments(self) -> list[str]:
        # Positional: the parameter is not called "layer" in all functions.
        return [name_of(self.layer), *super().arguments()[1:]]

    def route(self, run: Run, x: Tree) -> Tree:
        return run("", self.layer, x)
