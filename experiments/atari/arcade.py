"""DQN on a real Atari game: the emulator runs on the host, the network and the replay buffer in JAX."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.atari import dqn
from experiments.atari.console import SIZE, STACK, Console, pushed
from experiments.atari.learning import action_values, as_floats, explore, huber
from experiments.atari.replay import add, new_replay, sample
from experiments.optional import TrainState

# Smaller than in the paper (a million frames, 50,000 of warmup, a copy every 10,000 updates), to fit minutes on a CPU.
SETTINGS = dqn.DQN(envs=1, capacity=20_000, warmup=1_000, period=1_000, explored=20_000)
# The agent's steps between two updates, as in the paper.
EVERY = 4


class Played(NamedTuple):
    """The trained parameters, the returns of the games that ended, and the counts of a run."""

    params: Any
    returns: list[float]
    steps: int
    updates: int
    seconds: float


def train(
    console: Console,
    net: jc.Layer,
    settings: dqn.DQN,
    seconds: float,
    *,
    seed: int = 0,
    report: Callable[[int, list[float]], None] = lambda steps, returns: None,
) -> Played:
    """Trains DQN on a console for a time.

    Args:
      console: the game.
      net: the network, for frames from 0 to 255.
      settings: the hyperparameters, of one game.
      seconds: the time of acting and learning, after compilation.
      seed: of weights and exploration.
      report: ``report(steps, returns)``, called every 250 steps.
    """
    moves = dqn.optimizer(settings)
    train_state = TrainState.create(net, moves, seed, (1, SIZE, SIZE, STACK))
    target = train_state.params
    memory = new_replay(settings.capacity, 1, (SIZE, SIZE, 1), jnp.uint8)
    step = jc.train.train_step(net, huber, moves, preprocess=as_floats, donate=False)
    keys = jax.random.split(jax.random.key(seed))

    @jc.jit
    def choose(params: Any, stack: Any, epsilon: Any, number: Any) -> Any:
        key = jax.random.fold_in(keys[0], number)
        return explore(key, action_values(net, params, stack[None]), epsilon)[0]

    @jc.jit
    def learn(train_state: Any, target: Any, memory: Any, count: Any) -> Any:
        batch = sample(memory, count, jax.random.fold_in(keys[1], count), settings.batch, stack=STACK)
        return dqn.learn(step, net, settings, train_state, target, batch)

    store = jax.jit(add, donate_argnums=0)
    stack, score, returns, updates, number = _first(console), 0.0, [], 0, 0
    start = time.perf_counter()
    while number <= EVERY or time.perf_counter() - start < seconds:
        epsilon = np.interp(number - settings.warmup, (0, settings.explored), settings.epsilon)
        epsilon = 1.0 if number < settings.warmup else epsilon
        action = int(choose(train_state.params, stack, epsilon, number))
        result = console.step(action)
        memory = store(
            memory, number, stack[None, ..., -1:], np.array([action]), np.array([result.reward], np.float32),
            np.array([result.end]),
        )  # fmt: skip
        score += result.reward
        if result.over:
            returns.append(score)
            score, stack = 0.0, _first(console)
        elif result.end:
            stack = pushed(np.zeros_like(stack), result.frame)
        else:
            stack = pushed(stack, result.frame)
        number += 1
        if number > settings.warmup and number % EVERY == 0:
            train_state, _ = learn(train_state, target, memory, number)
            updates += 1
            if updates % settings.period == 0:
                target = train_state.params
        if number == EVERY:
            # The programs are compiled by now, but for learning.
            jax.block_until_ready(learn(train_state, target, memory, number))
            start = time.perf_counter()
        if number % 250 == 0:
            report(number, returns)
    return Played(train_state.params, returns, number, updates, time.perf_counter() - start)


def _first(console: Console) -> np.ndarray:
    """Starts a game and returns its first stack: zeros before the first frame."""
    return pushed(np.zeros((SIZE, SIZE, STACK), np.uint8), console.reset())


def watch(console: Console, net: jc.Layer, params: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Plays by the best actions; returns screens ``(steps, height, width, 3)`` and the network's inputs, both uint8."""
    best = jc.jit(lambda stack: jnp.argmax(action_values(net, params, stack[None])[0]))
    stack, screens, stacks = _first(console), [], []
    for _ in range(steps):
        screens.append(console.ale.getScreenRGB())
        stacks.append(stack)
        result = console.step(int(best(stack)))
        stack = _first(console) if result.over else pushed(stack, result.frame)
    return np.stack(screens), np.stack(stacks)
