"""Comparison of a network with the one that it was ported from: the first layer whose outputs differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxconv.errors import no_layer
from jaxconv.inspect.activations import activations
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.layers import Fn
from jaxconv.tree import walk
from jaxconv.weights.arrays import to_numpy
from jaxconv.weights.errors import WeightsError

_HEADS = ("path", "layer", "shape", "difference", "relative", "")


@dataclass(frozen=True)
class Difference:
    """One layer's output compared with its reference.

    Attributes:
      path: the layer's path.
      layer: the layer.
      shape: the shape of its output.
      reference_shape: the shape of the reference, channels last. If it differs, ``difference`` is NaN.
      difference: the largest ``|output - reference|``.
      relative: ``difference`` divided by the largest ``|reference|``.
      differs: whether ``relative`` is greater than the tolerance.
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
    """The result of `compare`; prints as a table.

    Attributes:
      rows: a `Difference` for each layer, in the order in which the layers run.
      tolerance: the largest ``relative`` of equal outputs.
      unknown: paths of references that name no layer; these are not compared.
    """

    rows: tuple[Difference, ...]
    tolerance: float
    unknown: tuple[str, ...] = ()

    @property
    def first(self) -> Difference | None:
        """The first layer that differs; None if none differs."""
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
        more = f", {len(self.unknown) - 10} more" if len(self.unknown) > 10 else ""
        left = [f"not in the net: {', '.join(self.unknown[:10])}{more}"] if self.unknown else []
        return "\n".join([lines[0], rule, *lines[1:], rule, last, *left])

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
    """Compares the outputs of inner layers with those of the network that this one was ported from.

    The port is wrong at the first layer that differs: its weights, its hyperparameters, or a layer before it that is
    not compared.

    Args:
      net: a layer.
      params, state, x: arguments of ``net.apply``, which runs in evaluation.
      reference_activations: the other network's output of each layer, by the layer's path here: arrays or torch
        tensors. `jaxconv.weights.torch_activations` records them in torch. Paths that name no layer are not compared.
      channels_first: whether references of three or more axes are ``(batch, channels, *spatial)``. It matters only if
        a reference's shape fits the output in both orders. The number of axes of length 1 may differ.
      tolerance: a layer differs if its largest difference is greater than this times the largest absolute reference.

    Raises:
      WeightsError: no path names a layer, a layer's output is not a single array, or there is no reference.
      PathError: a layer did not run in evaluation.

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
    unknown = tuple(path for path in reference_activations if path not in layers)
    if len(unknown) == len(reference_activations):
        raise WeightsError(no_layer("reference_activations", unknown[0], layers))
    known = [path for path in reference_activations if path in layers]
    _, found = activations(net, params, state, x, paths=known)
    rows = []
    for path, output in found.items():
        if len(jax.tree.leaves(output)) != 1:
            raise WeightsError(f"{path} must have one array for its output, got {jax.tree.structure(output)}")
        [y] = map(np.asarray, jax.tree.leaves(output))
        reference = _laid_out(to_numpy(reference_activations[path]), y.shape, channels_first)
        difference, relative = _distance(y, reference)
        differs = not relative <= tolerance
        rows.append(Difference(path, layers[path], y.shape, reference.shape, difference, relative, differs))
    return Comparison(tuple(rows), tolerance, unknown)


def _laid_out(reference: np.ndarray, shape: tuple[int, ...], channels_first: bool) -> np.ndarray:
    """Returns the reference in the layout, of two, whose shape fits up to axes of length 1: channels last."""
    layouts = [reference, np.moveaxis(reference, 1, -1) if reference.ndim > 2 else reference]
    layouts = layouts[::-1] if channels_first else layouts
    for layout in layouts:
        if layout.shape == shape:
            return layout
    for layout in layouts:
        if [n for n in layout.shape if n != 1] == [n for n in shape if n != 1]:
            return layout.reshape(shape)
    return layouts[0]


def torch_activations(module: Any, x: Any) -> dict[str, np.ndarray]:
    """Records the outputs of a torch network's inner modules, for `compare`.

    Modules without children are recorded, each at its first call, since one ReLU may run several times. Outputs are
    copied at once, before an in-place module overwrites them. The network runs in evaluation without gradients, and
    returns to its mode afterwards.

    ``compare(net, params, state, x, torch_activations(module, x_channels_first), channels_first=True)``

    Args:
      module: a ``torch.nn.Module``.
      x: its input: a tensor or an array, channels first.

    Returns:
      The output by the module's name, without outputs that are not tensors.
    """
    import torch

    found: dict[str, np.ndarray] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_: Any, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and name not in found:
                found[name] = to_numpy(output.clone())

        return keep

    modes = [(m, m.training) for m in module.modules()]
    hooks = [m.register_forward_hook(hook(name)) for name, m in module.named_modules() if name and not [*m.children()]]
    try:
        module.eval()
        with torch.no_grad():
            module(torch.as_tensor(x if isinstance(x, torch.Tensor) else np.array(x)))
    finally:
        for handle in hooks:
            handle.remove()
        for m, mode in modes:
            m.training = mode
    return found


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


__all__ = ["Comparison", "Difference", "compare", "torch_activations"]
