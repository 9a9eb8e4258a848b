"""Every op divided over devices, against one device: run by test_mesh.py in a process that has eight.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.ops.mesh_cases several|plain|each|texts|disk

prints a line of JSON for each case.
"""

import functools
import json
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from tests.ops.draws import uniform
from tests.quick import quick_jit, quick_process

X = (8, 16, 8, 8)


class Case(NamedTuple):
    """An op, and the shapes of its arrays."""

    op: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = (X,)


def lax_conv(x, k):
    return jc.conv_general_dilated(x, k, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def unpooled(x):
    return jc.max_unpool(*jc.max_pool_with_indices(x, 2), (16, 8))


def normalized(x):
    return jc.batch_norm(x, *jc.batch_statistics(x))


def on(op, **options):
    return functools.partial(op, **options)


# Those with partition rules.
RULED = {
    "conv": Case(jc.conv, (X, (3, 3, 8, 8), (8,))),
    "conv, VALID": Case(on(jc.conv, padding="VALID", stride=(2, 1)), (X, (3, 2, 8, 8))),
    "conv, stride 3": Case(on(jc.conv, stride=3, padding=1), (X, (3, 3, 8, 8))),
    "conv, stride and dilation": Case(on(jc.conv, stride=2, dilation=2, padding="VALID"), (X, (3, 3, 8, 8))),
    "conv, stride larger than the window": Case(on(jc.conv, stride=4), (X, (2, 1, 8, 8))),
    "conv, groups": Case(on(jc.conv, groups=4, stride=(2, 1)), (X, (3, 3, 2, 16))),
    "conv, depthwise": Case(on(jc.conv, groups=8, padding=((2, 1), (0, 1))), (X, (3, 3, 1, 16))),
    "conv, depthwise, stride 2": Case(on(jc.conv, groups=8, stride=2), (X, (5, 3, 1, 8))),
    "conv, reflect": Case(on(jc.conv, pad_mode="reflect", padding=1), (X, (3, 3, 8, 8))),
    "conv, 1-D": Case(on(jc.conv, stride=2), ((8, 16, 8), (9, 8, 8))),
    "conv, 3-D": Case(on(jc.conv, stride=(1, 2, 1)), ((2, 8, 8, 4, 4), (2, 3, 1, 4, 4))),
    "conv_transpose": Case(on(jc.conv_transpose, stride=2), (X, (3, 4, 4, 8))),
    "conv_transpose, groups": Case(on(jc.conv_transpose, stride=(3, 1), groups=4, padding=1), (X, (4, 3, 2, 8))),
    "conv_general_dilated": Case(lax_conv, (X, (3, 3, 8, 8))),
    "max_pool": Case(on(jc.max_pool, window=2)),
    "max_pool, stride 3": Case(on(jc.max_pool, window=2, stride=3)),
    "max_pool, overlapping": Case(on(jc.max_pool, window=3, stride=2, padding=1)),
    "max_pool, dilation": Case(on(jc.max_pool, window=3, stride=1, dilation=2)),
    "max_pool, long": Case(on(jc.max_pool, window=(9, 1), stride=(2, 1), padding="SAME")),
    "max_pool_with_indices": Case(on(jc.max_pool_with_indices, window=3, stride=2, padding=1)),
    "avg_pool": Case(on(jc.avg_pool, window=2)),
    "avg_pool, overlapping": Case(on(jc.avg_pool, window=3, stride=2, padding=1)),
    "avg_pool, stride 1": Case(on(jc.avg_pool, window=3, stride=1, padding=1)),
    "lp_pool": Case(on(jc.lp_pool, window=3, stride=2)),
}
# Those that XLA divides.
PLAIN = {
    "conv_local": Case(on(jc.conv_local, stride=2, padding="SAME"), ((4, 8, 8, 4), (4, 4, 3, 3, 4, 8))),
    "max_unpool": Case(unpooled),
    "global_avg_pool": Case(jc.global_avg_pool),
    "global_max_pool": Case(jc.global_max_pool),
    "adaptive_avg_pool": Case(on(jc.adaptive_avg_pool, size=(5, 4))),
    "adaptive_max_pool": Case(on(jc.adaptive_max_pool, size=(5, 4))),
    "resize, nearest": Case(on(jc.resize, size=(24, 6), method="nearest")),
    "resize, bilinear": Case(on(jc.resize, size=(32, 5))),
    "resize, bicubic": Case(on(jc.resize, size=(9, 16), method="bicubic", antialias=True)),
    "pad, zeros": Case(on(jc.pad, padding=((1, 2), (0, 3)))),
    "pad, reflect": Case(on(jc.pad, padding=((1, 2), (0, 3)), mode="reflect")),
    "pad, edge": Case(on(jc.pad, padding=2, mode="edge")),
    "pad, circular": Case(on(jc.pad, padding=2, mode="circular")),
    "pixel_shuffle": Case(on(jc.pixel_shuffle, factor=2)),
    "channel_shuffle": Case(on(jc.channel_shuffle, groups=2)),
    "batch_norm": Case(normalized),
    "layer_norm": Case(jc.layer_norm, (X, (8,), (8,))),
    "group_norm": Case(lambda x, scale, bias: jc.group_norm(x, 4, scale, bias), (X, (8,), (8,))),
    "instance_norm": Case(jc.instance_norm, (X, (8,), (8,))),
    "local_response_norm": Case(on(jc.local_response_norm, size=5)),
    "unit_norm": Case(jc.unit_norm),
    "dense": Case(jc.dense, ((16, 8), (8, 16), (16,))),
}
CASES = RULED | PLAIN


def everything(op):
    """Its values and gradients."""

    def run(*arrays):
        out, back = jax.vjp(op, *arrays)
        floats = jax.tree.map(lambda y: jnp.issubdtype(y.dtype, jnp.floating), out)
        moved = jax.tree.map(lambda y, f: jnp.cos(y) if f else np.zeros(y.shape, jax.dtypes.float0), out, floats)
        return out, back(moved)

    return run


def off(got, want) -> float:
    """The largest difference, of the largest value; NaN if something is not finite."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(np.max(np.abs(np.asarray(g) - np.asarray(w))) / max(1, np.max(np.abs(w)))) for g, w in pairs)


def each_axis(case):
    """Each axis of each array over 2, 4 and 8 devices, as far as they divide it: the mesh's shape, and the specs."""
    for i, shape in enumerate(case.shapes):
        for axis, n in enumerate(shape):
            for count in (2, 4, 8):
                if n % count == 0:
                    yield (count,), [P(*(None,) * axis, "a") if i == j else P() for j in range(len(case.shapes))]


def several_axes(case):
    """Examples, rows and channels at once; then rows over more devices, with the last axis of the other arrays."""
    first, *others = case.shapes
    lead = P("a", "b") if len(first) > 2 else P("a")
    yield (2, 2, 2), [P(*lead, *(None,) * (len(first) - len(lead) - 1), "c"), *(P() for _ in others)]
    if case in RULED.values():
        yield (4, 2), [P(None, "a"), *(P(*(None,) * (len(shape) - 1), "b") for shape in others)]


def divided(cases, layouts) -> None:
    """Each case in the layouts on meshes that it is given, against one device."""
    for name, case in cases.items():
        arrays = [uniform(i, shape).astype(np.float32) for i, shape in enumerate(case.shapes)]
        run = quick_jit(everything(case.op))
        want = run(*arrays)
        for shape, specs in layouts(case):
            devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
            mesh = Mesh(devices, tuple("abc"[: len(shape)]))
            put = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arrays, specs, strict=True)]
            say(case=name, mesh=shape, specs=[str(spec) for spec in specs], off=off(run(*put), want))


def say(**row) -> None:
    print(json.dumps(row), flush=True)


TEXTS = {
    "dense": Case(on(jc.conv, stride=2), ((16, 16, 16, 8), (3, 3, 8, 8))),
    "grouped": Case(on(jc.conv, groups=4), ((16, 8, 8, 16), (3, 3, 4, 16))),
    "depthwise": Case(on(jc.conv, groups=16), ((16, 8, 8, 16), (3, 3, 1, 16))),
    "max_pool": Case(on(jc.max_pool, window=3, stride=2, padding=1), ((16, 16, 16, 8),)),
    "avg_pool": Case(on(jc.avg_pool, window=2), ((16, 16, 16, 8),)),
}


def texts() -> None:
    """What each device's program has of collectives and calls, the examples divided over eight."""
    mesh = Mesh(np.array(jax.devices()), "d")
    for name, case in TEXTS.items():
        shardings = [NamedSharding(mesh, P("d") if i == 0 else P()) for i in range(len(case.shapes))]
        arrays = [
            jax.ShapeDtypeStruct(shape, np.float32, sharding=s) for shape, s in zip(case.shapes, shardings, strict=True)
        ]
        for rows in ("batch", "rows"):
            if rows == "rows":
                arrays[0] = jax.ShapeDtypeStruct(case.shapes[0], np.float32, sharding=NamedSharding(mesh, P(None, "d")))
            for what, run in (("forward", case.op), ("gradients", everything(case.op))):
                text = quick_jit(run).lower(*arrays).compile().as_text()
                words = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
                counts = {word: len(re.findall(rf" {word}(?:-start)?\(", text)) for word in words}
                say(case=name, divided=rows, what=what, calls=text.count('"__onednn$'), **counts)


def disk() -> None:
    """Programs that differ in nothing but the calls that the compiler asks about; JAX's cache is in the environment."""
    mesh = Mesh(np.array(jax.devices()), "d")
    x, k = uniform(1, X).astype(np.float32), uniform(2, (2, 3, 8, 8)).astype(np.float32)
    for pads in (((1, 0), (1, 1)), ((0, 1), (1, 1))):
        run = quick_jit(functools.partial(jc.conv, padding=pads))
        say(off=off(run(jax.device_put(x, NamedSharding(mesh, P("d"))), k), run(x, k)))


if __name__ == "__main__":
    jobs = {
        "several": lambda: divided(RULED, several_axes),
        "plain": lambda: divided(PLAIN, several_axes),
        "each": lambda: divided(CASES, each_axis),
        "texts": texts,
        "disk": disk,
    }
    with quick_process():
        jobs[sys.argv[1]]()
