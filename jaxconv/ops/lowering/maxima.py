"""The best of each window along one axis, and a derivative that remembers which tap it was."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, xla

from jaxconv.ops.arrays import slice_axis
from jaxconv.ops.lowering.primitive import by_itself, register
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.windows import total

# A window up to this long is a chain of slices, one a tap; a longer one is built by doubling.
CHAIN = 8

# An element is its value, and behind it perhaps its index, negative in the padding: that never wins a tie.
Best = tuple[Array, ...]


def _better(first: Best, second: Best) -> Best:
    """Returns, place by place, the element whose value is larger; of equal ones the first; NaN before all.

    By selection, not by `jnp.maximum`, whose gradient would share a tie between both.
    """
    a, b = first[0], second[0]
    take = b > a
    if jnp.issubdtype(a.dtype, jnp.floating):
        take = take | (jnp.isnan(b) & ~jnp.isnan(a))
    if len(first) > 1:
        take = take | ((b == a) & (first[1] < 0))
    return tuple(jnp.where(take, q, p) for p, q in zip(first, second, strict=True))


def _seen(a: Array, tap: int, axis: int, stride: int, dilation: int, out: int) -> Array:
    """What a tap sees of ``out`` windows."""
    start = tap * dilation
    return slice_axis(a, axis, start, start + (out - 1) * stride + 1, stride)


def window_maxima(x: Best, axis: int, taps: int, stride: int, dilation: int, out: int) -> Best:
    """Returns the best element of each of ``out`` windows along one axis, counted from the end."""
    if taps <= CHAIN:
        found = best_p.bind(*x, tell=False, axis=axis, taps=taps, stride=stride, dilation=dilation, out=out)
        return tuple(found)
    # The best of 2n taps is the better of two bests of n: log(taps) steps. The last two may overlap: no max minds.
    covered = 1
    while covered < taps:
        step = min(covered, taps - covered)
        count = x[0].shape[axis] - step * dilation
        x = _better(*(tuple(_seen(a, n, axis, 1, dilation, count) for a in x) for n in (0, step)))
        covered += step
    return tuple(_seen(a, 0, axis, stride, dilation, out) for a in x)


# A chain of selections, one a tap. Its derivative wants the winning taps, int8, behind the others: ``tell``. It is a
# primitive so that on CPU these are computed once, by themselves: the compiler would find them again for each window
# that sees an element.
best_p = Primitive("jaxconv_best")
best_p.multiple_results = True


def _program(platform: str | None, *x: Array, tell: bool, taps: int, **where: int) -> Best:
    def compute() -> Best:
        rows = [tuple(_seen(a, tap, **where) for a in x) for tap in range(taps)]
        if tell:  # Where there is no index, the tap takes its place, and is never negative.
            rows = [(*row, jnp.full_like(row[0], tap, jnp.int8)) for tap, row in enumerate(rows)]
        return functools.reduce(_better, rows)

    sizes = (where["out"], *x[0].shape)
    if tell and platform == "cpu" and all(isinstance(n, int) and n > 0 for n in sizes):
        return by_itself(compute, x[0])
    return compute()


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    *best, tap = best_p.bind(*primals, **params | {"tell": True})
    where = {name: params[name] for name in ("axis", "stride", "dilation", "out")}
    moved: list[Any] = [ad.Zero(jax.typeof(a).to_tangent_aval()) for a in best]
    if type(tangents[0]) is not ad.Zero:
        seen = [_seen(tangents[0], n, **where) for n in range(params["taps"])]
        moved[0] = total(jnp.where(tap == n, a, jnp.zeros_like(a)) for n, a in enumerate(seen))
    if params["tell"]:
        return [*best, tap], [*moved, ad.Zero(jax.typeof(tap).to_tangent_aval())]
    return best, moved


def _batch(args: Any, dims: Any, **params: Any) -> Any:
    lanes = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    found = best_p.bind(*(batching.bdim_at_front(a, d, lanes) for a, d in zip(args, dims, strict=True)), **params)
    return found, [0] * len(found)


best_p.def_impl(functools.partial(xla.apply_primitive, best_p))
best_p.def_abstract_eval(lambda *x, **params: jax.make_jaxpr(functools.partial(_program, None, **params))(*x).out_avals)
ad.primitive_jvps[best_p] = _jvp
batching.primitive_batchers[best_p] = _batch
register(best_p, _program)
