"""Training diagnostics by layer: dead units, statistics of activations, gradients and updates."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves_with_path as leaves

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess, equal_batches
from jaxconv.errors import ArgumentError, ParameterError, ShapeError
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import (
    as_paths,
    check_data,
    check_hashable,
    check_outside,
    check_path,
    naming_preprocess,
    one_array,
    stacked_axes,
)
from jaxconv.inspect.rectifiers import rectifier_paths
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops.arrays import largest
from jaxconv.tree import walk


def dead_units(
    net: Layer,
    params: Params,
    state: State,
    images: Any,
    *,
    paths: Iterable[str] | None = None,
    batch_size: int = 256,
    preprocess: Preprocess | None = None,
) -> dict[str, np.ndarray]:
    """Returns the channels that are never positive, at any position of any image of a data set.

    A ReLU passes no gradient to a unit that is never positive, so that a dead unit does not learn. A channel is dead
    where all its units are dead. A loop on the host over batches: inside jit use `activations`.

    Args:
      net: a layer.
      params, state: arguments of ``net.apply``.
      images: array of shape ``(count, ...)``. NumPy arrays, memory maps included, are copied to the device in batches.
      paths: paths of layers that return one array ``(batch, ..., channels)``; None, all rectifiers: ``jax.nn.relu`` and
        other functions that are zero for x <= 0 and positive for x > 0.
      batch_size: images for each call of the network.
      preprocess: ``preprocess(images)``, run inside the compiled program. Pass the same function each time: a new
        function compiles again.

    Returns:
      By path, booleans ``(channels,)``; their mean is the fraction of dead channels. Inside a `repeat` the axis of
      iterations comes first.

    Raises:
      ValueError: a path names no layer, paths is None for a network without rectifiers, or there are no images.
      DTypeError: the network does not accept the images' element type, and there is no preprocess.
      FloatingPointError: a unit is NaN; the error names the path.

    >>> net = jc.serial(jc.Dense(2), jax.nn.relu)
    >>> params = {"0": {"kernel": jnp.ones((3, 2)), "bias": jnp.array([0.0, -9.0])}}
    >>> {path: dead.tolist() for path, dead in dead_units(net, params, {}, jnp.ones((4, 3))).items()}
    {'1': [False, True]}
    """
    check_outside("dead_units", params, state, images, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    images, batch_size = check_data(images, batch_size)
    chosen = as_paths(rectifier_paths(net) if paths is None else paths)
    if not chosen:
        raise ArgumentError("paths must name layers where net has no rectifier such as jax.nn.relu, got none")
    for path in chosen:
        check_path(net, path)
    highest: dict[str, Any] = dict.fromkeys(chosen, -np.inf)
    with naming_preprocess(images, preprocess):
        for part in equal_batches(images, batch_size):
            found = _highest(net, chosen, preprocess, params, state, part.items)
            highest = {path: np.maximum(highest[path], found[path]) for path in chosen}
    for path, units in highest.items():
        if np.isnan(units).any():
            raise FloatingPointError(
                f"path {path!r} returns NaN in {int(np.isnan(units).sum())} of {units.size} channels"
            )
    return {path: units <= 0 for path, units in highest.items()}


@functools.partial(jit, static_argnums=(0, 1, 2))
def _highest(
    net: Layer, paths: tuple[str, ...], preprocess: Preprocess | None, params: Params, state: State, images: Array
) -> dict[str, Array]:
    x = preprocess(images) if preprocess else images
    _, found = activations(net, params, state, x, paths=paths)
    units = {}
    for path, a in found.items():
        first = stacked_axes(net, path)
        a = one_array(a, path, stacked=first)
        units[path] = largest(a, tuple(range(first, a.ndim - 1)))
    return units


_STATISTICS = ("mean", "std", "zeros", "largest", "weight_norm", "gradient_norm", "update_ratio")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=_STATISTICS,
    meta_fields=("paths", "measured"),
)
@dataclass(frozen=True, eq=False, repr=False)
class LayerStatistics:
    """Statistics of each layer; the result of `layer_statistics`.

    A pytree of arrays ``(..., layers)``: jit, vmap and scan accept it, and the axes that these add come first.
    ``str()`` is a table, of the last step where there are several steps.

    Attributes:
      paths: the layers' paths.
      measured: for each layer the names of its statistics. The other values are NaN: a layer may have no parameters, or
        no gradient was passed. A measured value that is NaN is printed as ``nan``.
      mean, std: mean and standard deviation of the layer's output.
      zeros: the fraction of zeros in the output.
      largest: the largest magnitude in the output.
      weight_norm, gradient_norm: the norm of all the layer's parameters together, and of their gradient.
      update_ratio: the norm of the update divided by the norm of the parameters. Values near 1e-3 are usual (CS231n);
        much larger values mean that the learning rate is too large, much smaller values that it is too small.
    """

    paths: tuple[str, ...]
    measured: tuple[tuple[str, ...], ...]
    mean: Array
    std: Array
    zeros: Array
    largest: Array
    weight_norm: Array
    gradient_norm: Array
    update_ratio: Array

    def arrays(self) -> dict[str, Array]:
        """Returns the arrays by name, without statistics that no layer has."""
        return {name: getattr(self, name) for name in _STATISTICS if any(name in names for names in self.measured)}

    def __str__(self) -> str:
        last = {name: np.asarray(a).reshape(-1, len(self.paths))[-1] for name, a in self.arrays().items()}
        rows = [("path", *(name.replace("_", " ") for name in last))]
        for i, (path, names) in enumerate(zip(self.paths, self.measured, strict=True)):
            rows.append((path, *(f"{a[i]:.3g}" if name in names else "" for name, a in last.items())))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join((path.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True)))).rstrip()
            for path, *cells in rows
        ]
        return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(last)), *lines[1:]])

    def __repr__(self) -> str:
        # Without values: a tracer has none.
        return f"LayerStatistics({len(self.paths)} layers, {jnp.shape(self.mean)})"


def layer_statistics(
    net: Layer,
    params: Params,
    state: State,
    x: Tree,
    *,
    grads: Params | None = None,
    updates: Params | None = None,
    train: bool = False,
    key: KeyLike | None = None,
) -> LayerStatistics:
    """Returns statistics of each layer's output, parameters, gradients and updates.

    A pure function: it works under jit, and inside a training step. The table has the layers without named layers
    inside, and the composites with parameters at their own level.

    Args:
      net: a layer.
      params, state, x: arguments of ``net.apply``.
      grads: the gradient of the loss with respect to params.
      updates: the updates that the optimizer adds to params.
      train, key: arguments of ``net.apply``.

    Returns:
      A `LayerStatistics`, float32, in the order of the network.

    Raises:
      ParameterError: grads or updates do not have the shapes of params.

    >>> net = jc.serial(fc=jc.Dense(4, bias=False), relu=jax.nn.relu)
    >>> params = {"fc": {"kernel": jnp.eye(4)}}
    >>> x = jnp.array([[-1.0, 0.0, 1.0, 2.0]])
    >>> print(layer_statistics(net, params, {}, x, grads=params, updates={"fc": {"kernel": 0.01 * jnp.eye(4)}}))
    path  mean    std  zeros  largest  weight norm  gradient norm  update ratio
    ---------------------------------------------------------------------------
    fc     0.5   1.12   0.25        2            2              2          0.01
    relu  0.75  0.829    0.5        2
    """
    trees = {"params": params, "grads": grads, "updates": updates}
    for name, tree in trees.items():
        if tree is not None:
            _check_like_params(name, tree, params)
    y, found = activations(net, params, state, x, train=train, key=key)
    layers = {"": net} | dict(walk(net))
    own = {name: _by_layer(tree, layers) for name, tree in trees.items()}
    paths = [path for path, layer in layers.items() if path in own["params"] or not [*walk(layer)]]
    norms = {name: jnp.array([_norm(own[name].get(path)) for path in paths], jnp.float32) for name in trees}
    outputs = {path: y if path == "" else found.get(path) for path in paths}
    mean, std, zeros, largest = jnp.array([_moments(output) for output in outputs.values()], jnp.float32).T
    return LayerStatistics(
        tuple(paths),
        tuple(_measured(outputs[path], [name for name in trees if path in own[name]]) for path in paths),
        mean=mean,
        std=std,
        zeros=zeros,
        largest=largest,
        weight_norm=norms["params"],
        gradient_norm=norms["grads"],
        # Zero weights with a zero update have the ratio 0, not 0 / 0.
        update_ratio=jnp.where(norms["updates"] + norms["params"] == 0, 0, norms["updates"] / norms["params"]),
    )


def _measured(output: Tree, trees: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the statistics of a layer with this output, and with arrays in these trees."""
    own = {"params": "weight_norm", "grads": "gradient_norm", "updates": "update_ratio"}
    return (*(_STATISTICS[:4] if jax.tree.leaves(output) else ()), *(own[tree] for tree in trees))


def _check_like_params(name: str, tree: Params, params: Params) -> None:
    got, wanted = ({jax.tree_util.keystr(p): jnp.shape(a) for p, a in leaves(t)} for t in (tree, params))
    for path in wanted | got:
        if got.get(path) != wanted.get(path):
            raise ParameterError(
                f"{name} must have the shapes of params, at {path} {wanted.get(path, 'nothing')}, "
                f"got {got.get(path, 'nothing')}"
            )


def _by_layer(tree: Params | None, layers: Mapping[str, Layer]) -> dict[str, list[Array]]:
    """Returns the arrays of each layer: those at its own level, or deeper but in no named layer."""
    own: dict[str, list[Array]] = {}
    for keys, leaf in leaves(tree):
        path = jax.tree_util.keystr(keys[:-1], simple=True, separator=".")
        while path not in layers:
            path = path.rpartition(".")[0]
        own.setdefault(path, []).append(leaf)
    return own


def _norm(arrays: list[Array] | None) -> Array | float:
    return jnp.nan if arrays is None else jnp.linalg.norm(_values(arrays))


def _moments(output: Tree) -> list[Array | float]:
    """Returns mean, standard deviation, fraction of zeros and largest magnitude of an output's values."""
    if not jax.tree.leaves(output):
        return [jnp.nan] * 4
    a = _values(output)
    return [jnp.mean(a), jnp.std(a), jnp.mean(jnp.where(jnp.isnan(a), a, a == 0)), largest(jnp.abs(a))]


def _values(tree: Tree) -> Array:
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)])


class Recorder:
    """Collects `layer_statistics` over the steps of a run.

    >>> net = jc.serial(fc=jc.Dense(2))
    >>> params, state = net.init(jax.random.key(0), (1, 2))
    >>> look = jax.jit(lambda params, x: layer_statistics(net, params, state, x))
    >>> recorder = Recorder()
    >>> for step in range(0, 20, 10):
    ...     recorder.add(step, look(params, jnp.ones((4, 2))))
    >>> recorder.steps, recorder.statistics.mean.shape, len(recorder.rows())
    ([0, 10], (2, 1), 2)
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._kept: list[LayerStatistics] = []

    def add(self, step: int, statistics: LayerStatistics) -> None:
        """Keeps the statistics of a step, on the host.

        Raises:
          ShapeError: the layers or the statistics differ from those of earlier steps, or there are several steps.
        """
        layers = (len(statistics.paths),)
        if jnp.shape(statistics.mean) != layers:
            raise ShapeError(f"statistics must be of one step, with arrays {layers}, got {jnp.shape(statistics.mean)}")
        for name in ("paths", "measured") if self._kept else ():
            before, now = getattr(self._kept[0], name), getattr(statistics, name)
            if before != now:
                what = "layers" if name == "paths" else "statistics"
                raise ShapeError(f"statistics must have the {what} of earlier steps, {before}, got {now}")
        self.steps.append(int(step))
        self._kept.append(jax.device_get(statistics))

    @property
    def statistics(self) -> LayerStatistics:
        """The statistics of all steps, as NumPy arrays ``(steps, layers)``."""
        if not self._kept:
            raise ArgumentError("a recorder must have at least one step, added by add, got none")
        return jax.tree.map(lambda *arrays: np.stack(arrays), *self._kept)

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each step and layer with step, path and statistics, for a data frame or a CSV file.

        A statistic that a layer does not have is None.
        """
        kept = self.statistics
        arrays = kept.arrays()
        return [
            {"step": step, "path": path}
            | {name: float(a[i, j]) if name in kept.measured[j] else None for name, a in arrays.items()}
            for i, step in enumerate(self.steps)
            for j, path in enumerate(kept.paths)
        ]

    def __str__(self) -> str:
        return f"step {self.steps[-1]}\n{self.statistics}" if self.steps else "no steps"


__all__ = ["LayerStatistics", "Recorder", "dead_units", "layer_statistics"]
