"""Rules for `jax.experimental.jet`, which carries Taylor coefficients through a function: one for each primitive."""

import functools
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Primitive

from jaxconv.ops.lowering.pool import best_p, pick_p, place_p, spread_sums_p, sums_p
from jaxconv.ops.lowering.primitive import conv_p
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.resample import resample_p, resample_transpose_p
from jaxconv.ops.lowering.strided import every_p, spread_p
from jaxconv.ops.lowering.traced import chosen_p

jet_rules: dict[Primitive, Any]
try:
    from jax.experimental.jet import jet_rules
except ImportError:  # a JAX without the interpreter needs no rules
    jet_rules = {}

# Of each operand and result: its value, and its coefficients from the first order on.
Coefficients = list[Array]


def _bilinear(primals: Any, series: Any, **params: Any) -> tuple[Array, Coefficients]:
    """Coefficient k of the result is the sum of the products of the operands' coefficients of orders j and k - j."""
    first, second = ([value, *terms] for value, terms in zip(primals, series, strict=True))
    value, *terms = (
        sum(conv_p.bind(first[j], second[k - j], **params) for j in range(k + 1)) for k in range(len(first))
    )
    return value, terms


def _linear(primitive: Primitive, primals: Any, series: Any, **params: Any) -> tuple[Array, Coefficients]:
    """In the first operand; the others are integers."""
    value, *terms = (primitive.bind(a, *primals[1:], **params) for a in (primals[0], *series[0]))
    return value, terms


def _best(primals: Any, series: Any, *, winners: bool, **params: Any) -> tuple[list[Array], list[Coefficients]]:
    """A maximum has the coefficients of the element that won, its index and the winning taps have none."""
    found = best_p.bind(*primals, winners=True, **params)
    best, taps = found[: len(primals)], found[len(primals) :]
    size = tuple(primals[0].shape[w.axis] for w in params["axes"])
    terms = [pick_p.bind(t, *taps, size=size, **params) for t in series[0]]
    results = found if winners else best
    return results, [terms, *([jnp.zeros_like(a)] * len(terms) for a in results[1:])]


jet_rules[conv_p] = _bilinear
jet_rules[best_p] = _best
for _primitive in (
    chosen_p,
    every_p,
    pick_p,
    place_p,
    resample_p,
    resample_transpose_p,
    spread_p,
    spread_sums_p,
    sums_p,
):
    jet_rules[_primitive] = functools.partial(_linear, _primitive)
