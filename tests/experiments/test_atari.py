"""Agents: targets and replay against NumPy, one update by hand, a game that is learned in seconds."""

import dataclasses
import doctest
import functools
import io
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments.atari import arcade, command, drawing, learning
from experiments.atari import results as collected
from experiments.atari.console import Step
from experiments.atari.dqn import DQN, dqn
from experiments.atari.dqn import learn as learn_from_batch
from experiments.atari.dqn import optimizer as rmsprop
from experiments.atari.games import Game, minatar, where
from experiments.atari.learning import explore, lambda_returns, one_step_targets
from experiments.atari.pqn import PQN, pqn
from experiments.atari.replay import Batch, add, new_replay, sample
from experiments.atari.training import ensemble, greedy_returns, seed_keys, train

SIZE = 4


def board(column, row, paddle):
    """A falling ball and a paddle, as a board of two channels."""
    positions = jnp.arange(SIZE)
    ball = (positions[:, None] == row[:, None, None]) & (positions == column[:, None, None])
    bar = (positions[:, None] == SIZE - 1) & (positions == paddle[:, None, None])
    return jnp.stack([ball, bar], axis=-1)


def start(key, count):
    column = jax.random.randint(key, (count,), 0, SIZE)
    state = (column, jnp.zeros(count, jnp.int32), jnp.full(count, SIZE // 2))
    return state, board(*state)


def step(state, actions, key):
    column, row, paddle = state
    state = (column, row + 1, jnp.clip(paddle + actions - 1, 0, SIZE - 1))
    ends = state[1] == SIZE - 1
    rewards = jnp.where(ends, jnp.where(state[0] == state[2], 1.0, -1.0), 0.0)
    state = where(ends, start(key, len(actions))[0], state)
    return state, board(*state), rewards, ends


CATCH = Game("catch", 3, (SIZE, SIZE, 2), start, step)
NET = jc.serial(flatten=jc.Flatten(), fc=jc.Dense(32), relu=jax.nn.relu, values=jc.Dense(3))
PARALLEL = PQN(envs=16, steps=8, epochs=2, minibatches=4, lr=1e-2, explored=0.5)
REPLAYED = DQN(envs=4, batch=32, capacity=1000, warmup=100, period=50, lr=2e-3, explored=600)


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def forward_view(rewards, ends, values, discount, decay):
    """G as the weighted mean of the n-step returns, which stop at the end of the episode or of the steps."""
    steps = len(rewards)
    found = np.zeros_like(rewards)
    for t in range(steps):
        total, weight, sofar = 0.0, 1.0, 0.0
        for n, u in enumerate(range(t, steps)):
            sofar += discount**n * rewards[u]
            last = ends[u] or u == steps - 1
            bootstrapped = sofar + (0.0 if ends[u] else discount ** (n + 1) * values[u])
            total += weight * (1.0 if last else 1 - decay) * bootstrapped
            weight *= decay
            if last:
                break
        found[t] = total
    return found


@pytest.mark.parametrize("decay", [0.0, 0.65, 1.0])
def test_lambda_returns_are_the_weighted_mean_of_n_step_returns(decay):
    rewards, values = numbers((9, 3)), numbers((9, 3), 1)
    ends = np.random.default_rng(2).random((9, 3)) < 0.2
    assert ends.any()
    found = lambda_returns(*map(jnp.asarray, (rewards, ends, values)), discount=0.9, decay=decay)
    wanted = np.stack([forward_view(rewards[:, i], ends[:, i], values[:, i], 0.9, decay) for i in range(3)], 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_targets_of_one_step_single_and_double():
    rewards, ends = numbers(5), np.array([False, True, False, False, True])
    target, online = numbers((5, 3), 1), numbers((5, 3), 2)
    single = rewards + 0.9 * ~ends * target.max(1)
    double = rewards + 0.9 * ~ends * target[np.arange(5), online.argmax(1)]
    assert np.abs(single - double).max() > 0.1
    np.testing.assert_allclose(one_step_targets(rewards, ends, target, discount=0.9), single, rtol=1e-5)
    np.testing.assert_allclose(one_step_targets(rewards, ends, target, online, discount=0.9), double, rtol=1e-5)


def test_exploration_is_greedy_but_for_a_share_of_any_action():
    values = jnp.tile(jnp.array([0.0, 3.0, 1.0]), (4000, 1))
    assert set(np.asarray(explore(jax.random.key(0), values, 0.0))) == {1}
    counts = np.bincount(explore(jax.random.key(0), values, 0.3), minlength=3) / 4000
    np.testing.assert_allclose(counts, [0.1, 0.8, 0.1], atol=0.02)


class Written:
    """Steps in NumPy, and the same in a replay buffer of the last ``capacity``."""

    def __init__(self, steps, capacity, envs=2):
        rng = np.random.default_rng(3)
        self.observations = rng.integers(1, 200, (steps, envs, 2, 2, 1), np.uint8)
        self.actions = np.arange(steps * envs).reshape(steps, envs)  # tells which step was drawn
        self.rewards = rng.normal(size=(steps, envs)).astype(np.float32)
        self.ends = rng.random((steps, envs)) < 0.25
        self.replay = new_replay(capacity, envs, (2, 2, 1), jnp.uint8)
        for t in range(steps):
            self.replay = add(
                self.replay,
                t,
                *map(jnp.asarray, (self.observations[t], self.actions[t], self.rewards[t], self.ends[t])),
            )

    def stack(self, step, env, size):
        """The last observations up to a step, oldest first; zero before the first of the episode."""
        frames, t = [], step
        for _ in range(size):
            frames.append(np.zeros((2, 2, 1), np.uint8) if t is None else self.observations[t, env])
            t = None if t is None or t == 0 or self.ends[t - 1, env] else t - 1
        return np.concatenate(frames[::-1], axis=-1)


@pytest.mark.parametrize(("steps", "capacity"), [(7, 12), (30, 12)])
@pytest.mark.parametrize("stack", [1, 3])
def test_replay_returns_whole_transitions(steps, capacity, stack):
    written = Written(steps, capacity)
    draw = jax.jit(sample, static_argnames=("batch", "stack"))
    batch = jax.tree.map(np.asarray, draw(written.replay, steps, jax.random.key(0), batch=400, stack=stack))
    drawn = batch.actions
    oldest = 0 if steps <= capacity else steps - capacity + stack - 1
    assert set(drawn // 2) == set(range(oldest, steps - 1))
    for i, (step, env) in enumerate(zip(drawn // 2, drawn % 2, strict=True)):
        np.testing.assert_array_equal(batch.observations[i], written.stack(step, env, stack))
        assert (batch.rewards[i], batch.ends[i]) == (written.rewards[step, env], written.ends[step, env])
        if not batch.ends[i]:
            np.testing.assert_array_equal(batch.next_observations[i], written.stack(step + 1, env, stack))


def test_a_replay_of_one_step_is_refused():
    with pytest.raises(ValueError, match="capacity must be at least 2 steps"):
        new_replay(1, 1, (2, 2, 1), jnp.uint8)


@pytest.mark.parametrize("double", [False, True])
def test_one_update_of_dqn_by_hand(double):
    """A linear network with one feature an action: RMSProp's step from the clipped error, in NumPy."""
    net = jc.serial(flatten=jc.Flatten(), values=jc.Dense(2, bias=False))
    settings = DQN(double=double, discount=0.5, lr=0.1)
    old, target = numbers((2, 2)).astype(np.float32), numbers((2, 2), 1).astype(np.float32)
    seen, after = (numbers((4, 1, 1, 2), seed).astype(np.float32) for seed in (2, 3))
    actions, rewards, ends = np.array([0, 1, 1, 0]), np.array([5.0, 0.3, -0.2, 0.1]), np.array([0, 0, 1, 0], bool)
    tree = lambda kernel: {"values": {"kernel": jnp.asarray(kernel)}}  # noqa: E731
    moves = rmsprop(settings)
    train_state = jc.train.TrainState.create(net, moves, 0, init=(tree(old), {}))
    step = jc.train.train_step(net, learning.huber, moves, preprocess=learning.as_floats, donate=False)
    batch = Batch(*map(jnp.asarray, (seen, actions, rewards, ends, after)))
    new, loss = learn_from_batch(step, net, settings, train_state, tree(target), batch)

    x, x_next = seen.reshape(4, 2), after.reshape(4, 2)
    best = (x_next @ (old if double else target)).argmax(1)
    returns = np.clip(rewards, -1, 1) + 0.5 * ~ends * (x_next @ target)[np.arange(4), best]
    errors = (x @ old)[np.arange(4), actions] - returns
    small = np.abs(errors) <= 1
    np.testing.assert_allclose(loss, np.where(small, errors**2 / 2, np.abs(errors) - 0.5).mean(), rtol=1e-5)
    grad = np.zeros((2, 2))
    for error, action, features in zip(np.clip(errors, -1, 1), actions, x, strict=True):
        grad[:, action] += error * features / 4
    mean, square = 0.05 * grad, 0.05 * grad**2
    wanted = old - 0.1 * grad / (np.sqrt(square - mean**2) + 0.01)
    np.testing.assert_allclose(new.params["values"]["kernel"], wanted, rtol=1e-4)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@functools.cache
def program_of(agent):
    """The program of an agent, whose functions are compiled once."""
    return pqn(CATCH, NET, PARALLEL, 6000, updates=2) if agent == "pqn" else dqn(CATCH, NET, REPLAYED, 4000)


@pytest.mark.parametrize("agent", ["pqn", pytest.param("dqn", marks=pytest.mark.slow)])
def test_catch_is_learned_and_a_seed_decides_all(agent):
    program = program_of(agent)
    seen = []
    trained = train(program, [0, 1], lambda frames, returns: seen.append((frames, *returns)))
    assert trained.returns.shape == trained.losses.shape == (2, program.runs)
    assert (
        [row[0] for row in seen] == trained.frames.tolist() == [program.frames * (i + 1) for i in range(program.runs)]
    )
    assert trained.returns[:, 0].max() < 0.2
    greedy = greedy_returns(program, trained.player, jax.random.key(5), episodes=64, limit=SIZE)
    assert greedy.shape == (2, 64)
    assert greedy.mean(axis=1).min() > 0.95
    again, other = (train(program, seeds).player.train_state.params for seeds in ([0, 1], [1, 2]))
    assert same(trained.player.train_state.params, again)
    first, second = (jax.tree.map(lambda x, i=i: x[i], again) for i in range(2))
    assert same(second, jax.tree.map(lambda x: x[0], other))
    assert not same(first, second)


def test_returns_are_those_of_the_episodes_that_ended():
    """Every episode of Catch has SIZE - 1 steps and a return of 1 or -1."""
    begin, run = ensemble(program_of("pqn"))
    player, measured = run(begin(seed_keys([0, 1])), jnp.int32(0))
    # Two updates of 8 steps each.
    assert measured["episodes"].tolist() == [16 * (2 * 8 // (SIZE - 1))] * 2
    assert (np.abs(measured["return"]) <= measured["episodes"]).all()
    assert (np.asarray(player.scores) == 0).all()


def test_a_watched_game_records_each_step():
    params, _ = NET.init(jax.random.key(0), (1, *CATCH.shape))
    record = learning.watch(CATCH, NET, params, jax.random.key(1), steps=7)
    assert record["observations"].shape == (7, *CATCH.shape)
    np.testing.assert_array_equal(record["values"].argmax(1), record["actions"])
    np.testing.assert_array_equal(record["ends"], [False, False, True, False, False, True, False])
    np.testing.assert_array_equal(record["rewards"] != 0, record["ends"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pqn(CATCH, NET, PARALLEL, 100, updates=2), "frames must be at least 256, got 100"),
        (lambda: dqn(CATCH, NET, REPLAYED, 100), "frames must be at least 200, got 100"),
        (
            lambda: pqn(CATCH, NET, dataclasses.replace(PARALLEL, minibatches=7), 10_000),
            "minibatches must divide 128 frames of an update, got 7",
        ),
    ],
)
def test_trainings_without_a_whole_run_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rewards_are_clipped_for_learning_only():
    from experiments.atari.pqn import Rollout
    from experiments.atari.pqn import learn as learn_from_rollout

    seen = []

    def step(train_state, observations, targets):
        seen.append(targets[1])
        return train_state, {"loss": jnp.zeros(())}

    rewards = jnp.array([[3.0], [-2.0]])
    rollout = Rollout(jnp.zeros((2, 1, 1)), jnp.zeros((2, 1), jnp.int32), rewards, jnp.ones((2, 1), bool), rewards)
    for clip in (False, True):
        settings = PQN(envs=1, steps=2, epochs=1, minibatches=1, clip=clip)
        with jax.disable_jit():
            learn_from_rollout(step, settings, jnp.zeros(()), rollout, jnp.zeros(1), jax.random.key(0))
    assert [sorted(np.asarray(s).tolist()) for s in seen] == [[-2.0, 3.0], [-1.0, 1.0]]


@pytest.mark.parametrize("module", [collected, command, drawing])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted > found.failed == 0


def test_boards_are_drawn_beside_what_the_network_looks_at():
    boards = np.zeros((5, 10, 10, 2), bool)
    boards[np.arange(5), 3, np.arange(5), 1] = True
    heat = np.zeros((5, 10, 10))
    heat[:, 7, 7] = 1.0
    frames = []
    for picture, h in zip([drawing.board(b, 4) for b in boards], heat, strict=True):
        frames.append(drawing.beside(picture, drawing.with_saliency(picture, h)))
    animated = Image.open(io.BytesIO(drawing.animation(frames)))
    assert (animated.n_frames, animated.size) == (5, (84, 40))
    for i in range(5):
        animated.seek(i)
        shown = np.asarray(animated.convert("RGB"))
        np.testing.assert_array_equal(shown[12, 4 * i], drawing.COLORS[1])
        np.testing.assert_array_equal(shown[28, 44 + 28], [255, 60, 30])


def run_of(*options, frames=40_000, agent="dqn", game="breakout", level=1.0):
    """What metrics.json has of a run of two seeds, whose returns increase by 1 every 4,000 frames."""
    count = frames // 4000
    arguments = {"agent": agent, "double": "double" in options, "dueling": "dueling" in options, "frames": frames}
    return {
        "game": game, "agent": agent, "arguments": arguments | {"out": "runs/a", "quiet": True},
        "frames": [4000 * (i + 1) for i in range(count)],
        "returns": [[None, *np.arange(1.0, count) + level], (np.arange(count) + level + 2).tolist()],
        "greedy_return": [level, level + 2], "processor_seconds": 61.4,
    }  # fmt: skip


def test_runs_are_kept_by_game_agent_and_options():
    old = {"seaquest, pqn": {"old": True}, "breakout, dqn": {"old": True}}
    found = [run_of(), run_of("double"), run_of("double", "dueling"), run_of(agent="pqn")]
    runs = collected.merged(old, found)
    assert list(runs) == ["seaquest, pqn", "breakout, dqn", "breakout, double dqn", "breakout, double dueling dqn",
                          "breakout, pqn"]  # fmt: skip
    assert runs["seaquest, pqn"] == {"old": True}
    kept = runs["breakout, dqn"]
    # A point is the mean of the five before it; where no episode ended nothing is known.
    assert kept["frames"] == [20_000, 40_000]
    assert kept["returns"] == [[3.5, 8.0], [5.0, 10.0]]
    assert kept["arguments"] == {"agent": "dqn", "double": False, "dueling": False, "frames": 40_000}


def test_variants_are_compared_at_equal_frames_with_the_spread():
    runs = collected.merged({}, [run_of(frames=800_000), run_of("double", frames=200_000, level=5.0)])
    # The seeds' returns in the points from 120,000 to 200,000 frames: the last of 50 numbers, of which 25 count.
    assert collected.variants_table(runs, "breakout").splitlines()[2:] == [
        "| DQN | 39 ± 1.4, 38 to 40 |",
        "| double DQN | 43 ± 1.4, 42 to 44 |",
    ]
    assert collected.table(runs).splitlines()[2:] == ["| Breakout | DQN | 800,000 | 2 ± 1.4, 1 to 3 | 61 s | 28 |"]
    games = collected.draw(collected.merged(runs, [run_of(agent="pqn"), run_of(game="asterix")])).axes
    assert [[line.get_label() for line in axes.lines] for axes in games] == [
        ["DQN, 2 seeds", "PPO, gymnax's table (no sticky actions)"],
        ["DQN, 2 seeds", "PQN, 2 seeds", "PPO, gymnax's table (no sticky actions)"],
    ]


def test_results_of_new_folders_join_those_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(collected, "RESULTS", tmp_path / "atari.json")
    monkeypatch.setattr(collected, "DOCS", tmp_path)
    (tmp_path / "atari.json").write_text(json.dumps(collected.merged({}, [run_of(), run_of(agent="pqn")])))
    (tmp_path / "metrics.json").write_text(json.dumps(run_of("dueling")))
    (tmp_path / "play.md").write_text(
        collected.variants_table(collected.merged({}, [run_of()]), "breakout") + "\n\nEnd."
    )
    monkeypatch.setattr(sys, "argv", ["results", str(tmp_path)])
    collected.main()
    runs = json.loads((tmp_path / "atari.json").read_text())
    assert list(runs) == ["breakout, dqn", "breakout, pqn", "breakout, dueling dqn"]
    assert (tmp_path / "play.md").read_text() == collected.variants_table(runs, "breakout") + "\n\nEnd."
    assert {path.name for path in tmp_path.glob("*.png")} == {"play_curves.png", "play_variants.png"}


def test_the_committed_figures_are_those_of_the_page():
    runs = json.loads(collected.RESULTS.read_text())
    page = (collected.DOCS / "play.md").read_text()
    assert collected.table(runs) in page
    assert collected.variants_table(runs, "breakout") in page
    for run in collected.plain(runs).values():
        said = f"{run['greedy_return_mean']:.3g} ± {run['greedy_return_std']:.2g}"
        assert re.search(rf"{re.escape(said)} +{run['processor_seconds']:.0f} s\n", command.__doc__), run["game"]


def test_curves_have_a_band_from_the_lowest_to_the_highest_seed():
    returns = [[1.0, 2.0, np.nan], [3.0, 6.0, 5.0]]
    (axes,) = drawing.learning_curves({"a": ([10, 20, 30], returns)}, levels={"b": 7.0}).axes
    mean, level = axes.lines
    np.testing.assert_array_equal(mean.get_xydata(), [[10, 2], [20, 4]])
    assert level.get_ydata()[0] == 7
    ((band,),) = [collection.get_paths() for collection in axes.collections]
    assert {tuple(point) for point in band.vertices} == {(10, 1), (10, 3), (20, 2), (20, 6)}


def test_screens_are_shown_beside_blocks_of_saliency():
    """The value of the only action is one pixel's: its block is red, and no other position."""
    net = jc.serial(flatten=jc.Flatten(), values=jc.Dense(1, bias=False))
    kernel = jnp.zeros((84, 84, 4, 1)).at[42, 10, 3].set(1.0).reshape(-1, 1)
    stacks = np.zeros((2, 84, 84, 4), np.uint8)
    stacks[:, 5, 5, 3] = 200
    pictures = command.screen_pictures(net, {"values": {"kernel": kernel}}, stacks)
    assert [picture.shape for picture in pictures] == [(168, 168 + 4 + 168, 3)] * 2
    assert (pictures[0][10:12, 10:12] == 200).all()
    red = (pictures[0] == [255, 60, 30]).all(-1)
    assert red[80:88, 172 + 16 : 172 + 24].all()
    assert red.sum() == 64


class FakeConsole:
    """Frames that count up; a life is lost every 5 steps, the game is over after 10; the last action gives rewards."""

    actions, skip = (0, 1), 4

    def __init__(self):
        self.number, self.starts = 0, 0

    def reset(self):
        self.starts += 1
        return np.zeros((84, 84), np.uint8)

    def step(self, action):
        self.number += 1
        over, end = self.number % 10 == 0, self.number % 5 == 0
        return Step(np.full((84, 84), self.number % 10, np.uint8), float(action), end, over)


def test_a_console_is_learned_from_every_fourth_step():
    net = jc.serial(pool=jc.AvgPool(42), flatten=jc.Flatten(), values=jc.Dense(2))
    settings = dataclasses.replace(arcade.SETTINGS, capacity=64, warmup=40, period=5, explored=100)
    console, seen = FakeConsole(), []
    played = arcade.train(console, net, settings, 0.5, report=lambda steps, returns: seen.append(steps))
    assert played.steps == console.number > settings.warmup
    assert played.updates == played.steps // 4 - settings.warmup // 4
    assert len(played.returns) == console.starts - 1 == played.steps // 10
    assert seen == list(range(250, played.steps + 1, 250))
    assert 0 <= min(played.returns) <= max(played.returns) <= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rom pong --agent pqn", "--agent must be dqn with --rom, got pqn"),
        ("--double", "--double must be given with --agent dqn"),
        ("--frames 10", "frames must be at least 1024, got 10"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "minatar", lambda name: CATCH)
    with pytest.raises(ValueError, match=message):
        command.main([*arguments.split(), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "package", "message"),
    [([], "pgx", "pip install '\\.\\[play\\]'"), (["--rom", "pong"], "ale_py", "pip install ale-py")],
)
def test_a_missing_package_is_named_with_its_remedy(arguments, package, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        command.main([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_boards_of_minatar_follow_pgx_and_start_again():
    pgx = pytest.importorskip("pgx")
    game, theirs = minatar("breakout"), pgx.make("minatar-breakout")
    state, seen = game.start(jax.random.key(0), 3)
    assert (game.actions, game.shape, seen.shape) == (3, (10, 10, 4), (3, 10, 10, 4))
    step, their_step = jax.jit(game.step), jax.jit(jax.vmap(theirs.step))
    ended = 0
    for number in range(60):
        key = jax.random.key(number)
        actions = jax.random.randint(key, (3,), 0, 3)
        wanted = their_step(state, actions, jax.random.split(jax.random.split(key)[0], 3))
        state, seen, rewards, ends = step(state, actions, key)
        np.testing.assert_array_equal(rewards, wanted.rewards[:, 0])
        np.testing.assert_array_equal(ends, wanted.terminated)
        for i in range(3):
            if ends[i]:
                assert seen[i, 3, :, 1].any()  # the ball is in the row where it starts
                assert seen[i, 1:4, :, 3].all()
            else:
                np.testing.assert_array_equal(seen[i], wanted.observation[i])
        ended += int(ends.sum())
    assert ended > 3


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["pqn", "dqn"])
def test_the_command_writes_a_report(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "minatar", lambda name: CATCH)
    monkeypatch.setattr(command, "DQN", lambda double: dataclasses.replace(REPLAYED, double=double))
    options = ["--agent", agent, "--frames", "4096", "--seeds", "2", "--quiet", "--out", str(tmp_path)]
    metrics = command.main([*options, *(["--double", "--dueling"] if agent == "dqn" else [])])
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert len(metrics["returns"]) == len(metrics["greedy_return"]) == 2
    assert len(metrics["returns"][0]) == len(metrics["frames"])
    assert {path.name for path in tmp_path.iterdir()} >= {"game.gif", "report.html", "weights.safetensors"}
    assert (tmp_path / "game.gif").stat().st_size < 300_000
    params, _ = jc.weights.load(
        tmp_path / "weights.safetensors",
        jc.models.minatar_dqn(3, dueling=agent == "dqn", layer_norm=agent == "pqn"),
    )
    assert params["conv1"]["kernel"].shape == (3, 3, 2, 16)


@pytest.mark.slow
def test_breakout_is_played_to_a_return_of_twenty():
    """One seed, where docs/play.md has five; the frames are those of ten minutes on one core."""
    pytest.importorskip("pgx")
    options = command.parser().parse_args(["--agent", "pqn", "--frames", "4000000"])
    program = command.program_of(options)
    trained = train(program, [0])
    assert greedy_returns(program, trained.player, jax.random.key(1), episodes=64).mean() >= 20


@pytest.mark.slow
def test_breakout_is_learned_by_dqn():
    """Five seeds play to a mean return of 6.3 after these frames, with a standard deviation of 0.8."""
    pytest.importorskip("pgx")
    program = command.program_of(command.parser().parse_args(["--agent", "dqn", "--frames", "160000"]))
    trained = train(program, [0])
    params = jax.tree.map(lambda x: x[0], trained.player.train_state.params)
    play = jax.jit(functools.partial(learning.evaluate, program.game, program.net, episodes=64, limit=1000))
    at_random = play(params, jax.random.key(1), epsilon=1.0).mean()
    assert at_random < 1
    assert greedy_returns(program, trained.player, jax.random.key(1), episodes=64).mean() >= 4
