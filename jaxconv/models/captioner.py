"""Captions of images by a recurrent decoder with soft attention over a feature map.

Show, Attend and Tell: Neural Image Caption Generation with Visual Attention (Xu et al., 2015), with "soft" attention.
For word t the decoder computes weights of the positions of the feature map from its hidden state of word t - 1. The
inputs of its recurrent cell are the weighted mean of the positions and the word before. The scores of a word are a
function of the word before, the new hidden state and the weighted mean (the paper's deep output layer).

`jaxconv.losses.doubly_stochastic_loss` is the paper's penalty of the attention; `jaxconv.beam_search` the search.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from jaxconv.child import child_key, run_child
from jaxconv.compose.base import as_layer
from jaxconv.composite import Composite, Run
from jaxconv.described import Described
from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Children, Layer, LayerLike, Params, State, Tree, take
from jaxconv.layers import Dense, Dropout
from jaxconv.ops import dense
from jaxconv.search import beam_search
from jaxconv.structs import as_struct
from jaxconv.tokens import END, PAD, START


def _dense(params: Params, name: str, x: Array) -> Array:
    """Returns the output of the fully connected layer ``name``."""
    entry: Any = take(params, name)
    return dense(x, **entry)


def _key(key: KeyLike, name: str) -> Array:
    return cast(Array, child_key(key, name))


@dataclass(frozen=True, repr=False)
class CaptionDecoder(Described):
    """The decoder of `captioner`: its input is a feature map ``(N, *spatial, depth)`` and tokens ``(N, T)``.

    Attributes:
      cell: the recurrent cell, a layer from ``((c, h), x)`` to ``((c, h), h)``.
      words, hidden, embedding, attention, dropout: as in `captioner`.
    """

    call: ClassVar[str] = "caption_decoder"
    cell: Layer
    words: int
    hidden: int
    embedding: int
    attention: int
    dropout: float

    def check(self) -> None:
        for name in ("words", "hidden", "embedding", "attention"):
            as_int(getattr(self, name), name, least=1)
        Dropout(self.dropout)

    def _layers(self, depth: int) -> dict[str, tuple[int, Dense]]:
        """Returns the fully connected layers with the sizes of their inputs."""
        return {
            "c": (depth, Dense(self.hidden)),
            "h": (depth, Dense(self.hidden)),
            "keys": (depth, Dense(self.attention)),
            "query": (self.hidden, Dense(self.attention, bias=False)),
            "energy": (self.attention, Dense(1, bias=False)),
            "gate": (self.hidden, Dense(1)),
            "from_hidden": (self.hidden, Dense(self.embedding)),
            "from_context": (depth, Dense(self.embedding, bias=False)),
            "scores": (self.embedding, Dense(self.words)),
        }

    def init(self, key: KeyLike, x: Tree) -> tuple[Params, State]:
        """Returns fresh (params, state) for inputs shaped like ``x``: arrays, ShapeDtypeStructs or shape tuples."""
        features, _ = as_struct(x)
        depth = features.shape[-1]
        params: Params = {
            name: layer.init(_key(key, name), (1, size))[0] for name, (size, layer) in self._layers(depth).items()
        }
        table = jax.random.normal(_key(key, "embed"), (self.words, self.embedding))
        carry = ((1, self.hidden), (1, self.hidden))
        cell, state = self.cell.init(_key(key, "cell"), (carry, (1, self.embedding + depth)))
        if state:
            raise ArgumentError(f"cell must be a layer without state, got one with {', '.join(state)}")
        return params | {"embed": {"kernel": table / self.embedding**0.5}, "cell": cell}, {}

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        """Returns the scores of each word given the words before it, and the attention; see `captioner`."""
        features, words = x
        if features.ndim < 3 or words.ndim != 2 or len(words) != len(features):
            raise ShapeError(
                "x must be a feature map (N, *spatial, channels) and words (N, T), got shapes "
                f"{features.shape} and {words.shape}"
            )
        memory = self.memory(params, features)
        before = jnp.pad(words[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        embedded = self.embed(params, before)

        def look(carry: Tree, word: Array) -> tuple[Tree, Tree]:
            return self.look(params, memory, carry, word)

        begin = self.begin(params, memory)
        _, looked = jax.lax.scan(look, begin, jnp.swapaxes(embedded, 0, 1))
        hidden, context, weights = (jnp.swapaxes(a, 0, 1) for a in looked)
        y = self.joined(params, embedded, hidden, context)
        y, _ = Dropout(self.dropout).apply({}, {}, y, train=train, key=key)
        attention = weights.reshape(*words.shape, *features.shape[1:-1])
        return {"scores": _dense(params, "scores", y), "attention": attention}, {}

    def embed(self, params: Params, words: Array) -> Array:
        """Returns the vectors of words, ``(..., embedding)``."""
        if not jnp.issubdtype(words.dtype, jnp.integer):
            raise DTypeError(f"words must be integers, got {words.dtype}")
        table: Any = take(params, "embed")
        return take(table, "kernel")[words]

    def memory(self, params: Params, features: Array) -> tuple[Array, Array]:
        """Returns the positions of a feature map, ``(N, L, depth)``, and their keys, ``(N, L, attention)``."""
        flat = features.reshape(len(features), -1, features.shape[-1])
        return flat, _dense(params, "keys", flat)

    def begin(self, params: Params, memory: tuple[Array, Array]) -> tuple[Array, Array]:
        """Returns the first (c, h) of the cell, functions of the mean of the feature map."""
        mean = memory[0].mean(1)
        c, h = (jnp.tanh(_dense(params, name, mean)) for name in ("c", "h"))
        return c, h

    def look(
        self, params: Params, memory: tuple[Array, Array], carry: tuple[Array, Array], word: Array
    ) -> tuple[Tree, tuple[Array, Array, Array]]:
        """Looks at the feature map and runs the cell, for one word.

        Args:
          params: the decoder's params.
          memory: from `memory`, of N images, or of one image for n sequences.
          carry: the cell's (c, h), each ``(n, hidden)``.
          word: the vectors of the words before, ``(n, embedding)``.

        Returns:
          The new carry, and (the hidden state, the context ``(n, depth)``, the weights ``(n, L)``).
        """
        features, keys = memory
        query = _dense(params, "query", carry[1])
        energy = _dense(params, "energy", jnp.tanh(keys + query[:, None]))[..., 0]
        weights = jax.nn.softmax(energy)
        context = (weights[:, None] @ features)[:, 0]
        context = jax.nn.sigmoid(_dense(params, "gate", carry[1])) * context
        x = (carry, jnp.concatenate([word, context], -1))
        cell: Any = take(params, "cell")
        (carry, hidden), _ = run_child("cell", self.cell, cell, {}, x)
        return carry, (hidden, context, weights)

    def joined(self, params: Params, word: Array, hidden: Array, context: Array) -> Array:
        """Returns the input of the layer of scores, ``(..., embedding)``."""
        return jnp.tanh(word + _dense(params, "from_hidden", hidden) + _dense(params, "from_context", context))


@dataclass(frozen=True, repr=False)
class Captioner(Composite):
    """A network that describes images; created by `captioner`."""

    call: ClassVar[str] = "captioner"
    children: Children

    def route(self, run: Run, x: Tree) -> Tree:
        images, words = x
        (encoder, first), (decoder, second) = self.children
        return run(decoder, second, (run(encoder, first, images), words))

    def describe(
        self, params: Params, state: State, images: Array, *, length: int, beams: int = 1, length_power: float = 0.0
    ) -> tuple[Array, Array]:
        """Returns captions of images, the most probable first, by beam search; greedy with one beam.

        Args:
          params, state: the network's.
          images: the encoder's input, ``(N, ...)``.
          length: the largest number of words, the end included.
          beams, length_power: as in `jaxconv.beam_search`.

        Returns:
          Tokens ``(N, beams, length)`` int32, filled with ``tokens.END``, and log-probabilities ``(N, beams)``.
        """
        (encoder, first), (decoder, second) = self.children
        assert isinstance(second, CaptionDecoder)
        features, _ = run_child(encoder, first, params.get(encoder, {}), state.get(encoder, {}), images)
        inner: Any = take(params, decoder)

        def search(features: Array) -> tuple[Array, Array]:
            memory = second.memory(inner, features[None])

            def step(carry: Tree, words: Array) -> tuple[Tree, Array]:
                word = second.embed(inner, words)
                carry, (hidden, context, _) = second.look(inner, memory, carry, word)
                scores = _dense(inner, "scores", second.joined(inner, word, hidden, context))
                return carry, scores.at[:, jnp.array([PAD, START])].set(-jnp.inf)

            carry = jax.tree.map(lambda a: a[0], second.begin(inner, memory))
            options: dict[str, Any] = {"length": length, "beams": beams, "length_power": length_power}
            return beam_search(step, carry, start=START, end=END, **options)

        return jax.vmap(search)(features)


def captioner(
    encoder: LayerLike,
    cell: LayerLike,
    words: int,
    *,
    hidden: int,
    embedding: int = 512,
    attention: int = 512,
    dropout: float = 0.5,
) -> Captioner:
    """Returns Show, Attend and Tell (Xu et al., 2015): an encoder, and a decoder with soft attention.

    The input is a tuple (images, words): words ``(N, T)`` are the tokens of a caption, its words and then
    ``tokens.END``; `jaxconv.data.Vocabulary` makes them. The decoder predicts each word from the caption's words before
    it (teacher forcing). The output is a dict: ``scores`` ``(N, T, words)`` and ``attention`` ``(N, T, *spatial)``, the
    weights of each position of the feature map, whose sum is 1 for each word. The method ``describe`` searches for
    captions, under `jax.jit` too.

    Args:
      encoder: a layer from images to a feature map ``(N, *spatial, depth)``.
      cell: an LSTM cell, a layer from ``((c, h), x)`` to ``((c, h), h)`` for x ``(N, embedding + depth)``, such as
        ``from_nnx`` and ``from_linen`` of `jaxconv.interop.flax` make.
      words: the number of tokens, ``len(vocabulary)``.
      hidden: the size of the cell's hidden state.
      embedding: the size of a word's vector.
      attention: the size of the layer whose output weights the positions.
      dropout: the rate before the scores.

    Raises:
      ArgumentError: a size is below 1, or the rate is out of range.

    >>> from flax import linen
    >>> from jaxconv.interop.flax import from_linen
    >>> encoder = jc.serial(jc.Conv(8, stride=4), jax.nn.relu)
    >>> net = captioner(encoder, from_linen(linen.LSTMCell(16)), 20, hidden=16, embedding=8, attention=8)
    >>> images, words = jnp.ones((2, 16, 16, 3)), jnp.full((2, 5), 7)
    >>> params, state = net.init(jax.random.key(0), (images, words))
    >>> y, _ = net.apply(params, state, (images, words))
    >>> y["scores"].shape, y["attention"].shape
    ((2, 5, 20), (2, 5, 4, 4))
    >>> net.describe(params, state, images, length=6, beams=3)[0].shape
    (2, 3, 6)
    """
    decoder = CaptionDecoder(as_layer(cell), words, hidden, embedding, attention, dropout)
    return Captioner((("encoder", as_layer(encoder)), ("decoder", decoder)))


__all__ = ["captioner"]
