"""Weights from torch, from Keras, from KataGo, from files and from hubs into ``(params, state)``, and back."""

from jaxconv.weights.compare import Comparison, compare, torch_activations
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.files import read
from jaxconv.weights.hub import from_hub
from jaxconv.weights.katago import from_katago
from jaxconv.weights.keras import from_keras
from jaxconv.weights.safetensors import write
from jaxconv.weights.saved import load, save
from jaxconv.weights.torch import from_torch, to_torch

__all__ = [
    "Comparison",
    "WeightsError",
    "compare",
    "from_hub",
    "from_katago",
    "from_keras",
    "from_torch",
    "load",
    "read",
    "save",
    "to_torch",
    "torch_activations",
    "write",
]


def __dir__() -> list[str]:
    return sorted(__all__)
