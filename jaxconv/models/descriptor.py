"""Descriptors: Schroff, Kalenichenko and Philbin, "FaceNet: a unified embedding for face recognition", 2015."""

from collections.abc import Sequence

from jaxconv.compose import serial
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, children_of
from jaxconv.layers import Dense, UnitNorm
from jaxconv.models.resnet import basic, resnet


def descriptor(
    dims: int = 128, *, width: int = 32, depths: Sequence[int] = (1, 1, 1, 1), small_images: bool = False
) -> Layer:
    """Returns a residual network whose output has norm 1: images of one person, or thing, are to be near each other.

    The distance of two descriptors is between 0 and 2; their product is the cosine of the angle between them. Train it
    with `jaxconv.losses.contrastive_loss`, `jaxconv.losses.triplet_loss` or `jaxconv.losses.arcface_loss`.

    Args:
      dims: the length of a descriptor.
      width: filters of the first stage; each stage doubles them.
      depths: blocks in each stage.
      small_images: as in `resnet`.

    >>> jc.summary(descriptor(), (1, 112, 112, 3)).parameters
    1263136
    """
    as_int(dims, "dims", least=1)
    net = dict(children_of(resnet(basic, depths, 1, width=width, small_images=small_images)))
    return serial(**{**net, "fc": Dense(dims), "norm": UnitNorm()})


__all__ = ["descriptor"]
