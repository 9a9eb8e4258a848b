"""Operators that work element by element, with broadcasting: arithmetic, comparisons, activations, casts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.interop.onnx.operators.base import Placed, Row, constant
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.tensors import dtype_of
from jaxconv.interop.onnx.values import Either, Plan, Value, common_order, numpy_for, pointwise
from jaxconv.layers import Dropout, Fn, Identity, PReLU


def joined(function: Callable[..., Any], *values: Value, **options: Any) -> Plan:
    """Returns the plan of a function of arrays that broadcast."""
    order = common_order(values)
    args = [value.to(order) for value in values]
    return Plan(function, args, [order], options, pointwise(args, len(order)))


def single(function: Callable[..., Any], x: Value, **options: Any) -> Plan:
    """Returns the plan of a function of one array that leaves its axes as they are."""
    return Plan(function, [x.plain()], [x.order], options, ())


def _broadcasting(function: Callable[..., Any]) -> Row:
    return Row(lambda node, *values: joined(function, *values), static=isinstance(function, Either))


def _unary(function: Callable[..., Any]) -> Row:
    return Row(
        lambda node, x: single(function, x),
        lambda node, rank, x: Placed(Fn(function)),
        static=isinstance(function, Either),
    )


def _with(function: Callable[..., Any], **defaults: float) -> Row:
    """A row for a function with the node's attributes as keyword arguments, by these defaults."""

    def plan(node: Node, x: Value) -> Plan:
        return single(function, x, **{name: node.get(name, value) for name, value in defaults.items()})

    return Row(plan)


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def _divide(a: Any, b: Any) -> Any:
    """Divides; integers round towards zero, as in C."""
    xp = numpy_for(a, b)
    if not jnp.issubdtype(a.dtype, jnp.integer):
        return a / b
    quotient = xp.floor_divide(abs(a), abs(b))
    return (xp.where((a < 0) != (b < 0), -quotient, quotient)).astype(a.dtype)


def _power(a: Any, b: Any) -> Any:
    """Raises to a power; the result has the type of the base."""
    xp = numpy_for(a, b)
    if jnp.issubdtype(a.dtype, jnp.integer) and not jnp.issubdtype(b.dtype, jnp.integer):
        return xp.power(a.astype(np.float32), b).astype(a.dtype)
    if isinstance(b, np.ndarray) and b.size == 1 and b.item() == 2:
        # The general power has no gradient at 0.
        return xp.square(a) if b.ndim <= a.ndim else xp.square(a).reshape((1,) * (b.ndim - a.ndim) + a.shape)
    return xp.power(a, b.astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else b).astype(a.dtype)


def _modulo(a: Any, b: Any, *, fmod: int) -> Any:
    xp = numpy_for(a, b)
    return xp.fmod(a, b) if fmod else xp.mod(a, b)


def _fold(function: Callable[..., Any]) -> Row:
    """A row for a function of two arrays that the node applies to any number of them."""

    def plan(node: Node, *values: Value) -> Plan:
        return joined(_reduced, *values, pair=function)

    return Row(plan, static=isinstance(function, Either))


def _reduced(*arrays: Any, pair: Callable[..., Any]) -> Any:
    return functools.reduce(pair, arrays)


def _mean(*arrays: Any) -> Any:
    return functools.reduce(Either(np.add, jnp.add), arrays) / len(arrays)


def _shift(a: Any, b: Any, *, direction: str) -> Any:
    return jnp.left_shift(a, b) if direction == "LEFT" else jnp.right_shift(a, b)


# --- Activations ------------------------------------------------------------------------------------------------------


def _leaky_relu(x: Any, *, alpha: float) -> Any:
    return jnp.where(x >= 0, x, alpha * x)


def _elu(x: Any, *, alpha: float) -> Any:
    return jax.nn.elu(x, alpha)


def _celu(x: Any, *, alpha: float) -> Any:
    return jax.nn.celu(x, alpha)


def _selu(x: Any, *, alpha: float, gamma: float) -> Any:
    return gamma * jax.nn.elu(x, alpha)


def _hard_sigmoid(x: Any, *, alpha: float, beta: float) -> Any:
    return jnp.clip(alpha * x + beta, 0, 1)


def _hard_swish(x: Any) -> Any:
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


def _thresholded_relu(x: Any, *, alpha: float) -> Any:
    return jnp.where(x > alpha, x, 0)


def _shrink(x: Any, *, bias: float, lambd: float) -> Any:
    return jnp.where(x < -lambd, x + bias, jnp.where(x > lambd, x - bias, 0)).astype(x.dtype)


def _mish(x: Any) -> Any:
    return x * jnp.tanh(jax.nn.softplus(x))


def _swish(x: Any, *, alpha: float) -> Any:
    return x * jax.nn.sigmoid(alpha * x)


def _gelu(node: Node, x: Value) -> Plan:
    return single(jax.nn.gelu, x, approximate=node["approximate"] == "tanh")


def _prelu(node: Node, x: Value, slope: Value) -> Plan:
    # The slope broadcasts to x alone.
    args = [x.plain(), slope.to(x.order)]
    return Plan(_prelu_of, args, [x.order], {}, pointwise(args, x.rank))


def _prelu_of(x: Any, slope: Any) -> Any:
    return jnp.where(x < 0, slope * x, x)


def _prelu_layer(node: Node, rank: int | None, x: None, slope: np.ndarray | None) -> Placed | None:
    if slope is None:
        return None
    if slope.size == 1:
        return Placed(PReLU(shared=True), {"scale": slope.reshape(1)})
    if rank is not None and slope.ndim == rank - 1 and slope.size == slope.shape[0]:
        return Placed(PReLU(shared=False), {"scale": slope.reshape(-1)}, axes="last")
    return None


def _clip(node: Node, x: Value, *limits: Value | None) -> Plan:
    if node.opset < 11:
        return single(_clip_to, x, low=node["min"], high=node["max"])
    low, high = (*limits, None, None)[:2]
    present = [value for value in (low, high) if value is not None]
    if all(value.known for value in present):
        # As numbers, so that the bounds are part of what the layer is.
        numbers = [None if value is None else value.data.reshape(()).item() for value in (low, high)]
        return single(_clip_to, x, low=numbers[0], high=numbers[1])
    args = [x.plain(), *(value.plain() for value in present)]
    return Plan(_clip_between, args, [x.order], {"has_low": low is not None, "has_high": high is not None}, None)


def _clip_to(x: Any, *, low: float | None, high: float | None) -> Any:
    xp = numpy_for(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        low, high = (None if n is None else np.asarray(n, x.dtype) for n in (low, high))
    if low is not None:
        x = xp.maximum(x, low)
    return (x if high is None else xp.minimum(x, high)).astype(x.dtype)


def _clip_between(x: Any, *limits: Any, has_low: bool, has_high: bool) -> Any:
    bounds = list(limits)
    if has_low:
        x = jnp.maximum(x, bounds.pop(0).reshape(()))
    return jnp.minimum(x, bounds.pop(0).reshape(())) if has_high else x


# --- Types, choices ---------------------------------------------------------------------------------------------------


def _cast(node: Node, x: Value) -> Plan:
    return single(_cast_to, x, dtype=dtype_of(node["to"], "attribute 'to'").name)


def _cast_like(node: Node, x: Value, like: Value) -> Plan:
    return single(_cast_to, x, dtype=like.dtype.name)


def _cast_to(x: Any, *, dtype: str) -> Any:
    wanted = np.dtype(dtype)
    if isinstance(x, np.ndarray | np.generic):
        return x.astype(wanted)
    return x.astype(jax.dtypes.canonicalize_dtype(wanted))


def _is_infinite(x: Any, *, detect_negative: int, detect_positive: int) -> Any:
    return (jnp.isposinf(x) & bool(detect_positive)) | (jnp.isneginf(x) & bool(detect_negative))


def same(x: Any) -> Any:
    """Returns its argument."""
    return x


def _dropout(node: Node, x: Value, ratio: Value | None = None, training: Value | None = None) -> Plan:
    if training is not None and bool(constant(training, "training_mode")):
        raise ArgumentError("training_mode must be false, got true: call apply with train=True and a key instead")
    if len([name for name in node.outputs if name]) == 1:
        return single(same, x)
    return Plan(_dropped, [x.plain()], [x.order, x.order], {}, ())


def _dropped(x: Any) -> tuple[Any, Any]:
    return x, jnp.ones(x.shape, bool)


def _dropout_layer(node: Node, rank: int | None, x: None, *rest: np.ndarray | None) -> Placed | None:
    ratio, training = (*rest, None, None)[:2]
    if len([name for name in node.outputs if name]) > 1 or (training is not None and training.any()):
        return None
    if len(node.inputs) > 1 and node.inputs[1] and ratio is None:
        return None
    rate = node.get("ratio", 0.5) if ratio is None else float(ratio.reshape(()))
    return Placed(Dropout(rate) if rate < 1 else Identity())


def _identity_layer(node: Node, rank: int | None, x: None) -> Placed:
    return Placed(Identity())


_BOTH: dict[str, tuple[Any, Any]] = {
    "Abs": (np.abs, jnp.abs),
    "Ceil": (np.ceil, jnp.ceil),
    "Cos": (np.cos, jnp.cos),
    "Exp": (np.exp, jnp.exp),
    "Floor": (np.floor, jnp.floor),
    "Log": (np.log, jnp.log),
    "Neg": (np.negative, jnp.negative),
    "Not": (np.logical_not, jnp.logical_not),
    "Reciprocal": (np.reciprocal, jnp.reciprocal),
    "Round": (np.round, jnp.round),
    "Sign": (np.sign, jnp.sign),
    "Sin": (np.sin, jnp.sin),
    "Sqrt": (np.sqrt, jnp.sqrt),
}
_TRACED = {
    "Acos": jnp.arccos,
    "Acosh": jnp.arccosh,
    "Asin": jnp.arcsin,
    "Asinh": jnp.arcsinh,
    "Atan": jnp.arctan,
    "Atanh": jnp.arctanh,
    "BitwiseNot": jnp.bitwise_not,
    "Cosh": jnp.cosh,
    "Erf": jax.lax.erf,
    "HardSwish": _hard_swish,
    "IsNaN": jnp.isnan,
    "Mish": _mish,
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
    "Sinh": jnp.sinh,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Tan": jnp.tan,
    "Tanh": jnp.tanh,
}
_PAIRS: dict[str, tuple[Any, Any]] = {
    "Add": (np.add, jnp.add),
    "And": (np.logical_and, jnp.logical_and),
    "Equal": (np.equal, jnp.equal),
    "Greater": (np.greater, jnp.greater),
    "GreaterOrEqual": (np.greater_equal, jnp.greater_equal),
    "Less": (np.less, jnp.less),
    "LessOrEqual": (np.less_equal, jnp.less_equal),
    "Mul": (np.multiply, jnp.multiply),
    "Or": (np.logical_or, jnp.logical_or),
    "Sub": (np.subtract, jnp.subtract),
    "Where": (np.where, jnp.where),
    "Xor": (np.logical_xor, jnp.logical_xor),
}
_BITS = {"BitwiseAnd": jnp.bitwise_and, "BitwiseOr": jnp.bitwise_or, "BitwiseXor": jnp.bitwise_xor}

ROWS = (
    {name: _unary(Either(*pair)) for name, pair in _BOTH.items()}
    | {name: _unary(function) for name, function in _TRACED.items()}
    | {name: _broadcasting(Either(*pair)) for name, pair in _PAIRS.items()}
    | {name: _broadcasting(function) for name, function in _BITS.items()}
    | {
        "BitShift": Row(lambda node, a, b: joined(_shift, a, b, direction=node["direction"])),
        "Cast": Row(_cast, static=True),
        "CastLike": Row(_cast_like, static=True),
        "Celu": _with(_celu, alpha=1.0),
        "Clip": Row(_clip, static=True, trained=False),
        "Div": Row(lambda node, a, b: joined(_divide, a, b), static=True),
        "Dropout": Row(_dropout, _dropout_layer),
        "Elu": _with(_elu, alpha=1.0),
        "Gelu": Row(_gelu),
        "HardSigmoid": _with(_hard_sigmoid, alpha=0.2, beta=0.5),
        "Identity": Row(lambda node, x: single(same, x), _identity_layer, static=True),
        "IsInf": _with(_is_infinite, detect_negative=1, detect_positive=1),
        "LeakyRelu": _with(_leaky_relu, alpha=0.01),
        "Max": _fold(Either(np.maximum, jnp.maximum)),
        "Mean": Row(lambda node, *values: joined(_mean, *values)),
        "Min": _fold(Either(np.minimum, jnp.minimum)),
        "Mod": Row(lambda node, a, b: joined(_modulo, a, b, fmod=node["fmod"]), static=True),
        "PRelu": Row(_prelu, _prelu_layer),
        "Pow": Row(lambda node, a, b: joined(_power, a, b), static=True),
        "Selu": _with(_selu, alpha=1.6732632423543772, gamma=1.0507009873554805),
        "Shrink": _with(_shrink, bias=0.0, lambd=0.5),
        "Sum": _fold(Either(np.add, jnp.add)),
        "Swish": _with(_swish, alpha=1.0),
        "ThresholdedRelu": _with(_thresholded_relu, alpha=1.0),
    }
)
