"""Networks as linen modules, and linen modules as layers."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import linen
from flax.core import meta, unfreeze
from flax.errors import InvalidRngError

from jaxconv.child import child_key
from jaxconv.compose.base import as_layer
from jaxconv.described import Described, name_of
from jaxconv.errors import MissingKeyError
from jaxconv.interop.mode import Flags, TrainArgument, flag_values, parameters, spread, train_flags
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Layer, LayerLike, Params, State, Tree
from jaxconv.structs import as_struct


class LinenNet(linen.Module):
    """A linen module that runs a network; created by `to_linen`."""

    net: Layer

    @linen.compact
    def __call__(self, x: Tree, train: bool = False) -> Tree:
        """Returns the network's output."""
        params, state = self._collection("params"), self._collection("batch_stats")
        if self.is_initializing() and not params and not state:
            params, state = self.net.init(self.make_rng("params"), x)
            self._put(params=params, batch_stats=state)
        # Like Flax's layers, which use the rng "params" where there is no rng "dropout".
        drawn = train and (self.has_rng("dropout") or self.has_rng("params"))
        try:
            y, new = self.net.apply(params, state, x, train=train, key=self.make_rng("dropout") if drawn else None)
        except MissingKeyError as error:
            error.message = 'rngs must have a key "dropout" in training, got none: apply(..., rngs={"dropout": key})'
            raise
        if train and not self.is_initializing():
            self._put(batch_stats=new)
        return y

    def _collection(self, name: str) -> dict[str, Tree]:
        return unfreeze(meta.unbox(self.variables.get(name, {})))

    def _put(self, **collections: dict[str, Tree]) -> None:
        for collection, tree in collections.items():
            for name, value in tree.items():
                self.put_variable(collection, name, value)


def to_linen(net: LayerLike, *, name: str | None = None) -> linen.Module:
    """Returns a ``flax.linen`` module that runs a network, for Flax's training loops or inside another module.

    The module's collections are the network's trees, so that checkpoints are exchangeable: ``variables["params"]`` is
    ``params``, ``variables["batch_stats"]`` is ``state``; a network without state has no such collection. The module's
    methods are Flax's: ``init(rngs, x)``; ``apply(variables, x)``; in training ``apply(variables, x, train=True,
    rngs={"dropout": key}, mutable=["batch_stats"])``. As with `flax.linen.BatchNorm` and `flax.linen.Dropout`, ``init``
    does not update statistics, and ``make_rng`` derives the keys. The inverse of `from_linen`.

    Args:
      net: a layer.
      name: the module's name inside a parent, as in all linen modules.

    >>> net = jc.serial(jc.Conv(8), jc.BatchNorm(), jax.nn.relu, jc.GlobalAvgPool(), jc.Dropout(0.5), jc.Dense(3))
    >>> module, x = to_linen(net), jnp.ones((2, 8, 8, 1))
    >>> variables = module.init(jax.random.key(0), x)
    >>> module.apply(variables, x).shape
    (2, 3)
    >>> y, updates = module.apply(
    ...     variables, x, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
    >>> y.shape, sorted(updates["batch_stats"]["1"])
    ((2, 3), ['mean', 'var'])
    >>> net.apply(variables["params"], variables["batch_stats"], x)[0].shape
    (2, 3)
    """
    if isinstance(net, FromLinen):
        return net.module.copy(name=name)
    return LinenNet(as_layer(net), name=name)


@dataclass(frozen=True, repr=False)
class FromLinen(Described):
    """A layer that runs a linen module; created by `from_linen`."""

    call: ClassVar[str] = "from_linen"
    module: linen.Module
    train_argument: Flags = ()

    def arguments(self) -> list[str]:
        return [name_of(self.module), *super().arguments()[1:]]

    def init(self, key: KeyLike, x: Tree) -> tuple[Params, State]:
        """Returns fresh (params, state) for inputs shaped like ``x``: array, ShapeDtypeStruct or shape tuple."""
        module, arguments = self._mode(train=True)
        rngs: Any = {"params": as_key(key), "dropout": child_key(key, "dropout")}
        xs = spread(module, self.train_argument, as_struct(x))
        begun = jax.eval_shape(lambda rngs, *xs: module.init(rngs, *xs, **arguments), rngs, *xs)
        again = jax.eval_shape(
            lambda v, rngs, *xs: module.apply(v, *xs, rngs=rngs, mutable=[*v], **arguments)[1], begun, rngs, *xs
        )
        kept = [name for name in begun if _structure(begun[name]) == _structure(again[name])]
        variables = dict(unfreeze(meta.unbox(module.lazy_init(rngs, *xs, mutable=kept, **arguments))))
        params = variables.pop("params", {})
        if variables:
            # In training mode init may update the state; in evaluation mode it does not.
            module, arguments = self._mode(train=False)
            calm = unfreeze(meta.unbox(module.lazy_init(rngs, *xs, mutable=kept, **arguments)))
            variables = {
                name: calm[name] if _structure(calm.get(name)) == _structure(tree) else tree
                for name, tree in variables.items()
            }
        return params, variables

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""
        module, arguments = self._mode(train)
        # Streams of other names use "params".
        rngs: Any = None if key is None else {"dropout": as_key(key), "params": child_key(key, "params")}
        variables = {"params": params, **state}
        xs = spread(module, self.train_argument, x)
        try:
            y, new = module.apply(variables, *xs, rngs=rngs, mutable=[*state] if train else [], **arguments)
        except InvalidRngError as error:
            raise MissingKeyError(f"key must be given to a module with random numbers, got None: {error}") from error
        return y, {**state, **unfreeze(new)}

    def _mode(self, train: bool) -> tuple[linen.Module, dict[str, Any]]:
        """Returns the module and the arguments of its call; a mode that is set in the constructor is changed there."""
        values, fields, arguments = flag_values(self.train_argument, train), vars(self.module), parameters(self.module)
        fixed: Any = {
            name: values.pop(name)
            for name in [*values]
            if name in fields and (fields[name] is not None or name not in arguments)
        }
        return (self.module.clone(**fixed) if fixed else self.module), values


def _structure(tree: Tree) -> str:
    return str(jax.tree.structure(tree))


def from_linen(module: linen.Module, *, train_argument: TrainArgument = None) -> Layer:
    """Returns a layer that runs a ``flax.linen`` module, for use in `jaxconv.serial` and other composites.

    If the module's call has several arguments without default, the layer's input is a tuple of these: of a recurrent
    cell ``(carry, inputs)``.

    ``params`` is the collection "params"; ``state`` has all other collections by name, which training updates:
    ``{"batch_stats": ...}``. Collections that a module sows into grow with each call, and are left out. ``key`` is the
    rng "dropout". `jaxconv.summary` counts the layer's parameters; its multiply-adds and receptive field are unknown.
    The inverse of `to_linen`: a module made by `to_linen` returns its network.

    Args:
      module: a linen module, not bound to variables.
      train_argument: the argument of the module's call, or the field, that selects training: a name, or a mapping from
        names to their values in training. By default, those of ``train``, ``training``, ``is_training``,
        ``deterministic`` and ``use_running_average`` (the last two False in training) that the module has.

    Raises:
      TypeError: ``module`` is not a linen module.
      ArgumentError: ``train_argument`` names neither an argument nor a field.

    >>> from flax import linen
    >>> net = jc.serial(conv=from_linen(linen.Conv(8, (3, 3))), bn=from_linen(linen.BatchNorm()), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> params["conv"]["kernel"].shape, sorted(state["bn"]["batch_stats"])
    ((3, 3, 3, 8), ['mean', 'var'])
    >>> y, state = net.apply(params, state, jnp.ones((1, 8, 8, 3)), train=True)
    >>> from_linen(linen.Dense(3)).init(jax.random.key(0), (1, 2))[0]["bias"]
    Array([0., 0., 0.], dtype=float32)
    """
    if isinstance(module, LinenNet):
        return module.net
    if not isinstance(module, linen.Module):
        raise TypeError(f"module must be a flax.linen module, got {module!r}")
    fields = [field.name for field in dataclasses.fields(module)]
    return FromLinen(module.clone(parent=None), train_flags(module, train_argument, fields))


__all__ = ["from_linen", "to_linen"]
