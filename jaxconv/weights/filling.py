"""Fills the arrays of a network: all of them, or none."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.layer import Params, State
from jaxconv.layers.base import Shape
from jaxconv.weights.arrays import Arrays, Path, nested
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.hints import Misfit, hints
from jaxconv.weights.places import Place
from jaxconv.weights.stored import fits, shown


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=2, cutoff=0.6)
    return f" (nearest: {', '.join(close)})" if close else ""


def _listed(title: str, shapes: Mapping[str, Any], others: Iterable[str], most: int = 20) -> list[str]:
    others = list(others)
    lines = [f"  {name} {shape}{_nearest(name, others)}".rstrip() for name, shape in list(shapes.items())[:most]]
    more = [f"  and {len(shapes) - most} more"] if len(shapes) > most else []
    return [f"{title}:", *lines, *more] if shapes else []


def _in_theirs(shape: Shape, place: Place) -> Shape:
    if shape is None:
        return None
    theirs: list[int | None] = [None] * len(shape)
    for ours, axis in enumerate(place.axes(len(shape))):
        theirs[axis] = shape[ours]
    return (*theirs, *(1,) * place.ones)


def _narrowed(name: str, tensor: np.ndarray) -> np.ndarray:
    """Returns the values in jax's type, or raises if the type cannot represent them."""
    dtype = jax.dtypes.canonicalize_dtype(tensor.dtype)
    with np.errstate(over="ignore"):
        array = tensor.astype(dtype, copy=False)
    if not np.all(np.isfinite(array)):
        raise WeightsError(f"{name} has values that are not finite{f' as {dtype}' if dtype != tensor.dtype else ''}")
    if dtype.kind in "iu" and not np.array_equal(array, tensor):
        raise WeightsError(f"{name} has values out of the range of {dtype}; {tensor.dtype} needs jax_enable_x64")
    return array


def fill(places: Iterable[Place], tensors: Arrays, shapes: Mapping[Path, Any] | None) -> tuple[Params, State]:
    """Returns ``(params, state)`` with all tensors, or raises WeightsError, which lists the differences."""
    missing: dict[str, str] = {}
    wrong: dict[str, tuple[Shape, tuple[int, ...]]] = {}
    wanted: dict[str, Path] = {}
    kinds: dict[str, type] = {}
    arrays: dict[Path, np.ndarray] = {}
    # The arrays of a norm have one length, which only an input tells.
    lengths: dict[Any, Shape] = {}
    unfilled = dict(shapes or {})
    for place in places:
        if shapes is not None and place.key not in shapes:
            continue
        unfilled.pop(place.key, None)
        wanted.update(dict.fromkeys(place.theirs, place.key[1:-1]))
        kinds.update(dict.fromkeys(place.theirs, type(place.layer)))
        known = place.declared and place.declared.shape
        beside = type(place.layer), place.key[1:-1]
        shape = lengths.get(beside, known) if known == (None,) else known
        if shapes is not None:
            shape = shapes[place.key].shape[len(place.copies) :]
        parts: list[np.ndarray] = []
        for name in place.theirs:
            theirs = _in_theirs(shape, place)
            if name not in tensors:
                missing[name] = shown(theirs)
                continue
            tensor = tensors[name]
            if not fits(tensor.shape, theirs):
                wrong[name] = theirs, tensor.shape
                continue
            if place.layer is not None and not jnp.issubdtype(tensor.dtype, jnp.floating):
                raise WeightsError(f"{name} must be of a floating-point type, got {tensor.dtype}")
            least = place.declared and place.declared.least
            if least is not None and np.any(tensor < least):
                raise WeightsError(f"{name} must be at least {least:g}, got {np.min(tensor):g}")
            array = _narrowed(name, tensor).reshape(tensor.shape[: tensor.ndim - place.ones])
            parts.append(array.transpose(place.axes(array.ndim)))
            if parts[0].dtype != array.dtype:
                raise WeightsError(
                    f"{name} must be of type {parts[0].dtype}, as {place.theirs[0]} is, got {array.dtype}"
                )
            shape = parts[0].shape
            if known == (None,):
                lengths[beside] = shape
        if len(parts) == len(place.theirs):
            arrays[place.key] = np.stack(parts).reshape(*place.copies, *parts[0].shape) if place.copies else parts[0]
    missing |= {"/".join(key): shown(struct.shape) for key, struct in unfilled.items()}
    extra = {name: str(tensor.shape) for name, tensor in tensors.items() if name not in wanted}
    unfit = [f"  {name} must have shape {shown(shape)}, got {got}" for name, (shape, got) in wrong.items()]
    problems = [
        *_listed("tensors that have no place in the net", extra, missing),
        *_listed("places that no tensor fills", missing, extra),
        *(["tensors of the wrong shape:", *unfit[:20]] if unfit else []),
    ]
    if problems:
        misfit = Misfit(tensors, wanted, list(extra), list(missing), wrong, kinds)
        raise WeightsError("\n".join(["source does not fit the net", *problems, *hints(misfit)]))
    # Copies, since jax may share the memory of its argument, and the source belongs to the caller.
    tree = nested({key: jnp.asarray(np.array(array, order="C")) for key, array in arrays.items()})
    return tree.get("params", {}), tree.get("state", {})
