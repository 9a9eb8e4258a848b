"""The rows and properties of NVIDIA's GPUs."""

import math

from jaxconv.ops.lowering.conditions import filled, strided, thin, tiled
from jaxconv.ops.lowering.forms import FORMS, POOLS, Row
from jaxconv.ops.lowering.problem import Problem
from jaxconv.ops.lowering.smaller import UNROLLED
from jaxconv.ops.lowering.target import Platform


def _odd(p: Problem) -> bool:
    """A depthwise convolution that cuDNN has no fast program for."""
    g = p.geometry
    return g.rank == 1 or max(g.dilation) > 1 or p.outer > 1 or any(f % 2 == 0 for f in g.window)


def _uneven(p: Problem) -> bool:
    """The sides are padded differently, which XLA:GPU does in a separate pass."""
    return any(low != high for low, high in p.geometry.padding)


def _more_than_workspace(p: Problem) -> bool:
    """The feature maps, in half precision, are larger than the workspace of cuBLAS, 32 MB."""
    return p.positions * (p.channels + p.features) >= 1 << 24


# Measured on an NVIDIA H200 with jaxlib 0.11.2, float32 (its products in TF32) and bfloat16. Times are those of
# results/layers_cuda.json in experiments/benchmarks, forward or with the gradients, or of the file that a
# comment names.
CUDA = Platform(
    "cuda",
    aliases=("gpu",),
    half=True,
    features_first=True,
    crops=False,
    one_tap_at_a_time=True,
    rows=(
        Row(
            FORMS["polyphase"],
            lambda p, t: (
                p.depthwise and p.outer == 1 and p.role == "input" and p.taps <= 25 and (_odd(p) or not p.half)
            ),
            "Each phase of the stride is a depthwise convolution without stride: the gradient of 256x56x56x64 k4 s2 "
            "takes 0.35 ms, by lax 4.7 ms.",
            then=("flipped_conv", "shift_add"),
        ),
        Row(  # forms_cuda.json
            FORMS["flipped_conv"],
            lambda p, t: p.depthwise and p.outer == 1 and p.taps <= 16 and (_odd(p) or _uneven(p)),
            "The depthwise gradient is a convolution with the flipped kernel: 128x56x56x64 k3 d2 takes 0.18 ms, by lax "
            "1.5 ms.",
            then=("shift_add",),
        ),
        Row(
            FORMS["shift_add"],
            lambda p, t: p.depthwise and p.role == "output" and p.taps <= 16 and (_odd(p) or _uneven(p)),
            "cuDNN is slow here, and a sum of shifted feature maps is not: 256x56x56x64 k3 d2 takes 0.41 ms, by lax "
            "2.9 ms.",
        ),
        Row(  # forms_cuda.json
            FORMS["tap_reduce"],
            lambda p, t: (
                p.depthwise and ((p.taps <= 16 and _odd(p)) or (p.taps == 49 and not p.half and not strided(p)))
            ),
            "cuDNN is slow here, and a sum over positions for each tap is not: 128x56x56x64 k3 d2 takes 0.37 ms, by "
            "lax 88 ms; 128x56x56x96 k7 2.9 ms, by lax 8.0 ms.",
        ),
        Row(
            FORMS["per_group"],
            lambda p, t: p.taps == 1 and p.geometry.groups <= UNROLLED,
            "Each group is a matrix product: 256x28x28x240 k1 g3 takes 0.38 ms, by lax 0.49 ms.",
            then=("gemm",),
        ),
        Row(  # layers_cuda_bfloat16.json
            FORMS["gemm"],
            lambda p, t: (
                p.half and p.role == "output" and not strided(p) and p.ensemble == 0 and _more_than_workspace(p)
            ),
            "A large matrix product in half precision is faster: 256x56x56x256->128 takes 0.16 ms, by lax 0.19 ms.",
        ),
        Row(
            FORMS["space_to_depth"],
            lambda p, t: (
                thin(p)
                and p.geometry.rank == 2
                and p.taps >= math.prod(p.geometry.stride)
                and (p.half or p.role == "input" or filled(p) <= 1.4)
            ),
            "On few channels the phases of the stride become channels: 256x224x224x3->96 k4 s4 takes 0.27 ms, by lax "
            "0.40 ms; with both gradients 0.61 ms, by lax 1.6 ms.",
            then=("gemm",),
        ),
        Row(
            FORMS["space_to_depth"],
            lambda p, t: filled(p) == 1 and p.geometry.rank == 2 and min(p.geometry.stride) >= 4,
            "The phases of a wide stride become channels: the gradient of 256x14x14x21 k32 s16 takes 1.2 ms, by lax "
            "14 ms.",
            then=("gemm",),
        ),
        Row(
            FORMS["space_to_depth"],
            lambda p, t: tiled(p) and p.geometry.rank == 3 and not p.half and p.role != "kernel",
            "Non-overlapping windows are a matrix product: the gradient of 64x8x14x14x64->32 k2 s2 takes 0.12 ms, by "
            "lax 0.32 ms.",
            then=("gemm",),
        ),
        Row(
            FORMS["gemm_per_tap"],
            lambda p, t: p.role == "kernel" and max(p.geometry.dilation) > 1 and p.taps <= 9 and not strided(p),
            "A dilated kernel's gradient is a matrix product for each tap: both gradients of 256x32x32x128 k3 d4 take "
            "2.0 ms, by lax 6.2 ms.",
        ),
        Row(  # forms_cuda.json
            POOLS["xla"],
            lambda p, t: p.role == "maximum",
            "XLA's reduce_window takes one pass over all axes.",
        ),
        Row(
            POOLS["joint_max"],
            lambda p, t: p.taps <= 9,
            "The taps of all axes are compared at once: 4096x28x28x32 k2, with its gradient, takes 0.31 ms, by "
            "lax 0.93 ms.",
        ),
    ),
)
