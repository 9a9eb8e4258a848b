"""Functions in which each layer and what follows it are one call: programs rewritten before compilation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxconv.ops.lowering.fused import ACTIVATIONS, Epilogue, fused
from jaxconv.ops.lowering.modes import lowering_mode
from jaxconv.ops.lowering.primitive import conv_p
from jaxconv.ops.lowering.problem import half_type

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "remat2")


class _Chain(NamedTuple):
    """A convolution or a matrix product, and the operations that its call computes too; the last gives the result.

    ``rounded`` is whether sums are rounded to half precision after the bias.
    """

    first: Any
    bias: Any
    rounded: bool
    added: Any
    activation: str
    last: Any


def _inner(eqn: Any) -> Any:
    return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))


def _signature(eqn: Any) -> str:
    """Returns what two operations have in common if they compute the same of their operands."""
    inner = _inner(eqn)
    params = sorted(eqn.params.items(), key=str) if inner is None else inner
    return f"{eqn.primitive.name} {params}"


@functools.cache
def _pattern(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """Returns the operations of an activation of such an array."""
    return jax.make_jaxpr(ACTIVATIONS[name].function)(jax.ShapeDtypeStruct(shape, dtype)).jaxpr


def _primitives(eqns: Sequence[Any]) -> list[Any]:
    return [eqn.primitive for eqn in eqns]


def _activation(v: Any, following: Sequence[Any]) -> tuple[str, list[Any]]:
    """Returns the name of the activation that the following operations compute of a value, and these operations."""
    for name in ACTIVATIONS:
        # The primitives are those of a scalar, which is traced once for all shapes.
        wanted = _primitives(_pattern(name, (), v.aval.dtype).eqns)
        eqns = following[: len(wanted)]
        if _primitives(eqns) == wanted and _same(_pattern(name, v.aval.shape, v.aval.dtype), eqns, v):
            return name, list(eqns)
    return "", []


def _same(pattern: Any, eqns: Sequence[Any], v: Any) -> bool:
    """Whether operations compute of a value what the pattern computes of its argument."""
    known = {pattern.invars[0]: v}
    for want, eqn in zip(pattern.eqns, eqns, strict=True):
        if len(want.invars) != len(eqn.invars) or _signature(want) != _signature(eqn):
            return False
        for w, got in zip(want.invars, eqn.invars, strict=True):
            literal = isinstance(w, core.Literal)
            if literal != isinstance(got, core.Literal) or (w.val != got.val if literal else known[w] is not got):
                return False
        known.update(zip(want.outvars, eqn.outvars, strict=True))
    return known[pattern.outvars[0]] is eqns[-1].outvars[0]


def _starts(eqn: Any) -> bool:
    """Whether an operation is a convolution, or the product of an array's last axis with a matrix."""
    if eqn.primitive is conv_p:
        return bool(eqn.params["role"] == "output")
    if eqn.primitive.name != "dot_general" or lowering_mode() != "auto":
        return False
    x, kernel = (v.aval for v in eqn.invars)
    contracted = ((x.ndim - 1,), (0,)), ((), ())
    types = {x.dtype, kernel.dtype, eqn.outvars[0].aval.dtype}
    same = types == {jnp.dtype("float32")} and eqn.params["precision"] is None
    return same and x.ndim > 1 and kernel.ndim == 2 and eqn.params["dimension_numbers"] == contracted


def _chains(jaxpr: Any) -> dict[int, _Chain]:
    """Returns for each operation of a chain, by its identity, the chain."""
    readers: dict[Any, list[Any]] = {}
    makers = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    for eqn in jaxpr.eqns:
        for v in eqn.invars:
            if not isinstance(v, core.Literal):
                readers.setdefault(v, []).append(eqn)
    for v in jaxpr.outvars:
        if not isinstance(v, core.Literal):
            readers.setdefault(v, []).append(None)
    place = {id(eqn): i for i, eqn in enumerate(jaxpr.eqns)}
    chains: dict[int, _Chain] = {}
    taken: set[int] = set()

    def free(eqns: Sequence[Any], v: Any) -> bool:
        """Whether a value, and the values between some operations, are read by these operations alone."""
        among = {id(eqn) for eqn in eqns}
        between = [v, *(w for eqn in eqns[:-1] for w in eqn.outvars)]
        return not among & taken and all(id(reader) in among for w in between for reader in readers.get(w, []))

    for first in filter(_starts, jaxpr.eqns):
        v, eqns = first.outvars[0], [first]
        parts: dict[str, Any] = {"bias": None, "rounded": False, "added": None, "activation": ""}
        for part in list(parts):
            reader = next(iter(readers.get(v, [])), None)
            if reader is None:
                break
            if part == "activation":
                found, more = _activation(v, jaxpr.eqns[place[id(reader)] :])
            elif part == "rounded":
                found, more = _rounded(first, reader), [reader]
            else:
                found, more = (_bias if part == "bias" else _added)(v, reader, makers), [reader]
            if found and free(more, v):
                parts[part], v = found, more[-1].outvars[0]
                eqns += more
        taken |= {id(eqn) for eqn in eqns}
        chains |= {id(eqn): _Chain(first, **parts, last=eqns[-1]) for eqn in eqns}
    return chains


def _other(v: Any, eqn: Any) -> Any:
    """Returns the array that an operation adds to a value, or None."""
    others = [w for w in eqn.invars if w is not v] if eqn.primitive.name == "add" else []
    fits = len(others) == 1 and not isinstance(others[0], core.Literal) and others[0].aval.dtype == v.aval.dtype
    return others[0] if fits else None


def _bias(v: Any, eqn: Any, makers: dict[Any, Any]) -> Any:
    """Returns the array of one number for each channel that an operation adds to a value, or None."""
    found = _other(v, eqn)
    if found is None:
        return None
    made, channels = makers.get(found), v.aval.shape[-1:]
    if found.aval.shape == (*(1,) * (v.aval.ndim - 1), *channels):
        return found
    if made is None or made.primitive.name != "broadcast_in_dim" or made.invars[0].aval.shape != channels:
        return None
    return made.invars[0] if made.params["broadcast_dimensions"] == (v.aval.ndim - 1,) else None


def _rounded(first: Any, eqn: Any) -> bool:
    """Whether an operation rounds a convolution's sums to the half precision of its operands."""
    types = {v.aval.dtype for v in (*first.invars, *eqn.outvars)}
    narrow = first.primitive is conv_p and first.params["narrow"] and half_type(first.invars[0].aval.dtype)
    return narrow and eqn.primitive.name == "convert_element_type" and len(types) == 1


def _added(v: Any, eqn: Any, makers: dict[Any, Any]) -> Any:
    """Returns the array of the same shape that an operation adds to a value, or None."""
    found = _other(v, eqn)
    return found if found is not None and found.aval.shape == v.aval.shape else None


def _has_start(jaxpr: Any) -> bool:
    eqns = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return any(_starts(eqn) or any(map(_has_start, core.jaxprs_in_params(eqn.params))) for eqn in eqns)


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    chains = _chains(jaxpr)
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else values[v]

    for eqn in jaxpr.eqns:
        chain = chains.get(id(eqn))
        if chain is not None:
            if eqn is chain.last:
                operands = [] if chain.bias is None else [read(chain.bias).reshape(-1)]
                operands += [] if chain.added is None else [read(chain.added)]
                epilogue = Epilogue(chain.bias is not None, chain.added is not None, chain.activation, chain.rounded)
                conv = chain.first.params if chain.first.primitive is conv_p else None
                values[eqn.outvars[0]] = fused(*map(read, chain.first.invars), *operands, epilogue=epilogue, conv=conv)
            continue
        found = [read(v) for v in eqn.invars]
        inner = _inner(eqn)
        if eqn.primitive.name in _CALLS and inner is not None and _has_start(inner):
            results = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), found)
        else:
            params = eqn.params
            if eqn.primitive.name == "scan" and _has_start(inner):
                body = functools.partial(_evaluate, inner.jaxpr, inner.consts)
                params = params | {"jaxpr": jax.make_jaxpr(lambda *args, body=body: body(args))(*inner.in_avals)}
            results = eqn.primitive.bind(*found, **eqn.primitive.get_bind_params(params))
            results = results if eqn.primitive.multiple_results else [results]
        values |= zip(eqn.outvars, results, strict=True)
    return [read(v) for v in jaxpr.outvars]


def fuse(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that computes the same, each layer and what follows it in one call where there is one.

    On CPU oneDNN computes a bias, the sum with another array and an activation within its convolution and its matrix
    product: ReLU, ReLU6, SiLU, sigmoid, tanh or GELU. Elsewhere, and in derivatives, the operations remain separate. On
    CUDA in half precision, they have the type of the operands, so that XLA fuses them into a call of cuDNN.

    Args:
      function: takes and returns pytrees of arrays.

    >>> net = jc.serial(jc.Conv(8), jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> f = fuse(lambda x: net.apply(params, state, x)[0])
    >>> jc.explain(f, jnp.ones((1, 8, 8, 3)))[0].op
    'conv + bias + relu'
    """

    def computed(*args: Any) -> Any:
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return computed


__all__ = ["fuse"]
