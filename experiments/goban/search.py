"""A small tree search (PUCT) guided by KataGo's network, and matches against the network's policy, by mctx and pgx.

Rosin, "Multi-armed bandits with episode context", 2011; Silver et al., "Mastering the game of Go without human
knowledge", 2017. All searches of a batch run in one compiled program: the rules are those of pgx, the inputs those of
`experiments.goban.states`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.goban.states import observe
from jaxconv.extras import need
from jaxconv.models.katago import KataGo

KOMI = 7.5
# In units of values from -1 to 1, as in KataGo: the weight of the prior, and how much worse a move that was not tried
# is assumed to be than its position.
EXPLORATION, CAUTION = 1.1, 0.2
ILLEGAL = -1e9


class Player(NamedTuple):
    """Compiled functions on batches of states of pgx.

    Attributes:
      env: pgx's environment.
      start: (keys) -> states.
      step: (states, actions) -> states.
      judge: (params, states) -> (logits of the moves, value for the player to move).
      search: (params, states, logits, values, key) -> actions; the moves with the most visits.
    """

    env: Any
    start: Callable[..., Any]
    step: Callable[..., Any]
    judge: Callable[..., Any]
    search: Callable[..., Any]


def players(net: KataGo, size: int = 9, simulations: int = 8, komi: float = KOMI) -> Player:
    """Returns the functions of a network that plays Go on a board of ``size`` lines.

    Args:
      net: the network; ``params`` of the functions is the pair (params, state).
      size: the number of lines.
      simulations: evaluations of the network in a search, beside that of its root.
      komi: points for white.

    Raises:
      ModuleNotFoundError: mctx or pgx is not installed.
    """
    mctx, pgx_go = (need(name, "a match", "go") for name in ("mctx", "pgx.go"))
    env = pgx_go.Go(size=size, komi=komi)

    def judge(params: Any, states: Any) -> tuple[jax.Array, jax.Array]:
        x = jax.vmap(functools.partial(observe, komi=komi))(states._x)
        outputs, _ = net.apply(params[0], params[1], x)
        logits = jnp.where(states.legal_action_mask, outputs["policy"][..., 0], ILLEGAL)
        win = jax.nn.softmax(outputs["value"][:, :2], axis=-1)
        return logits, jnp.where(states.terminated, 0.0, win[:, 0] - win[:, 1])

    def expand(params: Any, key: jax.Array, actions: jax.Array, states: Any) -> tuple[Any, Any]:
        mover = states.current_player
        states = jax.vmap(env.step)(states, actions)
        logits, values = judge(params, states)
        reward = jnp.take_along_axis(states.rewards, mover[:, None], axis=1)[:, 0]
        discount = jnp.where(states.terminated, 0.0, -1.0)
        return mctx.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=logits, value=values), states

    def search(params: Any, states: Any, logits: jax.Array, values: jax.Array, key: jax.Array) -> jax.Array:
        found = mctx.muzero_policy(
            params,
            key,
            mctx.RootFnOutput(prior_logits=logits, value=values, embedding=states),
            expand,
            simulations,
            invalid_actions=~states.legal_action_mask,
            qtransform=_values,
            dirichlet_fraction=0.0,
            pb_c_init=EXPLORATION,
        )
        summary = found.search_tree.summary()
        # Among moves with equal visits, the one with the highest value.
        score = jnp.where(summary.visit_counts > 0, summary.visit_counts + 0.49 * summary.qvalues, -jnp.inf)
        return score.argmax(-1)

    return Player(env, jax.jit(jax.vmap(env.init)), jax.jit(jax.vmap(env.step)), jc.jit(judge), jc.jit(search))


def _values(tree: Any, node: Any) -> jax.Array:
    """Returns the values of the moves at a node of mctx's tree."""
    values, visits = tree.qvalues(node), tree.children_visits[node]
    return jnp.where(visits > 0, values, tree.node_values[node] - CAUTION)


class Played(NamedTuple):
    """A finished game.

    Attributes:
      opening: the number of its opening.
      searcher: 0 if the search plays black, else 1.
      won: whether the search wins.
      moves: the actions, the opening included; the number of points means a pass.
      judged: whether the network's value ended the game, not the rules.
    """

    opening: int
    searcher: int
    won: bool
    moves: list[int]
    judged: bool


def openings(
    player: Player, params: Any, count: int, plies: int, key: jax.Array, *, chunk: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ``count`` balanced openings, int ``(count, plies)``, drawn from the policy, and their values for black.

    At least three times as many are drawn, ``chunk`` at a time; those are returned whose value is nearest to 0.
    """
    lines, black = [], []
    for _ in range(-(-3 * count // chunk)):
        key, first, *keys = jax.random.split(key, plies + 2)
        states = player.start(jax.random.split(first, chunk))
        moves = []
        for ply_key in keys:
            logits, _ = player.judge(params, states)
            moves.append(np.asarray(jax.random.categorical(ply_key, logits)))
            states = player.step(states, jnp.asarray(moves[-1]))
        lines.append(np.stack(moves, axis=1))
        black.append(np.asarray(player.judge(params, states)[1]) * (1 if plies % 2 == 0 else -1))
    values = np.concatenate(black)
    best = np.argsort(np.abs(values), kind="stable")[:count]
    return np.concatenate(lines)[best], values[best]


def match(
    player: Player,
    params: Any,
    lines: np.ndarray,
    key: jax.Array,
    *,
    slots: int = 16,
    certain: float = 0.97,
    patience: int = 3,
) -> Iterator[Played]:
    """Plays each opening twice, the search against the policy's most probable move, and yields the games as they end.

    In half of the slots the search plays black, in the other half white, so that at each ply it moves in one half. A
    game that ends makes room for the next.

    Args:
      player: see `players`.
      params: the network's (params, state).
      lines: openings, int ``(count, plies)`` with an even number of plies.
      key: the key of ties in the search.
      slots: games at a time, an even number.
      certain: a game ends if the winning probability of one side is at least this,
      patience: at this many positions in a row.
    """
    half = slots // 2
    waiting = [list(range(len(lines))) for _ in range(2)]
    game: list[tuple[int, list[int], list[float]] | None] = [None] * slots
    states = player.start(jax.random.split(key, slots))
    ply = 0
    while any(waiting) or any(game):
        if ply % 2 == 0:
            fresh = {}
            for slot in range(slots):
                side = slot // half
                if game[slot] is None and waiting[side]:
                    fresh[slot] = waiting[side].pop(0)
                    game[slot] = (fresh[slot], lines[fresh[slot]].tolist(), [])
            if fresh:
                new = [lines[fresh[slot]].tolist() if slot in fresh else [] for slot in range(slots)]
                states = _chosen([slot in fresh for slot in range(slots)], replayed(player, new, key), states)
        key, search_key = jax.random.split(key)
        logits, values = player.judge(params, states)
        actions = np.array(logits.argmax(-1))
        part = slice(ply % 2 * half, (ply % 2 + 1) * half)  # the half in which it is the turn of the search
        some = jax.tree.map(lambda leaf, part=part: leaf[part], (states, logits, values))
        actions[part] = player.search(params, *some, search_key)
        states = player.step(states, jnp.asarray(actions))
        over, rewards = np.asarray(states.terminated), np.asarray(states.rewards)
        order = np.asarray(states._player_order)
        for slot, entry in enumerate(game):
            if entry is None:
                continue
            opening, moves, black = entry
            moves.append(int(actions[slot]))
            black.append(float(values[slot]) * (1 if ply % 2 == 0 else -1))
            last = black[-patience:]
            sure = (
                len(last) == patience and min(abs(v) for v in last) >= 2 * certain - 1 and len(set(np.sign(last))) == 1
            )
            if over[slot] or sure:
                black_wins = rewards[slot][order[slot][0]] > 0 if over[slot] else last[-1] > 0
                searcher = slot // half
                yield Played(opening, searcher, bool(black_wins) == (searcher == 0), moves, not over[slot])
                game[slot] = None
        ply += 1


def replayed(player: Player, lines: Sequence[Sequence[int]], key: jax.Array) -> Any:
    """Returns the states after the actions of each line, which may have different lengths."""
    states = player.start(jax.random.split(key, len(lines)))
    for i in range(max(map(len, lines))):
        moves = jnp.array([line[i] if i < len(line) else 0 for line in lines])
        states = _chosen([i < len(line) for line in lines], player.step(states, moves), states)
    return states


def _chosen(which: Sequence[bool], states: Any, others: Any) -> Any:
    """Returns ``states`` where ``which`` is true, else ``others``."""
    mask = np.asarray(which)
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), states, others)


def played_out(
    player: Player, params: Any, games: Sequence[Played], key: jax.Array, *, chunk: int = 16
) -> list[bool | None]:
    """Returns whether black wins by the rules if the policy plays each game to its end; None where it does not end."""
    results: list[bool | None] = []
    for first in range(0, len(games), chunk):
        lines = [game.moves for game in games[first : first + chunk]]
        filled = lines + [[] for _ in range(chunk - len(lines))]
        states = replayed(player, filled, key)
        black = np.take_along_axis(np.asarray(states.rewards), np.asarray(states._player_order)[:, :1], 1)[:, 0]
        while not np.asarray(states.terminated)[: len(lines)].all():
            states = player.step(states, player.judge(params, states)[0].argmax(-1))
            rewards = np.take_along_axis(np.asarray(states.rewards), np.asarray(states._player_order)[:, :1], 1)[:, 0]
            black = np.where(black == 0, rewards, black)
        results += [None if value == 0 else bool(value > 0) for value in black[: len(lines)]]
    return results
