"""Defaults that differ between libraries, and the hyperparameters that some files contain.

A file of arrays has no hyperparameters. A layer with jaxconv's default returns other values than the source library's
layer if the defaults differ: Keras's norms add 1e-3 to a variance, jaxconv's and torch's add 1e-5.
"""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

import jaxconv.layers as nn
from jaxconv.extras import need
from jaxconv.layer import Layer
from jaxconv.layers.base import Leaf
from jaxconv.weights.errors import WeightsError, refusing
from jaxconv.weights.formats import format_of
from jaxconv.weights.hdf5 import KERAS_CONFIG, in_archive
from jaxconv.weights.places import nodes

# What Keras adds to a variance if a layer does not say.
KERAS_EPSILON = 1e-3
# Functions whose defaults differ in the other library.
_GELU = "is exact by default, jax.nn.gelu approximates it by tanh: give functools.partial(jax.nn.gelu, approximate=...)"
_LEAKY = "has a negative_slope of 0.3, jax.nn.leaky_relu one of 0.01: give functools.partial(jax.nn.leaky_relu, ...)"
FUNCTIONS: dict[str, dict[Any, str]] = {
    "torch": {jax.nn.gelu: f"torch.nn.GELU {_GELU}"},
    "keras": {jax.nn.gelu: f"Keras's gelu {_GELU}", jax.nn.leaky_relu: f"keras.layers.LeakyReLU {_LEAKY}"},
}


def _shown(paths: list[str]) -> str:
    names = [path or "net" for path in paths]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def warn_of_functions(net: Layer, library: str) -> None:
    """Warns of activation functions with a default that differs in the library."""
    paths: dict[str, list[str]] = {}
    for layer, path, _, _ in nodes(net):
        for function, what in FUNCTIONS[library].items():
            if isinstance(layer, nn.Fn) and layer.function is function:
                paths.setdefault(what, []).append(".".join(path))
    for what, found in paths.items():
        warnings.warn(f"{_shown(found)}: {what}", stacklevel=3)


def _classes(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the class and the configuration of each layer in a model's configuration, in order."""
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("class_name"), str) and isinstance(node.get("config"), dict):
                yield node["class_name"], node["config"]
            waiting += reversed(node.values())
        elif isinstance(node, list):
            waiting += reversed(node)


def keras_config(source: Any) -> Any:
    """Returns the model's configuration if the file contains one: a ``.keras`` file, or HDF5 by ``model.save``."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    with refusing(path):
        if format_of(path) == "keras":
            return json.loads(in_archive(path, KERAS_CONFIG))
        if format_of(path) == "hdf5":
            with need("h5py", "reading .h5", "weights").File(path, "r") as file:
                return json.loads(file.attrs["model_config"]) if "model_config" in file.attrs else None
    return None


def check_epsilons(net: Layer, config: Any) -> None:
    """Compares the eps of the norms of a network with Keras's configuration.

    If the configuration has one value for all norms of a type, or as many norms as the network, a different value in
    the network is an error. Otherwise a norm with jaxconv's default causes a warning.

    Raises:
      WeightsError: a norm has a different eps than the file.
    """
    told = list(_classes(config))
    norms: dict[type, list[tuple[str, Any]]] = {}
    for layer, path, _, _ in nodes(net):
        if isinstance(layer, Leaf) and layer.keras and hasattr(layer, "eps"):
            norms.setdefault(type(layer), []).append((".".join(path), layer))
    for kind, ours in norms.items():
        said = [config.get("epsilon", KERAS_EPSILON) for other, config in told if other == ours[0][1].keras]
        theirs = [epsilon if isinstance(epsilon, int | float) else math.nan for epsilon in said]
        if len(set(theirs)) == 1:
            theirs = theirs[:1] * len(ours)
        if len(theirs) == len(ours):
            for (path, layer), epsilon in zip(ours, theirs, strict=True):
                if not math.isclose(layer.eps, epsilon, rel_tol=1e-6):
                    raise WeightsError(
                        f"{path or 'net'} must have the eps of Keras's layer in the file, {epsilon}, got {layer.eps}: "
                        f"give {kind.__name__}(eps={epsilon})"
                    )
            continue
        [default] = [f.default for f in dataclasses.fields(kind) if f.name == "eps"]
        alike = [path for path, layer in ours if layer.eps == default]
        if alike:
            warnings.warn(
                f"{_shown(alike)}: eps is jaxconv's default {default}, Keras's is {KERAS_EPSILON}, the source does not "
                f"say: give {kind.__name__}(eps={KERAS_EPSILON}) if the model has that, or the path of a .keras file",
                stacklevel=3,
            )


__all__ = ["check_epsilons", "keras_config", "warn_of_functions"]
