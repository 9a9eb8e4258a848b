"""Composites: layers of layers. `Composite.route` describes one, for `init`, `apply` and `summary` alike."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from jaxconv.child import child_key, run_child
from jaxconv.described import Described
from jaxconv.errors import ArgumentError, ParameterError, located
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Children, Key, Layer, Params, State, Tree
from jaxconv.paths import Runs, label_of
from jaxconv.structs import as_struct, shape_of
from jaxconv.tree import check_acyclic, level_names


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
          ArgumentError: another layer has run under this name.
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
                raise ArgumentError(
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


def init_child(name: str, layer: Layer, key: Array, x: Tree) -> tuple[Params, State, Tree]:
    """Returns the params and the state of the child ``name``, and the shape of its output."""
    with located(name, layer):
        if isinstance(layer, Composite):
            return layer.init_with_output(key, x)
        params, state = layer.init(key, x)
        return params, state, shape_of(lambda p, s, x: layer.apply(p, s, x)[0], params, state, x)


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
        names = level_names(self)
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ArgumentError(f"names of children must be unique, got {', '.join(map(repr, twice))} more than once")


__all__ = ["Composite", "Run"]
