"""Where a run's batches come from: arrays on the device, or an iterable of batches."""

import base64
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.data.loader import Batches as Loader
from jaxconv.ops.lowering.table import platform_of
from jaxconv.structs import struct_of
from jaxconv.train.arguments import check_batches_tree, check_pair, is_masked
from jaxconv.train.epoch import Carry, Program, epoch_order
from jaxconv.train.mesh import SHORT, Placement
from jaxconv.train.parts import Part, array_parts, filled, merged
from jaxconv.train.step import steps_per_epoch

# Called with the carry and the number of steps of the epoch so far; whether to stop before the next one.
OnStep = Callable[[Carry, int], bool | None]
Check = Callable[[Any, Any, int], None]


class Arrays:
    """Inputs and targets on the device; an epoch is a permutation of them.

    Args:
      inputs, targets: pytrees of arrays that share the first axis.
      batch_size: examples of a step.
      scan: whether an epoch is a compiled scan; by default it is on GPU and TPU.
      chunk: after how many steps of the run a scan ends, so that something can be done; None for a whole epoch.
      rows: the index of each example in what the user gave, where it is a part of that.
      placement: of the run; on a mesh every device has all of the arrays.
    """

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        batch_size: int,
        *,
        scan: bool | None = None,
        chunk: int | None = None,
        rows: np.ndarray | None = None,
        placement: Placement | None = None,
    ):
        put = functools.partial(jax.tree.map, jnp.asarray) if placement is None else placement.put_whole
        self.inputs, self.targets = put((inputs, targets))
        self.batch_size, self._chunk, self._rows, self._placement = batch_size, chunk, rows, placement
        first = jax.tree.leaves(self.inputs)[0]
        self.count = len(first)
        self.steps = steps_per_epoch(self.count, batch_size)
        self.scan = platform_of(next(iter(first.devices())).platform).loops if scan is None else scan

    def example(self) -> tuple[Any, Any]:
        """The shapes of a batch."""
        return jax.tree.map(
            lambda leaf: struct_of((self.batch_size, *leaf.shape[1:]), leaf.dtype), (self.inputs, self.targets)
        )

    def run(
        self, program: Program, carry: Carry, *, epoch: int, start: int, stop: int | None, on_step: OnStep
    ) -> Carry:
        """The steps of an epoch from ``start`` to before ``stop``."""
        order, stop = self._order(carry[0].key, epoch), self.steps if stop is None else stop
        if self.scan:
            # Nothing comes back before the end of a scan, so nothing can be said between its steps.
            done = int(carry[0].step) - start
            while start < stop:
                # A scan ends where the number of steps of the run is a multiple of the chunk.
                chunk = stop if self._chunk is None else self._chunk - (done + start) % self._chunk
                end = min(stop, start + chunk)
                some = order if (start, end) == (0, self.steps) else order[start:end]
                carry, start = program.scanned(carry, self.inputs, self.targets, some), end
                if on_step(carry, end):
                    break
            return carry
        for step in range(start, stop):
            carry = program.gathered(carry, self.inputs, self.targets, order)
            if on_step(carry, step + 1):
                break
        return carry

    def state(self) -> None:
        """None: the order of an epoch depends on the key and the epoch alone."""

    def restore(self, state: Any, *, epoch: int, step: int, done: int) -> None:
        """Nothing to do."""

    def indices(self, key: jax.Array, epoch: int, step: int) -> np.ndarray | None:
        """Which examples a step was on, as indices into what the user gave."""
        rows = np.asarray(self._order(key, epoch)[step])
        return rows if self._rows is None else self._rows[rows]

    def parts(self, batch_size: int) -> Iterator[Part]:
        """All examples once, in their order."""
        return array_parts(self.inputs, self.targets, batch_size, self._placement)

    def _order(self, key: jax.Array, epoch: int) -> jax.Array:
        return epoch_order(key, epoch, self.count, self.batch_size)


class Batches:
    """An iterable of batches (inputs, targets), or a function that returns an iterator of them.

    A batch may be (inputs, targets, mask): the examples at which the boolean mask is False are left out.

    Args:
      source: an object with ``epoch(number, start)``, which returns an iterator over an epoch from a batch on, as
        `jaxconv.data.batches` makes it. Or an iterable: each epoch iterates over it again, after
        ``source.set_epoch(epoch)`` where there is such a method. Or an iterator, which goes on from epoch to epoch. Or
        a function, called in each epoch, with its number from 0 where it has a parameter.
      steps: the steps of an epoch, of a source that has no end; by default it ends with the iterator.
      name: what errors call it.
      check: ``check(inputs, targets, step)``, called with each batch on the host.
      placement: of the run. Each of several processes gives its part of each batch.
    """

    def __init__(
        self,
        source: Any,
        *,
        steps: int | None = None,
        name: str = "inputs",
        check: Check | None = None,
        placement: Placement | None = None,
    ):
        self._source, self._name, self.check, self._placement = source, name, check, placement
        if placement is not None and isinstance(source, Loader) and (source.index, source.shards) != placement.shard():
            raise ValueError(
                f"{name}: shard must be {placement.shard()}, jaxconv.train.data_shard(mesh), for this process, "
                f"got {(source.index, source.shards)}"
            )
        self.steps = known_length(source) if steps is None else steps
        self._once = hasattr(source, "__next__")
        self._seeks = callable(getattr(source, "epoch", None))
        self._goes_on = self._once or steps is not None
        self._raw: Any = None  # what is iterated over, and the iterator of it that is read, with what was kept
        self._iterator: Iterator[Any] | None = None
        self._epoch, self._read = 0, 0  # of the iterator: its epoch, and how many batches were taken from it
        self._example: tuple[Any, Any] | None = None

    def example(self) -> tuple[Any, Any]:
        """The shapes of the first batch, which is kept for the first epoch."""
        if self._example is None:
            self._open(0, 0)
            assert self._iterator is not None
            first = next(self._iterator, None)
            if first is None:
                raise ValueError(f"{self._name} must give at least one batch, got none")
            pair = check_pair(first[:2] if is_masked(first) else first, self._name)
            self._iterator = itertools.chain([first], self._iterator)
            self._example = jax.tree.map(lambda leaf: struct_of(leaf.shape, leaf.dtype), pair)
        return self._example

    def check_sizes(self) -> None:
        """Raises ValueError where the mesh can't divide a batch, before one is read, if the source says their sizes."""
        found = None if self._placement is None else known_sizes(self._source)
        if found is None or self._placement is None:
            return
        sizes, count = found, self._placement.shard()[1]
        if isinstance(self._source, Loader):
            loader, count = self._source, 1  # Its batches are those of all parts.
            if loader.broken == "skip" and loader.remainder != "drop":
                raise ValueError(
                    f'{self._name}: remainder must be "drop" with broken="skip" on a mesh, which divides no batch that '
                    f"lacks an image, got {loader.remainder!r}"
                )
            if loader.shards > 1 and len(sizes) > 1:
                raise ValueError(
                    f'{self._name}: remainder must be "drop" where {loader.shards} processes train on {sizes[0]} '
                    f"examples a batch, got {loader.remainder!r}: their parts of the last batch, of {sizes[-1]} "
                    "examples, differ in size"
                )
        for size in sizes:
            which = "a batch" if size == sizes[0] else "the last batch"
            self._placement.check_batch_size(size * count, f"{self._name}: the size of {which}", SHORT)

    def run(
        self, program: Program, carry: Carry, *, epoch: int, start: int, stop: int | None, on_step: OnStep
    ) -> Carry:
        """The steps of an epoch from ``start`` to before ``stop``, or to the end of the iterator.

        JAX returns from a step before the device has computed it. Meanwhile the next batch is read and copied there. No
        more than two batches wait for the device.
        """
        self._open(epoch, int(carry[0].step) if self._goes_on else start)
        put = jax.device_put if self._placement is None else self._put
        pairs = map(put, self._pairs(epoch, start, stop))
        batch = next(pairs, None)
        before, step = None, start
        while batch is not None:
            carry, loss = program.fed(carry, *batch)
            step += 1
            if on_step(carry, step):
                break
            batch = next(pairs, None)
            if before is not None:
                before.block_until_ready()
            before = loss
        return carry

    def state(self) -> Any:
        """The state of the iterator as JSON, where it has one, as Grain's have; else its batches are read again."""
        if not self._read or not hasattr(self._raw, "get_state"):
            return None
        state = self._raw.get_state()
        if isinstance(state, bytes):
            return {"base64": base64.b64encode(state).decode()}
        return {"json": json.loads(json.dumps(state))}

    def restore(self, state: Any, *, epoch: int, step: int, done: int) -> None:
        """Has the iterator go on from a state, in an epoch's step, after ``done`` steps of the run."""
        if state is None:
            return
        self._iterator, self._epoch, self._read = self._new(epoch), epoch, done if self._goes_on else step
        self._raw.set_state(base64.b64decode(state["base64"]) if "base64" in state else state["json"])

    def indices(self, key: jax.Array, epoch: int, step: int) -> None:
        """None: an iterable does not say which examples a batch has."""

    def parts(self, batch_size: int | None = None) -> Iterator[Part]:
        """All batches once, but those without an example.

        Smaller ones are filled up to the largest before them, so that one program runs them. So are the parts of
        several processes, which may differ in size and in number.
        """
        self._open(0, self._read if self._once else 0)
        placement, size, put = self._placement, 0, jax.device_put
        multiple = 1
        if placement is not None:
            count = placement.shard()[1] if jax.process_count() > 1 else 1
            multiple, put = placement.parts // count, placement.put_divided if count == 1 else placement.put_batch
        for pair, counts in self._with_counts():
            size = max(size, *counts)
            size += -size % multiple
            some, theirs = put(jax.tree.map(functools.partial(filled, size=size), pair))
            yield Part(some, theirs, merged([(i * size, i * size + rows) for i, rows in enumerate(counts)]))
        if not size:
            raise ValueError(f"{self._name} must have at least one example, got only padding")

    def _with_counts(self) -> Iterator[tuple[Any, list[int]]]:
        """All batches, and how many examples each process's part has; a process without any more gives padding."""
        pairs = self._pairs(0, 0, None, skip=True)
        while True:
            pair = next(pairs, None)
            rows = 0 if pair is None else len(jax.tree.leaves(pair)[0])
            counts = [rows] if self._placement is None else self._placement.counts(rows)
            if not any(counts):
                return
            if pair is None:
                pair = jax.tree.map(lambda one: np.zeros((1, *one.shape[1:]), one.dtype), self.example())
            yield pair, counts

    def _put(self, pair: tuple[Any, Any]) -> tuple[Any, Any]:
        """A batch on the mesh. The parts of several processes have one size, which none of them could see later."""
        assert self._placement is not None
        rows, first = (len(jax.tree.leaves(tree)[0]) for tree in (pair, self.example()))
        if jax.process_count() > 1 and rows != first:
            raise ValueError(
                f"{self._name}: of several processes each must give {first} examples of a batch, as of batch 1, "
                f"got {rows}{SHORT}"
            )
        return self._placement.put_batch(pair)

    def _pairs(self, epoch: int, start: int, stop: int | None, *, skip: bool = False) -> Iterator[tuple[Any, Any]]:
        """The batches of an epoch, each checked against the first; with ``skip`` but those that are all padding."""
        like, iterator = self.example(), self._iterator
        assert iterator is not None
        ends = [n for n in (self.steps, stop) if n is not None]
        end, step = min(ends, default=None), start
        while end is None or step < end:
            batch = next(iterator, None)
            if batch is None:
                break
            step, self._read = step + 1, self._read + 1
            if skip and is_masked(batch) and not np.any(batch[2]):
                continue
            pair = check_pair(batch, self._name)
            check_batches_tree(pair, like, name=self._name, step=step)
            if self.check is not None:
                self.check(*pair, step)
            yield pair
        if step == 0 or (self.steps is not None and end is not None and step < end):
            wanted = "at least one batch" if self.steps is None else f"{self.steps} batches"
            hint = "; a generator ends once: pass a function that makes it" if self._once else ""
            raise ValueError(f"{self._name} must give {wanted} in an epoch, got {step} in epoch {epoch + 1}{hint}")

    def _open(self, epoch: int, read: int) -> None:
        """Has an iterator of the epoch from which ``read`` batches were taken; one that goes on has all epochs."""
        fits = self._iterator is not None and self._read <= read and (self._goes_on or self._epoch == epoch)
        if not fits:
            self._epoch, self._read = epoch, read if self._seeks else 0
            self._iterator = self._new(epoch)
        assert self._iterator is not None
        if self._read < read:
            next(itertools.islice(self._iterator, read - self._read - 1, None), None)
            self._read = read

    def _new(self, epoch: int) -> Iterator[Any]:
        self._raw = self._begun(epoch)
        return self._raw

    def _begun(self, epoch: int) -> Any:
        source = self._source
        if self._seeks:
            return iter(source.epoch(epoch, self._read))
        if not hasattr(source, "__iter__"):
            return iter(source(epoch) if takes_epoch(source) else source())
        if hasattr(source, "set_epoch"):
            source.set_epoch(epoch)
        return iter(source)


def is_iterable(inputs: Any, targets: Any) -> bool:
    """Whether inputs give batches: they come without targets, and are no arrays."""
    plain = hasattr(inputs, "shape") or isinstance(inputs, dict)
    return targets is None and not plain and (hasattr(inputs, "__iter__") or callable(inputs))


def known_length(source: Any) -> int | None:
    """How many batches an iterable says it has; None where it doesn't say, or has no end."""
    try:
        length = len(source)
    except TypeError:
        return None
    # Grain's data sets that repeat for ever say sys.maxsize.
    return length if length < 2**31 else None


def known_sizes(source: Any) -> list[int] | None:
    """How many examples the batches have, and the last one if it has fewer, where an iterable says so; else None."""
    if isinstance(source, list | tuple):
        sizes = [len(leaf) for batch in source for leaf in jax.tree.leaves(batch)[:1] if np.ndim(leaf)]
        return list(dict.fromkeys(sizes)) or None
    if isinstance(source, Loader):
        size, count, drops = source.batch_size, len(source.source), source.remainder == "drop"
    else:
        # A torch DataLoader.
        size, drops = getattr(source, "batch_size", None), getattr(source, "drop_last", None)
        count = known_length(getattr(source, "sampler", None))  # type: ignore[assignment]
        if not isinstance(size, int) or not isinstance(drops, bool) or count is None:
            return None
    return [size] if drops or not count % size else [size, count % size] if count > size else [count]


def takes_epoch(function: Callable[..., Any]) -> bool:
    """Whether a function wants an argument."""
    parameters = inspect.signature(function).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
