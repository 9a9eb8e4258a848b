"""Inference on CPU beside onnxruntime, OpenVINO and torch: time of a call, memory, and time to the first prediction.

    python -m experiments.benchmarks.inference resnet50 8            # one row; updates results/inference.json
    python -m experiments.benchmarks.inference --alone resnet50 1    # first prediction and memory, a process each
    python -m experiments.benchmarks.inference --table               # prints the tables of the file, measures nothing

Float32, 224x224, evaluation, random weights, two threads. All engines have the same weights: torchvision's network
has those that `jaxconv.weights.to_torch` writes, onnxruntime and OpenVINO read the model that
`jaxconv.interop.onnx.to_onnx` writes. One process calls the engines in turn; figures are medians. Before each engine
is a pause, in which threads of others stop waiting for work. Then follow calls for a tenth of a second that do not
count, and calls for a tenth of a second whose mean counts: after a pause, Linux may run the threads of an engine on one
core for the first calls. `first_ms` is the time of the first call after the pause, `cpu_ms` the processor time of all
threads. Needs torch, torchvision, onnx, onnxruntime and openvino.

``--avx2`` limits the engines to the instructions of AVX2, for the rows that a processor without AVX-512 would give.
onnxruntime and XLA's own matrix products have no such setting: the rows are without onnxruntime and `jaxconv.jit`.
"""

import argparse
import ast
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "inference.json"
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny")
BATCHES = (1, 8)
THREADS = 2
PAUSE = 0.25  # seconds; OpenMP's threads wait for 0.2
SAMPLE = 0.1  # seconds of calls
Call = Callable[[], Any]
# What limits jaxconv, OpenVINO and torch to AVX2; read when they are imported.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def weights(net: jc.Layer, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns params and state with which activations neither grow nor vanish."""
    rng = np.random.default_rng(0)

    def draw(path: Any, struct: Any) -> np.ndarray:
        name = path[-1].key
        if name == "var":
            return rng.uniform(0.5, 1.5, struct.shape).astype(np.float32)
        if name == "scale":
            return rng.uniform(0.5, 1.0, struct.shape).astype(np.float32)
        spread = np.sqrt(1 / np.prod(struct.shape[:-1])) if len(struct.shape) > 1 else 0.1
        return (rng.standard_normal(struct.shape) * spread).astype(np.float32)

    trees = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))
    params, state = jax.tree_util.tree_map_with_path(draw, trees)
    return params, state


def _jaxconv(net: jc.Layer, params: Any, state: Any, x: np.ndarray) -> Call:
    predict = jc.predictor(net, params, state, batch_sizes=(len(x),))
    given = jax.device_put(x)
    return lambda: jax.block_until_ready(predict(given))


def _unfolded(net: jc.Layer, params: Any, state: Any, x: np.ndarray) -> Call:
    run = jc.jit(lambda params, state, x: net.apply(params, state, x)[0])
    params, state, given = jax.device_put((params, state, x))
    return lambda: jax.block_until_ready(run(params, state, given))


def _folded(net: jc.Layer, params: Any, state: Any, x: np.ndarray) -> Call:
    return _unfolded(*jc.fold(net, params, state), x)


def _torch_module(net: jc.Layer, params: Any, state: Any, name: str) -> Any:
    import torch
    import torchvision

    torch.set_num_threads(THREADS)
    module = getattr(torchvision.models, name)(weights=None).eval()
    tensors = {key: torch.from_numpy(np.array(a)) for key, a in jc.weights.to_torch(net, params, state).items()}
    module.load_state_dict(tensors, strict=False)
    return module.to(memory_format=torch.channels_last)


def _torch(net: jc.Layer, params: Any, state: Any, x: np.ndarray, name: str, *, compiled: bool = False) -> Call:
    import torch

    module = _torch_module(net, params, state, name)
    module = torch.compile(module) if compiled else module
    given = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).contiguous(memory_format=torch.channels_last)

    def call() -> Any:
        with torch.inference_mode():
            return module(given)

    return call


def _model(net: jc.Layer, params: Any, state: Any, x: np.ndarray) -> bytes:
    return bytes(jc.interop.onnx.to_onnx(net, params, state, x.shape).SerializeToString())


def _onnxruntime(net: jc.Layer, params: Any, state: Any, x: np.ndarray) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(_model(net, params, state, x), options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: np.ascontiguousarray(np.moveaxis(x, -1, 1))}
    return lambda: session.run(None, given)[0]


def _openvino(net: jc.Layer, params: Any, state: Any, x: np.ndarray) -> Call:
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.read_model(_model(net, params, state, x))
    given = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    model.reshape(given.shape)
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    return lambda: request.infer([given], share_inputs=True, share_outputs=True)[0]


def engines(name: str, batch: int) -> dict[str, Callable[[], Call]]:
    """Returns by name of an engine what prepares its call."""
    net = getattr(jc.models, name)()
    x = np.random.default_rng(1).standard_normal((batch, 224, 224, 3)).astype(np.float32)
    params, state = weights(net, x.shape)
    given = net, params, state, x
    return {
        "jaxconv": lambda: _jaxconv(*given),
        "jaxconv.jit": lambda: _unfolded(*given),
        "jaxconv.fold": lambda: _folded(*given),
        "onnxruntime": lambda: _onnxruntime(*given),
        "openvino": lambda: _openvino(*given),
        "torch": lambda: _torch(*given, name),
        "torch.compile": lambda: _torch(*given, name, compiled=True),
    }


def _mean(call: Call, seconds: float) -> tuple[float, float]:
    """Returns the mean time and the mean processor time of calls for some seconds, at least one."""
    start, used, count = time.perf_counter(), time.process_time(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        call()
        count += 1
    return (time.perf_counter() - start) / count, (time.process_time() - used) / count


def measure(name: str, batch: int, seconds: float, without: list[str]) -> dict[str, Any]:
    """Returns each engine's median time and the largest difference of its output from jaxconv's."""
    calls = {who: prepare() for who, prepare in engines(name, batch).items() if who not in without}
    want = np.asarray(calls["jaxconv"]())
    different = {
        who: float(np.abs(np.asarray(call()) - want).max() / np.abs(want).max()) for who, call in calls.items()
    }
    samples: dict[str, list[tuple[float, float, float]]] = {who: [] for who in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, samples.values())) < 5:
        for who, call in calls.items():
            time.sleep(PAUSE)
            first, _ = _mean(call, 0)
            _mean(call, SAMPLE)
            samples[who].append((*_mean(call, SAMPLE), first))
    figures = {who: 1e3 * np.array(taken) for who, taken in samples.items()}
    return {
        "network": name,
        "batch": batch,
        "rounds": len(samples["jaxconv"]),
        "ms": {who: float(np.median(taken[:, 0])) for who, taken in figures.items()},
        "least_ms": {who: float(taken[:, 0].min()) for who, taken in figures.items()},
        "cpu_ms": {who: float(np.median(taken[:, 1])) for who, taken in figures.items()},
        "first_ms": {who: float(np.median(taken[:, 2])) for who, taken in figures.items()},
        "difference": {who: float(f"{value:.1g}") for who, value in different.items()},
    }


# What a user runs to predict for the first time, in a new process, by engine; it has ``folder``, ``name`` and ``x``.
FIRST = {
    "jaxconv": """
import jaxconv as jc
net = getattr(jc.models, name)()
with open(f"{folder}/weights.pickle", "rb") as file:
    predict = jc.predictor(net, *pickle.load(file), batch_sizes=(len(x),))
call = lambda: np.asarray(predict(x))
""",
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
given = {session.get_inputs()[0].name: np.ascontiguousarray(np.moveaxis(x, -1, 1))}
call = lambda: session.run(None, given)[0]
""",
    "openvino": """
import openvino
model = openvino.Core().read_model(f"{folder}/model.onnx")
model.reshape([len(x), 3, 224, 224])
hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
call = lambda: request.infer([np.ascontiguousarray(np.moveaxis(x, -1, 1))])[0]
""",
    "torch": """
import torch, torchvision
torch.set_num_threads(threads)
module = getattr(torchvision.models, name)(weights=None).eval().to(memory_format=torch.channels_last)
module.load_state_dict(torch.load(f"{folder}/weights.pt"), strict=False)
def call():
    with torch.inference_mode():
        given = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).contiguous(memory_format=torch.channels_last)
        return module(given).numpy()
""",
}
_BEFORE = """
import pickle, sys, time
import numpy as np
folder, name, batch, threads, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
x = np.random.default_rng(1).standard_normal((batch, 224, 224, 3)).astype(np.float32)
"""
_AFTER = """
call()
first, used = time.time() - start, time.process_time()
for _ in range(3):
    call()
with open("/proc/self/status") as status:
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
print({"first_s": first, "first_cpu_s": used, "peak_mb": peak})
"""


def alone(name: str, batch: int) -> dict[str, Any]:
    """Returns for each engine, in a new process, the time to the first prediction and the peak of memory."""
    import torch

    net = getattr(jc.models, name)()
    x = np.zeros((batch, 224, 224, 3), np.float32)
    params, state = weights(net, x.shape)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "weights.pickle").write_bytes(pickle.dumps((params, state)))
        Path(folder, "model.onnx").write_bytes(_model(net, params, state, x))
        tensors = {key: torch.from_numpy(np.array(a)) for key, a in jc.weights.to_torch(net, params, state).items()}
        torch.save(tensors, Path(folder, "weights.pt"))
        for who, code in FIRST.items():
            # Twice: the first run reads the libraries from the disk.
            for _ in range(2):
                facts = [folder, name, str(batch), str(THREADS), str(time.time())]
                command = [sys.executable, "-c", _BEFORE + code + _AFTER, *facts]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[who] = ast.literal_eval(done.stdout.splitlines()[-1])
    return {"network": name, "batch": batch, "engines": found}


# The rows of the file, and which of their figures are compared.
FIGURES = {"rows": "ms", "one_thread": "cpu_ms", "avx2": "ms"}


def mean(rows: list[dict[str, Any]], who: str, key: str) -> float:
    """Returns the geometric mean over rows of a peer's time over jaxconv's; above 1 jaxconv is faster."""
    return float(np.exp(np.mean([np.log(row[key][who] / row[key]["jaxconv"]) for row in rows if who in row[key]])))


COLUMNS = {
    "jaxconv": "predictor",
    "jaxconv.jit": "`jaxconv.jit`",
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "torch": "torch",
    "torch.compile": "torch.compile",
}


def calls(rows: list[dict[str, Any]], figure: str) -> list[str]:
    """Returns the lines of a Markdown table of the calls in ms."""
    shown = {who: name for who, name in COLUMNS.items() if all(who in row[figure] for row in rows)}
    lines = [f"| network | batch | {' | '.join(shown.values())} |", "|---" * (len(shown) + 2) + "|"]
    for row in rows:
        cells = [f"{row[figure][who]:.3g}" for who in shown]
        lines.append(f"| {row['network']} | {row['batch']} | {' | '.join(cells)} |")
    means = [f"{mean(rows, who, figure):.2f}" for who in shown]
    return [*lines, f"| geometric mean, time / time of the predictor | | {' | '.join(means)} |", ""]


def table(found: dict[str, Any]) -> str:
    """Returns Markdown tables of the calls, and one of new processes."""
    lines = [line for key, figure in FIGURES.items() if key in found for line in calls(found[key], figure)]
    lines += ["| network | batch | | seconds | seconds of processor time | peak of memory, MB |", "|---" * 6 + "|"]
    for row in found["alone"]:
        for who, one in row["engines"].items():
            figures = f"{one['first_s']:.1f} | {one['first_cpu_s']:.1f} | {one['peak_mb']:.0f}"
            lines.append(f"| {row['network']} | {row['batch']} | {COLUMNS[who]} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.inference")
    parser.add_argument("network", nargs="?", choices=NETWORKS, default="resnet50")
    parser.add_argument("batch", nargs="?", type=int, choices=BATCHES, default=1)
    parser.add_argument("--seconds", type=float, default=20, help="for all calls of a row")
    parser.add_argument("--without", nargs="*", default=[], help="engines to leave out")
    parser.add_argument("--alone", action="store_true", help="each engine in a process of its own")
    parser.add_argument("--loaded", action="store_true", help="note that the machine was not idle")
    parser.add_argument("--table", action="store_true", help="print the tables of the file, measure nothing")
    parser.add_argument("--avx2", action="store_true", help="with the instructions of AVX2 alone")
    parser.add_argument("--one-thread", action="store_true", help="processor time, which other programs change little")
    arguments = parser.parse_args()
    if arguments.avx2 and os.environ.get("ONEDNN_MAX_CPU_ISA") != "AVX2":
        os.execve(
            sys.executable, [sys.executable, "-m", "experiments.benchmarks.inference", *sys.argv[1:]], os.environ | AVX2
        )
    if arguments.avx2:
        arguments.without += ["onnxruntime", "jaxconv.jit", "jaxconv.fold"]
    if arguments.one_thread:
        globals()["THREADS"] = 1
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.table:
        print(table(kept))
        return
    chosen = {"alone": arguments.alone, "one_thread": arguments.one_thread, "avx2": arguments.avx2}
    key = next((name for name, asked in chosen.items() if asked), "rows")
    rows = {(row["network"], row["batch"]): row for row in kept.get(key, [])}
    if arguments.alone:
        row = alone(arguments.network, arguments.batch)
    else:
        row = measure(arguments.network, arguments.batch, arguments.seconds, arguments.without)
    row["machine"] = "other programs ran too" if arguments.loaded else "idle"
    print(json.dumps(row), flush=True)
    rows[row["network"], row["batch"]] = row
    kept[key] = [rows[name, batch] for name in NETWORKS for batch in BATCHES if (name, batch) in rows]
    peers = ("jaxconv.jit", "jaxconv.fold", "onnxruntime", "openvino", "torch", "torch.compile")
    means = {
        f"{key} {figure}": {
            who: mean(kept[key], who, figure) for who in peers if any(who in r["ms"] for r in kept[key])
        }
        for key, figure in FIGURES.items()
        if key in kept
    }
    facts = {"threads": 2, "peer over jaxconv": means}
    write_results(RESULTS, environment() | facts | {key: kept[key] for key in (*FIGURES, "alone") if key in kept})


if __name__ == "__main__":
    main()
