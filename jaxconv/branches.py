"""Networks with more than one way out: the maps of a backbone by path, heads that are there for training only."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxconv.compose import LayerLike, Serial, as_layer
from jaxconv.errors import ShapeError
from jaxconv.layer import Children, Composite, Layer, Run, Tree, level_names, name_of

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

    def arguments(self) -> list[str]:
        return [name_of(Serial(self.children)), name_of(dict(self.maps))]

    def route(self, run: Run, x: Tree) -> Tree:
        wanted = dict(self.maps)
        found: dict[str, Tree] = {}
        for name, layer in self.children:
            x = run(name, layer, x)
            if isinstance(layer, Backbone):
                x, inside = x
                found |= inside
            if name in wanted:
                found[wanted[name]] = x
        return (x, found) if self.inner else found


def _tapped(net: Layer, maps: Maps, outer: tuple[str, ...] = ()) -> Backbone:
    """Returns the children of ``net`` up to the last of the paths, those with a path inside tapped in their turn."""
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
        if below:
            layer = dataclasses.replace(_tapped(layer, below, (*outer, name) if name else outer), inner=True)
        children.append((name, layer))
        left -= here
        if not left:
            break
    if left:
        at = ".".join(outer)
        names = ", ".join(map(repr, level_names(net.children)))
        raise ShapeError(f"paths has {sorted(p for p, _ in left)[0]!r}, which names no layer in {at or 'net'}: {names}")
    own = {name for name, _ in net.children}
    return Backbone(tuple(children), tuple((p, out) for p, out in maps if p in own))


def backbone(net: Layer, paths: Sequence[str] | Mapping[str, str]) -> Backbone:
    """Returns the part of a network up to the last of ``paths``; its output is a dict of the maps there.

    The parameters keep their paths, so a network's weights are its backbone's, those of the head left out. What FCN,
    DeepLab and U-Net stand on; torchvision's ``IntermediateLayerGetter``.

    Args:
      net: made by `serial`; so is what a path with dots goes through.
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
        heads = zip(self.heads, self.after, strict=True)
        return [name_of(self.body), *(f"{name}=({after!r}, {name_of(layer)})" for (name, layer), after in heads)]

    def check(self) -> None:
        super().check()
        names = [name for name, _ in self.body.children]
        for (name, _), after in zip(self.heads, self.after, strict=True):
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


__all__ = ["auxiliary", "backbone"]
