"""The layers that the benchmarks measure: layers of well-known networks, and layers that are slow in JAX.

A case is named by its call: ``conv 8x56x56x64->128 k3 s2 p1 d1 g1`` is `jaxconv.conv` from ``(8, 56, 56, 64)`` to 128
channels with window 3x3, stride 2, padding 1, dilation 1 and groups 1. By default stride, dilation and groups are 1 and
the padding is "SAME"; the default stride of a pool is its window, its default padding "VALID".
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxconv as jc
from jaxconv.geometry import Pairs, resolve_padding, transpose_padding

Shape = tuple[int, ...]
Call = tuple[Callable[..., Any], tuple[Any, ...]]
LETTERS = {"s": "stride", "p": "padding", "o": "output_padding", "d": "dilation", "g": "groups"}


def noise(shape: Shape, seed: int, dtype: str = "float32") -> jax.Array:
    """Returns normal random numbers; four million are drawn and then repeated, since drawing takes longest."""
    drawn = np.random.default_rng(seed).standard_normal(min(math.prod(shape), 1 << 22), np.float32)
    return _again(jnp.asarray(drawn, dtype), shape)


@functools.partial(jax.jit, static_argnums=1)
def _again(drawn: jax.Array, shape: Shape) -> jax.Array:
    size = math.prod(shape)
    return jnp.tile(drawn, -(-size // max(drawn.size, 1)))[:size].reshape(shape)


class Window(NamedTuple):
    """The geometry of a window: an integer or a pair for each spatial axis; ``extra`` is the output padding."""

    size: Shape
    stride: Shape
    padding: Pairs
    dilation: Shape
    extra: Shape


@dataclass(frozen=True)
class Case:
    """One op at one shape. ``kernel`` is the kernel's shape, None for a pool, whose window is an option."""

    op: str
    x: Shape
    kernel: Shape | None
    options: tuple[tuple[str, Any], ...] = ()
    source: str = ""

    @property
    def name(self) -> str:
        """The name of the case, without the options that have their default."""
        given = dict(self.options)
        window = set(self.window.size)
        words = [f"{self.op} {'x'.join(map(str, self.x))}" + (f"->{self.features}" if self.kernel else "")]
        words.append("k" + ("x".join(map(str, self.window.size)) if len(window) > 1 else str(window.pop())))
        words += [letter + str(given[name]).lower() for letter, name in LETTERS.items() if name in given]
        return " ".join(words)

    @property
    def rank(self) -> int:
        return len(self.x) - 2

    @property
    def groups(self) -> int:
        return dict(self.options).get("groups", 1)

    @property
    def features(self) -> int:
        """The number of output channels."""
        if self.kernel is None:
            return self.x[-1]
        return self.kernel[-2] * self.groups if self.op == "conv_transpose" else self.kernel[-1]

    @property
    def window(self) -> Window:
        given = dict(self.options)
        size = self.kernel[:-2] if self.kernel else given["window"]
        wide = lambda value: (value,) * self.rank  # noqa: E731
        stride = wide(given["stride"]) if "stride" in given else wide(1) if self.kernel else size
        dilation, extra = wide(given.get("dilation", 1)), wide(given.get("output_padding", 0))
        padding = given.get("padding", "SAME" if self.kernel else "VALID")
        if self.op == "conv_transpose":
            pairs, extra = transpose_padding(padding, size, stride, dilation, extra)
        else:
            pairs = resolve_padding(padding, self.x[1:-1], size, stride, dilation)
        return Window(size, stride, pairs, dilation, extra)

    @property
    def macs(self) -> int:
        """Multiply-adds of the forward pass, including those with padding; 0 for a pool."""
        if self.kernel is None:
            return 0
        shape = self.x if self.op == "conv_transpose" else jax.eval_shape(self.jaxconv()[0], *self.shapes()).shape
        return math.prod(shape[:-1]) * math.prod(self.kernel)

    @property
    def family(self) -> str:
        """The type of layer, for tables."""
        window = self.window
        families = {
            "max pools": self.op == "max_pool",
            "average and Lp pools": self.kernel is None,
            "transposed": self.op == "conv_transpose",
            "1-D": self.rank == 1,
            "3-D": self.rank == 3,
            "dilated": max(window.dilation) > 1,
            "on 1 to 3 channels": self.x[-1] <= 3,
            "depthwise": self.groups == self.x[-1],
            "grouped": self.groups > 1,
            "1x1": max(window.size) == 1,
            "strided": max(window.stride) > 1,
        }
        return next((name for name, true in families.items() if true), "dense")

    def scaled(self, times: int) -> "Case":
        """Returns the case with the batch multiplied."""
        return replace(self, x=(self.x[0] * times, *self.x[1:]))

    @property
    def scanned(self) -> bool:
        """Whether the layer is also measured inside `jax.lax.scan`."""
        return self.name in SCANNED

    def shapes(self, dtype: str = "float32") -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in (self.x, self.kernel) if shape)

    def arrays(self, dtype: str = "float32") -> tuple[Any, ...]:
        """Returns x, and for a convolution a kernel that keeps the variance, of random numbers."""
        x = noise(self.x, 0, dtype)
        if self.kernel is None:
            return (x,)
        return x, noise(self.kernel, 2, dtype) / jnp.sqrt(math.prod(self.kernel[:-1])).astype(dtype)

    def jaxconv(self, dtype: str | None = None) -> Call:
        """Returns the op of jaxconv as a function of arrays, and with a dtype its arrays."""
        op, options = getattr(jc, self.op), dict(self.options)
        return lambda *arrays: op(*arrays, **options), self.arrays(dtype) if dtype else ()

    def lax(self, dtype: str | None = None) -> Call:
        """Returns the same function written with `jax.lax` only, as its users write it."""
        size, stride, pairs, dilation, extra = self.window
        around = lambda value, axes: (value, *axes, value)  # noqa: E731
        spatial = "DHW"[-self.rank :]
        layout: Any = {"dimension_numbers": (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")}
        reach = [(f - 1) * d for f, d in zip(size, dilation, strict=True)]
        rim = [(r - low, r - high + e) for r, (low, high), e in zip(reach, pairs, extra, strict=True)]

        def reduce(x: Any, start: float, by: Callable[..., Any]) -> Any:
            return lax.reduce_window(x, start, by, around(1, size), around(1, stride), around((0, 0), pairs))

        def conv(x: Any, kernel: Any) -> Any:
            return lax.conv_general_dilated(
                x, kernel, stride, pairs, rhs_dilation=dilation, feature_group_count=self.groups, **layout
            )

        def conv_transpose(y: Any, kernel: Any) -> Any:
            if self.groups == 1:
                return lax.conv_transpose(
                    y, kernel, stride, rim, rhs_dilation=dilation, transpose_kernel=True, **layout
                )
            *_, features, channels = kernel.shape
            split = jnp.flip(kernel, range(self.rank)).reshape(*size, features, self.groups, channels // self.groups)
            flipped = jnp.moveaxis(split, -1, -3).swapaxes(-1, -2).reshape(*size, channels // self.groups, -1)
            options: Any = {"lhs_dilation": stride, "rhs_dilation": dilation, "feature_group_count": self.groups}
            return lax.conv_general_dilated(y, flipped, (1,) * self.rank, rim, **options, **layout)

        forms: dict[str, Callable[..., Any]] = {
            "conv": conv,
            "conv_transpose": conv_transpose,
            "max_pool": lambda x: reduce(x, -jnp.inf, lax.max),
            "avg_pool": lambda x: reduce(x, 0.0, lax.add) / math.prod(size),
            "lp_pool": lambda x: jnp.sqrt(reduce(x * x, 0.0, lax.add)),
        }
        return forms[self.op], self.arrays(dtype) if dtype else ()

    def torch(self, dtype: str = "float32") -> Call:
        """Returns the same values in torch, and its tensors, in torch's channels-last memory from 2-D on."""
        import torch
        from torch.nn import functional

        size, stride, pairs, dilation, extra = self.window
        op: Callable[..., Any] = getattr(functional, f"{self.op}{self.rank}d")
        even = all(low == high for low, high in pairs)
        sides = [side for pair in reversed(pairs) for side in pair]
        padding = [low for low, _ in pairs] if even else [0] * self.rank
        fill = -math.inf if self.op == "max_pool" else 0.0

        def conv_transpose(y: Any, kernel: Any) -> Any:
            more = [low - high + e for (low, high), e in zip(pairs, extra, strict=True)]
            low = [low for low, _ in pairs]
            x = op(y, kernel, None, stride, low, [max(m, 0) for m in more], self.groups, dilation)
            return x[(..., *(slice(min(m, 0) or None) for m in more))]

        def other(x: Any, *kernel: Any) -> Any:
            x = x if even else functional.pad(x, sides, value=fill)
            if kernel:
                return op(x, *kernel, None, stride, padding, dilation, self.groups)
            return op(x, 2.0, size, stride) if self.op == "lp_pool" else op(x, size, stride, padding)

        def tensor(array: Any, *, kernel: bool) -> Any:
            spatial = range(self.rank) if kernel else range(1, self.rank + 1)
            axes = (self.rank + 1, self.rank, *spatial) if kernel else (0, self.rank + 1, *spatial)
            moved = torch.from_dlpack(array).clone().permute(axes)  # on the device of JAX's
            formats = {2: torch.channels_last, 3: torch.channels_last_3d}
            return moved.contiguous(memory_format=formats.get(self.rank, torch.contiguous_format))

        tensors = tuple(tensor(array, kernel=i == 1) for i, array in enumerate(self.arrays(dtype)))
        return conv_transpose if self.op == "conv_transpose" else other, tensors


def parse(text: str, source: str = "") -> Case:
    """Returns the case that is written as ``text``; options that change nothing are left out."""
    op, shapes, *words = text.split()
    x, _, features = shapes.partition("->")
    sizes = tuple(map(int, x.split("x")))
    rank, channels = len(sizes) - 2, sizes[-1]
    given: dict[str, Any] = {word[0]: word[1:] for word in words}
    taps = tuple(map(int, given.pop("k").split("x")))
    window = taps if len(taps) == rank else taps * rank
    options = {LETTERS[k]: int(v) if v.isdigit() else v.upper() for k, v in given.items()}
    groups = options.get("groups", 1)
    kernel = None
    if op == "conv":
        kernel = (*window, channels // groups, int(features))
    elif op == "conv_transpose":
        kernel = (*window, int(features) // groups, channels)
    else:
        options["window"] = window
    usual = {"stride": 1 if kernel else max(window), "dilation": 1, "groups": 1}
    case = Case(op, sizes, kernel, tuple((k, v) for k, v in sorted(options.items()) if usual.get(k) != v), source)
    if "output_padding" in options:
        return case
    unpadded = replace(case, options=tuple(pair for pair in case.options if pair[0] != "padding"))
    return unpadded if unpadded.window == case.window else case


def resnet50() -> Iterator[str]:
    """Yields the layers of torchvision's resnet50, which strides in the 3x3 convolutions."""
    yield "conv 8x224x224x3->64 k7 s2 p3"
    yield "max_pool 8x112x112x64 k3 s2 p1"
    size, channels = 56, 64
    for width, stride in (64, 1), (128, 2), (256, 2), (512, 2):
        small = size // stride
        yield f"conv 8x{size}x{size}x{channels}->{width} k1"
        yield f"conv 8x{size}x{size}x{width}->{width} k3 s{stride} p1"
        yield f"conv 8x{size}x{size}x{channels}->{4 * width} k1 s{stride} p0"
        yield f"conv 8x{small}x{small}x{width}->{4 * width} k1"
        yield f"conv 8x{small}x{small}x{4 * width}->{width} k1"
        yield f"conv 8x{small}x{small}x{width}->{width} k3"
        size, channels = small, 4 * width
    yield "avg_pool 8x7x7x2048 k7"


def inverted(stages: list[tuple[int, int, int, int, int]], same: bool) -> Iterator[str]:
    """Yields the layers of inverted residual stages (window, expansion, channels, repeats, stride) and their ends."""
    padding = lambda window: "psame" if same else f"p{window // 2}"  # noqa: E731
    yield f"conv 8x224x224x3->32 k3 s2 {padding(3)}"
    size, channels = 112, 32
    for window, expansion, features, repeats, first in stages:
        for stride in [first] + [1] * (repeats - 1):
            inner = channels * expansion
            if expansion > 1:
                yield f"conv 8x{size}x{size}x{channels}->{inner} k1"
            yield f"conv 8x{size}x{size}x{inner}->{inner} k{window} s{stride} {padding(window)} g{inner}"
            size, channels = size // stride, features
            yield f"conv 8x{size}x{size}x{inner}->{features} k1"
    yield f"conv 8x{size}x{size}x{channels}->1280 k1"


def mobilenet_v2() -> Iterator[str]:
    """Yields the layers of torchvision's mobilenet_v2."""
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return inverted([(3, *stage) for stage in stages], same=False)


def efficientnet_lite0() -> Iterator[str]:
    """Yields the layers of EfficientNet-Lite0, padded as TensorFlow pads."""
    stages = [(3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2)]
    return inverted([*stages, (5, 6, 112, 3, 1), (5, 6, 192, 4, 2), (3, 6, 320, 1, 1)], same=True)


def convnext_tiny() -> Iterator[str]:
    """Yields the convolutions of ConvNeXt-T; its 1x1 layers are dense."""
    yield "conv 8x224x224x3->96 k4 s4"
    for size, channels in (56, 96), (28, 192), (14, 384), (7, 768):
        yield f"conv 8x{size}x{size}x{channels}->{channels} k7 g{channels}"
        if size > 7:
            yield f"conv 8x{size}x{size}x{channels}->{2 * channels} k2 s2"


def unet() -> Iterator[str]:
    """Yields the layers of a padded U-Net of 32 to 256 channels."""
    yield "conv 8x128x128x3->32 k3"
    for size, channels in (128, 32), (64, 64), (32, 128):
        yield f"conv 8x{size}x{size}x{channels}->{channels} k3"
        yield f"max_pool 8x{size}x{size}x{channels} k2"
        yield f"conv 8x{size // 2}x{size // 2}x{channels}->{2 * channels} k3"
        yield f"conv_transpose 8x{size // 2}x{size // 2}x{2 * channels}->{channels} k2 s2"
        yield f"conv 8x{size}x{size}x{2 * channels}->{channels} k3"
    yield "conv 8x16x16x256->256 k3"


NETWORKS = {
    "ResNet-50": resnet50(),
    "MobileNetV2": mobilenet_v2(),
    "EfficientNet-Lite0": efficientnet_lite0(),
    "ConvNeXt-T": convnext_tiny(),
    "U-Net": unet(),
}

# By source: one layer a line.
LAYERS = {
    "MNIST": """
        conv 256x28x28x1->6 k5
        conv 256x14x14x6->16 k5 pvalid
        conv 128x28x28x1->32 k3
        conv 128x14x14x32->64 k3
        max_pool 128x28x28x32 k2
    """,
    "CIFAR": """
        conv 64x32x32x3->32 k3
        conv 128x32x32x3->6 k5 pvalid
        conv 128x32x32x16->16 k3
        conv 128x32x32x16->32 k3 s2 p1
        conv 128x16x16x32->32 k3
        conv 128x8x8x64->64 k3
        conv 64x16x16x128->128 k3
    """,
    "grouped": """
        conv 8x56x56x128->128 k3 g128
        conv 8x56x56x32->64 k3 g32
        conv 8x56x56x64->64 k3 g2
        conv 8x27x27x96->256 k5 g2
        conv 8x28x28x240->240 k1 g3
        conv 8x28x28x128->128 k3 g8
        conv 8x28x28x256->256 k3 g32
        conv 8x14x14x512->512 k3 g32
    """,
    "dilated": """
        conv 8x64x64x32->32 k3 d2
        conv 8x32x32x128->128 k3 d4
        conv 8x32x32x64->64 k3 d8
        conv 8x32x32x64->64 k3 d16
        conv 8x56x56x64->64 k3 d2 g64
    """,
    "transposed": """
        conv_transpose 8x28x28x128->64 k4 s2
        conv_transpose 8x28x28x64->64 k3
        conv_transpose 64x7x7x128->64 k5 s2 p2 o1
        conv_transpose 8x14x14x64->32 k8 s4
        conv_transpose 8x14x14x21->21 k32 s16
        conv_transpose 8x28x28x64->64 k4 s2 g64
        conv_transpose 8x256x256->128 k16 s8
        conv_transpose 2x8x14x14x64->32 k2 s2
    """,
    "1-D": """
        conv 8x4096x32->32 k3
        conv 8x4096x32->32 k9
        conv 8x4096x32->32 k128
        conv 8x16384x16->16 k9
        conv 8x16384x16->16 k128
        conv 8x16384x1->32 k9
        conv 8x16384x1->64 k80 s4
        conv 8x4096x32->32 k3 d16
        conv 8x4096x128->128 k4 g128
        conv 8x1024x256->256 k31 g256
    """,
    "3-D": """
        conv 2x16x56x56x3->32 k3
        conv 2x16x28x28x32->32 k3
        conv 2x16x28x28x32->64 k3 s2 p1
        conv 2x8x14x14x128->128 k3
        conv 8x16x32x32x8->16 k3
        conv 8x8x16x16x16->32 k3
        conv 2x16x28x28x64->64 k3 g64
    """,
    "pools": """
        max_pool 64x32x32x64 k2
        max_pool 64x32x32x64 k3 s2
        max_pool 8x28x28x192 k3 s1 p1
        max_pool 8x14x14x256 k5 s1 p2
        max_pool 8x4096x64 k2
        max_pool 2x16x28x28x64 k2
        max_pool 2x16x28x28x64 k3 s2 p1
        avg_pool 64x32x32x64 k2
        avg_pool 64x32x32x64 k3 s2
        avg_pool 8x28x28x192 k3 s1 p1
        avg_pool 8x14x14x256 k5 s1 p2
        avg_pool 8x4096x64 k3 s2
        avg_pool 2x16x28x28x64 k2
        lp_pool 64x32x32x64 k2
        lp_pool 64x32x32x64 k3 s2
    """,
}

SCANNED = {
    "conv 8x28x28x128->128 k3",
    "conv 8x56x56x64->64 k1",
    "conv 8x56x56x128->128 k3 s2 p1",
    "conv 128x28x28x1->32 k3",
    "conv 128x14x14x32->64 k3",
    "conv 128x16x16x32->32 k3",
    "conv 8x14x14x384->384 k7 g384",
    "conv 8x28x28x128->128 k3 g8",
    "conv 8x32x32x64->64 k3 d8",
    "conv 8x4096x32->32 k9",
    "conv_transpose 8x28x28x128->64 k4 s2",
    "max_pool 64x32x32x64 k2",
    "max_pool 64x32x32x64 k3 s2",
}

# What grows: the same convolution at sizes that double, so that the cost can be seen to grow as the work does.
GROWTH = {
    "batch": [parse(f"conv {n}x28x28x64->64 k3") for n in (2, 4, 8, 16)],
    "size": [parse(f"conv 8x{n}x{n}x64->64 k3") for n in (14, 28, 56)],
    "channels": [parse(f"conv 8x28x28x{n}->{n} k3") for n in (32, 64, 128)],
}


def _merged() -> list[Case]:
    """Returns each layer once, with all the networks that have it."""
    sources: dict[Case, list[str]] = {}
    lists = {**NETWORKS, **{source: text.strip().splitlines() for source, text in LAYERS.items()}}
    for source, lines in lists.items():
        for case in dict.fromkeys(map(parse, lines)):
            sources.setdefault(case, []).append(source)
    return [replace(case, source=", ".join(names)) for case, names in sources.items()]


CASES = _merged()
