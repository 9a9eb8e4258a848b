"""Walks a network by shapes alone: what each layer takes and gives, counts, and sees of the input."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxconv.geometry import IDENTITY, Field, clip_field, compose_field, cover_fields
from jaxconv.layer import Composite, Layer, Tree, as_struct, located

Fields = tuple[Field, ...] | None


@dataclass(frozen=True)
class Row:
    """One layer of a network.

    Attributes:
      path: where it stands, as in ``params``.
      layer: the layer.
      input, output: ShapeDtypeStructs, or pytrees of them.
      parameters: how many numbers its ``params`` hold.
      state_size: how many its ``state`` holds.
      macs: multiply-adds on this input, its batch included; None where the layer does not say.
      receptive_field: for each spatial axis of the network's input a `Field`; None where it is not known.
    """

    path: str
    layer: Layer
    input: Tree
    output: Tree
    parameters: int
    state_size: int
    macs: int | None
    receptive_field: Fields


@dataclass(frozen=True)
class _Seen:
    """An array's shape, and what each of its places sees of the input."""

    struct: jax.ShapeDtypeStruct
    fields: Fields

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.struct.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The array's element type."""
        return self.struct.dtype


def _structs(x: Tree) -> Tree:
    return jax.tree.map(lambda seen: seen.struct, x)


def _size(tree: Tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _covered(known: list[tuple[Field, ...]], sizes: tuple[int, ...]) -> tuple[Field, ...]:
    """Returns what covers the fields of several arrays, axis by axis."""
    if len(known) == 1:
        return known[0]
    return tuple(cover_fields(axis, n) for axis, n in zip(zip(*known, strict=True), sizes, strict=True))


class _Look:
    """Runs a network on shapes, as `jaxconv.layer.Run`, and keeps a row for each layer."""

    train = True

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes
        # A layer without a name stands at its composite's path, so a path alone would mix up the two.
        self.rows: dict[tuple[str, int | None], Row] = {}
        self.path: tuple[str, ...] = ()

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        outer = self.path
        self.path = (*outer, name) if name else outer
        try:
            with located(name, layer):
                return self.layer(layer, x)
        finally:
            self.path = outer

    def layer(self, layer: Layer, x: Tree) -> Tree:
        """Runs one layer at the present path."""
        if isinstance(layer, Composite):
            y = layer.route(self, x)
            self._keep(layer, x, y, 0, 0, 0)
            return y
        struct = _structs(x)
        params, state = jax.eval_shape(lambda key: layer.init(key, struct), jax.random.key(0))
        out = jax.eval_shape(lambda p, s, x: layer.apply(p, s, x)[0], params, state, struct)
        macs = layer.macs(struct) if hasattr(layer, "macs") else None
        fields = self._fields(layer, x)
        y = jax.tree.map(lambda s: _Seen(s, fields), out)
        self._keep(layer, x, y, _size(params), _size(state), macs)
        return y

    def _keep(self, layer: Layer, x: Tree, y: Tree, parameters: int, state: int, macs: int | None) -> None:
        path = ".".join(self.path)
        entry = path, None if isinstance(layer, Composite) else id(layer)
        before = self.rows.pop(entry, None)
        if before and not isinstance(layer, Composite):
            # An iteration of a repeated layer: it has weights of its own, at the same path.
            parameters, state = parameters + before.parameters, state + before.state_size
            macs = None if macs is None or before.macs is None else macs + before.macs
        fields = {seen.fields for seen in jax.tree.leaves(y)}
        field = fields.pop() if len(fields) == 1 else None
        clipped = field and tuple(clip_field(f, n) for f, n in zip(field, self.sizes, strict=True))
        row = Row(path, layer, _structs(x), _structs(y), parameters, state, macs, clipped)
        self.rows[entry] = row

    def _fields(self, layer: Layer, x: Tree) -> Fields:
        """Composes the layer's own geometry with what its input sees; None for a layer that does not tell.

        A layer that ``joins`` has several inputs: each position of its output sees what any of them sees there.
        """
        inputs = [x] if isinstance(x, _Seen) else jax.tree.leaves(x) if getattr(layer, "joins", False) else []
        known = [seen.fields for seen in inputs if seen.fields is not None]
        if not known or len(known) < len(inputs) or not hasattr(layer, "geometry"):
            return None
        own = layer.geometry(_structs(x))
        if own is None:
            return None
        # The map's axes are the first of the input's that are left; the layer slides along the last of them.
        live = max(len(seen.shape) for seen in inputs) - 2
        first = live - len(own)
        inner = _covered(known, self.sizes)
        return tuple(compose_field(f, own[i - first]) if first <= i < live else f for i, f in enumerate(inner))

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        """Joins place by place: a place sees what any of the joined sees there."""
        seen = jax.tree.leaves(xs)
        known = [s.fields for s in seen if s.fields is not None]
        fields = None
        if len(known) == len(seen):
            fields = _covered(known, self.sizes)
        out = jax.eval_shape(function, *_structs(xs))
        return jax.tree.map(lambda s: _Seen(s, fields), out)

    def aside(self, y: Tree, extra: Tree) -> Tree:
        """Leaves out what is there in training only."""
        return y


def trace(net: Layer, x: Tree) -> list[Row]:
    """Returns a row for each layer in ``net``, composites included, in the order in which they finish.

    Args:
      net: a layer.
      x: an array, a ShapeDtypeStruct or a shape tuple, batch axis included; or a pytree of them.

    Raises:
      ShapeError: a layer cannot take what comes to it; its path is in front.

    >>> [row.path for row in trace(jc.serial(jc.Conv(8), body=jc.serial(jc.Conv(8))), (1, 8, 8, 3))]
    ['0', 'body.0', 'body', '']
    """
    struct = as_struct(x)
    single = isinstance(struct, jax.ShapeDtypeStruct)
    sizes = struct.shape[1:-1] if single else ()
    look = _Look(sizes)
    fields = (IDENTITY,) * len(sizes) if single else None
    look("", net, jax.tree.map(lambda s: _Seen(s, fields), struct))
    return list(look.rows.values())


def receptive_field(net: Layer, x: Tree) -> dict[str, Fields]:
    """Returns what one unit of each layer's output sees of the network's input.

    Unit i along an axis sees ``size`` elements from ``offset + i * stride`` on (Araujo et al., 2019); a negative offset
    reaches into the padding. A layer that sees the whole map has stride 0. Where branches meet, the field covers them.
    Its ``exact`` is False where units do not all follow the formula (adaptive pools whose bins do not tile, resizing,
    transposed convolutions); then it covers what each sees, and may have fractions for ends.

    Args:
      net: a layer.
      x: an array, a ShapeDtypeStruct or a shape tuple ``(batch, *spatial, channels)``.

    Returns:
      For each path a tuple with a ``(size, stride, offset)`` for each spatial axis of x. None stands for a layer that
      does not tell what it sees, and for all that comes after it.

    >>> net = jc.serial(jc.Conv(8, 3), jax.nn.relu, jc.MaxPool(2), jc.Conv(8, 3))
    >>> receptive_field(net, (1, 32, 32, 3))["3"][0]
    Field(size=8, stride=2, offset=-3)
    """
    return {row.path: row.receptive_field for row in trace(net, x)}
