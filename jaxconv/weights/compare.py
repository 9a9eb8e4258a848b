"""Where a network and the one that it was ported from part: the first layer whose outputs differ, and by how much."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxconv.inspect.activations import activations
from jaxconv.inspect.trace import did_you_mean
from jaxconv.layer import Layer, Params, State, Tree, walk
from jaxconv.layers import Fn
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.places import to_numpy

_HEADS = ("path", "layer", "shape", "difference", "relative", "")


@dataclass(frozen=True)
class Difference:
    """One layer's output beside its reference.

    Attributes:
      path: where the layer stands.
      layer: the layer.
      shape: of its output.
      reference_shape: of the reference, channels last; where it is another there is no difference to tell: NaN.
      difference: the largest of ``|output - reference|``.
      relative: the same over the largest of ``|reference|``.
      differs: whether ``relative`` is beyond the tolerance.
    """

    path: str
    layer: Layer
    shape: tuple[int, ...]
    reference_shape: tuple[int, ...]
    difference: float
    relative: float
    differs: bool

    def _cells(self, first: bool) -> tuple[str, ...]:
        kind = self.layer.function if isinstance(self.layer, Fn) else type(self.layer)
        other = "" if self.shape == self.reference_shape else f", reference {self.reference_shape}"
        mark = "<- first to differ" if first else "differs" if self.differs else ""
        return (
            self.path,
            getattr(kind, "__name__", type(kind).__name__),
            f"{self.shape}{other}",
            f"{self.difference:.2g}",
            f"{self.relative:.2g}",
            mark,
        )


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` returns; prints as a table.

    Attributes:
      rows: a `Difference` for each layer, in the order in which they run.
      tolerance: what ``relative`` is compared with.
    """

    rows: tuple[Difference, ...]
    tolerance: float

    @property
    def first(self) -> Difference | None:
        """The first layer that differs, None if none does."""
        return next((row for row in self.rows if row.differs), None)

    def __str__(self) -> str:
        first = self.first
        cells = [_HEADS, *(row._cells(row is first) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        rule = "-" * max(map(len, lines))
        last = f"{len(self.rows)} outputs agree to {self.tolerance:g} of the largest number of each"
        if first:
            by = f"{first.relative:.2g} of its largest number" if first.shape == first.reference_shape else "its shape"
            last = f"{first.path} is the first of {len(self.rows)} outputs to differ, by {by}"
        return "\n".join([lines[0], rule, *lines[1:], rule, last])

    __repr__ = __str__


def compare(
    net: Layer,
    params: Params,
    state: State,
    x: Tree,
    reference_activations: Mapping[str, Any],
    *,
    channels_first: bool = False,
    tolerance: float = 1e-4,
) -> Comparison:
    """Compares the outputs of inner layers with those of the network that this one is a port of.

    The first layer that differs is where the port is wrong: in its weights, its hyperparameters, or what comes to it
    from a layer that is not among those compared.

    Args:
      net: a layer.
      params, state, x: what ``net.apply`` takes; it runs in evaluation.
      reference_activations: the other network's output of each layer, by the layer's path here: arrays or torch
        tensors. Forward hooks on ``named_modules()`` give them in torch.
      channels_first: the references of three axes or more are ``(batch, channels, *spatial)``.
      tolerance: a layer differs if its largest difference is more than this times the largest absolute reference.

    Raises:
      WeightsError: a path names no layer, a layer's output is no single array, or there is no reference.
      ShapeError: a layer did not run in evaluation.

    >>> net = jc.serial(jnp.square, jnp.negative)
    >>> compare(net, {}, {}, jnp.array([[1.0, 2.0]]), {"0": [[1.0, 4.0]], "1": [[-1.0, -4.4]]})
    path  layer     shape   difference  relative
    ----------------------------------------------------------------
    0     square    (1, 2)  0           0
    1     negative  (1, 2)  0.4         0.091     <- first to differ
    ----------------------------------------------------------------
    1 is the first of 2 outputs to differ, by 0.091 of its largest number
    """
    layers = dict(walk(net))
    if not reference_activations:
        raise WeightsError("reference_activations must have an output at least, got none")
    for path in reference_activations:
        if path not in layers:
            raise WeightsError(f"reference_activations has {path!r}, which {did_you_mean(path, layers)}")
    _, found = activations(net, params, state, x, paths=reference_activations)
    rows = []
    for path, output in found.items():
        if len(jax.tree.leaves(output)) != 1:
            raise WeightsError(f"{path} must have one array for its output, got {jax.tree.structure(output)}")
        [y] = map(np.asarray, jax.tree.leaves(output))
        reference = to_numpy(reference_activations[path])
        if channels_first and reference.ndim > 2:
            reference = np.moveaxis(reference, 1, -1)
        difference, relative = _distance(y, reference)
        differs = not relative <= tolerance
        rows.append(Difference(path, layers[path], y.shape, reference.shape, difference, relative, differs))
    return Comparison(tuple(rows), tolerance)


def _distance(y: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference, and the same over the largest reference. Infinities and NaN equal themselves."""
    if y.shape != reference.shape:
        return np.nan, np.nan
    y, reference = y.astype(np.float64), reference.astype(np.float64)
    same = (y == reference) | (np.isnan(y) & np.isnan(reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.max(np.where(same, 0.0, np.abs(y - reference)), initial=0.0)
        scale = np.max(np.abs(reference), initial=0.0, where=np.isfinite(reference))
        return float(difference), float(difference / scale) if difference else 0.0


__all__ = ["Comparison", "Difference", "compare"]
