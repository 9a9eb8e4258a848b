"""Structure: layers in sequence, in parallel, joined, shared, or under other names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxconv.compose.base import Wrapper, as_keyword, as_layer, check_name
from jaxconv.composite import Composite, Run
from jaxconv.described import name_of
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Children, Layer, LayerLike, Tree
from jaxconv.layers import Resize
from jaxconv.layers.base import batched_sizes
from jaxconv.ops.resize import check_method
from jaxconv.structs import broadcasts


def children_of(layers: Sequence[LayerLike], named: dict[str, LayerLike]) -> Children:
    """Returns layers named by position, inlined layers named "", then the layers that the caller names."""
    children = []
    for i, value in enumerate(layers):
        layer = as_layer(value)
        children.append(("", layer.layer) if isinstance(layer, Inline) else (str(i), layer))
    for name, value in named.items():
        check_name(name)
        children.append((name, as_layer(value)))
    return tuple(children)


@dataclass(frozen=True, repr=False)
class Many(Composite):
    """The base class of composites with any number of named children."""

    least: ClassVar[int] = 1
    children: Children

    def check(self) -> None:
        if not self.children and self.least:
            raise ArgumentError(f"{self.call} must have at least one layer, got none")
        for name, _ in self.children:
            if name:
                check_name(name)
        super().check()

    def arguments(self) -> list[str]:
        shown, named = [], False
        for i, (name, layer) in enumerate(self.children):
            inlined = not name
            named = named or (not inlined and name != str(i))
            text = f"inline({name_of(layer)})" if inlined else name_of(layer)
            shown.append(text if not named or inlined else as_keyword(name, text))
        return shown


class Serial(Many):
    """Runs its children in sequence; created by `serial`."""

    call: ClassVar[str] = "serial"
    least: ClassVar[int] = 0

    def route(self, run: Run, x: Tree) -> Tree:
        for name, layer in self.children:
            x = run(name, layer, x)
        return x


class Parallel(Many):
    """Runs its children on the same input; created by `parallel`."""

    call: ClassVar[str] = "parallel"
    least: ClassVar[int] = 0

    def route(self, run: Run, x: Tree) -> Tree:
        return tuple(run(name, layer, x) for name, layer in self.children)


class Concat(Many):
    """Runs its children on the same input and concatenates their channels; created by `concat`."""

    call: ClassVar[str] = "concat"

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(concatenate, *(run(name, layer, x) for name, layer in self.children))


class Split(Many):
    """Runs each child on its part of the channels and concatenates the results; created by `split`."""

    call: ClassVar[str] = "split"

    def route(self, run: Run, x: Tree) -> Tree:
        n = len(self.children)
        parts = run.join(lambda x: _shares(x, n), x)
        return run.join(
            concatenate, *(run(name, layer, part) for (name, layer), part in zip(self.children, parts, strict=True))
        )


def concatenate(*ys: Array) -> Array:
    """Concatenates branches on channels."""
    if len({y.shape[:-1] for y in ys}) > 1:
        raise ShapeError(
            f"branches must have equal shapes except for channels, got {', '.join(str(y.shape) for y in ys)}"
        )
    return jnp.concatenate(ys, axis=-1)


def _shares(x: Array, n: int) -> list[Array]:
    channels = x.shape[-1]
    if channels % n:
        raise ShapeError(f"x must have a number of channels divisible by the {n} branches, got shape {x.shape}")
    return jnp.split(x, n, axis=-1)


def serial(*layers: LayerLike, **named: LayerLike) -> Serial:
    """Runs layers in sequence, like ``torch.nn.Sequential``.

    Args:
      layers: layers or functions of arrays; named "0", "1", ... by position, layers without parameters included.
      named: layers named by the caller; they run after the others.

    Raises:
      TypeError: an argument is not a layer.
      ArgumentError: names are not unique, or contain "." or "/".

    >>> net = serial(jc.Conv(6, 5), jax.nn.relu, jc.MaxPool(2), jc.Flatten(), scores=jc.Dense(10))
    >>> params, state = net.init(jax.random.key(0), (1, 32, 32, 3))
    >>> params["0"]["kernel"].shape, params["scores"]["kernel"].shape
    ((5, 5, 3, 6), (1536, 10))
    """
    return Serial(children_of(layers, named))


def parallel(*layers: LayerLike, **named: LayerLike) -> Parallel:
    """Runs layers on the same input and returns the tuple of their outputs; arguments as in `serial`.

    >>> parallel(jnp.abs, jnp.negative).apply({}, {}, jnp.ones(1))[0]
    (Array([1.], dtype=float32), Array([-1.], dtype=float32))
    """
    return Parallel(children_of(layers, named))


def concat(*layers: LayerLike, **named: LayerLike) -> Concat:
    """Runs layers on the same input and concatenates their outputs on channels (Inception, DenseNet).

    Arguments as in `serial`.

    >>> concat(jc.Identity(), jnp.abs).apply({}, {}, jnp.array([[-1.0]]))[0]
    Array([[-1.,  1.]], dtype=float32)
    """
    return Concat(children_of(layers, named))


def split(*layers: LayerLike, **named: LayerLike) -> Split:
    """Splits the channels equally, runs one layer on each part, concatenates the outputs on channels (ShuffleNet v2).

    Arguments as in `serial`.

    >>> split(jc.Identity(), jnp.negative).apply({}, {}, jnp.array([[1.0, 2.0]]))[0]
    Array([[ 1., -2.]], dtype=float32)
    """
    return Split(children_of(layers, named))


@dataclass(frozen=True, repr=False)
class Inline(Wrapper):
    """A layer whose parameters are at its parent's level; created by `inline`."""

    call: ClassVar[str] = "inline"


def inline(layer: LayerLike) -> Inline:
    """Puts a layer's children, or a leaf's parameters, at the level of the enclosing composite.

    >>> net = serial(inline(serial(conv=jc.Conv(8))), jax.nn.relu)
    >>> list(net.init(jax.random.key(0), (1, 8, 8, 3))[0])
    ['conv']
    """
    return Inline(as_layer(layer))


@dataclass(frozen=True, repr=False)
class Shared(Wrapper):
    """One layer on each of several arrays; created by `shared`."""

    call: ClassVar[str] = "shared"

    def route(self, run: Run, x: Tree) -> Tree:
        return jax.tree.map(lambda each: run("", self.layer, each), x)


def shared(layer: LayerLike) -> Shared:
    """Runs one layer, with one set of weights, on each array of a pytree. Adds no level to paths.

    Examples are a RetinaNet head on all levels of a pyramid, and a Siamese branch. The runs follow the order of
    `jax.tree.leaves`, and each run receives the state of the run before. To use a layer several times in another way,
    write a `jaxconv.Composite`.

    Args:
      layer: a layer that takes one array.

    >>> net = shared(jc.Conv(4))
    >>> params, state = net.init(jax.random.key(0), ((1, 8, 8, 3), (1, 4, 4, 3)))
    >>> y, _ = net.apply(params, state, (jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 4, 3))))
    >>> [each.shape for each in y], params["kernel"].shape
    ([(1, 8, 8, 4), (1, 4, 4, 4)], (3, 3, 3, 4))
    """
    return Shared(as_layer(layer))


@dataclass(frozen=True, repr=False)
class Gate(Wrapper):
    """``x * body(x)``; created by `gate`."""

    call: ClassVar[str] = "gate"

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(multiply, x, run("", self.layer, x))


def multiply(x: Array, y: Array) -> Array:
    """Returns ``x * y``; a y of shape ``(batch, channels)`` multiplies the channels of x."""
    if y.ndim < x.ndim:
        y = y.reshape(*y.shape[:-1], *(1,) * (x.ndim - y.ndim), y.shape[-1])
    if not broadcasts(y.shape, x.shape):
        raise ShapeError(f"body must return one weight for each element or channel of x {x.shape}, got {y.shape}")
    return x * y


def gate(body: LayerLike) -> Gate:
    """Returns ``x * body(x)``: squeeze and excitation (Hu et al., 2018). Adds no level to paths.

    Args:
      body: a layer that returns one weight for each element of x, or for each channel of each example.

    >>> gate(serial(jc.GlobalAvgPool(), jax.nn.sigmoid)).apply({}, {}, jnp.zeros((1, 4, 4, 8)))[0].shape
    (1, 4, 4, 8)
    """
    return Gate(as_layer(body))


@dataclass(frozen=True, repr=False)
class Residual(Composite):
    """``after(body(x) + shortcut(x))``; created by `residual`."""

    call: ClassVar[str] = "residual"
    body: Layer
    shortcut: Layer | None = None
    after: Layer | None = None
    name: str = "shortcut"

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The body at this level, the shortcut under its name, and the last layer under "after"."""
        rest = ((self.name, self.shortcut), ("after", self.after))
        return (("", self.body), *((name, layer) for name, layer in rest if layer is not None))

    def with_children(self, layers: Sequence[Layer]) -> "Residual":
        body, *rest = layers
        shortcut = rest.pop(0) if self.shortcut is not None else None
        return Residual(body, shortcut, rest.pop(0) if self.after is not None else None, self.name)

    def check(self) -> None:
        check_name(self.name)
        super().check()

    def route(self, run: Run, x: Tree) -> Tree:
        y = run("", self.body, x)
        skipped = x if self.shortcut is None else run(self.name, self.shortcut, x)
        y = run.join(add, y, skipped)
        return y if self.after is None else run("after", self.after, y)


def add(y: Array, x: Array) -> Array:
    """Returns ``y + x``, for arrays of one shape."""
    if y.shape != x.shape:
        raise ShapeError(f"body and shortcut must return the same shape, got {y.shape} and {x.shape}")
    return y + x


def residual(
    body: LayerLike,
    shortcut: LayerLike | None = None,
    *,
    after: LayerLike | None = None,
    name: str = "shortcut",
) -> Residual:
    """Returns ``after(body(x) + shortcut(x))`` (He et al., 2016).

    Args:
      body: a layer; its children, or a leaf's parameters, are at the block's level.
      shortcut: a layer that maps x to the body's output shape; None is the identity.
      after: a layer applied to the sum, such as a ReLU.
      name: the shortcut's name; "downsample" in torchvision.

    Raises:
      ArgumentError: names are not unique.
      ShapeError: body and shortcut return different shapes.

    >>> block = residual(serial(conv1=jc.Conv(8), relu=jax.nn.relu, conv2=jc.Conv(8)), jc.Conv(8, 1), name="downsample")
    >>> sorted(block.init(jax.random.key(0), (1, 8, 8, 3))[0])
    ['conv1', 'conv2', 'downsample']
    """
    return Residual(
        as_layer(body),
        None if shortcut is None else as_layer(shortcut),
        None if after is None else as_layer(after),
        name,
    )


@dataclass(frozen=True, repr=False)
class Resized(Wrapper):
    """A layer whose output is resized to the size of its input; created by `resized`."""

    call: ClassVar[str] = "resized"
    method: str = "bilinear"
    align_corners: bool = False
    rank: int = 2

    def check(self) -> None:
        super().check()
        as_int(self.rank, "rank", least=1)
        check_method(self.method, self.align_corners, False)

    def route(self, run: Run, x: Tree) -> Tree:
        size = batched_sizes(x, self.rank)
        resize = Resize(size, method=self.method, align_corners=self.align_corners, rank=self.rank)
        return jax.tree.map(lambda y: run("", resize, y), run("", self.layer, x))


def resized(layer: LayerLike, *, method: str = "bilinear", align_corners: bool = False, rank: int = 2) -> Resized:
    """Resizes a layer's output to the spatial sizes of its input. Adds no level to paths.

    Networks for segmentation end in this.

    Args:
      layer: a layer from one array to one array, or to a pytree of arrays.
      method, align_corners, rank: as in `jaxconv.resize`.

    Raises:
      ArgumentError: the method is unknown, or rank is below 1.

    >>> net = resized(jc.serial(jc.Conv(8, stride=4), jc.Conv(2, 1)))
    >>> params, state = net.init(jax.random.key(0), (1, 30, 20, 3))
    >>> net.apply(params, state, jnp.ones((1, 30, 20, 3)))[0].shape
    (1, 30, 20, 2)
    """
    return Resized(as_layer(layer), method, align_corners, rank)


__all__ = ["concat", "gate", "inline", "parallel", "residual", "resized", "serial", "shared", "split"]
