"""The outputs of inner layers, and arrays added to them."""

from collections.abc import Iterable, Mapping

from jaxconv.capture import Capture, capturing
from jaxconv.errors import PathError, no_layer
from jaxconv.inspect.arguments import as_paths
from jaxconv.keys import KeyLike
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.paths import plain_path
from jaxconv.tree import walk


def activations(
    net: Layer,
    params: Params,
    state: State,
    x: Tree,
    *,
    paths: Iterable[str] | None = None,
    add: Mapping[str, Tree] | None = None,
    train: bool = False,
    key: KeyLike | None = None,
) -> tuple[Tree, dict[str, Tree]]:
    """Runs a network and returns its output together with the outputs of inner layers.

    The function is pure: it works under jit, grad and vmap, and for layers inside remat and repeat (a repeat stacks the
    outputs). The gradient with respect to an array of zeros in ``add`` is the gradient of that layer's output.

    Args:
      net: a layer.
      params, state, x: arguments of ``net.apply``.
      paths: the layers whose outputs are returned; None returns those of all layers; "" is the network itself. A layer
        that runs several times has the paths ``name``, ``name[1]`` and so on. A layer inside a user's own ``vmap`` or
        ``jit`` around a composite cannot be reached.
      add: arrays to add to the outputs of layers, by path; an array broadcasts to the output's shape. The output that
        is returned for that path includes the array.
      train, key: arguments of ``net.apply``.

    Returns:
      y: the network's output.
      found: the outputs by path.

    Raises:
      PathError: a path names no layer, or a layer that cannot be reached.
      ShapeError: an added array does not fit.

    >>> net = jc.serial(jc.Conv(8), jax.nn.relu, jc.GlobalAvgPool())
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> y, found = activations(net, params, state, jnp.ones((1, 8, 8, 3)))
    >>> {path: a.shape for path, a in found.items()}
    {'0': (1, 8, 8, 8), '1': (1, 8, 8, 8), '2': (1, 8)}
    """
    wanted = None if paths is None else frozenset(as_paths(paths))
    extra = dict(add or {})
    known = [path for path, _ in walk(net)]
    for argument, given in (("paths", wanted or ()), ("add", extra)):
        for path in given:
            if plain_path(path) not in ("", *known):
                raise PathError(no_layer(argument, path, known))
    capture = Capture(wanted, extra)
    with capturing(capture):
        y, _ = net.apply(params, state, x, train=train, key=key)
        if "" in extra or "" in (wanted or ()):
            y = capture.visit(y)
    for argument, given, reached in (("paths", wanted or (), capture.found), ("add", extra, capture.added)):
        missed = sorted(set(given) - set(reached))
        if missed:
            raise PathError(
                f"{argument} must name layers that run in this call's own trace, got {missed[0]!r}, which did not run, "
                "or ran inside a jit, vmap or scan of a custom layer"
            )
    return y, capture.found


__all__ = ["activations"]
