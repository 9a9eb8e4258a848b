"""Real Atari games, as Mnih et al. (2015) show them to their network.

A frame is encoded in three steps: the maximum of each color over the frame and the one before it, since some objects
are drawn in every other frame only; the luminance; the mean over the area of each pixel of 84x84. An action is repeated
for four frames, their rewards are added, and the network sees the last four encoded frames. A game begins with up to
30 frames without action.

The emulator and the games are in ale-py, which has the license GPL-2: it is not a dependency, and imported only here.
"""

import functools
from typing import NamedTuple

import numpy as np

SIZE = 84
STACK = 4
LUMINANCE = (0.299, 0.587, 0.114)


@functools.cache
def coverage(large: int, small: int) -> np.ndarray:
    """Returns the share of each of ``large`` pixels in the mean of each of ``small``, of shape ``(small, large)``.

    >>> coverage(3, 2) * 3
    array([[2., 1., 0.],
           [0., 1., 2.]])
    """
    edges = np.arange(small + 1) * (large / small)
    pixels = np.arange(large)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * (small / large)


def encode(frame: np.ndarray, before: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Returns what the network sees of a frame, uint8 of shape ``(size, size)``.

    Args:
      frame, before: the frame and the one before it, uint8 of shape ``(height, width, 3)``.
      size: the height and width of the result.
    """
    gray = np.maximum(frame, before) @ np.array(LUMINANCE)
    small = coverage(gray.shape[0], size) @ gray @ coverage(gray.shape[1], size).T
    return np.rint(small).astype(np.uint8)


class Step(NamedTuple):
    """The result of an action: the encoded frame, the reward, whether the episode ended, and whether the game did."""

    frame: np.ndarray
    reward: float
    end: bool
    over: bool


class Console:
    """One game of ale-py.

    Args:
      rom: the game's name, such as "pong".
      skip: the frames for which an action is repeated.
      size: the height and width of encoded frames.
      noops: the largest number of frames without action at the start of a game.
      episodic_life: whether an episode ends when a life is lost; the game goes on.
      sticky: the probability that the emulator repeats the last action in a frame (Machado et al., 2018).
      seed: of the number of frames without action, and of the emulator.
    """

    def __init__(
        self,
        rom: str,
        *,
        skip: int = 4,
        size: int = SIZE,
        noops: int = 30,
        episodic_life: bool = False,
        sticky: float = 0.0,
        seed: int = 0,
    ) -> None:
        try:
            import ale_py
            from ale_py import roms
        except ImportError as error:
            raise ImportError("Atari games are in the package ale-py (GPL-2): pip install ale-py") from error
        if rom not in roms.get_all_rom_ids():
            raise ValueError(f"rom must be a game of ale-py, such as pong or space_invaders, got {rom}")
        if skip < 1:
            raise ValueError(f"skip must be at least 1, got {skip}")
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.loadROM(str(roms.get_rom_path(rom)))
        self.actions = self.ale.getMinimalActionSet()
        self.skip, self.size, self.noops, self.episodic_life = skip, size, noops, episodic_life
        self.random = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        """Starts a new game and returns the first encoded frame."""
        self.ale.reset_game()
        before = self.ale.getScreenRGB()
        for _ in range(int(self.random.integers(0, self.noops + 1))):
            before = self.ale.getScreenRGB()
            self.ale.act(self.actions[0])
        return encode(self.ale.getScreenRGB(), before, self.size)

    def step(self, action: int) -> Step:
        """Repeats an action, a number below ``len(actions)``, and returns what it gives."""
        reward, lives = 0.0, self.ale.lives()
        before = self.ale.getScreenRGB()
        for i in range(self.skip):
            if i == self.skip - 1:
                before = self.ale.getScreenRGB()
            reward += self.ale.act(self.actions[action])
            if self.ale.game_over():
                break
        over = self.ale.game_over()
        end = over or (self.episodic_life and self.ale.lives() < lives)
        return Step(encode(self.ale.getScreenRGB(), before, self.size), reward, end, over)


def pushed(stack: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Returns a stack of frames, ``(height, width, stack)``, with a frame added at the end and the first removed."""
    return np.concatenate([stack[..., 1:], frame[..., None]], axis=-1)
