"""Backbones and their heads: feature maps of a network by path, and layers on these feature maps.

Heads on one feature map, auxiliary heads for training, and top-down paths from the coarsest feature map to the finest.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxconv.compose.base import Wrapper, as_keyword, as_layer, check_name
from jaxconv.compose.structure import Serial, concatenate
from jaxconv.compose.wrappers import AROUND
from jaxconv.composite import Composite, Run
from jaxconv.described import name_of
from jaxconv.errors import ArgumentError, PathError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Children, Layer, LayerLike, Tree
from jaxconv.layers import Pad
from jaxconv.layers.base import batched_sizes
from jaxconv.tree import level_names

Maps = tuple[tuple[str, str], ...]


@dataclass(frozen=True, repr=False)
class Backbone(Composite):
    """The first children of a `serial`, which returns the outputs of some of them; created by `backbone`.

    ``inner`` marks a backbone inside another, which returns its last output and its feature maps. ``order`` has the
    names of all feature maps, inner backbones included.
    """

    call: ClassVar[str] = "backbone"
    children: Children
    maps: Maps
    inner: bool = False
    order: tuple[str, ...] = ()

    def source(self) -> tuple[Serial, dict[str, str]]:
        """Returns the arguments of `backbone`: a serial, and the paths with their names."""
        children, paths = [], dict(self.maps)
        for name, layer in self.children:
            tapped = backbone_in(layer)
            if tapped and tapped.inner:
                row, inside = tapped.source()
                layer = _around(layer, row)
                paths |= {f"{name}.{path}" if name else path: out for path, out in inside.items()}
            children.append((name, layer))
        ordered = sorted(paths.items(), key=lambda item: self.order.index(item[1]) if self.order else 0)
        return Serial(tuple(children)), dict(ordered)

    def arguments(self) -> list[str]:
        return list(map(name_of, self.source()))

    def route(self, run: Run, x: Tree) -> Tree:
        wanted = dict(self.maps)
        found: dict[str, Tree] = {}
        for name, layer in self.children:
            x = run(name, layer, x)
            tapped = backbone_in(layer)
            if tapped and tapped.inner:
                x, inside = x
                found |= inside
            if name in wanted:
                found[wanted[name]] = x
        return (x, found) if self.inner else OrderedDict((name, found[name]) for name in self.order)


def backbone_in(layer: Layer) -> Backbone | None:
    """Returns the layer, inside of `frozen` and similar wrappers, if it is a backbone; None otherwise."""
    while isinstance(layer, AROUND):
        layer = layer.layer
    return layer if isinstance(layer, Backbone) else None


def _around(layer: Layer, inside: Layer) -> Layer:
    """Returns ``inside`` in the wrappers of ``layer``."""
    return dataclasses.replace(layer, layer=_around(layer.layer, inside)) if isinstance(layer, AROUND) else inside


def _tapped(
    net: Layer, maps: Maps, outer: tuple[str, ...] = (), *, whole: bool = False, inner: bool = False
) -> Backbone | Wrapper:
    """Returns the children of ``net`` as a backbone; children that contain a path become inner backbones.

    Unless ``whole``, children after the last path are left out.
    """
    if isinstance(net, AROUND):
        return dataclasses.replace(net, layer=_tapped(net.layer, maps, outer, whole=whole, inner=inner))
    if isinstance(net, Auxiliary):
        net = net.body
    if hasattr(net, "cut") and not inner:
        # A graph: it knows itself what its layers need.
        return net.cut(maps)
    if not isinstance(net, Serial):
        name = repr(".".join(outer)) if outer else "net"
        raise ArgumentError(
            f"{name} must be made by serial to reach the paths {[path for path, _ in maps]}, got {type(net).__name__}"
        )
    left, children = set(maps), []
    for name, layer in net.children:
        if name:
            below = tuple((p.removeprefix(f"{name}."), out) for p, out in maps if p.startswith(f"{name}."))
            here = {(p, out) for p, out in maps if p == name or p.startswith(f"{name}.")}
        else:
            level = set(level_names(layer))
            below = tuple((p, out) for p, out in maps if p.split(".")[0] in level)
            here = set(below)
        left -= here
        if below:
            follows = whole or bool(left) or any(p == name for p, _ in maps)
            layer = _tapped(layer, below, (*outer, name) if name else outer, whole=follows, inner=True)
        children.append((name, layer))
        if not left and not whole:
            break
    if left:
        at = ".".join(outer)
        names = ", ".join(map(repr, level_names(net)))
        wrong = sorted(p for p, _ in left)[0]
        raise PathError(f"paths must name layers of {at or 'net'}, one of {names}, got {wrong!r}")
    own = {name for name, _ in net.children}
    return Backbone(tuple(children), tuple((p, out) for p, out in maps if p in own), inner)


def backbone(net: Layer, paths: Sequence[str] | Mapping[str, str]) -> Backbone | Wrapper:
    """Returns the part of a network up to the last of ``paths``; its output is a dict of the feature maps there.

    The dict is a `collections.OrderedDict` in the order of ``paths``, which jit preserves; JAX sorts the entries of a
    plain dict by name. The parameters keep their paths, so the backbone uses the network's weights without those of the
    head. FCN, DeepLab and U-Net use backbones. Equals torchvision's ``IntermediateLayerGetter``.

    Args:
      net: a network made by `serial` or `auxiliary`, or a graph from an ONNX file; for a path with dots, the layers on
        the path are too. `frozen`, `remat` and `mixed_precision` around them are kept.
      paths: the paths of layers, or a mapping from paths to names in the output.

    Raises:
      PathError: a path names no layer.
      ArgumentError: a path passes through a layer that is not made by `serial`, or names are not unique.
      TypeError: ``paths`` is a string.

    >>> body = jc.serial(jc.Conv(16, stride=2), jax.nn.relu)
    >>> net = jc.serial(stem=jc.Conv(8, stride=2), body=body, head=jc.Flatten())
    >>> maps = backbone(net, ["stem", "body.1"])
    >>> params, state = maps.init(jax.random.key(0), (1, 32, 32, 3))
    >>> {path: y.shape for path, y in maps.apply(params, state, jnp.ones((1, 32, 32, 3)))[0].items()}
    {'stem': (1, 16, 16, 8), 'body.1': (1, 8, 8, 16)}
    """
    if isinstance(paths, str):
        raise TypeError(f"paths must be a sequence of paths, got the string {paths!r}: write [{paths!r}]")
    named = dict(paths) if isinstance(paths, Mapping) else {path: path for path in paths}
    if not named or len(set(named.values())) < len(named):
        raise ArgumentError(f"paths must have at least one entry, with unique names, got {named}")
    return _ordered(_tapped(net, tuple(named.items())), tuple(named.values()))


def _ordered(tapped: Any, order: tuple[str, ...]) -> Any:
    """Returns the backbone, whatever is around it, with the order of its output; a graph has an order of its own."""
    if isinstance(tapped, Backbone):
        return dataclasses.replace(tapped, order=order)
    return dataclasses.replace(tapped, layer=_ordered(tapped.layer, order)) if isinstance(tapped, AROUND) else tapped


@dataclass(frozen=True, repr=False)
class Auxiliary(Composite):
    """A serial with heads that run in training only; created by `auxiliary`."""

    call: ClassVar[str] = "auxiliary"
    body: Serial
    heads: Children
    after: tuple[str, ...]

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The children of the body and the heads, all at this level."""
        return (*self.body.children, *self.heads)

    def with_children(self, layers: Sequence[Layer]) -> "Auxiliary":
        n = len(self.body.children)
        heads = tuple((name, layer) for (name, _), layer in zip(self.heads, layers[n:], strict=True))
        return Auxiliary(self.body.with_children(layers[:n]), heads, self.after)  # type: ignore[arg-type]

    def arguments(self) -> list[str]:
        heads = [
            as_keyword(name, f"({after!r}, {name_of(layer)})")
            for (name, layer), after in zip(self.heads, self.after, strict=True)
        ]
        return [name_of(self.body), *heads]

    def check(self) -> None:
        super().check()
        names = [name for name, _ in self.body.children]
        for (name, _), after in zip(self.heads, self.after, strict=True):
            check_name(name)
            if after not in names:
                raise ArgumentError(
                    f"{name} must name a child of body whose output it takes, one of {', '.join(map(repr, names))}, "
                    f"got {after!r}"
                )

    def route(self, run: Run, x: Tree) -> Tree:
        extra = {}
        for name, layer in self.body.children:
            x = run(name, layer, x)
            for (head, branch), after in zip(self.heads, self.after, strict=True):
                if after == name and run.train:
                    extra[head] = run(head, branch, x)
        return run.aside(x, extra)


def auxiliary(body: Serial, **heads: tuple[str, LayerLike]) -> Auxiliary:
    """Adds heads that run in training only; in training the output is ``(y, {name: output of the head})``.

    The heads are always initialized. GoogLeNet and Inception have such auxiliary classifiers.

    Args:
      body: a `serial`; its children and the heads are at one level.
      heads: by name, ``(name of the child of body whose output the head takes, layer)``.

    Raises:
      ArgumentError: a head names no child of the body; names are not unique.

    >>> net = auxiliary(jc.serial(a=jc.Dense(8), b=jc.Dense(3)), aux=("a", jc.Dense(3)))
    >>> params, state = net.init(jax.random.key(0), (1, 4))
    >>> net.apply(params, state, jnp.ones((1, 4)))[0].shape
    (1, 3)
    >>> y, extra = net.apply(params, state, jnp.ones((1, 4)), train=True)[0]
    >>> extra["aux"].shape
    (1, 3)
    """
    layers = tuple((name, as_layer(layer)) for name, (_, layer) in heads.items())
    if not isinstance(body, Serial):
        raise ArgumentError(f"body must be made by serial, got {type(body).__name__}")
    return Auxiliary(body, layers, tuple(after for after, _ in heads.values()))


def map_of(maps: Tree, name: str) -> Tree:
    if not isinstance(maps, dict) or name not in maps:
        other = f"one array of shape {maps.shape}" if hasattr(maps, "shape") else type(maps).__name__
        has = ", ".join(map(repr, maps)) or "none" if isinstance(maps, dict) else other
        raise ArgumentError(f"x must be a dict of feature maps with {name!r} in it, got {has}")
    return maps[name]


@dataclass(frozen=True, repr=False)
class OnMap(Wrapper):
    """A layer on one of several feature maps; created by `on_map`."""

    call: ClassVar[str] = "on_map"
    name: str

    def arguments(self) -> list[str]:
        return [repr(self.name), name_of(self.layer)]

    def route(self, run: Run, x: Tree) -> Tree:
        return run("", self.layer, map_of(x, self.name))


def on_map(name: str, layer: LayerLike) -> OnMap:
    """Runs a layer on one of the feature maps that a backbone returns. Adds no level to paths.

    Args:
      name: the feature map's name in the output of `backbone`.
      layer: a layer that takes the feature map.

    >>> net = jc.serial(maps=backbone(jc.serial(jc.Conv(4), jc.MaxPool(2)), ["0", "1"]), head=on_map("1", jc.Conv(2)))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> net.apply(params, state, jnp.ones((1, 8, 8, 3)))[0].shape
    (1, 4, 4, 2)
    """
    return OnMap(as_layer(layer), name)


def added(skip: Array, y: Array) -> Array:
    if skip.shape != y.shape:
        raise ShapeError(f'feature maps must have equal shapes for join="add", got {skip.shape} and {y.shape}')
    return skip + y


_JOINS: dict[str, Callable[..., Array]] = {"concatenate": concatenate, "add": added}


@dataclass(frozen=True, repr=False)
class TopDown(Composite):
    """A top-down path from the coarsest feature map to the finest; created by `top_down`.

    ``children`` has two layers for each step: the upsampling layer, and the block on the joined feature maps.
    """

    call: ClassVar[str] = "top_down"
    children: Children
    start: str
    crop: bool = False
    rank: int = 2
    join: str = "concatenate"

    def check(self) -> None:
        super().check()
        as_int(self.rank, "rank", least=1)
        if self.join not in _JOINS:
            raise ArgumentError(f"join must be one of {', '.join(map(repr, _JOINS))}, got {self.join!r}")
        for name, _ in self.children:
            check_name(name)

    def steps(self) -> list[tuple[tuple[str, Layer], tuple[str, Layer]]]:
        """Returns the children in pairs."""
        return list(zip(self.children[::2], self.children[1::2], strict=True))

    def arguments(self) -> list[str]:
        steps = {name: (up, block) for (_, up), (name, block) in self.steps()}
        options = [f"{name}={value!r}" for name, value in self.changed().items() if name in ("crop", "rank", "join")]
        return [repr(self.start), repr(steps), *options]

    def route(self, run: Run, x: Tree) -> Tree:
        y = map_of(x, self.start)
        for (enlarge, up), (name, block) in self.steps():
            y = run(enlarge, up, y)
            skip, y = self._fitted(run, name, map_of(x, name), y)
            y = run(name, block, run.join(_JOINS[self.join], skip, y))
        return y

    def _fitted(self, run: Run, name: str, skip: Any, y: Any) -> tuple[Tree, Tree]:
        sizes, coming = batched_sizes(skip, self.rank), batched_sizes(y, self.rank)
        over = [m - n for m, n in zip(sizes, coming, strict=True)]
        if self.crop:
            if any(o < 0 or o % 2 for o in over):
                raise ShapeError(
                    f"feature map {name!r} must be larger than the upsampled map by even numbers for its center to be "
                    f"cropped, got {sizes} and {coming}: x must have sizes that are even before each pool"
                )
            return (run("", Pad([(-o // 2, -o // 2) for o in over], rank=self.rank), skip) if any(over) else skip), y
        if any(abs(o) > 1 for o in over):
            raise ShapeError(
                f"the upsampled map must have the size of feature map {name!r}, {sizes}, up to a difference of 1, got "
                f"{coming}: steps must go from coarse to fine, with upsampling layers that match the maps' sizes"
            )
        return skip, (run("", Pad([(0, o) for o in over], rank=self.rank), y) if any(over) else y)


def top_down(
    start: str,
    steps: Mapping[str, tuple[LayerLike, LayerLike]],
    *,
    crop: bool = False,
    rank: int = 2,
    join: str = "concatenate",
) -> TopDown:
    """A top-down path: upsamples from the coarsest feature map to the finest, and joins each on the way.

    This is the decoder of U-Net (Ronneberger et al., 2015); with ``join="add"``, of LinkNet (Chaurasia and Culurciello,
    2017) and of feature pyramids (Lin et al., 2017). Its input is the dict of feature maps that `backbone` returns.

    Args:
      start: the name of the coarsest feature map.
      steps: for the name of each joined feature map, coarsest first, ``(upsampling layer, block)``. Their parameters
        are stored under ``NAME_up`` and ``NAME``.
      crop: crop the center of each feature map to the size of the upsampled map, as in the paper, for convolutions
        without padding. Otherwise the upsampled map is padded with zeros, or cut, by one row or column at the end
        where an odd size requires it.
      rank: the number of spatial axes.
      join: "concatenate" on channels, or "add".

    Raises:
      ArgumentError: names are not unique, or a feature map is missing.
      ShapeError: sizes do not fit.

    >>> decoder = top_down("coarse", {"fine": (jc.ConvTranspose(4, 2, stride=2), jc.Conv(3))})
    >>> x = {"fine": jnp.ones((1, 8, 8, 2)), "coarse": jnp.ones((1, 4, 4, 6))}
    >>> params, state = decoder.init(jax.random.key(0), x)
    >>> decoder.apply(params, state, x)[0].shape, list(params)
    ((1, 8, 8, 3), ['fine_up', 'fine'])
    """
    children = []
    for name, (up, block) in steps.items():
        children += [(f"{name}_up", as_layer(up)), (name, as_layer(block))]
    return TopDown(tuple(children), start, crop, rank, join)


__all__ = ["auxiliary", "backbone", "on_map", "top_down"]
