"""Batch norms folded into the convolution or dense layer beside them, for inference.

In evaluation a batch norm multiplies each channel by a number and adds another; a linear layer beside it does the same
with another kernel and bias (Jacob et al., 2018). So does a layer scale, which adds nothing. `fold` finds the pairs by
structure: it follows values through the ``route`` of each composite, and looks for batch norms and layer scales that
have one linear layer as their only neighbor on a side.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import geometry as geo
from jaxconv.dataflow import Call, Key, Path, Seen, follow, leaves
from jaxconv.errors import ParameterError, ShapeError, located
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree, take
from jaxconv.layers import BatchNorm, Conv, ConvLocal, ConvTranspose, Dense, Fn, Identity, LayerScale, base
from jaxconv.ops.arrays import wider, window_tuple
from jaxconv.ops.memory import copied
from jaxconv.tree import check_acyclic, map_some

LINEAR = (Conv, ConvTranspose, ConvLocal, Dense)
SCALING = (BatchNorm, LayerScale)


@dataclass(frozen=True, repr=False)
class Folded(Identity):
    """Returns its input, in place of a layer that `jaxconv.fold` has folded; refuses training.

    Args:
      into: the path of the layer that computes that layer too.
    """

    into: str

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        if train:
            raise ShapeError(f"train must be False where a layer is folded into {self.into!r}, got True")
        return x, {}


# --- What can be folded -----------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """One batch norm or layer scale to fold: both layers with paths, and whether the linear layer comes first."""

    norm: BatchNorm | LayerScale
    norm_path: Path
    linear: Any
    linear_path: Path
    linear_first: bool
    repeats: int


@dataclass(frozen=True)
class FoldReport:
    """What `fold` does with each batch norm and layer scale of a network; ``str()`` is a table.

    Attributes:
      folded: the path of the layer that one is folded into, by its own path.
      kept: why one is not folded, by its path.
      unseen: the types of layers whose inside is not seen, such as Flax modules, by path. They are left as they are.
    """

    folded: Mapping[str, str]
    kept: Mapping[str, str]
    unseen: Mapping[str, str]

    def __str__(self) -> str:
        rows = [(path, f"folded into {into}") for path, into in self.folded.items()]
        rows += [(path, f"kept: {reason}") for path, reason in self.kept.items()]
        rows += [(path, f"left as it is: {name}") for path, name in self.unseen.items()]
        total = len(self.folded) + len(self.kept)
        nothing = "no batch norm or layer scale: nothing to fold"
        count = f"{len(self.folded)} of {total} layers folded" if total else nothing
        width = max((len(path) for path, _ in rows), default=0)
        return "\n".join([*(f"{path:{width}}  {text}" for path, text in rows), count])


def _text(path: Path) -> str:
    return ".".join(path)


def _uneven(call: Call, scales: bool) -> str:
    """Returns why a number that is added to each channel of the input is not one that is added to the output.

    ``scales``: nothing is added, the input is only scaled.
    """
    layer: Any = call.layer
    if type(layer) is Dense or (scales and type(layer) is not ConvTranspose):
        return ""
    if type(layer) is ConvTranspose:
        return "sums a number of elements that depends on the position"
    (value,) = call.inputs
    if type(value) is Seen:
        padded = any(map(any, layer.pairs(value)))
    elif isinstance(layer.padding, str):
        padded = layer.padding != "VALID" and any(n > 1 for n in window_tuple(layer.window))
    else:
        padded = any(map(any, geo.resolve_padding(layer.padding, layer.axes()[0], *layer.axes())))
    return "pads its input with zeros" if padded and getattr(layer, "pad_mode", "zeros") == "zeros" else ""


class _Plan:
    """One pass over a network: what happens to each of its batch norms."""

    def __init__(self, net: Layer, x: Tree):
        flow = follow(net, x)
        self.hidden = flow.hidden
        self.leaves = {(leaf.path, id(leaf.layer)): leaf for leaf in leaves(net)}
        self.calls: dict[Key, list[Call]] = {}
        for call in flow.calls:
            self.calls.setdefault(call.key, []).append(call)
        self.readers: dict[Key, list[Key | None]] = {}
        for value, reader in flow.reads:
            if isinstance(value.maker, Call):
                self.readers.setdefault(value.maker.key, []).append(None if reader is None else reader.key)
        self.steps: list[_Step] = []
        self.kept: dict[str, str] = {}
        for key, (path, layer) in self.leaves.items():
            if isinstance(layer, SCALING):
                step = self._step(key, layer)
                if isinstance(step, str):
                    self.kept[_text(path)] = step
                else:
                    self.steps.append(step)

    def _step(self, key: Key, norm: BatchNorm | LayerScale) -> _Step | str:
        """Returns how to fold a layer, or why not."""
        if key in self.hidden:
            return self.hidden[key]
        if type(norm) not in SCALING:
            parent = next(one.__name__ for one in SCALING if isinstance(norm, one))
            return f"{type(norm).__name__} is a subclass of {parent}"
        if key not in self.calls:
            return "it does not run in evaluation"
        reasons = []
        for first, neighbor in ((True, self._before(key)), (False, self._after(key))):
            reason = neighbor if isinstance(neighbor, str) else self._unfit(key, neighbor)
            if not reason:
                path, linear = self.leaves[neighbor]  # type: ignore[index]
                return _Step(norm, key[0], linear, path, first, self.calls[key][0].at.repeats)
            reasons.append(reason)
        return "; ".join(dict.fromkeys(reasons))

    def _unfit(self, key: Key, linear: Key) -> str:
        """Returns why the linear layer beside a batch norm cannot compute it."""
        path, layer = self.leaves[linear]
        if self.calls[key][0].at.frozen != self.calls[linear][0].at.frozen:
            return f"only one of it and {_text(path)!r} is frozen"
        others = [self.leaves[k].layer for k in self.leaves if k[0] == path and k not in (key, linear)]
        if not layer.bias and any(not isinstance(other, Fn | Identity) for other in others):  # type: ignore[attr-defined]
            return f"{_text(path)!r} cannot have a bias: other layers have entries at its level of params"
        return ""

    def _named(self, key: Key) -> str:
        return f"{_text(key[0])!r} ({type(self.calls[key][0].layer).__name__})"

    def _linear(self, key: Key) -> bool:
        return key in self.leaves and type(self.leaves[key].layer) in LINEAR

    def _before(self, key: Key) -> Key | str:
        """Returns the linear layer whose output the batch norm alone reads."""
        makers = {value.maker for call in self.calls[key] for value in call.inputs}
        keys = {maker.key if isinstance(maker, Call) else maker for maker in makers}
        if len(keys) != 1:
            return "its input is the output of several layers"
        (found,) = keys
        if isinstance(found, str):
            return f"its input is {found}"
        if not self._linear(found):
            return f"its input is the output of {self._named(found)}"
        if set(self.readers[found]) != {key}:
            return f"other layers read the output of {_text(found[0])!r} too"
        return found

    def _after(self, key: Key) -> Key | str:
        """Returns the linear layer that reads the batch norm's output and nothing else, and alone."""
        keys = set(self.readers.get(key, ()))
        if len(keys) != 1:
            return f"its output is read by {len(keys) or 'no'} layers"
        (found,) = keys
        if found is None:
            return "its output is joined with others, or returned"
        if not self._linear(found):
            return f"its output is the input of {self._named(found)}"
        makers = {value.maker for call in self.calls[found] for value in call.inputs}
        if any(not isinstance(maker, Call) or maker.key != key for maker in makers):
            return f"{_text(found[0])!r} has other inputs too"
        scales = isinstance(self.calls[key][0].layer, LayerScale)
        uneven = next(filter(None, (_uneven(call, scales) for call in self.calls[found])), "")
        return f"{_text(found[0])!r} {uneven}" if uneven else found


def _with_steps(net: Layer, steps: Sequence[_Step]) -> Layer:
    """Returns the network with a `Folded` for each batch norm, and a bias in each layer that takes one in."""

    def changed(layer: Layer, path: str) -> Layer:
        for step in steps:
            if (path, id(layer)) == (".".join(step.norm_path), id(step.norm)):
                return Folded(_text(step.linear_path))
            if (path, id(layer)) == (".".join(step.linear_path), id(step.linear)):
                return layer if step.linear.bias else dataclasses.replace(step.linear, bias=True)  # type: ignore[no-any-return]
        return layer

    return map_some(net, lambda layer, path: True, changed)


def _plans(net: Layer, x: Tree) -> tuple[Layer, list[_Step], dict[str, str]]:
    """Returns the folded network, all steps in order, and why other batch norms are kept."""
    check_acyclic(net)
    steps: list[_Step] = []
    while True:
        plan = _Plan(net, x)
        # Each layer once a round: a layer that has taken a batch norm in is another layer.
        taken: dict[Key, _Step] = {}
        for step in plan.steps:
            taken.setdefault((step.linear_path, id(step.linear)), step)
        if not taken:
            return net, steps, plan.kept
        net = _with_steps(net, list(taken.values()))
        steps += taken.values()


def fold_report(net: Layer, x: Tree = None) -> FoldReport:
    """Returns what `fold` does with each batch norm of a network, or has done with those of a folded network.

    Args:
      net, x: as in `fold`.

    >>> print(fold_report(jc.serial(jc.Conv(8), jc.BatchNorm(), jax.nn.relu, jc.BatchNorm())))
    1  folded into 0
    3  kept: its input is the output of '2' (Fn); its output is joined with others, or returned
    1 of 2 layers folded
    """
    folded, _, kept = _plans(net, x)
    return _report(folded, kept)


def _report(folded: Layer, kept: Mapping[str, str]) -> FoldReport:
    rows = [(_text(path), layer) for path, layer in leaves(folded)]
    return FoldReport(
        {path: layer.into for path, layer in rows if isinstance(layer, Folded)},
        kept,
        {path: type(layer).__name__ for path, layer in rows if not isinstance(layer, base.Leaf)},
    )


# --- Arrays -----------------------------------------------------------------------------------------------------------


# NumPy's arrays are folded by NumPy, which compiles no program; others by JAX.


def _affine(xp: Any, norm: BatchNorm | LayerScale, params: Params, state: State) -> tuple[Array, Array]:
    """Returns the scale and the shift of each channel in evaluation."""
    if isinstance(norm, LayerScale):
        return params["scale"], xp.zeros_like(params["scale"])
    scale = 1 / xp.sqrt(state["var"] + norm.eps)
    scale = scale * params["scale"] if norm.scale else scale
    shift = -state["mean"] * scale
    return scale, shift + params["bias"] if norm.bias else shift


def _after_kernel(
    xp: Any, layer: Any, kernel: Array, bias: Array | None, scale: Array, shift: Array
) -> tuple[Array, Array]:
    """Returns kernel and bias of ``scale * layer(x) + shift``."""
    per = scale
    if type(layer) is ConvTranspose:  # kernel (*window, out // groups, in): the inputs of a group are adjacent
        groups = layer.groups
        per = xp.repeat(scale.reshape(groups, -1).T, kernel.shape[-1] // groups, 1)
    if bias is None:
        places = kernel.shape[: len(window_tuple(layer.window))] if type(layer) is ConvLocal else ()
        return kernel * per, xp.broadcast_to(shift, (*places, layer.features))
    return kernel * per, bias * scale + shift


def _before_kernel(
    xp: Any, layer: Any, kernel: Array, bias: Array | None, scale: Array, shift: Array
) -> tuple[Array, Array]:
    """Returns kernel and bias of ``layer(scale * x + shift)``."""
    groups = layer.groups if type(layer) is Conv else 1
    # One column for each output channel: the scales of the inputs of its group.
    scale, shift = (xp.repeat(a.reshape(groups, -1).T, layer.features // groups, 1) for a in (scale, shift))
    rank = 0 if type(layer) is Dense else len(window_tuple(layer.window))
    added = xp.sum(kernel * shift, tuple(range(-2 - rank, -1)))
    return kernel * scale, added if bias is None else bias + added


def _computed(step: _Step, linear: Params, norm: Params, state: State) -> Params:
    """Returns the entries of the linear layer that computes the batch norm too."""
    xp = np if all(isinstance(a, np.ndarray) for a in (*linear.values(), *norm.values(), *state.values())) else jnp

    def compute(linear: Params, norm: Params, state: State) -> Params:
        change = _after_kernel if step.linear_first else _before_kernel
        dtype = linear["kernel"].dtype
        # Statistics are float32 for any type of the kernel.
        state = {name: a.astype(wider(a.dtype, dtype), copy=False) for name, a in state.items()}
        new = change(xp, step.linear, linear["kernel"], linear.get("bias"), *_affine(xp, step.norm, norm, state))
        return {name: a.astype(dtype, copy=False) for name, a in zip(("kernel", "bias"), new, strict=True)}

    for _ in range(step.repeats):
        compute = functools.partial(_each, compute) if xp is np else jax.vmap(compute)
    found = compute(linear, norm, state)
    return {name: copied(a) for name, a in found.items()} if xp is np else found


def _each(compute: Callable[..., Params], *trees: Params) -> Params:
    """Computes each slice of NumPy's arrays."""
    count = len(trees[0]["kernel"])
    found = [compute(*({name: a[i] for name, a in tree.items()} for tree in trees)) for i in range(count)]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _taken(entries: dict[str, Any], names: Mapping[str, bool], argument: str) -> dict[str, Array]:
    found = {name: take(entries, name, argument) for name, has in names.items() if has}
    return {name: a if isinstance(a, np.ndarray) else jnp.asarray(a) for name, a in found.items()}


def _with_arrays(step: _Step, params: Params, state: State) -> tuple[Params, State]:
    """Returns the trees after one step.

    Raises:
      ParameterError: an entry is missing.
      ShapeError: the batch norm has another number of channels than the linear layer.
    """
    layer, norm = step.linear, step.norm
    with located(_text(step.linear_path), layer):
        linear = _taken(_at(params, step.linear_path), {"kernel": True, "bias": layer.bias}, "params")
    normalizes = isinstance(norm, BatchNorm)
    with located(_text(step.norm_path), norm):
        names = {"scale": norm.scale, "bias": norm.bias} if isinstance(norm, BatchNorm) else {"scale": True}
        affine = _taken(_at(params, step.norm_path), names, "params")
        statistics = _taken(_at(state, step.norm_path), {"mean": normalizes, "var": normalizes}, "state")
        kernel = linear["kernel"]
        outputs = kernel.shape[-2] * layer.groups if type(layer) is ConvTranspose else kernel.shape[-1]
        inputs = kernel.shape[-2] * layer.groups if type(layer) is Conv else kernel.shape[-2]
        wanted = (*kernel.shape[: step.repeats], outputs if step.linear_first else inputs)
        for name, a in {**affine, **statistics}.items():
            if a.shape != wanted:
                raise ShapeError(f"{name} must have shape {wanted}, as {_text(step.linear_path)!r} has, got {a.shape}")
    new = _computed(step, linear, affine, statistics)
    params = _put(params, step.norm_path, lambda level: {n: a for n, a in level.items() if n not in affine})
    state = _put(state, step.norm_path, lambda level: {n: a for n, a in level.items() if n not in statistics})
    return _put(params, step.linear_path, lambda level: level | new), state


def _check_statistics(net: Layer, state: State) -> None:
    """Raises ParameterError for statistics that no batch has, also of batch norms that are kept.

    The values of traced arrays are unknown.
    """
    rules = {"mean": "finite", "var": "finite and not negative"}
    for path, layer in leaves(net):
        entries = _at(state, path) if isinstance(layer, BatchNorm) else {}
        for name, array in entries.items():
            if name in rules and not isinstance(array, jax.core.Tracer):
                known = np.asarray(array)
                wrong = known[~np.isfinite(known) | (known < (0 if name == "var" else -np.inf))]
                if wrong.size:
                    with located(_text(path), layer):
                        raise ParameterError(f"state's {name} must be {rules[name]}, got {wrong[0]}")


def _at(tree: Tree, path: Path) -> Tree:
    """Returns the entries of the layer at a path; an empty dict where there are none."""
    for name in path:
        tree = tree.get(name, {}) if isinstance(tree, dict) else {}
    return tree


def _put(tree: dict[str, Any], path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Returns the tree with changed entries at a path; a dict that becomes empty leaves no entry."""
    if not path:
        return change(tree)
    inner = _put(tree.get(path[0], {}), path[1:], change)
    if inner:
        return tree | {path[0]: inner}
    return {name: value for name, value in tree.items() if name != path[0]}


def fold(net: Layer, params: Params, state: State, x: Tree = None) -> tuple[Layer, Params, State]:
    """Folds batch norms and layer scales into the convolutions and dense layers beside them, for inference.

    The folded network computes what ``net`` computes with ``train=False``, up to rounding. A batch norm is folded into
    the `Conv`, `ConvTranspose`, `ConvLocal` or `Dense` whose output it alone reads, or else into the one that alone
    reads its output, where that pads nothing. In place of the batch norm is a layer that returns its input, and that
    raises with ``train=True``, so that a folded network is not trained by accident; inside `frozen`, where batch norms
    are fixed, training goes on. All other layers and their arrays keep their paths. The layer at a convolution's path
    now returns the batch norm's output: so does `jaxconv.inspect.activations`.

    A layer scale is folded likewise. `fold_report` says what is folded, and why other layers are kept. A network of
    which nothing can be folded is returned as it is. Layers of other libraries are left as they are, and composites
    that are no `Composite`.

    The new arrays are JAX functions of ``params`` and ``state``: `fold` can be called inside jit and grad. They have
    the type of the kernel: to fold half precision for float32 inputs without rounding, convert ``params`` first.

    Args:
      net: a layer.
      params, state: of ``net``.
      x: the shape of an input, as in ``net.init``. It is needed only where a composite's ``route`` reads shapes, as
        those of ONNX graphs do; the folded network is then for inputs of this shape. Without it nothing is folded
        across such a composite, but inside of its children.

    Returns:
      The folded network, its params and its state.

    Raises:
      ParameterError: an array is missing; a mean is not finite, or a variance is negative or not finite.
      ShapeError: a batch norm has another number of channels than the layer beside it.

    >>> net = jc.serial(conv=jc.Conv(8), bn=jc.BatchNorm(), pool=jc.MaxPool(2))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> folded, params, state = fold(net, params, state)
    >>> folded
    serial(conv=Conv(features=8), bn=Folded(into='conv'), pool=MaxPool(window=2))
    >>> {name: list(entries) for name, entries in params.items()}, state
    ({'conv': ['kernel', 'bias']}, {})
    >>> folded.apply(params, state, jnp.ones((1, 8, 8, 3)), train=True)
    Traceback (most recent call last):
    jaxconv.errors.ShapeError: bn (Folded): train must be False where a layer is folded into 'conv', got True
    """
    folded, _, params, state = fold_weights(net, [params, state], x)
    return folded, params, state


def fold_weights(net: Layer, weights: list[Tree], x: Tree = None) -> tuple[Layer, FoldReport, Params, State]:
    """Returns what `fold` and `fold_report` return.

    Args:
      net, x: as in `fold`.
      weights: params and state. The list is emptied, so that each array that nothing else refers to is dropped as soon
        as it is folded.
    """
    folded, steps, kept = _plans(net, x)
    state, params = weights.pop(), weights.pop()
    _check_statistics(net, state)
    for step in steps:
        params, state = _with_arrays(step, params, state)
    return folded, _report(folded, kept), params, state


__all__ = ["fold", "fold_report"]
