"""Traces a network with shapes: each layer's input and output, counts, and receptive field."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxconv.compose.wrappers import Repeat
from jaxconv.composite import Composite
from jaxconv.errors import located
from jaxconv.fields import IDENTITY, Field, clip_field, compose_field, cover_fields
from jaxconv.layer import Layer, Tree
from jaxconv.paths import Runs, below, label_of, plain_path
from jaxconv.structs import as_struct, shape_of
from jaxconv.tree import check_acyclic

Fields = tuple[Field, ...] | None


@dataclass(frozen=True)
class Row:
    """One layer of a network.

    Attributes:
      path: the layer's path, as in ``params``; the second run of a shared layer is ``name[1]``.
      layer: the layer.
      input, output: ShapeDtypeStructs, or pytrees of them.
      parameters: the number of values in its ``params``; 0 where an earlier row has counted them.
      state_size: the number of values in its ``state``.
      macs: multiply-adds on this input, its batch included; None where they are unknown.
      receptive_field: for each spatial axis of the network's input a `Field`; None where it is unknown.
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
    """An array's shape, and the receptive field of its positions."""

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
    """Runs a network on shapes, and stores a row for each layer."""

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes
        # A layer without a name has its composite's path, so a path alone does not identify a layer.
        self.rows: dict[tuple[str, int | None], Row] = {}
        self.path: tuple[str, ...] = ()
        self.iterations: tuple[int, ...] = ()  # of the enclosing repeated layers
        self.owners: set[tuple[Any, ...]] = set()  # layers whose parameters are counted

    def layer(self, layer: Layer, x: Tree) -> Tree:
        """Runs one layer at the present path."""
        if isinstance(layer, Composite):
            y = layer.route(_Route(self, isinstance(layer, Repeat)), x)
            self._keep(layer, x, y, 0, 0, 0)
            return y
        struct = _structs(x)
        params, state = jax.eval_shape(lambda key: layer.init(key, struct), jax.random.key(0))
        out = shape_of(lambda p, s, x: layer.apply(p, s, x)[0], params, state, struct)
        macs = layer.macs(struct) if hasattr(layer, "macs") else None
        fields = self._fields(layer, x)
        y = jax.tree.map(lambda s: _Seen(s, fields), out)
        owner = (plain_path(".".join(self.path)), id(layer), self.iterations)
        shared = owner in self.owners
        self.owners.add(owner)
        self._keep(layer, x, y, 0 if shared else _size(params), 0 if shared else _size(state), macs)
        return y

    def _keep(self, layer: Layer, x: Tree, y: Tree, parameters: int, state: int, macs: int | None) -> None:
        path = ".".join(self.path)
        entry = path, None if isinstance(layer, Composite) else id(layer)
        before = self.rows.pop(entry, None)
        if before and not isinstance(layer, Composite):
            # The layer has run at this path before: an iteration of a repeated layer, or a leaf without a name.
            parameters, state = parameters + before.parameters, state + before.state_size
            macs = None if macs is None or before.macs is None else macs + before.macs
        fields = {seen.fields for seen in jax.tree.leaves(y)}
        field = fields.pop() if len(fields) == 1 else None
        clipped = field and tuple(clip_field(f, n) for f, n in zip(field, self.sizes, strict=True))
        row = Row(path, layer, _structs(x), _structs(y), parameters, state, macs, clipped)
        self.rows[entry] = row

    def _fields(self, layer: Layer, x: Tree) -> Fields:
        """Composes the layer's geometry with the receptive field of its input; None for a layer without `geometry`.

        A layer that ``joins`` has several inputs: each output position covers the fields of all at that position.
        """
        inputs = [x] if isinstance(x, _Seen) else jax.tree.leaves(x) if getattr(layer, "joins", False) else []
        known = [seen.fields for seen in inputs if seen.fields is not None]
        if not known or len(known) < len(inputs) or not hasattr(layer, "geometry"):
            return None
        own = layer.geometry(_structs(x))
        if own is None:
            return None
        # The feature map has the first of the input's spatial axes; the layer's window has the last of these.
        live = max(len(seen.shape) for seen in inputs) - 2
        first = live - len(own)
        inner = _covered(known, self.sizes)
        return tuple(compose_field(f, own[i - first]) if first <= i < live else f for i, f in enumerate(inner))

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        """Joins elementwise: a position's receptive field covers the fields of the joined arrays there."""
        seen = jax.tree.leaves(xs)
        known = [s.fields for s in seen if s.fields is not None]
        fields = None
        if len(known) == len(seen):
            fields = _covered(known, self.sizes)
        out = shape_of(function, *_structs(xs))
        return jax.tree.map(lambda s: _Seen(s, fields), out)


class _Route:
    """One pass through a composite's ``route``, as `jaxconv.Run`."""

    train = True

    def __init__(self, look: _Look, repeated: bool):
        self.look, self.repeated = look, repeated
        self.runs = Runs()
        self.join = look.join

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        look, count = self.look, self.runs.count(name, layer)
        label = name if self.repeated else label_of(name, layer, count)
        outer, look.path = look.path, below(look.path, label) if label else look.path
        iterations = look.iterations
        if self.repeated:
            look.iterations = (*iterations, count)
        try:
            with located(label, layer):
                return look.layer(layer, x)
        finally:
            look.path, look.iterations = outer, iterations

    def aside(self, y: Tree, extra: Tree) -> Tree:
        """Leaves out the output of training-only branches."""
        return y


def trace(net: Layer, x: Tree) -> list[Row]:
    """Returns a row for each layer in ``net``, composites included, in the order in which layers finish.

    Args:
      net: a layer.
      x: an array, a ShapeDtypeStruct or a shape tuple, batch axis included; or a pytree of them.

    Raises:
      ShapeError: a layer does not accept its input; the error begins with the layer's path.

    >>> [row.path for row in trace(jc.serial(jc.Conv(8), body=jc.serial(jc.Conv(8))), (1, 8, 8, 3))]
    ['0', 'body.0', 'body', '']
    """
    check_acyclic(net)
    struct = as_struct(x)
    single = isinstance(struct, jax.ShapeDtypeStruct)
    sizes = struct.shape[1:-1] if single else ()
    look = _Look(sizes)
    fields = (IDENTITY,) * len(sizes) if single else None
    with located("", net):
        look.layer(net, jax.tree.map(lambda s: _Seen(s, fields), struct))
    return list(look.rows.values())


def receptive_field(net: Layer, x: Tree) -> dict[str, Fields]:
    """Returns the receptive field of each layer: the part of the network's input that one unit of its output sees.

    Unit i along an axis sees ``size`` elements from ``offset + i * stride`` on (Araujo et al., 2019); a negative offset
    reaches into the padding. A layer whose units see the whole input has stride 0. Where branches join, the field
    covers the fields of all branches. A field's ``exact`` is False where some units do not follow the formula (adaptive
    pools whose bins differ in size, resizing, transposed convolutions); then the field covers all units' fields, and
    its ends may be fractions.

    Args:
      net: a layer.
      x: an array, a ShapeDtypeStruct or a shape tuple ``(batch, *spatial, channels)``.

    Returns:
      For each path a tuple with a ``(size, stride, offset)`` for each spatial axis of x. None means unknown: the layer
      or a layer before it has no `geometry`.

    >>> net = jc.serial(jc.Conv(8, 3), jax.nn.relu, jc.MaxPool(2), jc.Conv(8, 3))
    >>> receptive_field(net, (1, 32, 32, 3))["3"][0]
    Field(size=8, stride=2, offset=-3)
    """
    return {row.path: row.receptive_field for row in trace(net, x)}
