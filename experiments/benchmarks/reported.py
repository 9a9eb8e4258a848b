"""Reproduces reports of slow or wrong convolutions in JAX: the same programs in lax and in jaxconv.

    python -m experiments.benchmarks.reported           # writes results/reported.json, on a GPU reported_cuda.json

Each report names an issue and describes it. A program is written as in `cases`; its gradients use a cotangent that is
an argument. lax's program is compiled first: where both call the same library, the compiler's search for the fastest
algorithm is then done. Times are medians in ms, candidates in turn. A shape that the report does not give is marked as
guessed.
"""

import argparse
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks import clock, layers
from experiments.benchmarks.cases import noise, parse
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results"
Programs = dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]


@dataclass(frozen=True)
class Report:
    """An issue, its description, and the programs that reproduce it: ``what`` of each case, or of ``programs``."""

    issue: str
    says: str
    what: str
    cases: tuple[str, ...] = ()
    dtype: str = "float32"
    guessed: bool = False
    programs: Callable[[], Programs] | None = None
    platforms: tuple[str, ...] = ("cpu", "cuda")


def channels_first_in_a_loop() -> Programs:
    """Two rounds of a loop that carries the kernel of a 1x1 convolution, channels first."""
    x, kernel = jnp.full((1, 1000, 1024), 0.5), jnp.full((1000, 1000, 1), 0.5)

    def looped(conv: Callable[..., Any], x: Any, kernel: Any) -> Any:
        def body(_: Any, kernel: Any) -> Any:
            y = conv(x, kernel, (1,), "VALID", dimension_numbers=("NCH", "OIH", "NCH"))
            return kernel + 1e-9 * y[0, :, :1000, None]

        return jax.lax.fori_loop(0, 2, body, kernel)

    calls = {"lax": jax.lax.conv_general_dilated, "jaxconv": jc.conv_general_dilated}
    return {name: (functools.partial(looped, conv), (x, kernel)) for name, conv in calls.items()}


def gradients_of_examples() -> Programs:
    """The gradient of a small convolution for each of 300 examples."""
    x, kernel = noise((300, 8, 5, 5, 1), 0), noise((2, 2, 1, 1), 1)
    layout = ("NHWC", "HWIO", "NHWC")

    def gradients(conv: Callable[..., Any], x: Any, kernel: Any) -> Any:
        loss = lambda kernel, x: jnp.sum(conv(x, kernel, (1, 1), "VALID", dimension_numbers=layout) ** 2)  # noqa: E731
        return jax.vmap(jax.grad(loss), (None, 0))(kernel, x)

    calls = {"lax": jax.lax.conv_general_dilated, "jaxconv": jc.conv_general_dilated}
    return {name: (functools.partial(gradients, conv), (x, kernel)) for name, conv in calls.items()}


REPORTS = (
    Report(
        "jax#13800",
        "on CUDA the gradient of a depthwise kernel takes as long as that of a dense one",
        "kernel",
        ("conv 32x1024x512->512 k5 g512", "conv 32x1024x512->512 k5"),
    ),
    Report(
        "jax#26266",
        "on CUDA a depthwise convolution takes longer than a dense one as dilation grows (channels guessed)",
        "forward",
        tuple(f"conv 32x1024x512->512 k4{d}{g}" for d in ("", " d16", " d128") for g in (" g512", "")),
        guessed=True,
    ),
    Report(
        "jax#31662, xla#34273",
        "on CUDA the gradient of a 3-D transposed convolution's kernel takes 41 ms, torch 0.46",
        "kernel",
        ("conv_transpose 1x64x64x32x64->1 k3 s2 p1 o1",),
        dtype="bfloat16",
        platforms=("cuda",),  # on CPU: the next
    ),
    Report(
        "jax#31662, xla#34273",
        "on CPU the same in float32 is faster than torch",
        "kernel",
        ("conv_transpose 1x64x64x32x64->1 k3 s2 p1 o1",),
        platforms=("cpu",),
    ),
    Report(
        "jax#23783",
        "a transposed 1-D convolution takes 200 (CUDA) to 4,300 times (CPU) as long as the way forth (shapes guessed)",
        "forward",
        ("conv_transpose 1x61x513->1 k1024 s256 pvalid", "conv 1x16384x1->513 k1024 s256 pvalid"),
        guessed=True,
    ),
    Report(
        "jax#17464",
        "a transposed convolution of stride 16 compiles for minutes",
        "forward",
        ("conv_transpose 1x8x8x128->32 k32 s16",),
    ),
    Report(
        "jax#23085",
        "the gradient of the image through patches of 16 and more is slow, of 14 it is not",
        "input",
        tuple(f"conv 8x224x224x3->768 k{n} s{n} pvalid" for n in (14, 16, 32)),
    ),
    Report(
        "jax#25461",
        "a kernel of 30x30 over frames takes seconds (sizes guessed)",
        "forward",
        ("conv 50x286x286x1->1 k31 pvalid",),
        guessed=True,
    ),
    Report(
        "jax#12868",
        "on CPU a channels-first convolution in a loop takes 16 s, outside 3 ms",
        "forward",
        programs=channels_first_in_a_loop,
    ),
    Report(
        "jax#23713, equinox#970",
        "on CPU depthwise convolutions are 3 to 5 times slower than torch's",
        "forward",
        ("conv 1x124x124x256->256 k3 g256", "conv 1x124x124x512->512 k3 g512"),
    ),
    Report(
        "jax#1606",
        "compile time of the gradients of 300 examples",
        "forward",
        programs=gradients_of_examples,
    ),
    Report(
        "pytorch#157334",
        "on one GPU JAX's depthwise convolution is 3 times faster than torch's",
        "forward",
        ("conv 128x124x124x256->256 k3 g256",),
        platforms=("cuda",),
    ),
    Report(
        "jax#37922",
        "on CUDA this bfloat16 convolution does not compile",
        "forward",
        ("conv 2x16x4->16 k3 s2 d2",),
        "bfloat16",
    ),
)


def of_case(text: str, what: str, dtype: str) -> Programs:
    """Returns the case in lax and in jaxconv, forward or the gradient of one of its two arrays."""
    case = parse(text)
    arrays = case.arrays(dtype)
    ours, theirs = case.jaxconv()[0], case.lax()[0]
    if what == "forward":
        return {"lax": (theirs, arrays), "jaxconv": (ours, arrays)}
    position = ("input", "kernel").index(what)
    cotangent = noise(jax.eval_shape(theirs, *arrays).shape, 1, dtype)

    def gradient(function: Callable[..., Any], cotangent: Any, *arrays: Any) -> Any:
        def of_one(array: Any) -> Any:
            return function(*arrays[:position], array, *arrays[position + 1 :])

        return jax.vjp(of_one, arrays[position])[1](cotangent)[0]

    return {
        n: (functools.partial(gradient, f), (cotangent, *arrays)) for n, f in {"lax": theirs, "jaxconv": ours}.items()
    }


def torch_call(text: str, what: str, dtype: str) -> Callable[[], Any]:
    """Returns the case in torch."""
    case = parse(text)
    shape = jax.eval_shape(case.lax()[0], *case.shapes(dtype)).shape
    return layers.torch_calls(case, dtype, noise(shape, 1, dtype))[what]


def measure(programs: Programs, peer: Callable[[], Any] | None, seconds: float) -> dict[str, Any]:
    """Returns milliseconds and seconds of compiling of each, or the error that its compiler gave."""
    found: dict[str, Any] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, (function, arrays) in programs.items():
        try:
            calls[name], facts = layers.compiled(jax.jit(function), arrays)
            clock.wait(calls[name]())
            found[name] = facts
        except jax.errors.JaxRuntimeError as error:
            calls.pop(name, None)
            found[name] = {"error": str(error).splitlines()[0][:200]}
    if peer:
        calls["torch"] = peer
        found["torch"] = {}
    for name, times in layers.timed(calls, seconds, 30).items():
        found[name]["median_ms"] = float(np.median(times) * 1e3)
    return found


def entries(report: Report, only: re.Pattern[str], seconds: float, with_torch: bool) -> Iterator[dict[str, Any]]:
    """Yields what is found of each program of a report whose "issue: case" is wanted."""
    names = [report.programs.__name__.replace("_", " ")] if report.programs else report.cases
    for name in names:
        if not only.search(f"{report.issue}: {name}"):
            continue
        programs = report.programs() if report.programs else of_case(name, report.what, report.dtype)
        peer = torch_call(name, report.what, report.dtype) if with_torch and not report.programs else None
        told = {"issue": report.issue, "says": report.says, "guessed": report.guessed}
        yield {
            **told,
            "what": report.what,
            "dtype": report.dtype,
            "case": name,
            "found": measure(programs, peer, seconds),
        }


def table(found: dict[str, Any]) -> str:
    """Returns a Markdown table of what was found."""
    heads = ("report", "case", "lax, ms", "jaxconv, ms", "torch, ms", "compiling, s: lax, then jaxconv")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for entry in found["reports"]:
        cells = []
        for name in ("lax", "jaxconv", "torch"):
            row = entry["found"].get(name, {})
            cells.append(row.get("error", "") or (f"{row['median_ms']:.3g}" if row else "-"))
        taken = ", ".join(f"{entry['found'][name].get('compile_s', float('nan')):.2f}" for name in ("lax", "jaxconv"))
        what = "" if entry["what"] == "forward" else f", gradient of the {entry['what']}"
        what += ", shape guessed" if entry["guessed"] else ""
        lines.append(f"| {entry['issue']} | {entry['case']}{what}, {entry['dtype']} | {' | '.join(cells)} | {taken} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.reported")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), help='regular expression in "issue: case"')
    parser.add_argument("--seconds", type=float, default=2.0, help="for a program")
    parser.add_argument("--no-torch", action="store_true")
    name = "reported.json" if clock.platform() == "cpu" else f"reported_{clock.platform()}.json"
    parser.add_argument("--out", type=Path, default=RESULTS / name)
    args = parser.parse_args()
    head: dict[str, Any] = {**environment(), "seconds": args.seconds}
    if not args.no_torch:
        import torch

        head["versions"]["torch"] = torch.__version__
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    if args.only.pattern and args.out.exists():
        before = json.loads(args.out.read_text())
        if any(before[key] != head[key] for key in ("versions", "device")):
            raise SystemExit(f"{args.out} is of another machine or version: give another --out")
        found = {(entry["issue"], entry["case"], entry["dtype"]): entry for entry in before["reports"]}
    for report in REPORTS:
        if clock.platform() not in report.platforms:
            continue
        for entry in entries(report, args.only, args.seconds, not args.no_torch):
            found[entry["issue"], entry["case"], entry["dtype"]] = entry
            print(
                entry["issue"], entry["case"], {k: v.get("median_ms", v) for k, v in entry["found"].items()}, flush=True
            )
            write_results(args.out, {**head, "reports": list(found.values())})
    print(table({"reports": list(found.values())}))


if __name__ == "__main__":
    main()
