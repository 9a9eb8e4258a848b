"""The captioner that `experiments.captions` trains: its encoder, its cell, and its loss."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import pretrained
from experiments.optional import optax
from jaxconv.data.captions import Vocabulary
from jaxconv.equal_batches import equal_batches
from jaxconv.extras import need
from jaxconv.tokens import PAD, UNKNOWN

PENALTY = 0.1
FORGOTTEN = 0.25


def with_position(x: jax.Array) -> jax.Array:
    """Appends two channels to a feature map: the position's coordinates from -1 to 1 (Liu et al., 2018).

    A weighted mean of features has no position without them, and "left of" is about positions.

    >>> with_position(jnp.zeros((1, 3, 5, 8))).shape
    (1, 3, 5, 10)
    """
    axes = [jnp.linspace(-1, 1, n, dtype=x.dtype) for n in x.shape[1:3]]
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1)
    return jnp.concatenate([x, jnp.broadcast_to(grid, (*x.shape[:-1], 2))], -1)


def small_encoder(widths: Sequence[int] = (16, 32, 64)) -> jc.Layer:
    """Returns the ConvNet for scenes: blocks of convolution, batch norm and ReLU with a max pool between them.

    The last convolution is dilated: a position in the middle of the largest object must see its edges.
    """
    layers: dict[str, Any] = {}
    for i, width in enumerate(widths, 1):
        last = i == len(widths)
        conv = jc.Conv(width, bias=False, dilation=2 if last else 1)
        layers[f"block{i}"] = jc.serial(conv=conv, bn=jc.BatchNorm(), relu=jax.nn.relu)
        if not last:
            layers[f"pool{i}"] = jc.MaxPool(2)
    return jc.serial(**layers, position=with_position)


def lstm(width: int, hidden: int) -> jc.Layer:
    """Returns flax's LSTM cell as a layer."""
    need("flax", "experiments.captions", "captions")
    from flax import nnx

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return nnx.OptimizedLSTMCell(width, hidden, rngs=rngs)

    return jc.interop.flax.from_nnx(make(nnx.Rngs(0)), make=make)[0]


def network(encoder: jc.Layer, depth: int, words: int, hidden: int) -> Any:
    """Returns the captioner for an encoder of ``depth`` channels; word vectors are half as long as the hidden state."""
    cell = lstm(hidden // 2 + depth, hidden)
    return jc.models.captioner(
        encoder, cell, words, hidden=hidden, embedding=hidden // 2, attention=hidden // 2, dropout=0.5
    )


def preprocess(inputs: Any) -> Any:
    """Scales the images of the pair (images, words)."""
    images, words = inputs
    return pretrained.scaled_around_127(images), words


def loss(outputs: Any, targets: Any) -> Any:
    """Returns the mean cross-entropy of a caption's words and the penalty of its attention."""
    mask = targets["mask"]
    words = optax.softmax_cross_entropy_with_integer_labels(outputs["scores"], targets["tokens"])
    words = jnp.sum(words * mask, 1) / jnp.sum(mask, 1)
    penalty = jc.losses.doubly_stochastic_loss(outputs["attention"], mask)
    return words + PENALTY * penalty, {"words": words, "penalty": penalty}


def forget(key: jax.Array, inputs: Any, targets: Any) -> Any:
    """Replaces some of the words that the decoder gets by ``<unk>``, so that it relies on the image more."""
    images, words = inputs
    forgotten = jax.random.bernoulli(key, FORGOTTEN, words.shape)
    return (images, jnp.where(forgotten, UNKNOWN, words)), targets


def exact(outputs: Any, targets: Any) -> jax.Array:
    """Returns whether each word is the most probable one after the true words before it.

    If so for all words, greedy search finds this caption, and otherwise another one.
    """
    return jnp.all((outputs["scores"].argmax(-1) == targets["tokens"]) | ~targets["mask"], 1)


def pair(images: Any, tokens: Any) -> tuple[Any, Any]:
    """Returns the inputs and the targets of training."""
    return (images, tokens), {"tokens": tokens, "mask": tokens != PAD}


def schedule(lr: float) -> "Callable[[int], optax.GradientTransformation]":
    def make(steps: int) -> "optax.GradientTransformation":
        adam = optax.adamw(optax.cosine_onecycle_schedule(steps, lr), weight_decay=0.01)
        return optax.chain(optax.clip_by_global_norm(1.0), adam)

    return make


@dataclass(frozen=True)
class Model:
    """A trained network with its vocabulary."""

    net: Any
    params: Any
    state: Any
    words: Vocabulary
    length: int

    def search(self, images: np.ndarray, beams: int, batch: int = 250) -> np.ndarray:
        """Returns the tokens of the most probable caption of each image that a beam search finds."""
        found = []
        for part in equal_batches(images, batch):
            tokens = _search(self.net, self.length, beams, self.params, self.state, part.items)
            found.append(np.asarray(tokens)[part.skip :])
        return np.concatenate(found)

    def describe(self, images: np.ndarray, beams: int, batch: int = 250) -> list[str]:
        """Returns the most probable caption of each image that a beam search finds."""
        return self.words.decode(self.search(images, beams, batch))

    def attention(self, images: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Returns where the decoder looks for each word of the captions, ``(N, T, h, w)``."""
        inputs = preprocess((jnp.asarray(images), jnp.asarray(tokens)))
        return np.asarray(self.net.apply(self.params, self.state, inputs)[0]["attention"])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _search(net: Any, length: int, beams: int, params: Any, state: Any, images: jax.Array) -> jax.Array:
    images = pretrained.scaled_around_127(images)
    return net.describe(params, state, images, length=length, beams=beams)[0][:, 0]
