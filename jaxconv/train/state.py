"""Everything that training carries from one step to the next, as one pytree."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Layer
from jaxconv.ops.arrays import wider
from jaxconv.structs import as_struct
from jaxconv.train.leaves import is_key
from jaxconv.train.mesh import ShardParams, placement_of

# augment(key, x) -> x, or augment(key, x, y) -> (x, y)
Augment = Callable[..., Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters, layer state, optimizer state, step and key: what a checkpoint holds.

    Args:
      params: what the optimizer moves.
      state: what a training pass updates, such as batch statistics.
      opt_state: the optimizer's state.
      step: an int32 scalar, the number of steps taken.
      key: a typed random key. It never changes; what is random in a step comes from ``fold_in(key, step)``.
      average: the exponential moving average of ``params``, in float32 at least; None where none is kept.
    """

    params: Any = dataclasses.field(repr=False)
    state: Any = dataclasses.field(repr=False)
    opt_state: Any = dataclasses.field(repr=False)
    step: jax.Array
    key: jax.Array
    average: Any = dataclasses.field(default=None, repr=False)

    @classmethod
    def create(
        cls,
        net: Layer,
        optimizer: optax.GradientTransformation,
        key: jax.Array | int,
        x: Any = None,
        *,
        init: tuple[Any, Any] | None = None,
        average: float | None = None,
        mesh: jax.sharding.Mesh | None = None,
        shard_params: ShardParams = None,
    ) -> "TrainState":
        """The state before the first step.

        Args:
          net: a layer.
          optimizer: an Optax transformation.
          key: a random key, or an int to make one from. It is split: one half draws the initial weights, the other
            becomes the state's key.
          x: an array, a ``ShapeDtypeStruct`` or a shape, batch axis included, as ``net.init`` takes it.
          init: (params, state) to start from instead of calling ``net.init``, for fine-tuning. They are copied, so
            that a donating step leaves the caller's arrays alone.
          average: as in `train_step`; unless None, the state has an average, which begins with the parameters.
          mesh, shard_params: as in `train_step`. With ``shard_params`` each device makes its part of the state, so that
            the state need not fit on one: ``net.init`` and ``optimizer.init`` are compiled. Weights may differ from
            those of one device in the last bit.

        Returns:
          A `TrainState` at step 0 which shares no buffer with anything.

        Example:
          >>> import dataclasses, jax, jax.numpy as jnp, optax
          >>> @dataclasses.dataclass(frozen=True)
          ... class Scale:
          ...     def init(self, key, x):
          ...         return {"scale": jnp.ones(x.shape[-1])}, {}
          ...     def apply(self, params, state, x, *, train=False, key=None):
          ...         return x * params["scale"], state
          >>> TrainState.create(Scale(), optax.sgd(0.1), 0, jnp.zeros((1, 3))).params["scale"].shape
          (3,)
        """
        if init is None and x is None:
            raise ValueError("x: expected an input or its shape to initialize the network with, got None")
        placement, key = placement_of(mesh, shard_params), typed_key(key)
        if placement is None:
            return _made(optimizer, average, key, _drawn(net, x, key) if init is None else init)
        structs, form = jax.tree.flatten(as_struct(x) if init is None else None)
        settings: Any = (net, tuple(structs), form, optimizer, average)
        try:
            draw, make = _cached_functions(*settings)
        except TypeError:  # what can't be hashed
            draw, make = _functions(*settings)
        return placement.created(draw, make, key, init)  # type: ignore[no-any-return]


def run_key(key: jax.Array) -> jax.Array:
    """The key of the train state that `TrainState.create` makes of a key."""
    return jax.random.split(key)[1]


def _drawn(net: Layer, x: Any, key: jax.Array) -> tuple[Any, Any]:
    """The initial weights."""
    return net.init(jax.random.split(key)[0], x)


def _made(
    optimizer: optax.GradientTransformation, average: float | None, key: jax.Array, init: tuple[Any, Any]
) -> TrainState:
    """The state before the first step, from weights."""
    params, state = copied(init)
    wide = None if average is None else copied(jax.tree.map(_widened, params))
    return TrainState(params, state, copied(optimizer.init(params)), jnp.zeros((), jnp.int32), run_key(key), wide)


def _functions(net: Layer, structs: Any, form: Any, optimizer: Any, average: float | None) -> tuple[Any, Any]:
    x = jax.tree.unflatten(form, structs)
    return functools.partial(_drawn, net, x), functools.partial(_made, optimizer, average)


# The same functions for equal settings, so that JAX finds the programs that it has compiled.
_cached_functions = functools.lru_cache(maxsize=16)(_functions)


def typed_key(key: KeyLike) -> jax.Array:
    """A typed key from a typed key, a legacy uint32 key or an int."""
    key = as_key(key)
    return key if is_key(key) else jax.random.wrap_key_data(key)


def _widened(leaf: jax.Array) -> jax.Array:
    return leaf.astype(wider(leaf.dtype, jnp.float32)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def copied(tree: Any) -> Any:
    """The same tree in separate buffers, so that donating one of them leaves every other as it is."""
    return strong(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree))


def strong(tree: Any) -> Any:
    """The same tree without weak types: a checkpoint can't store them, and they would change what a step computes."""
    return jax.tree.map(
        lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf, tree
    )
