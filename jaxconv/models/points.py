"""Heads of points on one feature map: CenterNet for objects, MoveNet for the pose of a person.

Zhou, Wang and Krahenbuhl, "Objects as points", 2019. Votel and Li, "Next-generation pose detection with MoveNet", 2021.
"""

import jax
from jax.nn import initializers

from jaxconv.backbones import on_map
from jaxconv.compose import heads, serial
from jaxconv.detect import CenterNet, PoseNet
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, children_of
from jaxconv.layers import Conv, Identity
from jaxconv.models.detection import prior_bias, pyramid
from jaxconv.models.mobilenet import mobilenet_v2

SMALL_NORMAL = initializers.normal(0.01)


def _head(width: int, columns: int, bias: initializers.Initializer = initializers.zeros) -> Layer:
    """Returns a 3x3 convolution with a ReLU, and a 1x1 convolution."""
    return serial(Conv(width, padding=1), jax.nn.relu, Conv(columns, 1, kernel_init=SMALL_NORMAL, bias_init=bias))


def fine_map(width: int = 64) -> Layer:
    """Returns MobileNet v2 with a feature pyramid, and of it the map of stride 4."""
    features = dict(children_of(mobilenet_v2()))["features"]
    maps = {"3": "0", "6": "1", "13": "2", "17": "3"}
    return serial(pyramid=pyramid(features, maps, width), finest=on_map("0", Identity()))


def centernet(trunk: Layer, classes: int = 80, *, width: int = 64, stride: int = 4) -> CenterNet:
    """Returns CenterNet on any network that returns one feature map.

    Args:
      trunk: a layer that returns a feature map.
      classes: the number of classes, without a background.
      width: channels of the heads.
      stride: pixels of the image from one position of the map to the next.

    >>> trunk = jc.serial(jc.Conv(8, stride=2), jax.nn.relu, jc.Conv(16, stride=2), jax.nn.relu)
    >>> output = jc.inspect.trace(centernet(trunk, 3, width=8), (1, 32, 32, 3))[-1].output
    >>> {name: y.shape for name, y in output.items()}
    {'hm': (1, 8, 8, 3), 'wh': (1, 8, 8, 2), 'reg': (1, 8, 8, 2)}
    """
    as_int(width, "width", least=1)
    both = heads(hm=_head(width, classes, prior_bias(0.1)), wh=_head(width, 2), reg=_head(width, 2))
    return CenterNet(serial(backbone=trunk, head=both), classes, stride)


def centernet_mobilenet_v2(classes: int = 80, *, width: int = 64, stride: int = 4) -> CenterNet:
    """Returns CenterNet on MobileNet v2 with a feature pyramid, at a stride of 4."""
    return centernet(fine_map(), classes, width=width, stride=stride)


def pose_points(trunk: Layer, points: int = 17, *, width: int = 96, stride: int = 4) -> PoseNet:
    """Returns MoveNet's heads on any network that returns one feature map.

    Args:
      trunk: a layer that returns a feature map.
      points: the number of keypoints.
      width: channels of the heads.
      stride: pixels of the image from one position of the map to the next.

    >>> trunk = jc.serial(jc.Conv(8, stride=2), jax.nn.relu, jc.Conv(16, stride=2), jax.nn.relu)
    >>> output = jc.inspect.trace(pose_points(trunk, 5, width=8), (1, 32, 32, 3))[-1].output
    >>> {name: y.shape[-1] for name, y in output.items()}
    {'center': 1, 'heat': 5, 'regression': 10, 'offset': 10}
    """
    as_int(points, "points", least=1)
    ends = heads(
        center=_head(width, 1, prior_bias(0.1)),
        heat=_head(width, points, prior_bias(0.1)),
        regression=_head(width, 2 * points),
        offset=_head(width, 2 * points),
    )
    return PoseNet(serial(backbone=trunk, head=ends), points, stride)


def pose_points_mobilenet_v2(points: int = 17, *, width: int = 96, stride: int = 4) -> PoseNet:
    """Returns MoveNet's heads on MobileNet v2 with a feature pyramid, at a stride of 4."""
    return pose_points(fine_map(), points, width=width, stride=stride)


__all__ = ["centernet", "centernet_mobilenet_v2", "pose_points", "pose_points_mobilenet_v2"]
