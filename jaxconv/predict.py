"""Predictions by programs that are compiled for fixed batches."""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import geometry as geo
from jaxconv.compiler import block_for, jit
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.folding import fold_weights
from jaxconv.fusing import fuse
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.explain import Explanation, explain
from jaxconv.ops.lowering.table import platform_of
from jaxconv.ops.memory import copied, give_back
from jaxconv.packing import Stored, pack
from jaxconv.structs import as_struct
from jaxconv.tiles import tiled


class _Program(NamedTuple):
    """A compiled program of stored weights and an input, these weights, and the number of examples of the input."""

    run: Any
    arrays: list[jax.Array]
    size: int


class Predictor:
    """A network with its weights as a function of inputs; created by `predictor`.

    Args:
      net, batch_sizes, x: as in `predictor`.
      weights: params and state; the list is emptied, see `fold_weights`.

    Attributes:
      net: the folded network.
      report: what was folded, see `fold_report`.
      batch_sizes: the batches that programs are compiled for, smallest first, or fewer examples of them at a time.
      threads: the CPU threads that a program uses: all that the process may run on. JAX has no setting for one program;
        ``taskset`` limits the process.
      left_out: why oneDNN is not called, or "".
      function: of ``weights`` and an input; what is compiled, for `jaxconv.explain` and for other platforms.
    """

    def __init__(self, net: Layer, weights: list[Tree], batch_sizes: Sequence[int], x: Tree = None):
        if not hasattr(batch_sizes, "__iter__"):
            raise ArgumentError(f"batch_sizes must be a sequence of ints, got {batch_sizes!r}")
        self.batch_sizes = tuple(sorted({geo.as_int(n, "batch_sizes", least=1) for n in batch_sizes}))
        if not self.batch_sizes:
            raise ArgumentError("batch_sizes must have at least one size, got none")
        # NumPy folds without compiling a program.
        weights[:] = [jax.tree.map(np.asarray, tree) for tree in weights]
        given = set(map(id, jax.tree.leaves(weights)))
        self.net, self.report, params, state = fold_weights(net, weights, x)
        leaves, self._tree = jax.tree.flatten((params, state))
        del params, state
        for i, a in enumerate(leaves):
            # Copies of what is not folded, since on CPU device_put shares the memory of an array.
            leaves[i] = copied(a) if id(a) in given else a
            leaves[i].flags.writeable = False
        self._structs = [jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype)) for a in leaves]
        # Each weight is held once: here until a program reads it, then in the orders in which programs read it.
        self._waiting = dict(enumerate(leaves))
        give_back()
        self._stored: dict[Stored, jax.Array] = {}
        self._programs: dict[Any, _Program] = {}
        self.function = fuse(lambda weights, x: self.net.apply(*weights, x)[0])  # type: ignore[call-arg]
        affinity = getattr(os, "sched_getaffinity", None)
        self.threads = len(affinity(0)) if affinity else os.cpu_count() or 1
        with onednn.unstored():
            self.left_out = onednn.left_out() if platform_of(jax.default_backend()).onednn else ""
        if x is not None:
            for size in self.batch_sizes:
                self._program(_sized(as_struct(x), size))

    @property
    def weights(self) -> tuple[Params, State]:
        """The folded ``(params, state)``, made anew from the arrays that the programs read."""
        return jax.tree.unflatten(self._tree, [self._weight(i) for i in range(len(self._structs))])

    def _weight(self, leaf: int) -> np.ndarray:
        if leaf in self._waiting:
            return self._waiting[leaf]
        stored = next(stored for stored in self._stored if stored.leaf == leaf)
        return stored.weight(np.asarray(self._stored[stored]), self._structs[leaf].shape)

    @property
    def memory(self) -> dict[int, int]:
        """By batch, the bytes that its largest program needs: weights, input, output and temporaries."""
        found: dict[int, int] = {}
        for program in self._programs.values():
            stats = program.run.memory_analysis()
            needed = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
            found[program.size] = max(needed, found.get(program.size, 0))
        return dict(sorted(found.items()))

    def explain(self, x: Tree) -> Explanation:
        """Returns what computes each layer of the program that runs first for an input, as `jaxconv.explain` does.

        Args:
          x: an input, its type, or its shape.
        """
        x = as_struct(x)
        x = _sized(x, self._batch(jax.tree.leaves(x)[0].shape[0]))
        x = _sized(x, _fitting(self._traced(x).jaxpr, jax.tree.leaves(x)[0].shape[0]))
        with onednn.unstored():
            return explain(self.function, jax.tree.unflatten(self._tree, self._structs), x)

    def _batch(self, count: int) -> int:
        """Returns the batch size for some examples: the smallest that has them, or the largest."""
        return next((n for n in self.batch_sizes if n >= count), self.batch_sizes[-1])

    def _traced(self, x: Tree) -> Any:
        return jax.jit(self.function).trace(jax.tree.unflatten(self._tree, self._structs), x)

    def __reduce__(self) -> Any:
        raise TypeError("a predictor has compiled programs and cannot be copied or pickled: copy net, params and state")

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

    def _program(self, x: Tree) -> "_Program":
        """Returns the program for an input of as many examples as ``x``, or for fewer: see `_fitting`."""
        (size, *_), key = jax.tree.leaves(x)[0].shape, _key(x)
        if (size, key) not in self._programs:
            traced = self._traced(x)
            count = _fitting(traced.jaxpr, size)
            fits = count == size
            self._programs[size, key] = self._compiled(traced, x) if fits else self._program(_sized(x, count))
        return self._programs[size, key]

    def _compiled(self, traced: Any, x: Tree) -> "_Program":
        with onednn.unstored():
            run, wanted = pack(traced, platform_of(jax.default_backend()))
            for stored in wanted:
                if stored not in self._stored:
                    self._stored[stored] = jax.device_put(stored.array(self._weight(stored.leaf)))
                    self._waiting.pop(stored.leaf, None)
            arrays = [self._stored[stored] for stored in wanted]
            give_back()
            program = _Program(jit(run).lower(arrays, x).compile(), arrays, jax.tree.leaves(x)[0].shape[0])
            give_back()
            return program

    def __call__(self, x: Tree) -> Tree:
        """Returns the network's output for any number of examples.

        Args:
          x: an array, or a pytree of arrays, whose first axis is the batch.

        Raises:
          ShapeError: there is no example, or the arrays have different numbers of them.
          TypeError: an array is traced, by jit, grad or vmap; there, call ``predict.function(predict.weights, x)``.
        """
        if any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(x)):
            raise TypeError("x must not be traced: inside jit, grad or vmap call predict.function(predict.weights, x)")
        x = jax.tree.map(_as_array, x)
        counts = {a.shape[:1] for a in jax.tree.leaves(x)}
        if len(counts) != 1 or counts & {(), (0,)}:
            found = ", ".join(str(a.shape) for a in jax.tree.leaves(x)[:4])
            raise ShapeError(f"x must have arrays with one number of examples, at least 1, got shapes {found}")
        ((count,),), key = counts, _key(x)
        pieces, start = [], 0
        while start < count:
            left = min(count - start, self.batch_sizes[-1])
            size = self._batch(left)
            program = self._programs.get((size, key)) or self._program(_sized(x, size))
            left = min(left, program.size)
            part = x if left == count == program.size else _part(x, start, left, program.size)
            y = program.run(program.arrays, part)
            pieces.append(jax.tree.map(lambda a, n=left, m=program.size: _first(a, n, m), y))
            start += left
        return pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *ys: jnp.concatenate(ys), *pieces)

    def tiled(
        self, image: Any, *, tile: IntOrTuple, overlap: IntOrTuple, blend: int = 0, batch_size: int | None = None
    ) -> Any:
        """Returns the network's output for one image of any size, computed in overlapping tiles.

        Memory holds two batches of tiles and the result.

        Args:
          image: ``(*spatial, channels)``, without a batch axis; a memory map is read tile by tile.
          tile, overlap, blend: as in `jaxconv.train.predict_tiled`.
          batch_size: the most tiles in each call; by default the largest of ``batch_sizes``.

        Returns:
          The NumPy arrays that `jaxconv.train.predict_tiled` returns.

        Raises:
          ShapeError, ArgumentError, DTypeError: those of `jaxconv.train.predict_tiled`.
        """
        size = self.batch_sizes[-1] if batch_size is None else geo.as_int(batch_size, "batch_size", least=1)
        return tiled(self, image, tile=tile, overlap=overlap, blend=blend, batch_size=size, equal=False)


def _as_array(a: Any) -> Any:
    a = a if isinstance(a, jax.Array) else np.asarray(a)
    # As jit would: float64 is float32 unless x64 is enabled.
    return a.astype(jax.dtypes.canonicalize_dtype(a.dtype), copy=False) if isinstance(a, np.ndarray) else a


def _key(x: Tree) -> Any:
    """Returns what inputs of any number of examples for the same programs have in common."""
    leaves, tree = jax.tree.flatten(x)
    return tree, tuple((a.shape[1:], a.dtype) for a in leaves)


def _sized(x: Tree, count: int) -> Tree:
    """Returns the types of an input of another number of examples."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), x)


def _fitting(closed: Any, count: int) -> int:
    """Returns the most examples, a divisor of their number, for which the program's arrays fit in memory that is kept.

    On CPU the system clears larger blocks at each call.
    """
    blocks = platform_of(jax.default_backend()).blocks
    if blocks is None:
        return count
    block, most = block_for(closed.jaxpr), blocks.kept * count
    small = [n for n in range(1, math.isqrt(count) + 1) if count % n == 0]
    return max((n for n in (*small, *(count // n for n in small)) if block * n <= most), default=1)


def _part(x: Tree, start: int, left: int, size: int) -> Tree:
    return jax.tree.map(lambda a: _padded(a[start : start + left], size), x)


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

    The network is folded (`fold`), each layer and what follows it is one call where oneDNN has it, and kernels are
    stored once in the order in which oneDNN reads them. Programs are compiled for fixed batches: an input of another
    number of examples is padded with zeros to the next batch, and split into the largest ones. On CPU a program is for
    fewer examples where its arrays would otherwise be larger than the memory that the C library keeps. An image that
    needs more memory than there is can be computed in tiles: ``predict.tiled(image, tile=256, overlap=64)``, as by
    `jaxconv.train.predict_tiled`.

    jaxlib cannot store programs that call oneDNN. Programs call it also where ``jax_compilation_cache_dir`` is set, and
    are compiled in each process: a program of calls has little that is left to compile.

    Args:
      net: a layer.
      params, state: its weights and state; later changes of them have no effect. An array that nothing else refers to
        is dropped as soon as it is folded.
      batch_sizes: the batches to compile programs for, at the first call that needs one.
      x: the shape of an input; then all programs are compiled now.

    Raises:
      ArgumentError: ``batch_sizes`` is empty, or no sequence.
      ArgumentError: ``batch_sizes`` has a size below 1.
      ParameterError, ShapeError: those of `fold`.

    >>> net = jc.serial(jc.Conv(4), jc.BatchNorm(), jax.nn.relu, jc.GlobalAvgPool())
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> predict = predictor(net, params, state, batch_sizes=(1, 4))
    >>> predict(jnp.ones((6, 8, 8, 3))).shape
    (6, 4)
    >>> sorted(predict.memory)
    [4]
    """
    weights = [params, state]
    del params, state
    return Predictor(net, weights, batch_sizes, x)


__all__ = ["predictor"]
