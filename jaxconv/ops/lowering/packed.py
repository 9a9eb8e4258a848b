"""Kernels stored once in the order in which oneDNN's matrix product reads them.

Given a matrix in a JAX array's order, oneDNN copies it into another order at each call. It accepts a matrix in its
own order too, but XLA has no call that returns this order. So it is learned: the product of a row that selects one row
of a matrix of known elements shows where oneDNN reads that row.
"""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.fused import ACTIVATIONS, Chosen, Epilogue
from jaxconv.ops.lowering.problem import Array, Problem, Product
from jaxconv.ops.lowering.windows import under_window
from jaxconv.ops.memory import copied, zeros

# The most elements of a matrix that is stored in another order.
_MOST = 2**24
# The elements of a matrix whose order is learned; their number is a prime, so that no other order has the same.
_PERIOD = 251
_ELEMENTS = (np.arange(_PERIOD) / _PERIOD).astype(np.float32)


class Call(NamedTuple):
    """A product of an array ``(rows, inner)`` and a matrix ``(inner, columns)``, and what follows it."""

    rows: int
    inner: int
    columns: int
    epilogue: Epilogue


class Order(NamedTuple):
    """Blocks of columns, one after another; in each, row after row, as many rows as a multiple of ``rows``."""

    columns: int
    rows: int

    def height(self, inner: int) -> int:
        return -(-inner // self.rows) * self.rows

    def pack(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the elements of a kernel ``(*window, in, out)`` in this order, zeros where a block is not full."""
        matrix = kernel.reshape(-1, kernel.shape[-1])
        inner, columns = matrix.shape
        height, blocks = self.height(inner), -(-columns // self.columns)
        full = matrix
        if full.shape != (height, blocks * self.columns):
            full = np.zeros((height, blocks * self.columns), matrix.dtype)
            full[:inner, :columns] = matrix
        return copied(full.reshape(height, blocks, self.columns).swapaxes(0, 1)).reshape(-1)

    def unpack(self, flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the kernel of this shape whose elements `pack` returned."""
        columns = shape[-1]
        inner = math.prod(shape[:-1])
        blocks = flat.reshape(-1, self.height(inner), self.columns)
        return blocks.swapaxes(0, 1)[:inner].reshape(inner, -1)[:, :columns].reshape(shape)

    def indices(self, rows: list[int], inner: int, columns: int) -> np.ndarray:
        """Returns where the elements of some rows of a matrix are in this order."""
        column = np.arange(columns)
        block = column // self.columns * self.height(inner) * self.columns + column % self.columns
        return np.stack([block + row * self.columns for row in rows])


def product_of(found: Chosen, epilogue: Epilogue) -> Call | None:
    """Returns the product that computes a layer best if its kernel is stored in oneDNN's order, or None.

    A window of several taps is a product with the elements under all taps, which are stored first. That pays where
    there are fewer of them than elements of the kernel, which oneDNN's convolution copies at each call.
    """
    p = found.problem
    if not found.one_call:
        return None
    if isinstance(p, Product):
        return Call(p.rows, p.inner, p.columns, epilogue)
    if p.geometry.groups > 1 or (p.taps > 1 and p.positions > p.features):
        return None
    return Call(p.positions, p.taps * p.channels, p.features, epilogue)


def packed(p: Problem | Product, call: Call, x: Array, kernel: Array, *operands: Array) -> Array:
    """Returns the layer's output with its epilogue; the kernel is flat, in oneDNN's order."""
    if isinstance(p, Problem):
        x = under_window(p, x)
    return onednn.product_with_epilogue(x, kernel, operands, call.epilogue.ops(), call.columns)


def orders(calls: Iterable[Call]) -> dict[Call, Order]:
    """Returns the order in which each call reads its matrix, for those whose order is known."""
    calls = list(calls)
    wanted = [call for call in dict.fromkeys(calls) if call not in _learned and _room(call) <= _MOST]
    if wanted:
        # One program, whose arrays are made outside of it: so there is little to compile. Calls share arrays, and pages
        # of zeros need no memory.
        matrix = copied(np.resize(_ELEMENTS, max(map(_room, wanted))))
        given = _given(wanted)
        with onednn.unstored():
            read = jax.jit(lambda matrix, given: [_read(*each, matrix) for each in zip(wanted, given, strict=True)])
            found = jax.device_get(read(matrix, given))
        for call, (table, rows) in zip(wanted, found, strict=True):
            at = {order: order.indices(_selected(call), call.inner, call.columns) for order in _orders(call)}
            read_rows = np.concatenate(rows)[: len(_selected(call))]
            fit = (o for o in at if np.allclose(table[at[o] % _PERIOD], read_rows, rtol=0, atol=1e-4))
            _learned[call] = next(fit, None)
    return {call: order for call in calls if (order := _learned.get(call))}


_learned: dict[Call, Order | None] = {}


def _orders(call: Call) -> list[Order]:
    """Those of oneDNN's programs for AVX-512 and AVX2, columns for a product of one row, and a matrix as it is."""
    return [Order(columns, rows) for columns in (64, 48, 32, 24, 16, 8, 1, call.columns) for rows in (16, 1)]


def _room(call: Call) -> int:
    """The elements of the matrix in the order that needs most."""
    return max(order.height(call.inner) * -(-call.columns // order.columns) * order.columns for order in _orders(call))


def _selected(call: Call) -> list[int]:
    """The rows of the matrix that are looked at."""
    return sorted({i for i in (0, 1, 15, 16, call.inner // 2, call.inner - 1) if i < call.inner})


def _given(calls: list[Call]) -> list[tuple[list[Array], list[Array]]]:
    """Returns for each call arrays of as many rows as it has, each of which selects a row of the matrix, and zeros."""

    @functools.cache
    def selecting(rows: int, inner: int, selected: tuple[int, ...]) -> Array:
        a = zeros((rows, inner), np.float32)
        a[range(len(selected)), selected] = 1
        return jax.device_put(a)

    @functools.cache
    def added(*shape: int) -> Array:
        return jax.device_put(zeros(shape, np.float32))

    def given(call: Call) -> tuple[list[Array], list[Array]]:
        selected = _selected(call)
        parts = [tuple(selected[i : i + call.rows]) for i in range(0, len(selected), call.rows)]
        shapes = [(call.columns,)] * call.epilogue.bias + [(call.rows, call.columns)] * call.epilogue.added
        return [selecting(call.rows, call.inner, part) for part in parts], [added(*shape) for shape in shapes]

    return list(map(given, calls))


def _read(call: Call, given: tuple[list[Array], list[Array]], matrix: Array) -> tuple[Array, list[Array]]:
    """Returns what an epilogue makes of each element, and the products, whose first rows are those selected."""
    arrays, operands = given
    found = [onednn.product_with_epilogue(a, matrix, operands, call.epilogue.ops(), call.columns) for a in arrays]
    activation = ACTIVATIONS.get(call.epilogue.activation)
    return activation.function(jnp.asarray(_ELEMENTS)) if activation else jnp.asarray(_ELEMENTS), found
