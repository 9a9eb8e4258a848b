"""Functions that work element by element, as ONNX nodes: read off their jaxpr."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from onnx import helper

from jaxconv.interop.onnx.errors import Unsupported

_BINARY = {
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "or": "Or",
    "pow": "Pow",
    "sub": "Sub",
}
_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "copy": "Identity",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "not": "Not",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "stop_gradient": "Identity",
    "tan": "Tan",
    "tanh": "Tanh",
}


def pointwise(writer: Any, function: Callable[..., Any], structs: Sequence[Any], names: Sequence[str]) -> str:
    """Writes the nodes of a function of arrays of one shape, and returns the name of its output."""
    if len({struct.shape for struct in structs}) > 1:
        raise Unsupported("its arrays have different shapes")
    closed = jax.make_jaxpr(function)(*structs)
    if len(closed.out_avals) != 1 or closed.out_avals[0].shape != structs[0].shape:
        raise Unsupported("it does not work element by element")
    known = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    return _names(writer, closed.jaxpr, dict(zip(closed.jaxpr.invars, names, strict=True)), known, structs[0].shape)[0]


def _names(writer: Any, jaxpr: Any, names: dict[Any, str], known: dict[Any, Any], shape: tuple[int, ...]) -> list[str]:
    def name(atom: Any) -> str:
        if not isinstance(atom, core.Literal) and atom in names:
            return names[atom]
        value = np.asarray(atom.val if isinstance(atom, core.Literal) else known[atom])
        if value.size == 0 or not np.all(value == value.flat[0]):
            raise Unsupported("it has a constant that is more than one number")
        return writer.constant(value.flat[0].astype(atom.aval.dtype))

    for eqn in jaxpr.eqns:
        kind, ins = eqn.primitive.name, eqn.invars
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        live = [v for v in ins if not isinstance(v, core.Literal) and v in names]
        if not live and inner is None:
            with jax.ensure_compile_time_eval():
                values = [np.asarray(v.val if isinstance(v, core.Literal) else known[v]) for v in ins]
                result = eqn.primitive.bind(*values, **eqn.params)
            known |= dict(zip(eqn.outvars, result if eqn.primitive.multiple_results else [result], strict=True))
            continue
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            below = dict(zip(body.constvars, getattr(inner, "consts", ()), strict=True))
            given = {}
            for var, atom in zip(body.invars, ins, strict=True):
                if isinstance(atom, core.Literal) or atom in known:
                    below[var] = atom.val if isinstance(atom, core.Literal) else known[atom]
                else:
                    given[var] = names[atom]
            results = _names(writer, body, given, below, shape)
            names |= dict(zip(eqn.outvars, results, strict=True))
            continue
        if any(v.aval.shape not in ((), shape) for v in (*live, *eqn.outvars)):
            raise Unsupported("it does not work element by element")
        one = np.ones((), ins[0].aval.dtype)
        if kind in _BINARY:
            result = writer.add(_BINARY[kind], [name(v) for v in ins])
        elif kind in _UNARY:
            result = writer.add(_UNARY[kind], [name(ins[0])])
        elif kind == "broadcast_in_dim":
            result = name(ins[0])
        elif kind == "convert_element_type":
            kind_of = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
            result = writer.add("Cast", [name(ins[0])], to=kind_of)
        elif kind == "integer_pow":
            result = writer.add("Pow", [name(ins[0]), writer.constant(one * eqn.params["y"])])
        elif kind == "square":
            result = writer.add("Mul", [name(ins[0])] * 2)
        elif kind == "rsqrt":
            result = writer.add("Reciprocal", [writer.add("Sqrt", [name(ins[0])])])
        elif kind == "log1p":
            result = writer.add("Log", [writer.add("Add", [name(ins[0]), writer.constant(one)])])
        elif kind == "expm1":
            result = writer.add("Sub", [writer.add("Exp", [name(ins[0])]), writer.constant(one)])
        elif kind == "erfc":
            result = writer.add("Sub", [writer.constant(one), writer.add("Erf", [name(ins[0])])])
        elif kind == "select_n" and len(ins) == 3:
            result = writer.add("Where", [name(ins[0]), name(ins[2]), name(ins[1])])
        elif kind == "clamp":
            result = writer.add("Min", [writer.add("Max", [name(ins[1]), name(ins[0])]), name(ins[2])])
        elif kind == "ne":
            result = writer.add("Not", [writer.add("Equal", [name(v) for v in ins])])
        else:
            raise Unsupported(f"it does not work element by element, or has no nodes for the primitive {kind}")
        names[eqn.outvars[0]] = result
    return [name(v) for v in jaxpr.outvars]
