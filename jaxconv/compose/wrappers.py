"""Wrappers: one layer repeated, rematerialized, frozen, or in mixed precision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import geometry as geo
from jaxconv.capture import staged
from jaxconv.child import child_key, run_child
from jaxconv.compose.base import Wrapper, as_layer
from jaxconv.compose.structure import Inline
from jaxconv.composite import Run, init_child
from jaxconv.errors import DTypeError, PathError, ShapeError, no_layer
from jaxconv.keys import as_key
from jaxconv.layer import Array, Layer, LayerLike, Params, State, Tree
from jaxconv.ops.lowering.table import platform_of
from jaxconv.structs import as_struct
from jaxconv.tree import Visit, map_some, walk


@dataclass(frozen=True, repr=False)
class Repeat(Wrapper):
    """n equal layers in sequence; created by `repeat`."""

    call: ClassVar[str] = "repeat"
    n: int

    def check(self) -> None:
        geo.as_int(self.n, "n", least=1)
        super().check()

    def _keys(self, key: Array) -> Array:
        return jnp.stack([cast(Array, child_key(key, str(i))) for i in range(self.n)])

    def _check_stacked(self, **trees: Tree) -> None:
        for name, tree in trees.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                if jnp.shape(leaf)[:1] != (self.n,):
                    raise ShapeError(
                        f"{name}{jax.tree_util.keystr(path)} must have a leading axis of n = {self.n}, "
                        f"got shape {jnp.shape(leaf)}"
                    )

    def route(self, run: Run, x: Tree) -> Tree:
        for _ in range(self.n):
            y = run("", self.layer, x)
            _check_same(x, y, types=False)
            x = y
        return x

    def init_with_output(self, key: Array, x: Tree) -> tuple[Params, State, Tree]:
        x, key = as_struct(x), as_key(key)
        y = jax.eval_shape(lambda k: init_child("", self.layer, k, x)[2], key)
        _check_same(x, y, types=False)
        params, state = jax.vmap(lambda k: self.layer.init(k, x))(self._keys(key))
        return params, state, y

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        self._check_stacked(params=params, state=state)

        def body(x: Tree, params: Params, state: State, key: Array | None) -> tuple[Tree, State]:
            y, new = run_child("", self.layer, params, state, x, train=train, key=key)
            _check_same(x, y)
            return y, new

        unroll = 1 if platform_of(jax.default_backend()).loops else self.n

        def scanned(function: Callable) -> Callable:
            def run(add: dict[str, Tree], x: Tree, *xs: Tree) -> tuple[tuple[Tree, State], dict[str, Tree]]:
                self._check_stacked(add=add)

                def step(x: Tree, slices: Tree) -> tuple[Tree, Any]:
                    add, *rest = slices
                    (y, new), found = function(add, x, *rest)
                    return y, (new, found)

                y, (new, found) = jax.lax.scan(step, x, (add, *xs), length=self.n, unroll=unroll)
                return (y, new), found

            return run

        keys = None if key is None else self._keys(as_key(key))
        return staged(scanned, body, x, params, state, keys)


def _check_same(x: Tree, y: Tree, *, types: bool = True) -> None:
    """Raises ShapeError unless both have the same shapes, and the same types where the params have those of `apply`.

    Inside `mixed_precision` params are initialized in float32, so that types in `init` differ from those in `apply`.
    """

    def described(tree: Tree) -> Tree:
        return jax.tree.map(lambda a: (tuple(a.shape), np.dtype(a.dtype).name), tree)

    def compared(tree: Tree) -> Tree:
        return described(tree) if types else jax.tree.map(lambda a: tuple(a.shape), tree)

    if compared(x) != compared(y):
        raise ShapeError(f"a repeated layer must return its input's shape and type, {described(x)}, got {described(y)}")


def repeat(layer: LayerLike, n: int) -> Repeat:
    """Runs ``n`` equal layers in sequence, with separate parameters that are stacked on a leading axis.

    Equals ``serial`` of n layers, initial weights included: each iteration has the random key of that child. The
    layer's activations are stacked too. On a GPU or TPU one compiled body serves all iterations.

    Args:
      layer: a layer that returns the shape and type of its input.
      n: the number of iterations.

    >>> params, _ = repeat(jc.Conv(8), 4).init(jax.random.key(0), (1, 8, 8, 8))
    >>> params["kernel"].shape
    (4, 3, 3, 8, 8)
    """
    return Repeat(as_layer(layer), n)


def iterations(visit: Visit) -> tuple[int, ...]:
    """Returns n of each `repeat` that contains a layer, the layer itself included, outermost first."""
    return tuple(layer.n for layer in (*visit.parents, visit.layer) if isinstance(layer, Repeat))


@dataclass(frozen=True, repr=False)
class Remat(Wrapper):
    """A layer whose activations are recomputed in the backward pass; created by `remat`."""

    call: ClassVar[str] = "remat"
    policy: Callable[..., bool] | None = None

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        def body(params: Params, state: State, x: Tree, key: Array | None) -> tuple[Tree, State]:
            return run_child("", self.layer, params, state, x, train=train, key=key)

        return staged(lambda f: jax.checkpoint(f, policy=self.policy), body, params, state, x, as_key(key))


def remat(layer: LayerLike, *, policy: Callable[..., bool] | None = None) -> Remat:
    """Recomputes a layer's activations in the backward pass instead of storing them. Adds no level to paths.

    Args:
      layer: any layer.
      policy: selects values that are stored, one of `jax.checkpoint_policies`.

    >>> list(remat(jc.serial(jc.Dense(3))).init(jax.random.key(0), (1, 2))[0])
    ['0']
    """
    return Remat(as_layer(layer), policy)


@dataclass(frozen=True, repr=False)
class Frozen(Wrapper):
    """A layer that is not trained; created by `frozen`."""

    call: ClassVar[str] = "frozen"

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        return super().apply(jax.lax.stop_gradient(params), state, x)


def frozen(layer: LayerLike, *, but: Sequence[str] = ()) -> Layer:
    """Runs a layer in evaluation mode in training too: fixed statistics, no dropout, zero gradients of its params.

    The gradient with respect to ``x`` passes. Adds no level to paths. For fine-tuning. Weight decay still changes the
    params: exclude them from the optimizer with `optax.multi_transform`.

    Args:
      layer: any layer.
      but: paths of layers inside that are trained, with all layers inside these.

    Raises:
      PathError: ``but`` has a path that names no layer.
      TypeError: ``but`` is a string.

    >>> net = jc.serial(features=frozen(jc.BatchNorm()), scores=jc.Dense(2))
    >>> params, state = net.init(jax.random.key(0), (4, 3))
    >>> x = jax.random.normal(jax.random.key(1), (4, 3))
    >>> grads = jax.grad(lambda params: net.apply(params, state, x, train=True)[0].sum())(params)
    >>> grads["features"]["scale"], grads["scores"]["bias"]
    (Array([0., 0., 0.], dtype=float32), Array([4., 4.], dtype=float32))
    >>> frozen(jc.serial(stem=jc.Conv(8), pool=jc.GlobalAvgPool(), fc=jc.Dense(2)), but=["fc"])
    serial(stem=frozen(Conv(features=8)), pool=frozen(GlobalAvgPool()), fc=Dense(features=2))
    """
    net = as_layer(layer)
    if isinstance(but, str):
        raise TypeError(f"but must be a sequence of paths, got the string {but!r}: write [{but!r}]")
    known = [path for path, _ in walk(net)]
    for path in but:
        if path not in known:
            raise PathError(no_layer("but", path, known))

    def contains(layer: Layer, path: str) -> bool:
        prefix = f"{path}." if path else ""
        return path not in but and any(prefix + inner in but for inner, _ in walk(layer))

    def freeze(layer: Layer, path: str) -> Layer:
        return layer if path in but or contains(layer, path) else Frozen(layer)

    return map_some(net, contains, freeze)


@dataclass(frozen=True, repr=False)
class MixedPrecision(Wrapper):
    """A layer that computes in another floating-point type; created by `mixed_precision`."""

    call: ClassVar[str] = "mixed_precision"
    compute: Any = np.dtype(jnp.bfloat16)
    output: Any = np.dtype(np.float32)

    def check(self) -> None:
        for name in ("compute", "output"):
            dtype = jnp.dtype(getattr(self, name))
            if not jnp.issubdtype(dtype, jnp.floating):
                raise DTypeError(f"{name} must be a floating-point type, got {dtype.name}")
            object.__setattr__(self, name, dtype)
        super().check()

    def route(self, run: Run, x: Tree) -> Tree:
        def cast(tree: Tree, dtype: Any) -> Tree:
            # Each leaf separately: a joint call would merge the receptive fields of all leaves.
            return jax.tree.map(lambda leaf: run.join(lambda a: _cast(a, dtype), leaf), tree)

        return cast(run("", self.layer, cast(x, self.compute)), self.output)

    def init_with_output(self, key: Array, x: Tree) -> tuple[Params, State, Tree]:
        params, state, y = super().init_with_output(key, x)
        return _cast(params, jnp.float32), _cast(state, jnp.float32), y

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        return super().apply(_cast(params, self.compute), state, x, train=train, key=key)


def _cast(tree: Tree, dtype: Any) -> Tree:
    def converted(a: Array) -> Array:
        return jnp.asarray(a, dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a

    return jax.tree.map(converted, tree)


def mixed_precision(layer: LayerLike, compute: Any = jnp.bfloat16, output: Any = jnp.float32) -> MixedPrecision:
    """Runs a layer with its floating params and x cast to ``compute``, and casts the output to ``output``.

    Parameters, their gradients, state and statistics stay float32. Adds no level to paths.

    Args:
      layer: any layer.
      compute: the type of the computation.
      output: the type of the output.

    >>> net = mixed_precision(jc.Conv(8))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> params["kernel"].dtype.name, net.apply(params, state, jnp.ones((1, 8, 8, 3)))[0].dtype.name
    ('float32', 'float32')
    """
    return MixedPrecision(as_layer(layer), compute, output)


# Wrappers that change neither the function of a layer in evaluation nor its paths.
AROUND = (Frozen, Inline, MixedPrecision, Remat)


__all__ = ["frozen", "mixed_precision", "remat", "repeat"]
