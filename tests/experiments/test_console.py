"""Real Atari: the preprocessing of Mnih et al. frame by frame, against NumPy and against gymnasium."""

import doctest
import math

import numpy as np
import pytest

from experiments.atari import console
from experiments.atari.console import SIZE, Console, coverage, encode, pushed


def reference(frame, before, size=SIZE):
    """As the paper says it, with whole numbers: the mean of areas by repeating pixels, without weights."""
    colors = np.maximum(frame, before).astype(float)
    gray = 0.299 * colors[..., 0] + 0.587 * colors[..., 1] + 0.114 * colors[..., 2]
    for axis in (0, 1):
        fine = math.lcm(gray.shape[axis], size)
        gray = gray.repeat(fine // gray.shape[axis], axis)
        parts = (*gray.shape[:axis], size, fine // size, *gray.shape[axis + 1 :])
        gray = gray.reshape(parts).mean(axis + 1)
    return gray


def test_an_area_is_shared_among_the_pixels_that_it_covers():
    for large, small in ((210, 84), (160, 84), (7, 7), (5, 2)):
        shares = coverage(large, small)
        np.testing.assert_allclose(shares.sum(1), 1)
        np.testing.assert_allclose(shares.sum(0), small / large)
    assert doctest.testmod(console).failed == 0


def test_frames_are_encoded_as_the_paper_says():
    frames = np.random.default_rng(0).integers(0, 256, (2, 210, 160, 3), np.uint8)
    found = encode(*frames)
    assert (found.shape, found.dtype) == ((84, 84), np.uint8)
    assert np.abs(found - reference(*frames)).max() <= 0.5 + 1e-9
    # A light in one of two frames is seen in both orders; the maximum is of each color.
    red, green = np.zeros((2, 210, 160, 3), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    assert {int(encode(a, b)[0, 0]) for a, b in ((red, green), (green, red))} == {round(255 * (0.299 + 0.587))}


def test_a_frame_is_pushed_into_a_stack():
    stack = np.zeros((2, 2, 4), np.uint8)
    for i in range(1, 7):
        stack = pushed(stack, np.full((2, 2), i, np.uint8))
    assert stack[0, 0].tolist() == [3, 4, 5, 6]


@pytest.fixture(scope="module")
def ale_py():
    return pytest.importorskip("ale_py", reason="ale-py (GPL-2) is not a dependency: pip install ale-py")


def emulator(ale_py, rom):
    """The emulator alone, frame by frame."""
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", 0)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path(rom))
    ale.reset_game()
    return ale


def test_games_are_as_the_papers_preprocessing_of_the_emulators_frames(ale_py):
    game = Console("breakout", noops=0, episodic_life=True)
    ale = emulator(ale_py, "breakout")
    blank = ale.getScreenRGB()
    assert np.abs(game.reset() - reference(blank, blank)).max() <= 0.5 + 1e-9
    actions = np.random.default_rng(0).integers(0, len(game.actions), 100)
    actions[::7] = 1  # fire
    ends = []
    for action in actions:
        lives = ale.lives()
        screens, rewards = [ale.getScreenRGB()], 0
        for _ in range(4):
            rewards += ale.act(game.actions[action])
            screens.append(ale.getScreenRGB())
        found = game.step(int(action))
        assert np.abs(found.frame - reference(screens[-1], screens[-2])).max() <= 0.5 + 1e-9
        assert found.reward == rewards
        assert found.end == (ale.lives() < lives or ale.game_over())
        ends.append(found.end)
        if found.over:
            break
    assert 0 < sum(ends) <= 5


def test_without_episodic_life_only_the_game_ends(ale_py):
    game = Console("breakout", noops=0)
    game.reset()
    steps = [game.step(i % 2) for i in range(300)]
    over = next(i for i, step in enumerate(steps) if step.over)
    assert [step.end for step in steps[: over + 1]] == [False] * over + [True]


def test_games_start_with_some_frames_without_action(ale_py):
    counts = set()
    for seed in range(4):
        game = Console("pong", seed=seed)
        game.reset()
        counts.add(game.ale.getEpisodeFrameNumber())
    assert len(counts) > 1
    assert all(0 <= count <= 30 for count in counts)


def test_gymnasium_shows_nearly_the_same(ale_py):
    """It takes the maximum of the gray frames rather than of their colors, which differs where something moved."""
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("cv2")
    gymnasium.register_envs(ale_py)
    theirs = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
    theirs = gymnasium.wrappers.AtariPreprocessing(theirs, noop_max=0)
    theirs.reset(seed=0)
    ours = Console("pong", noops=0)
    ours.reset()
    for i in range(60):
        action = (0, 2, 3)[i % 3]
        seen, reward, *_ = theirs.step(action)
        found = ours.step(action)
        assert reward == found.reward
        apart = np.abs(seen.astype(int) - found.frame)
        assert (apart > 1).mean() < 0.005, i
        assert apart.max() <= 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rom": "pinball"}, "rom must be a game of ale-py"), ({"rom": "pong", "skip": 0}, "skip")],
)
def test_games_that_are_not_there_are_refused(ale_py, arguments, message):
    with pytest.raises(ValueError, match=message):
        Console(**arguments)
