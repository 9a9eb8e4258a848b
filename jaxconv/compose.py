"""Networks out of layers: in a row, side by side, around a shortcut, repeated, rematerialized, in mixed precision."""

import dataclasses
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import geometry as geo
from jaxconv.errors import ShapeError, did_you_mean
from jaxconv.layer import (
    Array,
    Children,
    Composite,
    Layer,
    Params,
    Run,
    State,
    Tree,
    as_struct,
    broadcasts,
    child_key,
    init_child,
    name_of,
    rebuilt,
    run_child,
    staged,
    walk,
)
from jaxconv.layers import Fn

LayerLike = Layer | Callable[[Tree], Tree]

_FROM_FLAX = {"flax.linen": "from_linen", "flax.nnx": "from_nnx"}


def as_layer(value: LayerLike) -> Layer:
    """Returns a layer: the value itself if it has ``init`` and ``apply``, a callable as `jaxconv.Fn`."""
    if isinstance(value, type):
        raise ShapeError(f"a layer must be an instance, got the class {value.__name__}: write {value.__name__}(...)")
    # Flax's would pass for something else: linen's has init and apply too, nnx's is callable and hides its arrays.
    for kind in type(value).__mro__:
        package = ".".join(kind.__module__.split(".")[:2])
        if kind.__name__ == "Module" and package in _FROM_FLAX:
            raise ShapeError(
                f"a layer must not be Flax's {type(value).__name__} itself: "
                f"write jaxconv.interop.flax.{_FROM_FLAX[package]}(...)"
            )
    if isinstance(value, Layer):
        return value
    if callable(value):
        return Fn(value)
    if isinstance(value, list | tuple):
        raise ShapeError(
            f"a layer must have init and apply, or be callable, got a {type(value).__name__}: write (*layers)"
        )
    raise ShapeError(f"a layer must have init and apply, or be callable, got {value!r}")


def _children(layers: Sequence[LayerLike], named: dict[str, LayerLike]) -> Children:
    """Names the layers by position, the inlined ones ""; then come those that the caller names."""
    children = []
    for i, value in enumerate(layers):
        layer = as_layer(value)
        children.append(("", layer.layer) if isinstance(layer, Inline) else (str(i), layer))
    for name, value in named.items():
        check_name(name)
        children.append((name, as_layer(value)))
    return tuple(children)


def check_name(name: str) -> None:
    """Raises where a child's name would break a path."""
    if not isinstance(name, str) or not name or "." in name or "/" in name:
        raise ShapeError(f'name of a child must be a non-empty string without "." and "/", got {name!r}')


def as_keyword(name: str, text: str) -> str:
    """Returns how an argument under a name is written, whatever the name."""
    plain = name.isidentifier() and not keyword.iskeyword(name)
    return f"{name}={text}" if plain else f"**{{{name!r}: {text}}}"


@dataclass(frozen=True, repr=False)
class _Many(Composite):
    """What composites of any number of named children share."""

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
    """Runs its children one after the other; made by `serial`."""

    call: ClassVar[str] = "serial"
    least: ClassVar[int] = 0

    def route(self, run: Run, x: Tree) -> Tree:
        for name, layer in self.children:
            x = run(name, layer, x)
        return x


class Parallel(_Many):
    """Runs its children on the same input; made by `parallel`."""

    call: ClassVar[str] = "parallel"
    least: ClassVar[int] = 0

    def route(self, run: Run, x: Tree) -> Tree:
        return tuple(run(name, layer, x) for name, layer in self.children)


class Concat(_Many):
    """Runs its children on the same input and joins their channels; made by `concat`."""

    call: ClassVar[str] = "concat"

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(concatenate, *(run(name, layer, x) for name, layer in self.children))


class Split(_Many):
    """Runs each child on its share of the channels and joins the results; made by `split`."""

    call: ClassVar[str] = "split"

    def route(self, run: Run, x: Tree) -> Tree:
        n = len(self.children)
        parts = run.join(lambda x: _shares(x, n), x)
        return run.join(
            concatenate, *(run(name, layer, part) for (name, layer), part in zip(self.children, parts, strict=True))
        )


def concatenate(*ys: Array) -> Array:
    """Joins branches on channels."""
    if len({y.shape[:-1] for y in ys}) > 1:
        raise ShapeError(
            f"branches must agree in all axes but the channels, got shapes {', '.join(str(y.shape) for y in ys)}"
        )
    return jnp.concatenate(ys, axis=-1)


def _shares(x: Array, n: int) -> list[Array]:
    channels = x.shape[-1]
    if channels % n:
        raise ShapeError(f"x must have channels that divide by the {n} branches, got shape {x.shape}")
    return jnp.split(x, n, axis=-1)


def serial(*layers: LayerLike, **named: LayerLike) -> Serial:
    """Runs layers one after the other: ``torch.nn.Sequential``.

    Args:
      layers: layers or functions of arrays; named "0", "1", ... by position, those without parameters counted.
      named: layers named by the caller; they run after the others.

    Raises:
      ShapeError: an argument is no layer, or names are not different or have "." or "/" in them.

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
    """Runs layers on the same input and joins their outputs on channels (Inception, DenseNet).

    Arguments as in `serial`.

    >>> concat(jc.Identity(), jnp.abs).apply({}, {}, jnp.array([[-1.0]]))[0]
    Array([[-1.,  1.]], dtype=float32)
    """
    return Concat(_children(layers, named))


def split(*layers: LayerLike, **named: LayerLike) -> Split:
    """Cuts the channels into equal shares, runs one layer on each, joins the outputs on channels (ShuffleNet v2).

    Arguments as in `serial`.

    >>> split(jc.Identity(), jnp.negative).apply({}, {}, jnp.array([[1.0, 2.0]]))[0]
    Array([[ 1., -2.]], dtype=float32)
    """
    return Split(_children(layers, named))


@dataclass(frozen=True, repr=False)
class Wrapper(Composite):
    """What composites of one layer share, which stands at their own level."""

    layer: Layer

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The layer, under no name of its own."""
        return (("", self.layer),)

    def with_children(self, layers: Sequence[Layer]) -> Composite:
        return dataclasses.replace(self, layer=layers[0])

    def arguments(self) -> list[str]:
        # By position: not all the functions that make these call it "layer".
        return [name_of(self.layer), *super().arguments()[1:]]

    def route(self, run: Run, x: Tree) -> Tree:
        return run("", self.layer, x)


@dataclass(frozen=True, repr=False)
class Inline(Wrapper):
    """A layer that stands at its parent's level; made by `inline`."""

    call: ClassVar[str] = "inline"


def inline(layer: LayerLike) -> Inline:
    """Puts a layer's children, or a leaf's parameters, at the level of the composite that it is given to.

    >>> net = serial(inline(serial(conv=jc.Conv(8))), jax.nn.relu)
    >>> list(net.init(jax.random.key(0), (1, 8, 8, 3))[0])
    ['conv']
    """
    return Inline(as_layer(layer))


@dataclass(frozen=True, repr=False)
class Shared(Wrapper):
    """One layer on each of several arrays; made by `shared`."""

    call: ClassVar[str] = "shared"

    def route(self, run: Run, x: Tree) -> Tree:
        return jax.tree.map(lambda each: run("", self.layer, each), x)


def shared(layer: LayerLike) -> Shared:
    """Runs one layer, with one set of weights, on each array of a pytree. Adds no level.

    A RetinaNet head on all levels of a pyramid, a Siamese branch. The runs are in the order of `jax.tree.leaves`, and
    the state passes from one to the next. For other ways to use a layer several times write a `jaxconv.Composite`.

    Args:
      layer: takes one array.

    >>> net = shared(jc.Conv(4))
    >>> params, state = net.init(jax.random.key(0), ((1, 8, 8, 3), (1, 4, 4, 3)))
    >>> y, _ = net.apply(params, state, (jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 4, 3))))
    >>> [each.shape for each in y], params["kernel"].shape
    ([(1, 8, 8, 4), (1, 4, 4, 4)], (3, 3, 3, 4))
    """
    return Shared(as_layer(layer))


@dataclass(frozen=True, repr=False)
class Gate(Wrapper):
    """``x * body(x)``; made by `gate`."""

    call: ClassVar[str] = "gate"

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(_multiply, x, run("", self.layer, x))


def _multiply(x: Array, y: Array) -> Array:
    """Multiplies; a y of shape ``(batch, channels)`` weighs the channels of a map."""
    if y.ndim < x.ndim:
        y = y.reshape(*y.shape[:-1], *(1,) * (x.ndim - y.ndim), y.shape[-1])
    if not broadcasts(y.shape, x.shape):
        raise ShapeError(f"body must give one weight for each element or channel of x {x.shape}, got {y.shape}")
    return x * y


def gate(body: LayerLike) -> Gate:
    """Multiplies ``x`` by what ``body`` makes of it: squeeze and excitation (Hu et al., 2018). No level of its own.

    Args:
      body: a layer that gives one weight for each element of x, or for each channel of each example.

    >>> gate(serial(jc.GlobalAvgPool(), jax.nn.sigmoid)).apply({}, {}, jnp.zeros((1, 4, 4, 8)))[0].shape
    (1, 4, 4, 8)
    """
    return Gate(as_layer(body))


@dataclass(frozen=True, repr=False)
class Residual(Composite):
    """``after(body(x) + shortcut(x))``; made by `residual`."""

    call: ClassVar[str] = "residual"
    body: Layer
    shortcut: Layer | None = None
    after: Layer | None = None
    name: str = "shortcut"

    @property
    def children(self) -> Children:  # type: ignore[override]
        """The body at this level, the shortcut under its name, and what comes after under "after"."""
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
        raise ShapeError(f"body and shortcut must give the same shape, got {y.shape} and {x.shape}")
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
      body: its children, or a leaf's parameters, stand at the block's own level.
      shortcut: brings x to the body's output shape; by default x itself.
      after: applied to the sum, a ReLU say.
      name: the shortcut's name; torchvision's is "downsample".

    Raises:
      ShapeError: names are not different; body and shortcut give different shapes.

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
    """n layers of the same kind in a row; made by `repeat`."""

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
        x = as_struct(x)
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

        # In a loop XLA:CPU loses lax's fast convolution gradients, which other layers may use, and a part of max pools'
        # speed; jaxconv's convolutions lose a tenth: results/scan.json and layers.json in experiments/benchmarks.
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

        keys = None if key is None else self._keys(key)
        return staged(scanned, body, x, params, state, keys)


def _check_same(x: Tree, y: Tree) -> None:
    def shapes(tree: Tree) -> Tree:
        return jax.tree.map(lambda a: (tuple(a.shape), np.dtype(a.dtype).name), tree)

    if shapes(x) != shapes(y):
        raise ShapeError(f"a repeated layer must return the shape and type it takes, {shapes(x)}, got {shapes(y)}")


def repeat(layer: LayerLike, n: int) -> Repeat:
    """Runs ``n`` layers of the same kind in a row, each with parameters of its own, stacked on a leading axis.

    Equals ``serial`` of n, weights included: each iteration has the key that the child would have. The layer's
    activations are stacked likewise. On a GPU or TPU one compiled body serves all iterations.

    Args:
      layer: returns the shape and type that it takes.
      n: how many.

    >>> params, _ = repeat(jc.Conv(8), 4).init(jax.random.key(0), (1, 8, 8, 8))
    >>> params["kernel"].shape
    (4, 3, 3, 8, 8)
    """
    return Repeat(as_layer(layer), n)


@dataclass(frozen=True, repr=False)
class Remat(Wrapper):
    """A layer whose activations are computed again for the gradient; made by `remat`."""

    call: ClassVar[str] = "remat"
    policy: Callable[..., bool] | None = None

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        def body(params: Params, state: State, x: Tree, key: Array | None) -> tuple[Tree, State]:
            return run_child("", self.layer, params, state, x, train=train, key=key)

        return staged(lambda f: jax.checkpoint(f, policy=self.policy), body, params, state, x, key)


def remat(layer: LayerLike, *, policy: Callable[..., bool] | None = None) -> Remat:
    """Computes the layer's activations again in the backward pass instead of keeping them. Adds no level.

    Args:
      layer: any layer.
      policy: which values to keep after all, one of `jax.checkpoint_policies`.

    >>> list(remat(serial(jc.Dense(3))).init(jax.random.key(0), (1, 2))[0])
    ['0']
    """
    return Remat(as_layer(layer), policy)


@dataclass(frozen=True, repr=False)
class Frozen(Wrapper):
    """A layer that training leaves as it is; made by `frozen`."""

    call: ClassVar[str] = "frozen"

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        return super().apply(jax.lax.stop_gradient(params), state, x)


def frozen(layer: LayerLike, *, but: Sequence[str] = ()) -> Layer:
    """Runs a layer as in evaluation, in training too: statistics stay, nothing is dropped, its params get no gradient.

    The gradient by ``x`` passes. Adds no level. For fine-tuning; an optimizer with weight decay must be told to leave
    the params out as well, by `optax.multi_transform`.

    Args:
      layer: any layer.
      but: paths of layers inside that are trained, with all that they hold: all around them is frozen.

    Raises:
      ShapeError: ``but`` has a path that names no layer.

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
        raise ShapeError(f"but must be a sequence of paths, got the string {but!r}: write [{but!r}]")
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
    """A layer that computes in a smaller type; made by `mixed_precision`."""

    call: ClassVar[str] = "mixed_precision"
    compute: Any = np.dtype(jnp.bfloat16)
    output: Any = np.dtype(np.float32)

    def check(self) -> None:
        for name in ("compute", "output"):
            dtype = jnp.dtype(getattr(self, name))
            if not jnp.issubdtype(dtype, jnp.floating):
                raise ShapeError(f"{name} must be a floating-point type, got {dtype.name}")
            object.__setattr__(self, name, dtype)
        super().check()

    def route(self, run: Run, x: Tree) -> Tree:
        def cast(tree: Tree, dtype: Any) -> Tree:
            # Each by itself: joined they would all see what any of them sees.
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
    """Runs a layer with its floating params and x cast to ``compute``, and casts what comes out to ``output``.

    Parameters, their gradients, state and statistics stay float32. Adds no level.

    Args:
      layer: any layer.
      compute: the type to compute in.
      output: the type to return.

    >>> net = mixed_precision(jc.Conv(8))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> params["kernel"].dtype.name, net.apply(params, state, jnp.ones((1, 8, 8, 3)))[0].dtype.name
    ('float32', 'float32')
    """
    return MixedPrecision(as_layer(layer), compute, output)


# Layers around another that leave what it computes in evaluation, and its paths, as they are.
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
