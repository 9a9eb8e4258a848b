"""Networks with more than one way out: the maps of a backbone by path, and what stands on them.

Heads on a map, heads that are there for training only, the way back from the coarsest map to the finest, and to the
size of the image.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jaxconv.compose import AROUND, LayerLike, Serial, Wrapper, as_keyword, as_layer, check_name, concatenate
from jaxconv.errors import ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Children, Composite, Layer, Run, Tree, level_names, name_of
from jaxconv.layers import Pad, Resize
from jaxconv.layers.base import batched_sizes
from jaxconv.ops.resize import check_method

Maps = tuple[tuple[str, str], ...]


@dataclass(frozen=True, repr=False)
class Backbone(Composite):
    """The first children of a row of layers, and what some of them give; made by `backbone`.

    ``inner`` is one inside another: it returns what it gives as well.
    """

    call: ClassVar[str] = "backbone"
    children: Children
    maps: Maps
    inner: bool = False

    def source(self) -> tuple[Serial, dict[str, str]]:
        """Returns what `backbone` makes this of: a row of layers, and the paths with their names."""
        children, paths = [], dict(self.maps)
        for name, layer in self.children:
            tapped = backbone_in(layer)
            if tapped and tapped.inner:
                row, inside = tapped.source()
                layer = _around(layer, row)
                paths |= {f"{name}.{path}" if name else path: out for path, out in inside.items()}
            children.append((name, layer))
        return Serial(tuple(children)), paths

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
        return (x, found) if self.inner else found


def backbone_in(layer: Layer) -> Backbone | None:
    """Returns the backbone that a layer is, or that stands in `jaxconv.frozen` and the like; None for another."""
    while isinstance(layer, AROUND):
        layer = layer.layer
    return layer if isinstance(layer, Backbone) else None


def _around(layer: Layer, inside: Layer) -> Layer:
    """Returns ``inside`` in what stands around the innermost of ``layer``."""
    return dataclasses.replace(layer, layer=_around(layer.layer, inside)) if isinstance(layer, AROUND) else inside


def _tapped(
    net: Layer, maps: Maps, outer: tuple[str, ...] = (), *, whole: bool = False, inner: bool = False
) -> Backbone | Wrapper:
    """Returns the children of ``net``, those with a path inside tapped in their turn.

    Unless ``whole``, those after the last of the paths are left out.
    """
    if isinstance(net, AROUND):
        return dataclasses.replace(net, layer=_tapped(net.layer, maps, outer, whole=whole, inner=inner))
    if isinstance(net, Auxiliary):
        net = net.body
    if hasattr(net, "cut") and not inner:
        # A graph: it knows itself what its layers need.
        return net.cut(maps)
    if not isinstance(net, Serial):
        inside = f"{'.'.join(outer)} is no row of layers" if outer else "net must be a row of layers made by serial"
        raise ShapeError(f"{inside}, so paths {[path for path, _ in maps]} cannot be reached: {type(net).__name__}")
    left, children = set(maps), []
    for name, layer in net.children:
        if name:
            below = tuple((p.removeprefix(f"{name}."), out) for p, out in maps if p.startswith(f"{name}."))
            here = {(p, out) for p, out in maps if p == name or p.startswith(f"{name}.")}
        else:
            level = set(level_names(getattr(layer, "children", ())))
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
        names = ", ".join(map(repr, level_names(net.children)))
        raise ShapeError(f"paths has {sorted(p for p, _ in left)[0]!r}, which names no layer in {at or 'net'}: {names}")
    own = {name for name, _ in net.children}
    return Backbone(tuple(children), tuple((p, out) for p, out in maps if p in own), inner)


def backbone(net: Layer, paths: Sequence[str] | Mapping[str, str]) -> Backbone | Wrapper:
    """Returns the part of a network up to the last of ``paths``; its output is a dict of the maps there.

    The parameters keep their paths, so a network's weights are its backbone's, those of the head left out. What FCN,
    DeepLab and U-Net stand on; torchvision's ``IntermediateLayerGetter``.

    Args:
      net: made by `serial` or `auxiliary`; so is what a path with dots goes through. `frozen`, `remat` and
        `mixed_precision` around them stay around the backbone. Or a graph from an ONNX file.
      paths: of the layers whose outputs are wanted, or a mapping of paths to the names they get in the output.

    Raises:
      ShapeError: a path names no layer, or goes through a layer that is no row of layers.

    >>> body = jc.serial(jc.Conv(16, stride=2), jax.nn.relu)
    >>> net = jc.serial(stem=jc.Conv(8, stride=2), body=body, head=jc.Flatten())
    >>> maps = backbone(net, ["stem", "body.1"])
    >>> params, state = maps.init(jax.random.key(0), (1, 32, 32, 3))
    >>> {path: y.shape for path, y in maps.apply(params, state, jnp.ones((1, 32, 32, 3)))[0].items()}
    {'stem': (1, 16, 16, 8), 'body.1': (1, 8, 8, 16)}
    """
    if isinstance(paths, str):
        raise ShapeError(f"paths must be a sequence of paths, got the string {paths!r}: write [{paths!r}]")
    named = dict(paths) if isinstance(paths, Mapping) else {path: path for path in paths}
    if not named or len(set(named.values())) < len(named):
        raise ShapeError(f"paths must be at least one, with different names, got {named}")
    return _tapped(net, tuple(named.items()))


@dataclass(frozen=True, repr=False)
class Auxiliary(Composite):
    """A row of layers with heads on the way that run in training only; made by `auxiliary`."""

    call: ClassVar[str] = "auxiliary"
    body: Serial
    heads: Children
    after: tuple[str, ...]

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The row's children and the heads, all at this level."""
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
                raise ShapeError(f"{name} stands after {after!r}, which names no layer: {', '.join(map(repr, names))}")

    def route(self, run: Run, x: Tree) -> Tree:
        extra = {}
        for name, layer in self.body.children:
            x = run(name, layer, x)
            for (head, branch), after in zip(self.heads, self.after, strict=True):
                if after == name and run.train:
                    extra[head] = run(head, branch, x)
        return run.aside(x, extra)


def auxiliary(body: Serial, **heads: tuple[str, LayerLike]) -> Auxiliary:
    """Adds heads to a row of layers that run in training only, where the output is ``(y, {name: head's output})``.

    They are initialised always. The auxiliary classifiers of GoogLeNet and Inception.

    Args:
      body: made by `serial`; its children and the heads stand at one level.
      heads: by name, ``(name of the child of body whose output it takes, layer)``.

    Raises:
      ShapeError: a head stands after no child; names are not different.

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
        raise ShapeError(f"body must be a row of layers made by serial, got {type(body).__name__}")
    return Auxiliary(body, layers, tuple(after for after, _ in heads.values()))


def _map(maps: Tree, name: str) -> Tree:
    if not isinstance(maps, dict) or name not in maps:
        other = f"one array of shape {maps.shape}" if hasattr(maps, "shape") else type(maps).__name__
        has = ", ".join(map(repr, maps)) or "none" if isinstance(maps, dict) else other
        raise ShapeError(f"x must be a dict of maps with {name!r} in it, got {has}")
    return maps[name]


@dataclass(frozen=True, repr=False)
class OnMap(Wrapper):
    """A layer that takes one of several maps; made by `on_map`."""

    call: ClassVar[str] = "on_map"
    name: str

    def arguments(self) -> list[str]:
        return [repr(self.name), name_of(self.layer)]

    def route(self, run: Run, x: Tree) -> Tree:
        return run("", self.layer, _map(x, self.name))


def on_map(name: str, layer: LayerLike) -> OnMap:
    """Runs a layer on one of the maps that a backbone gives. Adds no level.

    Args:
      name: of the map, as `backbone` calls it.
      layer: takes the map.

    >>> net = jc.serial(maps=backbone(jc.serial(jc.Conv(4), jc.MaxPool(2)), ["0", "1"]), head=on_map("1", jc.Conv(2)))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> net.apply(params, state, jnp.ones((1, 8, 8, 3)))[0].shape
    (1, 4, 4, 2)
    """
    return OnMap(as_layer(layer), name)


@dataclass(frozen=True, repr=False)
class Resized(Wrapper):
    """A layer whose output gets the size of its input; made by `resized`."""

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
    """Resizes the maps that a layer gives to the spatial sizes of its input, whatever they are. Adds no level.

    What networks for segmentation end with.

    Args:
      layer: takes one map and gives one, or a pytree of them.
      method, align_corners, rank: as in `jaxconv.resize`.

    Raises:
      ShapeError: an unknown method.

    >>> net = resized(jc.serial(jc.Conv(8, stride=4), jc.Conv(2, 1)))
    >>> params, state = net.init(jax.random.key(0), (1, 30, 20, 3))
    >>> net.apply(params, state, jnp.ones((1, 30, 20, 3)))[0].shape
    (1, 30, 20, 2)
    """
    return Resized(as_layer(layer), method, align_corners, rank)


@dataclass(frozen=True, repr=False)
class TopDown(Composite):
    """The way back from the coarsest map to the finest; made by `top_down`.

    ``children`` has two for each step, the one that enlarges and the one that takes what is joined.
    """

    call: ClassVar[str] = "top_down"
    children: Children
    start: str
    crop: bool = False
    rank: int = 2

    def check(self) -> None:
        super().check()
        as_int(self.rank, "rank", least=1)
        for name, _ in self.children:
            check_name(name)

    def steps(self) -> list[tuple[tuple[str, Layer], tuple[str, Layer]]]:
        """Returns the children, two by two."""
        return list(zip(self.children[::2], self.children[1::2], strict=True))

    def arguments(self) -> list[str]:
        steps = {name: (up, block) for (_, up), (name, block) in self.steps()}
        options = [f"{name}={value!r}" for name, value in self.changed().items() if name in ("crop", "rank")]
        return [repr(self.start), repr(steps), *options]

    def route(self, run: Run, x: Tree) -> Tree:
        y = _map(x, self.start)
        for (enlarge, up), (name, block) in self.steps():
            y = run(enlarge, up, y)
            skip, y = self._fitted(run, name, _map(x, name), y)
            y = run(name, block, run.join(concatenate, skip, y))
        return y

    def _fitted(self, run: Run, name: str, skip: Any, y: Any) -> tuple[Tree, Tree]:
        sizes, coming = batched_sizes(skip, self.rank), batched_sizes(y, self.rank)
        over = [m - n for m, n in zip(sizes, coming, strict=True)]
        if self.crop:
            if any(o < 0 or o % 2 for o in over):
                raise ShapeError(
                    f"map {name!r} of {sizes} must be larger than what comes up to it, {coming}, by even numbers, so "
                    "that its middle can be cut out: x must have sizes that are even before each pool"
                )
            return (run("", Pad([(-o // 2, -o // 2) for o in over], rank=self.rank), skip) if any(over) else skip), y
        if any(abs(o) > 1 for o in over):
            raise ShapeError(
                f"what comes up to map {name!r} of {sizes} must be of its size, give or take one, got {coming}: "
                "maps must be given from the coarsest to the finest, each as many times finer as the layer enlarges"
            )
        return skip, (run("", Pad([(0, o) for o in over], rank=self.rank), y) if any(over) else y)


def top_down(
    start: str, steps: Mapping[str, tuple[LayerLike, LayerLike]], *, crop: bool = False, rank: int = 2
) -> TopDown:
    """Goes from the coarsest map to the finest: enlarges, joins with the next map on channels, runs a block.

    The decoder of U-Net (Ronneberger et al., 2015). It takes the dict of maps that `backbone` gives.

    Args:
      start: the name of the coarsest map.
      steps: by the name of the map that is joined, coarsest first, ``(layer that enlarges, block)``. Their parameters
        stand under ``NAME_up`` and ``NAME``.
      crop: cut the middle out of each map to the size of what comes up to it, as the paper does, where convolutions
        are not padded. Otherwise what comes up is padded with zeros, or cut, at the end by the one row or column that
        an odd size makes it differ.
      rank: the number of spatial axes.

    Raises:
      ShapeError: names are not different, a map is not there, or sizes do not fit.

    >>> decoder = top_down("coarse", {"fine": (jc.ConvTranspose(4, 2, stride=2), jc.Conv(3))})
    >>> x = {"fine": jnp.ones((1, 8, 8, 2)), "coarse": jnp.ones((1, 4, 4, 6))}
    >>> params, state = decoder.init(jax.random.key(0), x)
    >>> decoder.apply(params, state, x)[0].shape, list(params)
    ((1, 8, 8, 3), ['fine_up', 'fine'])
    """
    children = []
    for name, (up, block) in steps.items():
        children += [(f"{name}_up", as_layer(up)), (name, as_layer(block))]
    return TopDown(tuple(children), start, crop, rank)


__all__ = ["auxiliary", "backbone", "on_map", "resized", "top_down"]
