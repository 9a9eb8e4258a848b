"""Rows of the table of operators, and functions that rows share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.interop.onnx.values import Plan, Value
from jaxconv.layer import Layer


@dataclass(frozen=True)
class Placed:
    """A node as one of jaxconv's layers, applied to the node's first input.

    Attributes:
      layer: the layer.
      params, state: its arrays, from the node's constants.
      axes: the order of axes of its input and output: "last", channels last; "tail", any with ONNX's last axis last;
        "any".
    """

    layer: Layer
    params: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    axes: str = "any"


@dataclass(frozen=True)
class Row:
    """How an operator runs; functions read differences between opsets from the node's opset.

    Attributes:
      plan: takes the node and a `Value`, or None, for each input; returns what to run.
      layer: takes the node, the rank of its first input (None if unknown) and for each input a constant or None;
        returns a `Placed`, or None if no layer computes the node.
      static: whether the function takes NumPy arrays, so that arithmetic on shapes stays arithmetic on integers.
      trained: whether arrays of floating-point numbers among its constants are parameters.
    """

    plan: Callable[..., Plan]
    layer: Callable[..., Placed | None] | None = None
    static: bool = False
    trained: bool = True


def constant(value: Value | None, name: str) -> Any:
    """Returns an input that must be known when the network is traced: a constant, or a value that follows from shapes.

    Returns None for an omitted input.
    """
    if value is None:
        return None
    if not value.known:
        raise ArgumentError(
            f"{name} must be a constant or follow from shapes, got an array that depends on x or is trained"
        )
    return value.data


def integers(value: Value | None, name: str) -> Any:
    """Returns a constant input as a tuple of integers, or None."""
    array = constant(value, name)
    return None if array is None else tuple(int(n) for n in np.asarray(array).reshape(-1))
