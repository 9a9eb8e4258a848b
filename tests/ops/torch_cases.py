"""What is compared with torch: one description of each op's cases, for the live search and for the record.

A `Case` is plain data: the op's name, the shapes of its arrays in our layout, its options and a seed. `OPS` says how
cases of an op are drawn, and how ours and torch's function are called with them. torch is imported when it is called.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from tests.ops.draws import Draws, Seeded, uniform


@dataclasses.dataclass(frozen=True)
class Case:
    """One call: arrays are regenerated from the seed, so that only results are ever stored."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any]
    seed: int

    def arrays(self) -> list[np.ndarray]:
        ranges = [(0.5, 1.5) if i in OPS[self.op].positive else (-1.0, 1.0) for i in range(len(self.shapes))]
        return [uniform(self.seed * 10 + i, s, *r) for i, (s, r) in enumerate(zip(self.shapes, ranges, strict=True))]

    def cotangent(self, shape) -> np.ndarray:
        return uniform(self.seed * 10 + 9, shape)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Case":
        fields = json.loads(text)
        return cls(**{**fields, "shapes": tuple(tuple(shape) for shape in fields["shapes"])})


@dataclasses.dataclass(frozen=True)
class Op:
    """How an op's cases are drawn and called. Functions may return (differentiable result, exact results ...)."""

    draw: Callable[[Draws], tuple[tuple[tuple[int, ...], ...], dict[str, Any]]]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    # Arrays that must be positive, a variance say.
    positive: tuple[int, ...] = ()


def draw_case(name: str, draws: Draws) -> Case:
    shapes, options = OPS[name].draw(draws)
    return Case(name, shapes, options, draws.integer(0, 1 << 20))


def run_ours(case: Case) -> list[np.ndarray]:
    """The results and the gradients for each argument, in float64."""
    function = OPS[case.op].ours

    def first_and_rest(*arrays):
        out = function(*arrays, **case.options)
        return (out[0], out[1:]) if isinstance(out, tuple) else (out, ())

    with jax.enable_x64(True):
        arrays = case.arrays()
        shape = jax.eval_shape(first_and_rest, *arrays)[0].shape

        @jax.jit
        def both(arrays, cotangent):
            out, pullback, rest = jax.vjp(first_and_rest, *arrays, has_aux=True)
            return [out, *rest, *pullback(cotangent)]

        return [np.asarray(a) for a in both(arrays, case.cotangent(shape))]


def run_theirs(case: Case) -> list[np.ndarray]:
    """The same by torch."""
    import torch

    tensors = [torch.tensor(a, requires_grad=True) for a in case.arrays()]
    out = OPS[case.op].theirs(*tensors, **case.options)
    out, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
    cotangent = torch.tensor(case.cotangent(tuple(out.shape)))
    gradients = torch.autograd.grad(out, tensors, cotangent)
    return [t.detach().numpy() for t in (out, *rest, *gradients)]


def recorded_cases(count: int) -> list[Case]:
    """``count`` cases of each op, always the same."""
    return [draw_case(name, Seeded(zlib.crc32(f"{name} {i}".encode()))) for name in OPS for i in range(count)]


# ---------------------------------------------------------------------------------------------------------------------
# torch's layout


def first(x):
    """Channels last to channels first."""
    return x.movedim(-1, 1)


def last(x):
    return x.movedim(1, -1)


def torch_function(name: str, rank: int):
    """``torch.nn.functional``'s function for this rank: conv with 2 is conv2d."""
    import torch

    return getattr(torch.nn.functional, f"{name}{rank}d")


def torch_pad(x, pads, mode="zeros", value=0.0):
    """torch.nn.functional.pad, whose pairs start with the last axis; x is channels first."""
    import torch

    flat = [p for pair in reversed(pads) for p in pair]
    names = {"zeros": "constant", "reflect": "reflect", "edge": "replicate", "circular": "circular"}
    return torch.nn.functional.pad(x, flat, names[mode], value if mode == "zeros" else None)


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions


def small(rank: int, *sizes: int) -> int:
    """The bound for this rank, of those for 1, 2, 3."""
    return sizes[rank - 1]


def draw_conv(draws):
    rank, groups = draws.integer(1, 3), draws.integer(1, 3)
    window, stride = draws.integers(1, small(rank, 4, 3, 2), rank), draws.integers(1, 3, rank)
    dilation = draws.integers(1, small(rank, 3, 2, 2), rank)
    mode = draws.choice(["zeros", "zeros", "reflect", "edge", "circular"])
    # torch's pad crops with zeros only.
    least = -1 if mode == "zeros" else 0
    pads = [draws.integers(least, 2, 2) for _ in window]
    extents = [(f - 1) * d + 1 for f, d in zip(window, dilation, strict=True)]
    size = [max(e - sum(p), 3) + draws.integer(0, small(rank, 4, 3, 1)) for e, p in zip(extents, pads, strict=True)]
    channels, features = groups * draws.integer(1, 2), groups * draws.integer(1, 2)
    shapes = ((draws.integer(1, 2), *size, channels), (*window, channels // groups, features), (features,))
    return shapes, {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups, "pad_mode": mode}


def torch_conv(x, kernel, bias, *, stride, padding, dilation, groups, pad_mode):
    rank = x.ndim - 2
    kernel = kernel.permute(rank + 1, rank, *range(rank))
    x = torch_pad(first(x), padding, pad_mode)
    return last(torch_function("conv", rank)(x, kernel, bias, tuple(stride), 0, tuple(dilation), groups))


def draw_conv_transpose(draws):
    rank, groups = draws.integer(1, 3), draws.integer(1, 3)
    window, stride = draws.integers(1, small(rank, 4, 3, 2), rank), draws.integers(1, 3, rank)
    dilation, size = draws.integers(1, 2, rank), draws.integers(2, small(rank, 5, 3, 2), rank)
    extra = [draws.integer(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
    full = [
        (n - 1) * s + (f - 1) * d + 1 + e for n, s, f, d, e in zip(size, stride, window, dilation, extra, strict=True)
    ]
    padding = [draws.integer(0, min(2, (n - 1) // 2)) for n in full]
    channels, features = groups * draws.integer(1, 2), draws.integer(1, 2)
    shapes = ((draws.integer(1, 2), *size, channels), (*window, features, channels), (features * groups,))
    options = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation, "groups": groups}
    return shapes, options


def torch_conv_transpose(y, kernel, bias, *, stride, padding, output_padding, dilation, groups):
    rank = y.ndim - 2
    kernel = kernel.permute(rank + 1, rank, *range(rank))
    kernel = kernel.contiguous()  # without it torch has no gradient for some shapes
    function = torch_function("conv_transpose", rank)
    return last(
        function(first(y), kernel, bias, tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation))
    )


def draw_dense(draws):
    inner, out = draws.integers(1, 5, 2)
    return ((*draws.integers(1, 3, draws.integer(0, 2)), inner), (inner, out), (out,)), {}


def torch_dense(x, kernel, bias):
    import torch

    return torch.nn.functional.linear(x, kernel.T, bias)


# ---------------------------------------------------------------------------------------------------------------------
# Pools


def draw_pool(draws, *, dilated=True, padded=True):
    """torch pads at most half the window, and the same on both sides."""
    rank = draws.integer(1, 3)
    window, stride = draws.integers(1, small(rank, 5, 4, 3), rank), draws.integers(1, 4, rank)
    dilation = draws.integers(1, small(rank, 3, 2, 2), rank) if dilated else (1,) * rank
    padding = [draws.integer(0, f // 2) if padded else 0 for f in window]
    extents = [(f - 1) * d + 1 for f, d in zip(window, dilation, strict=True)]
    size = [max(e - 2 * p, 2) + draws.integer(0, small(rank, 6, 4, 2)) for e, p in zip(extents, padding, strict=True)]
    options = {"window": window, "stride": stride, "padding": padding, "ceil_mode": draws.flag()}
    return ((draws.integer(1, 2), *size, draws.integer(1, 2)),), options | ({"dilation": dilation} if dilated else {})


def torch_max_pool(x, *, window, stride, padding, dilation, ceil_mode):
    y, indices = torch_function("max_pool", x.ndim - 2)(
        first(x), tuple(window), tuple(stride), tuple(padding), tuple(dilation), ceil_mode, return_indices=True
    )
    return last(y), last(indices)


def draw_max_unpool(draws):
    """Windows that do not overlap: where two maxima are one element, torch's unpool takes either."""
    rank = draws.integer(1, 3)
    window = draws.integers(1, 3, rank)
    size = [f * draws.integer(1, 3) + draws.integer(0, f - 1) for f in window]
    channels = draws.integer(1, 2)
    shapes = ((2, *size, channels), (2, *(n // f for n, f in zip(size, window, strict=True)), channels))
    return shapes, {"window": window}


def our_max_unpool(x, z, *, window):
    y, indices = jc.max_pool_with_indices(x, window)
    return jc.max_unpool(y + z, indices, x.shape[1:-1])


def torch_max_unpool(x, z, *, window):
    rank, window = x.ndim - 2, tuple(window)
    y, indices = torch_function("max_pool", rank)(first(x), window, return_indices=True)
    return last(torch_function("max_unpool", rank)(y + first(z), indices, window, output_size=x.shape[1:-1]))


def draw_avg_pool(draws):
    """torch's 3-D average has no gradient where the map is smaller than the window, whatever the padding."""
    ((batch, *size, channels),), options = draw_pool(draws, dilated=False)
    if len(size) == 3:
        size = [max(n, f) for n, f in zip(size, options["window"], strict=True)]
    return ((batch, *size, channels),), {**options, "count_include_pad": draws.flag()}


def torch_avg_pool(x, *, window, stride, padding, ceil_mode, count_include_pad):
    return last(
        torch_function("avg_pool", x.ndim - 2)(
            first(x), tuple(window), tuple(stride), tuple(padding), ceil_mode, count_include_pad
        )
    )


def draw_lp_pool(draws):
    """torch's is a root of the sum of x^p, ours of |x|^p: the same for even p; the loops check the others.

    torch's ceil_mode scales the mean of the elements that a cut-off window has by the size of a whole one, which is no
    norm: not compared.
    """
    shapes, options = draw_pool(draws, dilated=False, padded=False)
    return shapes, {"window": options["window"], "stride": options["stride"], "p": draws.choice([2, 4])}


def torch_lp_pool(x, *, window, stride, p):
    rank = x.ndim - 2
    window, stride = (tuple(v) if rank > 1 else v[0] for v in (window, stride))
    return last(torch_function("lp_pool", rank)(first(x), p, window, stride))


def draw_adaptive(draws):
    rank = draws.integer(1, 3)
    size, bins = draws.integers(1, small(rank, 9, 6, 4), rank), draws.integers(1, small(rank, 6, 4, 3), rank)
    return ((draws.integer(1, 2), *size, draws.integer(1, 2)),), {"size": bins, "rank": rank}


def torch_adaptive(name):
    return lambda x, *, size, rank: last(torch_function(name, rank)(first(x), tuple(size)))


def draw_global(draws):
    rank = draws.integer(1, 3)
    return ((2, *draws.integers(1, 5, rank), 2),), {"rank": rank}


def torch_global(name):
    return lambda x, *, rank: torch_function(name, rank)(first(x), (1,) * rank).flatten(1)


# ---------------------------------------------------------------------------------------------------------------------
# Normalisation


def draw_norm(draws):
    channels = draws.integer(1, 6)
    return ((2, *draws.integers(2, 4, draws.integer(1, 3)), channels), (channels,), (channels,)), {
        "eps": draws.choice([1e-5, 1e-3, 0.1])
    }


def draw_batch_norm(draws):
    shapes, options = draw_norm(draws)
    return (shapes[0], *[shapes[1]] * 4), options


def torch_batch_norm(x, mean, var, scale, bias, *, eps):
    """torch's own does not differentiate with respect to running statistics: written out, and checked against it."""
    import torch

    y = (x - mean) / torch.sqrt(var + eps) * scale + bias
    theirs = torch.nn.functional.batch_norm(first(x), mean.detach(), var.detach(), scale, bias, eps=eps)
    torch.testing.assert_close(y, last(theirs))
    return y


def our_batch_norm_in_training(x, scale, bias, *, eps):
    return jc.batch_norm(x, *jc.batch_statistics(x), scale, bias, eps=eps)


def torch_batch_norm_in_training(x, scale, bias, *, eps):
    import torch

    return last(torch.nn.functional.batch_norm(first(x), None, None, scale, bias, training=True, eps=eps))


def our_batch_statistics(x):
    mean, var = jc.batch_statistics(x)
    return jax.numpy.stack([mean, var])


def torch_batch_statistics(x):
    import torch

    axes = tuple(range(x.ndim - 1))
    return torch.stack([x.mean(axes), x.var(axes, unbiased=False)])


def torch_layer_norm(x, scale, bias, *, eps):
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias, eps)


def draw_group_norm(draws):
    shapes, options = draw_norm(draws)
    groups, width = draws.integer(1, 3), draws.integer(1, 2)
    channels = groups * width
    return ((*shapes[0][:-1], channels), (channels,), (channels,)), {**options, "groups": groups}


def our_group_norm(x, scale, bias, *, groups, eps):
    return jc.group_norm(x, groups, scale, bias, eps=eps, rank=x.ndim - 2)


def torch_group_norm(x, scale, bias, *, groups, eps):
    import torch

    return last(torch.nn.functional.group_norm(first(x), groups, scale, bias, eps))


def our_instance_norm(x, scale, bias, *, eps):
    return jc.instance_norm(x, scale, bias, eps=eps, rank=x.ndim - 2)


def torch_instance_norm(x, scale, bias, *, eps):
    import torch

    return last(torch.nn.functional.instance_norm(first(x), None, None, scale, bias, eps=eps))


def draw_local_response_norm(draws):
    shape = (2, *draws.integers(1, 3, draws.integer(1, 2)), draws.integer(1, 7))
    return (shape,), {
        "size": draws.integer(1, 6),
        "alpha": draws.choice([1e-4, 0.5, 2.0]),
        "beta": draws.choice([0.75, 0.5, 1.5]),
        "k": draws.choice([1.0, 2.0]),
    }


def torch_local_response_norm(x, **options):
    import torch

    return last(torch.nn.functional.local_response_norm(first(x), **options))


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and padding


def draw_resize(draws):
    """What torch has: bicubic and antialiasing for rank 2 only.

    Maps are small, so that nearest rounds alike in float32, as ours and torch's do, and in the float64 of torch's 1-D.
    Antialiased maps are at least two columns wide: to one column, torch 2.13 repeats the first row.
    """
    rank = draws.integer(1, 3)
    method = draws.choice(
        ["nearest", "nearest_exact", "area", "bilinear", *(["bicubic", "bicubic"] if rank == 2 else [])]
    )
    smooth = method in ("bilinear", "bicubic")
    most = small(rank, 16, 8, 4)
    antialias = smooth and rank == 2 and draws.flag()
    options = {
        "method": method,
        "size": (*draws.integers(1, most, rank - 1), draws.integer(2 if antialias else 1, most)),
        "align_corners": smooth and draws.flag(),
        "antialias": antialias,
        "rank": rank,
    }
    return ((draws.integer(1, 2), *draws.integers(1, most, rank), draws.integer(1, 2)),), options


def torch_resize(x, *, method, size, align_corners, antialias, rank):
    import torch

    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}
    mode = {"nearest_exact": "nearest-exact", "bilinear": linear[rank]}.get(method, method)
    corners = align_corners if method in ("bilinear", "bicubic") else None
    return last(
        torch.nn.functional.interpolate(
            first(x), size=tuple(size), mode=mode, align_corners=corners, antialias=antialias
        )
    )


def draw_pixel_shuffle(draws):
    factor = draws.integer(1, 3)
    return ((2, *draws.integers(1, 3, 2), factor**2 * draws.integer(1, 2)),), {"factor": factor}


def torch_pixel_shuffle(x, *, factor):
    import torch

    return last(torch.nn.functional.pixel_shuffle(first(x), factor))


def draw_channel_shuffle(draws):
    groups = draws.integer(1, 4)
    return ((2, *draws.integers(1, 3, 2), groups * draws.integer(1, 3)),), {"groups": groups}


def torch_channel_shuffle(x, *, groups):
    import torch

    return last(torch.nn.functional.channel_shuffle(first(x), groups))


def draw_pad(draws):
    rank = draws.integer(1, 3)
    mode = draws.choice(["zeros", "reflect", "edge", "circular"])
    least = -1 if mode == "zeros" else 0
    pads = [draws.integers(least, 2, 2) for _ in range(rank)]
    shape = (2, *draws.integers(3, small(rank, 6, 4, 3), rank), 2)
    return (shape,), {"padding": pads, "mode": mode, "value": draws.choice([0.0, 1.5]), "rank": rank}


def torch_pad_op(x, *, padding, mode, value, rank):
    return last(torch_pad(first(x), padding, mode, value))


OPS = {
    "conv": Op(draw_conv, jc.conv, torch_conv),
    "conv_transpose": Op(draw_conv_transpose, jc.conv_transpose, torch_conv_transpose),
    "dense": Op(draw_dense, jc.dense, torch_dense),
    "max_pool": Op(draw_pool, jc.max_pool_with_indices, torch_max_pool),
    "max_unpool": Op(draw_max_unpool, our_max_unpool, torch_max_unpool),
    "avg_pool": Op(draw_avg_pool, jc.avg_pool, torch_avg_pool),
    "lp_pool": Op(draw_lp_pool, jc.lp_pool, torch_lp_pool),
    "adaptive_avg_pool": Op(draw_adaptive, jc.adaptive_avg_pool, torch_adaptive("adaptive_avg_pool")),
    "adaptive_max_pool": Op(draw_adaptive, jc.adaptive_max_pool, torch_adaptive("adaptive_max_pool")),
    "global_avg_pool": Op(draw_global, jc.global_avg_pool, torch_global("adaptive_avg_pool")),
    "global_max_pool": Op(draw_global, jc.global_max_pool, torch_global("adaptive_max_pool")),
    "batch_norm": Op(draw_batch_norm, jc.batch_norm, torch_batch_norm, positive=(2,)),
    "batch_norm_in_training": Op(draw_norm, our_batch_norm_in_training, torch_batch_norm_in_training),
    "batch_statistics": Op(lambda draws: (draw_norm(draws)[0][:1], {}), our_batch_statistics, torch_batch_statistics),
    "layer_norm": Op(draw_norm, jc.layer_norm, torch_layer_norm),
    "group_norm": Op(draw_group_norm, our_group_norm, torch_group_norm),
    "instance_norm": Op(draw_norm, our_instance_norm, torch_instance_norm),
    "local_response_norm": Op(draw_local_response_norm, jc.local_response_norm, torch_local_response_norm),
    "resize": Op(draw_resize, jc.resize, torch_resize),
    "pixel_shuffle": Op(draw_pixel_shuffle, jc.pixel_shuffle, torch_pixel_shuffle),
    "channel_shuffle": Op(draw_channel_shuffle, jc.channel_shuffle, torch_channel_shuffle),
    "pad": Op(draw_pad, jc.pad, torch_pad_op),
}
