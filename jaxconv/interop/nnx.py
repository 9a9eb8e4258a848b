"""Networks as nnx modules, and nnx modules as layers."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import jax
import jax.extend.random
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import unflatten_dict

from jaxconv.child import child_key
from jaxconv.compose.base import as_layer
from jaxconv.described import Described, name_of
from jaxconv.errors import ArgumentError, MissingKeyError
from jaxconv.interop.mode import Flags, TrainArgument, flag_values, spread, train_flags
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array, Layer, LayerLike, Params, State, Tree, take

Path = tuple[str | int, ...]
Randomness = nnx.Rngs | nnx.RngStream | Array


class NnxNet(nnx.Module):
    """An nnx module that runs a network; created by `to_nnx`.

    Attributes:
      net: the network.
      params: the network's params, each array a ``nnx.Param``.
      state: the network's state, each array a ``nnx.BatchStat``.
      rngs: the stream of random keys, or None.
      deterministic, use_running_average: both False in training and True in evaluation; the two must be equal.
    """

    def __init__(self, net: Layer, params: Params, state: State, rngs: nnx.RngStream | None = None):
        self.net = net
        self.params = nnx.data(jax.tree.map(lambda a: nnx.Param(jnp.asarray(a)), params))
        self.state = nnx.data(jax.tree.map(lambda a: nnx.BatchStat(jnp.asarray(a)), state))
        self.rngs = nnx.data(rngs)
        self.deterministic = False
        self.use_running_average = False

    def __call__(self, x: Tree, *, rngs: Randomness | None = None) -> Tree:
        """Returns the network's output; in training updates ``state``.

        Args:
          x: the input.
          rngs: a stream to draw the random key from in place of the module's stream, or a random key.
        """
        if self.deterministic != self.use_running_average:
            raise ArgumentError(
                "deterministic and use_running_average must be equal for a jaxconv network, "
                f"got {self.deterministic} and {self.use_running_average}"
            )
        train = not self.deterministic
        params, state = nnx.as_pure((self.params, self.state))
        key = _drawn(self.rngs if rngs is None else rngs) if train else None
        try:
            y, new = self.net.apply(params, state, x, train=train, key=key)
        except MissingKeyError as error:
            if key is None:
                error.message = "rngs must be given to to_nnx, or to the call, in training, got None"
            raise
        if train:
            jax.tree.map(lambda v, a: v.set_value(a), self.state, new, is_leaf=lambda v: isinstance(v, nnx.Variable))
        return y

    def set_view(self, deterministic: bool | None = None, use_running_average: bool | None = None) -> None:
        """Sets the mode for ``nnx.view``.

        Args:
          deterministic: True in evaluation.
          use_running_average: True in evaluation; the two must be equal when the network runs.
        """
        for name, value in (("deterministic", deterministic), ("use_running_average", use_running_average)):
            if value is not None:
                setattr(self, name, value)


def _drawn(rngs: Randomness | None) -> Array | None:
    if isinstance(rngs, nnx.Rngs):
        return rngs["dropout"]()
    return rngs() if isinstance(rngs, nnx.RngStream) else rngs


def to_nnx(
    net: LayerLike,
    x: Tree = None,
    *,
    rngs: nnx.Rngs | None = None,
    params: Params | None = None,
    state: State | None = None,
) -> nnx.Module:
    """Returns a ``flax.nnx`` module that runs a network, with initial weights for ``x`` or with given weights.

    ``module.params`` and ``module.state`` are the network's trees with a ``nnx.Param`` or ``nnx.BatchStat`` for each
    array: ``module.params["conv1"]["kernel"][...]``. Like nnx's layers the module is initially in training mode;
    ``module.eval()`` and ``module.train()`` switch. The inverse of `from_nnx`.

    Args:
      net: a layer.
      x: the input, or its shape, as in ``net.init``.
      rngs: the stream "params" draws initial weights; the stream "dropout" is forked for the random keys of training. A
        network without random numbers does not need it.
      params, state: the network's weights and state, in place of ``x``.

    Raises:
      ArgumentError: neither ``x`` nor ``params`` is given, or both.
      MissingKeyError: initial weights are needed, and ``rngs`` is None.

    >>> from flax import nnx
    >>> net = jc.serial(conv=jc.Conv(8), bn=jc.BatchNorm(), pool=jc.GlobalAvgPool(), drop=jc.Dropout(0.5))
    >>> module = to_nnx(net, (1, 8, 8, 3), rngs=nnx.Rngs(0))
    >>> module.params["conv"]["kernel"].shape, module.state["bn"]["mean"][...].shape
    ((3, 3, 3, 8), (8,))
    >>> grads = nnx.grad(lambda module, x: module(x).sum())(module, jnp.ones((4, 8, 8, 3)))
    >>> module.eval()
    >>> module(jnp.ones((4, 8, 8, 3))).shape
    (4, 8)
    """
    if (x is None) == (params is None):
        got = "neither" if x is None else "both"
        raise ArgumentError(f"exactly one of x, for initial weights, and params must be given, got {got}")
    net = as_layer(net)
    if params is None:
        if rngs is None:
            raise MissingKeyError("rngs must be given to draw initial weights, got None: write rngs=nnx.Rngs(0)")
        params, state = net.init(rngs.params(), x)
    stream = rngs["dropout"].fork() if rngs is not None and {"dropout", "default"} & {*rngs} else None
    if isinstance(net, FromNnx):
        return net.merged(params, state or {}, _drawn(stream))
    return NnxNet(net, params, state or {}, stream)


@dataclass(frozen=True)
class Slot:
    """A variable of an nnx module at one path; ``role`` is "params", "state", "key" or "count"."""

    path: Path
    role: str
    shape: tuple[int, ...]
    dtype: Any

    def __repr__(self) -> str:
        return f"{'.'.join(map(str, self.path))}{self.shape}"


_ROLES = ((nnx.Param, "params"), (nnx.RngKey, "key"), (nnx.RngCount, "count"), (object, "state"))


@dataclass(frozen=True, repr=False)
class FromNnx(Described):
    """A layer that runs an nnx module; created by `from_nnx`."""

    call: ClassVar[str] = "from_nnx"
    kind: type
    # A graph definition prints as pages of text with addresses, so it is not part of the repr.
    graph: nnx.GraphDef = field(repr=False)
    slots: tuple[Slot, ...]
    train_argument: Flags = ()
    make: Callable[[nnx.Rngs], nnx.Module] | None = field(default=None, repr=False)

    def arguments(self) -> list[str]:
        return [name_of(self.kind)]

    def init(self, key: KeyLike, x: Tree) -> tuple[Params, State]:
        """Returns fresh (params, state) from ``make``; without ``make`` only under ``jax.eval_shape``."""
        if self.make is None:
            message = "init cannot draw the weights of an nnx module: give from_nnx make="
            refusing = _refusing_key(ArgumentError, message)
            return self._trees({n.path: jax.random.bits(refusing, n.shape).astype(n.dtype) for n in self.slots})
        values, slots = _read(self.make(nnx.Rngs(as_key(key))))
        if slots != self.slots:
            odd = min(".".join(map(str, n.path)) for n in {*slots} ^ {*self.slots})
            raise ArgumentError(f"make must return a module like that of from_nnx, got a difference at {odd!r}")
        return self._trees(values)

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""
        module = self.merged(params, state, key)
        (module.train if train else module.eval)()
        y = module(*spread(module, self.train_argument, x), **flag_values(self.train_argument, train))
        return y, self._trees(_values(module))[1] if train else state

    def merged(self, params: Params, state: State, key: Array | None) -> nnx.Module:
        """Returns the module with these variables, and with streams of random keys derived from ``key``."""
        trees = {"params": params, "state": state}

        def value(slot: Slot) -> Any:
            if slot.role == "count":
                return jnp.zeros(slot.shape, slot.dtype)
            if slot.role == "key":
                own = child_key(key, ".".join(map(str, slot.path)))
                if own is None:
                    return _refusing_key(MissingKeyError, _NO_KEY, slot.shape)
                return jax.random.split(own, slot.shape) if slot.shape else own
            tree: Any = trees[slot.role]
            for name in slot.path:
                tree = take(tree, str(name), slot.role)
            return tree

        flat: Any = {slot.path: value(slot) for slot in self.slots}
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def _trees(self, values: Mapping[Path, Any]) -> tuple[Params, State]:
        def tree(role: str) -> dict[str, Any]:
            return unflatten_dict({(*map(str, n.path),): values[n.path] for n in self.slots if n.role == role})

        return tree("params"), tree("state")


_NO_KEY = "key must be given to an nnx module with random numbers, got None: pass key to apply, or rngs to to_nnx"


def _refusing_key(kind: Any, message: str, shape: tuple[int, ...] = ()) -> Array:
    """Returns random keys that raise when they are used, and only then, under any transformation.

    A module passes keys to its submodules in evaluation too; only a draw shows that a key is needed.
    """
    return jax.random.wrap_key_data(jnp.zeros((*shape, 1), jnp.uint32), impl=_refusing(kind, message))


@functools.cache
def _refusing(kind: Any, message: str) -> Any:
    def refuse(*_: Any) -> NoReturn:
        raise kind(message)

    return jax.extend.random.define_prng_impl(
        key_shape=(1,), seed=refuse, split=refuse, random_bits=refuse, fold_in=refuse, name="refusing", tag="none"
    )


def _values(module: nnx.Module) -> dict[Path, Any]:
    flat: Any = nnx.to_flat_state(nnx.as_pure(nnx.state(module)))
    return dict(flat)


def _read(module: nnx.Module) -> tuple[dict[Path, Any], tuple[Slot, ...]]:
    """Returns the arrays of a module by path, and their static description."""
    values = {path: jnp.asarray(value) for path, value in _values(module).items()}
    kinds = dict(nnx.to_flat_state(nnx.state(module)))
    slots = []
    for path, value in values.items():
        role = next(role for kind, role in _ROLES if isinstance(kinds[path], kind))
        slots.append(Slot(path, role, value.shape, value.dtype if role != "key" else None))
    return values, tuple(slots)


def from_nnx(
    module: nnx.Module,
    *,
    train_argument: TrainArgument = None,
    make: Callable[[nnx.Rngs], nnx.Module] | None = None,
) -> tuple[Layer, Params, State]:
    """Returns a layer that runs a ``flax.nnx`` module, and the module's arrays as params and state.

    If the module's call has several arguments without default, the layer's input is a tuple of these: of a recurrent
    cell ``(carry, inputs)``.

    The layer contains the module's graph definition and no array. ``params`` has each ``nnx.Param``; ``state`` has the
    other variables, which training updates, except random keys, which are derived from ``key`` for each stream.
    ``train`` sets ``deterministic`` and ``use_running_average`` like ``module.train()`` and ``module.eval()``. List
    items are named "0", "1", .... The inverse of `to_nnx`: a module made by `to_nnx` returns its network.

    Args:
      module: an nnx module, which is not changed.
      train_argument: the argument of the module's call that selects training, as in `from_linen`.
      make: a function from ``nnx.Rngs`` to a module like this one, for ``layer.init``. A graph definition cannot draw
        weights: without ``make``, ``init`` works under `jax.eval_shape` only, and so in `jaxconv.summary`.

    Raises:
      TypeError: ``module`` is not an nnx module.
      ArgumentError: ``train_argument`` does not name an argument.

    >>> from flax import nnx
    >>> conv, params, state = from_nnx(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)))
    >>> net = jc.serial(conv=conv, relu=jax.nn.relu)
    >>> net.apply({"conv": params}, {}, jnp.ones((1, 8, 8, 3)))[0].shape
    (1, 8, 8, 8)
    >>> jc.summary(net, (1, 8, 8, 3)).parameters
    224
    >>> cell, params, state = from_nnx(nnx.LSTMCell(3, 8, rngs=nnx.Rngs(0)))
    >>> carry = (jnp.zeros((1, 8)), jnp.zeros((1, 8)))
    >>> (carry, y), _ = cell.apply(params, state, (carry, jnp.ones((1, 3))))
    >>> y.shape
    (1, 8)
    """
    if isinstance(module, NnxNet):
        return module.net, *nnx.as_pure((module.params, module.state))
    if not isinstance(module, nnx.Module):
        raise TypeError(f"module must be a flax.nnx module, got {module!r}")
    values, slots = _read(module)
    # Each call sets the mode, so the module's present mode is not part of the layer.
    module = nnx.clone(module)
    module.train()
    flags = train_flags(module, train_argument)
    layer = FromNnx(type(module), nnx.graphdef(module), slots, flags, make)
    return layer, *layer._trees(values)


__all__ = ["from_nnx", "to_nnx"]
