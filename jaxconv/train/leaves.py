"""A train state as a flat dict from path to array, the form in which it lies on disk and is compared."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Spec = list[Any]


def flatten(tree: Any) -> dict[str, Any]:
    """Path to array, in the tree's order, random keys as their data: ``params/0/kernel``."""
    return {_path(path): _data(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def key_kinds(tree: Any) -> dict[str, str]:
    """Path to the name of its implementation, for each random key."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_path(path): str(jax.random.key_impl(leaf)) for path, leaf in leaves if is_key(leaf)}


def specs(flat: dict[str, Any]) -> dict[str, Spec]:
    """Path to [element type, shape], as JSON gives it back."""
    return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in flat.items()}


def checksum(leaf: Any) -> int | None:
    """CRC-32 of an array's bytes: Orbax's files carry none, and a flipped bit would pass as a weight.

    None for an array that lies in part on other hosts.
    """
    if not getattr(leaf, "is_fully_addressable", True):
        return None
    return zlib.crc32(np.asarray(leaf).tobytes())


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts from a flat one."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def at(tree: Any, name: str) -> Any:
    """What lies at a path of nested dicts."""
    for part in name.split("/"):
        tree = tree[part]
    return tree


def check_same(saved: dict[str, Spec], wanted: dict[str, Spec], *, place: Any) -> None:
    """Raises ValueError at the first path that differs between a checkpoint and what it is to be read into."""
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"{name}: expected {_describe(wanted.get(name))}, as the network and the optimizer have it, "
                f"got {_describe(saved.get(name))} from the checkpoint in {place}"
            )


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _data(leaf: Any) -> Any:
    if not is_key(leaf):
        return leaf
    data = jax.random.key_data
    return jax.eval_shape(data, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else data(leaf)


def _describe(spec: Spec | None) -> str:
    return f"{spec[0]} {tuple(spec[1])}" if spec else "nothing"
