"""Batches of a data set on disk: read by threads, in an order that depends on a key and the epoch, resumable."""

import contextlib
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxconv.data.dataset import DataError, shuffled
from jaxconv.data.windows import ArrayImage, Crop, Random, cropped
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.extras import need
from jaxconv.geometry import as_int
from jaxconv.keys import KeyLike, as_key

REMAINDERS = ("short", "drop", "pad")
BROKEN = ("raise", "skip")
# Separate the words of the order from those of the images' windows, for equal keys and epochs.
_ORDER, _WINDOW = zlib.crc32(b"order"), zlib.crc32(b"window")
_PADDING = -1
# The examples that a thread reads at a time: grain needs 0.09 ms for an item.
_PIECE = 8


class Source(Protocol):
    """A data set that is read one example at a time, as grain and torch define it.

    ``source[i]`` is an input and a target: arrays, numbers, or nested containers of these. With a ``crop``, an input
    is an image `(height, width, 3)` uint8. `ImageFolder`, `VideoFolder` and `ImageCache` have more methods, used where
    they exist: ``load(i, crop, random)`` reads only what a crop needs, ``name(i)`` is for errors, and ``fingerprint()``
    lets `Batches.restore` recognize the data set.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class _Row(NamedTuple):
    """An example of a batch, or None for padding, and the errors of those that could not be read by their names."""

    example: Any
    failed: dict[str, str]


def batches(
    source: Source,
    batch_size: int,
    *,
    key: KeyLike | None = None,
    crop: Crop | None = None,
    remainder: str = "short",
    broken: str = "raise",
    workers: int = 2,
    ahead: int = 2,
    shard: tuple[int, int] | None = None,
) -> "Batches":
    """Returns the batches of a data set, epoch after epoch, read by threads while the caller computes.

    The order of an epoch is a function of ``key`` and the epoch's number; the window of an image is a function of these
    and the image's index. ``workers``, ``ahead`` and restarts have no effect on them.

    Args:
      source: an `ImageFolder`, a `VideoFolder`, an `ImageCache`, or any `Source`: ``source[i]`` is an input and a
        target.
      batch_size: the examples in a batch, over all shards.
      key: a random key, or an int, its seed, that draws the order and the windows. None for evaluation: the order is
        that of ``source``, in all epochs.
      crop: `RandomResizedCrop` for training, `CenterCrop` for evaluation; None for images of one size. All frames of a
        clip have the same window.
      remainder: what happens to the last batch if ``batch_size`` does not divide the number of examples. "short": the
        batch has fewer examples. "drop": the batch is left out, so that each epoch leaves out other examples. "pad":
        the batch is filled with zeros. With "pad", all batches are `(inputs, targets, mask)`, where the mask,
        `(batch_size,)` bool, is False for padding.
      broken: what happens if an image cannot be read. "raise": a `DataError` names the image. "skip": `Batches.skipped`
        has the error. Then the image's batch has one example less with "short", padding in place of the image with
        "pad", and the next readable example of the epoch in place of the image with "drop", so that the epoch may have
        that example twice. With "short" and "drop", a batch without any readable example raises a `DataError`.
      workers: the number of threads that read and decode. The decoders and the resizing run outside of Python's lock,
        so that threads use as many cores.
      ahead: the number of batches that are read ahead of the caller.
      shard: (index, count) of this process, among the processes that read the data set together. Each reads its part
        of each batch, ``batch_size / count`` examples. All parts together are the batches of one process, so that a run
        can continue on another number of processes.

    Returns:
      `Batches`: ``len`` is the number of batches in an epoch, and each iteration is an epoch of (inputs, targets),
      NumPy arrays. A training loop needs no more than this, so that a torch DataLoader, a grain IterDataset, or a list
      of batches can take its place. For resuming there are `Batches.epoch`, or `Batches.state` and `Batches.restore`.

    Raises:
      ArgumentError: an argument is out of range; ``count`` does not divide ``batch_size``; or there are several shards,
        ``remainder`` is "short" and the last batch is short, so that its parts would have different sizes.
      ShapeError: with ``remainder="drop"`` there is less than one batch.
      DataError: the data set has no example.
      ModuleNotFoundError: grain, of the extra ``data``, is not installed.

    >>> source = [(np.full((2, 2, 3), i, np.uint8), i) for i in range(5)]
    >>> for images, labels in batches(source, 2):
    ...     print(images.shape, labels)
    (2, 2, 2, 3) [0 1]
    (2, 2, 2, 3) [2 3]
    (1, 2, 2, 3) [4]
    """
    return Batches(source, batch_size, key, crop, remainder, broken, workers, ahead, shard)


class Batches:
    """The batches of a data set; see `batches`, which makes it.

    Attributes:
      skipped: with ``broken="skip"``, the error of each image that could not be read, by its name.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        key: KeyLike | None,
        crop: Crop | None,
        remainder: str,
        broken: str,
        workers: int,
        ahead: int,
        shard: tuple[int, int] | None,
    ) -> None:
        self.source, self.crop, self.remainder, self.broken = source, crop, remainder, broken
        self.batch_size = as_int(batch_size, "batch_size", least=1)
        self.workers, self.ahead = as_int(workers, "workers", least=1), as_int(ahead, "ahead", least=1)
        if remainder not in REMAINDERS:
            raise ArgumentError(f"remainder must be one of {', '.join(REMAINDERS)}, got {remainder!r}")
        if broken not in BROKEN:
            raise ArgumentError(f"broken must be one of {', '.join(BROKEN)}, got {broken!r}")
        if key is None and remainder == "drop":
            raise ArgumentError('remainder must be "short" or "pad" without a key, which leave out nothing, got "drop"')
        self.index, self.shards = _checked_shard(shard, self.batch_size)
        count = len(source)
        if not count:
            raise DataError("source must have at least one example, got 0")
        if remainder == "short" and self.shards > 1 and (count % self.batch_size or broken == "skip"):
            raise ArgumentError(
                'remainder must be "drop" or "pad" for several shards, whose batches would have different sizes (the '
                f'last has {count % self.batch_size} examples, broken is {broken!r}), got "short"'
            )
        if remainder == "drop" and count < self.batch_size:
            raise ShapeError(f'batch_size must be at most the {count} examples with remainder="drop", got {batch_size}')
        self.words = None if key is None else np.asarray(jax.random.key_data(as_key(key))).ravel().tolist()
        fingerprint = getattr(source, "fingerprint", None)
        self._data = f"{count} examples" + (f", {fingerprint()}" if fingerprint else "")
        self._at = (0, 0)
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        count = len(self.source)
        return count // self.batch_size if self.remainder == "drop" else -(-count // self.batch_size)

    def __repr__(self) -> str:
        shard = f", shard {self.index} of {self.shards}" if self.shards > 1 else ""
        return f"Batches({self.source!r}: {len(self)} batches of {self.batch_size}{shard}, epoch {self._at[0]})"

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches from the current state to the end of its epoch; the next iteration is the next epoch."""
        epoch, start = self._at
        for step, batch in enumerate(self.epoch(epoch, start), start + 1):
            self._at = (epoch, step) if step < len(self) else (epoch + 1, 0)
            yield batch

    def epoch(self, number: int, start: int = 0) -> Generator[Any, None, None]:
        """Yields the batches of an epoch, counted from 0, from batch ``start`` on; the state does not change.

        >>> loader = batches([(np.zeros(2), i) for i in range(6)], 2, key=0)
        >>> [labels.tolist() for _, labels in loader.epoch(3, start=1)] == [
        ...     labels.tolist() for _, labels in loader.epoch(3)
        ... ][1:]
        True
        """
        number, start = as_int(number, "number", least=0), as_int(start, "start", least=0)
        order = self._order(number)
        rows = self._rows(order)[start * self.batch_size // self.shards :]
        if not len(rows):
            return
        read = _Reader(self, number, order, rows, self.batch_size // self.shards)
        with threaded(read, self.workers, self.ahead * read.pieces, read.pieces, self._gathered) as iterator:
            yield from iterator

    def set_epoch(self, number: int) -> None:
        """Has the next iteration yield all batches of an epoch, counted from 0."""
        self._at = (as_int(number, "number", least=0), 0)

    def state(self) -> dict[str, Any]:
        """Returns the position in the data as JSON values, for a checkpoint.

        >>> loader = batches([(np.zeros(2), i) for i in range(6)], 2, key=0)
        >>> for images, labels in loader:
        ...     state = loader.state()
        ...     break
        >>> state["epoch"], state["step"]
        (0, 1)
        """
        epoch, step = self._at
        return {"epoch": epoch, "step": step, "batch_size": self.batch_size, "key": self.words, "data": self._data}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state`: the next iteration yields the batches that would have followed.

        Raises:
          DataError: the state is of another data set, key or batch size, or is not a state.
        """
        mine = self.state()
        if set(state) != set(mine):
            raise DataError(f"state must have the entries {', '.join(mine)}, got {', '.join(map(str, state))}")
        for name in ("data", "key", "batch_size"):
            if state[name] != mine[name]:
                raise DataError(f"state must be of these batches, whose {name} is {mine[name]}, got {state[name]}")
        epoch, step = state["epoch"], state["step"]
        if not (isinstance(epoch, int) and isinstance(step, int) and epoch >= 0 and 0 <= step < len(self)):
            raise DataError(f"state must have an epoch, and a step below {len(self)}, got {epoch!r} and {step!r}")
        self._at = (epoch, step)

    def _order(self, epoch: int) -> np.ndarray:
        """Returns the indices of the examples of an epoch, those of all shards."""
        order = np.arange(len(self.source))
        return order if self.words is None else shuffled(order, seed=[*self.words, epoch, _ORDER])

    def _rows(self, order: np.ndarray) -> np.ndarray:
        """Returns the positions in the order that this shard reads in an epoch; -1 is padding."""
        size, positions = self.batch_size, np.arange(len(order))
        if self.remainder == "drop":
            positions = positions[: len(self) * size]
        elif self.remainder == "pad":
            positions = np.append(positions, np.full(-len(order) % size, _PADDING))
        if self.shards == 1:
            return positions
        return positions.reshape(-1, self.shards, size // self.shards)[:, self.index].ravel()

    def _gathered(self, pieces: list[list[_Row]]) -> Any:
        """Returns a batch, of which some rows may be padding or could not be read."""
        rows = [row for piece in pieces for row in piece]
        failed = {name: error for row in rows for name, error in row.failed.items()}
        self.skipped.update(failed)
        read = [row.example for row in rows if row.example is not None]
        if self.remainder != "pad":
            if not read:
                raise DataError(f"all {len(rows)} examples of a batch are broken: {'; '.join(failed.values())}")
            return _stacked(read)
        blank = jax.tree.map(lambda leaf: np.zeros_like(np.asarray(leaf)), read[0] if read else self._any_example())
        mask = np.array([row.example is not None for row in rows])
        return *_stacked([blank if row.example is None else row.example for row in rows]), mask

    def _any_example(self) -> Any:
        """Returns a readable example, for the shapes of a batch of which this shard has none."""
        for index in range(len(self.source)):
            with contextlib.suppress(DataError):
                return self.load(index, lambda: 0.0)
        raise DataError("source must have at least one readable image, got none")

    def load(self, index: int, random: Random) -> Any:
        """Returns an example, cropped."""
        load = getattr(self.source, "load", None)
        if load is not None:
            return load(index, self.crop, random)
        if self.crop is None:
            return self.source[index]
        image, target = self.source[index]
        return cropped(ArrayImage(image), self.crop, random), target


class _Reader:
    """Reads the examples of an epoch, in any order and in any thread: items are pieces of batches of ``size``."""

    def __init__(self, of: Batches, epoch: int, order: np.ndarray, rows: np.ndarray, size: int) -> None:
        self.of, self.epoch, self.order, self.rows, self.size = of, epoch, order, rows, size
        self.pieces = -(-size // _PIECE)

    def __len__(self) -> int:
        batches, rest = divmod(len(self.rows), self.size)
        return batches * self.pieces + -(-rest // _PIECE)

    def __getitem__(self, item: int) -> list[_Row]:
        batch, piece = divmod(item, self.pieces)
        start = batch * self.size
        rows = self.rows[start : start + self.size]
        return [self._row(int(at)) for at in rows[piece * _PIECE : (piece + 1) * _PIECE]]

    def _row(self, at: int) -> _Row:
        of = self.of
        if at == _PADDING:
            return _Row(None, {})
        failed: dict[str, str] = {}
        # With "drop", the next readable example takes the place of one that is skipped.
        for step in range(len(self.order) if of.remainder == "drop" else 1):
            index = int(self.order[(at + step) % len(self.order)])
            random = uniform(*(of.words or ()), self.epoch if of.words else 0, _WINDOW, index)
            try:
                return _Row(of.load(index, random), failed)
            except DataError as error:
                if of.broken == "raise":
                    raise
                name = getattr(of.source, "name", "example {}".format)
                failed[name(index)] = str(error)
        return _Row(None, failed)


def uniform(*seed: int) -> Random:
    """Returns a function that draws numbers from 0 to 1, 1 excluded; the same with all versions of NumPy.

    >>> draw = uniform(0, 7)
    >>> [round(draw(), 3) for _ in range(3)] == [round(draw(), 3) for draw in [uniform(0, 7)] for _ in range(3)]
    True
    """
    words = np.random.PCG64(seed).random_raw
    return lambda: (words() >> 11) * 2.0**-53


def _stacked(examples: list[Any]) -> Any:
    """Returns the arrays of examples stacked along a new first axis."""
    try:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    except ValueError as error:
        shapes = sorted({str(jax.tree.map(np.shape, example)) for example in examples})
        raise ShapeError(
            f"source must have examples of one shape, got {' and '.join(shapes[:2])}; a crop gives images one size, "
            "and batch_size=1 allows targets of any shape"
        ) from error


def _checked_shard(shard: tuple[int, int] | None, batch_size: int) -> tuple[int, int]:
    index, count = (0, 1) if shard is None else shard
    count = as_int(count, "shard's count", least=1)
    index = as_int(index, "shard's index", least=0)
    if index >= count:
        raise ArgumentError(f"shard must be (index, count) with an index below the count, got {shard}")
    if batch_size % count:
        raise ArgumentError(f"batch_size must be a multiple of the {count} shards, got {batch_size}")
    return index, count


@contextlib.contextmanager
def threaded(
    source: Any,
    workers: int,
    ahead: int,
    batch_size: int | None = None,
    gather: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Iterator[Any]]:
    """Yields an iterator of ``source[0]``, ``source[1]``, ..., which threads read ahead; they end with the context.

    Args:
      source: an object with a length and items.
      workers: the number of threads that read.
      ahead: the number of items that are read ahead.
      batch_size: None, or the number of items that ``gather``, in a thread too, makes one of.
    """
    grain, experimental = (need(name, "batches", "data") for name in ("grain", "grain.experimental"))
    # With less than an item for each of its threads, grain logs a warning.
    options = grain.ReadOptions(workers, max(workers, ahead))
    dataset = grain.MapDataset.source(source).to_iter_dataset(options)
    if batch_size is not None:
        dataset = dataset.batch(batch_size, batch_fn=gather)
        dataset = experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1)
    with contextlib.closing(iter(dataset)) as iterator:
        yield iterator
