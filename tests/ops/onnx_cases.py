"""ONNX's conformance cases, translated to our ops. ``python -m tests.ops.onnx_cases`` prints the table.

Each operator has an adapter from attributes and inputs in ONNX's layout to a call of ours. An adapter raises
`Unsupported` where we do not take what is asked. A case that does not pass stands in `REFUSED` with the reason.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc

# How many cases each operator has in the ONNX release that we test with. A newer release may add some; then these
# numbers change with the adapters.
COUNTS = {
    "Conv": 6,
    "ConvTranspose": 11,
    "MaxPool": 19,
    "AveragePool": 20,
    "LpPool": 8,
    "GlobalAveragePool": 2,
    "GlobalMaxPool": 2,
    "LRN": 2,
    "BatchNormalization": 4,
    "InstanceNormalization": 2,
    "GroupNormalization": 2,
    "LayerNormalization": 19,
    "MaxUnpool": 2,
    "Pad": 6,
    "DepthToSpace": 2,
    "Resize": 39,
}

SCALE = "the scale is not output size / input size, and `resize` accepts a size"
TIE = "halfway, ONNX's round_prefer_floor selects the lower element; `nearest_exact` and torch select the upper"
RIM = "ONNX repeats the rim where an antialiasing window hangs over it, `resize` cuts the window, as torch"
CROP = "tf_crop_and_resize: crop first, with `jax.lax.dynamic_slice`"
ASPECT = "keep_aspect_ratio_policy: `resize` accepts a size"

REFUSED = {
    "test_depthtospace_example": "mode DCR: `pixel_shuffle` has torch's channel order, which is CRD",
    "test_resize_downsample_scales_nearest": SCALE,
    "test_resize_downsample_scales_linear": SCALE,
    "test_resize_downsample_scales_linear_align_corners": SCALE,
    "test_resize_downsample_scales_cubic": SCALE,
    "test_resize_downsample_scales_cubic_align_corners": SCALE,
    "test_resize_downsample_scales_cubic_A_n0p5_exclude_outside": SCALE,
    "test_resize_downsample_scales_linear_antialias": SCALE,
    "test_resize_downsample_scales_cubic_antialias": SCALE,
    "test_resize_downsample_scales_linear_half_pixel_symmetric": SCALE,
    "test_resize_upsample_scales_linear_half_pixel_symmetric": SCALE,
    "test_resize_upsample_sizes_nearest": TIE,
    "test_resize_upsample_sizes_nearest_axes_2_3": TIE,
    "test_resize_upsample_sizes_nearest_axes_3_2": TIE,
    "test_resize_downsample_sizes_nearest": TIE,
    "test_resize_downsample_sizes_linear_antialias": RIM,
    "test_resize_downsample_sizes_cubic_antialias": f"{RIM}; and another cubic coefficient, torch's -0.5",
    "test_resize_upsample_scales_cubic_A_n0p5_exclude_outside": "cubic coefficient -0.5 with the rim excluded",
    "test_resize_upsample_scales_cubic_asymmetric": "asymmetric coordinates are for method nearest only",
    "test_resize_tf_crop_and_resize": CROP,
    "test_resize_tf_crop_and_resize_extrapolation_value": CROP,
    "test_resize_tf_crop_and_resize_axes_2_3": CROP,
    "test_resize_tf_crop_and_resize_axes_3_2": CROP,
    "test_resize_downsample_sizes_linear_pytorch_half_pixel": "pytorch_half_pixel: for size 1 ONNX selects the first "
    "element; torch itself selects the middle",
    "test_resize_upsample_sizes_nearest_floor_align_corners": "align_corners is for methods linear and cubic",
    "test_resize_upsample_sizes_nearest_round_prefer_ceil_asymmetric": "asymmetric coordinates round down, as torch",
    "test_resize_upsample_sizes_nearest_ceil_half_pixel": "half-pixel coordinates round to the nearest",
    "test_resize_upsample_sizes_nearest_not_larger": ASPECT,
    "test_resize_upsample_sizes_nearest_not_smaller": ASPECT,
    "test_resize_downsample_sizes_nearest_not_larger": ASPECT,
    "test_resize_downsample_sizes_nearest_not_smaller": ASPECT,
}

# Their further outputs are statistics, which our op does not return.
FIRST_OUTPUT_ONLY = {"LayerNormalization"}


class Unsupported(Exception):
    """What ONNX asks for is none of our arguments."""


def first(x):
    return jnp.moveaxis(x, -1, 1)


def last(x):
    return jnp.moveaxis(x, 1, -1)


def kernel_last(kernel):
    """``(a, b, *window)`` to ``(*window, b, a)``."""
    return jnp.moveaxis(kernel, (1, 0), (-2, -1))


def pairs(pads: Sequence[int]) -> list[tuple[int, int]]:
    """ONNX lists all starts, then all ends."""
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))


def padding(attributes: dict[str, Any]) -> Any:
    """Takes ``auto_pad`` and ``pads`` from the attributes."""
    name, pads = attributes.pop("auto_pad", "NOTSET"), attributes.pop("pads", None)
    if name == "NOTSET":
        return 0 if pads is None else pairs(pads)
    return {"SAME_UPPER": "SAME", "SAME_LOWER": "SAME_LOWER", "VALID": "VALID"}[name]


def conv(attributes, x, kernel, bias=None):
    attributes.pop("kernel_shape", None)
    options = {
        "padding": padding(attributes),
        "stride": attributes.pop("strides", 1),
        "dilation": attributes.pop("dilations", 1),
        "groups": attributes.pop("group", 1),
    }
    return first(jc.conv(last(x), kernel_last(kernel), bias, **options))


def conv_transpose(attributes, y, kernel, bias=None):
    rank = y.ndim - 2
    attributes.pop("kernel_shape", None)
    stride = attributes.pop("strides", [1] * rank)
    dilation = attributes.pop("dilations", [1] * rank)
    extra = attributes.pop("output_padding", [0] * rank)
    size = attributes.pop("output_shape", None)
    if size is not None:
        # ONNX finds the pads that give this size; without SAME_UPPER the odd one goes low.
        upper = attributes.pop("auto_pad", "NOTSET") == "SAME_UPPER"
        pads = []
        for n, f, s, d, e, out in zip(y.shape[2:], kernel.shape[2:], stride, dilation, extra, size, strict=True):
            total = (n - 1) * s + (f - 1) * d + 1 + e - out
            low = total // 2 if upper else total - total // 2
            pads.append((low, total - low))
    else:
        pads = padding(attributes)
    options = {"stride": stride, "padding": pads, "dilation": dilation, "groups": attributes.pop("group", 1)}
    if any(extra):
        options["output_padding"] = extra
    return first(jc.conv_transpose(last(y), kernel_last(kernel), bias, **options))


def pool_options(attributes):
    return {
        "window": attributes.pop("kernel_shape"),
        "padding": padding(attributes),
        "stride": attributes.pop("strides", 1),  # ONNX's default, unlike ours
        "dilation": attributes.pop("dilations", 1),
        "ceil_mode": bool(attributes.pop("ceil_mode", 0)),
    }


def max_pool(attributes, x):
    """ONNX's indices count over the whole tensor, columns first if storage_order is 1."""
    columns_first = attributes.pop("storage_order", 0)
    y, indices = jc.max_pool_with_indices(last(x), **pool_options(attributes))
    y, indices = first(y), first(indices)
    size = x.shape[2:]
    if columns_first:
        indices = jnp.ravel_multi_index(jnp.unravel_index(indices, size)[::-1], size[::-1], mode="wrap")
    planes = jnp.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1 for _ in size))
    return y, indices + planes * np.prod(size)


def max_unpool(attributes, y, indices, output_shape=None):
    """ONNX's indices count in the size that the windows cover; a larger output_shape adds zeros behind it."""
    window, stride = attributes.pop("kernel_shape"), attributes.pop("strides")
    pads = pairs(attributes.pop("pads", [0] * 2 * len(window)))
    size = [(n - 1) * s + f - sum(p) for n, s, f, p in zip(y.shape[2:], stride, window, pads, strict=True)]
    planes = jnp.arange(y.shape[0] * y.shape[1]).reshape(*y.shape[:2], *(1 for _ in size))
    x = jc.max_unpool(last(y), last(indices - planes * np.prod(size)), size)
    more = [0] * len(size) if output_shape is None else output_shape[2:] - np.array(size)
    return first(jc.pad(x, [(0, int(n)) for n in more], rank=len(size)))


def avg_pool(attributes, x):
    count_include_pad = bool(attributes.pop("count_include_pad", 0))  # ONNX's default, unlike ours
    return first(jc.avg_pool(last(x), **pool_options(attributes), count_include_pad=count_include_pad))


def lp_pool(attributes, x):
    return first(jc.lp_pool(last(x), p=attributes.pop("p", 2), **pool_options(attributes)))


def global_pool(pool, attributes, x):
    y = pool(last(x), rank=x.ndim - 2)
    return y.reshape(*y.shape, *(1 for _ in x.shape[2:]))


def local_response_norm(attributes, x):
    options = {"alpha": attributes.pop("alpha", 1e-4), "beta": attributes.pop("beta", 0.75)}
    return first(jc.local_response_norm(last(x), attributes.pop("size"), k=attributes.pop("bias", 1.0), **options))


def batch_norm(attributes, x, scale, bias, mean, var):
    eps, momentum = attributes.pop("epsilon", 1e-5), attributes.pop("momentum", 0.9)
    if not attributes.pop("training_mode", 0):
        return first(jc.batch_norm(last(x), mean, var, scale, bias, eps=eps))
    now = jc.batch_statistics(last(x))
    y = jc.batch_norm(last(x), *now, scale, bias, eps=eps)
    # ONNX's momentum is the weight of the old value, and its running variance is biased.
    return first(y), *(old * momentum + new * (1 - momentum) for old, new in zip((mean, var), now, strict=True))


def instance_norm(attributes, x, scale, bias):
    return first(jc.instance_norm(last(x), scale, bias, eps=attributes.pop("epsilon", 1e-5), rank=x.ndim - 2))


def group_norm(attributes, x, scale, bias):
    groups, eps = attributes.pop("num_groups"), attributes.pop("epsilon", 1e-5)
    return first(jc.group_norm(last(x), groups, scale, bias, eps=eps, rank=x.ndim - 2))


def layer_norm(attributes, x, scale, bias=None):
    """Normalises all axes from ``axis`` on: as channels, side by side."""
    axis, eps = attributes.pop("axis", -1) % x.ndim, attributes.pop("epsilon", 1e-5)
    flat = x.reshape(*x.shape[:axis], -1)
    bias = None if bias is None else bias.reshape(-1)
    return jc.layer_norm(flat, scale.reshape(-1), bias, eps=eps).reshape(x.shape)


def pad(attributes, x, pads, value=None, axes=None):
    """Every axis is spatial; a channel axis of one is put behind."""
    mode = {"constant": "zeros", "edge": "edge", "reflect": "reflect", "wrap": "circular"}[attributes.pop("mode")]
    amounts = [(0, 0)] * x.ndim
    axes = range(x.ndim) if axes is None else [int(a) for a in axes]
    for axis, pair in zip(axes, pairs([int(p) for p in pads]), strict=True):
        amounts[axis] = pair
    value = 0 if value is None else float(value)
    return jc.pad(x[..., None], amounts, mode=mode, value=value, rank=x.ndim)[..., 0]


def depth_to_space(attributes, x):
    mode = attributes.pop("mode", "DCR")
    if mode != "CRD":
        raise Unsupported(f"mode {mode}")
    return first(jc.pixel_shuffle(last(x), attributes.pop("blocksize")))


def resize(attributes, x, roi=None, scales=None, sizes=None):
    mode = attributes.pop("mode", "nearest")
    coordinates = attributes.pop("coordinate_transformation_mode", "half_pixel")
    nearest_mode = attributes.pop("nearest_mode", "round_prefer_floor")
    axes = attributes.pop("axes", range(x.ndim))
    out = list(x.shape)
    for i, axis in enumerate(axes):
        out[axis] = int(sizes[i]) if sizes is not None and sizes.size else int(np.floor(x.shape[axis] * scales[i]))
        if scales is not None and scales.size and not np.isclose(out[axis], x.shape[axis] * scales[i]):
            raise Unsupported(f"scale {scales[i]} is not output size / input size")
    options = {"antialias": bool(attributes.pop("antialias", 0)), "align_corners": coordinates == "align_corners"}
    if mode == "nearest":
        methods = {("half_pixel", "round_prefer_floor"): "nearest_exact", ("asymmetric", "floor"): "nearest"}
        if (coordinates, nearest_mode) not in methods:
            raise Unsupported(f"{coordinates} with {nearest_mode}")
        method = methods[coordinates, nearest_mode]
    else:
        if coordinates not in ("half_pixel", "align_corners"):
            raise Unsupported(coordinates)
        method = mode
    if tuple(out[:2]) != x.shape[:2]:
        raise Unsupported("batch or channels are resized")
    return first(jc.resize(last(x), out[2:], method=method, rank=x.ndim - 2, **options))


ADAPTERS: dict[str, Callable[..., Any]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": avg_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": functools.partial(global_pool, jc.global_avg_pool),
    "GlobalMaxPool": functools.partial(global_pool, jc.global_max_pool),
    "LRN": local_response_norm,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "MaxUnpool": max_unpool,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "Resize": resize,
}


@functools.cache
def collected() -> dict[str, list[Any]]:
    """Returns the cases of our operators, by operator: those whose model is this one node.

    The others of the collection spell an operator out in simpler ones.
    """
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # other operators' cases overflow on purpose
        everything = collect_testcases(None)
    cases: dict[str, list[Any]] = {name: [] for name in ADAPTERS}
    for case in everything:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in cases:
            cases[nodes[0].op_type].append(case)
    return cases


def adapted(operator, attributes, others, x):
    """Sizes and pads among the other inputs stay plain numbers, so only the first is traced."""
    return ADAPTERS[operator](attributes, x, *others)


def run(case: Any) -> None:
    """Runs one case; raises Unsupported, AssertionError or what our op raises."""
    from onnx import helper, numpy_helper

    (node,) = case.model.graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {name: v.decode() if isinstance(v, bytes) else v for name, v in attributes.items()}
    for inputs, outputs in case.data_sets:
        arrays = iter(a if isinstance(a, np.ndarray | np.generic) else numpy_helper.to_array(a) for a in inputs)
        # An optional input that is left out has an empty name.
        x, *others = (next(arrays) if name else None for name in node.input)
        left = dict(attributes)
        results = jax.jit(functools.partial(adapted, node.op_type, left, others))(x)
        if left:
            raise Unsupported(", ".join(f"{name}={value}" for name, value in left.items()))
        results = results if isinstance(results, tuple) else (results,)
        outputs = outputs[: 1 if node.op_type in FIRST_OUTPUT_ONLY else None]
        for got, want in zip(results, outputs, strict=node.op_type != "MaxPool"):  # indices are asked for by two cases
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=max(case.atol, 1e-6))
            if want.dtype != np.int64:  # which JAX has on demand only
                assert got.dtype == want.dtype, f"{got.dtype}, wanted {want.dtype}"


def table() -> str:
    """Returns the conformance table as Markdown."""
    import onnx

    lines = [
        f"The tests run the conformance cases of ONNX {onnx.__version__} for the operators that jaxconv has. For",
        "LayerNormalization they compare only the first output, because `layer_norm` does not return the statistics,",
        "which are the other outputs. `python -m tests.ops.onnx_cases` prints this table.",
        "",
        "| operator | cases | pass | refused |",
        "|---|---|---|---|",
    ]
    total = passed = 0
    for name, cases in collected().items():
        refused = [case.name for case in cases if case.name in REFUSED]
        total, passed = total + len(cases), passed + len(cases) - len(refused)
        lines.append(f"| {name} | {len(cases)} | {len(cases) - len(refused)} | {len(refused) or ''} |")
    lines += [f"| all | {total} | {passed} | {total - passed} |", "", "| refused case | reason |", "|---|---|"]
    lines += [f"| {name} | {reason} |" for name, reason in REFUSED.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
