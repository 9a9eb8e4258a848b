"""Feature pyramids: Lin et al., "Feature pyramid networks for object detection", 2017."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jax.nn import initializers

from jaxconv.backbones import added, map_of
from jaxconv.compose.base import as_layer
from jaxconv.compose.maps import each
from jaxconv.compose.structure import serial
from jaxconv.composite import Composite, Run
from jaxconv.described import name_of
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Children, Layer, LayerLike, Tree
from jaxconv.layers import Conv, Resize
from jaxconv.layers.base import batched_sizes

LE_CUN_UNIFORM = initializers.variance_scaling(1.0, "fan_in", "uniform")


@dataclass(frozen=True, repr=False)
class Fpn(Composite):
    """A feature pyramid; created by `fpn`.

    The children are ``inner_blocks``, the 1x1 convolutions; ``layer_blocks``, the 3x3 convolutions; and
    ``extra_blocks``, the layer of coarser levels, if any.
    """

    call: ClassVar[str] = "fpn"
    children: Children
    names: tuple[str, ...]
    extra_from_input: bool = False

    def arguments(self) -> list[str]:
        return [repr(list(self.names)), *(f"{name}={name_of(layer)}" for name, layer in self.children)]

    def route(self, run: Run, x: Tree) -> Tree:
        layers = dict(self.children)
        maps = OrderedDict((name, map_of(x, name)) for name in self.names)
        lateral = run("inner_blocks", layers["inner_blocks"], maps)
        merged: dict[str, Tree] = {}
        for coarser, name in zip((None, *self.names[:0:-1]), self.names[::-1], strict=True):
            y = lateral[name]
            if coarser is not None:
                resize = Resize(batched_sizes(y, 2), method="nearest")
                y = run.join(added, y, run("", resize, merged[coarser]))
            merged[name] = y
        pyramid = run("layer_blocks", layers["layer_blocks"], OrderedDict((name, merged[name]) for name in self.names))
        if "extra_blocks" in layers:
            last = self.names[-1]
            more = run("extra_blocks", layers["extra_blocks"], maps[last] if self.extra_from_input else pyramid[last])
            pyramid = OrderedDict([*pyramid.items(), *more.items()])
        return pyramid


def fpn(
    names: Sequence[str],
    features: int = 256,
    *,
    norm: Layer | None = None,
    extra: LayerLike | None = None,
    extra_from_input: bool = False,
) -> Fpn:
    """Returns a feature pyramid: feature maps of a backbone with equal channels, each with the coarser ones added.

    The input is the dict of feature maps that `backbone` returns; the output is a `collections.OrderedDict` of the
    levels, finest first. A level is a 3x3 convolution of the sum of a 1x1 convolution of its feature map and the next
    coarser sum, enlarged by the nearest position. Equals torchvision's ``FeaturePyramidNetwork``, with its names.

    Args:
      names: the names of the feature maps, finest first.
      features: the channels of each level.
      norm: a layer after each convolution, which then has no bias.
      extra: a layer that returns an OrderedDict of further levels from the coarsest level, such as a `backbone`.
      extra_from_input: whether ``extra`` receives the coarsest feature map of the input in place of the coarsest level.

    Raises:
      ArgumentError: names are missing or not unique; in ``init``, the input lacks a feature map.

    >>> trunk = jc.backbone(jc.models.resnet18(), {"layer3": "0", "layer4": "1"})
    >>> net = jc.serial(body=trunk, fpn=fpn(["0", "1"], 16))
    >>> {name: y.shape for name, y in jc.inspect.trace(net, (1, 64, 64, 3))[-1].output.items()}
    {'0': (1, 4, 4, 16), '1': (1, 2, 2, 16)}
    """
    names = tuple(names)
    as_int(features, "features", least=1)
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"names must have at least one entry, without repetition, got {names}")

    def block(window: int) -> Layer:
        conv = Conv(features, window, padding=window // 2, bias=norm is None, kernel_init=LE_CUN_UNIFORM)
        return serial(conv, *([] if norm is None else [norm]))

    inner, outer = (each(*[block(window) for _ in names]) for window in (1, 3))
    more = () if extra is None else (("extra_blocks", as_layer(extra)),)
    return Fpn((("inner_blocks", inner), ("layer_blocks", outer), *more), names, extra_from_input)


__all__ = ["fpn"]
