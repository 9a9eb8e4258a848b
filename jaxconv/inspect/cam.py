"""Class activation maps: the image regions that a class score depends on, from gradients at an inner layer."""

import jax
import jax.numpy as jnp

from jaxconv.errors import ShapeError
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import Target, as_input, check_path, scores, stacked_axes
from jaxconv.inspect.trace import trace
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops import resize as resized
from jaxconv.ops.arrays import ArrayLike, accumulator


def grad_cam(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    path: str,
    resize: bool = False,
) -> Array:
    """Returns the positive part of a layer's feature maps, each weighted by its mean gradient (Selvaraju et al., 2017).

    The mean is exact where global average pooling follows the feature maps. After a `jaxconv.Flatten` each position has
    separate weights, and borders may show high values: use `grad_cam_plus_plus` there, or `jaxconv.inspect.occlusion`.

    Args:
      net: a layer.
      params, state: arguments of ``net.apply``.
      x: floating-point array of shape ``(batch, *spatial, channels)``, scaled as the network expects it.
      target: a class index for all examples, or an array of one index for each; None, the class with the highest score;
        or a function from the network's output to a score for each example.
      path: the path of a layer that returns feature maps, usually the last before the scores; "" is the network's
        output. Inside a `repeat` the axis of iterations comes first.
      resize: whether to resize the result to the image's size with `jaxconv.resize`; otherwise it has the layer's size.

    Returns:
      Array of shape ``(batch, *spatial)``, not negative and not scaled; float32 for half precision inputs.

    Raises:
      DTypeError: x is not floating-point.
      ValueError: the path names no layer, or a layer without feature maps; the target is out of range or does not fit.

    Equals ``captum.attr.LayerGradCam(relu_attributions=True)``.

    >>> net = jc.serial(jc.Conv(4), jax.nn.relu, jc.GlobalAvgPool(), jc.Dense(3))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> grad_cam(net, params, state, jnp.ones((2, 8, 8, 3)), path="1").shape
    (2, 8, 8)
    """
    x = as_input(x, spatial=True)
    maps, slopes = _maps_and_slopes(net, params, state, x, target, path)
    weights = jnp.mean(slopes, _positions(x, maps), keepdims=True)
    return _weighted(maps, weights, x, resize)


def grad_cam_plus_plus(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    path: str,
    resize: bool = False,
) -> Array:
    """Returns `grad_cam` with a weight for each position's positive gradient (Chattopadhay et al., 2018).

    Grad-CAM++ shows several objects of a class where Grad-CAM prefers the largest. A positive gradient g has the weight
    ``g / (2 + S g)`` in a feature map that sums to S. This is the paper's weight for the exponential of the score,
    without the exponential itself, which is one positive factor for each example and may overflow.

    Args:
      net, params, state, x, target, path, resize: as in `grad_cam`.

    Returns:
      Array as in `grad_cam`.

    Raises:
      As `grad_cam`.

    Equals ``pytorch_grad_cam.GradCAMPlusPlus`` before that scales its maps, except that it has ``g^2 / (2 g^2 + S g^3 +
    1e-6)`` in place of ``1 / (2 + S g)``, which loses gradients of 1e-3 and below.

    >>> net = jc.serial(jc.Conv(4), jax.nn.relu, jc.GlobalAvgPool(), jc.Dense(3))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> grad_cam_plus_plus(net, params, state, jnp.ones((2, 8, 8, 3)), path="1").shape
    (2, 8, 8)
    """
    x = as_input(x, spatial=True)
    maps, slopes = _maps_and_slopes(net, params, state, x, target, path)
    positions = _positions(x, maps)
    below = 2 + jnp.sum(maps, positions, keepdims=True) * slopes
    counts = (slopes > 0) & (below != 0)
    weights = jnp.sum(jnp.where(counts, slopes / jnp.where(counts, below, 1), 0), positions, keepdims=True)
    return _weighted(maps, weights, x, resize)


def _positions(x: Array, maps: Array) -> tuple[int, ...]:
    """Returns the spatial axes of ``maps``: the number of x's spatial axes, before the channels."""
    return tuple(range(maps.ndim - x.ndim + 1, maps.ndim - 1))


def _maps_and_slopes(
    net: Layer, params: Params, state: State, x: Array, target: Target, path: str
) -> tuple[Array, Array]:
    """Returns a layer's output and the gradient of the scores there."""
    check_path(net, path)
    struct = jax.eval_shape(lambda x: activations(net, params, state, x, paths=[path])[1][path], x)
    if not _has_maps(struct, x, stacked_axes(net, path)):
        raise ShapeError(
            f"path {path!r} must name a layer with feature maps of {x.ndim - 2} spatial axes, "
            f"{_last_with_maps(net, x)}, got an output of shape "
            f"{' '.join(str(leaf.shape) for leaf in jax.tree.leaves(struct))}"
        )

    def total(extra: Array) -> tuple[Array, Array]:
        y, found = activations(net, params, state, x, paths=[path], add={path: extra})
        return jnp.sum(scores(y, target, len(x))), found[path]

    slopes, maps = jax.grad(total, has_aux=True)(jnp.zeros(struct.shape, struct.dtype))
    wide = accumulator(maps.dtype)
    return maps.astype(wide), slopes.astype(wide)


def _has_maps(struct: Tree, x: Array, stacked: int = 0) -> bool:
    return len(getattr(struct, "shape", ())) == x.ndim + stacked


def _last_with_maps(net: Layer, x: Array) -> str:
    rows = {row.path: row.output for row in trace(net, x) if row.path}
    paths = [path for path, struct in rows.items() if _has_maps(struct, x)]
    return f"such as {paths[-1]!r}" if paths else "which this network lacks"


def _weighted(maps: Array, weights: Array, x: Array, resize: bool) -> Array:
    heat = jnp.maximum(jnp.sum(weights * maps, axis=-1), 0)
    sizes = x.shape[1:-1]
    return resized(heat[..., None], sizes, rank=len(sizes))[..., 0] if resize else heat


__all__ = ["grad_cam", "grad_cam_plus_plus"]
