"""StarDist: Schmidt, Weigert, Broaddus and Myers, "Cell detection with star-convex polygons", 2018."""

import jax

from jaxconv.compose import heads, serial
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, children_of
from jaxconv.layers import Conv
from jaxconv.models.unet import unet


def stardist(
    rays: int = 32, *, width: int = 32, depth: int = 3, norm: Layer | None = None, features: int = 128
) -> Layer:
    """Returns U-Net with StarDist's heads, for images whose sides are multiples of ``2**depth``.

    The output is an OrderedDict of prob ``(batch, height, width, 1)``, the logit that the pixel is inside an object,
    and dist ``(batch, height, width, rays)``, the distances to its border in equally spaced directions.

    Args:
      rays: the number of directions.
      width: channels of the first level; each level doubles them.
      depth: the number of pools.
      norm: a layer between each convolution of the U-Net and its ReLU.
      features: channels of the convolution before the heads.

    >>> output = jc.inspect.trace(stardist(8, width=4), (1, 32, 32, 1))[-1].output
    >>> {name: y.shape for name, y in output.items()}
    {'prob': (1, 32, 32, 1), 'dist': (1, 32, 32, 8)}
    """
    as_int(rays, "rays", least=3)
    trunk = dict(children_of(unet(1, width=width, depth=depth, padding="SAME", norm=norm)))
    return serial(
        encoder=trunk["encoder"],
        decoder=trunk["decoder"],
        features=Conv(features, padding=1),
        relu=jax.nn.relu,
        head=heads(prob=Conv(1, 1), dist=Conv(rays, 1)),
    )


__all__ = ["stardist"]
