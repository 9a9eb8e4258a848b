"""ONNX's node conformance cases through `from_onnx`: which pass, and why the others do not.

Each case runs twice: with all inputs but the first as constants, so that nodes with weights become layers, and with all
floating-point inputs as inputs. `reason` says why a case does not pass.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from jaxconv.interop.onnx import from_onnx
from jaxconv.interop.onnx.operators import TABLE
from jaxconv.interop.onnx.read import OPSETS
from jaxconv.interop.onnx.tensors import _FIELDS as KNOWN

# How many cases there are in the ONNX release that we test with. A newer release may add some.
COUNT = 1072

# Their inputs say shapes or how much there is, so they must be known: these cases have them as constants.
CONSTANT = {"Constant", "ConstantOfShape", "NonZero", "Range"}

_TRAINING = "training_mode: `apply(train=True, key=...)` drops, by JAX's random numbers"
REFUSED = dict.fromkeys(
    (
        "test_training_dropout_default",
        "test_training_dropout_default_mask",
        "test_training_dropout",
        "test_training_dropout_mask",
        "test_training_dropout_zero_ratio",
        "test_training_dropout_zero_ratio_mask",
    ),
    _TRAINING,
)


def reason(case: Any) -> str:
    """Returns why a case does not pass, or nothing."""
    types = [port.type for port in (*case.model.graph.input, *case.model.graph.output)]
    if any(not kind.HasField("tensor_type") for kind in types):
        return "sequences and optional values"
    kinds = {kind.tensor_type.elem_type for kind in types} - set(KNOWN)
    names = {onnx.TensorProto.DataType.Name(kind) for kind in kinds}
    if "STRING" in names:
        return "strings"
    if names:
        return "integers of 2 and 4 bits, floating-point numbers of 4 and 8 bits"
    if case.model.opset_import[0].version < OPSETS[0]:
        return f"opset {case.model.opset_import[0].version}: the oldest that can be read is {OPSETS[0]}"
    return REFUSED.get(case.name, "")


OPERATORS = sorted(TABLE.keys() - {"RoundTrip"})


@functools.cache
def collected() -> dict[str, list[Any]]:
    """Returns the cases of the operators that can be imported, by operator: those whose model is one node."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # other operators' cases overflow on purpose
        everything: list[Any] = collect_testcases(None)
    cases: dict[str, list[Any]] = {name: [] for name in OPERATORS}
    for case in everything:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in cases and nodes[0].domain == "":
            cases[nodes[0].op_type].append(case)
    return cases


def as_array(value: Any) -> np.ndarray:
    return (
        value
        if isinstance(value, np.ndarray)
        else np.asarray(value if isinstance(value, np.generic) else numpy_helper.to_array(value))
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


def with_constants(model: Any, inputs: list[np.ndarray], keep: Sequence[int]) -> Any:
    """Returns the model with all inputs as initializers but some; one that is not read where none is left."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.input[:]
    for i, (port, array) in enumerate(zip(model.graph.input, inputs, strict=True)):
        if i in keep:
            changed.graph.input.append(port)
        else:
            changed.graph.initializer.append(numpy_helper.from_array(array, port.name))
    if not keep:
        changed.graph.input.append(onnx.helper.make_tensor_value_info("unread", onnx.TensorProto.FLOAT, [1]))
    return changed


def run(case: Any) -> None:
    """Runs one case both ways; raises what does not fit."""
    for inputs, outputs in case.data_sets:
        given, wanted = [as_array(a) for a in inputs], [as_array(a) for a in outputs]
        every = [i for i, array in enumerate(given) if i == 0 or array.dtype.kind == "f"]
        ways = [[]] if case.model.graph.node[0].op_type in CONSTANT else [[0]] + ([every] if len(every) > 1 else [])
        for keep in ways:
            model = with_constants(case.model, given, keep)
            x = [given[i] for i in keep] or [np.zeros(1, np.float32)]
            check(model, x, wanted, case.rtol, max(case.atol, 1e-6))


def table() -> str:
    """Returns the conformance table as Markdown."""
    lines = [
        f"The tests read the node cases of ONNX {onnx.__version__} with `jaxconv.interop.onnx.from_onnx`, for each",
        "operator that `from_onnx` supports. Each case is a graph of one node. The tests read it with all inputs",
        "except the first as constants, so that nodes with weights become layers, and with all floating-point inputs",
        "as inputs.",
        "",
        "| operator | cases | pass | refused | reason |",
        "|---|---|---|---|---|",
    ]
    total = refused = 0
    for name, cases in collected().items():
        reasons = Counter(filter(None, map(reason, cases)))
        count = sum(reasons.values())
        total, refused = total + len(cases), refused + count
        why = "; ".join(reasons)
        lines.append(f"| {name} | {len(cases)} | {len(cases) - count} | {count or ''} | {why} |")
    return "\n".join([*lines, f"| all | {total} | {total - refused} | {refused} | |"])
