"""Capture: the outputs of inner layers, for `jaxconv.inspect.activations`, through remat and scans too."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from jaxconv.errors import ShapeError
from jaxconv.layer import Array, Tree
from jaxconv.structs import broadcasts


class Capture:
    """The outputs of inner layers that `activations` collects, and the arrays that it adds, by path.

    Args:
      paths: the layers whose outputs are kept; None keeps all.
      add: arrays to add to outputs.
      path: the path of the layer inside which the capture begins.
    """

    def __init__(self, paths: frozenset[str] | None, add: dict[str, Tree], path: tuple[str, ...] = ()):
        self.paths = paths
        self.add = add
        self.path = path
        self.found: dict[str, Tree] = {}
        self.added: set[str] = set()
        self.trace = jax.extend.core.get_opaque_trace_state()

    @property
    def reaches(self) -> bool:
        """Whether the present trace is that of the capture.

        In another trace, which a layer has opened, an output that is kept would be a leaked tracer, and an array that
        is added could be cached in the layer's compiled function.
        """
        return self.trace == jax.extend.core.get_opaque_trace_state()

    def visit(self, y: Tree) -> Tree:
        """Adds an array to the output ``y`` of the layer at the present path, keeps the sum, and returns it."""
        if not self.reaches:
            return y
        path = ".".join(self.path)
        if path in self.add:
            y = _plus(y, self.add[path])
            self.added.add(path)
        if self.paths is None or path in self.paths:
            self.found[path] = y
        return y


CAPTURE: contextvars.ContextVar[Capture | None] = contextvars.ContextVar("capture", default=None)


@contextlib.contextmanager
def capturing(capture: Capture | None) -> Iterator[None]:
    """Sets the capture for the layers that run inside the block."""
    token = CAPTURE.set(capture)
    try:
        yield
    finally:
        CAPTURE.reset(token)


def staged(transform: Callable[[Callable], Callable], function: Callable[..., Tree], *args: Tree) -> Tree:
    """Returns ``transform(function)(*args)`` for a transform that opens a trace (remat, a scan), with capture.

    The captured outputs are returned by the transformed function, and kept outside of its trace. The arrays to add are
    the first argument of the transformed function.
    """
    outer = CAPTURE.get()
    if outer is None or not outer.reaches:
        return transform(lambda add, *args: (function(*args), {}))({}, *args)[0]
    here = ".".join(outer.path)
    add = {path: value for path, value in outer.add.items() if _inside(path, here)}
    added: set[str] = set()

    def body(add: dict[str, Tree], *args: Tree) -> tuple[Tree, dict[str, Tree]]:
        inner = Capture(outer.paths, add, outer.path)
        with capturing(inner):
            y = function(*args)
        added.update(inner.added)
        return y, inner.found

    y, found = transform(body)(add, *args)
    outer.found.update(found)
    outer.added.update(added)
    return y


def _inside(path: str, here: str) -> bool:
    return not here or (path.startswith(here) and path[len(here) :][:1] in (".", "["))


def _plus(y: Tree, extra: Tree) -> Tree:
    def plus(a: Array, b: Any) -> Array:
        if not broadcasts(jnp.shape(b), jnp.shape(a)):
            raise ShapeError(
                f"add must have the shape of the layer's output, {jnp.shape(a)}, or broadcast to it, got {jnp.shape(b)}"
            )
        return a + jnp.asarray(b, a.dtype)

    given, wanted = str(jax.tree.structure(extra)), str(jax.tree.structure(y))
    if given != wanted:
        raise ShapeError(f"add must be a tree like the layer's output, {wanted}, got {given}")
    return jax.tree.map(plus, y, extra)
