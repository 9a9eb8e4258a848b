"""Random networks on tiny maps, built by hypothesis, and the layers of a user."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxconv as jc


@dataclasses.dataclass(frozen=True)
class Map:
    """The spatial sizes and the channels at one place of a network."""

    size: tuple[int, ...]
    channels: int

    @property
    def rank(self) -> int:
        return len(self.size)


# Kinds of layers by what they are to receptive fields: exact to the element, covering only, or seeing everything.
EXACT = ("conv", "average", "pointwise", "residual", "concat", "gate", "repeat", "remat", "pad", "noise")
COVERING = ("transpose", "resize", "shuffle", "adaptive")
WHOLE = ("spatial_norm", "squeeze")
ALL = (*EXACT, *COVERING, *WHOLE, "pool", "local", "norm", "split", "mixed")

# Functions whose gradient at a positive number is not zero.
FUNCTIONS = (jax.nn.relu, jax.nn.gelu, jax.nn.softplus, jax.nn.silu)


class Drawing:
    """Draws layers that fit a map; each method of a kind's name returns a layer and the map that comes out.

    Args:
      draw: hypothesis' draw.
      kinds: names of the methods that may be chosen.
      stride: the largest product of all strides along an axis.
      crop: whether padding may be negative.
    """

    def __init__(self, draw, kinds: Sequence[str], stride: int = 4, crop: bool = True):
        self.draw, self.kinds, self.most_stride, self.crop = draw, kinds, stride, crop

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options):
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    # --- Windows ---

    def window(self, at: Map, *, same: bool = False):
        """Draws a window and its options, and the sizes they give; ``same`` keeps the sizes."""
        dilation = self.integer(1, 2)
        window = tuple(self.integer(1, min(3, (n - 1) // dilation + 1)) for n in at.size)
        if same:
            return window, {"padding": self.pick(["SAME", "SAME_LOWER"]), "stride": 1, "dilation": dilation}, at.size
        stride = self.integer(1, min(2, self.most_stride))
        form = self.pick(["name", "int", "ints", "pairs"])
        padding = {
            "name": lambda: self.pick(["VALID", "SAME", "SAME_LOWER"]),
            "int": lambda: self.integer(0, 1),
            "ints": lambda: tuple(self.integer(0, 2) for _ in at.size),
            "pairs": lambda: tuple((self.integer(-self.crop, 2), self.integer(-self.crop, 2)) for _ in at.size),
        }[form]()
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        try:
            size = jc.conv_output_size(at.size, window, **options)
        except jc.ShapeError:
            options["padding"] = "SAME"
            size = jc.conv_output_size(at.size, window, **options)
        self.most_stride //= stride
        return window, options, size

    def squared(self, window):
        """Writes a square window as an int, sometimes."""
        return window[0] if len(window) == 2 and window[0] == window[1] and self.flag() else window

    def conv(self, at: Map, *, same: bool = False):
        window, options, size = self.window(at, same=same)
        groups = self.pick([g for g in (1, 2, 3) if at.channels % g == 0])
        features = at.channels if same else groups * self.integer(1, 4 // groups)
        layer = jc.Conv(features, self.squared(window), **options, groups=groups, bias=self.flag())
        return layer, Map(size, features)

    def local(self, at: Map):
        window, options, size = self.window(at)
        return jc.ConvLocal(2, window, **options), Map(size, 2)

    def average(self, at: Map):
        window, options, size = self.window(at)
        return jc.AvgPool(self.squared(window), **options, count_include_pad=self.flag()), Map(size, at.channels)

    def pool(self, at: Map):
        window, options, size = self.window(at)
        return self.pick([jc.MaxPool, jc.LpPool])(self.squared(window), **options), Map(size, at.channels)

    def transpose(self, at: Map):
        window, stride, dilation = tuple(self.integer(1, 3) for _ in at.size), self.integer(1, 2), self.integer(1, 2)
        padding = self.pick(["SAME", "VALID", ((0, 1),) * at.rank])
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        try:
            size = jc.conv_transpose_output_size(at.size, window, **options)
        except jc.ShapeError:
            options["padding"] = "VALID"
            size = jc.conv_transpose_output_size(at.size, window, **options)
        features = self.integer(1, 3)
        return jc.ConvTranspose(features, window, **options), Map(size, features)

    # --- Place by place ---

    def pointwise(self, at: Map):
        layers = [*FUNCTIONS, jc.PReLU(), jc.LayerScale(0.5), jc.BatchNorm(), jc.Identity(), jc.Fn(jax.nn.silu)]
        if "norm" in self.kinds:
            layers.append(jnp.tanh)
        return self.pick(layers), at

    def norm(self, at: Map):
        return self.pick([jc.LayerNorm(), jc.LocalResponseNorm(3), jc.BatchNorm(momentum=0.5, scale=False)]), at

    def noise(self, at: Map):
        return self.pick([jc.Dropout(0.25), jc.DropPath(0.5)]), at

    # --- Space ---

    def pad(self, at: Map):
        least = -1 if self.crop and min(at.size) > 4 else 0
        pairs = tuple((self.integer(least, 2), self.integer(least, 2)) for n in at.size)
        size = tuple(low + n + high for n, (low, high) in zip(at.size, pairs, strict=True))
        return jc.Pad(pairs, rank=at.rank), Map(size, at.channels)

    def resize(self, at: Map):
        size = tuple(self.integer(1, 2 * n if n < 8 else n + 2) for n in at.size)
        method = self.pick(["nearest", "nearest_exact", "bilinear", "bicubic", "area"])
        smooth = method in ("bilinear", "bicubic")
        align, alias = (smooth and self.flag() for _ in range(2))
        layer = jc.Resize(size, method=method, align_corners=align, antialias=alias and not align, rank=at.rank)
        return layer, Map(size, at.channels)

    def shuffle(self, at: Map):
        block = 2**at.rank
        expand = jc.Conv(block, (1,) * at.rank)
        return jc.serial(expand, jc.PixelShuffle(2, rank=at.rank)), Map(tuple(2 * n for n in at.size), 1)

    def adaptive(self, at: Map):
        size = tuple(self.integer(1, n) for n in at.size)
        kind = jc.AdaptiveAvgPool if "pool" not in self.kinds or self.flag() else jc.AdaptiveMaxPool
        return kind(size, rank=at.rank), Map(size, at.channels)

    def spatial_norm(self, at: Map):
        return self.pick([jc.GroupNorm(1, rank=at.rank), jc.InstanceNorm(rank=at.rank)]), at

    def squeeze(self, at: Map):
        """Squeeze and excitation."""
        weights = jc.serial(jc.GlobalAvgPool(rank=at.rank), jc.Dense(at.channels), jax.nn.sigmoid)
        return jc.gate(weights), at

    # --- Composites ---

    def same(self, at: Map):
        """A stack that keeps the map's shape."""
        layers = [self.conv(at, same=True)[0], self.pointwise(at)[0]]
        if "noise" in self.kinds and self.flag():
            layers.append(self.noise(at)[0])
        return self.named(layers)

    def residual(self, at: Map):
        shortcut = jc.Conv(at.channels, (1,) * at.rank) if self.flag() else None
        after = self.pick(FUNCTIONS) if self.flag() else None
        body = self.same(at) if self.flag() else self.conv(at, same=True)[0]
        return jc.residual(body, shortcut, after=after, name=self.pick(["shortcut", "downsample"])), at

    def concat(self, at: Map):
        branches = [self.same(at) for _ in range(self.integer(1, 2))]
        branches.append(self.conv(at, same=True)[0])
        return jc.concat(*branches), Map(at.size, at.channels * len(branches))

    def split(self, at: Map):
        if at.channels % 2:
            return self.pointwise(at)
        half = Map(at.size, at.channels // 2)
        return jc.split(self.same(half), jc.Identity()), at

    def gate(self, at: Map):
        return jc.gate(self.conv(at, same=True)[0]), at

    def repeat(self, at: Map):
        return jc.repeat(self.same(at) if self.flag() else self.conv(at, same=True)[0], self.integer(1, 3)), at

    def remat(self, at: Map):
        return jc.remat(self.same(at)), at

    def mixed(self, at: Map):
        return jc.mixed_precision(self.same(at)), at

    # --- The whole ---

    def named(self, layers):
        """Puts layers in a row: by position, by name, or some inline."""
        first = self.integer(0, len(layers))
        rest = {f"layer{i}": layer for i, layer in enumerate(layers[first:])}
        return jc.serial(*layers[:first], **rest)

    def row(self, at: Map, depth: int):
        """A row of ``depth`` layers."""
        layers = []
        for _ in range(depth):
            if at.channels > 4:
                layers.append(jc.Conv(2, (1,) * at.rank))
                at = Map(at.size, 2)
            layer, at = getattr(self, self.pick(self.kinds))(at)
            layers.append(layer)
        return layers, at

    def head(self, at: Map):
        """What ends a classifier."""
        pools = [jc.GlobalAvgPool(rank=at.rank), *([jc.GlobalMaxPool(rank=at.rank)] if "pool" in self.kinds else [])]
        flatten = jc.Flatten(at.rank, channels_first=self.flag())
        return [self.pick([*pools, flatten] if math.prod(at.size) <= 256 else pools), jc.Dense(3)]


@st.composite
def networks(draw, kinds=ALL, *, ranks=(1, 2), depth=5, sizes=(8, 16), batch=2, head=None, stride=4, crop=True):
    """Draws a network and the shape of its input.

    Args:
      draw: from hypothesis.
      kinds: which methods of `Drawing` to choose from.
      ranks: numbers of spatial axes.
      depth: the most layers in the row.
      sizes: the smallest and the largest spatial size.
      batch: the batch axis.
      head: whether the network ends in a classifier; None for either.
      stride, crop: see `Drawing`.
    """
    drawing = Drawing(draw, kinds, stride, crop)
    rank = drawing.pick(ranks)
    at = Map(tuple(drawing.integer(*sizes) for _ in range(rank)), drawing.integer(1, 4))
    shape = (batch, *at.size, at.channels)
    layers, at = drawing.row(at, drawing.integer(1, depth))
    if drawing.flag() if head is None else head:
        layers += drawing.head(at)
    return drawing.named(layers), shape


# --- Arrays -----------------------------------------------------------------------------------------------------------


def normal(shape, seed=0, dtype=np.float32):
    """Normal numbers of the same bits on every machine."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def randomized(tree, seed=0, low=-1.0, high=1.0):
    """A tree of the same shapes with other numbers: so no bias is 0 and no scale 1."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(low, high, a.shape), a.dtype), tree)


def ready(net, shape, seed=0):
    """Returns params and state shaped like those of ``init``, and an input."""
    params, state = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(seed))
    return randomized(params, seed), randomized(state, seed, 0.5, 1.5), normal(shape, seed)


# --- A user's own layers: nothing is subclassed or registered ---------------------------------------------------------


class Shift:
    """Adds a learned number to each channel, and counts its training passes."""

    def __init__(self, start=0.5):
        self.start = start

    def init(self, key, x):
        return {"shift": jnp.full(x.shape[-1:], self.start)}, {"passes": jnp.zeros(())}

    def apply(self, params, state, x, *, train=False, key=None):
        return x + params["shift"], {"passes": state["passes"] + 1.0} if train else state


class Pass:
    """A layer without parameters whose author returns the state as it came."""

    def init(self, key, x):
        return {}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return x, state


@dataclasses.dataclass(frozen=True)
class Twice:
    """A user's composite: runs its child two times over, with the same weights."""

    children: tuple

    def init(self, key, x):
        ((name, layer),) = self.children
        params, state = layer.init(key, x)
        return {name: params}, {name: state} if state else {}

    def apply(self, params, state, x, *, train=False, key=None):
        from jaxconv.child import run_child

        ((name, layer),) = self.children
        for _ in range(2):
            x, _ = run_child(name, layer, params[name], state.get(name, {}), x, train=train, key=key)
        return x, state


def double(x):
    """A function that can be imported, so that a layer of it can be pickled."""
    return 2 * x
