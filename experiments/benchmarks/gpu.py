"""All measurements on a GPU, in one run that stops within eight minutes.

    make gpu                                                    # writes results/gpu.json and commits it
    python -m experiments.benchmarks.gpu --only resnet50        # one part again, the others are kept
    python -m experiments.benchmarks.gpu --small --out /tmp/x   # all parts in a small form, on a CPU too

Each part is a process with a time limit; what it has found by then is kept, and the next part begins. The parts:

- tests: of ops, their gradients and of training, on the card.
- resnet50, mobilenetv2, convnext_tiny: images/s of a training step in bfloat16 (parameters in float32, SGD with
  momentum, 224x224) in jaxconv, in Flax, and in torch by `torch.compile` and autocast with channels last, from the same
  weights. The losses before and after the first step are kept, too.
- speedrun: `experiments.speedrun`, three runs after one compilation; on random images of the same shapes if the data
  set is not there, which says how long the runs take and nothing else.
- layers, layers_bfloat16: the layers that results/layers_cuda.json and layers_cuda_bfloat16.json lack.
- reported: the reports that results/reported_cuda.json lists as measured before their algorithm changed.

Without a GPU, `experiments.benchmarks.gpu_compiled` compiles the programs of the training parts for one.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]
Found = dict[str, Any]
NETWORKS = ("resnet50", "mobilenetv2", "convnext_tiny")
BATCH, SIZE, CLASSES = 256, 224, 1000
# The seconds that a part may take. Together less than eight minutes, with the start of each.
LIMITS = {
    "tests": 70,
    **dict.fromkeys(NETWORKS, 80),
    "speedrun": 45,
    "layers": 55,
    "layers_bfloat16": 35,
    "reported": 20,
}
TESTS = ("ops/test_conv.py", "ops/test_pools.py", "ops/test_norm.py", "ops/test_transforms.py", "train/test_step.py")
SMALL_TESTS = ("ops/lowering/test_table.py",)


# --- Training of networks ---------------------------------------------------------------------------------------------


def plan_of(name: str, small: bool) -> Any:
    """Returns the plan of a network; a small one has one block a stage, and two stages."""
    from experiments.benchmarks import networks

    some: Any = {"classes": 10 if small else CLASSES}
    if name == "mobilenetv2":
        return networks.mobilenetv2(**some, **({"stages": 2} if small else {}))
    some |= {"blocks": (1, 1)} if small else {}
    return networks.resnet50(large=True, **some) if name == "resnet50" else networks.convnext_tiny(**some)


def jax_network(by: str, plan: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns ``init(key)`` and ``forward(params, state, x)`` in bfloat16; "jaxconv" and "flax" have equal weights."""
    import jax.numpy as jnp

    import jaxconv as jc
    from experiments.benchmarks.networks.with_jaxconv import jaxconv_network

    plain = jaxconv_network(plan)
    shape = (1, 64, 64, 3)
    if by == "jaxconv":
        net = jc.mixed_precision(plain)
        return lambda key: net.init(key, shape), lambda p, s, x: net.apply(p, s, x, train=True)
    from experiments.benchmarks.networks.with_flax import Linen, flax_tree

    model = Linen(plan, dtype=jnp.bfloat16)

    def forward(params: Any, state: Any, x: Any) -> Any:
        logits, new = model.apply({"params": params, "batch_stats": state}, x, mutable=["batch_stats"])
        return logits.astype(jnp.float32), new.get("batch_stats", {})

    return lambda key: tuple(flax_tree(plan, tree) for tree in plain.init(key, shape)), forward


def jax_step(by: str, plan: Any, case: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns ``step(carry, x, y) -> (loss, carry)`` and ``carry(key)``."""
    from experiments.benchmarks.training_candidates import functional

    init, forward = jax_network(by, plan)
    step = functional(case, forward, {}, {})[0]
    return step, lambda key: functional(case, forward, *init(key))[1]


def jax_call(by: str, plan: Any, case: Any, x: Any, y: Any) -> Callable[[], Any]:
    """Returns a function that takes a step and returns the loss, compiled."""
    import jax

    step, begin = jax_step(by, plan, case)
    carry, images, labels = begin(jax.random.key(0)), jax.device_put(x), jax.device_put(y)
    compiled = jax.jit(step, donate_argnums=0).lower(carry, images, labels).compile()

    def call() -> Any:
        nonlocal carry
        loss, carry = compiled(carry, images, labels)
        return loss

    return call


def torch_call(plan: Any, x: Any, y: Any, *, compiled: bool) -> Callable[[], Any]:
    """Returns a function that takes a step in torch and returns the loss."""
    import jax
    import torch

    from experiments.benchmarks.networks.with_jaxconv import jaxconv_network
    from experiments.benchmarks.networks.with_torch import torch_network
    from experiments.benchmarks.training_candidates import MOMENTUM, RATE

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    params, _ = jaxconv_network(plan).init(jax.random.key(0), (1, 64, 64, 3))
    model = torch_network(plan, params).to(device)
    images = torch.tensor(x).movedim(-1, 1).to(device)
    labels = torch.tensor(y).to(device)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, fused=device == "cuda")
    forward = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model

    def call() -> Any:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            logits = forward(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


def speed(call: Callable[[], Any], images: int, seconds: float) -> Found:
    """Returns images/s of three rounds, the losses of the first two steps, and the seconds until the second."""
    from experiments.benchmarks import clock

    begin = time.perf_counter()
    losses = [float(call()) for _ in range(2)]
    started = time.perf_counter() - begin
    times = max(1, int(seconds / clock.seconds(call, 2)))
    rounds = [images / clock.seconds(call, times) for _ in range(3)]
    return {
        "images_per_second": statistics.median(rounds),
        "rounds": rounds,
        "steps": times,
        "losses": losses,
        "first_two_steps_seconds": started,
    }


def network(name: str, small: bool) -> Iterator[Found]:
    """Yields what is found of a network's training, more each time."""
    import importlib.util

    from experiments.benchmarks.training_candidates import Case

    batch, size = (4, 32) if small else (BATCH, SIZE)
    plan, case = plan_of(name, small), Case(name, batch, (size, size, 3))
    draw = np.random.default_rng(0)
    x = draw.standard_normal((batch, size, size, 3), np.float32)
    y = draw.integers(10 if small else CLASSES, size=batch).astype(np.int64)
    found: Found = {"batch": batch, "shape": [size, size, 3], "dtype": "bfloat16"}
    # torch.compile's C++ for a CPU takes longer than a small run may.
    others = {"torch": False} if small else {"torch.compile": True}
    for by in ("jaxconv", "flax", *others):
        start = time.perf_counter()
        if by in others and importlib.util.find_spec("torch") is None:
            found[by] = {"left out": "torch is not installed"}
        else:
            jaxs = by not in others
            call = jax_call(by, plan, case, x, y) if jaxs else torch_call(plan, x, y, compiled=others[by])
            ready = time.perf_counter() - start
            found[by] = speed(call, batch, 0.05 if small else 3.0) | {"ready_seconds": ready}
        yield found


# --- Other parts ------------------------------------------------------------------------------------------------------


def speedrun(small: bool) -> Iterator[Found]:
    """Yields the accuracy and the seconds of each run."""
    import jaxconv as jc
    from experiments import speedrun as script

    found: Found = {}
    for name, shape in (("fashion_mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        recipe = script.RECIPES[name]
        runs, counts = (1, (96, 48)) if small else (3, (50_000, 10_000))
        try:
            if small:
                raise FileNotFoundError("a small run draws its images")
            data, which = recipe.load(folder=None), "the data set"
        except (OSError, ValueError, ImportError) as error:
            draw, which = np.random.default_rng(0), f"random images, for: {error}".splitlines()[0]
            images = [draw.integers(0, 256, (n, *shape), np.uint8) for n in counts]
            labels = [np.arange(n, dtype=np.int32) % 10 for n in counts]
            data = jc.data.Dataset(
                name, images[0], labels[0], images[1], labels[1], tuple(f"class {i}" for i in range(10))
            )
        if small:
            recipe = recipe._replace(epochs=1, widths=(4, 6), batch=16)
        program, rows = None, []
        for seed in range(runs):
            row = script.run(data, recipe, seed, program)
            program = row.pop("program")
            rows.append(row)
            found[name] = {"images": which, "target": recipe.target, "epochs": recipe.epochs, "runs": rows}
            yield found


def tests(small: bool) -> Iterator[Found]:
    """Yields the summary of pytest, and the tests that failed."""
    chosen = [str(Path("tests", name)) for name in (SMALL_TESTS if small else TESTS)]
    # Float32 products by TF32 would be compared with float64.
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    processes = "0" if small else str(min(8, os.cpu_count() or 1))
    command = [sys.executable, "-m", "pytest", "-q", "-n", processes, "-m", "not slow and not torch", *chosen]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [line.removeprefix("FAILED ")[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield {"files": chosen, "status": done.returncode, "summary": lines[-1] if lines else "", "failed": failed}


def missing(dtype: str) -> list[str]:
    """Returns the names of the layers that the committed measurements lack, at 32 times the batch."""
    from experiments.benchmarks.cases import CASES

    known = FOLDER / ("layers_cuda.json" if dtype == "float32" else f"layers_cuda_{dtype}.json")
    have = {case["case"] for case in json.loads(known.read_text())["cases"]} if known.exists() else set()
    return [case.name for case in (case.scaled(32) for case in CASES) if case.name not in have]


def layers(dtype: str, small: bool) -> Iterator[Found]:
    """Yields how many of the missing layers were measured; they are in a file of their own."""
    names = ["conv 8x14x14x576->576 k3 s2 p1 g576"] if small else missing(dtype)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "layers.json"
        command = [
            sys.executable,
            "-m",
            "experiments.benchmarks.layers",
            "--no-torch",
            f"--dtype={dtype}",
            f"--out={out}",
        ]
        command += [f"--only=({'|'.join(map(re.escape, names))})$"]
        command += ["--scale=1", "--rounds=2", "--seconds=0.02"] if small else ["--scale=32", "--seconds=0.15"]
        command += [] if small else ["--threads=12", f"--until={LIMITS[part_of(dtype)] - 20}"]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if out.exists():
                    yield {"missing": len(names), **json.loads(out.read_text())}
    if process.returncode:
        raise RuntimeError(f"experiments.benchmarks.layers ended with status {process.returncode}")


def part_of(dtype: str) -> str:
    return "layers" if dtype == "float32" else f"layers_{dtype}"


def reported(small: bool) -> Iterator[Found]:
    """Yields the reports under "tried", or a small one."""
    known = json.loads((FOLDER / "reported_cuda.json").read_text()).get("tried", [])
    only = "jax#1606" if small else "|".join(sorted({re.escape(entry["issue"]) for entry in known})) or "^$"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reported.json"
        options = [f"--only={only}", "--no-torch", f"--seconds={0.01 if small else 0.3}", f"--out={out}"]
        command = [sys.executable, "-m", "experiments.benchmarks.reported", *options]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        yield json.loads(out.read_text()) if out.exists() else {"left out": "none is to be measured again"}


def part(name: str, small: bool) -> Iterator[Found]:
    """Returns what a part finds, more each time."""
    if name in NETWORKS:
        return network(name, small)
    if name.startswith("layers"):
        return layers(name.partition("_")[2] or "float32", small)
    return {"speedrun": speedrun, "tests": tests, "reported": reported}[name](small)


# --- The run ----------------------------------------------------------------------------------------------------------


def child(name: str, out: Path, small: bool) -> None:
    """Runs a part in this process; writes what it finds whenever there is more."""
    from experiments.report import environment, write_results

    found: Found = {}
    for found in part(name, small):
        write_results(out, {"found": found})
    # Not before: a process that has begun to use the card keeps its memory from the processes of the part.
    write_results(out, {"found": found, "environment": environment()})


def measure(name: str, limit: float, small: bool) -> Found:
    """Runs a part in a process with a time limit; returns what it found by then, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(folder) / "found.json", time.monotonic()
        command = [sys.executable, "-m", "experiments.benchmarks.gpu", f"--child={name}", f"--out={out}"]
        process = subprocess.Popen([*command, *(["--small"] if small else [])], cwd=ROOT, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Its own processes, too: those of pytest and of torch.compile.
            with_group(process, signal.SIGKILL)
            process.wait()
        found = json.loads(out.read_text()) if out.exists() else {}
    ended = "in time" if code == 0 else f"stopped after {limit:.0f} s" if code is None else f"failed with status {code}"
    return {"ended": ended, "seconds": time.monotonic() - start, **found}


def with_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends a signal to a process that leads a session, and to all processes in it."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def run(names: Sequence[str], out: Path, *, small: bool, minutes: float) -> Found:
    """Runs parts one after the other, and writes after each."""
    from experiments.report import write_results

    end = time.monotonic() + 60 * minutes
    result: Found = json.loads(out.read_text()) if out.exists() else {"parts": {}}
    for name in names:
        left = end - time.monotonic()
        if left < 5:
            found: Found = {"ended": "not begun, there was no time left"}
        else:
            # A small run is for CPUs, of which two may compile.
            found = measure(name, min(left, LIMITS[name] * (3 if small else 1)), small)
        print(f"{name}: {found['ended']}, {found.get('seconds', 0):.0f} s", flush=True)
        result["parts"][name] = found
        devices = [one["environment"]["device"] for one in result["parts"].values() if "environment" in one]
        result["card"] = devices[-1].split(",")[0] if devices else ""
        write_results(out, result)
    return result


def table(found: Found) -> str:
    """Returns a Markdown table of the training steps."""
    rows = {name: found["parts"].get(name, {}).get("found", {}) for name in NETWORKS}
    bys = list(
        dict.fromkeys(by for row in rows.values() for by, one in row.items() if "images_per_second" in _dict(one))
    )
    lines = [f"| network | batch | {' | '.join(f'{by}, images/s' for by in bys)} |", "|---" * (len(bys) + 2) + "|"]
    for name, row in rows.items():
        speeds = [_dict(row.get(by)).get("images_per_second") for by in bys]
        cells = ["" if one is None else f"{one:,.0f}" for one in speeds]
        lines.append(f"| {name} | {row.get('batch', '')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"bfloat16, {found.get('card', '')}."])


def _dict(value: Any) -> Found:
    return value if isinstance(value, dict) else {}


def commit(out: Path, card: str) -> None:
    """Commits a file of results, and nothing else."""
    subprocess.run(["git", "add", "--", str(out)], cwd=ROOT, check=True)
    subprocess.run(["git", "commit", "-m", f"Measurements on {card}", "--", str(out)], cwd=ROOT, check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for; 1 if a part failed."""
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", nargs="*", choices=LIMITS, default=list(LIMITS), help="these parts")
    parser.add_argument("--skip", nargs="*", choices=LIMITS, default=[], help="not these parts")
    parser.add_argument("--minutes", type=float, default=7.8, help="for all parts together")
    parser.add_argument("--small", action="store_true", help="small networks and few images, for a test on a CPU")
    parser.add_argument("--table", action="store_true", help="print what the file says, measure nothing")
    parser.add_argument("--commit", action="store_true", help="commit the file of results")
    parser.add_argument("--out", type=Path, help="the file of results")
    parser.add_argument("--child", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    out = options.out or FOLDER / "gpu.json"
    names = [name for name in options.only if name not in options.skip]
    if options.table:
        print(table(json.loads(out.read_text())))
    elif options.child:
        child(options.child, out, options.small)
    else:
        found = run(names, out, small=options.small, minutes=options.minutes)
        print(table(found))
        if options.commit:
            commit(out, found["card"])
        return int(any(found["parts"][name]["ended"].startswith("failed") for name in names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
