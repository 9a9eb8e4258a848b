"""Which form computes a convolution, by platform: the first row whose condition holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxconv.ops.lowering.forms import FORMS, XLA, Form
from jaxconv.ops.lowering.problem import Array, Problem, others
from jaxconv.ops.lowering.smaller import UNROLLED

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclass(frozen=True)
class Choice:
    """A form, and why it is taken."""

    form: Form
    why: str


@dataclass(frozen=True)
class Row:
    """A form, the problems that it is taken for among those that it fits, and the measurement that says so."""

    form: Form
    when: Callable[[Problem], bool]
    why: str


def _always(p: Problem) -> bool:
    return True


def _tiled(p: Problem) -> bool:
    """The windows lie side by side."""
    g = p.geometry
    return g.window == g.stride and not any(map(any, g.padding)) and max(g.dilation) == 1


def _filled(p: Problem) -> float:
    """How much larger a window is that is filled up to a multiple of the stride."""
    g = p.geometry
    return math.prod(-(-f // s) * s / f for f, s in zip(g.window, g.stride, strict=True))


def _narrow(p: Problem) -> bool:
    """Each filter sees one channel of several."""
    return p.inner == 1 and p.geometry.groups > 1


def _strided(p: Problem) -> bool:
    return max(p.geometry.stride) > 1


# On two cores of an AMD EPYC with jaxlib 0.10.2, float32: experiments/benchmarks/results/forms.json has the times.
CPU = (
    Row(FORMS["product"], lambda p: p.ensemble > 0, "an ensemble of matrix products"),
    Row(
        FORMS["shifts"],
        lambda p: p.ensemble > 0 and (_narrow(p) or p.role == "output" or p.ensemble > UNROLLED),
        "an ensemble of sums",
    ),
    Row(
        FORMS["products"],
        lambda p: p.ensemble > UNROLLED and p.role == "kernel" and p.inner * p.features <= 256,
        "many small products",
    ),
    Row(FORMS["members"], _always, "an ensemble: lax would make groups of it"),
    Row(FORMS["product"], lambda p: p.role != "input" or not _strided(p), "1x1: a matrix product, 2 to 3 times lax"),
    Row(FORMS["phases"], lambda p: _narrow(p) and _strided(p) and p.role != "kernel", "depthwise at a stride"),
    Row(FORMS["shifts"], _narrow, "depthwise: 10 to 40 times lax"),
    Row(
        FORMS["shifts"],
        lambda p: p.role == "output" and p.inner == 1 and p.taps <= 32 and not _strided(p),
        "one channel, a small window: 2 to 6 times lax",
    ),
    Row(FORMS["turned"], _always, "a convolution with the kernel turned round, with that one's choice"),
    Row(FORMS["apart"], lambda p: p.inner >= 16 or p.taps == 1, "wide groups: 4 to 100 times lax"),
    Row(FORMS["blocks"], _always, "narrow groups: 4 to 200 times lax"),
    Row(FORMS["patches"], lambda p: _tiled(p) and p.inner < 16, "windows side by side"),
    Row(FORMS["shuffled"], lambda p: _tiled(p) and (p.inner >= 64 or p.role == "kernel"), "windows side by side"),
    Row(
        FORMS["shuffled"],
        lambda p: p.role == "input" and _filled(p) <= 1.4,
        "at a stride the way back is one convolution",
    ),
    Row(FORMS["phases"], lambda p: p.role == "input" and max(p.geometry.window) <= 3 and p.inner >= 16, "at a stride"),
    Row(FORMS["slabs"], lambda p: p.geometry.rank == 3, "3-D: lax's own is slow"),
    Row(FORMS["laid out"], _always, "as lax's, which falls off inside of loops"),
    Row(
        FORMS["uneven"],
        lambda p: 32 <= p.inner <= 64 and not _strided(p) and p.places * p.features > 1_000_000,
        "around YNNPACK",
    ),
)
ROWS: dict[str, tuple[Row, ...]] = {"cpu": CPU}


def choose(p: Problem, platform: str | None, mode: Any) -> Choice:
    """Returns the form for this problem.

    Args:
      p: the convolution.
      platform: the one that the program is for, as JAX names it, or None for any other.
      mode: what `jaxconv.lowering` was given.
    """
    if mode == "xla":
        return Choice(XLA, "asked for")
    for name in mode if isinstance(mode, tuple) else ():
        if FORMS[name].takes(p):
            return Choice(FORMS[name], "asked for")
    if mode == "auto":
        for row in ROWS.get(platform or "", ()):
            if row.form.takes(p) and row.when(p):
                return Choice(row.form, row.why)
    return Choice(XLA, "nothing measured faster")


def solve(platform: str | None, mode: Any, p: Problem, first: Array, second: Array, seen: Any = None) -> Array:
    """Computes the problem by the form that is chosen for it; ``seen``, a list, is told the problems and choices."""
    choice = choose(p, platform, mode)
    if seen is not None:
        seen.append((p, choice))

    def smaller(p: Problem, first: Array, second: Array) -> Array:
        return solve(platform, mode, p, first, second, seen)

    if choice.form is not XLA:
        # Half types are widened for all but lax's own convolution.
        first, second, p = first.astype(p.dtype), second.astype(p.dtype), replace(p, half=False)
    if p.ensemble and choice.form.ensemble == "vmap":
        single = replace(p, ensemble=0)
        return jax.vmap(lambda first, second: choice.form.function(single, first, second, smaller))(first, second)
    return choice.form.function(p, first, second, smaller)


def steps(p: Problem, platform: str | None, mode: Any) -> list[tuple[Problem, Choice]]:
    """Returns the problem and the smaller ones that its form leaves, each with what is chosen for it."""
    seen: list[tuple[Problem, Choice]] = []
    lead = (p.ensemble,) if p.ensemble else ()
    arrays = (jax.ShapeDtypeStruct((*lead, *p.shape(name)), p.dtype) for name in others(p.role))
    jax.eval_shape(lambda a, b: solve(platform, mode, p, a, b, seen), *arrays)
    return seen


def is_sum(p: Problem, platform: str | None, mode: Any) -> bool:
    """Whether the map that comes out is a sum of shifted maps, which a compiler may fuse into its readers."""
    candidate = p.role != "kernel" and not p.ensemble and 1 in (p.inner, p.outer)
    return candidate and any(choice.form is FORMS["shifts"] for _, choice in steps(p, platform, mode))
