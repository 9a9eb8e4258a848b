"""How our primitives get their derivatives, types, batching and programs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from jaxconv.ops.lowering import divide
from jaxconv.ops.lowering.partition import Plan
from jaxconv.ops.lowering.table import PLATFORMS, Solver
from jaxconv.ops.lowering.target import ANY
from jaxconv.ops.lowering.windows import left_alone


class Posed(NamedTuple):
    """What a primitive computes on a platform: its name and its options for a reader, the problem, and its solver."""

    op: str
    how: str
    problem: Any
    solve: Solver


# Of the primitives whose programs the table chooses: ``POSED[primitive](platform, *avals, **params)``.
POSED: dict[Primitive, Callable[..., Posed]] = {}


def linear(primitive: Primitive, transpose: Callable[..., Any]) -> None:
    """Sets the derivatives of a primitive that is linear in its first operand, with its transpose."""

    def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
        y = primitive.bind(*primals, **params)
        if type(tangents[0]) is ad.Zero:
            return y, ad.Zero(jax.typeof(y).to_tangent_aval())
        return y, primitive.bind(tangents[0], *primals[1:], **params)

    def transposed(cotangent: Any, t: Any, *taps: Any, **params: Any) -> Any:
        nothing = [None] * len(taps)
        if type(cotangent) is ad.Zero:
            return [ad.Zero(t.aval), *nothing]
        return [transpose(cotangent, *taps, **params), *nothing]

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transposed


def define(primitive: Primitive, program: Any, plan: Callable[..., Plan | None], typed: Any = None) -> None:
    """Sets the type, the batching and the lowering of a primitive from its program.

    Args:
      primitive: a primitive of arrays with any number of leading axes.
      program: ``program(platform, *arrays, **params)``, with ordinary operations.
      plan: ``plan(platform, *avals, **params)``, how the compiler may divide it over devices, or None.
      typed: a rule for the type, if it is not the program's.
    """

    def traced(*arrays: Any, **params: Any) -> Any:
        found = jax.make_jaxpr(functools.partial(program, ANY, **params))(*arrays).out_avals
        return found if primitive.multiple_results else found[0]

    def batched(args: Any, dims: Any, **params: Any) -> Any:
        lanes = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        moved = (batching.bdim_at_front(a, d, lanes) for a, d in zip(args, dims, strict=True))
        found = primitive.bind(*moved, **params)
        return (found, [0] * len(found)) if primitive.multiple_results else (found, 0)

    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(typed or traced)
    batching.primitive_batchers[primitive] = batched
    register(primitive, lambda platform, _, *arrays, **params: program(platform, *arrays, **params), plan)


def register(primitive: Primitive, function: Callable[..., Any], plan: Callable[..., Plan | None]) -> None:
    """Lowers the primitive on each platform to ``function(platform, context, *arrays, **params)``, traced.

    Where the compiler divides the module over devices, ``plan(platform, *avals, **params)`` says how, or returns None.
    """
    for name, platform in PLATFORMS.items():
        if platform.rows or platform is ANY:
            rule = _rule(primitive, functools.partial(function, platform), functools.partial(plan, platform))
            mlir.register_lowering(primitive, rule, platform=name)


def _rule(primitive: Primitive, function: Callable[..., Any], plan: Callable[..., Any]) -> Any:
    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        # The types outside say how arrays are divided over devices; the program is the same for all.
        bare = ctx.replace(avals_in=[jax.core.ShapedArray(a.shape, a.dtype) for a in ctx.avals_in])
        traced = functools.partial(function, ctx.module_context)
        plain = mlir.lower_fun(traced, multiple_results=primitive.multiple_results)
        with jax.sharding.use_abstract_mesh(divide.NO_MESH):
            if not divide.divided(ctx.module_context.axis_context):
                return plain(bare, *operands, **params)
            if divide.partitions(bare) and (how := plan(*bare.avals_in, **params)):
                return divide.lower(bare, how, primitive, params, *operands)
            with left_alone():
                return plain(bare, *operands, **params)

    return lower
