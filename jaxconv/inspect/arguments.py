"""What the functions that look in take, checked at the door: images, paths, and which score is asked about."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compose import Repeat
from jaxconv.errors import DTypeError, ShapeError
from jaxconv.inspect.trace import nearest
from jaxconv.layer import Array, Layer, Params, State, Tree, walk
from jaxconv.ops.arrays import ArrayLike

Target = int | ArrayLike | Callable[[Tree], Array] | None


def as_input(x: ArrayLike, *, spatial: bool = False) -> Array:
    """Returns ``x`` as an array, or raises where no gradient reaches it, or it has no spatial axes and some must be."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DTypeError(f"x must be a floating-point array, scaled as the network takes it, got {x.dtype}")
    if x.ndim < 2 + spatial:
        axes = "(batch, *spatial, channels)" if spatial else "(batch, ..., channels)"
        raise ShapeError(f"x must have shape {axes}, got {x.shape}")
    return x


def check_path(net: Layer, path: str) -> None:
    """Raises ShapeError where ``path`` names no layer of ``net``, with the nearest that do."""
    known = [known for known, _ in walk(net)]
    if path not in known:
        raise ShapeError(f"path {path!r} names no layer: {nearest(str(path), known)}")


def stacked_axes(net: Layer, path: str, outer: str = "") -> int:
    """Returns how many axes `repeat` puts in front of what `activations` finds at ``path``: one for each around it.

    >>> import jaxconv as jc
    >>> stacked_axes(jc.serial(body=jc.repeat(jc.serial(conv=jc.Conv(8)), 3)), "body.conv")
    1
    """
    own = int(isinstance(net, Repeat))
    for name, layer in getattr(net, "children", ()):
        below = ".".join(filter(None, (outer, name)))
        if name and below == path:
            return own
        if any(f"{below}.{inner}".lstrip(".") == path for inner, _ in walk(layer)):
            return own + stacked_axes(layer, path, below)
    return 0


def check_unstacked(net: Layer, path: str) -> None:
    """Raises ShapeError where ``path`` names no layer, or one inside `repeat`, whose outputs are stacked."""
    check_path(net, path)
    if stacked_axes(net, path):
        raise ShapeError(f"path {path!r} stands inside a repeat, where the outputs of all iterations are stacked")


def scores(output: Tree, target: Target, batch: int) -> Array:
    """Returns one score for each example: what ``target`` picks of the network's output.

    Args:
      output: what the network gave.
      target: the index of a class, for all examples or as an array of one for each; None for the class with the highest
        score; or a function from the output to a score for each example.
      batch: how many examples there are.

    Returns:
      Array of shape ``(batch,)``. An index out of range that is known only when the compiled program runs gives NaN.

    Raises:
      ShapeError: an index is out of range, an output without classes is asked for one, or the target does not fit.

    >>> scores(jnp.array([[1.0, 3.0], [5.0, 2.0]]), [0, 1], 2)
    Array([1., 2.], dtype=float32)
    """
    if callable(target):
        picked = target(output)
        if jnp.shape(picked) != (batch,):
            raise ShapeError(f"target must give a score for each example, shape ({batch},), got {jnp.shape(picked)}")
        return picked
    if len(getattr(output, "shape", ())) != 2:
        got = " ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(output))
        raise ShapeError(f"target must be a function of the output, as that is no array (batch, classes), but {got}")
    classes = output.shape[1]
    index = jnp.argmax(output, axis=1) if target is None else _indices(target, batch, classes)
    picked = jnp.take_along_axis(output, index[:, None], axis=1, mode="clip")[:, 0]
    return picked * jnp.where((index >= 0) & (index < classes), 1.0, jnp.nan)


def _indices(target: ArrayLike, batch: int, classes: int) -> Array:
    known = not isinstance(target, jax.core.Tracer)
    values = np.asarray(target) if known else jnp.asarray(target)
    if not jnp.issubdtype(values.dtype, jnp.integer) or values.shape not in ((), (batch,)):
        raise ShapeError(
            f"target must be the index of a class, one for each of the {batch} examples, None or a function, "
            f"got {values.dtype} {values.shape}"
        )
    if known and values.size and not 0 <= values.min() <= values.max() < classes:
        raise ShapeError(f"target must lie in 0 to {classes - 1} for {classes} classes, got {np.unique(values)}")
    return jnp.broadcast_to(values, (batch,))


def settled(net: Layer, params: Params, state: State, x: Array, target: Target) -> Target:
    """Returns ``target``, or for None the classes with the highest scores on ``x``, for use on other inputs."""
    if target is not None:
        return target
    y, _ = net.apply(params, state, x)
    scores(y, None, len(x))
    return jnp.argmax(y, axis=1)
