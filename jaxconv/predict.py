"""Predictions by programs that are compiled for fixed batches."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import geometry as geo
from jaxconv.compiler import jit
from jaxconv.errors import ShapeError
from jaxconv.folding import FoldReport, fold, fold_report
from jaxconv.fusing import fuse
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.table import platform_of
from jaxconv.structs import as_struct


class Predictor:
    """A network with its weights as a function of inputs; created by `predictor`.

    Attributes:
      net: the folded network.
      report: what was folded, see `fold_report`.
      batch_sizes: the batches that programs are compiled for, smallest first.
      threads: the CPU threads that a program uses: all that the process may run on. JAX has no setting for one program;
        ``taskset`` limits the process.
      left_out: why oneDNN is not called, or "".
      function: of ``weights`` and an input; what is compiled, for `jaxconv.explain`.
      weights: the folded ``(params, state)``.
    """

    def __init__(self, net: Layer, params: Params, state: State, batch_sizes: Sequence[int], x: Tree = None):
        self.batch_sizes = tuple(sorted({geo.as_int(n, "batch_sizes", least=1) for n in batch_sizes}))
        if not self.batch_sizes:
            raise ShapeError("batch_sizes must have at least one size, got none")
        # NumPy folds without compiling a program. Copies, since on CPU device_put may share the memory of an array.
        params, state = jax.tree.map(np.array, (params, state))
        self.report: FoldReport = fold_report(net, x)
        self.net, params, state = fold(net, params, state, x)
        self.weights = jax.device_put((params, state))
        self._programs: dict[Any, Any] = {}
        self.function = fuse(lambda weights, x: self.net.apply(*weights, x)[0])  # type: ignore[call-arg]
        self._run = jit(self.function)
        affinity = getattr(os, "sched_getaffinity", None)
        self.threads = len(affinity(0)) if affinity else os.cpu_count() or 1
        self.left_out = onednn.left_out() if platform_of(jax.default_backend()).onednn else ""
        if x is not None:
            for size in self.batch_sizes:
                self._program(
                    jax.tree.map(lambda s, n=size: jax.ShapeDtypeStruct((n, *s.shape[1:]), s.dtype), as_struct(x))
                )

    @property
    def memory(self) -> dict[int, int]:
        """By batch, the bytes that its largest program needs: weights, input, output and temporaries."""
        found: dict[int, int] = {}
        for (size, *_), program in self._programs.items():
            stats = program.memory_analysis()
            needed = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
            found[size] = max(needed, found.get(size, 0))
        return dict(sorted(found.items()))

    def __repr__(self) -> str:
        memory = ", ".join(f"{size}: {needed / 2**20:.0f} MiB" for size, needed in self.memory.items())
        parts = [
            f"batch_sizes={self.batch_sizes}",
            f"threads={self.threads}",
            f"memory={{{memory}}}",
            f"folded={len(self.report.folded)}",
            *([f"without oneDNN: {self.left_out}"] if self.left_out else []),
        ]
        return f"predictor({', '.join(parts)})"

    def _program(self, x: Tree) -> Any:
        leaves = jax.tree.leaves(x)
        key = (leaves[0].shape[0], jax.tree.structure(x), tuple((a.shape, str(a.dtype)) for a in leaves))
        if key not in self._programs:
            self._programs[key] = self._run.lower(self.weights, x).compile()
        return self._programs[key]

    def __call__(self, x: Tree) -> Tree:
        """Returns the network's output for any number of examples.

        Args:
          x: an array, or a pytree of arrays, whose first axis is the batch.

        Raises:
          ShapeError: there is no example, or the arrays have different numbers of them.
        """
        x = jax.tree.map(_as_array, x)
        counts = {a.shape[:1] for a in jax.tree.leaves(x)}
        if len(counts) != 1 or counts & {(), (0,)}:
            raise ShapeError(f"x must have arrays with one number of examples, at least 1, got {sorted(counts)}")
        ((count,),) = counts
        pieces, start = [], 0
        while start < count:
            left = min(count - start, self.batch_sizes[-1])
            size = next(n for n in self.batch_sizes if n >= left)
            part = jax.tree.map(lambda a, i=start, n=left, m=size: _padded(a[i : i + n], m), x)
            y = self._program(part)(self.weights, part)
            pieces.append(jax.tree.map(lambda a, n=left, m=size: _first(a, n, m), y))
            start += left
        return pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *ys: jnp.concatenate(ys), *pieces)


def _as_array(a: Any) -> Any:
    a = a if isinstance(a, jax.Array) else np.asarray(a)
    # As jit would: float64 is float32 unless x64 is enabled.
    return a.astype(jax.dtypes.canonicalize_dtype(a.dtype), copy=False) if isinstance(a, np.ndarray) else a


def _padded(a: Any, size: int) -> Any:
    if len(a) == size:
        return a
    pads = [(0, size - len(a)), *[(0, 0)] * (a.ndim - 1)]
    return np.pad(a, pads) if isinstance(a, np.ndarray) else jnp.pad(a, pads)


def _first(y: Any, count: int, size: int) -> Any:
    if y.shape[:1] != (size,):
        raise ShapeError(f"the network's outputs must have one entry for each of {size} examples, got shape {y.shape}")
    return y if count == size else y[:count]


def predictor(
    net: Layer, params: Params, state: State, batch_sizes: Sequence[int] = (1, 8, 32), *, x: Tree = None
) -> Predictor:
    """Returns a network with its weights as a function of inputs, for predictions of any number of examples.

    The network is folded (`fold`), and each convolution and what follows it is one call where oneDNN has it. Programs
    are compiled for fixed batches: an input of another number of examples is padded with zeros to the next batch, and
    split into the largest ones. Images that need more memory than there is are to be cut into tiles by the caller.

    jaxlib cannot store programs that call oneDNN. Where ``jax_compilation_cache_dir`` is set, programs do not call it,
    and ``left_out`` says so. Without the cache, a program of calls has little that is left to compile.

    Args:
      net: a layer.
      params, state: its weights and state; later changes of them have no effect.
      batch_sizes: the batches to compile programs for, at the first call that needs one.
      x: the shape of an input; then all programs are compiled now.

    Raises:
      ShapeError: ``batch_sizes`` is empty, or has a size below 1.
      ParameterError, ShapeError: those of `fold`.

    >>> net = jc.serial(jc.Conv(4), jc.BatchNorm(), jax.nn.relu, jc.GlobalAvgPool())
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> predict = predictor(net, params, state, batch_sizes=(1, 4))
    >>> predict(jnp.ones((6, 8, 8, 3))).shape
    (6, 4)
    >>> sorted(predict.memory)
    [4]
    """
    return Predictor(net, params, state, batch_sizes, x)


__all__ = ["predictor"]
