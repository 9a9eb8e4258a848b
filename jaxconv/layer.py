"""The layer protocol: a layer is data with two pure functions. `run_child` runs a layer inside another.

Any object with these two methods is a layer:

- ``init(key, x) -> (params, state)`` for inputs shaped like ``x``; ``key`` is a random key, or an int, its seed. The
  optimizer updates ``params``; a forward pass in training updates ``state``. Both are nested dicts of arrays.
- ``apply(params, state, x, *, train=False, key=None) -> (y, state)``.

A composite has ``children``, a tuple of ``(name, layer)``. The child's name is its key in ``params`` and ``state``; the
entries of a child named "" are stored at the parent's level. `Composite` is the base class of composites.
"""

import contextlib
import contextvars
import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import LocatedError, ParameterError, ShapeError, short_traceback
from jaxconv.keys import KeyLike, as_key

Array = jax.Array
Tree = Any
Params = dict[str, Any]
State = dict[str, Any]
Children = tuple[tuple[str, "Layer"], ...]
# A random key or an int, its seed. A custom layer may take keys only: inside of a network it gets nothing else.
Key = Any


@runtime_checkable
class Layer(Protocol):
    """The protocol of layers."""

    def init(self, key: Key, x: Tree) -> tuple[Params, State]:
        """Returns fresh parameters and state for inputs shaped like ``x``."""

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Key = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""


def struct_of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Returns the struct of a JAX array of this shape and type; float64 becomes float32 unless x64 is enabled."""
    if not jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(shape, dtype)


def as_struct(x: Tree) -> Tree:
    """Returns ``x`` with each array, ShapeDtypeStruct or shape tuple in it as a ShapeDtypeStruct; tuples are float32.

    >>> as_struct((8, 28, 28, 1))
    ShapeDtypeStruct(shape=(8, 28, 28, 1), dtype=float32)
    """

    def is_shape(node: Any) -> bool:
        return isinstance(node, tuple) and len(node) > 0 and all(isinstance(n, int | np.integer) for n in node)

    def struct(leaf: Any) -> jax.ShapeDtypeStruct:
        if is_shape(leaf):
            return jax.ShapeDtypeStruct(leaf, jnp.float32)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            return struct_of(leaf.shape, leaf.dtype)
        raise ShapeError(f"x must be an array, a ShapeDtypeStruct or a shape tuple, batch axis included, got {leaf!r}")

    return jax.tree.map(struct, x, is_leaf=is_shape)


def child_key(key: KeyLike | None, name: str) -> Array | None:
    """Returns the random key of the child ``name``. The key depends on the name only, and not on siblings."""
    key = as_key(key)
    return key if key is None or not name else jax.random.fold_in(key, zlib.crc32(name.encode()))


def take(entries: Params | State, name: str, argument: str = "params") -> Array:
    """Returns one entry of a layer's params or state, or raises ParameterError, which names the ``argument``."""
    try:
        return entries[name]
    except (KeyError, TypeError):
        has = ", ".join(map(repr, entries)) if isinstance(entries, dict) and entries else "none"
        raise ParameterError(f"{argument} must have an entry {name!r}, got {has}") from None


# --- Errors -----------------------------------------------------------------------------------------------------------


class located:
    """Prepends the child's name to the path of an error that is raised inside, and shortens its traceback."""

    def __init__(self, name: str, layer: Layer):
        self.name, self.type = name, getattr(layer, "type_name", type(layer).__name__)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            return
        error.__traceback__ = short_traceback(traceback)
        if isinstance(error, LocatedError):
            error.locate(self.name, self.type)
            return
        path, where = getattr(error, "_jaxconv_path", ((), self.type))
        path = (self.name, *path) if self.name else path
        with contextlib.suppress(AttributeError):
            error._jaxconv_path = path, where  # type: ignore[attr-defined]
            _note(error, f"in layer {'.'.join(path)} ({where})")


def _note(error: Exception, note: str) -> None:
    """Keeps one note about the layer: the note of an outer layer contains, and so replaces, that of an inner layer."""
    notes = [n for n in getattr(error, "__notes__", ()) if not n.startswith("in layer ")]
    error.__notes__ = [*notes, note]


# --- Capture ----------------------------------------------------------------------------------------------------------


class Capture:
    """The outputs of inner layers that `activations` collects, and the arrays that it adds, by path.

    Args:
      paths: the layers whose outputs are kept; None keeps all.
      add: arrays to add to outputs.
      path: the path of the layer inside which the capture begins.
    """

    def __init__(self, paths: frozenset[str] | None, add: dict[str, Tree], path: tuple[str, ...] = ()):
        self.paths = paths
        self.add = add
        self.path = path
        self.found: dict[str, Tree] = {}
        self.added: set[str] = set()
        self.trace = jax.extend.core.get_opaque_trace_state()

    @property
    def reaches(self) -> bool:
        """Whether the present trace is that of the capture.

        In another trace, which a layer has opened, an output that is kept would be a leaked tracer, and an array that
        is added could be cached in the layer's compiled function.
        """
        return self.trace == jax.extend.core.get_opaque_trace_state()

    def visit(self, y: Tree) -> Tree:
        """Adds an array to the output ``y`` of the layer at the present path, keeps the sum, and returns it."""
        if not self.reaches:
            return y
        path = ".".join(self.path)
        if path in self.add:
            y = _plus(y, self.add[path])
            self.added.add(path)
        if self.paths is None or path in self.paths:
            self.found[path] = y
        return y


_CAPTURE: contextvars.ContextVar[Capture | None] = contextvars.ContextVar("capture", default=None)


def _plus(y: Tree, extra: Tree) -> Tree:
    def plus(a: Array, b: Any) -> Array:
        if not broadcasts(jnp.shape(b), jnp.shape(a)):
            raise ShapeError(
                f"add must have the shape of the layer's output, {jnp.shape(a)}, or broadcast to it, got {jnp.shape(b)}"
            )
        return a + jnp.asarray(b, a.dtype)

    given, wanted = str(jax.tree.structure(extra)), str(jax.tree.structure(y))
    if given != wanted:
        raise ShapeError(f"add must be a tree like the layer's output, {wanted}, got {given}")
    return jax.tree.map(plus, y, extra)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Returns whether an array of ``shape`` can be broadcast to the shape ``to``."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


@contextlib.contextmanager
def capturing(capture: Capture | None) -> Iterator[None]:
    """Sets the capture for the layers that run inside the block."""
    token = _CAPTURE.set(capture)
    try:
        yield
    finally:
        _CAPTURE.reset(token)


def staged(transform: Callable[[Callable], Callable], function: Callable[..., Tree], *args: Tree) -> Tree:
    """Returns ``transform(function)(*args)`` for a transform that opens a trace (remat, a scan), with capture.

    The captured outputs are returned by the transformed function, and kept outside of its trace. The arrays to add are
    the first argument of the transformed function.
    """
    outer = _CAPTURE.get()
    if outer is None or not outer.reaches:
        return transform(lambda add, *args: (function(*args), {}))({}, *args)[0]
    here = ".".join(outer.path)
    add = {path: value for path, value in outer.add.items() if _inside(path, here)}
    added: set[str] = set()

    def body(add: dict[str, Tree], *args: Tree) -> tuple[Tree, dict[str, Tree]]:
        inner = Capture(outer.paths, add, outer.path)
        with capturing(inner):
            y = function(*args)
        added.update(inner.added)
        return y, inner.found

    y, found = transform(body)(add, *args)
    outer.found.update(found)
    outer.added.update(added)
    return y


def _inside(path: str, here: str) -> bool:
    return not here or (path.startswith(here) and path[len(here) :][:1] in (".", "["))


# --- Running ----------------------------------------------------------------------------------------------------------


def run_child(
    name: str,
    layer: Layer,
    params: Params,
    state: State,
    x: Tree,
    *,
    train: bool = False,
    key: Array | None = None,
    label: str | None = None,
) -> tuple[Tree, State]:
    """Runs ``layer`` as the child ``name`` of the calling layer, with a profiler scope, a path for errors, and capture.

    Args:
      name: the child's name; "" for a child at the parent's level.
      layer: the child.
      params, state: the child's params and state.
      x: the child's input.
      train, key: as in ``apply``; the key is the child's, see `child_key`.
      label: the child's name in paths, see `Runs`; None is ``name``.

    Returns:
      The child's output and its new state.
    """
    label = name if label is None else label
    capture = _CAPTURE.get() if label else None
    outer = capture.path if capture else ()
    scope = jax.named_scope(name) if name else contextlib.nullcontext()
    if capture:
        capture.path = below(outer, label)
    try:
        with located(label, layer), scope:
            result = layer.apply(params, state, x, train=train, key=key)
            if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
                types = [type(part).__name__ for part in result] if isinstance(result, tuple) else type(result).__name__
                raise ShapeError(f"apply must return (y, state) with a dict as state, got {types}")
            y, new_state = result
            if name and new_state.keys() != state.keys():
                raise ParameterError(
                    f"apply must return a state with the entries {sorted(state)} of its argument, got "
                    f"{sorted(new_state)}"
                )
            return (capture.visit(y) if capture and name else y), new_state
    finally:
        if capture:
            capture.path = outer


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
          ShapeError: another layer has run under this name.
        """
        key = (name, 0) if name else ("", id(layer))
        before, count = self.seen.get(key, (layer, 0))
        if before is not layer:
            raise ShapeError(
                f"route must run one layer under the name {name!r}, got two: {type(before).__name__} and "
                f"{type(layer).__name__}; one layer object may run several times"
            )
        self.seen[key] = layer, count + 1
        return count


def label_of(name: str, layer: Layer, count: int) -> str:
    """Returns a child's name in paths, with the run's number; a leaf without a name has no separate path."""
    has_path = bool(name) or hasattr(layer, "children")
    return f"{name}[{count}]" if count and has_path else name


def shape_of(function: Callable[..., Tree], *xs: Tree) -> Tree:
    """Returns the result of `jax.eval_shape` under standard type promotion, whatever ``jax_numpy_dtype_promotion`` is.

    In `mixed_precision` params are initialized in float32 and x has another type; shapes do not depend on the types.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jax.eval_shape(function, *xs)


def init_child(name: str, layer: Layer, key: Array, x: Tree) -> tuple[Params, State, Tree]:
    """Returns the params and the state of the child ``name``, and the shape of its output."""
    with located(name, layer):
        if isinstance(layer, Composite):
            return layer.init_with_output(key, x)
        params, state = layer.init(key, x)
        return params, state, shape_of(lambda p, s, x: layer.apply(p, s, x)[0], params, state, x)


class Run(Protocol):
    """The first argument of a composite's ``route``, which runs its children, in `init`, `apply` or `trace`.

    ``train`` is whether training-only branches run: True in training and during initialization.
    """

    train: bool

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        """Runs one child, and returns its output.

        One layer object may run several times under its name: the runs share parameters, and each run receives the
        state of the run before.

        Args:
          name: the child's name, as in ``children``; "" for a child whose entries are at the composite's level.
          layer: the child.
          x: the child's input.

        Raises:
          ShapeError: another layer has run under this name.
        """

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        """Returns ``function(*xs)`` for outputs of children; the function must treat each spatial position separately.

        The receptive field of position i of the result covers the fields of position i of all arguments.
        """

    def aside(self, y: Tree, extra: Tree) -> Tree:
        """Returns ``(y, extra)`` in training, ``y`` otherwise; ``extra`` is the output of training-only branches."""


class _Apply:
    def __init__(self, children: Children, params: Params, state: State, train: bool, key: KeyLike | None):
        for name, value in (("params", params), ("state", state)):
            if not isinstance(value, dict):
                raise ParameterError(f"{name} must be a dict with an entry for each child, got {type(value).__name__}")
        self.params, self.state, self.train, self.key = params, state, train, key
        self.runs = Runs()
        # A child without a name may return its state unchanged, so it must not receive entries that a sibling updated.
        named = {name for name, _ in children}
        self.unnamed_state = {name: value for name, value in state.items() if name not in named}
        self.renewed: dict[int, State] = {}  # by the identity of children without a name
        # A child that does not run in this pass keeps its state.
        self.new_state: State = {name: state[name] for name in named if name in state}

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        count = self.runs.count(name, layer)
        if name:
            params, state = self.params.get(name, {}), self.new_state.get(name) or self.state.get(name, {})
        else:
            params, state = self.params, self.unnamed_state | self.renewed.get(id(layer), {})
        key = child_key(self.key, name)
        if count and key is not None:
            key = jax.random.fold_in(key, count)  # noise differs from run to run
        label = label_of(name, layer, count)
        y, new = run_child(name, layer, params, state, x, train=self.train, key=key, label=label)
        if new:
            self.new_state.update({name: new} if name else new)
            if not name:
                self.renewed[id(layer)] = new
        return y

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        return function(*xs)

    def aside(self, y: Tree, extra: Tree) -> Tree:
        return (y, extra) if self.train else y


class _Init:
    train = True

    def __init__(self, key: KeyLike):
        self.key = key
        self.params: Params = {}
        self.state: State = {}
        self.runs = Runs()
        self.made: dict[tuple[str, int], tuple[Params, State]] = {}

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        count = self.runs.count(name, layer)
        if count:
            return self._again(label_of(name, layer, count), layer, *self.made[name, id(layer)], x)
        key = child_key(self.key, name)
        assert key is not None
        params, state, y = init_child(name, layer, key, x)
        self.made[name, id(layer)] = params, state
        for own, new in ((self.params, params), (self.state, state)):
            entries = {name: new} if name and new else {} if name else new
            twice = own.keys() & entries.keys()
            if twice:
                raise ShapeError(
                    f"names of children must be unique, got {sorted(twice)} from two children at one level: give one "
                    "of the children a name"
                )
            own.update(entries)
        return y

    def _again(self, label: str, layer: Layer, params: Params, state: State, x: Tree) -> Tree:
        """Returns the output's shape of a child that is already initialized."""
        with located(label, layer):
            return shape_of(lambda p, s, x: layer.apply(p, s, x)[0], params, state, x)

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        return shape_of(function, *xs)

    def aside(self, y: Tree, extra: Tree) -> Tree:
        return y


# --- Data -------------------------------------------------------------------------------------------------------------


def name_of(value: Any) -> str:
    """Returns the printed form of a field: callables as module.qualname, dtypes by name, other values as their repr."""
    if isinstance(value, functools.partial):
        arguments = [*map(name_of, value.args), *(f"{k}={name_of(v)}" for k, v in value.keywords.items())]
        return f"functools.partial({', '.join([name_of(value.func), *arguments])})"
    if isinstance(value, np.dtype):
        return repr(value.name)
    # A jnp.ufunc has a __name__ only.
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if callable(value) and not isinstance(value, Layer) and name:
        return f"{value.__module__}.{name}"
    return repr(value)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


class Described:
    """Prints a dataclass as the call that creates it, without fields that have their default."""

    call: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, field.name, _frozen(value))
        self.check()

    def check(self) -> None:
        """Raises where a hyperparameter is not valid for any input."""

    def changed(self) -> dict[str, Any]:
        """Returns the fields that do not have their default."""
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {f.name: v for f, v in values.items() if v is not f.default and v != f.default}

    def arguments(self) -> list[str]:
        """Returns the printed arguments, without initializers that are local functions."""
        compared = {field.name for field in dataclasses.fields(self) if field.compare}  # type: ignore[arg-type]
        shown = {name: name_of(value) for name, value in self.changed().items()}
        return [f"{name}={text}" for name, text in shown.items() if name in compared or "<locals>" not in text]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        # The default initializers are closures, which cannot be pickled.
        return functools.partial(type(self), **self.changed()), ()

    def __repr__(self) -> str:
        arguments = self.arguments()
        name = self.call or type(self).__name__
        line = f"{name}({', '.join(arguments)})"
        if "\n" not in line and len(line) <= 100:
            return line
        inside = ",\n".join(arguments).replace("\n", "\n  ")
        return f"{name}(\n  {inside},\n)"


class Composite(Described):
    """The base class of composites: a subclass is a frozen dataclass with ``children`` and ``route``.

    `serial`, `residual` and all other composites are subclasses. A custom composite has the same support:
    `jaxconv.summary`, `jaxconv.inspect.activations`, receptive fields, error paths, `frozen`, weight import.

    - ``children``: a tuple of ``(name, layer)``, a field or a property. A child's parameters are ``params[name]``; the
      parameters of a child named "" are entries of the composite's params.
    - ``route(run, x)``: returns the output. Route calls ``run(name, layer, x)`` for a child, and
      ``run.join(function, *xs)`` for any other computation on arrays. Other code in route may use shapes only, since
      `init` and `summary` call route with shapes in place of arrays.

    One layer object may run several times: the runs share weights, their gradients are added, batch statistics are
    updated in order, and `summary` counts the parameters once and the multiply-adds each time. The runs after the first
    have the paths ``name[1]``, ``name[2]``.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, repr=False)
    ... class Siamese(jc.Composite):
    ...     children: tuple
    ...
    ...     def route(self, run, x):
    ...         (name, branch), = self.children
    ...         left, right = (run(name, branch, image) for image in x)
    ...         return run.join(lambda a, b: jnp.abs(a - b), left, right)
    >>> net = Siamese((("branch", jc.serial(jc.Conv(4), jc.GlobalAvgPool())),))
    >>> print(jc.summary(net, ((1, 8, 8, 3), (1, 8, 8, 3))))
    path         layer          output        params   MACs  receptive field
    ------------------------------------------------------------------------
    branch.0     Conv           (1, 8, 8, 4)     112  6,912  ?
    branch.1     GlobalAvgPool  (1, 4)                       ?
    branch[1].0  Conv           (1, 8, 8, 4)          6,912  ?
    branch[1].1  GlobalAvgPool  (1, 4)                       ?
    ------------------------------------------------------------------------
    112 parameters, 13,824 multiply-adds on input (1, 8, 8, 3) (1, 8, 8, 3)
    """

    children: Children

    def route(self, run: Run, x: Tree) -> Tree:
        """Returns the output; calls ``run(name, layer, x)`` for children and ``run.join`` for other computations."""
        raise NotImplementedError

    def with_children(self, layers: Sequence[Layer]) -> "Composite":
        """Returns the same composite with other layers under the children's names."""
        names = [name for name, _ in self.children]
        return dataclasses.replace(self, children=tuple(zip(names, layers, strict=True)))  # type: ignore[type-var]

    def init(self, key: Key, x: Tree) -> tuple[Params, State]:
        """Returns fresh (params, state) for inputs shaped like ``x``: array, ShapeDtypeStruct or shape tuple."""
        check_acyclic(self)
        return self.init_with_output(key, x)[:2]

    def init_with_output(self, key: Key, x: Tree) -> tuple[Params, State, Tree]:
        """Returns ``init`` and the shape of the output."""
        run = _Init(key)
        y = self.route(run, as_struct(x))
        return run.params, run.state, y

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Key = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""
        run = _Apply(self.children, params, state, train, key)
        y = self.route(run, x)
        return y, run.new_state

    def check(self) -> None:
        names = list(level_names(self.children))
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ShapeError(f"names of children must be unique, got {', '.join(map(repr, twice))} more than once")


def level_names(children: Children) -> Iterator[str]:
    """Yields the names at the level of a composite with these children."""
    for name, layer in children:
        if name:
            yield name
        else:
            yield from level_names(getattr(layer, "children", ()))


class Located(NamedTuple):
    """A layer and its path."""

    path: str
    layer: Layer


def walk(net: Layer, path: tuple[str, ...] = (), _around: tuple[Layer, ...] = ()) -> Iterator[Located]:
    """Yields each named layer inside ``net``, with its path, parents first.

    Raises:
      ShapeError: a layer contains itself.

    >>> [path for path, _ in walk(jc.serial(jc.Conv(8), body=jc.serial(jc.Conv(8))))]
    ['0', 'body', 'body.0']
    """
    if any(net is layer for layer in _around):
        raise ShapeError(f"children must not contain the layer itself, got a cycle at {'.'.join(path) or 'the top'}")
    for name, layer in getattr(net, "children", ()):
        inner = (*path, name) if name else path
        if name:
            yield Located(".".join(inner), layer)
        yield from walk(layer, inner, (*_around, net))


def check_acyclic(net: Layer) -> None:
    """Raises ShapeError where a layer contains itself."""
    for _ in walk(net):
        pass


def map_layers(net: Layer, function: Callable[[Layer], Layer]) -> Layer:
    """Returns ``net`` with ``function(layer)`` in place of each layer, innermost first, under the same names.

    Args:
      net: a layer.
      function: returns the replacement of a layer, or the layer itself.

    Raises:
      TypeError: a child changed inside a composite that is not a dataclass with a field ``children``.

    >>> net = jc.serial(jc.Conv(8), jc.MaxPool(2))
    >>> map_layers(net, lambda l: jc.AvgPool(l.window) if isinstance(l, jc.MaxPool) else l)
    serial(Conv(features=8), AvgPool(window=2))
    """
    children: Children = getattr(net, "children", ())
    return function(rebuilt(net, [map_layers(layer, function) for _, layer in children]))


def rebuilt(net: Layer, layers: Sequence[Layer]) -> Layer:
    """Returns ``net`` with ``layers`` in place of its children, or ``net`` itself where none changed."""
    children: Children = getattr(net, "children", ())
    if all(new is old for new, (_, old) in zip(layers, children, strict=True)):
        return net
    if isinstance(net, Composite):
        return net.with_children(layers)
    if dataclasses.is_dataclass(net) and any(f.name == "children" for f in dataclasses.fields(net)):
        named = tuple((name, layer) for (name, _), layer in zip(children, layers, strict=True))
        return dataclasses.replace(net, children=named)  # type: ignore[return-value]
    raise TypeError(f"{type(net).__name__} must be a dataclass with a field children for its children to be replaced")


__all__ = ["Composite", "Layer", "Run", "map_layers"]
