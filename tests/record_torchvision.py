"""Records what torchvision's networks are and give: ``python -m tests.record_torchvision``.

It needs torch and torchvision, and writes beside the tests of the models: ``torchvision_shapes.json.gz``, the names and
shapes of all tensors of all networks of `tests.models.zoo`, and ``torchvision_logits.npz``, the outputs of the smallest
of each family with the weights that the zoo draws. Into ``docs/torchvision.json`` go the counts that it publishes.
"""

import contextlib
import functools
import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.zoo import KNOWN, Known, images, tensors

HERE = Path(__file__).parent / "models"
SHAPES = HERE / "torchvision_shapes.json.gz"
LOGITS = HERE / "torchvision_logits.npz"
PUBLISHED = HERE.parents[1] / "docs" / "torchvision.json"
IGNORED = "num_batches_tracked"
# Compiled operators of torchvision that no network of the zoo uses.
OPERATORS = """nms qnms roi_align qroi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d _roi_align_backward
_roi_pool_backward _ps_roi_align_backward _ps_roi_pool_backward _deform_conv2d_backward"""


@functools.cache
def torchvision() -> Any:
    """Imports torchvision, also beside a build of torch for which its compiled operators do not load."""
    import torch

    found = importlib.util.find_spec("torchvision")
    for path in Path(found.origin).parent.glob("_C*.so") if found and found.origin else ():
        with contextlib.suppress(OSError):
            torch.ops.load_library(path)
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS.split():
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor a) -> Tensor")
    module = importlib.import_module("torchvision")
    module.library = library  # The operators live as long as it does.
    return module


def build(known: Known) -> Any:
    """Returns torchvision's network, random weights, in evaluation."""
    models = torchvision().models
    package = getattr(models, known.theirs) if known.theirs else models
    return getattr(package, known.name)(weights=None, **known.their_options).eval()


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor by name."""
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if not name.endswith(IGNORED)}


def fill(model: Any, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Gives the network the zoo's weights and returns them."""
    import torch

    drawn = tensors(shapes_of(model), dtype)
    # In place: MNASNet's load_state_dict refuses tensors that do not say which version wrote them.
    held = model.state_dict()
    with torch.no_grad():
        for name, array in drawn.items():
            held[name].copy_(torch.from_numpy(array))
    return drawn


def run(model: Any, x: np.ndarray) -> np.ndarray:
    """Returns the network's output on images whose channels are last; of several it is the one called "out"."""
    import torch

    with torch.no_grad():
        y = model(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    y = y["out"] if isinstance(y, dict) else y
    return np.moveaxis(y.numpy(), 1, -1)


def published(known: Known) -> dict[str, Any]:
    """Returns what torchvision publishes of the network: parameters, thousands of millions of multiply-adds, input."""
    weights = next(iter(torchvision().models.get_model_weights(known.name)))
    options = weights.transforms.keywords
    size = options.get("crop_size", options.get("resize_size"))
    space = [size, size] if isinstance(size, int) else [16, *size]  # Videos are of 16 frames.
    return {
        "file": known.family,
        "parameters": weights.meta["num_params"],
        "gmacs": weights.meta["_ops"],
        "input": [1, *space, 3],
        "options": dict(known.options),
    }


def main() -> None:
    shapes, outputs, figures = {}, {}, {}
    for known in KNOWN:
        model = build(known)
        shapes[known.name] = shapes_of(model)
        figures[known.name] = published(known)
        if known.smallest:
            fill(model)
            outputs[known.name] = run(model, images(known.shape))
    # No time of writing, so that the same record is the same file.
    SHAPES.write_bytes(gzip.compress(json.dumps(shapes, separators=(",", ":")).encode(), mtime=0))
    np.savez_compressed(LOGITS, **outputs)
    PUBLISHED.write_text(json.dumps(figures, indent=1) + "\n")
    for path in (SHAPES, LOGITS, PUBLISHED):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
