"""Which algorithm computes an op on which platform, and the primitives that are lowered to it."""

from jaxconv.ops.lowering import taylor as taylor  # registers the rules of jet
from jaxconv.ops.lowering.explain import Explained, Explanation, explain
from jaxconv.ops.lowering.modes import lowering
from jaxconv.ops.lowering.remat import convs_saveable

__all__ = ["Explained", "Explanation", "convs_saveable", "explain", "lowering"]
