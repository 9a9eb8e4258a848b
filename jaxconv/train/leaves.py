"""A train state as a flat dict from path to array, the form in which it is stored and compared."""

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


def checksums(flat: dict[str, Any]) -> dict[str, int]:
    """A checksum of each array: Orbax's files carry none, and a flipped bit would pass as a weight.

    It is like Fletcher's: the sum over elements of (2i + 1) times the bits of element i, modulo 2**64. So it doesn't
    depend on how an array is divided over devices and processes, and each adds up its own. All processes call it
    together.
    """
    sums = {name: _checksum(leaf) for name, leaf in flat.items()}
    divided = [name for name, leaf in flat.items() if not getattr(leaf, "is_fully_addressable", True)]
    if divided:
        from jax.experimental import multihost_utils

        # In halves: without jax_enable_x64 a uint64 would lose its upper one.
        parts = np.array([sums[name] for name in divided], np.uint64)
        everyones = np.asarray(multihost_utils.process_allgather(parts.view(np.uint32)))
        whole = np.ascontiguousarray(everyones).view(np.uint64).sum(0, dtype=np.uint64)
        sums |= dict(zip(divided, whole.tolist(), strict=True))
    return sums


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
    """The value at a path of nested dicts."""
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


def _checksum(leaf: Any) -> int:
    """The sum over the elements that this process counts: of equal parts on several devices those of the first."""
    if isinstance(leaf, jax.Array):
        parts = [(shard.index, shard.data) for shard in leaf.addressable_shards if shard.replica_id == 0]
    else:
        parts = [((slice(None),) * np.ndim(leaf), leaf)]
    total = 0
    for index, data in parts:
        bits = _bits(np.asarray(data))
        total += int(bits.sum(dtype=np.uint64))
        # The position i of an element is the sum over axes of its index times a stride: so there is one sum an axis.
        stride = 1
        for axis, (cut, size) in reversed(list(enumerate(zip(index, leaf.shape, strict=True)))):
            along = bits.sum(tuple(other for other in range(bits.ndim) if other != axis), dtype=np.uint64)
            start, stop, _ = cut.indices(size)
            total += 2 * stride * int((along * np.arange(start, stop, dtype=np.uint64)).sum(dtype=np.uint64))
            stride *= size
    return total % 2**64


def _bits(data: np.ndarray) -> np.ndarray:
    """The elements as unsigned integers."""
    if data.dtype.itemsize <= 8:
        return data.view(f"u{data.dtype.itemsize}")
    halves = np.ascontiguousarray(data).reshape(*data.shape, 1).view(np.uint64)
    return np.asarray(halves[..., 0] ^ (halves[..., 1] * np.uint64(0x9E3779B97F4A7C15)))


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _data(leaf: Any) -> Any:
    if not is_key(leaf):
        return leaf
    data = jax.random.key_data
    return jax.eval_shape(data, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else data(leaf)


def _describe(spec: Spec | None) -> str:
    return f"{spec[0]} {tuple(spec[1])}" if spec else "nothing"
