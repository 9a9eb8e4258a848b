"""The rows and properties of the CPU."""

import math
from collections.abc import Mapping
from typing import Any

from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.conditions import always, filled, pointwise, strided, thin, tiled
from jaxconv.ops.lowering.forms import FORMS, POOLS, PRODUCTS, Row
from jaxconv.ops.lowering.problem import Problem
from jaxconv.ops.lowering.smaller import UNROLLED, split_up
from jaxconv.ops.lowering.sums import elements, elements_of_one, tile_size, tiles_held
from jaxconv.ops.lowering.target import Blocks, Platform
from jaxconv.ops.lowering.xla import by_ynnpack


def _large_or_wide(p: Problem) -> bool:
    """Large arrays of large examples, or a few examples under a window of many taps: one example at a time pays."""
    size = math.prod(p.shape("input"))
    return (p.taps * size > 2**26 and size > p.batch * 2**18) or (p.taps > 25 and p.batch <= 16)


# The types of computation that XLA passes to YNNPACK under `jaxconv.jit`. YNNPACK is faster than XLA at reductions, and
# at matrix products of few rows, as in a loop of small steps; it is slower at convolutions: results/jit.json.
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
PASSED = ("REDUCE", "DOT", "INDIVIDUAL_DOT")

# XLA allocates the temporary arrays of a program in one block at each call. glibc requests a block above 32 MB from the
# system each time, and the system clears it page by page on first access; glibc keeps many smaller blocks. With this
# option XLA allocates several blocks of at most n bytes, an int32: docs/steps.md has the page faults.
BLOCKS = Blocks("xla_multiheap_size_constraint_per_heap", 2**24, 2**31 - 1, kept=2**25)


def _passes_convolutions(options: Mapping[str, Any]) -> bool:
    """Whether XLA passes convolutions to YNNPACK, as it does without the option."""
    return "CONVOLUTION" in str(options.get(YNNPACK, "CONVOLUTION"))


# Measured on two cores of an AMD EPYC with jaxlib 0.10.2, float32. Times are those of results/forms.json in
# experiments/benchmarks, which times forms one by one, or of the file that a comment names, which names its machine.
CPU = Platform(
    "cpu",
    onednn=True,
    guards=True,
    recomputes=True,
    # Inside a loop XLA:CPU has no fast algorithm for lax's convolution gradients, which other layers may use, and
    # max pools and jaxconv's convolutions are slower: results/scan.json, layers.json.
    loops=False,
    options={YNNPACK: ",".join(f"LIBRARY_FUSION_TYPE_{name}" for name in PASSED)},
    blocks=BLOCKS,
    ynnpack=_passes_convolutions,
    rows=(
        # Ensembles.
        Row(FORMS["gemm"], lambda p, t: p.ensemble > 0, "An ensemble of matrix products is one batched product."),
        Row(  # training.json
            FORMS["toeplitz_gemm"],
            lambda p, t: (
                p.ensemble > 0 and thin(p) and p.role == "kernel" and (p.ensemble > UNROLLED or p.features >= 16)
            ),
            "An ensemble on few channels is a batched matrix product of several windows at once.",
        ),
        Row(
            FORMS["per_member"],
            lambda p, t: 0 < p.ensemble <= UNROLLED and t.onednn and p.depthwise and p.role == "kernel",
            "oneDNN computes each member's depthwise gradient: 6 of 8x28x28x64 k3 take 3.3 ms, batched sums 22 ms.",
        ),
        Row(
            FORMS["shift_add"],
            lambda p, t: p.ensemble > 0 and (p.depthwise or p.role == "output" or p.ensemble > UNROLLED),
            "An ensemble of sums of shifted feature maps is one batched sum.",
        ),
        Row(
            FORMS["split_im2col"],
            lambda p, t: (
                p.ensemble > UNROLLED and p.role == "kernel" and p.inner * p.features <= 256 and p.positions <= 1024
            ),
            "The gradients of many examples are batched products: 64 of 1x14x14x6->16 k5 take 0.4 ms, by lax 1.4 ms.",
        ),
        Row(  # training.json
            FORMS["per_member"],
            always,
            "Members are computed one after another, since lax turns an ensemble into a grouped convolution.",
        ),
        # oneDNN.
        Row(
            FORMS["onednn"],
            lambda p, t: p.role != "kernel" and not pointwise(p) and not (p.depthwise and p.taps <= 4),
            "oneDNN is faster: 8x128x128x32->32 k3 takes 5.1 ms, by lax 10 ms; 8x56x56x96 k7 g96 1.0 ms, by lax 105.",
        ),
        Row(  # layers.json
            FORMS["onednn"],
            lambda p, t: (
                p.role == "kernel"
                and p.geometry.groups == 1
                and (
                    p.taps * p.inner > 27
                    or p.geometry.rank == 3
                    or (p.inner > 1 and p.batch <= 16 and not by_ynnpack(p, t))
                )
                and p.taps > 1
                and p.features > 2
                and not tiled(p)
            ),
            "oneDNN is faster, with examples as channels: both gradients of 8x56x56x64->64 k3 take 12 ms, by lax 31.",
        ),
        Row(
            FORMS["onednn"],
            lambda p, t: p.role == "kernel" and p.depthwise and p.taps > 4 and not strided(p),
            "oneDNN is faster, with examples as a spatial axis: 8x56x56x144 k3 takes 2.2 ms, by lax 62 ms.",
        ),
        Row(  # layers.json
            FORMS["onednn"],
            lambda p, t: (
                p.role == "kernel" and p.geometry.groups > 1 and p.geometry.rank > 1 and p.inner > 1 and p.taps > 1
            ),
            "oneDNN is faster, with examples as channels: both gradients of 8x28x28x256->256 k3 g32 take 6 ms, by lax "
            "2610 ms.",
        ),
        Row(
            FORMS["depthwise_space_to_depth"],
            lambda p, t: t.onednn and _large_or_wide(p) and onednn.fits(split_up(p)[0]),
            "Without its stride oneDNN computes a large depthwise gradient: 8x112x112x96 k3 s2 takes 4.1 ms, shifted "
            "sums 13 ms, lax 52 ms.",
            then=("onednn",),
        ),
        # Without oneDNN, or where it is slower.
        Row(
            FORMS["gemm"],
            lambda p, t: p.role == "kernel" or pointwise(p) or (p.role == "output" and not t.onednn),
            "A window of one tap is a matrix product: 8x7x7x960->320 takes 0.56 ms, by lax 1.0 ms.",
        ),
        Row(
            FORMS["polyphase"],
            lambda p, t: p.depthwise and strided(p) and p.role != "kernel",
            "Each phase of the stride is a convolution without stride: 8x56x56x144 k5 s2 takes 1.0 ms, by lax 27 ms.",
        ),
        Row(
            FORMS["shift_add"],
            lambda p, t: p.depthwise,
            "A depthwise convolution is a sum of shifted feature maps: 8x56x56x96 k7 takes 2.4 ms, by lax 105 ms.",
        ),
        Row(  # k15 s5: 0.34 ms, toeplitz_gemm 0.61; without AVX-512 0.55 and 0.97
            FORMS["shift_add"],
            lambda p, t: (
                p.role == "output" and p.inner == 1 and p.taps <= 32 and (p.geometry.rank == 1 or not strided(p))
            ),
            "A convolution of one channel is a sum of shifted feature maps: 8x16384x1->32 k9 takes 0.4 ms, by lax "
            "1.4 ms.",
        ),
        Row(
            FORMS["flipped_conv"],
            always,
            "The gradient is a convolution with the flipped kernel, for which the table chooses again.",
        ),
        Row(  # 8x56x56x64->64 k3 g2 in layers.json
            FORMS["per_group"],
            lambda p, t: p.inner >= 16 or p.taps == 1,
            "Groups of many channels are computed separately, since XLA:CPU's grouped convolution is naive.",
        ),
        Row(  # the kernel's gradient: 9 ms, lax 2570
            FORMS["block_diagonal"],
            always,
            "Several small groups are one dense convolution: 8x28x28x256 k3 g32 takes 14 ms, by lax 38 ms.",
        ),
        Row(
            FORMS["per_group"],
            always,
            "Groups are computed separately, since XLA:CPU's grouped convolution is naive.",
        ),
        Row(
            FORMS["space_to_depth"],
            lambda p, t: tiled(p) and (p.role == "kernel" or p.inner >= 64 or (p.role == "output" and p.inner < 16)),
            "Non-overlapping windows are a matrix product: 8x224x224x3->96 k4 s4 takes 0.8 ms, by lax 2.3 ms.",
        ),
        Row(
            FORMS["space_to_depth"],
            lambda p, t: p.role == "input" and filled(p) <= 1.4 and p.inner * math.prod(p.geometry.stride) >= 12,
            "The phases of the stride become channels: the gradient of 21->21 channels, k32 s16, takes 16 ms, by lax "
            "580 ms.",
        ),
        Row(
            FORMS["polyphase"],
            lambda p, t: p.role == "input" and max(p.geometry.window) <= 3 and p.inner >= 16,
            "Each phase of the stride is a convolution without stride: 8x56x56x128->128 k3 s2 takes 11 ms, by lax 15.",
        ),
        Row(
            FORMS["toeplitz_gemm"],
            lambda p, t: thin(p) and p.taps <= 27 and p.role == "output" and tiles_held(p, tile_size(p)) <= 1,
            "On few channels a matrix product of several windows at once is faster than lax.",
        ),
        Row(  # 256x28x28x1->6 k5, both gradients, in layers.json
            FORMS["per_slice"],
            lambda p, t: thin(p) and p.role == "kernel" and p.batch >= 64 and p.geometry.rank > 1,
            "On few channels the rows of the window are computed separately.",
        ),
        Row(  # 128x28x28x1->32 k3, both gradients, in layers.json
            FORMS["toeplitz_gemm"],
            lambda p, t: thin(p) and p.role == "kernel" and (p.batch >= 64 or (t.onednn and by_ynnpack(p, t))),
            "On few channels a matrix product of several windows at once is faster than lax.",
        ),
        Row(  # 8x16x32x32x8->16 k3 in layers.json
            FORMS["per_example"],
            lambda p, t: p.geometry.rank == 3 and p.positions >= 4096 * p.batch,
            "Large 3-D feature maps are computed one example at a time, so that temporary arrays stay small.",
        ),
        Row(  # 2x16x28x28x32->32 k3 in layers.json
            FORMS["per_slice"],
            lambda p, t: p.geometry.rank == 3,
            "A 3-D convolution is a sum of 2-D convolutions, which XLA:CPU has a fast program for.",
        ),
        Row(  # 8x64x64x64->64 k3, both gradients, in layers.json
            FORMS["split_im2col"],
            lambda p, t: (
                p.role == "kernel"
                and by_ynnpack(p, t)
                and p.inner >= 16
                and p.taps <= 49
                and p.positions >= 4096
                and math.prod(p.geometry.size) >= 196
                and elements_of_one(p) <= elements(p)
            ),
            "A matrix product avoids YNNPACK, which is slow at the gradients of such kernels.",
        ),
        Row(  # layers.json
            FORMS["xla_prelayout"],
            always,
            "XLA's convolution gets its arrays in the layout that stays fast in a compiled loop.",
        ),
        Row(  # 8x64x64x64->64 k3
            FORMS["xla_extra_row"],
            lambda p, t: (
                by_ynnpack(p, t) and 32 <= p.inner <= 64 and p.features >= 16 and p.positions * p.features > 250_000
            ),
            "XLA's convolution with one more row of output avoids YNNPACK, which is slower here.",
        ),
        # Pools.
        Row(  # 64x32x32x64 k2 with the gradient, in layers.json
            POOLS["joint_max"],
            lambda p, t: p.tiled and p.taps <= 32,
            "The taps of all axes are compared at once, which is fastest where windows do not overlap.",
        ),
        Row(  # layers.json
            POOLS["broadcast"],
            always,
            "The gradient is copied to each window, which is faster than XLA's sums over zeros.",
        ),
        # Matrix products.
        Row(
            PRODUCTS["onednn"],
            always,
            "oneDNN's matrix product is faster: 8x56x56x256->64, the kernel's gradient, takes 3.1 ms, by lax 19 ms.",
        ),
    ),
)
