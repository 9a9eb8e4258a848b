"""``(params, state)`` of a network as one safetensors file with a description of the network."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv
from jaxconv.compose.wrappers import AROUND
from jaxconv.described import Described
from jaxconv.layer import Layer, Params, State, children_of
from jaxconv.tree import visits
from jaxconv.weights.arrays import Path, arrays_in, leaves, nested, number_array
from jaxconv.weights.errors import StrPath, WeightsError, refusing
from jaxconv.weights.files import read
from jaxconv.weights.formats import format_of
from jaxconv.weights.safetensors import FORMAT, VERSION, checksums, read_header, write
from jaxconv.weights.stored import check_arrays, check_net

# The functions that read files of other libraries.
_READERS = {"torch": "from_torch", "hdf5": "from_keras", "keras": "from_keras", "npz": "read"}


# --- What a network is ------------------------------------------------------------------------------------------------


def _printed(value: Any) -> str:
    """Prints a hyperparameter; functions by their names only, since modules may move and addresses change."""
    if isinstance(value, functools.partial):
        arguments = [*map(_printed, value.args), *(f"{name}={_printed(v)}" for name, v in value.keywords.items())]
        return f"partial({', '.join([_printed(value.func), *arguments])})"
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if callable(value) and not isinstance(value, Layer) and name:
        return name
    return re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(value).split()))


def _own(layer: Layer) -> str:
    """Prints a layer without children, initializers, and hyperparameters that only affect training."""
    if not dataclasses.is_dataclass(layer):
        silent = type(layer).__repr__ is object.__repr__ or bool(children_of(layer))
        return f"{type(layer).__name__}()" if silent else _printed(layer)
    fields = {field.name: field for field in dataclasses.fields(layer) if field.compare and field.repr}
    left_out = {"children", *getattr(layer, "training_only", ())}
    values = {name: getattr(layer, name) for name in fields if name not in left_out}
    changed = [
        f"{name}={_printed(value)}"
        for name, value in values.items()
        if not isinstance(value, Layer) and value is not fields[name].default and value != fields[name].default
    ]
    call = layer.call if isinstance(layer, Described) and layer.call else type(layer).__name__
    return f"{call}({', '.join(changed)})"


def describe(net: Layer) -> str:
    """Returns a line for each layer, indented below its parent: path, type and hyperparameters.

    Wrappers that do not change the output in evaluation, such as `jaxconv.remat`, have no line.

    >>> print(describe(jc.serial(jc.Conv(8), body=jc.serial(jax.nn.relu))))
    serial()
      0: Conv(features=8)
      body: serial()
        body.0: Fn(function=relu)
    """
    lines = []
    for path, _, layer, parents in visits(net):
        if not isinstance(layer, AROUND):
            depth = sum(not isinstance(parent, AROUND) for parent in parents)
            lines.append(f"{'  ' * depth}{'.'.join(path)}{': ' if path else ''}{_own(layer)}")
    return "\n".join(lines)


# --- What its arrays are ----------------------------------------------------------------------------------------------


def _name(path: Path, leaf: Any) -> str:
    """Returns an array's name in a file. The name of an empty dict ends in "/"; a "/" in a name is escaped."""
    name = "/".join(part.replace("%", "%25").replace("/", "%2F") for part in path)
    return f"{name}/" if isinstance(leaf, Mapping) else name


def _path(name: str) -> Path:
    return tuple(part.replace("%2F", "/").replace("%25", "%") for part in name.removesuffix("/").split("/"))


# --- To and from a file -----------------------------------------------------------------------------------------------


def save(path: StrPath, net: Layer, params: Params, state: State, *, allow_nonfinite: bool = False) -> None:
    """Writes ``(params, state)`` of a network to a safetensors file; `load` returns exactly the same arrays.

    The names of the arrays are their paths, ``params/features/0/kernel``. The file's metadata describe the network:
    ``net`` is the call that makes it. They contain a checksum of each array, which `load` compares, so that a file that
    was changed is refused. An existing file is replaced atomically.

    Args:
      path: the file, ending in ``.safetensors``.
      net: a layer.
      params, state: its arrays, nested dicts.
      allow_nonfinite: whether NaN and infinity are allowed; `load` needs the same option.

    Raises:
      WeightsError: an array is missing or has another shape than its layer declares, no layer stores an array, a leaf
        is not an array of numbers, or a value is not finite.
      OSError: the file cannot be written, for example because the disk is full.

    >>> import tempfile
    >>> net = jc.serial(jc.Conv(8), jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net.safetensors", net, params, state)
    ...     params, state = load(f"{folder}/net.safetensors", net)
    >>> params["0"]["kernel"].shape, state
    ((3, 3, 3, 8), {})
    """
    check_net(net)
    arrays = {key: number_array(key, leaf) for key, leaf in arrays_in(params, state).items()}
    check_arrays(net, arrays)
    for key, array in arrays.items():
        _check_finite(_name(key, array), array, allow_nonfinite)
    names = [_name(*item) for item in {**leaves(params, "params"), **leaves(state, "state")}.items()]
    about = {
        "format": FORMAT,
        "version": VERSION,
        "jaxconv": jaxconv.__version__,
        "net": repr(net),
        "layers": describe(net),
    }
    tensors = {_name(*item): item[1] for item in arrays.items()}
    write(path, tensors, {**about, "paths": json.dumps(names), "crc32": json.dumps(checksums(tensors))})


def load(path: StrPath, net: Layer, *, allow_nonfinite: bool = False) -> tuple[Params, State]:
    """Reads ``(params, state)`` from a file that `save` wrote for this network.

    Args:
      path: the file.
      net: the layer that the file was written for. Hyperparameters that do not affect the output in evaluation may
        differ: initializers, dropout rates, the momentum of batch norm, `jaxconv.remat`, `jaxconv.mixed_precision` and
        `jaxconv.frozen`. Functions are compared by name; the values in a closure are not compared.
      allow_nonfinite: whether NaN and infinity are allowed.

    Returns:
      params, state: as they were saved, on the default device.

    Raises:
      OSError: the file cannot be opened.
      WeightsError: the file is of another type, or was written for another network (the message names the first layer
        that differs); arrays are missing, unexpected, or differ from their checksums; a shape does not fit; jax cannot
        represent a type in its present configuration; or a value is not finite.

    Example: see `save`.
    """
    check_net(net)
    with refusing(path):
        kind = format_of(FilePath(path))
        if kind in _READERS:
            raise WeightsError(f"jaxconv.weights.save did not write it: use jaxconv.weights.{_READERS[kind]}")
    arrays = read(path)
    with refusing(path):
        about = read_header(path).metadata
        if about.get("format") != FORMAT:
            raise WeightsError(
                "jaxconv.weights.save did not write it: use jaxconv.weights.from_torch for torch's tensors"
            )
        if about.get("version") != VERSION:
            raise WeightsError(f"it must be of version {VERSION} of {FORMAT}, got {about.get('version')!r}")
        _check_net(about.get("layers", ""), describe(net), about.get("jaxconv", jaxconv.__version__))
        paths = json.loads(about.get("paths", "[]"))
        names = [name for name in paths if not name.endswith("/")]
        for name in [*names, *arrays]:
            if name not in arrays:
                raise WeightsError(f"{name} is missing, which was saved")
            if name not in names:
                raise WeightsError(f"{name} is unexpected: it was not saved")
        # Earlier files have none.
        sums, found = json.loads(about.get("crc32", "null")), checksums(arrays)
        for name in arrays if sums is not None else ():
            if sums.get(name) != found[name]:
                raise WeightsError(f"{name} does not have its checksum: the file changed since it was saved")
        check_arrays(net, {_path(name): array for name, array in arrays.items()})
        # An array that JAX copies is dropped then.
        there = {name: _on_device(name, arrays.pop(name), allow_nonfinite) for name in list(arrays)}
        tree = nested({_path(name): there.get(name, {}) for name in paths})
        return tree["params"], tree["state"]


def _check_net(saved: str, given: str, version: str) -> None:
    """Raises at the first layer that differs between the saved description, by ``version``, and the given one."""
    other = "" if version == jaxconv.__version__ else f", or by jaxconv {version}, which describes it otherwise"
    pairs = zip_longest(saved.splitlines(), given.splitlines(), fillvalue="")
    for theirs, ours in pairs:
        if theirs != ours:
            raise WeightsError(
                f"it was saved for another net{other}: "
                f"its first layer that differs is {theirs.strip() or 'none'}, net has {ours.strip() or 'none'}"
            )


def _on_device(path: str, array: np.ndarray, allow_nonfinite: bool) -> jax.Array:
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise WeightsError(f"{path} has dtype {array.dtype.name}, which jax supports only with jax_enable_x64")
    _check_finite(path, array, allow_nonfinite)
    return jnp.asarray(array)


def _check_finite(path: str, array: np.ndarray, allow_nonfinite: bool) -> None:
    if not allow_nonfinite and not np.all(np.isfinite(array)):
        raise WeightsError(f"{path} has a value that is not finite")


__all__ = ["describe", "load", "save"]
