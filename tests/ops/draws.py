"""Where the cases come from: one description of each, drawn by hypothesis in a search or from a seed for a record.

A case is drawn through three methods, `integer`, `choice` and `flag`. `Searched` asks hypothesis, which shrinks what
fails. `Seeded` reads PCG64's raw words, a sequence that no NumPy release changes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


class Draws:
    """What both sources offer."""

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        raise NotImplementedError

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def flag(self) -> bool:
        return bool(self.integer(0, 1))

    def integers(self, low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(self.integer(low, high) for _ in range(count))


class Searched(Draws):
    """Draws from hypothesis: `data` is what ``st.data()`` gives."""

    def __init__(self, data):
        self.data = data

    def integer(self, low, high):
        from hypothesis import strategies

        return self.data.draw(strategies.integers(low, high))


class Seeded(Draws):
    """Draws from a seed, the same on every machine."""

    def __init__(self, seed: int):
        self.words = np.random.PCG64(seed)

    def integer(self, low, high):
        return low + int(self.words.random_raw()) % (high - low + 1)


def uniform(seed: int, shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Float64 numbers in ``[low, high)`` from PCG64's raw words; no two are equal, in any practical sense."""
    words = np.random.PCG64(seed).random_raw(int(np.prod(shape, dtype=int)))
    unit = (np.asarray(words, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (low + (high - low) * unit).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where windows lie: what an op with a window takes, beside its arrays."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: Any
    padding: Any
    dilation: Any

    def options(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names or ("stride", "padding", "dilation")}


def axes_or_int(draws: Draws, low: int, high: int, rank: int):
    """One integer for all axes, or one for each."""
    return draws.integer(low, high) if draws.flag() else draws.integers(low, high, rank)


def geometry(draws: Draws, *, within_window: bool = False, negative: bool = True) -> Geometry:
    """Draws rank 1 to 3 and windows that fit, with every form of padding.

    Args:
      draws: the source.
      within_window: no padding wider than the window, so that no window lies in the padding alone.
      negative: also padding that crops.
    """
    rank = draws.integer(1, 3)
    window = draws.integers(1, (4, 3, 2)[rank - 1], rank)
    stride = axes_or_int(draws, 1, 3, rank)
    dilation = axes_or_int(draws, 1, (3, 3, 2)[rank - 1], rank)
    dilations = (dilation,) * rank if isinstance(dilation, int) else dilation
    reach = [(f - 1) * d for f, d in zip(window, dilations, strict=True)]
    most = [min(r, 3) if within_window else 3 for r in reach]
    fewest = -2 if negative else 0
    form = draws.choice(["VALID", "SAME", "SAME_LOWER", "int", "ints", "pairs", "pairs", "pairs"])
    if form == "int":
        padding = draws.integer(fewest, min(most))
        pads = [(padding, padding)] * rank
    elif form == "ints":
        padding = tuple(draws.integer(fewest, m) for m in most)
        pads = [(p, p) for p in padding]
    elif form == "pairs":
        padding = tuple((draws.integer(fewest, m), draws.integer(fewest, m)) for m in most)
        pads = list(padding)
    else:
        padding = form
        pads = [(0, 0)] * rank
    named = form.startswith("SAME")
    size = []
    for r, d, (low, high) in zip(reach, dilations, pads, strict=True):
        # Cropping never empties the map; within_window what is left is as long as the dilation, so that each window has
        # a tap in it.
        kept = (d if within_window else 1) - min(low, 0) - min(high, 0)
        least = max(kept, 1 if named else r + 1 - low - high)
        size.append(draws.integer(least, max(least, (7, 5, 3)[rank - 1])))
    return Geometry(tuple(size), window, stride, padding, dilation)
