"""U-Net: Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015.

The encoder halves the size and doubles the channels at each level. The decoder upsamples, and concatenates the
encoder's feature map of the same level. Resizing in place of the transposed convolution: Odena, Dumoulin and Olah,
"Deconvolution and checkerboard artifacts", 2016.
"""

from collections.abc import Mapping, Sequence

import jax

from jaxconv.backbones import TopDown, backbone, top_down
from jaxconv.compose import resized, serial
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Conv, ConvTranspose, Dropout, MaxPool, Resize

UPSAMPLING = ("transpose", "resize")
NORM = BatchNorm()


def _block(features: int, padding: str, norm: Layer | None, dropout: float = 0.0) -> Layer:
    """Returns two 3x3 convolutions, each with its norm, if any, and a ReLU."""
    conv = Conv(features, padding=padding, bias=norm is None)
    layers: list[LayerLike] = [conv, *([] if norm is None else [norm]), jax.nn.relu]
    return serial(*layers, *layers, *([Dropout(dropout)] if dropout else []))


def _enlarging(features: int, upsampling: str) -> Layer:
    """Returns an upsampling layer: the paper's transposed 2x2 convolution, or a 3x3 convolution after resizing."""
    if upsampling == "transpose":
        return ConvTranspose(features, 2, stride=2)
    return serial(Resize(factor=2, method="nearest"), Conv(features))


def _decoder(maps: Sequence[str], width: int, padding: str, norm: Layer | None, upsampling: str) -> TopDown:
    """Returns the decoder up to the finest feature map, which is the first of ``maps`` and has ``width`` channels."""
    if upsampling not in UPSAMPLING:
        raise ArgumentError(f"upsampling must be one of {', '.join(UPSAMPLING)}, got {upsampling!r}")
    widths = {name: width * 2**i for i, name in enumerate(maps[:-1])}
    steps = {name: (_enlarging(n, upsampling), _block(n, padding, norm)) for name, n in widths.items()}
    return top_down(maps[-1], dict(reversed(steps.items())), crop=padding == "VALID")


def unet(
    classes: int = 2,
    *,
    width: int = 64,
    depth: int = 4,
    padding: str = "VALID",
    norm: Layer | None = None,
    upsampling: str = "transpose",
    dropout: float = 0.0,
) -> Layer:
    """Returns U-Net: scores ``(batch, height, width, classes)``. 31,030,658 parameters on gray images with 2 classes.

    As in the paper there is no padding by default: the scores are those of the center of the image, 388x388 of 572x572,
    and all sizes before a pool must be even. With ``padding="SAME"``, as usual today, the scores are those of the whole
    image, for any size from ``2**depth`` on.

    Args:
      classes: the number of classes.
      width: channels of the first level; each level doubles them.
      depth: the number of pools.
      padding: "VALID" or "SAME".
      norm: a layer between each convolution and its ReLU, such as ``jc.BatchNorm()``; the convolution then has no bias.
      upsampling: "transpose", a transposed 2x2 convolution, or "resize", a 3x3 convolution after resizing.
      dropout: the dropout rate at the end of the encoder; the paper does not state its rate.

    Raises:
      ValueError: padding or upsampling is unknown; in ``init``, sizes do not fit a network without padding.

    >>> jc.summary(unet(), (1, 572, 572, 1)).parameters
    31030658
    """
    as_int(width, "width", least=1)
    if padding not in ("VALID", "SAME"):
        raise ArgumentError(f"padding must be VALID or SAME, got {padding!r}")
    levels = [f"level{i + 1}" for i in range(as_int(depth, "depth", least=1) + 1)]
    down: dict[str, LayerLike] = {}
    for i, level in enumerate(levels):
        if i:
            down[f"pool{i}"] = MaxPool(2)
        down[level] = _block(width * 2**i, padding, norm, dropout if i == depth else 0.0)
    return serial(
        encoder=backbone(serial(**down), levels),
        decoder=_decoder(levels, width, padding, norm, upsampling),
        head=Conv(classes, 1),
    )


def unet_on(
    net: Layer,
    paths: Sequence[str] | Mapping[str, str],
    classes: int = 2,
    *,
    width: int = 32,
    norm: Layer | None = NORM,
    upsampling: str = "transpose",
) -> Layer:
    """Returns U-Net's decoder on the feature maps of another network: scores for each pixel of the image.

    Args:
      net: the network; its weights keep their paths, under ``backbone``.
      paths: the paths of layers, finest first, each half the size of the one before, or a mapping from paths to names,
        as in `jaxconv.backbone`. The default names are the paths with "_" in place of ".".
      classes: the number of classes.
      width: channels at the finest feature map; each coarser feature map has twice the channels.
      norm: the norm between each convolution of the decoder and its ReLU; None for no norm.
      upsampling: "transpose" or "resize", as in `unet`.

    Raises:
      ValueError: a path names no layer, paths has fewer than two entries, or upsampling is unknown; in ``init``, a
        feature map is not half the size of the one before.

    >>> net = unet_on(jc.models.resnet18(), ["relu", "layer1", "layer2", "layer3", "layer4"], 5)
    >>> jc.summary(net, (1, 96, 64, 3)).rows[-1].output.shape
    (1, 96, 64, 5)
    """
    as_int(width, "width", least=1)
    named = paths if isinstance(paths, Mapping) else {path: path.replace(".", "_") for path in paths}
    if len(named) < 2:
        raise ArgumentError(f"paths must have at least two entries, got {list(named)}")
    trunk = backbone(net, named)
    decoder = _decoder(list(named.values()), width, "SAME", norm, upsampling)
    return resized(serial(backbone=trunk, decoder=decoder, head=Conv(classes, 1)))


__all__ = ["unet", "unet_on"]
