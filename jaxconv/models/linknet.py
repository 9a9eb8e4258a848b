"""D-LinkNet: Zhou, Zhang and Wu, "D-LinkNet: LinkNet with pretrained encoder and dilated convolution", 2018.

For roads in aerial images. LinkNet: Chaurasia and Culurciello, 2017.
"""

import jax

from jaxconv.backbones import backbone, top_down
from jaxconv.compose import each, residual, resized, serial
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Conv, ConvTranspose, Identity
from jaxconv.models.resnet import resnet34

relu = jax.nn.relu
STAGES = ("layer1", "layer2", "layer3", "layer4")


def dilated_center(features: int, dilations: tuple[int, ...] = (1, 2, 4, 8)) -> Layer:
    """Returns the sum of the input and a cascade of convolutions, each with a ReLU and a larger dilation.

    >>> jc.summary(dilated_center(4), (1, 16, 16, 4)).parameters
    592
    """
    dilation, *rest = dilations
    more: dict[str, LayerLike] = {"wider": dilated_center(features, tuple(rest))} if rest else {}
    return residual(serial(conv=Conv(features, padding=dilation, dilation=dilation), relu=relu, **more))


def _enlarging(inputs: int, features: int) -> Layer:
    """Returns LinkNet's decoder block: a 1x1, a transposed 3x3 with a stride of 2, and a 1x1 convolution."""
    narrow = inputs // 4
    return serial(
        conv1=Conv(narrow, 1),
        norm1=BatchNorm(),
        relu1=relu,
        deconv2=ConvTranspose(narrow, 3, stride=2, padding=1, output_padding=1),
        norm2=BatchNorm(),
        relu2=relu,
        conv3=Conv(features, 1),
        norm3=BatchNorm(),
        relu3=relu,
    )


def dlinknet(net: Layer, classes: int = 1, *, width: int = 64, expansion: int = 1) -> Layer:
    """Returns D-LinkNet on a residual network: scores ``(batch, height, width, classes)`` for each pixel.

    Args:
      net: a network of `jaxconv.models.resnet`; its weights keep their paths, under ``encoder``.
      classes: the number of classes; with 1 a sigmoid of the score is the probability of a road.
      width: the filters of the network's first stage.
      expansion: 4 for networks of bottlenecks, such as ResNet-50.

    Raises:
      PathError: the network has no layer1 to layer4.

    >>> jc.summary(dlinknet(jc.models.resnet18()), (1, 64, 48, 3)).rows[-1].output.shape
    (1, 64, 48, 1)
    """
    as_int(width, "width", least=1)
    sizes = [width * expansion * 2**i for i in range(4)]
    center: dict[str, LayerLike] = {stage: Identity() for stage in STAGES[:-1]}
    steps = {
        stage: (_enlarging(sizes[i + 1], sizes[i]), Identity()) for i, stage in reversed(list(enumerate(STAGES[:-1])))
    }
    return resized(
        serial(
            encoder=backbone(net, STAGES),
            center=each(**center, layer4=dilated_center(sizes[-1])),
            decoder=top_down("layer4", steps, join="add"),
            decoder1=_enlarging(sizes[0], width),
            finaldeconv1=ConvTranspose(width // 2, 4, stride=2, padding=1),
            finalrelu1=relu,
            finalconv2=Conv(width // 2, padding=1),
            finalrelu2=relu,
            finalconv3=Conv(classes, padding=1),
        )
    )


def dlinknet34(classes: int = 1) -> Layer:
    """Returns D-LinkNet on ResNet-34: 31,096,129 parameters with one class.

    >>> jc.summary(dlinknet34(), (1, 64, 64, 3)).parameters
    31096129
    """
    return dlinknet(resnet34(), classes, width=64, expansion=1)


__all__ = ["dlinknet", "dlinknet34"]
