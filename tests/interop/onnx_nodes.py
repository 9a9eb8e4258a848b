"""ONNX's node conformance cases through `from_onnx`: which pass, and why the others do not.

Each case runs twice: its model as it is, and with all inputs but the first as constants, so that nodes with weights
become layers. A case that does not pass is in `REFUSED` with the reason.
"""

import functools
import warnings
from typing import Any

import jax
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from jaxconv.interop.onnx import from_onnx
from jaxconv.interop.onnx.operators import TABLE

REFUSED: dict[str, str] = {}


@functools.cache
def collected() -> dict[str, list[Any]]:
    """Returns the cases of the operators that can be imported, by operator: those whose model is one node."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # other operators' cases overflow on purpose
        everything = collect_testcases(None)
    cases: dict[str, list[Any]] = {name: [] for name in sorted(TABLE) if name != "RoundTrip"}
    for case in everything:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in cases and nodes[0].domain == "":
            cases[nodes[0].op_type].append(case)
    return cases


def as_array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.asarray(
        value if isinstance(value, np.generic) else numpy_helper.to_array(value)
    )


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1) if array.ndim > 2 else array


def check(model: Any, inputs: list[np.ndarray], outputs: list[np.ndarray], rtol: float, atol: float) -> None:
    """Imports a model and compares its outputs."""
    net, params, state = from_onnx(model.SerializeToString())
    given = dict(zip([port.name for port in model.graph.input], inputs, strict=False))
    x = {port.name: channels_last(given[port.name]) if port.channels_last else given[port.name] for port in net.inputs}
    # On one input only is it traced: the others may be sizes and axes, which must be known.
    first = net.inputs[0].name
    rest = {name: array for name, array in x.items() if name != first}
    y = jax.jit(lambda p, s, a: net.apply(p, s, {first: a, **rest})[0])(params, state, x[first])
    names = [port.name for port in model.graph.output]
    for name, want in zip(names, outputs, strict=True):
        got = np.asarray(y[name] if isinstance(y, dict) else y)
        wide = want.astype(np.float32) if want.dtype.name == "bfloat16" else want
        got = got.astype(np.float32) if got.dtype.name == "bfloat16" else got
        if got.shape != wide.shape or (got.ndim > 2 and not np.allclose(got, wide, rtol, atol, equal_nan=True)):
            wide = channels_last(wide)
        np.testing.assert_allclose(got, wide, rtol=rtol, atol=atol)
        wanted = jax.dtypes.canonicalize_dtype(want.dtype)
        assert np.asarray(y[name] if isinstance(y, dict) else y).dtype == wanted, f"{got.dtype}, wanted {wanted}"


def with_constants(model: Any, inputs: list[np.ndarray]) -> Any:
    """Returns the model with all inputs but the first as initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for port, array in list(zip(changed.graph.input, inputs, strict=True))[1:]:
        changed.graph.initializer.append(numpy_helper.from_array(array, port.name))
    return changed


def run(case: Any) -> None:
    """Runs one case both ways; raises what does not fit."""
    atol = max(case.atol, 1e-6)
    for inputs, outputs in case.data_sets:
        given, wanted = [as_array(a) for a in inputs], [as_array(a) for a in outputs]
        check(with_constants(case.model, given), given[:1], wanted, case.rtol, atol)
