"""Learning a game with several seeds: one program mapped over seeds, a loop over seeds, flax and torch.

    python -m experiments.benchmarks.play              # writes results/play.json

PQN on MinAtar's Breakout (`experiments.atari.pqn`), five seeds, each an update of 1,024 frames: acting in 64 games and
eight minibatches. All use pgx's compiled games; torch gets the boards from JAX and learns in a loop over seeds.
Flax's network replaces jaxconv's in the same program. The figure is the processor time of an update of all seeds, which
other programs on the machine change less than the wall time. The first call, which compiles, is not counted.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.atari.command import PARALLEL
from experiments.atari.games import Game, minatar
from experiments.atari.learning import Program
from experiments.atari.pqn import pqn
from experiments.atari.training import processor, seed_keys
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "play.json"
SEEDS, UPDATES = 5, 4


def flax_network(actions: int) -> Any:
    """Returns the network of `jaxconv.models.minatar_dqn` with layer norm, by Flax."""
    from flax import linen

    class FlaxNetwork(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.relu(linen.LayerNorm()(linen.Conv(16, (3, 3), padding="VALID")(x)))
            x = linen.relu(linen.LayerNorm()(linen.Dense(128)(x.reshape(len(x), -1))))
            return linen.Dense(actions)(x)

    return FlaxNetwork()


def mapped(program: Program, jit: Callable[..., Any]) -> Callable[[], Any]:
    """Returns a call that trains all seeds in one program."""
    start = jax.jit(jax.vmap(program.start))(seed_keys(range(SEEDS)))
    run = jit(jax.vmap(program.run, in_axes=(0, None)))
    return lambda: jax.block_until_ready(run(start, jnp.int32(0)))


def looped(program: Program, jit: Callable[..., Any]) -> Callable[[], Any]:
    """Returns a call that trains one seed after another."""
    starts = [jax.jit(program.start)(key) for key in seed_keys(range(SEEDS))]
    run = jit(program.run)
    return lambda: [jax.block_until_ready(run(start, jnp.int32(0))) for start in starts]


def in_torch(game: Game) -> Callable[[], Any]:
    """Returns a call that trains one seed after another in torch."""
    import torch

    s = PARALLEL

    def network() -> Any:
        # torch's LayerNorm normalizes the last axes: the channels are put last for it, as in the other networks.
        class Channels(torch.nn.LayerNorm):
            def forward(self, x: Any) -> Any:
                return super().forward(x.movedim(1, -1)).movedim(-1, 1)

        conv = torch.nn.Conv2d(game.shape[-1], 16, 3)
        return torch.nn.Sequential(
            conv, Channels(16), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1024, 128),
            torch.nn.LayerNorm(128), torch.nn.ReLU(), torch.nn.Linear(128, game.actions),
        )  # fmt: skip

    step = jax.jit(game.step)
    start = jax.jit(game.start, static_argnums=1)

    def boards(observations: Any) -> Any:
        return torch.from_numpy(np.array(observations)).float().movedim(-1, 1)

    def update(net: Any, optimizer: Any, games: Any, seen: Any, key: Any) -> tuple[Any, Any]:
        rows = []
        for t in range(s.steps):
            with torch.no_grad():
                values = net(seen)
            anything = torch.randint(game.actions, (s.envs,))
            actions = torch.where(torch.rand(s.envs) < s.epsilon[1], anything, values.argmax(1))
            games, after, rewards, ends = step(games, actions.numpy(), jax.random.fold_in(key, t))
            rows.append(
                (seen, actions, torch.from_numpy(np.array(rewards)), torch.from_numpy(np.array(ends)), values.amax(1))
            )
            seen = boards(after)
        observations, actions, rewards, ends, values = map(torch.stack, zip(*rows, strict=True))
        with torch.no_grad():
            following = torch.cat([values[1:], net(seen).amax(1)[None]])
        later, returns = following[-1], torch.empty_like(rewards)
        for t in reversed(range(s.steps)):
            later = rewards[t] + s.discount * ~ends[t] * ((1 - s.decay) * following[t] + s.decay * later)
            returns[t] = later
        flat = [x.flatten(0, 1) for x in (observations, actions, returns)]
        for _ in range(s.epochs):
            for rows_of in torch.randperm(s.envs * s.steps).chunk(s.minibatches):
                x, action, wanted = (a[rows_of] for a in flat)
                loss = 0.5 * (net(x).gather(1, action[:, None])[:, 0] - wanted).square().mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), s.max_norm)
                optimizer.step()
        return games, seen

    nets = [network() for _ in range(SEEDS)]
    moves = [torch.optim.RAdam(net.parameters(), lr=s.lr) for net in nets]
    begun = [start(jax.random.key(i), s.envs) for i in range(SEEDS)]

    def call() -> None:
        for i, (net, optimizer) in enumerate(zip(nets, moves, strict=True)):
            games, seen = begun[i][0], boards(begun[i][1])
            for number in range(UPDATES):
                games, seen = update(net, optimizer, games, seen, jax.random.key(number))

    return call


def candidates() -> dict[str, Callable[[], Any]]:
    """Returns the calls, each of ``UPDATES`` updates of all seeds; torch is left out if it is not installed."""
    game = minatar("breakout")
    frames = PARALLEL.envs * PARALLEL.steps * UPDATES
    ours, flax = (
        pqn(game, net, PARALLEL, frames, updates=UPDATES)
        for net in (
            jc.models.minatar_dqn(game.actions, layer_norm=True),
            jc.interop.flax.from_linen(flax_network(game.actions)),
        )
    )
    found = {
        "jaxconv, vmap": mapped(ours, jc.jit),
        "jaxconv, vmap, jax.jit": mapped(ours, jax.jit),
        "jaxconv, loop": looped(ours, jc.jit),
        "flax, vmap": mapped(flax, jax.jit),
        "flax, loop": looped(flax, jax.jit),
    }
    try:
        return found | {"torch, loop": in_torch(game)}
    except ImportError:
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = {}
    for name, call in candidates().items():
        begin = time.perf_counter()
        call()
        first = time.perf_counter() - begin
        wall, used = [], []
        for _ in range(args.rounds):
            marks = time.perf_counter(), processor()
            call()
            wall.append((time.perf_counter() - marks[0]) / UPDATES)
            used.append((processor() - marks[1]) / UPDATES)
        rows[name] = {"processor_s": float(np.median(used)), "s": float(np.median(wall)), "first_call_s": first}
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    about = {"seeds": SEEDS, "frames": SEEDS * PARALLEL.envs * PARALLEL.steps, "rounds": args.rounds}
    write_results(args.out, environment() | about | {"shared_machine": True, "rows": rows})


if __name__ == "__main__":
    main()
