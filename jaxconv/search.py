"""Beam search: the most probable sequences of a model that predicts one token after another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Tree
from jaxconv.ops.arrays import accumulator


def beam_search(
    step: Callable[[Tree, Array], tuple[Tree, Array]],
    carry: Tree,
    *,
    start: int,
    end: int,
    length: int,
    beams: int = 1,
    length_power: float = 0.0,
) -> tuple[Array, Array]:
    """Returns the most probable sequences that a search of fixed width finds, the best first.

    The search extends all sequences by each token and keeps those of the largest sum of log-probabilities. A sequence
    that has its ``end`` is not extended. With one beam the search is greedy. All shapes are static; `jax.vmap` over
    ``carry`` searches for a batch.

    Args:
      step: ``step(carry, tokens) -> (carry, scores)`` for ``tokens`` of shape ``(beams,)`` int32: the scores of the
        next token, ``(beams, count)``, logits or log-probabilities. A token of score -inf is never chosen.
      carry: the first carry of one sequence, a pytree of arrays; in ``step`` each has a leading axis ``beams``.
      start: the token before the first.
      end: the token that ends a sequence.
      length: the largest number of tokens, ``end`` included.
      beams: the number of sequences that are kept.
      length_power: the result is ordered by the log-probability divided by this power of the number of tokens: 0 orders
        by the log-probability, 1 by its mean.

    Returns:
      Tokens ``(beams, length)`` int32, filled with ``end``, and log-probabilities ``(beams,)``, -inf where there are
      fewer sequences than beams.

    Raises:
      ArgumentError: a number is out of range.
      ShapeError: scores are not ``(beams, count)``.

    Without pruning, so with at least ``count ** (length - 1)`` beams, the result is that of an exhaustive search.

    >>> table = jnp.log(jnp.array([[0.0, 0.6, 0.4], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    >>> def search(beams):
    ...     tokens, scores = beam_search(lambda c, t: (c, table[t]), (), start=0, end=2, length=3, beams=beams)
    ...     return tokens.tolist(), [f"{p:.2f}" for p in jnp.exp(scores)]
    >>> search(1)
    ([[1, 0, 1]], ['0.18'])
    >>> search(2)
    ([[2, 2, 2], [1, 0, 1]], ['0.40', '0.18'])
    """
    as_int(length, "length", least=1)
    as_int(beams, "beams", least=1)
    tokens = jnp.full((beams,), start, jnp.int32)
    carry = jax.tree.map(lambda a: jnp.broadcast_to(a, (beams, *jnp.shape(a))), carry)
    scores = jax.eval_shape(step, carry, tokens)[1]
    shape, dtype = scores.shape, accumulator(scores.dtype)
    if len(shape) != 2 or shape[0] != beams:
        raise ShapeError(f"step must return scores of shape ({beams}, count), got {shape}")
    count = shape[1]
    for name, token in (("start", start), ("end", end)):
        if not 0 <= as_int(token, name) < count:
            raise ArgumentError(f"{name} must be a token from 0 to {count - 1}, got {token}")
    # The only continuation of a finished sequence, which costs nothing.
    stay = jnp.where(jnp.arange(count) == end, 0, -jnp.inf).astype(dtype)

    def more(search: tuple) -> Array:
        t, *_, finished = search
        return (t < length) & ~finished.all()

    def extend(search: tuple) -> tuple:
        t, carry, tokens, found, total, finished = search
        carry, scores = step(carry, tokens)
        log_p = jax.nn.log_softmax(scores.astype(dtype))
        each = total[:, None] + jnp.where(finished[:, None], stay, log_p)
        total, best = jax.lax.top_k(each.reshape(-1), beams)
        parents, tokens = best // count, best % count
        carry, found, finished = jax.tree.map(lambda a: a[parents], (carry, found, finished))
        return t + 1, carry, tokens, found.at[:, t].set(tokens), total, finished | (tokens == end)

    found = jnp.full((beams, length), end, jnp.int32)
    # All beams begin with the same sequence, so that only one of them may be extended.
    total = jnp.where(jnp.arange(beams) == 0, 0, -jnp.inf).astype(dtype)
    first = (0, carry, tokens, found, total, jnp.zeros(beams, bool))
    _, _, _, found, total, _ = jax.lax.while_loop(more, extend, first)
    lengths = jnp.minimum(jnp.sum(found != end, 1) + 1, length)
    order = jnp.argsort(-total / lengths**length_power, stable=True)
    return found[order], total[order]


__all__ = ["beam_search"]
