"""A layer is data with two pure functions; here is the one function that runs a layer inside another.

Any object with these two methods is a layer:

- ``init(key, x) -> (params, state)``: ``x`` says the input's shape. ``params`` is what the optimizer moves, ``state``
  what a training pass updates. Both are nested dicts of arrays.
- ``apply(params, state, x, *, train=False, key=None) -> (y, state)``.

A composite has ``children``, a tuple of ``(name, layer)``. The child's name is its key in ``params`` and ``state``; a
child named "" stands at its parent's own level.
"""

import contextlib
import contextvars
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import LocatedError, MissingKeyError, ParameterError, ShapeError

Array = jax.Array
Tree = Any
Params = dict[str, Any]
State = dict[str, Any]
Children = tuple[tuple[str, "Layer"], ...]


@runtime_checkable
class Layer(Protocol):
    """What makes an object a layer."""

    def init(self, key: Array, x: Tree) -> tuple[Params, State]:
        """Returns fresh parameters and state for inputs shaped like ``x``."""

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""


def struct_of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Returns what jax makes of an array of this shape and type, which may be NumPy's: of doubles float32, say."""
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


def check_key(key: Any) -> None:
    """Raises MissingKeyError where a seed stands in place of a random key."""
    if isinstance(key, int | np.integer):
        raise MissingKeyError(f"key must be a random key, got the number {key}: write jax.random.key({key})")


def child_key(key: Array | None, name: str) -> Array | None:
    """Returns the random key of the child ``name``: of its name only, so a new sibling changes nothing for it."""
    check_key(key)
    return key if key is None or not name else jax.random.fold_in(key, zlib.crc32(name.encode()))


def take(entries: Params | State, name: str, argument: str = "params") -> Array:
    """Returns one entry of a layer's params or state, or raises ParameterError, which says which of them it was."""
    try:
        return entries[name]
    except (KeyError, TypeError):
        has = ", ".join(map(repr, entries)) if isinstance(entries, dict) and entries else "none"
        raise ParameterError(f"{argument} must have an entry {name!r}, it has {has}") from None


# --- Errors -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def located(name: str, layer: Layer) -> Iterator[None]:
    """Puts the child's name into the path of any error that passes."""
    kind = getattr(layer, "type_name", type(layer).__name__)
    try:
        yield
    except LocatedError as error:
        error.locate(name, kind)
        raise
    except Exception as error:
        path, where = getattr(error, "_jaxconv_path", ((), kind))
        path = (name, *path) if name else path
        with contextlib.suppress(AttributeError):
            error._jaxconv_path = path, where  # type: ignore[attr-defined]
            _note(error, f"in layer {'.'.join(path)} ({where})")
        raise


def _note(error: Exception, note: str) -> None:
    """Keeps one note about the layer: an outer layer's replaces an inner one's, which it contains."""
    notes = [n for n in getattr(error, "__notes__", ()) if not n.startswith("in layer ")]
    error.__notes__ = [*notes, note]


# --- Capture ----------------------------------------------------------------------------------------------------------


class Capture:
    """What a look inside collects, and what it adds, by the path of the layer.

    Args:
      paths: which layers' outputs to keep; None keeps all.
      add: arrays to add to outputs.
      path: the path of the layer inside which the look begins.
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
        """Whether what runs now is in the look's own trace.

        In one that a layer has opened by itself, what is kept would be a leaked tracer, and what is added could stay
        behind in that layer's compiled function.
        """
        return self.trace == jax.extend.core.get_opaque_trace_state()

    def visit(self, y: Tree) -> Tree:
        """Adds to the output of the layer at the present path, and keeps it."""
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
    """Makes ``capture`` the one that sees what runs inside the block."""
    token = _CAPTURE.set(capture)
    try:
        yield
    finally:
        _CAPTURE.reset(token)


def staged(transform: Callable[[Callable], Callable], function: Callable[..., Tree], *args: Tree) -> Tree:
    """Returns ``transform(function)(*args)`` for a transform that opens a trace (remat, a scan), with capture intact.

    What is captured inside becomes an output of the transformed function and is kept outside. The function that is
    transformed gets as its first argument what is added inside.
    """
    outer = _CAPTURE.get()
    if outer is None or not outer.reaches:
        return transform(lambda add, *args: (function(*args), {}))({}, *args)[0]
    inside = ".".join((*outer.path, ""))
    add = {path: value for path, value in outer.add.items() if path.startswith(inside)}
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
) -> tuple[Tree, State]:
    """Runs ``layer`` as the child ``name`` of the layer that calls: scope for profiles, path for errors, capture.

    Args:
      name: the child's name; "" for one at the parent's own level.
      layer: the child.
      params, state: the child's own.
      x: its input.
      train, key: as in ``apply``; the key is the child's own, see `child_key`.

    Returns:
      The child's output and its new state.
    """
    capture = _CAPTURE.get() if name else None
    scope = jax.named_scope(name) if name else contextlib.nullcontext()
    if capture:
        capture.path = (*capture.path, name)
    try:
        with located(name, layer), scope:
            result = layer.apply(params, state, x, train=train, key=key)
            if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
                kinds = [type(part).__name__ for part in result] if isinstance(result, tuple) else type(result).__name__
                raise ShapeError(f"apply must return (y, state) with a dict as state, got {kinds}")
            y, new_state = result
            return (capture.visit(y) if capture else y), new_state
    finally:
        if capture:
            capture.path = capture.path[:-1]


def init_child(name: str, layer: Layer, key: Array, x: Tree) -> tuple[Params, State, Tree]:
    """Returns the params and the state of the child ``name``, and the shape of its output."""
    with located(name, layer):
        if isinstance(layer, Composite):
            return layer.init_with_output(key, x)
        params, state = layer.init(key, x)
        return params, state, jax.eval_shape(lambda p, s, x: layer.apply(p, s, x)[0], params, state, x)


class Run(Protocol):
    """How a composite's ``route`` runs its children; each way of looking at a network is one of these.

    ``train`` says whether a branch that is there for training only is to run: in training, and to be initialised.
    """

    train: bool

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        """Runs one child."""

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        """Runs a function of children's outputs that works place by place."""

    def aside(self, y: Tree, extra: Tree) -> Tree:
        """Returns ``(y, extra)`` in training, ``y`` otherwise: what branches that are there for training only gave."""


class _Apply:
    def __init__(self, children: Children, params: Params, state: State, train: bool, key: Array | None):
        for name, value in (("params", params), ("state", state)):
            if not isinstance(value, dict):
                raise ParameterError(f"{name} must be a dict with an entry for each child, got {type(value).__name__}")
        self.params, self.state, self.train, self.key = params, state, train, key
        # A child without a name may return the state as it got it, so it gets none that a sibling has renewed.
        named = {name for name, _ in children}
        self.unnamed_state = {name: value for name, value in state.items() if name not in named}
        # A child that does not run this time keeps its state.
        self.new_state: State = {name: state[name] for name in named if name in state}

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        if name:
            params, state = self.params.get(name, {}), self.state.get(name, {})
        else:
            params, state = self.params, self.unnamed_state
        key = child_key(self.key, name)
        y, new = run_child(name, layer, params, state, x, train=self.train, key=key)
        if new:
            self.new_state.update({name: new} if name else new)
        return y

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        return function(*xs)

    def aside(self, y: Tree, extra: Tree) -> Tree:
        return (y, extra) if self.train else y


class _Init:
    train = True

    def __init__(self, key: Array):
        self.key = key
        self.params: Params = {}
        self.state: State = {}

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        key = child_key(self.key, name)
        assert key is not None
        params, state, y = init_child(name, layer, key, x)
        for own, new in ((self.params, params), (self.state, state)):
            entries = {name: new} if name and new else {} if name else new
            twice = own.keys() & entries.keys()
            if twice:
                raise ShapeError(
                    f"two children share the entries {sorted(twice)}: name them, or inline one of them less"
                )
            own.update(entries)
        return y

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        return jax.eval_shape(function, *xs)

    def aside(self, y: Tree, extra: Tree) -> Tree:
        return y


# --- Data -------------------------------------------------------------------------------------------------------------


def name_of(value: Any) -> str:
    """Returns how a field prints: callables as module.qualname, dtypes by name, all else as its repr."""
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
    """Prints a dataclass as the call that makes it, without the fields left at their default."""

    call: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, field.name, _frozen(value))
        self.check()

    def check(self) -> None:
        """Raises where a hyperparameter cannot be right whatever the input."""

    def changed(self) -> dict[str, Any]:
        """Returns the fields that are not at their default."""
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {f.name: v for f, v in values.items() if v is not f.default and v != f.default}

    def arguments(self) -> list[str]:
        """Returns the printed arguments, without initialisers that no name leads to."""
        compared = {field.name for field in dataclasses.fields(self) if field.compare}  # type: ignore[arg-type]
        shown = {name: name_of(value) for name, value in self.changed().items()}
        return [f"{name}={text}" for name, text in shown.items() if name in compared or "<locals>" not in text]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        # The default initialisers are closures, which pickle refuses.
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
    """A layer made of layers: a subclass says how ``x`` passes through its children, once, in ``route``."""

    children: Children

    def route(self, run: Run, x: Tree) -> Tree:
        """Returns the output, calling ``run(name, layer, x)`` for children and ``run.join`` for what joins them."""
        raise NotImplementedError

    def with_children(self, layers: Sequence[Layer]) -> "Composite":
        """Returns the same composite of other layers, which take the children's names."""
        names = [name for name, _ in self.children]
        return dataclasses.replace(self, children=tuple(zip(names, layers, strict=True)))  # type: ignore[type-var]

    def init(self, key: Array, x: Tree) -> tuple[Params, State]:
        """Returns fresh (params, state) for inputs shaped like ``x``: array, ShapeDtypeStruct or shape tuple."""
        return self.init_with_output(key, x)[:2]

    def init_with_output(self, key: Array, x: Tree) -> tuple[Params, State, Tree]:
        """Returns ``init`` and the shape of the output."""
        run = _Init(key)
        y = self.route(run, as_struct(x))
        return run.params, run.state, y

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""
        run = _Apply(self.children, params, state, train, key)
        y = self.route(run, x)
        return y, run.new_state

    def check(self) -> None:
        names = list(level_names(self.children))
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ShapeError(f"names of children must be different, got {', '.join(map(repr, twice))} more than once")


def level_names(children: Children) -> Iterator[str]:
    """Yields the names that stand at the level of a composite with these children."""
    for name, layer in children:
        if name:
            yield name
        else:
            yield from level_names(getattr(layer, "children", ()))


class Located(NamedTuple):
    """A layer and its path."""

    path: str
    layer: Layer


def walk(net: Layer, path: tuple[str, ...] = ()) -> Iterator[Located]:
    """Yields each layer inside ``net`` that has a name, with its path, parents first.

    >>> [path for path, _ in walk(jc.serial(jc.Conv(8), body=jc.serial(jc.Conv(8))))]
    ['0', 'body', 'body.0']
    """
    for name, layer in getattr(net, "children", ()):
        below = (*path, name) if name else path
        if name:
            yield Located(".".join(below), layer)
        yield from walk(layer, below)


def map_layers(net: Layer, function: Callable[[Layer], Layer]) -> Layer:
    """Returns ``net`` rebuilt with ``function(layer)`` in place of each layer, innermost first, names kept.

    Args:
      net: a layer.
      function: returns the layer to stand there: the same one to leave it.

    Raises:
      TypeError: a child changed inside a composite that is not a dataclass with a field ``children``.

    >>> net = jc.serial(jc.Conv(8), jc.MaxPool(2))
    >>> map_layers(net, lambda l: jc.AvgPool(l.window) if isinstance(l, jc.MaxPool) else l)
    serial(Conv(features=8), AvgPool(window=2))
    """
    children: Children = getattr(net, "children", ())
    return function(rebuilt(net, [map_layers(layer, function) for _, layer in children]))


def rebuilt(net: Layer, layers: Sequence[Layer]) -> Layer:
    """Returns ``net`` with ``layers`` in place of its children, or itself where they are the same; see `map_layers`."""
    children: Children = getattr(net, "children", ())
    if all(new is old for new, (_, old) in zip(layers, children, strict=True)):
        return net
    if isinstance(net, Composite):
        return net.with_children(layers)
    if dataclasses.is_dataclass(net) and any(f.name == "children" for f in dataclasses.fields(net)):
        named = tuple((name, layer) for (name, _), layer in zip(children, layers, strict=True))
        return dataclasses.replace(net, children=named)  # type: ignore[return-value]
    raise TypeError(f"{type(net).__name__} cannot be rebuilt: it is no dataclass with a field children")


__all__ = ["Layer", "map_layers"]
