"""Which program computes a convolution on which platform, and the primitive that asks."""

from jaxconv.ops.lowering import taylor as taylor  # its rules are found by the primitives
from jaxconv.ops.lowering.explain import Explained, Explanation, explain
from jaxconv.ops.lowering.primitive import convs_saveable, lowering

__all__ = ["Explained", "Explanation", "convs_saveable", "explain", "lowering"]
