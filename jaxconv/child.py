"""Runs a layer inside another: its random key, its path in errors and profiles, and capture."""

import contextlib
import zlib

import jax

from jaxconv.capture import CAPTURE
from jaxconv.errors import ArgumentError, ParameterError, located
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.paths import below


def child_key(key: KeyLike | None, name: str) -> Array | None:
    """Returns the random key of the child ``name``. The key depends on the name only, and not on siblings."""
    key = as_key(key)
    return key if key is None or not name else jax.random.fold_in(key, zlib.crc32(name.encode()))


def run_child(
    name: str,
    layer: Layer,
    params: Params,
    state: State,
    x: Tree,
    *,
    train: bool = False,
    key: Array | None = None,
    label: str | None = None,
) -> tuple[Tree, State]:
    """Runs ``layer`` as the child ``name`` of the calling layer, with a profiler scope, a path for errors, and capture.

    Args:
      name: the child's name; "" for a child at the parent's level.
      layer: the child.
      params, state: the child's params and state.
      x: the child's input.
      train, key: as in ``apply``; the key is the child's, see `child_key`.
      label: the child's name in paths, see `Runs`; None is ``name``.

    Returns:
      The child's output and its new state.
    """
    label = name if label is None else label
    capture = CAPTURE.get() if label else None
    outer = capture.path if capture else ()
    scope = jax.named_scope(name) if name else contextlib.nullcontext()
    if capture:
        capture.path = below(outer, label)
    try:
        with located(label, layer), scope:
            result = layer.apply(params, state, x, train=train, key=key)
            if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
                types = [type(part).__name__ for part in result] if isinstance(result, tuple) else type(result).__name__
                raise ArgumentError(f"apply must return (y, state) with a dict as state, got {types}")
            y, new_state = result
            if name and new_state.keys() != state.keys():
                raise ParameterError(
                    f"apply must return a state with the entries {sorted(state)} of its argument, got "
                    f"{sorted(new_state)}"
                )
            return (capture.visit(y) if capture and name else y), new_state
    finally:
        if capture:
            capture.path = outer
