"""Memory of NumPy arrays that JAX's CPU backend shares, and that goes back to the system when it is not needed.

The C library keeps freed blocks for later use: gaps remain between blocks that are in use, and the process needs more
memory than its arrays have. Here, each large array is allocated in separate pages, which return to the system as soon
as the array is freed.
"""

import ctypes
import functools
import math
import mmap
import sys
from typing import Any

import numpy as np

# Smaller arrays would waste a large part of their last page.
_LEAST = 2**16
# JAX's CPU backend copies an array that begins elsewhere.
_ALIGNED = 64


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns zeros. Pages of a large array need memory from the first time that something is written to them."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size >= _LEAST and hasattr(mmap, "MAP_PRIVATE"):
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.ndarray(shape, dtype, pages)
    block = np.zeros(size + _ALIGNED, np.uint8)
    return np.ndarray(shape, dtype, block, -block.ctypes.data % _ALIGNED)


def copied(a: np.ndarray) -> np.ndarray:
    """Returns a copy whose elements are in the order of their indices."""
    copy = zeros(a.shape, a.dtype)
    copy[...] = a
    return copy


@functools.cache
def _trim() -> Any:
    """Returns glibc's `malloc_trim`, or None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def give_back() -> None:
    """Returns the C library's free pages to the system: after work that needs more memory than what follows.

    On Linux with glibc, in some milliseconds. Elsewhere nothing is done.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


__all__ = ["copied", "give_back", "zeros"]
