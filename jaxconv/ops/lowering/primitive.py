"""The convolution as one bilinear primitive in three roles, each the transpose of another.

``output = input * kernel`` and its two gradients relate the same three arrays: given any two of them, the third is
linear in each. So all derivatives of all orders, in both modes, are this primitive again, and each role has its own
program on each platform: `jaxconv.ops.lowering.table` chooses it.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, xla
from jax.sharding import NamedSharding, PartitionSpec

from jaxconv.ops.arrays import wider
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.define import POSED, Posed, register
from jaxconv.ops.lowering.fusion import without_fusion
from jaxconv.ops.lowering.modes import lowering_mode, ynnpack
from jaxconv.ops.lowering.partition import Dim, Dims, Plan, Share, Span
from jaxconv.ops.lowering.problem import Array, Geometry, Problem, half_type, others
from jaxconv.ops.lowering.table import Solver, isolated
from jaxconv.ops.lowering.target import ANY, Platform, Target
from jaxconv.ops.lowering.windows import alone
from jaxconv.ops.lowering.xla import xla as xla_form

conv_p = Primitive("jaxconv_conv")


def convolve(
    role: str, first: Array, second: Array, geometry: Geometry, *, dtype: Any, precision: Any, narrow: bool
) -> Array:
    """Returns the array of this role from the other two.

    Args:
      role: "output", "input" or "kernel".
      first, second: the other two, in the order input, kernel, output. One batch axis.
      geometry: the window geometry.
      dtype: the type of the result.
      precision: as in `jax.lax.conv_general_dilated`.
      narrow: whether the result is rounded to the arrays' type afterwards. Then a cotangent may be rounded to this type
        without loss, and CUDA's libraries return their sums rounded already.
    """
    first, second = _same_axes(first, second)
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return conv_p.bind(
        first,
        second,
        role=role,
        geometry=geometry,
        lowering=lowering_mode(),
        dtype=dtype,
        precision=tuple(precision) if isinstance(precision, list) else precision,
        narrow=narrow,
        sharding=None,
        ynnpack=ynnpack.value,
    )


def _same_axes(*arrays: Array) -> list[Array]:
    """Makes all arrays vary over the mesh axes of a shard_map that any of them varies over."""
    varying = [_varying(a) for a in arrays]
    wanted = frozenset[Any]().union(*varying)
    return [
        jax.lax.pcast(a, tuple(wanted - has), to="varying") if wanted - has else a
        for a, has in zip(arrays, varying, strict=True)
    ]


def _varying(a: Array) -> frozenset[Any]:
    """The mesh axes that an array of a shard_map varies over; JAX's name for them has moved."""
    aval: Any = jax.typeof(a)
    return aval.vma if hasattr(aval, "vma") else aval.mat.varying


def problem_of(first: Any, second: Any, params: dict[str, Any], platform: Platform = ANY) -> Problem:
    """Returns the problem that the types of the two arrays and the primitive's parameters describe."""
    role, geometry, dtype = params["role"], params["geometry"], params["dtype"]
    shapes = dict(zip(others(role), (first.shape, second.shape), strict=True))
    ensemble = len(first.shape) > (geometry.rank + 2)
    shapes = {name: shape[ensemble:] for name, shape in shapes.items()}
    batched = shapes.get("input") or shapes["output"]
    channels = shapes["input"][-1] if "input" in shapes else shapes["kernel"][-2] * geometry.groups
    features = shapes["output"][-1] if "output" in shapes else shapes["kernel"][-1]
    given = wider(first.dtype, second.dtype)
    sums = wider(jnp.float32 if half_type(given) else given, dtype)
    if platform.half and half_type(given) and params["narrow"]:
        # The libraries accumulate in float32 internally. For a result in float32 XLA:GPU would convert the arrays and
        # run a float32 convolution.
        sums = given
    return Problem(
        role,
        geometry,
        batched[0],
        channels,
        features,
        sums,
        half=half_type(given),
        ensemble=first.shape[0] if ensemble else 0,
        precision=params["precision"],
    )


def solver_for(p: Problem, params: dict[str, Any], platform: Platform, context: Any = None) -> Solver:
    """Returns what computes the problem on a platform, in JAX's context of a lowering rule."""
    mode = params["lowering"]
    able = platform.onednn and onednn.computes(p.dtype, p.geometry.rank) and mode != "portable"
    calls = able and onednn.callable_here(context)
    left_out = onednn.left_out() if able and mode in ("auto", "exact") else ""
    return Solver(Target(platform, calls, params["ynnpack"], left_out), mode)


def program(platform: Platform, context: Any, first: Array, second: Array, **params: Any) -> Array:
    """Computes the primitive with ordinary operations, those of the form that is chosen for this platform."""
    role, geometry, dtype = params["role"], params["geometry"], params["dtype"]
    problem = problem_of(first, second, params, platform)
    symbols = not all(isinstance(n, int) for n in (*first.shape, *second.shape))
    if symbols or alone():  # symbolic sizes in an export; or lax's operations, which the compiler divides over devices
        return xla_form(problem, first, second).astype(dtype)
    if 0 in (*first.shape, *second.shape, *problem.shape(role)):
        shape = problem.shape(role)
        return jnp.zeros((problem.ensemble, *shape) if first.ndim > geometry.rank + 2 else shape, dtype)

    solve = solver_for(problem, params, platform, context)

    def compute() -> Array:
        return solve(problem, first, second).astype(dtype)

    return without_fusion(compute, first) if isolated(problem, solve) else compute()


def _typed_like_lax(first: Any, second: Any, **params: Any) -> Any:
    """The type of the result is the one that lax's convolution would have, sharding and varying axes included."""
    problem = problem_of(first, second, params)

    def plain(first: Array, second: Array) -> Array:
        return xla_form(problem, first, second, out_sharding=params["sharding"]).astype(params["dtype"])

    return jax.make_jaxpr(plain)(first, second).out_avals[0]


# The type depends on the mesh in use.
_cached = functools.lru_cache(4096)(lambda mesh, first, second, items: _typed_like_lax(first, second, **dict(items)))


@conv_p.def_abstract_eval
def _abstract(first: Any, second: Any, **params: Any) -> Any:
    return _cached(jax.sharding.get_abstract_mesh(), first, second, tuple(sorted(params.items())))


conv_p.def_impl(functools.partial(xla.apply_primitive, conv_p))


def _transpose(position: int, cotangent: Array, first: Any, second: Any, **params: Any) -> Array:
    """The cotangent of one operand, from that of the result and the other operand."""
    role = params["role"]
    operands = dict(zip(others(role), (first, second), strict=True))
    wanted = others(role)[position]
    aval = operands.pop(wanted).aval
    if params["narrow"] and half_type(aval.dtype):
        cotangent = cotangent.astype(aval.dtype)
    given = operands | {role: cotangent}
    mesh = getattr(aval.sharding, "mesh", None)
    sharding = None if mesh is None or mesh.empty or not mesh.explicit_axes else aval.sharding
    arrays = _same_axes(*(given[name] for name in others(wanted)))
    return conv_p.bind(*arrays, **params | {"role": wanted, "dtype": aval.dtype, "sharding": sharding})


ad.defbilinear(conv_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))


# ---------------------------------------------------------------------------------------------------------------------
# vmap

# Every two of the three arrays share an axis that the third lacks: N, C or O.
_SHARED = {
    frozenset(("input", "output")): "N",
    frozenset(("input", "kernel")): "C",
    frozenset(("kernel", "output")): "O",
}


def _fold_axis(name: str, letter: str, geometry: Geometry, ensemble: int) -> tuple[int, int]:
    """The axis of a letter in an array, and the number of groups that it is divided into there."""
    if letter == "N":
        return ensemble, 1
    if name == "kernel" and letter == "C":
        return ensemble + geometry.rank, 1
    return ensemble + geometry.rank + 1, geometry.groups


def _fold(a: Array, lane: int, name: str, letter: str, geometry: Geometry, ensemble: int) -> Array:
    """Moves the mapped axis into a letter's axis, which then has group, lane and the rest, in this order."""
    axis, groups = _fold_axis(name, letter, geometry, ensemble)
    a = jnp.moveaxis(a, lane, 0)
    lanes, *shape = a.shape
    if groups > 1:
        a = a.reshape(lanes, *shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
        a = jnp.moveaxis(a, 0, axis + 1)
    else:
        a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*shape[:axis], lanes * shape[axis], *shape[axis + 1 :])


def _unfold(a: Array, lanes: int, name: str, letter: str, geometry: Geometry, ensemble: int) -> tuple[Array, int]:
    """Separates the mapped axis again; returns the array and the axis."""
    axis, groups = _fold_axis(name, letter, geometry, ensemble)
    shape = a.shape
    inner = (lanes, shape[axis] // lanes) if groups == 1 else (groups, lanes, shape[axis] // lanes // groups)
    a = a.reshape(*shape[:axis], *inner, *shape[axis + 1 :])
    if groups == 1:
        return a, axis
    a = jnp.moveaxis(a, axis + 1, 0)
    return a.reshape(lanes, *shape[:axis], shape[axis] // lanes, *shape[axis + 1 :]), 0


def _batch(args: Any, dims: Any, **params: Any) -> tuple[Array, int]:
    """Folds the mapped axis of one operand into the axis that it shares with the result; of both, adds an ensemble."""
    role, geometry = params["role"], params["geometry"]
    names = others(role)
    mapped = [i for i in (0, 1) if dims[i] is not None]
    lanes = args[mapped[0]].shape[dims[mapped[0]]]
    if lanes == 0:
        shapes = [a.shape if d is None else (*a.shape[:d], *a.shape[d + 1 :]) for a, d in zip(args, dims, strict=True)]
        one = (jax.ShapeDtypeStruct(shape, a.dtype) for shape, a in zip(shapes, args, strict=True))
        out = jax.eval_shape(functools.partial(conv_p.bind, **params), *one)
        return jnp.zeros((0, *out.shape), out.dtype), 0
    ensemble = args[0].ndim - (0 in mapped) > geometry.rank + 2
    sharding = params["sharding"]
    if len(mapped) == 2:
        first, second = (jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True))
        if not ensemble:
            if sharding is not None:
                params["sharding"] = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
            return conv_p.bind(first, second, **params), 0
        members = first.shape[1]
        first, second = (a.reshape(lanes * members, *a.shape[2:]) for a in (first, second))
        out = conv_p.bind(first, second, **params)
        return out.reshape(lanes, members, *out.shape[1:]), 0
    (position,) = mapped
    letter = _SHARED[frozenset((names[position], role))]
    folded = list(args)
    folded[position] = _fold(args[position], dims[position], names[position], letter, geometry, int(ensemble))
    out = conv_p.bind(*folded, **params)
    return _unfold(out, lanes, role, letter, geometry, int(ensemble))


batching.primitive_batchers[conv_p] = _batch


# ---------------------------------------------------------------------------------------------------------------------
# Lowering


def _plan(platform: Platform, first: Any, second: Any, **params: Any) -> Plan | None:
    """How a convolution may be divided: by examples, features, groups and rows; sums over what is contracted."""
    role, g = params["role"], params["geometry"]
    if params["lowering"] == "xla":
        return None
    rows = [f"s{i}" for i in range(g.rank)]
    lead = ("e",) * (first.ndim - g.rank - 2)
    channels, inner, features = ("g", "", "g") if g.groups > 1 else ("c", "c", "o")
    dims: dict[str, Dims] = {
        "input": (*map(Dim, (*lead, "n")), *(Dim(row, "in") for row in rows), Dim(channels)),
        "kernel": tuple(map(Dim, (*lead, *("",) * g.rank, inner, features))),
        "output": (*map(Dim, (*lead, "n")), *(Dim(row, "out") for row in rows), Dim(features)),
    }
    names = others(role)
    given = "output" if role == "input" else "input"
    contracted = {factor for name in names for factor, _ in dims[name]} - {factor for factor, _ in dims[role]} - {""}
    spans = {
        row: Span(n, m, reach, stride, low)
        for row, n, m, reach, stride, (low, _) in zip(rows, g.size, g.out, g.reach, g.stride, g.padding, strict=True)
    }

    def local(share: Share, *arrays: Array) -> list[Array]:
        mine = {name: share.kept(a, dims[name]) for name, a in zip(names, arrays, strict=True)}
        for axis, row in enumerate(rows, len(lead) + 1):
            mine[given] = share.extended(mine[given], axis, row)
        own = [share.span(row) for row in rows]
        highs = [max(0, (s.out - 1) * s.stride + s.reach + 1 - s.low - s.size) for s in own]
        padding = tuple(
            (s.low, high) if share.axes[row] else pair
            for row, s, high, pair in zip(rows, own, highs, g.padding, strict=True)
        )
        size, groups = tuple(s.size for s in own), g.groups // share.ways("g")
        geometry = replace(g, size=size, padding=padding, groups=groups)
        result = conv_p.bind(*(mine[name] for name in names), **params | {"geometry": geometry})
        for axis, row in enumerate(rows if role == "input" else [], len(lead) + 1):
            result = share.own(result, axis, row)
        return [share.sum(result)]

    return Plan(
        tuple(dims[name] for name in names),
        (dims[role],),
        local,
        spans,
        backward=role == "input",
        summed=frozenset(contracted),
        multiples={"g": g.groups},
    )


_OPS = {
    "output": "conv",
    "input": "conv: gradient of the input, or conv_transpose",
    "kernel": "conv: gradient of the kernel",
}


def _posed(platform: Platform, first: Any, second: Any, **params: Any) -> Posed:
    p = problem_of(first, second, params, platform)
    members = f", {p.ensemble} of them" if p.ensemble else ""
    return Posed(_OPS[p.role] + members, p.geometry.described(), p, solver_for(p, params, platform))


register(conv_p, program, _plan)
POSED[conv_p] = _posed
