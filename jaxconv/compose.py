"""Composition of layers: serial, parallel, residual, repeated, rematerialized, frozen, in mixed precision."""

import dataclasses
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import geometry as geo
from jaxconv.capture import staged
from jaxconv.child import child_key, run_child
from jaxconv.composite import Composite, Run, init_child
from jaxconv.described import name_of
from jaxconv.errors import DTypeError, ShapeError, did_you_mean
from jaxconv.keys import as_key
from jaxconv.layer import Array, Children, Layer, LayerLike, Params, State, Tree
from jaxconv.layers import Fn
from jaxconv.structs import as_struct, broadcasts
from jaxconv.tree import rebuilt, walk

_FROM_FLAX = {"flax.linen": "from_linen", "flax.nnx": "from_nnx"}


def as_layer(value: LayerLike) -> Layer:
    """Returns a layer: the value itself if it has ``init`` and ``apply``, or `jaxconv.Fn` of a callable."""
    if isinstance(value, type):
        raise TypeError(f"a layer must be an instance, got the class {value.__name__}: write {value.__name__}(...)")
    # Flax modules would be taken for layers: linen's have init and apply too, nnx's are callable and hide arrays.
    for base in type(value).__mro__:
        package = ".".join(base.__module__.split(".")[:2])
        if base.__name__ == "Module" and package in _FROM_FLAX:
            raise TypeError(
                f"a layer must be a jaxconv layer, got Flax's {type(value).__name__}: "
                f"write jaxconv.interop.flax.{_FROM_FLAX[package]}(...)"
            )
    if isinstance(value, Layer):
        return value
    if callable(value):
        return Fn(value)
    if isinstance(value, list | tuple):
        raise TypeError(
            f"a layer must have init and apply, or be callable, got a {type(value).__name__}: write (*layers)"
        )
    raise TypeError(f"a layer must have init and apply, or be callable, got {value!r}")


def _children(layers: Sequence[LayerLike], named: dict[str, LayerLike]) -> Children:
    """Returns layers named by position, inlined layers named "", then the layers that the caller names."""
    children = []
    for i, value in enumerate(layers):
        layer = as_layer(value)
        children.append(("", layer.layer) if isinstance(layer, Inline) else (str(i), layer))
    for name, value in named.items():
        check_name(name)
        children.append((name, as_layer(value)))
    return tuple(children)


def check_name(name: str) -> None:
    """Raises where a child's name is not valid in a path."""
    if not isinstance(name, str) or not name or "." in name or "/" in name:
        raise ShapeError(f'name of a child must be a non-empty string without "." and "/", got {name!r}')


def as_keyword(name: str, text: str) -> str:
    """Returns the source text of a keyword argument, for names that are not identifiers too."""
    plain = name.isidentifier() and not keyword.iskeyword(name)
    return f"{name}={text}" if plain else f"**{{{name!r}: {text}}}"


@dataclass(frozen=True, repr=False)
class _Many(Composite):
    """The base class of composites with any number of named children."""

    least: ClassVar[int] = 1
    children: Children

    def check(self) -> None:
        if not self.children and self.least:
            raise ShapeError(f"{self.call} must have at least one layer, got none")
        for name, _ in self.children:
            if name:
                check_name(name)
        super().check()

    def arguments(self) -> list[str]:
        shown, named = [], False
        for i, (name, layer) in enumerate(self.children):
            inlined = not name
            named = named or (not inlined and name != str(i))
            text = f"inline({name_of(layer)})" if inlined else name_of(layer)
            shown.append(text if not named or inlined else as_keyword(name, text))
        return shown


class Serial(_Many):
    """Runs its children in sequence; created by `serial`."""

    call: ClassVar[str] = "serial"
    least: ClassVar[int] = 0

    def route(self, run: Run, x: Tree) -> Tree:
        for name, layer in self.children:
            x = run(name, layer, x)
        return x


class Parallel(_Many):
    """Runs its children on the same input; created by `parallel`."""

    call: ClassVar[str] = "parallel"
    least: ClassVar[int] = 0

    def route(self, run: Run, x: Tree) -> Tree:
        return tuple(run(name, layer, x) for name, layer in self.children)


class Concat(_Many):
    """Runs its children on the same input and concatenates their channels; created by `concat`."""

    call: ClassVar[str] = "concat"

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(concatenate, *(run(name, layer, x) for name, layer in self.children))


class Split(_Many):
    """Runs each child on its part of the channels and concatenates the results; created by `split`."""

    call: ClassVar[str] = "split"

    def route(self, run: Run, x: Tree) -> Tree:
        n = len(self.children)
        parts = run.join(lambda x: _shares(x, n), x)
        return run.join(
            concatenate, *(run(name, layer, part) for (name, layer), part in zip(self.children, parts, strict=True))
        )


def concatenate(*ys: Array) -> Array:
    """Concatenates branches on channels."""
    if len({y.shape[:-1] for y in ys}) > 1:
        raise ShapeError(
            f"branches must have equal shapes except for channels, got {', '.join(str(y.shape) for y in ys)}"
        )
    return jnp.concatenate(ys, axis=-1)


def _shares(x: Array, n: int) -> list[Array]:
    channels = x.shape[-1]
    if channels % n:
        raise ShapeError(f"x must have a number of channels divisible by the {n} branches, got shape {x.shape}")
    return jnp.split(x, n, axis=-1)


def serial(*layers: LayerLike, **named: LayerLike) -> Serial:
    """Runs layers in sequence, like ``torch.nn.Sequential``.

    Args:
      layers: layers or functions of arrays; named "0", "1", ... by position, layers without parameters included.
      named: layers named by the caller; they run after the others.

    Raises:
      TypeError: an argument is not a layer.
      ShapeError: names are not unique, or contain "." or "/".

    >>> net = serial(jc.Conv(6, 5), jax.nn.relu, jc.MaxPool(2), jc.Flatten(), scores=jc.Dense(10))
    >>> params, state = net.init(jax.random.key(0), (1, 32, 32, 3))
    >>> params["0"]["kernel"].shape, params["scores"]["kernel"].shape
    ((5, 5, 3, 6), (1536, 10))
    """
    return Serial(_children(layers, named))


def parallel(*layers: LayerLike, **named: LayerLike) -> Parallel:
    """Runs layers on the same input and returns the tuple of their outputs; arguments as in `serial`.

    >>> parallel(jnp.abs, jnp.negative).apply({}, {}, jnp.ones(1))[0]
    (Array([1.], dtype=float32), Array([-1.], dtype=float32))
    """
    return Parallel(_children(layers, named))


def concat(*layers: LayerLike, **named: LayerLike) -> Concat:
    """Runs layers on the same input and concatenates their outputs on channels (Inception, DenseNet).

    Arguments as in `serial`.

    >>> concat(jc.Identity(), jnp.abs).apply({}, {}, jnp.array([[-1.0]]))[0]
    Array([[-1.,  1.]], dtype=float32)
    """
    return Concat(_children(layers, named))


def split(*layers: LayerLike, **named: LayerLike) -> Split:
    """Splits the channels equally, runs one layer on each part, concatenates the outputs on channels (ShuffleNet v2).

    Arguments as in `serial`.

    >>> split(jc.Identity(), jnp.negative).apply({}, {}, jnp.array([[1.0, 2.0]]))[0]
    Array([[ 1., -2.]], dtype=float32)
    """
    return Split(_children(layers, named))


@dataclass(frozen=True, repr=False)
class Wrapper(Composite):
    """The base class of composites of one layer, whose parameters are at the composite's level."""

    layer: Layer

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The layer, without a name."""
        return (("", self.layer),)

    def with_children(self, layers: Sequence[Layer]) -> Composite:
        return dataclasses.replace(self, layer=layers[0])

    def arguments(self) -> list[str]:
        # Positional: the parameter is not called "layer" in all functions.
        return [name_of(self.layer), *super().arguments()[1:]]

    def route(self, run: Run, x: Tree) -> Tree:
        return run("", self.layer, x)


@dataclass(frozen=True, repr=False)
class Inline(Wrapper):
    """A layer whose parameters are at its parent's level; created by `inline`."""

    call: ClassVar[str] = "inline"


def inline(layer: LayerLike) -> Inline:
    """Puts a layer's children, or a leaf's parameters, at the level of the enclosing composite.

    >>> net = serial(inline(serial(conv=jc.Conv(8))), jax.nn.relu)
    >>> list(net.init(jax.random.key(0), (1, 8, 8, 3))[0])
    ['conv']
    """
    return Inline(as_layer(layer))


@dataclass(frozen=True, repr=False)
class Shared(Wrapper):
    """One layer on each of several arrays; created by `shared`."""

    call: ClassVar[str] = "shared"

    def route(self, run: Run, x: Tree) -> Tree:
        return jax.tree.map(lambda each: run("", self.layer, each), x)


def shared(layer: LayerLike) -> Shared:
    """Runs one layer, with one set of weights, on each array of a pytree. Adds no level to paths.

    Examples are a RetinaNet head on all levels of a pyramid, and a Siamese branch. The runs follow the order of
    `jax.tree.leaves`, and each run receives the state of the run before. To use a layer several times in another way,
    write a `jaxconv.Composite`.

    Args:
      layer: a layer that takes one array.

    >>> net = shared(jc.Conv(4))
    >>> params, state = net.init(jax.random.key(0), ((1, 8, 8, 3), (1, 4, 4, 3)))
    >>> y, _ = net.apply(params, state, (jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 4, 3))))
    >>> [each.shape for each in y], params["kernel"].shape
    ([(1, 8, 8, 4), (1, 4, 4, 4)], (3, 3, 3, 4))
    """
    return Shared(as_layer(layer))


@dataclass(frozen=True, repr=False)
class Gate(Wrapper):
    """``x * body(x)``; created by `gate`."""

    call: ClassVar[str] = "gate"

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(_multiply, x, run("", self.layer, x))


def _multiply(x: Array, y: Array) -> Array:
    """Returns ``x * y``; a y of shape ``(batch, channels)`` multiplies the channels of x."""
    if y.ndim < x.ndim:
        y = y.reshape(*y.shape[:-1], *(1,) * (x.ndim - y.ndim), y.shape[-1])
    if not broadcasts(y.shape, x.shape):
        raise ShapeError(f"body must return one weight for each element or channel of x {x.shape}, got {y.shape}")
    return x * y


def gate(body: LayerLike) -> Gate:
    """Returns ``x * body(x)``: squeeze and excitation (Hu et al., 2018). Adds no level to paths.

    Args:
      body: a layer that returns one weight for each element of x, or for each channel of each example.

    >>> gate(serial(jc.GlobalAvgPool(), jax.nn.sigmoid)).apply({}, {}, jnp.zeros((1, 4, 4, 8)))[0].shape
    (1, 4, 4, 8)
    """
    return Gate(as_layer(body))


@dataclass(frozen=True, repr=False)
class Residual(Composite):
    """``after(body(x) + shortcut(x))``; created by `residual`."""

    call: ClassVar[str] = "residual"
    body: Layer
    shortcut: Layer | None = None
    after: Layer | None = None
    name: str = "shortcut"

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The body at this level, the shortcut under its name, and the last layer under "after"."""
        rest = ((self.name, self.shortcut), ("after", self.after))
        return (("", self.body), *((name, layer) for name, layer in rest if layer is not None))

    def with_children(self, layers: Sequence[Layer]) -> "Residual":
        body, *rest = layers
        shortcut = rest.pop(0) if self.shortcut is not None else None
        return Residual(body, shortcut, rest.pop(0) if self.after is not None else None, self.name)

    def check(self) -> None:
        check_name(self.name)
        super().check()

    def route(self, run: Run, x: Tree) -> Tree:
        y = run("", self.body, x)
        skipped = x if self.shortcut is None else run(self.name, self.shortcut, x)
        y = run.join(_add, y, skipped)
        return y if self.after is None else run("after", self.after, y)


def _add(y: Array, x: Array) -> Array:
    if y.shape != x.shape:
        raise ShapeError(f"body and shortcut must return the same shape, got {y.shape} and {x.shape}")
    return y + x


def residual(
    body: LayerLike,
    shortcut: LayerLike | None = None,
    *,
    after: LayerLike | None = None,
    name: str = "shortcut",
) -> Residual:
    """Returns ``after(body(x) + shortcut(x))`` (He et al., 2016).

    Args:
      body: a layer; its children, or a leaf's parameters, are at the block's level.
      shortcut: a layer that maps x to the body's output shape; None is the identity.
      after: a layer applied to the sum, such as a ReLU.
      name: the shortcut's name; "downsample" in torchvision.

    Raises:
      ShapeError: names are not unique; body and shortcut return different shapes.

    >>> block = residual(serial(conv1=jc.Conv(8), relu=jax.nn.relu, conv2=jc.Conv(8)), jc.Conv(8, 1), name="downsample")
    >>> sorted(block.init(jax.random.key(0), (1, 8, 8, 3))[0])
    ['conv1', 'conv2', 'downsample']
    """
    return Residual(
        as_layer(body),
        None if shortcut is None else as_layer(shortcut),
        None if after is None else as_layer(after),
        name,
    )


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
            _check_same(x, y)
            x = y
        return x

    def init_with_output(self, key: Array, x: Tree) -> tuple[Params, State, Tree]:
        x, key = as_struct(x), as_key(key)
        y = jax.eval_shape(lambda k: init_child("", self.layer, k, x)[2], key)
        _check_same(x, y)
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

        # Inside a loop XLA:CPU has no fast algorithm for lax's convolution gradients, which other layers may use, and
        # max pools and jaxconv's convolutions are slower: results/scan.json, layers.json in experiments/benchmarks.
        unroll = self.n if jax.default_backend() == "cpu" else 1

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


def _check_same(x: Tree, y: Tree) -> None:
    def shapes(tree: Tree) -> Tree:
        return jax.tree.map(lambda a: (tuple(a.shape), np.dtype(a.dtype).name), tree)

    if shapes(x) != shapes(y):
        raise ShapeError(f"a repeated layer must return its input's shape and type, {shapes(x)}, got {shapes(y)}")


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

    >>> list(remat(serial(jc.Dense(3))).init(jax.random.key(0), (1, 2))[0])
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
      ShapeError: ``but`` has a path that names no layer.
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
            raise ShapeError(f"but has {path!r}, which {did_you_mean(path, known)}")
    return _frozen_around(net, frozenset(but))


def _frozen_around(net: Layer, but: frozenset[str], path: tuple[str, ...] = ()) -> Layer:
    if ".".join(path) in but:
        return net
    if but.isdisjoint(inside for inside, _ in walk(net, path)):
        return Frozen(net)
    children: Children = getattr(net, "children", ())
    return rebuilt(net, [_frozen_around(layer, but, (*path, name) if name else path) for name, layer in children])


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


__all__ = [
    "concat",
    "frozen",
    "gate",
    "inline",
    "mixed_precision",
    "parallel",
    "remat",
    "repeat",
    "residual",
    "serial",
    "shared",
    "split",
]
