"""Which form computes a convolution, by platform: the first row whose condition holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.ops.arrays import wider
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.forms import FORMS, XLA, Form
from jaxconv.ops.lowering.guard import guarded
from jaxconv.ops.lowering.problem import Array, Problem, others
from jaxconv.ops.lowering.smaller import UNROLLED, split_up
from jaxconv.ops.lowering.sums import held, laid_by_one, tile_size, tiles_held
from jaxconv.ops.lowering.xla import by_ynnpack

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclass(frozen=True)
class Choice:
    """A form, why it is taken, and the forms for what it leaves, if not the table's."""

    form: Form
    why: str
    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A form, the problems that it is taken for among those that it fits, and the measurement that says so.

    ``then`` are the forms for what it leaves to others, the first that fits or lax's; without it the table chooses.
    """

    form: Form
    when: Callable[[Problem], bool]
    why: str
    then: tuple[str, ...] = ()


def _always(p: Problem) -> bool:
    return True


def _tiled(p: Problem) -> bool:
    """The windows lie side by side."""
    g = p.geometry
    return g.window == g.stride and not any(map(any, g.padding)) and max(g.dilation) == 1


def _filled(p: Problem) -> float:
    """How much larger a window is that is filled up to a multiple of the stride."""
    g = p.geometry
    return math.prod(-(-f // s) * s / f for f, s in zip(g.window, g.stride, strict=True))


def _thin(p: Problem) -> bool:
    """A filter sees few channels, too few for a matrix product of one window's taps."""
    return p.inner <= 4


def _pointwise(p: Problem) -> bool:
    """A matrix product of all places as they lie."""
    return p.taps == 1 and p.geometry.groups == 1 and not _strided(p)


def _strided(p: Problem) -> bool:
    return max(p.geometry.stride) > 1


def _large_or_wide(p: Problem) -> bool:
    """Large arrays of large examples, or a few examples under a window of many taps; examples are taken one by one."""
    numbers = math.prod(p.shape("input"))
    return (p.taps * numbers > 2**26 and numbers > p.batch * 2**18) or (p.taps > 25 and p.batch <= 16)


# Measured on two cores of an AMD EPYC with jaxlib 0.10.2, float32. Times are those of results/forms.json in
# experiments/benchmarks, which times forms one by one, or else in the file that is named, which names its machine.
CPU = (
    Row(FORMS["gemm"], lambda p: p.ensemble > 0, "an ensemble of matrix products: one that is batched"),
    Row(
        FORMS["toeplitz_gemm"],
        lambda p: p.ensemble > 0 and _thin(p) and p.role == "kernel" and (p.ensemble > UNROLLED or p.features >= 16),
        "an ensemble on few channels, a batched product of several windows: training.json",
    ),
    Row(
        FORMS["per_member"],
        lambda p: 0 < p.ensemble <= UNROLLED and p.onednn and p.depthwise and p.role == "kernel",
        "an ensemble of depthwise kernel gradients, each by oneDNN: 6 of 8x28x28x64 k3 3.3 ms, batched sums 22",
    ),
    Row(
        FORMS["shift_add"],
        lambda p: p.ensemble > 0 and (p.depthwise or p.role == "output" or p.ensemble > UNROLLED),
        "an ensemble of sums of shifted maps: batched",
    ),
    Row(
        FORMS["split_im2col"],
        lambda p: p.ensemble > UNROLLED and p.role == "kernel" and p.inner * p.features <= 256 and p.places <= 1024,
        "the gradients of many examples, what rows and columns see: 64 of 1x14x14x6->16 k5 0.4 ms, lax 1.4",
    ),
    Row(FORMS["per_member"], _always, "one member after the other; lax makes groups of them, training.json"),
    Row(
        FORMS["onednn"],
        lambda p: p.role != "kernel" and not _pointwise(p) and not (p.depthwise and p.taps <= 4),
        "oneDNN's: 8x128x128x32->32 k3 5.1 ms, lax 10; 8x56x56x96 k7 g96 1.0 ms, lax 105",
    ),
    Row(
        FORMS["onednn"],
        lambda p: (
            p.role == "kernel"
            and p.geometry.groups == 1
            and (p.taps * p.inner > 27 or p.geometry.rank == 3 or (p.inner > 1 and p.batch <= 16 and not by_ynnpack(p)))
            and p.taps > 1
            and p.features > 2
            and not _tiled(p)
        ),
        "oneDNN's, with the examples as channels: 8x56x56x64->64 k3, gradients 12 ms, lax 31, in layers.json",
    ),
    Row(
        FORMS["onednn"],
        lambda p: p.role == "kernel" and p.depthwise and p.taps > 4 and not _strided(p),
        "oneDNN's, with the examples as an axis of the map: 8x56x56x144 k3 2.2 ms, shifts 3.5, lax 62",
    ),
    Row(
        FORMS["onednn"],
        lambda p: p.role == "kernel" and p.geometry.groups > 1 and p.geometry.rank > 1 and p.inner > 1 and p.taps > 1,
        "oneDNN's, with the examples as channels: 8x28x28x256->256 k3 g32, gradients 6 ms, lax 2610, in layers.json",
    ),
    Row(
        FORMS["depthwise_space_to_depth"],
        lambda p: _large_or_wide(p) and onednn.fits(split_up(p)[0]),
        "depthwise with stride and large, without it by oneDNN: 8x112x112x96 k3 s2 4.1 ms, shifts 13, lax 52; or under "
        "a wide window, of which shifts are too many slices: 8x56x56x96 k7 s2 3.5 ms, shifts 2.8, lax 24",
        then=("onednn",),
    ),
    Row(
        FORMS["gemm"],
        lambda p: p.role == "kernel" or _pointwise(p) or (p.role == "output" and not p.onednn),
        "a matrix product: 8x7x7x960->320 0.56 ms, lax 1.0; 8x56x56x256->64, its kernel's gradient 3.1 ms, lax 19",
    ),
    Row(
        FORMS["polyphase"],
        lambda p: p.depthwise and _strided(p) and p.role != "kernel",
        "depthwise, each phase by itself: 8x56x56x144 k5 s2 1.0 ms, lax 27",
    ),
    Row(FORMS["shift_add"], lambda p: p.depthwise, "depthwise, a sum of shifted maps: 8x56x56x96 k7 2.4 ms, lax 105"),
    Row(
        FORMS["shift_add"],
        lambda p: p.role == "output" and p.inner == 1 and p.taps <= 32 and (p.geometry.rank == 1 or not _strided(p)),
        "one channel, a sum of shifted maps: 8x16384x1->32 k9 0.4 ms, lax 1.4; k15 s5 0.34 ms, tiles 0.61, without "
        "AVX-512 0.55 and 0.97",
    ),
    Row(FORMS["flipped_conv"], _always, "a convolution with the kernel turned round, with the choice for that"),
    Row(
        FORMS["per_group"],
        lambda p: p.inner >= 16 or p.taps == 1,
        "each group by itself: 8x56x56x64->64 k3 g2 in layers.json",
    ),
    Row(
        FORMS["block_diagonal"],
        _always,
        "groups taken together: 8x28x28x256 k3 g32 14 ms, lax 38; its kernel's gradient 9 ms, lax 2570",
    ),
    Row(FORMS["per_group"], _always, "each group by itself: lax's own way is naive"),
    Row(
        FORMS["space_to_depth"],
        lambda p: _tiled(p) and (p.role == "kernel" or p.inner >= 64 or (p.role == "output" and p.inner < 16)),
        "windows side by side, a matrix product: 8x224x224x3->96 k4 s4 0.8 ms, lax 2.3",
    ),
    Row(
        FORMS["space_to_depth"],
        lambda p: p.role == "input" and _filled(p) <= 1.4 and p.inner * math.prod(p.geometry.stride) >= 12,
        "the phases as channels: back from 21 to 21 channels k32 s16 16 ms, lax 580",
    ),
    Row(
        FORMS["polyphase"],
        lambda p: p.role == "input" and max(p.geometry.window) <= 3 and p.inner >= 16,
        "each phase by itself: 8x56x56x128->128 k3 s2 11 ms, lax 15",
    ),
    Row(
        FORMS["toeplitz_gemm"],
        lambda p: _thin(p) and p.taps <= 27 and p.role == "output" and tiles_held(p, tile_size(p)) <= 1,
        "few channels, a product of several windows, where oneDNN is not to be had",
    ),
    Row(
        FORMS["per_slice"],
        lambda p: _thin(p) and p.role == "kernel" and p.batch >= 64 and p.geometry.rank > 1,
        "few channels, the window's rows by themselves: 256x28x28x1->6 k5, gradients, in layers.json",
    ),
    Row(
        FORMS["toeplitz_gemm"],
        lambda p: _thin(p) and p.role == "kernel" and (p.batch >= 64 or (p.onednn and by_ynnpack(p))),
        "few channels, a product of several windows: 128x28x28x1->32 k3, gradients, in layers.json",
    ),
    Row(
        FORMS["per_example"],
        lambda p: p.geometry.rank == 3 and p.places >= 4096 * p.batch,
        "large maps, one example after the other: 8x16x32x32x8->16 k3 in layers.json",
    ),
    Row(FORMS["per_slice"], lambda p: p.geometry.rank == 3, "each slab by itself: 2x16x28x28x32->32 k3 in layers.json"),
    Row(
        FORMS["split_im2col"],
        lambda p: (
            p.role == "kernel"
            and by_ynnpack(p)
            and p.inner >= 16
            and p.taps <= 49
            and p.places >= 4096
            and math.prod(p.geometry.size) >= 196
            and laid_by_one(p) <= held(p)
        ),
        "around YNNPACK, which is slow at it: 8x64x64x64->64 k3, gradients, in layers.json",
    ),
    Row(
        FORMS["xla_prelayout"],
        _always,
        "as lax's, and as fast in a compiled loop, where lax's is many times slower: layers.json",
    ),
    Row(
        FORMS["xla_extra_row"],
        lambda p: by_ynnpack(p) and 32 <= p.inner <= 64 and p.features >= 16 and p.places * p.features > 250_000,
        "lax's, around YNNPACK, where oneDNN is not to be had: 8x64x64x64->64 k3",
    ),
)


def _odd(p: Problem) -> bool:
    """A depthwise convolution that cuDNN has no fast program for."""
    g = p.geometry
    return g.rank == 1 or max(g.dilation) > 1 or p.outer > 1 or any(f % 2 == 0 for f in g.window)


def _uneven(p: Problem) -> bool:
    """The sides are padded differently, which XLA:GPU lays out beforehand."""
    return any(low != high for low, high in p.geometry.padding)


def _more_than_workspace(p: Problem) -> bool:
    """The maps, in half types, are larger than the 32 MB that cuBLAS asks for beside them."""
    return p.places * (p.channels + p.features) >= 1 << 24


# Measured on an NVIDIA H200 with jaxlib 0.11.2, float32 (its products in TF32) and bfloat16. Times are those of
# results/layers_cuda.json in experiments/benchmarks, forward or with the gradients, or else of the file that is named.
CUDA = (
    Row(
        FORMS["polyphase"],
        lambda p: p.depthwise and p.outer == 1 and p.role == "input" and p.taps <= 25 and (_odd(p) or not p.half),
        "depthwise, each phase by itself: back from 256x56x56x64 k4 s2 0.35 ms, lax 4.7",
        then=("flipped_conv", "shift_add"),
    ),
    Row(
        FORMS["flipped_conv"],
        lambda p: p.depthwise and p.outer == 1 and p.taps <= 16 and (_odd(p) or _uneven(p)),
        "depthwise, with the kernel turned round: 128x56x56x64 k3 d2 0.18 ms, lax 1.5, in forms_cuda.json",
        then=("shift_add",),
    ),
    Row(
        FORMS["shift_add"],
        lambda p: p.depthwise and p.role == "output" and p.taps <= 16 and (_odd(p) or _uneven(p)),
        "depthwise where cuDNN is slow, a sum of shifted maps: 256x56x56x64 k3 d2 0.41 ms, lax 2.9",
    ),
    Row(
        FORMS["tap_reduce"],
        lambda p: p.depthwise and ((p.taps <= 16 and _odd(p)) or (p.taps == 49 and not p.half and not _strided(p))),
        "depthwise where cuDNN is slow, for each tap a sum over places: 128x56x56x64 k3 d2 0.37 ms, lax 88; "
        "128x56x56x96 k7 2.9 ms, lax 8.0, in forms_cuda.json",
    ),
    Row(
        FORMS["per_group"],
        lambda p: p.taps == 1 and p.geometry.groups <= UNROLLED,
        "each group by itself, a matrix product: 256x28x28x240 k1 g3 0.38 ms, lax 0.49",
        then=("gemm",),
    ),
    Row(
        FORMS["gemm"],
        lambda p: p.half and p.role == "output" and not _strided(p) and p.ensemble == 0 and _more_than_workspace(p),
        "a matrix product of half types: 256x56x56x256->128 0.16 ms, lax 0.19, in layers_cuda_bfloat16.json",
    ),
    Row(
        FORMS["space_to_depth"],
        lambda p: (
            _thin(p)
            and p.geometry.rank == 2
            and p.taps >= math.prod(p.geometry.stride)
            and (p.half or p.role == "input" or _filled(p) <= 1.4)
        ),
        "few channels, the phases as channels: 256x224x224x3->96 k4 s4 0.27 ms, lax 0.40; gradients 0.61, lax 1.6",
        then=("gemm",),
    ),
    Row(
        FORMS["space_to_depth"],
        lambda p: _filled(p) == 1 and p.geometry.rank == 2 and min(p.geometry.stride) >= 4,
        "wide strides, the phases as channels: back from 256x14x14x21 k32 s16 1.2 ms, lax 14",
        then=("gemm",),
    ),
    Row(
        FORMS["space_to_depth"],
        lambda p: _tiled(p) and p.geometry.rank == 3 and not p.half and p.role != "kernel",
        "windows side by side, a matrix product: back from 64x8x14x14x64->32 k2 s2 0.12 ms, lax 0.32",
        then=("gemm",),
    ),
    Row(
        FORMS["gemm_per_tap"],
        lambda p: p.role == "kernel" and max(p.geometry.dilation) > 1 and p.taps <= 9 and not _strided(p),
        "a dilated kernel's gradient, a product for each tap: 256x32x32x128 k3 d4, gradients, 2.0 ms, lax 6.2",
    ),
)
ROWS: dict[str, tuple[Row, ...]] = {"cpu": CPU, "cuda": CUDA}


def choose(p: Problem, mode: Any) -> Choice:
    """Returns the form for this problem.

    Args:
      p: the convolution.
      mode: what `jaxconv.lowering` was given.
    """
    if mode == "xla":
        return Choice(XLA, "asked for")
    for name in mode if isinstance(mode, tuple) else ():
        if FORMS[name].takes(p):
            return Choice(FORMS[name], "asked for")
    exact = mode == "exact"
    if mode in ("auto", "portable", "exact"):
        for row in ROWS.get(p.platform or "", ()):
            if row.form.takes(p) and row.when(p) and not (exact and row.form.spreads(p)):
                return Choice(row.form, row.why, row.then)
    if exact and XLA.spreads(p):
        form = next(FORMS[name] for name in ("per_member", "per_group", "polyphase") if FORMS[name].takes(p))
        return Choice(form, "lax's own lets what is not finite reach more than depends on it")
    if isinstance(mode, tuple):
        return Choice(XLA, "none of the forms asked for fits")
    return Choice(XLA, "nothing measured faster" if p.platform in ROWS else "no measurements on this platform")


def solve(mode: Any, p: Problem, first: Array, second: Array, seen: Any = None) -> Array:
    """Computes the problem by the form that is chosen for it; ``seen``, a list, is told the problems and choices.

    A form that would spread what is not finite is guarded on the CPU: see `jaxconv.ops.lowering.guard`.
    """
    choice = choose(p, mode)
    if seen is not None:
        seen.append((p, choice))

    def smaller(p: Problem, first: Array, second: Array) -> Array:
        return solve(choice.then or mode, p, first, second, seen)

    # CUDA's libraries take half types as they are.
    native = p.half and p.platform == "cuda" and p.role not in choice.form.adds
    if choice.form is not XLA and not native:
        wide = wider(p.dtype, jnp.float32) if p.half else p.dtype
        first, second, p = first.astype(wide), second.astype(wide), replace(p, half=False, dtype=wide)

    def compute() -> Array:
        if p.ensemble and choice.form.ensemble == "vmap":
            single = replace(p, ensemble=0, onednn=False)
            return jax.vmap(lambda first, second: choice.form.function(single, first, second, smaller))(first, second)
        return choice.form.function(p, first, second, smaller)

    spreads = choice.form.spreads(p)
    # On a GPU a branch would make it wait, and what lax computes stays lax's.
    if choice.form is XLA or not spreads or p.platform != "cpu" or mode not in ("auto", "portable"):
        return compute()
    operands = dict(zip(others(p.role), (first, second), strict=True))
    size = max(p.ensemble, 1) * math.prod(p.shape(p.role))
    return guarded([operands[name] for name in spreads], size, compute, lambda: solve("exact", p, first, second))


def steps(p: Problem, mode: Any) -> list[tuple[Problem, Choice]]:
    """Returns the problem and the smaller ones that its form leaves, each with what is chosen for it."""
    seen: list[tuple[Problem, Choice]] = []
    lead = (p.ensemble,) if p.ensemble else ()
    arrays = (jax.ShapeDtypeStruct((*lead, *p.shape(name)), p.dtype) for name in others(p.role))
    jax.eval_shape(lambda a, b: solve(mode, p, a, b, seen), *arrays)
    return seen


def stands_alone(p: Problem, mode: Any) -> bool:
    """Whether a compiler must not fuse what computes the problem with what stands before and behind it.

    A sum of shifted maps would be computed again by each of its readers. The gradient of a kernel reads its maps
    turned round or many times over, and would compute again what they are made of, such as normalization and ReLU,
    number by number across the memory.
    """
    if p.role != "kernel" and 1 not in (p.inner, p.outer):
        return False
    forms = {choice.form for _, choice in steps(p, mode)}
    if p.onednn and not p.ensemble and forms <= {FORMS["gemm"], FORMS["onednn"]}:
        return False  # a call reads its arrays once
    return XLA not in forms if p.role == "kernel" else FORMS["shift_add"] in forms
