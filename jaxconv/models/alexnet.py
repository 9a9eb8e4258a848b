"""AlexNet, the network that won ImageNet in 2012.

Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012:
`alexnet_2012`. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014: `alexnet`, the
single-column network of torchvision, with its names and shapes.
"""

import jax

from jaxconv.compose import serial
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import AdaptiveAvgPool, Conv, Dense, Dropout, Flatten, LocalResponseNorm, MaxPool

relu = jax.nn.relu


def _classifier(classes: int, hidden: int, dropout: float) -> Layer:
    return serial(Dropout(dropout), Dense(hidden), relu, Dropout(dropout), Dense(hidden), relu, Dense(classes))


def alexnet(
    classes: int = 1000,
    *,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    small_images: bool = False,
) -> Layer:
    """Returns torchvision's AlexNet: 61,100,840 parameters with 1000 classes, for images of at least 63x63.

    Args:
      classes: the number of classes.
      width: filters of the first convolution; the other convolutions have 3, 6, 4 and 4 times this number.
      hidden: the width of the two hidden fully connected layers.
      dropout: the dropout rate before each hidden fully connected layer.
      small_images: whether to use filters of 5x5 without stride in place of 11x11 with a stride of 4, and 3x3 bins
        before the fully connected layers in place of 6x6, for images of 32x32.

    >>> jc.summary(alexnet(), (1, 224, 224, 3)).parameters
    61100840
    """
    as_int(width, "width", least=1)
    stem = Conv(width, 5, padding=2) if small_images else Conv(width, 11, stride=4, padding=2)

    def pool() -> Layer:
        return MaxPool(3, stride=2)

    features: list[LayerLike] = [stem, relu, pool(), Conv(3 * width, 5, padding=2), relu, pool()]
    for wider in (6, 4, 4):
        features += [Conv(wider * width, 3, padding=1), relu]
    return serial(
        features=serial(*features, pool()),
        avgpool=AdaptiveAvgPool(3 if small_images else 6),
        flatten=Flatten(channels_first=True),
        classifier=_classifier(classes, hidden, dropout),
    )


def alexnet_2012(classes: int = 1000, *, dropout: float = 0.5) -> Layer:
    """Returns the paper's network for images of 227x227: 60,965,224 parameters with 1000 classes.

    The second, fourth and fifth convolutions have two groups, one for each GPU of the paper. Responses are normalized
    across five channels after the first two convolutions. The paper's alpha multiplies the sum of squares; the alpha of
    `jaxconv.local_response_norm` multiplies their mean.

    Args:
      classes: the number of classes.
      dropout: the dropout rate before each hidden fully connected layer.

    >>> table = jc.summary(alexnet_2012(), (1, 227, 227, 3))
    >>> table.parameters, [row.output.shape[1:] for row in table.rows if row.path.startswith("pool")]
    (60965224, [(27, 27, 96), (13, 13, 256), (6, 6, 256)])
    """

    def norm() -> Layer:
        return LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    def pool() -> Layer:
        return MaxPool(3, stride=2)

    return serial(
        conv1=Conv(96, 11, stride=4, padding="VALID"),
        relu1=relu,
        norm1=norm(),
        pool1=pool(),
        conv2=Conv(256, 5, padding=2, groups=2),
        relu2=relu,
        norm2=norm(),
        pool2=pool(),
        conv3=Conv(384, 3, padding=1),
        relu3=relu,
        conv4=Conv(384, 3, padding=1, groups=2),
        relu4=relu,
        conv5=Conv(256, 3, padding=1, groups=2),
        relu5=relu,
        pool5=pool(),
        flatten=Flatten(channels_first=True),
        classifier=_classifier(classes, 4096, dropout),
    )


__all__ = ["alexnet", "alexnet_2012"]
