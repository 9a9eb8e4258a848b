"""A clock for programs on a CPU and on an accelerator, where a call returns before its work is done."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

SAMPLE = 0.004  # seconds, of a sample
Call = Callable[[], Any]


def platform() -> str:
    """Returns the default backend as the tables of `jaxconv.ops.lowering` name it."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def wait(result: Any) -> None:
    """Returns when the result, JAX's or torch's, is computed."""
    jax.block_until_ready(result)
    if any(getattr(leaf, "is_cuda", False) for leaf in jax.tree.leaves(result)):
        import torch

        torch.cuda.synchronize()


def seconds(call: Call, times: int = 1) -> float:
    """Returns what one of ``times`` calls takes that are made one behind the other.

    On CPU each is waited for, as torch computes there: what a call costs beside its work is not hidden.
    """
    each = platform() == "cpu"
    start = time.perf_counter()
    for _ in range(times):
        result = call()
        if each:
            wait(result)
    wait(result)
    return (time.perf_counter() - start) / times


def repeats(once: float) -> int:
    """Returns how many calls make a sample, of a program that takes so many seconds: 4 ms of them, at most 40.

    On an accelerator the launch of one costs more than the work of a small layer, and is hidden behind the work of
    those before.
    """
    return max(1, min(40, math.ceil(SAMPLE / once)))


def sample(call: Call, times: int) -> float:
    """Returns what one of ``times`` calls takes, behind one that does not count.

    That one finds the caches and the heap as another program left them, and would be measured for it.
    """
    seconds(call)
    return seconds(call, times)
