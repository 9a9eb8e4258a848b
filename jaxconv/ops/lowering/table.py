"""Which form computes a problem on a target: the first row whose condition holds."""

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.ops.arrays import wider
from jaxconv.ops.lowering.anywhere import ANYWHERE
from jaxconv.ops.lowering.cpu import CPU
from jaxconv.ops.lowering.cuda import CUDA
from jaxconv.ops.lowering.forms import FORMS, PRODUCTS, XLA, Form, forms_of
from jaxconv.ops.lowering.guard import guarded
from jaxconv.ops.lowering.problem import Array, Problem, Product, others
from jaxconv.ops.lowering.target import ANY, Platform, Target

# A new platform is one file with its `Platform`, and its name here.
PLATFORMS = {platform.name: platform for platform in (CPU, CUDA, Platform("rocm"), Platform("tpu"), ANY)}


@functools.cache
def platform_of(name: str) -> Platform:
    """Returns the platform of a name, also of one that `jax.default_backend` or a device has; `ANY` if none has it."""
    return next((p for p in PLATFORMS.values() if p.name and name in (p.name, *p.aliases)), ANY)


@dataclass(frozen=True)
class Choice:
    """A form, why it is chosen, and the forms for the problems that it leaves, if not the table's."""

    form: Form
    why: str
    then: tuple[str, ...] = ()


# A problem and what was chosen for it.
Step = tuple[Any, Choice]


def choose(p: Any, target: Target, mode: Any) -> Choice:
    """Returns the form for this problem.

    Args:
      p: the problem.
      target: what the program is for.
      mode: what `jaxconv.lowering` was given.
    """
    forms = forms_of(type(p))
    lax = forms["xla"]
    if mode == "xla" and lax.takes(p, target):
        return Choice(lax, 'The lowering mode is "xla".')
    for name in mode if isinstance(mode, tuple) else ():
        if name in forms and forms[name].takes(p, target):
            return Choice(forms[name], "The lowering mode names this algorithm.")
    if isinstance(mode, tuple) and lax.takes(p, target):
        return Choice(lax, "None of the algorithms that the lowering mode names has a program for this problem.")
    exact = mode == "exact"
    for row in (*target.platform.rows, *ANYWHERE):
        if row.form.takes(p, target) and row.when(p, target) and not (exact and row.form.spreads(p)):
            return Choice(row.form, row.why, row.then)
    if exact and lax.spreads(p):
        form = next(FORMS[name] for name in ("per_member", "per_group", "polyphase") if FORMS[name].takes(p, target))
        return Choice(form, "XLA's own algorithm would let non-finite elements spread.")
    measured = (
        "No other algorithm was measured to be faster."
        if target.platform.rows
        else "Nothing was measured on this platform."
    )
    return Choice(lax, measured)


@dataclass(frozen=True)
class Solver:
    """Computes problems on a target, each by the form that is chosen for it, and records the choices.

    Args:
      target: what the program is for.
      mode: what `jaxconv.lowering` was given.
      record: the problems and choices, in the order in which they are made.
    """

    target: Target
    mode: Any = "auto"
    record: list[Step] = field(default_factory=list)

    def without_onednn(self) -> "Solver":
        return replace(self, target=replace(self.target, onednn=False))

    def native(self, p: Any) -> bool:
        """Whether the sums of half precision are a library's, which rounds them itself."""
        return p.half and self.target.platform.half and p.role not in choose(p, self.target, self.mode).form.adds

    def __call__(self, p: Any, *arrays: Array) -> Any:
        """Computes the problem. On platforms that guard, a form that spreads non-finite elements runs with a check."""
        choice = choose(p, self.target, self.mode)
        self.record.append((p, choice))
        smaller = replace(self, mode=choice.then or self.mode)
        platform, form = self.target.platform, choice.form
        if isinstance(p, Problem) and form is not XLA and not self.native(p):
            # Operands of two types become one: the one in which sums are taken.
            wide = wider(p.dtype, jnp.float32) if p.half else p.dtype
            arrays = tuple(a.astype(wide) for a in arrays)
            p = replace(p, half=False, dtype=wide)
        given = arrays

        def compute() -> Any:
            if p.ensemble and form.ensemble == "vmap":
                single, each = replace(p, ensemble=0), smaller.without_onednn()
                return jax.vmap(lambda *arrays: form.function(single, *arrays, solve=each))(*given)
            return form.function(p, *given, solve=smaller)

        spreads = form.spreads(p)
        # What XLA computes stays XLA's.
        if form is XLA or not spreads or not platform.guards or self.mode not in ("auto", "portable"):
            return compute()
        operands = dict(zip(others(p.role), arrays, strict=True))
        size = max(p.ensemble, 1) * math.prod(p.shape(p.role))
        exact = replace(self, mode="exact", record=[])
        return guarded([operands[name] for name in spreads], size, compute, lambda: exact(p, *arrays))

    def steps(self, p: Problem) -> list[Step]:
        """Returns the problem and the smaller ones that its form leaves, each with what is chosen for it."""
        lead = (p.ensemble,) if p.ensemble else ()
        arrays = (jax.ShapeDtypeStruct((*lead, *p.shape(name)), p.dtype) for name in others(p.role))
        solve = replace(self, record=[])
        jax.eval_shape(lambda *arrays: solve(p, *arrays), *arrays)
        return solve.record


def named(steps: list[Step]) -> str:
    """Returns the names of the forms, outermost first, as `jaxconv.explain` shows them."""
    names: list[str] = []
    for p, choice in steps:
        if not names or not isinstance(p, Product):
            names.append(choice.form.name)
        elif not names[-1].endswith(after := f" > {choice.form.name}"):
            names[-1] += after
    return " > ".join(dict.fromkeys(names))


def isolated(p: Problem, solve: Solver) -> bool:
    """Whether the compiler must not fuse the program of the problem with its readers and with its operands.

    A compiler that recomputes would compute a sum of shifted feature maps again for each of its readers. The gradient
    of a kernel reads its arrays transposed or many times, and the compiler would compute again what produces them, such
    as normalization and ReLU, element by element across the memory.
    """
    if not solve.target.platform.recomputes or (p.role != "kernel" and 1 not in (p.inner, p.outer)):
        return False
    forms = {choice.form for _, choice in solve.steps(p)}
    others = forms - {FORMS["gemm"]}
    if others and others <= {FORMS["onednn"], PRODUCTS["onednn"]}:
        return False  # a call reads its arrays once
    return XLA not in forms if p.role == "kernel" else FORMS["shift_add"] in forms
