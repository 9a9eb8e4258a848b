"""U-Net: Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015.

The way down halves the map and doubles the channels at each level, the way up undoes it and joins what the way down had
there. Resizing in place of the transposed convolution: Odena, Dumoulin and Olah, "Deconvolution and checkerboard
artifacts", 2016.
"""

from collections.abc import Mapping, Sequence

import jax

from jaxconv.branches import TopDown, backbone, resized, top_down
from jaxconv.compose import LayerLike, serial
from jaxconv.errors import ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Layer
from jaxconv.layers import BatchNorm, Conv, ConvTranspose, Dropout, MaxPool, Resize

UPSAMPLING = ("transpose", "resize")
NORM = BatchNorm()


def _block(features: int, padding: str, norm: Layer | None, dropout: float = 0.0) -> Layer:
    """Returns two 3x3 convolutions with their norms, if there are any, and ReLUs."""
    conv = Conv(features, padding=padding, bias=norm is None)
    layers: list[LayerLike] = [conv, *([] if norm is None else [norm]), jax.nn.relu]
    return serial(*layers, *layers, *([Dropout(dropout)] if dropout else []))


def _enlarging(features: int, upsampling: str) -> Layer:
    """Returns what makes a map twice as large: the paper's transposed 2x2 convolution, or a 3x3 one after resizing."""
    if upsampling == "transpose":
        return ConvTranspose(features, 2, stride=2)
    return serial(Resize(factor=2, method="nearest"), Conv(features))


def _decoder(maps: Sequence[str], width: int, padding: str, norm: Layer | None, upsampling: str) -> TopDown:
    """Returns the way up to the finest map, which is the first and gets ``width`` channels."""
    if upsampling not in UPSAMPLING:
        raise ShapeError(f"upsampling must be one of {', '.join(UPSAMPLING)}, got {upsampling!r}")
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

    As in the paper it has no padding: the scores are those of the middle of the image, 388x388 of 572x572, and all
    sizes before a pool must be even. With ``padding="SAME"``, as is usual today, they are those of the whole image,
    whatever its size from ``2**depth`` on.

    Args:
      classes: how many scores a pixel gets.
      width: channels of the first level; each doubles them.
      depth: how often the map is halved.
      padding: "VALID" or "SAME".
      norm: a layer between each convolution and its ReLU, ``jc.BatchNorm()`` for instance; the convolution then has no
        bias.
      upsampling: "transpose", a transposed 2x2 convolution, or "resize", a 3x3 convolution after resizing.
      dropout: rate at the end of the way down; the paper has it there, and does not say how much.

    Raises:
      ShapeError: another padding or upsampling; in ``init``, sizes that the network without padding cannot take.

    >>> jc.summary(unet(), (1, 572, 572, 1)).parameters
    31030658
    """
    as_int(width, "width", least=1)
    if padding not in ("VALID", "SAME"):
        raise ShapeError(f"padding must be VALID or SAME, got {padding!r}")
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
    """Returns U-Net's way up on the maps of another network: scores for each pixel of the image.

    Args:
      net: the network; its weights keep their paths, under ``backbone``.
      paths: of the layers whose maps it takes, finest first, each half the size of the one before, or a mapping of them
        to names: what `jaxconv.backbone` takes. Without names of their own they have the paths, "_" for ".".
      classes: how many scores a pixel gets.
      width: channels at the finest map; each coarser one has twice as many.
      norm: between each convolution of the way up and its ReLU; None for none.
      upsampling: "transpose" or "resize", as in `unet`.

    Raises:
      ShapeError: a path that names no layer, fewer than two of them, another upsampling; in ``init``, maps of which one
        is not half the size of the one before.

    >>> net = unet_on(jc.models.resnet18(), ["relu", "layer1", "layer2", "layer3", "layer4"], 5)
    >>> jc.summary(net, (1, 96, 64, 3)).rows[-1].output.shape
    (1, 96, 64, 5)
    """
    as_int(width, "width", least=1)
    named = paths if isinstance(paths, Mapping) else {path: path.replace(".", "_") for path in paths}
    if len(named) < 2:
        raise ShapeError(f"paths must be at least two, got {list(named)}")
    trunk = backbone(net, named)
    decoder = _decoder(list(named.values()), width, "SAME", norm, upsampling)
    return resized(serial(backbone=trunk, decoder=decoder, head=Conv(classes, 1)))


__all__ = ["unet", "unet_on"]
