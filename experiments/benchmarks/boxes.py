"""Non-maximum suppression and RoIAlign compared with torchvision's compiled operators, on CPU.

    python -m experiments.benchmarks.boxes           # writes results/boxes.json

One process, candidates in turn, medians of the rounds in ms; float32, two threads of torch. Suppression: boxes in
clusters, as a detector predicts them, IoU threshold 0.5, at most 100 kept, and without that limit. Regions: 512 boxes
on four levels of 256 channels of an image of 800x800, output 7x7, two points along each axis; the gradient is that in
the feature maps. Where torchvision's compiled operators do not load beside the installed
torch, its columns are left out. Run it on an otherwise idle machine.
"""

import argparse
import functools
import importlib
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks.clock import seconds
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "boxes.json"
ROUNDS = 7
COUNTS = (100, 1_000, 10_000)
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
CHANNELS, SIDE, REGIONS = 256, 800, 512


def clusters(count: int, side: float = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes around a hundredth as many objects, at least ten, and their scores."""
    rng = np.random.default_rng(0)
    objects = max(count // 100, 10)
    low = rng.uniform(0, 0.8 * side, (objects, 2))
    sizes = rng.uniform(0.03, 0.2, (objects, 2)) * side
    of = rng.integers(0, objects, count)
    corners = np.concatenate([low, low + sizes], 1)[of] + rng.normal(size=(count, 4)) * 0.1 * np.tile(sizes[of], 2)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return corners.astype(np.float32), rng.uniform(size=count).astype(np.float32)


def pyramid() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(1, int(SIDE * s), int(SIDE * s), CHANNELS)).astype(np.float32) for s in SCALES]


def regions() -> np.ndarray:
    """Returns boxes of all sizes, so that each level has some."""
    rng = np.random.default_rng(2)
    sides = np.exp(rng.uniform(np.log(16), np.log(600), (REGIONS, 1))) * rng.uniform(0.7, 1.4, (REGIONS, 2))
    low = rng.uniform(0, 1, (REGIONS, 2)) * np.maximum(SIDE - sides, 1)
    return np.concatenate([low, low + sides], 1).astype(np.float32)


def torchvision() -> Any:
    """Returns torchvision if its compiled operators load, otherwise None."""
    try:
        module = importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        return None
    return module if module.extension._has_ops() else None


def suppression(count: int, most: int, vision: Any) -> dict[str, Any]:
    boxes, scores = clusters(count)
    ours = jax.jit(functools.partial(jc.nms, iou_threshold=0.5, max_outputs=most))
    calls: dict[str, Any] = {"ours": functools.partial(ours, jnp.asarray(boxes), jnp.asarray(scores))}
    if vision:
        import torch

        theirs = functools.partial(vision.ops.nms, torch.tensor(boxes), torch.tensor(scores), 0.5)
        calls["torchvision"] = theirs
        kept = np.asarray(calls["ours"]()[0])
        assert kept[kept >= 0].tolist() == theirs()[:most].tolist()
    return calls


def aligned(vision: Any) -> dict[str, Any]:
    maps, boxes = pyramid(), regions()

    def ours(maps: list[jax.Array], boxes: jax.Array) -> jax.Array:
        index = jnp.zeros(len(boxes), jnp.int32)
        return jc.multiscale_roi_align(maps, boxes, index, 7, spatial_scales=SCALES, sampling_ratio=2)

    y = np.random.default_rng(3).normal(size=(REGIONS, 7, 7, CHANNELS)).astype(np.float32)
    gradient = jax.jit(lambda maps, boxes, y: jax.vjp(lambda maps: ours(maps, boxes), maps)[1](y))
    arrays = [jnp.asarray(a) for a in maps], jnp.asarray(boxes)
    forward = functools.partial(jax.jit(ours), *arrays)
    calls: dict[str, Any] = {"ours": forward, "ours gradient": functools.partial(gradient, *arrays, jnp.asarray(y))}
    if vision:
        import torch

        pool = vision.ops.MultiScaleRoIAlign([str(i) for i in range(4)], 7, 2)
        inputs = {str(i): torch.tensor(np.moveaxis(a, -1, 1)).contiguous() for i, a in enumerate(maps)}
        moved = {name: a.clone().requires_grad_() for name, a in inputs.items()}
        theirs, cotangent = [torch.tensor(boxes)], torch.tensor(np.moveaxis(y, -1, 1)).contiguous()
        calls["torchvision"] = lambda: pool(inputs, theirs, [(SIDE, SIDE)])
        calls["torchvision gradient"] = lambda: torch.autograd.grad(
            pool(moved, theirs, [(SIDE, SIDE)]), list(moved.values()), cotangent
        )
        difference = np.abs(np.moveaxis(np.asarray(forward()), -1, 1) - calls["torchvision"]().numpy()).max()
        assert difference < 1e-3, difference
    return calls


def measure(calls: dict[str, Any]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS + 1):
        for name, call in calls.items():
            took = seconds(call)
            if round_:
                times[name].append(took * 1e3)
    return {name: round(statistics.median(took), 3) for name, took in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    vision = torchvision()
    found: dict[str, Any] = {}
    if vision:
        import torch

        torch.set_num_threads(2)
        found = {"torch": torch.__version__, "torchvision": vision.__version__}
    rows = {}
    for count in COUNTS:
        rows[f"nms of {count}, at most 100"] = measure(suppression(count, 100, vision))
        rows[f"nms of {count}"] = measure(suppression(count, count, vision))
    rows[f"roi_align of {REGIONS} on 4 levels"] = measure(aligned(vision))
    for name, row in rows.items():
        print(name, row)
    write_results(out, {**environment(), **found, "rounds": ROUNDS, "median_ms": rows})


if __name__ == "__main__":
    main()
