"""What an operator receives and returns: arrays whose axes are stored in any order, and the plan of what to run.

ONNX counts axes as ``(batch, channels, *spatial)``; maps are stored channels last. So each value carries its order:
``order[j]`` is the ONNX axis that is stored at position j. A transpose in a graph changes the order alone; arrays are
permuted only in front of an operator that needs another order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.interop.constants import Fixed
from jaxconv.layers.base import Geometry

Order = tuple[int, ...]


def natural(rank: int) -> Order:
    """Returns ONNX's own order of axes."""
    return tuple(range(rank))


def last(rank: int) -> Order:
    """Returns the order with the channels, ONNX's axis 1, last.

    >>> last(4), last(2)
    ((0, 2, 3, 1), (0, 1))
    """
    return natural(rank) if rank < 3 else (0, *range(2, rank), 1)


def as_axis(axis: int, rank: int, name: str = "axis") -> int:
    """Returns the axis counted from the front, or raises ArgumentError."""
    if not -rank <= axis < max(rank, 1):
        raise ArgumentError(f"{name} must be between {-rank} and {rank - 1} for an array of rank {rank}, got {axis}")
    return int(axis) % max(rank, 1)


@dataclass(frozen=True)
class Held:
    """An array that the layer of a node stores in its params, in ONNX's order."""

    name: str
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True, eq=False)
class Value:
    """An array of the graph.

    Attributes:
      data: what is stored: a NumPy array (a constant), a `Held`, or anything with shape and dtype (it depends on x).
      order: the ONNX axis at each stored position.
    """

    data: Any
    order: Order

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in ONNX's order of axes."""
        return tuple(self.data.shape[self.order.index(axis)] for axis in range(self.rank))

    @property
    def dtype(self) -> np.dtype:
        """The element type."""
        return np.dtype(self.data.dtype)

    @property
    def known(self) -> bool:
        """Whether this is a constant, or follows from shapes alone."""
        return isinstance(self.data, np.ndarray)

    @property
    def live(self) -> bool:
        """Whether this depends on x."""
        return not isinstance(self.data, np.ndarray | Held)

    def position(self, axis: int, name: str = "axis") -> int:
        """Returns where an ONNX axis is stored."""
        return self.order.index(as_axis(axis, self.rank, name))

    def to(self, order: Order) -> "Arg":
        """Returns the array as an argument in another order; axes that it lacks are added in front, of length 1."""
        more = len(order) - self.rank
        own = (*range(more), *(axis + more for axis in self.order))
        shape = (*(1,) * more, *self.data.shape) if more else None
        return Arg(self, shape, None if own == order else tuple(own.index(axis) for axis in order))

    def plain(self) -> "Arg":
        """Returns the array as an argument as it is stored."""
        return Arg(self)


@dataclass(frozen=True, eq=False)
class Arg:
    """An argument of a plan: a value, reshaped and permuted before the function runs."""

    value: Value
    shape: tuple[int, ...] | None = None
    perm: tuple[int, ...] | None = None

    @property
    def moved(self) -> bool:
        """Whether axes longer than 1 change their order."""
        if self.perm is None:
            return False
        shape = self.shape or self.value.data.shape
        long = [axis for axis in self.perm if shape[axis] != 1]
        return long != sorted(long)

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape that the function receives."""
        shape = tuple(self.shape or self.value.data.shape)
        return shape if self.perm is None else tuple(shape[axis] for axis in self.perm)


def arranged(array: Any, shape: tuple[int, ...] | None, perm: tuple[int, ...] | None) -> Any:
    """Reshapes and permutes an array."""
    array = array if shape is None else array.reshape(shape)
    return array if perm is None else array.transpose(perm)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a node runs for the shapes of its inputs.

    Attributes:
      function: takes the arguments, returns one array or a tuple.
      args: its arguments.
      orders: the order of each output.
      options: keyword arguments, hashable.
      geometry: what an output position sees of the arguments; None where that is not known.
      macs: multiply-adds.
    """

    function: Callable[..., Any]
    args: Sequence[Arg]
    orders: Sequence[Order]
    options: dict[str, Any] = field(default_factory=dict)
    geometry: Geometry = None
    macs: int = 0

    def evaluated(self) -> tuple[np.ndarray, ...]:
        """Runs the function on constants."""
        args = [arranged(arg.value.data, arg.shape, arg.perm) for arg in self.args]
        results = self.function(*args, **self.options)
        results = results if isinstance(results, tuple) else (results,)
        arrays = [np.asarray(result) for result in results]
        return tuple(
            array.transpose([order.index(axis) for axis in range(array.ndim)])
            for array, order in zip(arrays, self.orders, strict=False)
        )

    def call(self) -> "Call":
        """Returns the plan as the input of a layer: the arrays that depend on x, and the rest as static data."""
        arrays: list[Any] = []
        slots: list[tuple[Any, Any, Any]] = []
        for arg in self.args:
            data = arg.value.data
            if isinstance(data, np.ndarray):
                slots.append((Fixed(arranged(data, arg.shape, arg.perm)), None, None))
            elif isinstance(data, Held):
                slots.append((data.name, arg.shape, arg.perm))
            else:
                slots.append((None, arg.shape, arg.perm))
                arrays.append(data)
        options = tuple(sorted(self.options.items()))
        return Call(tuple(arrays), (self.function, tuple(slots), options, self.geometry, self.macs))


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Call:
    """A plan as the input of a layer: ``arrays`` are its leaves, all else is static."""

    arrays: tuple[Any, ...]
    static: tuple[Any, ...]

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return self.arrays, self.static

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], arrays: Any) -> "Call":
        return cls(tuple(arrays), static)

    @property
    def geometry(self) -> Geometry:
        """What an output position sees of the arrays."""
        return self.static[3]

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.static[4]

    def run(self, params: dict[str, Any]) -> Any:
        """Runs the function on the arrays and the layer's params."""
        function, slots, options, _, _ = self.static
        arrays = iter(self.arrays)
        args = []
        for source, shape, perm in slots:
            if isinstance(source, Fixed):
                args.append(source.array)
                continue
            array = next(arrays) if source is None else jnp.asarray(params[source])
            args.append(arranged(array, shape, perm))
        return function(*args, **dict(options))


@dataclass(frozen=True)
class Either:
    """A function in NumPy for constants and in jax.numpy for what depends on x."""

    plain: Callable[..., Any]
    traced: Callable[..., Any]

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        return (self.plain if all_plain(arrays) else self.traced)(*arrays, **options)

    @property
    def __name__(self) -> str:
        return self.traced.__name__


def all_plain(arrays: Sequence[Any]) -> bool:
    """Returns whether all are NumPy's."""
    return all(isinstance(array, np.ndarray | np.generic | int | float) for array in arrays)


def numpy_for(*arrays: Any) -> Any:
    """Returns the module whose functions take the arrays: NumPy where all are constants, else jax.numpy."""
    return np if all_plain(arrays) else jnp


def common_order(values: Sequence[Value]) -> Order:
    """Returns the order in which arrays are joined element by element: channels last if one that is of full rank is."""
    rank = max(value.rank for value in values)
    full = [value.order for value in values if value.live and value.rank == rank]
    return last(rank) if last(rank) in full else full[0] if full else natural(rank)


def pointwise(args: Sequence[Arg], rank: int) -> Geometry:
    """Returns () where each output position sees the same position of every array; None where an array is permuted."""
    live = [arg for arg in args if arg.value.live]
    return () if all(arg.value.rank == rank and not arg.moved for arg in live) else None


# No array that follows from constants or shapes may be larger: a file of 1 kB can ask for terabytes.
MOST_BYTES = 2**31 - 1


def check_size(shape: Sequence[int], dtype: Any) -> None:
    """Raises ShapeError for a constant of a size that no file intends."""
    size = math.prod(int(n) for n in shape) * np.dtype(dtype).itemsize
    if min(shape, default=0) < 0 or size > MOST_BYTES:
        raise ShapeError(f"shape must be of sizes from 0 up and of less than 2 GB, got {tuple(map(int, shape))}")
