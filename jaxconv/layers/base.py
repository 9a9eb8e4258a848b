"""Base classes of layers: the arrays that they store, forward pass, and receptive field."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxconv import geometry as geo
from jaxconv.described import Described
from jaxconv.errors import ShapeError
from jaxconv.fields import Field, InexactField, window_field
from jaxconv.geometry import IntOrTuple, Padding
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array, Params, State, Tree, take
from jaxconv.ops.arrays import spatial_sizes, window_tuple
from jaxconv.ops.draws import drawn
from jaxconv.structs import as_struct

Initializer = Callable[..., Array]
Geometry = tuple[Field, ...] | None
Shape = tuple[int | None, ...] | None

POINTWISE: Geometry = ()


class Stored(NamedTuple):
    """One array that a layer stores.

    Attributes:
      name: its name in ``params`` or ``state``.
      shape: its shape; None in place of a length, or of the whole shape, that depends on the input.
      init: its initial value: a number, or a function of a key, a shape and a type, as in `jax.nn.initializers`.
      collection: "params" or "state".
      torch: its name in torch; "" where the layer itself is a parameter there. None is the name here.
      layout: its axes in torch: "same"; "kernel", ``(out, in, *window)``; or "scale", ``(channels, 1, 1)``.
      least: the smallest valid value.
    """

    name: str
    shape: Shape
    init: float | Initializer
    collection: str = "params"
    torch: str | None = None
    layout: str = "same"
    least: float | None = None

    def draw(self, key: Array | None) -> Array:
        """Returns a float32 array with the initial values."""
        assert self.shape is not None
        if callable(self.init):
            return drawn(self.init, key, self.shape, jnp.float32)  # type: ignore[arg-type]
        return jnp.full(self.shape, self.init, jnp.float32)  # type: ignore[arg-type]


class Leaf(Described):
    """The base class of layers without children; by default without parameters and state, and elementwise.

    ``keras`` is the name of the Keras class with the same arrays in the same order; "" if there is none.
    ``training_only`` has the names of hyperparameters that do not affect the output in evaluation.
    """

    keras: ClassVar[str] = ""
    training_only: ClassVar[tuple[str, ...]] = ()

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        """Declares the arrays of this layer. Initialization, files of weights and their checks read the declaration.

        Args:
          x: a ShapeDtypeStruct of the input. Without it, shapes have None where they depend on the input.
        """
        return ()

    def init(self, key: KeyLike, x: Tree) -> tuple[Params, State]:
        """Returns fresh (params, state) for inputs shaped like ``x``: array, ShapeDtypeStruct or shape tuple."""
        x = as_struct(x)
        self.accept(x)
        arrays = self.stored(x)
        random = sum(callable(array.init) for array in arrays)
        # At least two keys, so that a layer without bias has the same kernel as one with a bias.
        keys = iter(jax.random.split(as_key(key), max(random, 2)) if random else ())
        entries: dict[str, dict[str, Array]] = {"params": {}, "state": {}}
        for array in arrays:
            entries[array.collection][array.name] = array.draw(next(keys) if callable(array.init) else None)
        return entries["params"], entries["state"]

    def entries(self, params: Params, state: State | None = None) -> dict[str, Any]:
        """Returns the layer's arrays by name, or raises ParameterError for one that is missing."""
        given: dict[str, Any] = {"params": params, "state": state}
        return {a.name: take(given[a.collection], a.name, a.collection) for a in self.stored()}

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""
        self.accept(x)
        return self.forward(params, x), {}

    def accept(self, x: Tree) -> None:
        """Raises where the layer does not accept ``x``."""

    def forward(self, params: Params, x: Tree) -> Tree:
        """Returns the output, which is the same in training and evaluation."""
        raise NotImplementedError

    def geometry(self, x: Any) -> Geometry:
        """Returns the receptive field of an output unit along the last spatial axes of ``x``; () for elementwise."""
        return POINTWISE

    def macs(self, x: Any) -> int:
        """Returns the multiply-adds on inputs shaped like ``x``, batch included; elementwise operations count 0."""
        return 0


def batched_sizes(x: Any, rank: int) -> tuple[int, ...]:
    """Returns the spatial sizes of ``x``, or raises ShapeError if x has no batch axis before them."""
    if len(x.shape) < rank + 2:
        raise ShapeError(
            f"x must have a batch axis, {rank} spatial axes and channels: at least {rank + 2} axes, got shape {x.shape}"
        )
    return spatial_sizes(x, rank)


def whole_fields(x: Any, rank: int) -> Geometry:
    """Returns the fields of a layer whose outputs all depend on the whole feature map."""
    return tuple(Field(n, 0, 0) for n in x.shape[-1 - rank : -1])


def copied_fields(fields: tuple[Field, ...], mode: str, pairs: geo.Pairs, size: Sequence[int]) -> tuple[Field, ...]:
    """Returns the fields for padding with elements of the feature map, which come from other positions.

    A reflected or repeated element is inside the window at the border; an element of circular padding is not.
    """
    if mode != "circular":
        return tuple(InexactField(*field) for field in fields)
    rows = zip(fields, pairs, size, strict=True)
    return tuple(InexactField(*((n, 0, 0) if any(pair) else field)) for field, pair, n in rows)


def group_size(channels: int, groups: int) -> int:
    """Returns the channels of one group, or raises ShapeError."""
    if channels % groups:
        raise ShapeError(f"groups must divide the channels of x, got {groups} groups for {channels} channels")
    return channels // groups


class Windowed(Leaf):
    """The base class of layers with a sliding window."""

    window: IntOrTuple
    stride: IntOrTuple | None
    padding: Padding
    dilation: IntOrTuple

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(window_tuple(self.window))

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Returns window, stride and dilation, with an int for each axis."""
        window = window_tuple(self.window)
        strides = window if self.stride is None else geo.as_tuple(self.stride, len(window), "stride")
        return window, strides, geo.as_tuple(self.dilation, len(window), "dilation")

    def options(self) -> dict[str, Any]:
        """Returns the hyperparameters that all windowed ops take."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation")}

    def accept(self, x: Tree) -> None:
        batched_sizes(x, self.rank)

    def check(self) -> None:
        window, strides, dilations = self.axes()
        geo.resolve_padding(self.padding, window, window, strides, dilations)

    def pairs(self, x: Any) -> geo.Pairs:
        """Returns the padding on inputs shaped like ``x``."""
        window, strides, dilations = self.axes()
        return geo.resolve_padding(self.padding, batched_sizes(x, self.rank), window, strides, dilations)

    def out(self, x: Any) -> tuple[int, ...]:
        """Returns the spatial sizes of the output."""
        window, strides, dilations = self.axes()
        return geo.output_sizes(batched_sizes(x, self.rank), window, strides, self.pairs(x), dilations)

    def geometry(self, x: Any) -> tuple[Field, ...]:
        window, strides, dilations = self.axes()
        lows = (low for low, _ in self.pairs(x))
        return tuple(window_field(f, s, low, d) for f, s, low, d in zip(window, strides, lows, dilations, strict=True))


class Weighted(Leaf):
    """The base class of layers with a kernel and a bias."""

    features: int
    bias: bool
    kernel_init: Initializer
    bias_init: Initializer

    def check(self) -> None:
        geo.as_int(self.features, "features", least=1)
        super().check()

    def kernel_and_bias(self, *kernel: int | None) -> tuple[Stored, ...]:
        """Returns the declaration of a kernel of this shape and, if the layer has one, of a bias."""
        arrays = (
            Stored("kernel", kernel, self.kernel_init, torch="weight", layout="kernel"),
            Stored("bias", (self.features,), self.bias_init),
        )
        return arrays if self.bias else arrays[:1]


@dataclass(frozen=True, repr=False)
class Ranked(Leaf):
    """The base class of layers without a window, whose number of spatial axes is ``rank``."""

    rank: int = field(default=2, kw_only=True)

    def accept(self, x: Tree) -> None:
        batched_sizes(x, self.rank)

    def check(self) -> None:
        geo.as_int(self.rank, "rank", least=1)


def initializer(default: Initializer) -> Any:
    """Returns the dataclass field of an initializer, which is keyword-only and does not affect equality."""
    return field(default=default, compare=False, kw_only=True)
