"""Arrays into their places in a network, all of them or none."""

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv.layers as nn
from jaxconv.compose.wrappers import Repeat
from jaxconv.composite import Composite
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.layers.base import Leaf
from jaxconv.structs import as_struct
from jaxconv.weights.errors import WeightsError

Axes = Callable[[int], tuple[int, ...]]
Arrays = dict[str, np.ndarray]
Path = tuple[str, ...]
Rename = Mapping[str, str | None] | Callable[[str], str | None]
Shape = tuple[int | None, ...] | None

_WEIGHTED = (("params", "kernel"), ("params", "bias"))
_AFFINE = (("params", "scale"), ("params", "bias"))
# What a layer of each kind holds: collection and name. One of the name of a field is there if that field is true.
HELD: dict[type, tuple[tuple[str, str], ...]] = {
    nn.Conv: _WEIGHTED,
    nn.ConvTranspose: _WEIGHTED,
    nn.Dense: _WEIGHTED,
    nn.BatchNorm: (*_AFFINE, ("state", "mean"), ("state", "var")),
    nn.LayerNorm: _AFFINE,
    nn.GroupNorm: _AFFINE,
    nn.InstanceNorm: _AFFINE,
    nn.PReLU: _AFFINE[:1],
    nn.LayerScale: _AFFINE[:1],
}


# --- The layers of a network ------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A layer: its path here, in the other library (several where it repeats), and how often it repeats."""

    layer: Layer
    path: Path
    theirs: tuple[Path, ...]
    copies: tuple[int, ...]


Level = Callable[[Layer, Path, Path], Iterator[tuple[str, Path, Layer]]]


def same_names(net: Layer, path: Path, theirs: Path) -> Iterator[tuple[str, Path, Layer]]:
    """Yields the children of a layer, which have the same names in the other library."""
    for name, layer in getattr(net, "children", ()):
        yield name, (name,) if name else (), layer


def nodes(
    net: Layer,
    level: Level = same_names,
    path: Path = (),
    theirs: tuple[Path, ...] = ((),),
    copies: tuple[int, ...] = (),
) -> Iterator[Node]:
    """Yields a network's layers, parents first.

    ``level`` takes a layer, its path here and in the other library, and yields of each child the name, the path there,
    and the layer.
    """
    if isinstance(net, Repeat):
        theirs = tuple((*p, str(i)) for p in theirs for i in range(net.n))
        copies = (*copies, net.n)
    yield Node(net, path, theirs, copies)
    for name, part, layer in level(net, path, theirs[0]):
        below = tuple((*p, *part) for p in theirs)
        yield from nodes(layer, level, (*path, name) if name else path, below, copies)


def without_parameters(layer: Layer) -> bool:
    """Returns whether a layer is known to hold no arrays."""
    return isinstance(layer, Leaf) and type(layer).init is Leaf.init and type(layer).fresh is Leaf.fresh


def closed(layer: Layer) -> bool:
    """Returns whether a layer is known to hold nothing but what its kind says."""
    return type(layer) in HELD or isinstance(layer, Composite) or without_parameters(layer)


def held(layer: Layer) -> list[tuple[str, str]]:
    """Returns collection and name of the arrays that a layer has by its kind."""
    rule = next((HELD[kind] for kind in type(layer).__mro__ if kind in HELD), ())
    return [(collection, name) for collection, name in rule if getattr(layer, name, True)]


def known_shape(layer: Layer | None, name: str) -> Shape:
    """Returns what the layer alone says of an array's shape: None for a length, or a shape, that it leaves open."""
    if isinstance(layer, nn.Conv | nn.ConvTranspose) and name == "kernel":
        window = (layer.window,) * 2 if isinstance(layer.window, int) else layer.window
        if isinstance(layer, nn.Conv):
            return (*window, None, layer.features)
        return (*window, layer.features // layer.groups, None)
    if isinstance(layer, nn.Dense) and name == "kernel":
        return (None, layer.features)
    if isinstance(layer, nn.Conv | nn.ConvTranspose | nn.Dense):
        return (layer.features,)
    if isinstance(layer, nn.PReLU) and layer.shared:
        return (1,)
    return (None,) if isinstance(layer, tuple(HELD)) else None


def fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Returns whether a shape is the wanted one as far as that is known."""
    return wanted is None or (
        len(shape) == len(wanted) and all(w is None or n == w for n, w in zip(shape, wanted, strict=True))
    )


def shown(shape: Shape) -> str:
    """Prints a shape, "?" for a length that is not known, nothing for a shape that is not."""
    if shape is None:
        return ""
    numbers = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({numbers},)" if len(shape) == 1 else f"({numbers})"


def check_net(net: Any) -> None:
    """Raises WeightsError for what is no layer: a model that was not called, say."""
    if not (hasattr(net, "init") and hasattr(net, "apply")):
        kind = f"the function {net.__qualname__}" if hasattr(net, "__qualname__") else f"a {type(net).__name__}"
        raise WeightsError(f"net must be a layer, with init and apply, got {kind}")


def check_arrays(net: Layer, arrays: Mapping[Path, Any]) -> None:
    """Raises at the first array that layers of jaxconv's own kinds miss, want in another shape, or do not want."""
    found = list(nodes(net))
    for layer, path, _, copies in found:
        # The arrays of a norm are of one length, which it does not know.
        length: Shape = (None,)
        for collection, name in held(layer):
            key = (collection, *path, name)
            if key not in arrays:
                raise WeightsError(f"{'/'.join(key)} is missing, which {type(layer).__name__} wants")
            shape, known = arrays[key].shape, known_shape(layer, name)
            full = (*copies, *((length if known == (None,) else known) or ()))
            if not fits(shape, full):
                raise WeightsError(f"{'/'.join(key)} must have shape {shown(full)}, got {shape}")
            if known == (None,):
                length = shape[-1:]
    wanted = {(collection, *node.path, name) for node in found for collection, name in held(node.layer)}
    for key in arrays:
        if key not in wanted and closed(owner(found, key).layer):
            raise WeightsError(f"{'/'.join(key)} is one too many, no layer of the net wants it")


def owner(found: Sequence[Node], key: Path) -> Node:
    """Returns the innermost of the layers that an array's path lies in."""
    around = (node for node in reversed(found) if key[1:][: len(node.path)] == node.path)
    return max(around, key=lambda node: len(node.path))


# --- Trees ------------------------------------------------------------------------------------------------------------


def leaves(tree: Tree, *path: str) -> dict[Path, Any]:
    """Returns what nested dicts hold by path, the empty ones among them."""
    if not isinstance(tree, Mapping) or not tree:
        return {path: tree}
    found: dict[Path, Any] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not name:
            raise WeightsError(f"{'/'.join(path)} must have names that are strings, got {name!r}")
        found |= leaves(value, *path, name)
    return found


def nested(found: Mapping[Path, Any]) -> Tree:
    """Returns the nested dicts that hold these: the inverse of `leaves`."""
    tree: dict[str, Any] = {}
    for (*above, last), leaf in found.items():
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def arrays_in(params: Params, state: State) -> dict[Path, Any]:
    """Returns the arrays by collection and path, or raises WeightsError where there is anything else."""
    found = {**leaves(params, "params"), **leaves(state, "state")}
    arrays = {path: leaf for path, leaf in found.items() if not isinstance(leaf, Mapping)}
    for path, leaf in arrays.items():
        if len(path) == 1 or not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            wanted = "a dict of arrays" if len(path) == 1 else "an array or a dict of arrays"
            raise WeightsError(f"{'/'.join(path)} must be {wanted}, got {type(leaf).__name__}")
    return arrays


def number_array(path: Path, leaf: Any) -> np.ndarray:
    """Returns an array of a tree as NumPy's."""
    if isinstance(leaf, jax.core.Tracer):
        raise WeightsError(f"{'/'.join(path)} must be an array, got one that is being traced: it has no numbers yet")
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise WeightsError(f"{'/'.join(path)} must be an array of numbers, got one of {leaf.dtype}")
    if not getattr(leaf, "is_fully_addressable", True):
        raise WeightsError(f"{'/'.join(path)} must lie on the devices of this process, a part of it lies on others")
    return np.asarray(leaf)


def shapes_of(net: Layer, x: Tree | None) -> dict[Path, Any] | None:
    """Returns the shapes of what ``net.init`` gives for ``x``, by collection and path; None without x."""
    if x is None:
        return None
    struct = as_struct(x)
    return arrays_in(*jax.eval_shape(lambda key: net.init(key, struct), jax.random.key(0)))


# --- What comes from elsewhere ----------------------------------------------------------------------------------------


def to_numpy(tensor: Any) -> np.ndarray:
    """Returns a torch tensor, a jax array or anything array-like as a NumPy array of the same type."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()
    return np.asarray(tensor)


def as_numbers(name: str, value: Any) -> np.ndarray:
    """Returns `to_numpy` of a tensor in this machine's byte order, or raises WeightsError if it holds no numbers."""
    try:
        array = to_numpy(value)
    except Exception as error:
        kind = getattr(value, "dtype", type(value).__name__)
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{name!r} must be a dense array that NumPy can hold, got {kind}: {reason}") from error
    if array.dtype.kind not in "biufc" and array.dtype != jnp.bfloat16:
        raise WeightsError(f"{name!r} holds {array.dtype}, not numbers of a known type")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@contextlib.contextmanager
def naming(source: Any) -> Iterator[None]:
    """Puts the path in front of any WeightsError of the block, where the source is one."""
    try:
        yield
    except WeightsError as error:
        if isinstance(source, str | os.PathLike):
            raise WeightsError(f"{os.fspath(source)}: {error}") from error
        raise


def arrays_of(source: Any, key: str | None = None) -> Mapping[str, Any]:
    """Returns the arrays by name: the mapping itself, one in it, or what the file of that path holds."""
    from jaxconv.weights.files import check_foreign, read, state_dict

    if isinstance(source, str | os.PathLike):
        arrays = read(source, key=key)
        check_foreign(source)
        return arrays
    if not isinstance(source, Mapping):
        raise WeightsError(
            f"source must be a path or a mapping of names to arrays, state_dict() say, got a {type(source).__name__}"
        )
    if key is None and not any(isinstance(value, Mapping) for value in source.values()):
        return source
    return state_dict(source, lambda value: hasattr(value, "shape") and hasattr(value, "dtype"), key=key)


def renamed(arrays: Mapping[str, Any], rename: Rename | None, unwanted: Callable[[str], bool]) -> Arrays:
    """Returns the arrays as NumPy's under their new names, without those whose new names are unwanted."""

    def begins(name: str, start: str) -> bool:
        # A beginning is of whole parts: "layer1" does not begin "layer10".
        return name.startswith(start) and (not start or start[-1] in "./" or name[len(start) :][:1] in ("", ".", "/"))

    def new_name(name: str) -> str | None:
        if rename is None:
            return name
        if callable(rename):
            return rename(name)
        prefix = max((p for p in rename if begins(name, p)), key=len, default=None)
        if prefix is None:
            return name
        start = rename[prefix]
        return None if start is None else start + name[len(prefix) :]

    renamed: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for name, value in arrays.items():
        if not isinstance(name, str):
            raise WeightsError(f"source must have names that are strings, got {name!r}")
        new = new_name(name)
        if new is not None and not isinstance(new, str):
            raise WeightsError(f"rename must give a string or None, it gives {new!r} for {name!r}")
        if new is None or unwanted(new):
            continue
        if new in renamed:
            raise WeightsError(f"rename must keep names apart, it gives {new!r} for {origin[new]!r} and {name!r}")
        renamed[new], origin[new] = as_numbers(name, value), name
    return renamed


# --- Filling ----------------------------------------------------------------------------------------------------------


def same_axes(ndim: int) -> tuple[int, ...]:
    """Leaves the axes as they are."""
    return tuple(range(ndim))


class Place(NamedTuple):
    """An array of a network, and what it is in the other library.

    Attributes:
      key: its collection and path here.
      theirs: its names there, several where layers are repeated.
      copies: how often.
      layer: the layer by whose kind it is known; None for an array that is known by ``net.init`` alone.
      axes: how the axes go from there to here.
      ones: how many last axes, of length 1, it has only there.
    """

    key: Path
    theirs: tuple[str, ...]
    copies: tuple[int, ...]
    layer: Layer | None
    axes: Axes = same_axes
    ones: int = 0


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
    """Returns the numbers in the type that jax has for them, or raises if it does not hold them."""
    dtype = jax.dtypes.canonicalize_dtype(tensor.dtype)
    with np.errstate(over="ignore"):
        array = tensor.astype(dtype, copy=False)
    if not np.all(np.isfinite(array)):
        raise WeightsError(f"{name} has numbers that are not finite{f' as {dtype}' if dtype != tensor.dtype else ''}")
    if dtype.kind in "iu" and not np.array_equal(array, tensor):
        raise WeightsError(f"{name} has numbers that {dtype} does not hold, {tensor.dtype} wants jax_enable_x64")
    return array


def fill(places: Iterable[Place], tensors: Arrays, shapes: Mapping[Path, Any] | None) -> tuple[Params, State]:
    """Returns ``(params, state)`` with each tensor in its place, or raises WeightsError, which lists what is wrong."""
    missing: dict[str, str] = {}
    wrong: dict[str, tuple[Shape, tuple[int, ...]]] = {}
    wanted: dict[str, Path] = {}
    kinds: dict[str, type] = {}
    arrays: dict[Path, np.ndarray] = {}
    # The arrays of a norm are of one length, which it does not know.
    lengths: dict[Any, Shape] = {}
    unfilled = dict(shapes or {})
    for place in places:
        if shapes is not None and place.key not in shapes:
            continue
        unfilled.pop(place.key, None)
        wanted.update(dict.fromkeys(place.theirs, place.key[1:-1]))
        kinds.update(dict.fromkeys(place.theirs, type(place.layer)))
        known = known_shape(place.layer, place.key[-1])
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
            if isinstance(place.layer, nn.BatchNorm) and place.key[-1] == "var" and np.any(tensor < 0):
                raise WeightsError(f"{name} must be a variance, so at least 0, got {np.min(tensor):g}")
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
        from jaxconv.weights.hints import Misfit, hints

        misfit = Misfit(tensors, wanted, list(extra), list(missing), wrong, kinds)
        raise WeightsError("\n".join(["source does not fit the net", *problems, *hints(misfit)]))
    # Copies: jax may share the memory of what it gets, and the source is not ours.
    tree = nested({key: jnp.asarray(np.array(array, order="C")) for key, array in arrays.items()})
    return tree.get("params", {}), tree.get("state", {})
