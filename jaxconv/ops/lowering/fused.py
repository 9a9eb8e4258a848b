"""A convolution or a dense layer with what follows it in one call: a bias, an array that is added, an activation.

oneDNN computes all of them while the output is in registers; as separate operations each is one more pass over memory.
Where oneDNN is not called, and in derivatives, the layer and the operations are computed separately. On CUDA in half
precision, the operations have the type of the operands: XLA then fuses them into a call of cuDNN.
"""

import functools
import math
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
from jaxconv.ops.lowering.forms import forms_of
from jaxconv.ops.lowering.primitive import conv_p, problem_of, solver_for
from jaxconv.ops.lowering.problem import Array, Product
from jaxconv.ops.lowering.table import Choice, Solver
from jaxconv.ops.lowering.target import Platform, Target

fused_p = Primitive("jaxconv_fused")

# The multiply-adds of a matrix product that XLA computes in the time that a call of oneDNN takes to start, which was
# measured to be 7 microseconds.
SMALL = 2**16


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
    "gelu": Activation(functools.partial(jax.nn.gelu, approximate=False), "GELU_ERF"),
    "gelu_tanh": Activation(functools.partial(jax.nn.gelu, approximate=True), "GELU_TANH"),
}


@dataclass(frozen=True)
class Epilogue:
    """What follows a convolution or a dense layer, in this order.

    Args:
      bias: whether one number is added for each channel.
      added: whether an array of the output's shape is added.
      activation: one of `ACTIVATIONS`, or "".
      rounded: whether a convolution of half-precision operands has float32 sums, which are rounded to half precision
        after the bias is added.
    """

    bias: bool
    added: bool
    activation: str
    rounded: bool = False

    def ops(self) -> tuple[str, ...]:
        """Returns oneDNN's names."""
        names = ["BIAS"] * self.bias + ["BINARY_ADD"] * self.added
        return (*names, *([ACTIVATIONS[self.activation].onednn] if self.activation else []))

    def named(self, layer: str) -> str:
        """Returns a name for a reader: "conv + bias + relu"."""
        return " + ".join([layer, *["bias"] * self.bias, *["add"] * self.added, *filter(None, [self.activation])])


def fused(x: Array, kernel: Array, *operands: Array, epilogue: Epilogue, conv: dict[str, Any] | None) -> Array:
    """Returns the layer's output with its epilogue.

    Args:
      x, kernel: those of the layer.
      operands: the bias ``(features,)``, then the array to add, as far as the epilogue has them.
      epilogue: what follows the layer.
      conv: the parameters of a convolution's primitive, or None for a dense layer.
    """
    params = None if conv is None else tuple(sorted(conv.items()))
    return fused_p.bind(x, kernel, *operands, epilogue=epilogue, conv=params)


def unfused(x: Array, kernel: Array, *operands: Array, epilogue: Epilogue, conv: Any) -> Array:
    """Returns the same by separate operations."""
    y = jnp.matmul(x, kernel) if conv is None else conv_p.bind(x, kernel, **dict(conv))
    rest = list(operands)
    if epilogue.bias:
        y = y + to_rank(rest.pop(0).astype(y.dtype), y.ndim)
    if epilogue.rounded:
        y = y.astype(x.dtype)
    if epilogue.added:
        y = y + rest.pop()
    return ACTIVATIONS[epilogue.activation].function(y) if epilogue.activation else y


class Chosen(NamedTuple):
    """What computes a layer with its epilogue: one call of oneDNN, or the solver of the layer alone.

    Args:
      problem: of the layer alone.
      solve: its solver.
      one_call: whether it is one call.
      small: whether XLA computes the layer as a matrix product, since a call does not pay.
      native: whether a library rounds the sums of half precision itself.
    """

    problem: Any
    solve: Solver
    one_call: bool
    small: bool = False
    native: bool = False


def choose(platform: Platform, context: Any, x: Any, kernel: Any, conv: Any) -> Chosen:
    """Returns one call where the table chooses oneDNN, or a matrix product, which oneDNN computes too.

    Args:
      platform: what the program is for.
      context: JAX's context of a lowering rule, or None.
      x, kernel: the types of the layer's operands.
      conv: as in `fused`.
    """
    sizes = (*x.shape, *kernel.shape)
    known = all(isinstance(n, int) and n for n in sizes)
    if conv is None:
        p = Product("channels", math.prod(x.shape[:-1]), kernel.shape[0], kernel.shape[1], x.dtype)
        able = platform.onednn and onednn.computes(x.dtype, 1)
        target = Target(platform, able and onednn.callable_here(context), left_out=onednn.left_out() if able else "")
        small = target.onednn and known and p.macs <= SMALL
        solve = Solver(target, ("xla",)) if small else Solver(target)
        return Chosen(p, solve, known and target.onednn and not small, small)
    params = dict(conv)
    q = problem_of(x, kernel, params, platform)
    solve = solver_for(q, params, platform, context)
    plain = q.dtype == params["dtype"] and not (q.half or q.ensemble)
    able = solve.target.onednn and params["lowering"] == "auto" and plain
    if not (able and known and onednn.fits(q)):
        return Chosen(q, solve, False, native=known and solve.native(q))
    first = solve.steps(q)[0][1].form.name
    product = first == "gemm" and q.taps == 1 and q.geometry.groups == 1
    if product and q.macs <= SMALL:
        return Chosen(q, replace(solve, mode=("gemm", "xla")), False, True)
    return Chosen(q, solve, first == "onednn" or product)


def _program(platform: Platform, context: Any, x: Array, kernel: Array, *operands: Array, **params: Any) -> Array:
    found, ops = choose(platform, context, x, kernel, params["conv"]), params["epilogue"].ops()
    if not found.one_call:
        conv = params["conv"] and dict(params["conv"]) | {"lowering": found.solve.mode}
        if found.native and params["epilogue"].rounded:
            # cuDNN rounds its sums to half precision. XLA:GPU has a fused call only if what follows has this type too.
            conv |= {"dtype": x.dtype}
        return unfused(x, kernel, *operands, epilogue=params["epilogue"], conv=conv and tuple(sorted(conv.items())))
    if params["conv"] is None:
        return onednn.product_with_epilogue(x, kernel, operands, ops)
    return onednn.with_epilogue(found.problem, x, kernel, operands, ops)


@dataclass(frozen=True)
class _Record:
    """Records for `jaxconv.explain` what computes a layer with its epilogue."""

    found: Chosen
    record: list[Any]

    @property
    def target(self) -> Target:
        return self.found.solve.target

    def __call__(self, p: Any, x: Array, kernel: Array, *operands: Array) -> Array:
        if self.found.one_call:
            why = "oneDNN computes the layer and what follows it in one call, in one pass over memory."
            self.record.append((p, Choice(forms_of(type(p))["onednn"], why)))
            return jnp.zeros((), p.dtype)
        solve = replace(self.found.solve, record=self.record)
        y = solve(p, x, kernel)
        if self.found.small:
            why = "XLA computes so small a matrix product in less time than a call of oneDNN takes to start."
            self.record[0] = (p, replace(self.record[0][1], why=why))
        return y


def _posed(platform: Platform, x: Any, kernel: Any, *operands: Any, epilogue: Epilogue, conv: Any) -> Posed:
    found = choose(platform, None, x, kernel, conv)
    record: Any = _Record(found, [])
    how = "" if conv is None else found.problem.geometry.described()
    return Posed(epilogue.named("dense" if conv is None else "conv"), how, found.problem, record)


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
