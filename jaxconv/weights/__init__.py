"""Weights from torch, from files and from hubs into ``(params, state)``, and back."""

from jaxconv.weights.errors import WeightsError
from jaxconv.weights.torch import from_torch, to_torch

__all__ = ["WeightsError", "from_torch", "to_torch"]
