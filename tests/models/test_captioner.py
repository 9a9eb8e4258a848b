"""Show, Attend and Tell against its equations in NumPy float64, and its searches against its own scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.interop.flax import from_linen, from_nnx
from jaxconv.tokens import END, PAD, START

WORDS, HIDDEN, EMBEDDING, DEPTH = 9, 6, 5, 4
ENCODER = jc.serial(conv=jc.Conv(DEPTH, stride=2), relu=jax.nn.relu)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 6, 3)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(END, WORDS, (3, 5))
LSTM = functools.partial(nnx.LSTMCell, EMBEDDING + DEPTH, HIDDEN)
SIZES = {"hidden": HIDDEN, "embedding": EMBEDDING, "attention": 7}


def network(dropout=0.0):
    cell, _, _ = from_nnx(LSTM(rngs=nnx.Rngs(0)), make=lambda rngs: LSTM(rngs=rngs))
    return jc.models.captioner(ENCODER, cell, WORDS, dropout=dropout, **SIZES)


@pytest.fixture(scope="module")
def model():
    """The network, and weights large enough that its choices differ."""
    net = network()
    params, state = net.init(jax.random.key(0), (IMAGES, TOKENS))
    return net, jax.tree.map(lambda a: 3 * a, params), state


@functools.partial(jax.jit, static_argnums=0)
def apply(net, params, state, images, tokens):
    return net.apply(params, state, (images, tokens))[0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_it_computes_the_equations_of_the_paper(model):
    net, params, state = model
    features = np.asarray(ENCODER.apply(params["encoder"], {}, IMAGES)[0], np.float64).reshape(3, -1, DEPTH)
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), params["decoder"])

    def linear(x, *names):
        entry = functools.reduce(lambda tree, name: tree[name], names, w)
        return x @ entry["kernel"] + entry.get("bias", 0)

    c, h = (np.tanh(linear(features.mean(1), name)) for name in "ch")
    before, scores, attention = np.full(3, START), [], []
    for t in range(TOKENS.shape[1]):
        word = w["embed"]["kernel"][before]
        energy = linear(np.tanh(linear(features, "keys") + linear(h, "query")[:, None]), "energy")[..., 0]
        alpha = np.exp(energy) / np.exp(energy).sum(1, keepdims=True)
        context = sigmoid(linear(h, "gate")) * np.einsum("nl,nld->nd", alpha, features)
        x = np.concatenate([word, context], 1)
        i, f, o = (sigmoid(linear(x, "cell", f"i{g}") + linear(h, "cell", f"h{g[0]}")) for g in ("i", "f_", "o"))
        c = f * c + i * np.tanh(linear(x, "cell", "ig") + linear(h, "cell", "hg"))
        h = o * np.tanh(c)
        scores.append(linear(np.tanh(word + linear(h, "from_hidden") + linear(context, "from_context")), "scores"))
        attention.append(alpha.reshape(3, 4, 3))
        before = TOKENS[:, t]
    y = apply(net, params, state, IMAGES, TOKENS)
    assert_allclose(y["scores"], np.stack(scores, 1), rtol=1e-3, atol=1e-4)
    assert_allclose(y["attention"], np.stack(attention, 1), rtol=1e-3, atol=1e-5)


def test_a_word_is_predicted_from_the_words_before_it_only(model):
    net, params, state = model
    other = TOKENS.copy()
    other[:, 2] = 3 + (other[:, 2] - 2) % (WORDS - 3)
    one, two = (apply(net, params, state, IMAGES, tokens) for tokens in (TOKENS, other))
    for name in ("scores", "attention"):
        differs = np.abs(one[name] - two[name]).reshape(3, 5, -1).max(-1)
        assert (differs[:, :3] == 0).all()
        # The attention of a word is chosen before the cell has the word before it.
        assert (differs[:, 3 if name == "scores" else 4] > 1e-4).all()


def test_greedy_search_takes_the_most_probable_word_again_and_again(model):
    net, params, state = model
    tokens = np.full((3, 6), END, np.int32)
    done = np.zeros(3, bool)
    for t in range(6):
        scores = np.array(apply(net, params, state, IMAGES, tokens)["scores"][:, t])
        scores[:, [PAD, START]] = -np.inf
        tokens[:, t] = np.where(done, END, scores.argmax(-1))
        done |= tokens[:, t] == END
    found, _ = jax.jit(lambda images: net.describe(params, state, images, length=6))(IMAGES)
    assert_array_equal(found[:, 0], tokens)


def test_log_probabilities_of_a_beam_search_are_those_of_the_scores(model):
    net, params, state = model
    found, totals = jax.jit(lambda images: net.describe(params, state, images, length=5, beams=4))(IMAGES)
    assert found.shape == (3, 4, 5)
    assert not np.isin(found, [PAD, START]).any()
    assert (np.diff(totals, axis=1) <= 0).all()
    for beam in range(4):
        tokens = np.asarray(found[:, beam])
        scores = np.array(apply(net, params, state, IMAGES, tokens)["scores"])
        scores[..., [PAD, START]] = -np.inf
        each = np.take_along_axis(np.asarray(jax.nn.log_softmax(scores)), tokens[..., None], 2)[..., 0]
        there = np.cumsum(tokens == END, 1) - (tokens == END) == 0
        assert_allclose(totals[:, beam], (each * there).sum(1), rtol=1e-4)


def test_linens_cell_is_as_good_and_needs_no_sizes():
    net = jc.models.captioner(ENCODER, from_linen(linen.LSTMCell(HIDDEN)), WORDS, **SIZES)
    params, state = net.init(jax.random.key(0), (IMAGES.shape, TOKENS))
    again, _ = network().init(jax.random.key(0), (IMAGES, TOKENS))
    kernels = ("ii", "if", "ig", "io")
    params["decoder"]["cell"] = {
        name: dict(again["decoder"]["cell"][f"{name}_" if name == "if" else name])
        for name in (*kernels, "hi", "hf", "hg", "ho")
    }
    ours = apply(network(), again, {}, IMAGES, TOKENS)
    assert_allclose(apply(net, params, state, IMAGES, TOKENS)["scores"], ours["scores"], rtol=1e-5, atol=1e-6)


def test_fit_trains_it_on_structured_targets_with_dropout_and_the_penalty():
    targets = {"tokens": TOKENS, "mask": np.arange(5) < np.array([[5], [3], [4]])}

    def loss(outputs, targets):
        words = optax.softmax_cross_entropy_with_integer_labels(outputs["scores"], targets["tokens"])
        penalty = jc.losses.doubly_stochastic_loss(outputs["attention"], targets["mask"])
        return jnp.mean(words * targets["mask"], 1) + penalty, {"penalty": penalty}

    net, inputs = network(0.1), (IMAGES, TOKENS)
    fitted = jc.train.fit(
        net, inputs, targets, optax.adam(0.05), loss=loss, epochs=25, batch_size=3, validation=(inputs, targets),
        progress=False,
    )  # fmt: skip
    first, last = fitted.history[0], fitted.history[-1]
    assert last["validation_loss"] < 0.6 * first["validation_loss"]
    assert "validation_penalty" in last


def test_summary_counts_its_parameters():
    params, _ = network().init(jax.random.key(0), (IMAGES, TOKENS))
    assert jc.summary(network(), (IMAGES, TOKENS)).parameters == sum(a.size for a in jax.tree.leaves(params))


def test_what_does_not_fit_is_refused(model):
    net, params, state = model
    with pytest.raises(jc.DTypeError, match=r"^decoder \(CaptionDecoder\): words must be integers, got float32"):
        net.apply(params, state, (IMAGES, TOKENS.astype(np.float32)))
    with pytest.raises(jc.ShapeError, match=r"decoder .* got shapes \(3, 4, 3, 4\) and \(2, 5\)"):
        net.apply(params, state, (IMAGES, TOKENS[:2]))
    with pytest.raises(jc.ArgumentError, match=r"cell must be a layer without state, got one with mean, var"):
        jc.models.captioner(ENCODER, Counting(), WORDS, **SIZES).init(jax.random.key(0), (IMAGES, TOKENS))
    with pytest.raises(jc.MissingKeyError, match="key"):
        network(0.5).apply(params, state, (IMAGES, TOKENS), train=True)
    with pytest.raises(ValueError, match="hidden must be"):
        jc.models.captioner(ENCODER, Counting(), WORDS, hidden=0)


class Counting:
    def init(self, key, x):
        return {}, {"mean": jnp.zeros(1), "var": jnp.zeros(1)}

    def apply(self, params, state, x, *, train=False, key=None):
        return x, state
