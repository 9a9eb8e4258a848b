"""KataGo: Wu, "Accelerating self-play learning in Go", 2019, with the nested bottleneck blocks of its later networks.

The input is a pair: planes ``(batch, height, width, 22)``, whose plane 0 is 1 on the board and 0 beside it, and global
features ``(batch, 19)``. One array can thus contain boards of several sizes. Blocks are pre-activation residual blocks.
A block with global pooling adds a bias to each channel, computed from the mean and the maximum over the board, so that
a position can depend on the whole board. Names are those of KataGo's training code. `jaxconv.weights.from_katago` makes
a network from a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxconv.compose.structure import Many
from jaxconv.composite import Run
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Children, Layer, LayerLike, Params, Tree
from jaxconv.layers import BatchNorm, Conv, Dense, Fn
from jaxconv.layers.base import Leaf

PLANES, FEATURES = 22, 19
VERSIONS = range(8, 15)
# KataGo's files have this number; the training code adds its epsilon to the variance before it writes a file.
NORM = BatchNorm(eps=1e-20)
# Added to the logits of points beside the board: finite, so that no gradient becomes NaN.
OFF_BOARD = -5000.0


def mish(x: Array) -> Array:
    """Returns ``x * tanh(softplus(x))``, computed with one exponential.

    >>> mish(jnp.array([0.0, 30.0]))
    Array([ 0., 30.], dtype=float32)
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2)
    return x * (n / (n + 2))


def _masked(y: Array, mask: Array) -> Array:
    return y * mask


def _plus_bias(y: Array, bias: Array) -> Array:
    return y + bias[:, None, None, :]


@dataclass(frozen=True, repr=False)
class BoardPool(Leaf):
    """Statistics of each channel over the board, ``(batch, 3 * channels)``, of a pair of feature map and mask.

    The first is the mean. The second is the mean times ``(side - 14) / 10``, where side is the square root of the
    number of points. The third is the maximum, or with ``largest=False`` the mean times
    ``((side - 14) / 10)**2 - 0.1``.

    >>> BoardPool().apply({}, {}, (jnp.ones((1, 19, 19, 1)), jnp.ones((1, 19, 19, 1))))[0]
    Array([[1. , 0.5, 1. ]], dtype=float32)
    """

    largest: bool = True

    def forward(self, params: Params, x: Tree) -> Tree:
        y, mask = x
        points = mask.sum((1, 2))
        scale = (jnp.sqrt(points) - 14) * 0.1
        mean = (y * mask).sum((1, 2)) / points
        # No activation is less than -1, the value beside the board.
        third = (y * mask + (mask - 1)).max((1, 2)) if self.largest else mean * (scale**2 - 0.1)
        return jnp.concatenate([mean, mean * scale, third], axis=-1)

    def geometry(self, x: Any) -> None:
        return None  # The input is a pair, whose receptive fields are unknown.


class NormActConv(Many):
    """Norm, activation, and a convolution or, under the name convpool, a `ConvPool`; of a feature map and its mask."""

    call = "katago.NormActConv"

    def route(self, run: Run, x: Tree) -> Tree:
        y, mask = x
        (norm, act, (name, conv)) = self.children
        y = run.join(_masked, run(*act, run(*norm, y)), mask)
        return run(name, conv, (y, mask) if name == "convpool" else y)


class ConvPool(Many):
    """A convolution, and a bias for each of its channels by global pooling of a second convolution."""

    call = "katago.ConvPool"

    def route(self, run: Run, x: Tree) -> Tree:
        y, mask = x
        conv, conv_pooled, norm, act, pool, dense = self.children
        pooled = run.join(_masked, run(*act, run(*norm, run(*conv_pooled, y))), mask)
        return run.join(_plus_bias, run(*conv, y), run(*dense, run(*pool, (pooled, mask))))


class Stack(Many):
    """Residual blocks in sequence, of a pair of feature map and mask; returns the feature map."""

    call = "katago.Stack"

    def route(self, run: Run, x: Tree) -> Tree:
        y, mask = x
        for name, block in self.children:
            y = run(name, block, (y, mask))
        return y


class Block(Many):
    """A residual block: the sum of its input and of its children in sequence, all of a pair of feature map and mask."""

    call = "katago.Block"

    def route(self, run: Run, x: Tree) -> Tree:
        y, mask = x
        z = y
        for name, layer in self.children:
            z = run(name, layer, (z, mask))
        return run.join(jnp.add, y, z)


class PolicyHead(Many):
    """Logits of the moves, ``(batch, height * width + 1, policies)``; the last move is the pass."""

    call = "katago.PolicyHead"

    def route(self, run: Run, x: Tree) -> Tree:
        y, mask = x
        conv1p, conv1g, biasg, actg, pool, linear_g, bias2, act2, conv2p, linear_pass = self.children
        pooled = run(*pool, (run.join(_masked, run(*actg, run(*biasg, run(*conv1g, y))), mask), mask))
        z = run.join(_plus_bias, run(*conv1p, y), run(*linear_g, pooled))
        z = run(*conv2p, run.join(_masked, run(*act2, run(*bias2, z)), mask))
        return run.join(_moves, z, run(*linear_pass, pooled), mask)


def _moves(points: Array, passes: Array, mask: Array) -> Array:
    n, _, _, policies = points.shape
    points = jnp.where(mask == 0, jnp.asarray(OFF_BOARD, points.dtype), points)
    return jnp.concatenate([points.reshape(n, -1, policies), passes[:, None]], axis=1)


class ValueHead(Many):
    """Logits of win, loss and no result, predictions of the score, and the ownership of each point before the tanh."""

    call = "katago.ValueHead"

    def route(self, run: Run, x: Tree) -> Tree:
        y, mask = x
        conv1, bias1, act1, pool, linear2, act2, value, score, ownership = self.children
        y = run.join(_masked, run(*act1, run(*bias1, run(*conv1, y))), mask)
        z = run(*act2, run(*linear2, run(*pool, (y, mask))))
        owned = run.join(lambda y, mask: (y * mask)[..., 0], run(*ownership, y), mask)
        return {"value": run(*value, z), "score": run(*score, z), "ownership": owned}


class Scales(NamedTuple):
    """The factors of the network's predictions; files up to version 12 have these defaults."""

    td_score: float = 20.0
    score_mean: float = 20.0
    score_std: float = 20.0
    lead: float = 20.0
    variance_time: float = 40.0
    value_error: float = 0.25
    score_error: float = 30.0


class Evaluation(NamedTuple):
    """What the network says about positions, for the player to move; one row a position.

    Attributes:
      policy: the probabilities of the moves, ``(batch, height * width + 1)``, zero for illegal moves.
      win, loss, no_result: probabilities, ``(batch,)``.
      score, score_std: the mean and the standard deviation of the final score in points, komi included, ``(batch,)``.
      lead: the points that would make the game even, ``(batch,)``.
      ownership: ``(batch, height, width)``, from -1, the opponent's, to 1.
    """

    policy: Array
    win: Array
    loss: Array
    no_result: Array
    score: Array
    score_std: Array
    lead: Array
    ownership: Array


@dataclass(frozen=True, repr=False)
class KataGo(Many):
    """KataGo's network; created by `katago` and by `jaxconv.weights.from_katago`.

    The output is a dict of logits for the player to move: policy ``(batch, height * width + 1, policies)``, value
    ``(batch, 3)``, score ``(batch, 4 or 6)`` and ownership ``(batch, height, width)``. `evaluation` makes
    probabilities and scores of it.

    Args:
      children: the layers, in the order of `katago`.
      version: the version of the format, 8 to 14, which determines the heads.
      scales: the factors of the predictions.

    >>> net = katago(2, 8, middle=4, pooled=2)
    >>> output = jc.inspect.trace(net, ((1, 9, 9, 22), (1, 19)))[-1].output
    >>> {name: y.shape for name, y in sorted(output.items())}
    {'ownership': (1, 9, 9), 'policy': (1, 82, 2), 'score': (1, 6), 'value': (1, 3)}
    >>> zeros = {name: jnp.zeros(y.shape) for name, y in output.items()}
    >>> net.evaluation(zeros, jnp.ones((1, 82), bool)).win
    Array([0.5], dtype=float32)
    """

    call = "katago.KataGo"
    version: int = 14
    scales: Scales = Scales()

    def check(self) -> None:
        super().check()
        if as_int(self.version, "version") not in VERSIONS:
            raise ArgumentError(f"version must be between {VERSIONS[0]} and {VERSIONS[-1]}, got {self.version}")
        # Described turns tuples into plain tuples.
        object.__setattr__(self, "scales", Scales(*self.scales))

    def arguments(self) -> list[str]:
        return [*super().arguments(), f"version={self.version}", f"scales={tuple(self.scales)}"]

    def route(self, run: Run, x: Tree) -> Tree:
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise ArgumentError(f"x must be a pair of planes and global features, got {type(x).__name__}")
        planes, features = x
        if len(planes.shape) != 4 or len(features.shape) != 2:
            raise ShapeError(
                "x must have planes (batch, height, width, planes) and features (batch, features), got shapes "
                f"{planes.shape} and {features.shape}"
            )
        conv_spatial, linear_global, blocks, norm, act, policy, value = self.children
        mask = run.join(lambda planes: planes[..., :1], planes)
        y = run.join(_plus_bias, run(*conv_spatial, planes), run(*linear_global, features))
        y = run(*blocks, (y, mask))
        y = run.join(_masked, run(*act, run(*norm, y)), mask)
        return {"policy": run(*policy, (y, mask)), **run(*value, (y, mask))}

    def evaluation(self, outputs: Tree, legal: Array, *, no_result: bool = False) -> Evaluation:
        """Returns probabilities and scores of the network's outputs.

        Args:
          outputs: what ``apply`` returns.
          legal: which moves are legal, ``(batch, height * width + 1)``, the pass last.
          no_result: whether the rules know a game without result: simple ko, or territory scoring.
        """
        value, score = outputs["value"], outputs["score"]
        policy = jnp.where(legal, outputs["policy"][..., 0], -jnp.inf)
        if not no_result:
            value = value.at[:, 2].set(-jnp.inf)
        win, loss, none = jnp.moveaxis(jax.nn.softmax(value, axis=-1), -1, 0)
        mean = score[:, 0] * self.scales.score_mean
        std = jax.nn.softplus(score[:, 1]) * self.scales.score_std
        # A game without result counts as a score of 0.
        square = (mean**2 + std**2) * (1 - none)
        mean, lead = mean * (1 - none), score[:, 2] * self.scales.lead * (1 - none)
        spread = jnp.sqrt(jnp.maximum(square - mean**2, 0))
        return Evaluation(
            jax.nn.softmax(policy, axis=-1), win, loss, none, mean, spread, lead, jnp.tanh(outputs["ownership"])
        )


def norm_act_conv(features: int, window: int, act: LayerLike, pooled: int = 0) -> NormActConv:
    """Returns a norm, an activation and a convolution; with ``pooled`` channels for global pooling beside it."""
    conv: dict[str, Layer] = {"conv": Conv(features, window, bias=False)}
    if pooled:
        conv = {
            "convpool": ConvPool(
                _children(
                    conv1r=Conv(features, window, bias=False),
                    conv1g=Conv(pooled, window, bias=False),
                    normg=NORM,
                    actg=act,
                    gpool=BoardPool(),
                    linear_g=Dense(features, bias=False),
                )
            )
        }
    return NormActConv(_children(norm=NORM, act=act, **conv))


def _children(**layers: LayerLike) -> Children:
    return tuple((name, layer if isinstance(layer, Layer) else Fn(layer)) for name, layer in layers.items())


def _numbered(layers: Sequence[Layer]) -> Children:
    return tuple((str(i), layer) for i, layer in enumerate(layers))


def katago(
    depth: int = 18,
    width: int = 384,
    *,
    middle: int = 192,
    pooled: int = 64,
    nested: int = 2,
    pools: Sequence[int] | None = None,
    policy: int = 48,
    values: Sequence[int] = (48, 128),
    act: LayerLike = mish,
    version: int = 14,
) -> KataGo:
    """Returns KataGo's network with untrained weights. By default b18c384nbt: 26,326,985 parameters.

    Args:
      depth: the number of blocks.
      width: channels of the trunk.
      middle: channels inside a block.
      pooled: channels of global pooling. The convolution beside it has ``middle - pooled`` channels.
      nested: ordinary blocks inside each nested bottleneck block; 0 for ordinary blocks of ``middle`` channels.
      pools: indices of the blocks with global pooling; None for every third block but the last.
      policy: channels of the policy head.
      values: channels of the value head: of its convolution, and of its hidden layer.
      act: the activation.
      version: the version of the format, 8 to 14. From version 9 on the score has 6 predictions, not 4; from version 12
        on there are two policies, the second one optimistic.

    Raises:
      ValueError: a number is out of range, or ``pools`` names a block that does not exist.

    >>> jc.summary(katago(4, 16, middle=8, pooled=4), ((1, 19, 19, 22), (1, 19))).parameters
    43465
    """
    as_int(depth, "depth", least=1)
    as_int(nested, "nested", least=0)
    if not 0 < as_int(pooled, "pooled") < as_int(middle, "middle"):
        raise ArgumentError(f"pooled must be between 1 and middle - 1, got {pooled} with middle {middle}")
    pools = range(2, depth - 1, 3) if pools is None else pools
    if not set(pools) <= set(range(depth)):
        raise ArgumentError(f"pools must be indices of blocks below {depth}, got {tuple(pools)}")

    def ordinary(features: int, inside: int, pool: bool) -> Block:
        first = norm_act_conv(inside - pooled, 3, act, pooled) if pool else norm_act_conv(inside, 3, act)
        return Block(_children(normactconv1=first, normactconv2=norm_act_conv(features, 3, act)))

    def block(i: int) -> Block:
        if not nested:
            return ordinary(width, middle, i in pools)
        inner = Stack(_numbered([ordinary(middle, middle, i in pools and not j) for j in range(nested)]))
        first, last = norm_act_conv(middle, 1, act), norm_act_conv(width, 1, act)
        return Block(_children(normactconvp=first, blockstack=inner, normactconvq=last))

    def conv(features: int) -> Conv:
        return Conv(features, 1, bias=False)

    bias = BatchNorm(eps=NORM.eps, scale=False)
    policies, scores = (2 if version >= 12 else 1), (6 if version >= 9 else 4)
    policy_head = PolicyHead(
        _children(
            **{"conv1p": conv(policy), "conv1g": conv(policy), "biasg": bias, "actg": act, "gpool": BoardPool()},
            **{"linear_g": Dense(policy, bias=False), "bias2": bias, "act2": act},
            **{"conv2p": conv(policies), "linear_pass": Dense(policies, bias=False)},
        )
    )
    value_head = ValueHead(
        _children(
            **{"conv1": conv(values[0]), "bias1": bias, "act1": act, "gpool": BoardPool(largest=False)},
            **{"linear2": Dense(values[1]), "act2": act, "linear_valuehead": Dense(3)},
            **{"linear_miscvaluehead": Dense(scores), "conv_ownership": conv(1)},
        )
    )
    return KataGo(
        _children(
            conv_spatial=Conv(width, 3, bias=False),
            linear_global=Dense(width, bias=False),
            blocks=Stack(_numbered([block(i) for i in range(depth)])),
            norm_trunkfinal=NORM,
            act_trunkfinal=act,
            policy_head=policy_head,
            value_head=value_head,
        ),
        version,
        Scales(score_error=150.0) if version >= 13 else Scales(),
    )


__all__ = ["KataGo", "katago"]
