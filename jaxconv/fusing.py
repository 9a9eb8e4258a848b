"""Functions in which each convolution and what follows it are one call: programs rewritten before compilation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from jaxconv.ops.lowering.fused import ACTIVATIONS, Epilogue, fused
from jaxconv.ops.lowering.primitive import conv_p

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "remat2")


class _Chain(NamedTuple):
    """A convolution, and the operations that its call computes too; the last of them gives the result."""

    conv: Any
    bias: Any
    added: Any
    activation: str
    last: Any


def _inner(eqn: Any) -> Any:
    return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))


def _signature(eqn: Any) -> str:
    """Returns what two operations of one argument have in common if they compute the same."""
    literals = [str(v) for v in eqn.invars if isinstance(v, core.Literal)]
    return f"{eqn.primitive.name} {_inner(eqn)} {literals}"


def _activation(eqn: Any) -> str:
    """Returns the name of the activation that an operation computes, or an empty string."""
    if len(eqn.invars) > 2 or len(eqn.outvars) != 1:
        return ""
    aval = eqn.outvars[0].aval
    for name, activation in ACTIVATIONS.items():
        eqns = jax.make_jaxpr(activation.function)(jax.ShapeDtypeStruct(aval.shape, aval.dtype)).jaxpr.eqns
        if len(eqns) == 1 and _signature(eqns[0]) == _signature(eqn):
            return name
    return ""


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
    taken: dict[int, _Chain] = {}

    def only(v: Any) -> Any:
        found = readers.get(v, [])
        return found[0] if len(found) == 1 and found[0] is not None and id(found[0]) not in taken else None

    def other(eqn: Any, v: Any) -> Any:
        return next((w for w in eqn.invars if w is not v), None) if eqn.primitive.name == "add" else None

    for conv in jaxpr.eqns:
        if conv.primitive is not conv_p or conv.params["role"] != "output":
            continue
        v = conv.outvars[0]
        parts: dict[str, Any] = {"bias": None, "added": None, "activation": ""}
        last, eqn = conv, only(v)
        for part in ("bias", "added", "activation"):
            if eqn is None:
                break
            if part == "activation":
                found: Any = _activation(eqn)
            else:
                found = other(eqn, v)
                shape = getattr(getattr(found, "aval", None), "shape", None)
                if isinstance(found, core.Literal) or found is None or found.aval.dtype != v.aval.dtype:
                    found = None
                elif part == "bias":
                    made: Any = makers.get(found)
                    flat = shape == (*(1,) * (v.aval.ndim - 1), v.aval.shape[-1])
                    wide = (
                        made is not None
                        and made.primitive.name == "broadcast_in_dim"
                        and (
                            made.invars[0].aval.shape == v.aval.shape[-1:]
                            and made.params["broadcast_dimensions"] == (v.aval.ndim - 1,)
                        )
                    )
                    found = made.invars[0] if wide else found if flat else None
                elif shape != v.aval.shape:
                    found = None
            if found is not None and found != "":
                parts[part], last, v = found, eqn, eqn.outvars[0]
                taken[id(eqn)] = None  # type: ignore[assignment]
                eqn = only(v)
        if last is conv:
            continue
        chain = _Chain(conv, **parts, last=last)
        step: Any = conv
        while True:
            taken[id(step)] = chain
            if step is last:
                break
            step = readers[step.outvars[0]][0]
    return taken


def _has_conv(jaxpr: Any) -> bool:
    eqns = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return any(eqn.primitive is conv_p or any(map(_has_conv, core.jaxprs_in_params(eqn.params))) for eqn in eqns)


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
                epilogue = Epilogue(chain.bias is not None, chain.added is not None, chain.activation)
                x, kernel = map(read, chain.conv.invars)
                values[eqn.outvars[0]] = fused(x, kernel, *operands, epilogue=epilogue, conv=chain.conv.params)
            continue
        found = [read(v) for v in eqn.invars]
        inner = _inner(eqn)
        if eqn.primitive.name in _CALLS and inner is not None and _has_conv(inner):
            results = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), found)
        else:
            params = eqn.params
            if eqn.primitive.name == "scan" and _has_conv(inner):
                body = functools.partial(_evaluate, inner.jaxpr, inner.consts)
                params = params | {"jaxpr": jax.make_jaxpr(lambda *args, body=body: body(args))(*inner.in_avals)}
            results = eqn.primitive.bind(*found, **eqn.primitive.get_bind_params(params))
            results = results if eqn.primitive.multiple_results else [results]
        values |= zip(eqn.outvars, results, strict=True)
    return [read(v) for v in jaxpr.outvars]


def fuse(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that computes the same, each convolution and what follows it in one call where there is one.

    On CPU oneDNN computes a bias, the sum with another array and a ReLU, ReLU6, SiLU, sigmoid or tanh within its
    convolution. Elsewhere, and in derivatives, the function computes what it computed before.

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
