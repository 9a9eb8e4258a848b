"""Beam search against an exhaustive search, and against a plain search in NumPy where it prunes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc

COUNT, LENGTH, START, END = 4, 4, 0, 3
# Scores of the next token for each history: the row is the history as a number of base COUNT, after a leading 1.
TABLE = np.random.default_rng(0).normal(0, 2, (2 * COUNT ** (LENGTH + 1), COUNT))


def step(code, tokens):
    code = jnp.where(code == 0, 1, code * COUNT + tokens)
    return code, jnp.asarray(TABLE, jnp.float32)[code]


def log_p(sequence):
    """The log-probability of a sequence, in float64."""
    code, total = 1, 0.0
    for token in sequence:
        scores = TABLE[code]
        total += scores[token] - np.log(np.exp(scores).sum())
        code = code * COUNT + token
    return total


def sequences():
    """All sequences that end with END, or are of the full length without it."""
    for length in range(1, LENGTH + 1):
        for head in itertools.product(*[[t for t in range(COUNT) if t != END]] * (length - 1)):
            yield from ((*head, last) for last in range(COUNT) if length == LENGTH or last == END)


def filled(sequence):
    return [*sequence, *[END] * (LENGTH - len(sequence))]


def narrow(beams):
    """A beam search over tuples."""
    found = [()]
    for _ in range(LENGTH):
        longer = [s for s in found if s[-1:] == (END,)]
        longer += [(*s, t) for s in found if s[-1:] != (END,) for t in range(COUNT)]
        found = sorted(longer, key=lambda s: -log_p(s))[:beams]
    return found


def search(beams, **options):
    options = {"start": START, "end": END, "length": LENGTH, "beams": beams} | options
    return jax.jit(lambda code: jc.beam_search(step, code, **options))(jnp.int32(0))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_without_pruning_it_is_an_exhaustive_search(power):
    beams = COUNT ** (LENGTH - 1)
    tokens, scores = search(beams, length_power=power)
    # Of the most probable sequences, in the order of the score.
    best = sorted(sequences(), key=lambda s: -log_p(s))[:beams]
    best.sort(key=lambda s: -log_p(s) / len(s) ** power)
    assert_array_equal(tokens, [filled(s) for s in best])
    assert_allclose(scores, [log_p(s) for s in best], rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_a_narrow_search_keeps_the_best_of_each_step(beams):
    tokens, scores = search(beams)
    assert_array_equal(tokens, [filled(s) for s in narrow(beams)])
    assert_allclose(scores, [log_p(s) for s in narrow(beams)], rtol=1e-5)


def test_one_beam_is_greedy_and_more_find_better():
    code, greedy = 1, []
    while len(greedy) < LENGTH and END not in greedy:
        greedy.append(int(TABLE[code].argmax()))
        code = code * COUNT + greedy[-1]
    tokens, scores = search(1)
    assert_array_equal(tokens, [filled(greedy)])
    assert scores[0] < search(COUNT ** (LENGTH - 1))[1][0]


def test_a_batch_is_searched_by_vmap():
    starts = jnp.arange(5)

    def one(shift):
        def shifted(carry, tokens):
            code, shift = carry
            code, scores = step(code, tokens)
            return (code, shift), jnp.roll(scores, shift[0], axis=-1)

        return jc.beam_search(shifted, (jnp.int32(0), shift), start=START, end=END, length=LENGTH, beams=3)

    tokens, scores = jax.vmap(one)(starts)
    assert len({tuple(row.ravel().tolist()) for row in tokens}) > 1
    for i, shift in enumerate(starts):
        alone, p = one(shift)
        assert_array_equal(tokens[i], alone)
        assert_allclose(scores[i], p, rtol=1e-5)


def test_a_token_of_score_minus_infinity_is_never_chosen_and_missing_sequences_are_marked():
    def only(carry, tokens):
        return carry, jnp.where(jnp.arange(COUNT) < 2, -jnp.inf, jnp.zeros((len(tokens), COUNT)))

    tokens, scores = jc.beam_search(only, (), start=START, end=END, length=2, beams=4)
    assert_allclose(jnp.exp(scores), [0.5, 0.25, 0.25, 0], rtol=1e-6)
    assert_array_equal(tokens[0], [END, END])
    assert (tokens[:3] >= 2).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_scores_of_other_types(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        scores = jnp.asarray([[0.0, 1.0, 2.0]], dtype)
        found = jc.beam_search(lambda c, t: (c, scores[jnp.zeros_like(t)]), (), start=0, end=2, length=3, beams=2)
        assert found[1].dtype == (jnp.float32 if dtype == jnp.bfloat16 else jnp.float64)
        assert_array_equal(found[0][0], [2, 2, 2])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"end": 4}, "end must be a token from 0 to 3, got 4"),
        ({"start": -1}, "start must be a token from 0 to 3, got -1"),
        ({"length": 0}, "length must be"),
        ({"beams": 0}, "beams must be"),
    ],
)
def test_numbers_out_of_range_are_refused(options, match):
    with pytest.raises(jc.ArgumentError, match=match):
        search(**{"beams": 2} | options)


def test_scores_without_a_row_for_each_beam_are_refused():
    with pytest.raises(jc.ShapeError, match=r"step must return scores of shape \(2, count\), got \(4,\)"):
        jc.beam_search(lambda c, t: (c, jnp.zeros(4)), (), start=0, end=1, length=2, beams=2)
