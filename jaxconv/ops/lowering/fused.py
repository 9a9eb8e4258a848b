"""A convolution with what follows it in one call: a bias, an array that is added, an activation.

oneDNN computes all of them while the output is in registers; as separate operations each is one more pass over memory.
Where oneDNN is not called, and in derivatives, it is the convolution and the operations one after another.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, xla

from jaxconv.ops.arrays import to_rank
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.define import POSED, Posed, register
from jaxconv.ops.lowering.forms import FORMS
from jaxconv.ops.lowering.primitive import conv_p, problem_of, solver_for
from jaxconv.ops.lowering.problem import Array, Problem
from jaxconv.ops.lowering.table import Choice, Solver
from jaxconv.ops.lowering.target import Platform, Target

fused_p = Primitive("jaxconv_fused_conv")


class Activation(NamedTuple):
    """An activation, and oneDNN's name for it."""

    function: Callable[[Any], Any]
    onednn: str


ACTIVATIONS = {
    "relu": Activation(jax.nn.relu, "RELU"),
    "relu6": Activation(jax.nn.relu6, "RELU6"),
    "silu": Activation(jax.nn.silu, "SWISH"),
    "sigmoid": Activation(jax.nn.sigmoid, "SIGMOID"),
    "tanh": Activation(jnp.tanh, "TANH"),
}


@dataclass(frozen=True)
class Epilogue:
    """What follows a convolution, in this order.

    Args:
      bias: whether one number is added for each channel.
      added: whether an array of the output's shape is added.
      activation: one of `ACTIVATIONS`, or "".
    """

    bias: bool
    added: bool
    activation: str

    def ops(self) -> list[str]:
        """Returns oneDNN's names."""
        names = ["BIAS"] * self.bias + ["BINARY_ADD"] * self.added
        return names + ([ACTIVATIONS[self.activation].onednn] if self.activation else [])


def fused(x: Array, kernel: Array, *operands: Array, epilogue: Epilogue, conv: dict[str, Any]) -> Array:
    """Returns the convolution with its epilogue.

    Args:
      x, kernel: those of the convolution.
      operands: the bias ``(features,)``, then the array to add, as far as the epilogue has them.
      epilogue: what follows the convolution.
      conv: the parameters of the convolution's primitive.
    """
    return fused_p.bind(x, kernel, *operands, epilogue=epilogue, conv=tuple(sorted(conv.items())))


def unfused(x: Array, kernel: Array, *operands: Array, epilogue: Epilogue, conv: Any) -> Array:
    """Returns the same by separate operations."""
    y = conv_p.bind(x, kernel, **dict(conv))
    for operand in operands:
        y = y + (to_rank(operand, y.ndim) if operand.ndim == 1 else operand)
    return ACTIVATIONS[epilogue.activation].function(y) if epilogue.activation else y


class _Chosen(NamedTuple):
    """What computes a convolution with its epilogue: one call of oneDNN, or the solver of the convolution."""

    problem: Problem
    solve: Solver
    one_call: bool


def _choose(platform: Platform, context: Any, x: Any, kernel: Any, conv: dict[str, Any]) -> _Chosen:
    """Returns one call where the table chooses oneDNN, or a matrix product: oneDNN computes that as a convolution."""
    p = problem_of(x, kernel, conv, platform)
    solve = solver_for(p, conv, platform, context)
    sizes = (*x.shape, *kernel.shape)
    able = solve.target.onednn and conv["lowering"] == "auto" and p.dtype == conv["dtype"] and not p.ensemble
    if not able or not all(isinstance(n, int) and n for n in sizes) or not onednn.fits(p):
        return _Chosen(p, solve, False)
    first = solve.steps(p)[0][1].form.name
    return _Chosen(p, solve, first == "onednn" or (first == "gemm" and p.taps == 1 and p.geometry.groups == 1))


def _program(platform: Platform, context: Any, x: Array, kernel: Array, *operands: Array, **params: Any) -> Array:
    found = _choose(platform, context, x, kernel, dict(params["conv"]))
    if not found.one_call:
        return unfused(x, kernel, *operands, **params)
    return onednn.with_epilogue(found.problem, x, kernel, operands, params["epilogue"].ops())


@dataclass(frozen=True)
class _Record:
    """Records for `jaxconv.explain` what computes a convolution with its epilogue."""

    found: _Chosen
    record: list[Any]

    @property
    def target(self) -> Target:
        return self.found.solve.target

    def __call__(self, p: Problem, x: Array, kernel: Array, *operands: Array) -> Array:
        if self.found.one_call:
            why = "oneDNN computes the convolution and what follows it in one call, in one pass over memory."
            self.record.append((p, Choice(FORMS["onednn"], why)))
            return jnp.zeros(p.shape("output"), p.dtype)
        solve = replace(self.found.solve, record=self.record)
        return solve(p, x, kernel)


def _posed(platform: Platform, x: Any, kernel: Any, *operands: Any, epilogue: Epilogue, conv: Any) -> Posed:
    found = _choose(platform, None, x, kernel, dict(conv))
    parts = ["conv", *["bias"] * epilogue.bias, *["add"] * epilogue.added, *filter(None, [epilogue.activation])]
    record: Any = _Record(found, [])
    return Posed(" + ".join(parts), found.problem.geometry.described(), found.problem, record)


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    given = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(functools.partial(unfused, **params), tuple(primals), tuple(given))


def _batched(args: Any, dims: Any, **params: Any) -> Any:
    return jax.vmap(functools.partial(unfused, **params), in_axes=tuple(dims))(*args), 0


@fused_p.def_abstract_eval
def _abstract(x: Any, kernel: Any, *operands: Any, **params: Any) -> Any:
    return jax.make_jaxpr(functools.partial(unfused, **params))(x, kernel, *operands).out_avals[0]


fused_p.def_impl(functools.partial(xla.apply_primitive, fused_p))
ad.primitive_jvps[fused_p] = _jvp
batching.primitive_batchers[fused_p] = _batched
register(fused_p, _program, lambda *_, **__: None)
POSED[fused_p] = _posed
