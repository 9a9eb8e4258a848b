"""Checks of the arguments that the functions of `jaxconv.inspect` share: images, paths and targets."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compiler import jit
from jaxconv.compose.wrappers import Repeat
from jaxconv.errors import ArgumentError, DTypeError, PathError, ShapeError, no_layer
from jaxconv.geometry import as_int
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops.arrays import ArrayLike
from jaxconv.structs import broadcasts
from jaxconv.tree import visits, walk

Target = int | ArrayLike | Callable[[Tree], Array] | None


def as_input(x: ArrayLike, *, spatial: bool = False) -> Array:
    """Returns ``x`` as an array, or raises where x is not floating-point or lacks a required spatial axis."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DTypeError(f"x must be a floating-point array, scaled as the network expects it, got {x.dtype}")
    if x.ndim < 2 + spatial:
        axes = "(batch, *spatial, channels)" if spatial else "(batch, ..., channels)"
        raise ShapeError(f"x must have shape {axes}, got {x.shape}")
    return x


def like_input(value: ArrayLike, x: Array, name: str) -> Array:
    """Returns ``value`` in x's type, or raises ShapeError if ``value`` does not broadcast to x."""
    if not broadcasts(jnp.shape(value), x.shape):
        raise ShapeError(f"{name} must broadcast to x {x.shape}, got shape {jnp.shape(value)}")
    return jnp.asarray(value, x.dtype)


def random_key(key: KeyLike | None) -> Array:
    """Returns the key, or for None the key of seed 0."""
    return as_key(0 if key is None else key)


def check_outside(name: str, *given: Tree, inside: str) -> None:
    """Raises TypeError where a function that loops on the host is called in a trace; the error names a replacement."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(f"{name} loops on the host, so jit, grad and vmap cannot trace it: inside them use {inside}")


def check_data(images: Any, batch_size: int, name: str = "images") -> tuple[Any, int]:
    """Returns a data set as an array and the batch size, or raises ShapeError."""
    images = images if hasattr(images, "shape") else np.asarray(images)
    if not images.ndim or not len(images):
        raise ShapeError(f"{name} must be an array with at least one item on its first axis, got {images.shape}")
    return images, min(as_int(batch_size, "batch_size", least=1), len(images))


@contextlib.contextmanager
def naming_preprocess(images: Any, preprocess: Callable | None) -> Iterator[None]:
    """Adds a hint about ``preprocess`` to the error of a layer that does not accept the images' element type."""
    try:
        yield
    except DTypeError as error:
        if preprocess is not None:
            raise
        raise DTypeError(
            f"images must have an element type that net accepts, got {images.dtype}: pass preprocess=, a function that "
            f"converts images to the network's input, such as lambda x: x / 255 ({error})"
        ) from error


def check_hashable(net: Layer, **others: Any) -> None:
    """Raises TypeError, which names the layer, where an argument cannot be hashed, and so no program be cached."""
    layers = {"net": net} | {f"layer {path!r}": layer for path, layer in walk(net)}
    # A composite of a layer that cannot be hashed cannot be hashed either, so the error names the innermost.
    for name, value in reversed((others | layers).items()):
        try:
            hash(value)
        except TypeError as error:
            raise TypeError(
                f"{name} must be hashable, such as a frozen dataclass, because compiled programs are cached by it, "
                f"got {type(value).__name__}"
            ) from error


def as_paths(paths: Iterable[str], name: str = "paths") -> tuple[str, ...]:
    """Returns paths as a tuple, or raises TypeError for a string, whose letters would be used as paths."""
    if isinstance(paths, str):
        raise TypeError(f"{name} must be a sequence of paths, got the string {paths!r}: write [{paths!r}]")
    return tuple(paths)


def check_path(net: Layer, path: str) -> None:
    """Raises PathError, with the nearest paths, where ``path`` names no layer of ``net``; "" is the network."""
    known = [known for known, _ in walk(net)]
    if path not in ("", *known):
        raise PathError(no_layer("path", path, known))


def one_array(output: Tree, path: str, *, count: int | None = None, stacked: int = 0) -> Array:
    """Returns a layer's output, or raises ShapeError where the output is not an array ``(batch, ..., channels)``.

    Args:
      output: the layer's output.
      path: the layer's path.
      count: the required batch size; None for any.
      stacked: the number of axes before the batch axis.
    """
    shape = getattr(output, "shape", ())
    if len(shape) < stacked + 2 or count not in (None, shape[stacked]):
        got = " ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(output))
        of = "" if count is None else f" for {count} images"
        raise ShapeError(f"path {path!r} must name a layer that returns an array (batch, ..., channels), got {got}{of}")
    return output


def stacked_axes(net: Layer, path: str) -> int:
    """Returns the number of axes that enclosing `repeat` layers add in front of the activations of ``path``.

    >>> import jaxconv as jc
    >>> stacked_axes(jc.serial(body=jc.repeat(jc.serial(conv=jc.Conv(8)), 3)), "body.conv")
    1
    """
    for visit in visits(net):
        if visit.name and ".".join(visit.path) == path:
            return sum(isinstance(layer, Repeat) for layer in visit.parents)
    return 0


def check_unstacked(net: Layer, path: str) -> None:
    """Raises PathError where ``path`` names no layer, or a layer inside `repeat`, whose outputs are stacked."""
    check_path(net, path)
    if stacked_axes(net, path):
        raise PathError(
            f"path must name a layer outside of repeat, got {path!r}: a repeat stacks the outputs of all iterations"
        )


def scores(output: Tree, target: Target, count: int) -> Array:
    """Returns one score for each example: the value of the network's output that ``target`` selects.

    Args:
      output: the network's output.
      target: a class index for all examples, or an array of one index for each; None for the class with the highest
        score; or a function from the output to a score for each example.
      count: the number of examples.

    Returns:
      Array of shape ``(count,)``. A traced index that is out of range gives NaN.

    Raises:
      ValueError: an index is out of range, the output has no classes, or the target does not fit.

    >>> scores(jnp.array([[1.0, 3.0], [5.0, 2.0]]), [0, 1], 2)
    Array([1., 2.], dtype=float32)
    """
    if callable(target):
        picked = target(output)
        if jnp.shape(picked) != (count,):
            raise ShapeError(f"target must return a score for each example, shape ({count},), got {jnp.shape(picked)}")
        return picked
    if len(getattr(output, "shape", ())) != 2:
        got = " ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(output))
        raise ShapeError(
            f"target must be a function of the output unless the output is an array (batch, classes), got {got}"
        )
    classes = output.shape[1]
    index = jnp.argmax(output, axis=1) if target is None else _indices(target, count, classes)
    picked = jnp.take_along_axis(output, index[:, None], axis=1, mode="clip")[:, 0]
    return picked * jnp.where((index >= 0) & (index < classes), 1.0, jnp.nan)


def _indices(target: ArrayLike, count: int, classes: int) -> Array:
    known = not isinstance(target, jax.core.Tracer)
    values = np.asarray(target) if known else jnp.asarray(target)
    if not jnp.issubdtype(values.dtype, jnp.integer) or values.shape not in ((), (count,)):
        raise ArgumentError(
            f"target must be a class index, an array of one for each of the {count} examples, None or a function, "
            f"got {values.dtype} {values.shape}"
        )
    if known and values.size and not 0 <= values.min() <= values.max() < classes:
        raise ArgumentError(f"target must be from 0 to {classes - 1} for {classes} classes, got {np.unique(values)}")
    return jnp.broadcast_to(values, (count,))


@functools.partial(jit, static_argnums=0)
def run(net: Layer, params: Params, state: State, x: Array) -> Tree:
    """Returns a network's output, compiled once for all calls with equal networks."""
    return net.apply(params, state, x)[0]


def split_target(
    net: Layer, params: Params, state: State, x: Array, target: Target
) -> tuple[Callable[[Tree], Array] | None, Array | None]:
    """Returns a target as a function, which is static under jit, and as indices; both are None for the top class.

    Raises:
      ValueError: the target does not fit the network's output.
      TypeError: the network is not hashable.
    """
    check_hashable(net)
    struct = run.eval_shape(net, params, state, x)
    jax.eval_shape(lambda y: scores(y, target, len(x)), struct)
    if callable(target):
        return target, None
    return None, None if target is None else jnp.asarray(target)


def settled(net: Layer, params: Params, state: State, x: Array, target: Target) -> Target:
    """Returns ``target``, or for None the classes with the highest scores on ``x``, for use on other inputs."""
    if target is not None:
        return target
    y, _ = net.apply(params, state, x)
    scores(y, None, len(x))
    return jnp.argmax(y, axis=1)
