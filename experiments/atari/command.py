"""Trains deep Q-learning on games, and shows what was learned.

    python -m experiments.atari --game breakout --agent pqn --seeds 5
    python -m experiments.atari --game breakout --agent dqn --double --dueling
    python -m experiments.atari --rom pong --seconds 600

Games: those of MinAtar (Young and Tian, 2019) by pgx, on boards of 10x10, with sticky actions; pgx's files of these
games have the license GPL-3. Agents: DQN (Mnih et al., 2015) with a replay buffer and a target network, with the
options double (van Hasselt et al., 2016) and dueling (Wang et al., 2016); PQN (Gallici et al., 2024), which has
parallel games instead. Acting and learning are one compiled scan, mapped over seeds. With --rom DQN plays a real Atari
game by ale-py (GPL-2, pip install ale-py), with the preprocessing of Mnih et al., for a time: enough to see it play and
to measure its speed, not to learn.

Mean return of the best actions, with the standard deviation of five seeds, and processor time on two cores of an AMD
EPYC (AVX-512), by frames of each seed:

    Breakout, PQN          3,000,000    24.2 ± 3.5     353 s
    Breakout, DQN          3,600,000    16.3 ± 1.2    3042 s
    Space Invaders, PQN    1,200,000    101 ± 11       146 s

The learning curves, and those of double and dueling DQN, are in docs/play.md.

Prints the mean return of the episodes that end during the training. Writes metrics.json with the learning curves,
weights, an animation of a game beside what the network looks at, the figures and report.html under --out.
"""

import argparse
import base64
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.atari import arcade, drawing
from experiments.atari.console import Console
from experiments.atari.dqn import DQN, dqn
from experiments.atari.games import MINATAR, minatar
from experiments.atari.learning import Program, watch
from experiments.atari.pqn import PQN, pqn
from experiments.atari.training import Trained, greedy_returns, processor, train
from experiments.classify import Help, positive
from experiments.optional import Image, figures, jaxconv_train, needed

# Against the authors' runs of 1e7 frames: fewer frames between updates, each learned from once at twice the rate, which
# learns more in a given time on CPU; and fewer actions at random.
PARALLEL = PQN(envs=64, steps=16, epochs=1, minibatches=8, lr=1e-3, epsilon=(1.0, 0.02))
# The number of returns in a learning curve.
POINTS = 100
FRAMES = {"pqn": 3_000_000, "dqn": 200_000}
# The steps of an animation.
STEPS = 120
# With --rom, where every pixel of the saliency changes, the animation shows every third step, and the largest saliency
# in blocks of the first convolution's stride: 150 kB in place of 750.
EACH, BLOCK = 3, 4
# PPO of gymnax's table of environments (README of gymnax 1.0.1); its games have no sticky actions and 1,000 frames.
PUBLISHED = {"asterix": 15.0, "breakout": 28.0, "freeway": 58.0, "space_invaders": 131.0}


class Animation:
    """An animated GIF as a part of a report."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def _repr_html_(self) -> str:
        return f'<img alt="animation" src="data:image/gif;base64,{base64.b64encode(self.content).decode()}">'


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.atari", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    played = arguments.add_mutually_exclusive_group()
    played.add_argument("--game", choices=MINATAR, default="breakout", help="the game of MinAtar")
    played.add_argument("--rom", help="a real Atari game in its place, such as pong, for DQN")
    arguments.add_argument("--agent", choices=FRAMES, help="default: pqn, or dqn with --rom")
    arguments.add_argument("--double", action="store_true", help="double Q-learning, for dqn")
    arguments.add_argument("--dueling", action="store_true", help="a dueling network")
    arguments.add_argument(
        "--frames", type=positive(int), help="of each seed; default: 3,000,000 for pqn, 200,000 for dqn"
    )
    arguments.add_argument("--seconds", type=positive(float), help="of training, with --rom; default: 60")
    arguments.add_argument("--seeds", type=positive(int), default=1, help="the number of seeds, trained in one program")
    arguments.add_argument("--seed", type=int, default=0, help="the first seed")
    arguments.add_argument("--out", type=Path, help="a folder for the report; default: runs/atari-GAME-AGENT")
    arguments.add_argument("--quiet", action="store_true", help="print only the results")
    return arguments


def agent_name(arguments: Mapping[str, Any]) -> str:
    """Returns the agent with its options, of the arguments that metrics.json has.

    >>> agent_name({"agent": "dqn", "double": True, "dueling": False})
    'double DQN'
    """
    return " ".join([*(name for name in ("double", "dueling") if arguments[name]), arguments["agent"].upper()])


def program_of(options: argparse.Namespace) -> Program:
    """Returns the agent on its game."""
    game = minatar(options.game)
    frames = options.frames or FRAMES[options.agent]
    net = jc.models.minatar_dqn(game.actions, dueling=options.dueling, layer_norm=options.agent == "pqn")
    if options.agent == "pqn":
        updates = max(1, frames // (PARALLEL.envs * PARALLEL.steps * POINTS))
        return pqn(game, net, PARALLEL, frames, updates=updates)
    return dqn(game, net, DQN(double=options.double), frames)


def played_on_boards(options: argparse.Namespace) -> dict[str, Any]:
    program = program_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.seed, options.seed + options.seeds)
    begin = time.perf_counter()

    def show(frames: int, returns: np.ndarray) -> None:
        each = " ".join(f"{value:6.2f}" for value in returns)
        if not options.quiet:
            print(f"{frames:9,} frames, {time.perf_counter() - begin:5.0f} s, return {each}", flush=True)

    trained = train(program, seeds, show)
    final = greedy_returns(program, trained.player, jax.random.key(options.seed))
    best = int(final.mean(axis=1).argmax())
    params = jax.tree.map(lambda x: x[best], trained.player.train_state.params)
    jc.weights.save(options.out / "weights.safetensors", program.net, params, {})
    record = jax.tree.map(
        np.asarray,
        jax.jit(lambda key: watch(program.game, program.net, params, key, steps=STEPS))(jax.random.key(options.seed)),
    )
    heat = drawing.looked_at(program.net, params, record["observations"])
    boards = [drawing.board(observation, 10) for observation in record["observations"]]
    animated = drawing.animation(
        [drawing.beside(picture, drawing.with_saliency(picture, h)) for picture, h in zip(boards, heat, strict=True)]
    )
    report.write(options.out / "game.gif", animated)
    metrics = results(trained, final, program) | {"game": options.game, "agent": options.agent} | about(options, seeds)
    report.write_json(options.out / "metrics.json", metrics)
    levels = {"PPO of gymnax": PUBLISHED[options.game]} if options.game in PUBLISHED else {}
    label = f"{agent_name(metrics['arguments'])}, {options.seeds} seeds"
    curves = drawing.learning_curves({label: (trained.frames, trained.returns)}, levels=levels)
    few = np.linspace(0, len(boards) - 1, 8).astype(int)
    maps = figures.heat_maps(np.stack([boards[i] for i in few]), heat[few])
    spread = final.mean(axis=1)
    facts = {
        "game": f"{options.game} (MinAtar), {program.runs * program.frames:,} frames of each seed",
        "mean return of the best actions": f"{spread.mean():.2f}, by seed {np.round(spread, 2).tolist()}",
        "training": f"{metrics['seconds']} s, {metrics['processor_seconds']} s of processor time",
        "device": metrics["device"],
    }
    finish(options, facts, [
        ("learning_curves", "Returns while learning", curves),
        ("game", "A game, and what the network looks at", Animation(animated)),
        ("saliency", "The positions that the value of the best action depends on", maps),
        ("network", "The network", jc.summary(program.net, (1, *program.game.shape))),
    ])  # fmt: skip
    print(f"mean return of the best actions by seed: {np.round(spread, 2).tolist()}, mean {spread.mean():.2f}")
    return metrics


def results(trained: Trained, final: np.ndarray, program: Program) -> dict[str, Any]:
    """Returns what is measured of a training, for a JSON file."""
    total = program.frames * (program.runs - 1) * len(final)
    return report.rounded({
        "frames": trained.frames.tolist(),
        "returns": [[None if np.isnan(x) else float(x) for x in row] for row in trained.returns],
        "greedy_return": final.mean(axis=1).tolist(),
        "greedy_return_mean": float(final.mean()),
        "greedy_return_std": float(final.mean(axis=1).std(ddof=1)) if len(final) > 1 else 0.0,
        "seconds": trained.seconds,
        "processor_seconds": trained.processor_seconds,
        "compile_seconds": trained.compile_seconds,
        "frames_per_processor_second": total / max(trained.processor_seconds, 1e-9),
    })  # type: ignore[no-any-return]  # fmt: skip


def about(options: argparse.Namespace, seeds: Sequence[int]) -> dict[str, Any]:
    return {"seeds": list(seeds), **report.environment(), "arguments": report.arguments(options)}


def played_on_a_console(options: argparse.Namespace) -> dict[str, Any]:
    console = Console(options.rom, episodic_life=True, seed=options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    net = jc.models.nature_dqn(len(console.actions), dueling=options.dueling, transform_input=True)
    settings = dataclasses.replace(arcade.SETTINGS, double=options.double)

    def show(steps: int, returns: list[float]) -> None:
        if not options.quiet:
            last = f"last return {returns[-1]:.0f}" if returns else "no game over yet"
            print(f"{steps:8,} steps, {steps * console.skip:9,} frames, {last}", flush=True)

    used = processor()
    played = arcade.train(console, net, settings, options.seconds, seed=options.seed, report=show)
    used = processor() - used
    jc.weights.save(options.out / "weights.safetensors", net, played.params, {})
    screens, stacks = arcade.watch(console, net, played.params, 120)
    animated = drawing.animation(screen_pictures(net, played.params, stacks[::EACH]), milliseconds=80 * EACH)
    report.write(options.out / "game.gif", animated)
    frames = played.steps * console.skip
    metrics = report.rounded({
        "rom": options.rom,
        "steps": played.steps,
        "frames": frames,
        "updates": played.updates,
        "seconds": played.seconds,
        "processor_seconds": used,
        "frames_per_second": frames / played.seconds,
        "returns": played.returns,
    }) | about(options, [options.seed])  # fmt: skip
    report.write_json(options.out / "metrics.json", metrics)
    facts = {
        "game": f"{options.rom} (ale-py)",
        "frames": f"{frames:,}, {metrics['frames_per_second']:,.0f} per second, {played.updates:,} updates",
        "returns": ", ".join(f"{value:.0f}" for value in played.returns) or "no game over yet",
        "device": metrics["device"],
    }
    few = np.linspace(0, len(screens) - 1, 8).astype(int)
    finish(options, facts, [
        ("game", "What the network sees, and what it looks at", Animation(animated)),
        ("screens", "The game's screens", figures.images(screens[few], columns=4)),
        ("network", "The network", jc.summary(net, (1, 84, 84, 4))),
    ])  # fmt: skip
    print(f"{frames:,} frames in {played.seconds:.0f} s, {metrics['frames_per_second']:,.0f} per second")
    return metrics


def screen_pictures(net: jc.Layer, params: Any, stacks: np.ndarray) -> list[np.ndarray]:
    """Returns, for each stack of frames, the last frame, and beside it the saliency of blocks of pixels."""
    heat = drawing.looked_at(net, params, stacks)
    count, height, width = heat.shape
    heat = heat.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK).max((2, 4))
    grays = [stack[..., -1:].repeat(3, -1).repeat(2, 0).repeat(2, 1) for stack in stacks]
    return [drawing.beside(gray, drawing.with_saliency(gray, h)) for gray, h in zip(grays, heat, strict=True)]


def finish(options: argparse.Namespace, facts: dict[str, Any], parts: list[tuple[str, str, Any]]) -> None:
    title = f"{agent_name(vars(options))} on {options.rom or options.game}"
    print(f"open {report.write_report(options.out, title, facts, parts)}")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parser()
    options = arguments.parse_args(argv)
    options.agent = options.agent or ("dqn" if options.rom else "pqn")
    if options.rom and options.agent != "dqn":
        raise ValueError("--agent must be dqn with --rom, got pqn, which needs many games at a time")
    if options.rom and (options.frames is not None or options.seeds != 1):
        raise ValueError("--frames and --seeds must come without --rom, whose length is --seconds, of one seed")
    if options.seconds is not None and not options.rom:
        raise ValueError("--seconds must come with --rom, got none; the length of a training on boards is --frames")
    options.seconds = options.seconds or 60.0
    if options.double and options.agent != "dqn":
        raise ValueError("--double must be given with --agent dqn, got pqn, which has no target network")
    kind = "-".join([*(name for name in ("double", "dueling") if getattr(options, name)), options.agent])
    options.out = options.out or Path("runs") / f"atari-{options.rom or options.game}-{kind}"
    needed(Image, jaxconv_train, figures)
    return played_on_a_console(options) if options.rom else played_on_boards(options)
