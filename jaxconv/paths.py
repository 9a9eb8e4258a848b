"""Paths of layers: the names of children, and the numbers of the runs of a shared layer."""

import re

from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer


def below(path: tuple[str, ...], label: str) -> tuple[str, ...]:
    """Returns the path of a child; a label without a name, "[1]", is appended to the parent's name.

    >>> below(("heads",), "conv"), below(("heads",), "[1]")
    (('heads', 'conv'), ('heads[1]',))
    """
    return (*path[:-1], path[-1] + label) if path and label.startswith("[") else (*path, label)


def plain_path(path: str) -> str:
    """Returns the path in ``params`` of a layer that runs several times: the path without run numbers.

    >>> plain_path("heads[1].conv")
    'heads.conv'
    """
    return re.sub(r"\[\d+\]", "", path).lstrip(".")


def label_of(name: str, layer: Layer, count: int) -> str:
    """Returns a child's name in paths, with the run's number; a leaf without a name has no separate path."""
    has_path = bool(name) or hasattr(layer, "children")
    return f"{name}[{count}]" if count and has_path else name


class Runs:
    """Counts the runs of each child during one pass through a composite's ``route``.

    A child that runs several times has the same parameters each time. The path of its first run is ``name``; the paths
    of later runs are ``name[1]``, ``name[2]`` and so on.
    """

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], tuple[Layer, int]] = {}

    def count(self, name: str, layer: Layer) -> int:
        """Returns the number of earlier runs of the child.

        Raises:
          ArgumentError: another layer has run under this name.
        """
        key = (name, 0) if name else ("", id(layer))
        before, count = self.seen.get(key, (layer, 0))
        if before is not layer:
            raise ArgumentError(
                f"route must run one layer under the name {name!r}, got two: {type(before).__name__} and "
                f"{type(layer).__name__}; one layer object may run several times"
            )
        self.seen[key] = layer, count + 1
        return count
