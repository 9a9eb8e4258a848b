"""Graph models of TensorFlow.js as layers that can be trained and inspected."""

from jaxconv.interop.tfjs.build import from_tfjs

__all__ = ["from_tfjs"]
