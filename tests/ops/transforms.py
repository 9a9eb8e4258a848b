"""Takes any op through everything that JAX does to functions. The table of ops is in ``test_transforms.py``.

A `Row` names an op and the shapes of one example; each check takes a row. Compiling is what costs time, so a check
computes what it compares in one program where that is possible.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.ops.compare import assert_close
from tests.ops.draws import uniform
from tests.quick import quick_jit

DEVICES = 4


@dataclasses.dataclass(frozen=True)
class Row:
    """One op.

    Args:
      name: the test's id.
      op: takes the arrays, nothing else; returns an array or a tuple of arrays.
      shapes: those of the arrays for one example, without batch axes.
      batched: which arrays have batch axes in front; the others are parameters.
      integers: which arrays are int32, and the bound that they stay below.
      positive: which arrays are positive.
      separate: whether examples pass through the op one by one; random masks and statistics of a batch do not.
      batch_out: whether the result has the batch axes too.
      keeps_type: whether half types stay what they are.
    """

    name: str
    op: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    batched: tuple[int, ...] = (0,)
    integers: Mapping[int, int] = dataclasses.field(default_factory=dict)
    positive: tuple[int, ...] = ()
    separate: bool = True
    batch_out: bool = True
    keeps_type: bool = True

    @property
    def movable(self) -> list[int]:
        """The arrays that the op is differentiable in."""
        return [i for i in range(len(self.shapes)) if i not in self.integers]

    def arrays(self, *batch: int, dtype: Any = np.float32, seed: int = 0) -> list[np.ndarray]:
        """NumPy's, so that making them compiles nothing."""
        arrays = []
        for i, shape in enumerate(self.shapes):
            full = (*batch, *shape) if i in self.batched else shape
            if i in self.integers:
                arrays.append(uniform(seed + i, full, 0, self.integers[i]).astype(np.int32))
            else:
                arrays.append(uniform(seed + i, full, 0.5 if i in self.positive else -1.0).astype(dtype))
        return arrays

    def pick(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(arrays[i] for i in self.movable)

    def of_movable(self, arrays: Sequence[Any], function: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """The op, and after it ``function``, of the differentiable arrays alone; the others stay as they are."""

        def of(*moved):
            moved = dict(zip(self.movable, moved, strict=True))
            out = self.op(*(moved.get(i, a) for i, a in enumerate(arrays)))
            return out if function is None else function(out)

        return of

    def gradients(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Those of `weighed` of the result."""
        return jax.grad(self.of_movable(arrays, weighed), tuple(range(len(self.movable))))(*self.pick(arrays))


def floats(tree: Any) -> list[Any]:
    """The floating-point arrays of a result."""
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]


def weights(a: Any) -> np.ndarray:
    """A different number for each element."""
    return np.cos(np.arange(a.size)).reshape(a.shape).astype(a.dtype)


def weighed(out: Any) -> jax.Array:
    """A scalar to differentiate: every element of the result with a weight of its own."""
    return sum(jnp.sum(a * weights(a)) for a in floats(out))


def assert_same(got: Any, want: Any, what: str, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert [a.dtype for a in got] == [a.dtype for a in want], what
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, rtol=rtol, atol=atol, what=what)


def stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def lanes_of(row: Row, count: int) -> list[np.ndarray]:
    """Different arrays for each lane of a vmap or step of a scan, stacked."""
    return [np.stack(column) for column in zip(*(row.arrays(2, seed=10 * n) for n in range(count)), strict=True)]


def on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


# ---------------------------------------------------------------------------------------------------------------------
# Calls, batches, vmap


def check_eager_and_jit(row: Row) -> None:
    arrays = row.arrays(2)
    out = row.op(*arrays)
    assert_same(jax.jit(row.op)(*arrays), out, "jit against eager")
    described = jax.tree.map(lambda a: (a.shape, a.dtype), jax.eval_shape(row.op, *arrays))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), out) == described


def check_batch_axes(row: Row) -> None:
    """None, one, two batch axes give the same; an empty batch gives an empty result, and zero for its gradients."""

    def flat(a):
        return a.reshape(-1, *a.shape[2:])

    two = row.arrays(2, 3)
    one = [flat(a) if i in row.batched else a for i, a in enumerate(two)]
    none = [a[1, 2] if i in row.batched else a for i, a in enumerate(two)]
    empty = row.arrays(0)

    @quick_jit
    def everything(two, one, none):
        return row.op(*two), row.op(*one), row.op(*none)

    out2, out1, out0 = on_host(everything(two, one, none))
    if row.separate:
        assert_same(jax.tree.map(flat, out2), out1, "two batch axes against one")
        assert_same(jax.tree.map(lambda a: a[1, 2], out2), out0, "two batch axes against none")
    if row.batch_out:
        out, gradients = quick_jit(lambda *arrays: (row.op(*arrays), row.gradients(arrays)))(*empty)
        shapes = [(0, *a.shape[1:]) for a in jax.tree.leaves(out1)]
        assert [a.shape for a in jax.tree.leaves(out)] == shapes
        assert [g.shape for g in gradients] == [a.shape for a in row.pick(empty)]
        assert not any(np.any(g) for g in gradients), "the gradient of an empty batch is not zero"


def check_vmap(row: Row) -> None:
    """Over each array, over all of them, over all at their last axis, and over two in turn, against a loop."""
    lanes, count = 2, len(row.shapes)
    stacks = lanes_of(row, lanes)
    choices = {(i,) for i in range(count)} | {tuple(range(count))}

    @quick_jit
    def everything(stacks):
        results = {}
        for chosen in choices:
            arrays = [s if i in chosen else s[0] for i, s in enumerate(stacks)]
            loop = [row.op(*(a[lane] if i in chosen else a for i, a in enumerate(arrays))) for lane in range(lanes)]
            axes = [0 if i in chosen else None for i in range(count)]
            results[f"vmap over {chosen}"] = jax.vmap(row.op, axes)(*arrays), stacked(loop)
        ends = [jnp.moveaxis(s, 0, -1) for s in stacks]
        want = stacked([row.op(*(s[lane] for s in stacks)) for lane in range(lanes)])
        at_end = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), want)
        results["vmap over the last axes"] = jax.vmap(row.op, -1, -1)(*ends), at_end
        if count > 1:
            inner = jax.vmap(row.op, [None, 0] + [0] * (count - 2))
            outer = jax.vmap(inner, [0] + [None] * (count - 1))(*stacks)
            diagonal = jax.tree.map(lambda a: jnp.stack([a[n, n] for n in range(lanes)]), outer)
            results["vmap in vmap"] = diagonal, want
        return results

    for what, (got, want) in everything(stacks).items():
        assert_same(got, want, what)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


def check_derivatives(row: Row) -> None:
    """Both modes, and each mode of each, against central differences in float64, along random directions."""
    with jax.enable_x64(True):
        arrays = row.arrays(2, dtype=np.float64)
        function = row.of_movable(arrays, weighed)
        at = row.pick(arrays)
        first, second = (tuple(uniform(seed + i, a.shape) for i, a in enumerate(at)) for seed in (100, 200))
        step = 1e-5

        def forward(function, direction):
            return lambda *x: jax.jvp(function, x, direction)[1]

        def backward(function, direction):
            def slope(*x):
                gradients = jax.grad(function, tuple(range(len(x))))(*x)
                return sum(jnp.vdot(g, d) for g, d in zip(gradients, direction, strict=True))

            return slope

        def difference(function, direction):
            def moved(sign):
                return function(*(a + sign * step * d for a, d in zip(at, direction, strict=True)))

            return (moved(1) - moved(-1)) / (2 * step)

        @quick_jit
        def everything(*at):
            results = {}
            slope = difference(function, first)
            curvature = difference(backward(function, first), second)
            for name, mode in {"jvp": forward, "grad": backward}.items():
                once = mode(function, first)
                results[name] = once(*at), slope
                results[f"jvp of {name}"] = forward(once, second)(*at), curvature
                results[f"grad of {name}"] = backward(once, second)(*at), curvature
            return results

        for what, (got, want) in everything(*at).items():
            assert got.dtype == np.float64
            assert_close(got, want, rtol=1e-6, atol=1e-6, what=what)


def check_remat_and_scan(row: Row) -> None:
    """The op in a checkpoint and in the body of a scan, with gradients, against vmap, which has a check of its own."""
    stacks = lanes_of(row, 2)

    @quick_jit
    def everything(stacks):
        want, gradients = jax.vmap(lambda *arrays: (row.op(*arrays), row.gradients(arrays)))(*stacks)

        def scanned(*moved):
            moved = dict(zip(row.movable, moved, strict=True))

            def body(total, arrays):
                out = row.op(*arrays)
                return total + weighed(out), out

            return jax.lax.scan(body, jnp.float32(0), [moved.get(i, s) for i, s in enumerate(stacks)])

        kept = dataclasses.replace(row, op=jax.checkpoint(row.op))
        movable = tuple(range(len(row.movable)))
        through, outs = jax.grad(scanned, movable, has_aux=True)(*row.pick(stacks))
        return {
            "remat": (kept.gradients([s[0] for s in stacks]), jax.tree.map(lambda g: g[0], gradients)),
            "scan": (outs, want),
            "gradient through scan": (through, gradients),
        }

    for what, (got, want) in everything(stacks).items():
        assert_same(got, want, what)


# ---------------------------------------------------------------------------------------------------------------------
# Element types


def check_types(row: Row) -> None:
    """Half types stay what they are and are off by their rounding alone; so are gradients."""

    @quick_jit
    def everything(arrays, cotangents):
        out, pullback = jax.vjp(row.of_movable(arrays, floats), *row.pick(arrays))
        return out, pullback(cotangents)

    outs = floats(jax.eval_shape(row.op, *row.arrays(2)))
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        kept = dtype if row.keeps_type else jnp.float32
        arrays, cotangents = row.arrays(2, dtype=dtype), [weights(a).astype(kept) for a in outs]
        got, gradients = everything(arrays, cotangents)
        assert {a.dtype for a in got} == {np.dtype(kept)}
        with jax.enable_x64(True):
            wide = [a if a.dtype == np.int32 else a.astype(np.float64) for a in arrays]
            want, exact = everything(wide, [c.astype(np.float64) for c in cotangents])
            assert {a.dtype for a in (*want, *exact)} == {np.dtype(np.float64)}
        eps = float(jnp.finfo(dtype).eps)
        for g, w in zip(got, want, strict=True):
            # Rounded once: half of eps. Sums in float32 are off by a few of its own.
            assert_close(g, w, rtol=0.51 * eps + 4e-6, atol=4e-6, what=f"value in {dtype.__name__}")
        for g, w in zip(gradients, exact, strict=True):
            assert_close(g, w, rtol=2 * eps, atol=2 * eps, what=f"gradient in {dtype.__name__}")


# ---------------------------------------------------------------------------------------------------------------------
# Flags with which users look for mistakes of their own


@contextlib.contextmanager
def strict_flags(**others: Any) -> Iterator[None]:
    """No implicit broadcast over ranks, no implicit promotion, and an error at each NaN and infinity."""
    flags = {"numpy_rank_promotion": "raise", "numpy_dtype_promotion": "strict"}
    with contextlib.ExitStack() as stack:
        for name, value in (flags | dict.fromkeys(("debug_nans", "debug_infs"), True) | others).items():
            stack.enter_context(getattr(jax, name)(value))
        yield


def check_strict_flags(row: Row) -> None:
    """Value and gradients: eager, in jit, where nothing may be sent to the device implicitly, in half precision."""

    def everything(*arrays):
        out, pullback = jax.vjp(row.of_movable(arrays, floats), *row.pick(arrays))
        return out, pullback(out)

    half, arrays = (jax.device_put(row.arrays(2, dtype=dtype)) for dtype in (jnp.bfloat16, np.float32))
    with strict_flags():
        eager = everything(*arrays)
        jax.jit(everything).lower(*half)
    with strict_flags(transfer_guard="disallow"):
        jitted = quick_jit(everything)(*arrays)
    assert_same(jitted, eager, "jit against eager")


# ---------------------------------------------------------------------------------------------------------------------
# Four devices


@functools.cache
def mesh(kind: AxisType) -> Mesh:
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))


def specs(row: Row) -> list[P]:
    return [P("data") if i in row.batched else P() for i in range(len(row.shapes))]


def on_mesh(row: Row, mesh: Mesh) -> tuple[list[jax.Array], list[jax.Array]]:
    """The arrays of a batch on one device, and on all."""
    arrays = row.arrays(DEVICES)
    return arrays, [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs(row), strict=True)]


def check_auto_mesh(row: Row) -> None:
    """The compiler partitions: same values and gradients, and the batch stays split."""
    arrays, placed = on_mesh(row, mesh(AxisType.Auto))
    everything = quick_jit(lambda *arrays: (row.op(*arrays), row.gradients(arrays)))
    out, gradients = everything(*placed)
    assert_same((out, gradients), everything(*arrays), "on a mesh against one device")
    if row.batch_out:
        split = NamedSharding(mesh(AxisType.Auto), P("data"))
        for a in jax.tree.leaves(out):
            assert a.sharding.is_equivalent_to(split, a.ndim), a.sharding


def check_explicit_mesh(row: Row) -> None:
    """Shardings are part of the types: the result has the batch's, each gradient its array's."""
    arrays, placed = on_mesh(row, mesh(AxisType.Explicit))

    def everything(*arrays):
        out, gradients = row.op(*arrays), row.gradients(arrays)
        for a in jax.tree.leaves(out):
            spec = P("data" if row.batch_out else None, *[None] * (a.ndim - 1))
            assert jax.typeof(a).sharding.spec == spec, jax.typeof(a)
        for gradient, a in zip(gradients, row.pick(arrays), strict=True):
            assert jax.typeof(gradient).sharding == jax.typeof(a).sharding
        return out, gradients

    want = quick_jit(lambda *arrays: (row.op(*arrays), row.gradients(arrays)))(*arrays)
    with jax.set_mesh(mesh(AxisType.Explicit)):
        assert_same(quick_jit(everything)(*placed), want, "on an explicit mesh")
        # Two batch axes, of which the first is split.
        twice = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh(AxisType.Explicit), s))
            for a, s in zip(row.arrays(DEVICES, 2), specs(row), strict=True)
        ]
        jax.eval_shape(everything, *twice)


def varies_over(a: Any) -> Any:
    """The mapped axes over which an array differs; where a type keeps them has changed between releases of JAX."""
    kind = jax.typeof(a)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma


def check_shard_map(row: Row) -> None:
    """Each device its own examples: same values and gradients, and results that vary are known to."""
    auto = mesh(AxisType.Auto)
    arrays = row.arrays(DEVICES)
    parts = functools.partial(jax.shard_map, mesh=auto, in_specs=tuple(specs(row)))
    if row.separate:
        split = dataclasses.replace(row, op=parts(row.op, out_specs=P("data")))
        got, want = (quick_jit(lambda *a, row=r: (row.op(*a), row.gradients(a)))(*arrays) for r in (split, row))
        assert_same(got, want, "under shard_map")
    # A result that differs between devices must not pass for one that does not.
    with pytest.raises(ValueError, match="out_specs"):
        jax.eval_shape(parts(row.op, out_specs=P()), *arrays)
    for varying in range(-1, len(row.shapes)):

        def local(*arrays, varying=varying):
            out = row.op(*(a[0] if i == varying else a for i, a in enumerate(arrays)))
            for a in floats(out):
                assert varies_over(a) == (set() if varying < 0 else {"data"}), (varying, jax.typeof(a))
            return out

        given = [np.stack([a] * DEVICES) if i == varying else a for i, a in enumerate(arrays)]
        in_specs = tuple(P("data") if i == varying else P() for i in range(len(arrays)))
        out_specs = P() if varying < 0 else P("data")
        jax.eval_shape(jax.shard_map(local, mesh=auto, in_specs=in_specs, out_specs=out_specs), *given)
