"""Algorithms that are chosen while a function is traced, so that JAX differentiates their operations.

The algorithm of a primitive is chosen when the primitive is compiled. The algorithms of this file have no primitive of
their own: the record of the choice is a parameter of another primitive, the identity, which is compiled to nothing.
"""

import functools
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.table import Choice, Solver
from jaxconv.ops.lowering.target import Target

# Its parameters: the name of the op, "" or "tangent" or "gradient", the problem, and the choice.
chosen_p = Primitive("jaxconv_chosen")


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def recorded(op: str, p: Any, choice: Choice, *arrays: Array) -> Any:
    """Computes a problem by the form that was chosen for it, and records the choice for `jaxconv.explain`.

    Args:
      op: the name of the op.
      p: the problem.
      choice: the form, and why it is chosen.
      arrays: the arrays of the problem; the first is differentiated.
    """
    first = chosen_p.bind(arrays[0], op=op, derivative="", p=p, choice=choice)
    return choice.form.function(p, first, *arrays[1:], solve=Solver(Target()))


def _jvp(primals: Any, tangents: Any, *, derivative: str, **params: Any) -> Any:
    x = chosen_p.bind(*primals, derivative=derivative, **params)
    (t,) = tangents
    if type(t) is ad.Zero:
        return x, ad.Zero(jax.typeof(x).to_tangent_aval())
    return x, chosen_p.bind(t, derivative=derivative or "tangent", **params)


def _transpose(cotangent: Any, t: Any, *, derivative: str, **params: Any) -> Any:
    if type(cotangent) is ad.Zero:
        return [ad.Zero(t.aval)]
    return [chosen_p.bind(cotangent, derivative="tangent" if derivative == "gradient" else "gradient", **params)]


chosen_p.def_impl(lambda x, **params: x)
chosen_p.def_abstract_eval(lambda x, **params: x)
ad.primitive_jvps[chosen_p] = _jvp
ad.primitive_transposes[chosen_p] = _transpose
batching.primitive_batchers[chosen_p] = lambda args, dims, **params: (chosen_p.bind(*args, **params), dims[0])
mlir.register_lowering(chosen_p, lambda ctx, x, **params: [x])
