"""Stress test: oneDNN computes random convolutions in a child process whose memory is checked.

A bug in oneDNN may end the process, hang, write past an array or return wrong values. So
`jaxconv.ops.lowering.onednn.fits` accepts only types of problems of which this test has drawn thousands:

    python -m experiments.stress --minutes 30                 # with this machine's instructions
    python -m experiments.stress --minutes 30 --isa AVX2      # like a machine without AVX-512
    python -m experiments.stress --minutes 30 --what ops      # calls of public ops: NaN, meshes, strict flags

benchmarks/results/stress.json and stress_avx2.json are the results of two such runs of 15 minutes; stress_ops.json
is that of the ops, which `experiments.stress_ops` draws and checks.
"""

import argparse
import collections
import functools
import json
import math
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import stress_ops
from experiments.report import environment, write_results
from jaxconv.ops.lowering.cpu import CPU
from jaxconv.ops.lowering.forms import XLA
from jaxconv.ops.lowering.problem import Geometry, Problem, others
from jaxconv.ops.lowering.table import Solver
from jaxconv.ops.lowering.target import Target

# glibc's checks of the memory around each array.
CHECKED = {"JAX_PLATFORMS": "cpu", "LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
KINDS = (
    "mixed",
    "depthwise",
    "grouped",
    "flat",
    "wide",
    "few",
    "large",
    "deep",
    "far",
    "point",
    "channelwise",
    "split",
)
REPEATS = 3
TARGET = Target(CPU, onednn=True)


def draw(seed: int) -> tuple[str, Problem] | None:
    """Draws the type of a problem and the problem; None if its output is empty or oneDNN does not get it."""
    r = random.Random(seed)
    kind = r.choice(KINDS)
    rank = {"flat": 1, "deep": 3, "large": 2}.get(kind) or r.choice([1, 2, 2, 2, 3])
    longest = {1: 600, 2: 40, 3: 12}[rank] * (4 if kind == "large" else 1)
    size = tuple(r.choice([1, 2, 3, 4, 5, 7, 8, 11, r.randint(1, longest), longest]) for _ in range(rank))
    if kind == "far":  # windows that reach past the feature map
        size = tuple(min(n, r.randint(2, 9)) for n in size)
    widest = {"flat": 130, "wide": 20, "point": 1}.get(kind, (11, 7, 4)[rank - 1])
    window = tuple(min(widest, r.choice([1, 2, 3, 3, r.randint(1, widest)])) for _ in range(rank))
    dilated, strided = {"far": (0.9, 0.2), "channelwise": (0.0, 0.1), "split": (0.0, 1.0)}.get(kind, (0.4, 0.5))
    dilation = tuple(r.choice([1, 1, 2, 3, 6, 12]) for _ in range(rank)) if r.random() < dilated else (1,) * rank
    stride = tuple(r.choice([1, 1, 2, 2, 3, 4, 7]) for _ in range(rank)) if r.random() < strided else (1,) * rank
    reach = [(f - 1) * d for f, d in zip(window, dilation, strict=True)]
    padding = {
        "none": tuple((0, 0) for _ in reach),
        "same": tuple((a // 2, a - a // 2) for a in reach),
        "full": tuple((a, a) for a in reach),
        "left": tuple((a, 0) for a in reach),
        "any": tuple((r.randint(0, a), r.randint(0, a)) for a in reach),
    }[r.choice(["none", "same", "same", "full", "left", "any"])]
    counts = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64, 96]
    if kind in ("depthwise", "channelwise", "split"):
        groups, inner, outer = r.choice([2, *counts[1:], 144]), 1, 1 if kind == "split" else r.choice([1, 1, 1, 2, 3])
    elif kind == "grouped":
        groups, inner, outer = r.choice([2, 3, 4, 8, 16, 32]), r.choice(counts[:9]), r.choice(counts[:9])
    elif kind in ("few", "far", "point"):
        groups, inner, outer = 1, r.choice([1, 2, 3, 4] if kind == "few" else counts), r.choice(counts)
    else:
        groups, inner, outer = r.choice([1, 1, 1, 1, 2, 4]), r.choice(counts), r.choice(counts)
    batch = 1 if kind == "large" else r.choice([1, 1, 2, 3, 5, 8, 16, 33])
    role = "kernel" if kind == "split" else r.choice(["output", "input", "kernel"])
    geometry = Geometry(size, window, stride if role != "input" else (1,) * rank, padding, dilation, groups)
    if min(geometry.out) < 1:
        return None
    p = Problem(role, geometry, batch, groups * inner, groups * outer, jnp.dtype(jnp.float32))
    small = p.macs < 3e8 and max(math.prod(p.shape(name)) for name in ("input", "output")) < 4e6
    let = small and not any(choice.form is XLA for _, choice in Solver(TARGET, forms(kind, p)).steps(p))
    return (kind, p) if let else None


def forms(kind: str, p: Problem) -> tuple[str, ...]:
    """The forms with which the table calls oneDNN."""
    if kind == "split":
        return "depthwise_space_to_depth", "onednn"
    # A convolution of one tap is a product, with a stride only in the kernel's role.
    return ("gemm", "onednn") if p.role == "kernel" or max(p.geometry.stride) == 1 else ("onednn",)


def check(kind: str, p: Problem, seed: int) -> str:
    """Computes the problem several times and compares with lax; returns a description of the fault, or ""."""
    rng = np.random.default_rng(seed)
    arrays = [jnp.asarray(rng.standard_normal(p.shape(name)), jnp.float32) for name in others(p.role)]

    def computed(mode: Any) -> Any:
        return jax.jit(functools.partial(Solver(TARGET, mode), p))

    want = np.asarray(computed("xla")(*arrays))
    run = computed(forms(kind, p))
    found = [np.asarray(run(*arrays)) for _ in range(REPEATS)]
    if any((one != found[0]).any() for one in found[1:]):
        return "not the same bits twice"
    magnitude = np.asarray(computed("xla")(*(abs(a) for a in arrays)))
    worst = float(np.max(abs(found[0] - want) / (magnitude + 1e-30)))
    return "" if worst < 1e-4 else f"off by {worst:.3g} of the sum of magnitudes"


# What is drawn: a function that draws a problem of a seed, and one that checks it.
SUBJECTS: dict[str, tuple[Callable[[int], Any], Callable[..., str]]] = {
    "onednn": (draw, check),
    "ops": (stress_ops.draw, stress_ops.check),
}


def child(what: str, start: int, seconds: float) -> None:
    """Computes problems from seed ``start`` on, and prints each before computing it, since it may crash."""
    end = time.monotonic() + seconds
    seed = start
    while time.monotonic() < end:
        seed += 1
        drawn = SUBJECTS[what][0](seed)
        if drawn is None:
            continue
        kind, p = drawn
        print(json.dumps({"seed": seed, "kind": kind, "problem": repr(p)}), flush=True)
        wrong = SUBJECTS[what][1](kind, p, seed)
        print(json.dumps({"seed": seed, "wrong": wrong}), flush=True)


def watched(
    start: int, seconds: float, isa: str | None, patience: float, what: str = "onednn"
) -> tuple[int, collections.Counter[str], list[dict[str, Any]]]:
    """Runs a child until it ends or prints nothing for ``patience`` seconds: the last seed, counts, faults."""
    devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={stress_ops.DEVICES}"} if what == "ops" else {}
    env = os.environ | CHECKED | devices | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
    minutes = str(seconds / 60)
    command = [sys.executable, "-m", "experiments.stress", "--what", what, "--child", str(start), "--minutes", minutes]
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[dict[str, Any]] = []
    last: dict[str, Any] = {"seed": start}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, bufsize=0) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        ended = "hung"
        while selector.select(patience):
            line = process.stdout.readline()
            if not line:
                ended = f"ended with {process.returncode}" if process.wait() else ""
                break
            said = json.loads(line)
            if "problem" in said:
                last = said
                continue
            counts[last["kind"]] += 1
            if said["wrong"]:
                wrong.append(last | said)
            last = {"seed": said["seed"]}
        process.kill()
        if ended:
            errors.seek(0)
            wrong.append(last | {"wrong": ended, "stderr": errors.read()[-500:]})
    return last["seed"], counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--what", choices=SUBJECTS, default="onednn")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; each problem has the next")
    parser.add_argument("--isa", help="the widest instructions that oneDNN may use: SSE41, AVX2, AVX512_CORE, ...")
    parser.add_argument("--patience", type=float, default=60, help="seconds for one problem")
    parser.add_argument("--out", type=Path, help="a file for the counts and failures, JSON")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.what, args.child, args.minutes * 60)
        return
    end, seed = time.monotonic() + args.minutes * 60, args.seed
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[dict[str, Any]] = []
    while (left := end - time.monotonic()) > 5:
        # A child runs for five minutes only, since many compiled programs in one process may cause other faults.
        seed, some, failed = watched(seed, min(left, 300), args.isa, args.patience, args.what)
        counts += some
        wrong += failed
        for one in failed:
            print(one, flush=True)
        report = environment() | {"isa": args.isa, "first seed": args.seed, "drawn": dict(counts), "wrong": wrong}
        if args.out:
            write_results(args.out, report)
    print(f"{sum(counts.values())} problems, {len(wrong)} of them wrong: {dict(counts)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
