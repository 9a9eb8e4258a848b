"""How a user changes the choice: the mode in force, and what `jaxconv.jit` sets."""

from typing import Any

import jax

from jaxconv.ops.lowering.forms import NAMES

MODES = ("auto", "portable", "exact", "xla")
# What `jaxconv.lowering` sets: a mode, or names of forms. Part of the key of jit's cache.
_mode = jax.make_user_context("auto")
# Whether XLA:CPU passes convolutions to YNNPACK, as it does by default. Under `jaxconv.jit` it does not.
ynnpack = jax.make_user_context(True)


def lowering(mode: str | tuple[str, ...]) -> Any:
    """Returns a context that changes which algorithms compute convolutions and pools.

    The key of jit's cache includes the mode, so that JAX compiles a function again that was compiled in another mode.

    Args:
      mode: one of four names, or a tuple of names of algorithms.

        - "auto", the default: by the table of the platform.
        - "portable": by the table, without calls of oneDNN, for a program that is stored on disk or read by other
          tools, such as ``cost_analysis()`` of a compiled function: XLA counts a call as -1 operations.
        - "exact": by the table, without algorithms that let a non-finite element reach results that do not depend on
          it: see the page on conformance.
        - "xla": JAX's own convolutions and pools, with its own gradients.
        - a tuple of names that `jaxconv.explain` shows: the first algorithm that has a program for a problem computes
          it, otherwise XLA's does. The matrix products and smaller convolutions that an algorithm leaves are problems
          too: ``("gemm", "onednn")``.

    Raises:
      ValueError: there is no such mode, or no such algorithm.

    >>> with lowering("xla"):
    ...     y = jc.conv(jnp.ones((8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    """
    names = (mode,) if isinstance(mode, str) else tuple(mode)
    known = MODES if isinstance(mode, str) else NAMES
    if not names or set(names) - set(known):
        modes = ", ".join(map(repr, MODES)) + " or a tuple of " + ", ".join(NAMES)
        raise ValueError(f"lowering must be {modes}, got {mode!r}")
    return _mode(mode if isinstance(mode, str) else names)


def lowering_mode() -> Any:
    """Returns the mode of the innermost `lowering`."""
    return _mode.value
