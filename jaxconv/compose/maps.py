"""Layers on several arrays: one layer for each array, and several layers on one array with outputs by name."""

from collections import OrderedDict
from typing import ClassVar

from jaxconv.compose.structure import Many, children_of
from jaxconv.composite import Run
from jaxconv.errors import ArgumentError
from jaxconv.layer import LayerLike, Tree


class Each(Many):
    """Runs each child on its own array; created by `each`."""

    call: ClassVar[str] = "each"

    def route(self, run: Run, x: Tree) -> Tree:
        if not isinstance(x, OrderedDict | tuple | list) or len(x) != len(self.children):
            got = f"{type(x).__name__}{f' of {len(x)}' if isinstance(x, dict | tuple | list) else ''}"
            raise ArgumentError(
                f"x must be a tuple or an OrderedDict of {len(self.children)} arrays, one for each layer, got {got}"
            )
        arrays = x.values() if isinstance(x, OrderedDict) else x
        ys = [run(name, layer, array) for (name, layer), array in zip(self.children, arrays, strict=True)]
        return OrderedDict(zip(x, ys, strict=True)) if isinstance(x, OrderedDict) else tuple(ys)


class Heads(Many):
    """Runs its children on the same input and returns their outputs by name; created by `heads`."""

    call: ClassVar[str] = "heads"

    def check(self) -> None:
        super().check()
        if any(not name for name, _ in self.children):
            raise ArgumentError("heads must have a name for each layer, got inline(...)")

    def route(self, run: Run, x: Tree) -> Tree:
        return OrderedDict((name, run(name, layer, x)) for name, layer in self.children)


def each(*layers: LayerLike, **named: LayerLike) -> Each:
    """Runs the first layer on the first array, the second on the second, and so on.

    Examples are the convolutions of a feature pyramid, and the heads of SSD, with weights of their own on each feature
    map. `shared` runs one layer on all arrays.

    Args:
      layers, named: as in `serial`; the input is a tuple or a `collections.OrderedDict` with an array for each.

    Raises:
      ArgumentError: the input has another number of arrays, or is a plain dict, whose order JAX changes.

    >>> net = each(jc.Conv(4), jc.Conv(5))
    >>> params, state = net.init(jax.random.key(0), ((1, 8, 8, 3), (1, 4, 4, 2)))
    >>> y, _ = net.apply(params, state, (jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 4, 2))))
    >>> [array.shape for array in y]
    [(1, 8, 8, 4), (1, 4, 4, 5)]
    """
    return Each(children_of(layers, named))


def heads(*layers: LayerLike, **named: LayerLike) -> Heads:
    """Runs layers on the same input and returns a `collections.OrderedDict` of their outputs by name.

    `parallel` returns a tuple. ``inline`` puts heads at the level of a shared trunk, as torch's modules have them:
    ``serial(inline(serial(conv=trunk)), inline(heads(cls_logits=..., bbox_reg=...)))`` has the paths ``conv``,
    ``cls_logits`` and ``bbox_reg``. For an activation that adds no level to the path of its convolution write
    ``serial(inline(Conv(4)), jax.nn.relu)``.

    Args:
      layers, named: as in `serial`.

    Raises:
      ArgumentError: a layer is made by `inline`, so that its output has no name.

    >>> net = heads(scores=jc.Conv(2, 1), boxes=jc.Conv(4, 1))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> {name: y.shape for name, y in net.apply(params, state, jnp.ones((1, 8, 8, 3)))[0].items()}
    {'scores': (1, 8, 8, 2), 'boxes': (1, 8, 8, 4)}
    """
    return Heads(children_of(layers, named))


__all__ = ["each", "heads"]
