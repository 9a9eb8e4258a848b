"""Arrays from other libraries, and arrays in nested dicts by path."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.layer import Params, State, Tree
from jaxconv.weights.errors import WeightsError

Arrays = dict[str, np.ndarray]
Path = tuple[str, ...]


def leaves(tree: Tree, *path: str) -> dict[Path, Any]:
    """Returns the leaves of nested dicts by path; empty dicts are leaves."""
    if not isinstance(tree, Mapping) or not tree:
        return {path: tree}
    found: dict[Path, Any] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not name:
            raise WeightsError(f"{'/'.join(path)} must have names that are strings, got {name!r}")
        found |= leaves(value, *path, name)
    return found


def nested(found: Mapping[Path, Any]) -> Tree:
    """Returns nested dicts with these leaves: the inverse of `leaves`."""
    tree: dict[str, Any] = {}
    for (*above, last), leaf in found.items():
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def arrays_in(params: Params, state: State) -> dict[Path, Any]:
    """Returns the arrays by collection and path, or raises WeightsError for leaves that are not arrays."""
    found = {**leaves(params, "params"), **leaves(state, "state")}
    arrays = {path: leaf for path, leaf in found.items() if not isinstance(leaf, Mapping)}
    for path, leaf in arrays.items():
        if len(path) == 1 or not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            wanted = "a dict of arrays" if len(path) == 1 else "an array or a dict of arrays"
            raise WeightsError(f"{'/'.join(path)} must be {wanted}, got {type(leaf).__name__}")
    return arrays


def number_array(path: Path, leaf: Any) -> np.ndarray:
    """Returns an array of a tree as a NumPy array."""
    if isinstance(leaf, jax.core.Tracer):
        raise WeightsError(f"{'/'.join(path)} must be an array, got one that is being traced: it has no numbers yet")
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise WeightsError(f"{'/'.join(path)} must be an array of numbers, got one of {leaf.dtype}")
    if not getattr(leaf, "is_fully_addressable", True):
        raise WeightsError(
            f"{'/'.join(path)} must be on the devices of this process, got an array with a part on other devices"
        )
    return np.asarray(leaf)


def to_numpy(tensor: Any) -> np.ndarray:
    """Returns a torch tensor, a jax array or an array-like object as a NumPy array of the same type."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()
    return np.asarray(tensor)


def as_numbers(name: str, value: Any) -> np.ndarray:
    """Returns a tensor as a NumPy array in native byte order, or raises WeightsError if it is not numeric."""
    try:
        array = to_numpy(value)
    except Exception as error:
        kind = getattr(value, "dtype", type(value).__name__)
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{name!r} must be a dense array that NumPy can hold, got {kind}: {reason}") from error
    if array.dtype.kind not in "biufc" and array.dtype != jnp.bfloat16:
        raise WeightsError(f"{name!r} has the type {array.dtype}, which is not a known numeric type")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
