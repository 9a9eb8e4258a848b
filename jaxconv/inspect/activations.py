"""The outputs of inner layers, and arrays added to them."""

from collections.abc import Iterable, Mapping

from jaxconv.errors import ShapeError, did_you_mean
from jaxconv.inspect.arguments import as_paths
from jaxconv.keys import KeyLike
from jaxconv.layer import Capture, Layer, Params, State, Tree, capturing, plain_path, walk


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

    A pure function: it works under jit, grad, vmap, in remat and repeat (there the outputs are stacked). The gradient
    with respect to an array of zeros in ``add`` is the gradient at that place.

    Args:
      net: a layer.
      params, state, x: what ``net.apply`` takes.
      paths: whose outputs to return; None returns all layers'; "" is the network's own. A layer that runs several times
        has the paths ``name``, ``name[1]`` and so on. A layer inside one that opens a
        trace of its own (a user's ``vmap`` or ``jit`` around a composite) cannot be seen.
      add: arrays to add to the outputs of layers, by path; they broadcast to the output's shape. What is returned for
        that path includes them.
      train, key: what ``net.apply`` takes.

    Returns:
      y: the network's output.
      found: the outputs by path.

    Raises:
      ShapeError: a path names no layer, or one that cannot be seen; an added array does not fit.

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
                raise ShapeError(f"{argument} has {path!r}, which {did_you_mean(path, known)}")
    capture = Capture(wanted, extra)
    with capturing(capture):
        y, _ = net.apply(params, state, x, train=train, key=key)
        if "" in extra or "" in (wanted or ()):
            y = capture.visit(y)
    for argument, given, reached in (("paths", wanted or (), capture.found), ("add", extra, capture.added)):
        missed = sorted(set(given) - set(reached))
        if missed:
            raise ShapeError(f"{argument} has {missed[0]!r}, which did not run, or in a trace that a layer opened")
    return y, capture.found


__all__ = ["activations"]
