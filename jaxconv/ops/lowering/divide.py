"""How the compiler divides our primitives over the devices of a mesh, by rules that it calls.

A function under `jax.jit` whose arrays are sharded is written for whole arrays, and the compiler divides it. XLA can
divide lax's operations one by one, some of them wrongly (strided slices; a kernel's gradient with stride and dilation),
and cannot divide a call of oneDNN. So in a module for several devices a primitive is one opaque call. While the
compiler propagates shardings it reads a Shardy rule of the dimensions that belong together. While it divides the module
it calls us for the program of each device: the primitive again, on the device's share.
"""

import itertools
import math
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.interpreters import mlir
from jax.interpreters.mlir import ir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxconv.ops.lowering.partition import Dims, Plan, Share, halo
from jaxconv.ops.lowering.problem import Array, Shape

# The version of the programs of devices: raised when one changes, as JAX's cache on disk may have earlier ones.
VERSION = 1
NO_MESH = jax.sharding.AbstractMesh((), ())


Spec = tuple[tuple[str, ...], ...]
# The factors of members of an ensemble and of examples.
FIRST = ("e", "n")


def _primes(n: int) -> list[int]:
    for p in range(2, n + 1):
        if n % p == 0:
            return [p, *_primes(n // p)]
    return []


def _read(shardings: Sequence[Any], ranks: Sequence[int], devices: Sequence[Any]) -> tuple[Mesh, list[Spec]]:
    """A mesh whose axes can express the shardings, and the shardings; None is not known yet, so not divided.

    Its axes are as short as possible, so that the axes of the user's mesh do not matter. A sharding that the mesh
    cannot express counts as not divided: the compiler then gathers the array.
    """
    best: tuple[int, Mesh, list[Spec]] | None = None
    for sizes in sorted(set(itertools.permutations(_primes(len(devices))))):
        names = tuple(f"share{i:02}" for i in range(len(sizes)))
        whole: list[Spec] = [((),) * rank for rank in ranks]
        given = zip(shardings, ranks, whole, strict=True)
        specs = [none if sharding is None else _spec(sharding, rank, sizes, names) for sharding, rank, none in given]
        lost = sum(spec is None for spec in specs)
        if best is None or lost < best[0]:
            found = [none if spec is None else spec for spec, none in zip(specs, whole, strict=True)]
            best = lost, Mesh(np.array(devices).reshape(sizes), names), found
        if lost == 0:
            break
    assert best is not None
    return best[1], best[2]


def _spec(sharding: Any, rank: int, sizes: tuple[int, ...], names: tuple[str, ...]) -> Spec | None:
    """For each dimension the axes that divide it, the slowest first, or None if no axes do."""
    length = math.prod(sizes)
    indices = list(sharding.devices_indices_map((length,) * rank).values())
    spec = []
    for d in range(rank):
        starts = np.array([index[d].start or 0 for index in indices]).reshape(sizes)
        origin = starts[(0,) * len(sizes)]
        steps = []
        for axis, size in enumerate(sizes):
            unit = starts[tuple(int(i == axis) for i in range(len(sizes)))] - origin
            if unit:
                steps.append((int(unit), size, axis))
        steps.sort(reverse=True)
        part, said = length, np.zeros(sizes, int)
        for unit, size, axis in steps:
            part //= size
            if unit != part:
                return None
            said = said + part * np.arange(size).reshape([-1 if i == axis else 1 for i in range(len(sizes))])
        if not np.array_equal(said, starts):
            return None
        spec.append(tuple(names[axis] for _, _, axis in steps))
    return tuple(spec)


def _decide(plan: Plan, shapes: Sequence[Shape], specs: Sequence[Spec], mesh: Mesh) -> Share:
    """Which axes divide each factor: those that divide it in the largest array, as far as it can be divided.

    Examples come first: an axis that divides examples and a kernel's features is for data, and kernels are gathered.
    """
    arrays = (*plan.operands, *plan.results)
    axes: dict[str, tuple[str, ...]] = {dim.factor: () for dims in arrays for dim in dims if dim.factor}
    totals = {
        dim.factor: n for dims, shape in zip(arrays, shapes, strict=True) for dim, n in zip(dims, shape, strict=True)
    }
    used: set[str] = set()
    by_size = sorted(range(len(arrays)), key=lambda i: -math.prod(shapes[i]))
    wanted = [(dim.factor, names) for i in by_size for dim, names in zip(arrays[i], specs[i], strict=True)]
    for factor, names in sorted(wanted, key=lambda want: want[0] not in FIRST):
        if factor and not axes[factor] and not used & set(names):
            axes[factor] = _divisible(plan, factor, names, mesh)
            used |= set(axes[factor])
    return Share(plan, axes, totals, mesh.shape)


def _divisible(plan: Plan, factor: str, names: tuple[str, ...], mesh: Mesh) -> tuple[str, ...]:
    """The axes, from the slowest, over which the factor can be divided."""
    for count in range(len(names), 0, -1):
        ways = math.prod(mesh.shape[name] for name in names[:count])
        if factor in plan.spans:
            fits = halo(plan.spans[factor], ways, plan.backward) is not None
        else:
            fits = factor not in (plan.multiples) or plan.multiples[factor] % ways == 0
        if fits:
            return names[:count]
    return ()


def _sharding_of(share: Share, dims: Dims, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(share.axes.get(dim.factor, ()) or None for dim in dims)))


def _rule(plan: Plan) -> SdyShardingRule:
    """The plan as a rule of Shardy."""
    fresh = (f"whole{i}" for i in itertools.count())
    mappings = [ArrayMapping(*(dim.factor or next(fresh) for dim in dims)) for dims in (*plan.operands, *plan.results)]
    factors = dict.fromkeys(factor for mapping in mappings for factor in mapping)
    count = len(plan.operands)
    return SdyShardingRule(
        tuple(mappings[:count]),
        tuple(mappings[count:]),
        reduction_factors=tuple(f for f in factors if f in plan.summed),
        need_replication_factors=tuple(f for f in factors if f.startswith("whole")),
        permutation_factors=tuple(f for f in factors if f in plan.spans and f not in plan.summed),
    )


def divided(axes: Any) -> bool:
    """Whether the compiler divides a module of this context, over devices that no shard_map names, or unknown ones."""
    if hasattr(axes, "manual_axes"):
        return not set(axes.mesh.axis_names) <= set(axes.manual_axes)
    return getattr(axes, "num_devices", 0) != 1


def partitions(ctx: Any) -> bool:
    """Whether the compiler can call us while it divides the module.

    It cannot if the module is stored on disk, is for more devices than this process knows, or has symbolic sizes; nor
    inside a shard_map over some axes of a mesh.
    """
    context = ctx.module_context
    axes = context.axis_context
    known = all(isinstance(n, int) and n > 0 for a in (*ctx.avals_in, *ctx.avals_out) for n in a.shape)
    here = not hasattr(axes, "manual_axes") and 1 < axes.num_devices <= len(_devices(context))
    return known and here and not context.lowering_parameters.for_export


def _devices(context: Any) -> Sequence[Any]:
    return () if context.backend is None else context.backend.devices()


def lower(ctx: Any, plan: Plan, primitive: Any, params: dict[str, Any], *operands: Any) -> Any:
    """Lowers the primitive as one call, which the compiler divides as the plan says."""
    context = ctx.module_context
    # JAX needs devices to lower such a call; any will do, as the compiler identifies them by number.
    devices = tuple(_devices(context)[: context.axis_context.num_devices])

    def share(arrays: Sequence[Any], shardings: Sequence[Any]) -> tuple[Share, Mesh]:
        mesh, specs = _read(shardings, [len(a.shape) for a in arrays], devices)
        return _decide(plan, [a.shape for a in arrays], specs, mesh), mesh

    def divide(_: Any, arguments: Any, results: Any) -> Any:
        arrays = (*arguments, *results)
        mine, mesh = share(arrays, [a.sharding for a in arrays])

        def compute(*arrays: Array) -> Any:
            with jax.sharding.use_abstract_mesh(NO_MESH):
                return tuple(plan.local(mine, *arrays))

        said = [_sharding_of(mine, dims, mesh) for dims in (*plan.operands, *plan.results)]
        return mesh, compute, tuple(said[len(arguments) :]), tuple(said[: len(arguments)])

    def infer(_: Any, arguments: Any, results: Any) -> Any:
        mine, mesh = share((*arguments, *results), [a.sharding for a in arguments] + [None] * len(results))
        return tuple(_sharding_of(mine, dims, mesh) for dims in plan.results)

    def whole(*arrays: Array) -> tuple[Array, ...]:
        results = primitive.bind(*arrays, **params)
        return tuple(results) if primitive.multiple_results else (results,)

    call = custom_partitioning(whole)
    call.def_partition(divide, infer_sharding_from_operands=infer, decode_shardings=False, sharding_rule=_rule(plan))
    axes = replace(context.axis_context, device_assignment=devices, abstract_mesh=None)
    named = ctx.replace(module_context=context.replace(axis_context=axes))
    results = mlir.lower_fun(call, multiple_results=True)(named, *operands)
    shapes = [(a.shape, str(a.dtype)) for a in ctx.avals_in]
    shardy = jax.config.jax_use_shardy_partitioner  # type: ignore[attr-defined]
    name = (primitive.name, sorted(params.items()), shapes, context.platforms, len(devices), shardy)
    _name(results[0].owner, repr(name), context)
    return results


# The callbacks of each name, for as long as the process lives: a module may be compiled long after it was lowered.
_named: dict[str, Any] = {}


def _name(call: Any, name: str, context: Any) -> None:
    """Names a call by what it computes, instead of by JAX's number, which differs from process to process.

    So JAX's cache on disk recognizes a program, and distinguishes two that differ in such a call only.
    """
    callbacks = getattr(sys.modules[custom_partitioning.__module__], "_sharding_callbacks", None)
    if callbacks is None:
        return  # this JAX stores them elsewhere: the number stays, and the cache finds nothing
    name = f"jaxconv {VERSION} {name}"
    if name not in _named:
        number = ir.StringAttr(call.attributes["backend_config"]).value
        found = callbacks[number.encode()]
        # All attributes of it that are read, without the module.
        found.module_context = types.SimpleNamespace(platforms=context.platforms, backend=context.backend)
        _named[name] = callbacks[name.encode()] = found
    call.attributes["backend_config"] = ir.StringAttr.get(name)
