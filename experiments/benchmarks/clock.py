"""A clock for programs on a CPU and on an accelerator, where a call returns before its work is done."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

SAMPLE = 0.004  # seconds, of a sample
Call = Callable[[], Any]


def platform() -> str:
    """Returns the default backend by its name in the tables of `jaxconv.ops.lowering`."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def wait(result: Any) -> None:
    """Blocks until the result, of JAX or torch, is computed."""
    jax.block_until_ready(result)
    if any(getattr(leaf, "is_cuda", False) for leaf in jax.tree.leaves(result)):
        import torch

        torch.cuda.synchronize()


def seconds(call: Call, times: int = 1) -> float:
    """Returns the mean seconds of ``times`` successive calls.

    On CPU the clock waits for each call, since torch computes synchronously there: the overhead of a call is included.
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
    """Returns the number of calls in a sample of a program that takes ``once`` seconds: 4 ms of calls, at most 40.

    On an accelerator the launch of a small layer takes longer than its work, and overlaps with the work of earlier
    calls.
    """
    return max(1, min(40, math.ceil(SAMPLE / once)))


def sample(call: Call, times: int) -> float:
    """Returns the mean seconds of ``times`` calls after one call that is not timed.

    The first call runs with the caches and the heap in the state that another program left.
    """
    seconds(call)
    return seconds(call, times)
