"""Calls of public ops, drawn at random, in conditions under which libraries were found wrong: see `experiments.stress`.

- "nan": one element of one array is NaN or infinite. The elements of the result and of the gradients that are not
  finite must be those that depend on it, which float64 and a changed element tell. Convolutions are without padding,
  and kernels that are not finite without fractional strides: whether zeros between elements times NaN are NaN is a
  matter of definition.
- "mesh": one axis of the first array is divided over 2, 4 or 8 devices. Results must be those of one device.
- "strict": under JAX's strict flags. Nothing may be raised, and the values must be the same.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxconv as jc

KINDS = ("nan", "mesh", "strict")
DEVICES = 8


@dataclass(frozen=True)
class Call:
    """One call: the op, the shapes of its arrays, its options, and what the kind needs besides."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    options: tuple[tuple[str, Any], ...]
    axis: int = 0  # that is divided
    devices: int = 1
    array: int = 0  # in which an element is not finite
    bad: float = float("nan")

    def function(self) -> Callable[..., Any]:
        """Returns the op as a function of its arrays."""
        op, options = getattr(jc, self.op), dict(self.options)
        return lambda *arrays: op(*arrays, **options)


def draw(seed: int) -> tuple[str, Call] | None:
    """Draws a call: its kind, and it; None if it has no output."""
    r = random.Random(seed)
    kind = r.choice(KINDS)
    op = r.choice(["conv"] * 4 + ["conv_transpose"] * 2 + ["max_pool"] * 2 + ["avg_pool", "lp_pool", "resize", "dense"])
    rank = r.choice([1, 2, 2, 2, 3])
    batch, size = r.choice([1, 2, 4, 8]), tuple(r.choice([3, 5, 8, 9, 16]) for _ in range(rank))
    size = tuple(min(n, 8) for n in size) if rank == 3 else size
    window = tuple(r.choice([1, 2, 3, 3, 5][: 5 if rank < 3 else 4]) for _ in range(rank))
    stride = tuple(r.choice([1, 1, 2, 3]) for _ in range(rank))
    dilation = tuple(r.choice([1, 1, 1, 2]) for _ in range(rank)) if op != "conv_transpose" else (1,) * rank
    groups, inner, outer = r.choice([(1, 4, 8), (1, 3, 16), (4, 4, 2), (8, 1, 1), (8, 1, 2), (2, 8, 8), (1, 1, 8)])
    options: dict[str, Any] = {"stride": stride, "padding": r.choice(["SAME", "VALID", 1])}
    shapes: list[tuple[int, ...]] = [(batch, *size, groups * inner)]
    if op in ("conv", "conv_transpose"):
        options |= {"groups": groups, "dilation": dilation}
        ends = (inner, groups * outer) if op == "conv" else (outer, groups * inner)
        shapes.append((*window, *ends))
    elif op == "resize":
        options = {"size": tuple(r.choice([4, 7, 16]) for _ in size), "rank": rank}
    elif op == "dense":
        options = {}
        shapes.append((groups * inner, 8))
    else:
        options |= {"window": window}
        if options["padding"] == 1 and min(window) < 2:
            options["padding"] = 0
    array = r.randrange(len(shapes))
    if kind == "nan" and op in ("conv", "conv_transpose"):
        options["padding"] = "VALID"
        if op == "conv_transpose" and max(stride) > 1:
            array = 0
    call = Call(op, tuple(shapes), tuple(options.items()), array=array)
    if kind == "nan" and op == "resize":
        return None  # a tap of weight zero is read or not, as the op's documentation says
    if kind == "mesh":
        choices = [(a, n) for a, m in enumerate(shapes[0]) for n in (2, 4, 8) if m % n == 0]
        if not choices:
            return None
        axis, devices = r.choice(choices)
        call = Call(call.op, call.shapes, call.options, axis, devices)
    elif kind == "nan":
        bad = r.choice([np.nan, np.inf] + [-np.inf] * (op != "max_pool"))  # which is no maximum
        call = Call(call.op, call.shapes, call.options, array=call.array, bad=bad)
    try:
        out = jax.eval_shape(call.function(), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in call.shapes))
    except jc.ShapeError:
        return None
    return (kind, call) if 0 not in out.shape else None


def both(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its vector-Jacobian product, of a cotangent and the arrays."""

    def run(cotangent: Any, *arrays: Any) -> Any:
        y, back = jax.vjp(function, *arrays)
        return y, *back(cotangent)

    return run


def arrays_of(call: Call, seed: int) -> tuple[Any, list[Any]]:
    """Draws the cotangent and the arrays, of values far from zero and from each other."""
    rng = np.random.default_rng(seed)
    made = [rng.choice([-1.0, 1.0], s) * rng.uniform(0.5, 1.5, s) for s in call.shapes]
    out = jax.eval_shape(call.function(), *made)
    return rng.uniform(0.5, 1.5, out.shape), made


def check(kind: str, call: Call, seed: int) -> str:
    """Returns what is wrong, or nothing."""
    cotangent, made = arrays_of(call, seed)
    return {"nan": _nan, "mesh": _mesh, "strict": _strict}[kind](call, cotangent, made, seed)


def _nan(call: Call, cotangent: Any, made: list[Any], seed: int) -> str:
    rng = np.random.default_rng(seed + 1)
    inputs = [cotangent, *made]
    # Of the forward pass an array's element, of the gradients the cotangent's.
    for where in (call.array + 1, 0):
        position = tuple(int(rng.integers(n)) for n in inputs[where].shape)

        def changed(value: float, dtype: Any, where: int = where, position: Any = position) -> list[Any]:
            arrays = [np.array(a, dtype) for a in inputs]
            arrays[where][position] = value
            return arrays

        got = jax.jit(both(call.function()))(*changed(call.bad, np.float32))
        with jax.enable_x64(True):
            run = jax.jit(both(call.function()))
            before, after = run(*inputs), run(*changed(1e3, np.float64))
        names = ["output"] if where else [f"gradient {i}" for i in range(len(made))]
        for name, g, a, b in zip(names, got if where else got[1:], before if where else before[1:],
                                 after if where else after[1:], strict=False):  # fmt: skip
            reads = np.asarray(a) != np.asarray(b)
            bad = ~np.isfinite(np.asarray(g))
            if (bad != reads).any():
                return (
                    f"{name}: {int(bad.sum())} not finite, {int(reads.sum())} depend on element {position} of {where}"
                )
    return ""


def _close(got: Any, want: Any) -> str:
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        off = float(np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-30))
        if not off < 1e-4:
            return f"result {i} is off by {off:.2g} of the largest"
    return ""


def _mesh(call: Call, cotangent: Any, made: list[Any], seed: int) -> str:
    run = both(call.function())
    arrays = [jnp.asarray(a, jnp.float32) for a in (cotangent, *made)]
    want = jax.jit(run)(*arrays)
    mesh = Mesh(np.array(jax.devices()[: call.devices]), "d")
    spec = [None] * arrays[1].ndim
    spec[call.axis] = "d"  # type: ignore[call-overload]
    placed = [
        jax.device_put(a, NamedSharding(mesh, PartitionSpec(*(spec if i == 1 else ())))) for i, a in enumerate(arrays)
    ]
    return _close(jax.jit(run)(*placed), want)


@contextlib.contextmanager
def strict_flags() -> Iterator[None]:
    """JAX's flags that refuse what is implicit."""
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_infs(True),
        jax.debug_nans(True),
        jax.transfer_guard("disallow"),
    ):
        yield


def _strict(call: Call, cotangent: Any, made: list[Any], seed: int) -> str:
    arrays = [jnp.asarray(a, jnp.float32) for a in (cotangent, *made)]
    want = jax.jit(both(call.function()))(*arrays)
    with strict_flags():
        try:
            got = jax.jit(both(call.function()))(*arrays)
            jax.block_until_ready(got)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
    return _close(got, want)
