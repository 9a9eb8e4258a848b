"""Arrays from a file or a mapping, under new names."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxconv.weights.arrays import Arrays, as_numbers
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.files import check_foreign, read
from jaxconv.weights.state_dict import state_dict

Rename = Mapping[str, str | None] | Callable[[str], str | None]


def arrays_of(source: Any, key: str | None = None) -> Mapping[str, Any]:
    """Returns the arrays by name: the mapping itself, a mapping inside it, or the contents of the file."""
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
    """Returns NumPy arrays under their new names, without the names that are unwanted."""
    for name in arrays:
        if not isinstance(name, str):
            raise WeightsError(f"source must have names that are strings, got {name!r}")
    if isinstance(rename, Mapping) and arrays:
        _check_prefixes(rename, arrays)

    def new_name(name: str) -> str | None:
        if rename is None:
            return name
        if callable(rename):
            return rename(name)
        prefix = max((p for p in rename if _begins(name, p)), key=len, default=None)
        if prefix is None:
            return name
        start = rename[prefix]
        return None if start is None else start + name[len(prefix) :]

    renamed: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for name, value in arrays.items():
        new = new_name(name)
        if new is not None and not isinstance(new, str):
            raise WeightsError(f"rename must give a string or None, it gives {new!r} for {name!r}")
        if new is None or unwanted(new):
            continue
        if new in renamed:
            raise WeightsError(f"rename must keep names apart, it gives {new!r} for {origin[new]!r} and {name!r}")
        renamed[new], origin[new] = as_numbers(name, value), name
    return renamed


def _begins(name: str, start: str) -> bool:
    # A prefix consists of whole parts: "layer1" is not a prefix of "layer10".
    return name.startswith(start) and (not start or start[-1] in "./" or name[len(start) :][:1] in ("", ".", "/"))


def _check_prefixes(rename: Mapping[str, str | None], names: Iterable[str]) -> None:
    """Each prefix begins a name: one that begins none is misspelled, or meant for other weights."""
    for prefix in rename:
        if not any(_begins(name, prefix) for name in names):
            first = list(dict.fromkeys(re.split(r"(?<=[./])", name)[0] for name in names))
            begin = ", ".join(map(repr, first[:5])) + (", ..." if len(first) > 5 else "")
            raise WeightsError(f"rename: a name of the source must begin with {prefix!r}, they begin with {begin}")
