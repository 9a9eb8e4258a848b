"""Batches: what an order and a window depend on, shards, resuming, the last batch, and broken images."""

import json
import threading
import time

import jax
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.data import CenterCrop, DataError, RandomResizedCrop, batches, image_folder
from jaxconv.errors import ArgumentError, ShapeError
from tests.data.photos import class_folder


class Numbers:
    """A source of small images that show their index."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((2, 2, 3), index, np.uint8), {"label": np.int32(index), "box": np.full(4, index, np.float32)}


class Broken(Numbers):
    """A source of which the examples in ``bad`` cannot be read."""

    def __init__(self, count, bad):
        super().__init__(count)
        self.bad = bad

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"{index}.jpg is damaged")
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return image_folder(class_folder(tmp_path_factory.mktemp("photos")))


def labels(loader, epoch=0, start=0):
    return [batch[1]["label"].tolist() for batch in loader.epoch(epoch, start)]


def flat(lists):
    return [item for one in lists for item in one]


def equal(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    jax.tree.map(assert_array_equal, one, other)


def test_arrays_and_trees_are_stacked():
    images, targets = next(iter(batches(Numbers(5), 3)))
    assert (images.shape, images.dtype) == ((3, 2, 2, 3), np.uint8)
    assert_array_equal(targets["label"], np.array([0, 1, 2], np.int32), strict=True)
    assert targets["box"].shape == (3, 4)


def test_an_epoch_has_each_example_once_in_an_order_of_the_key_and_the_epoch():
    loader = batches(Numbers(50), 8, key=3)
    first = flat(labels(loader, 0))
    assert sorted(first) == list(range(50)) == flat(labels(batches(Numbers(50), 8)))
    assert first != list(range(50))
    assert flat(labels(loader, 1)) != first
    assert flat(labels(batches(Numbers(50), 8, key=4))) != first
    assert flat(labels(batches(Numbers(50), 5, key=jax.random.key(3)))) == first


def test_iterations_are_epochs():
    loader = batches(Numbers(10), 4, key=0)
    assert len(loader) == 3
    seen = [[targets["label"].tolist() for _, targets in loader] for _ in range(2)]
    assert seen == [labels(loader, 0), labels(loader, 1)]


def test_windows_do_not_depend_on_workers(photos):
    first = list(batches(photos, 3, key=7, crop=RandomResizedCrop(16), workers=1, ahead=1).epoch(2))
    equal(first, batches(photos, 3, key=7, crop=RandomResizedCrop(16), workers=4, ahead=5).epoch(2))
    assert [images.shape for images, _ in first] == [(3, 16, 16, 3), (3, 16, 16, 3), (1, 16, 16, 3)]
    # An image's window depends on its index, neither on its position nor on the batch.
    index = {tuple(image.ravel().tolist()) for images, _ in first for image in images}
    others = batches(photos, 7, key=7, crop=RandomResizedCrop(16)).epoch(2)
    assert {tuple(image.ravel().tolist()) for images, _ in others for image in images} == index
    others = batches(photos, 7, key=7, crop=RandomResizedCrop(16)).epoch(3)
    assert not {tuple(image.ravel().tolist()) for images, _ in others for image in images} & index


def test_evaluation_is_the_same_in_all_epochs(photos):
    loader = batches(photos, 4, crop=CenterCrop(16))
    equal(loader.epoch(0), loader.epoch(5))


@pytest.mark.parametrize("stop", [0, 1, 2, 4, 5, 7])
def test_a_restored_loader_yields_the_batches_that_would_have_followed(stop):
    def run(loader, count):
        found = []
        while len(found) < count:
            for _, targets in loader:
                found.append(targets["label"].tolist())
                if len(found) == count:
                    break
        return found

    whole = run(batches(Numbers(10), 4, key=1), 9)
    first = batches(Numbers(10), 4, key=1)
    begun = run(first, stop)
    state = json.loads(json.dumps(first.state()))
    second = batches(Numbers(10), 4, key=1, workers=3)
    second.restore(state)
    assert begun + run(second, 9 - stop) == whole


def test_a_state_of_something_else_is_refused(photos):
    state = batches(Numbers(10), 4, key=1).state()
    for other, message in (
        (batches(Numbers(11), 4, key=1), "whose data is 11 examples, got 10 examples"),
        (batches(Numbers(10), 5, key=1), "whose batch_size is 5, got 4"),
        (batches(Numbers(10), 4, key=2), r"whose key is \[0, 2\], got \[0, 1\]"),
    ):
        with pytest.raises(DataError, match=message):
            other.restore(state)
    loader = batches(Numbers(10), 4, key=1)
    with pytest.raises(DataError, match="a step below 3, got 0 and 3"):
        loader.restore(state | {"step": 3})
    with pytest.raises(DataError, match="state must have the entries"):
        loader.restore({"epoch": 0})
    mine = batches(photos, 2).state()
    with pytest.raises(DataError, match="whose data is 7 examples, "):
        batches(photos.take(np.arange(7)[::-1]), 2).restore(mine)


@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_shards_are_the_parts_of_the_batches_of_one_process(remainder):
    whole = list(batches(Numbers(18), 8, key=0, remainder=remainder).epoch(1))
    parts = [batches(Numbers(18), 8, key=0, remainder=remainder, shard=(i, 4)) for i in range(4)]
    assert {len(part) for part in parts} == {len(whole)} == {2 if remainder == "drop" else 3}
    joined = [
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *batch)
        for batch in zip(*(part.epoch(1) for part in parts), strict=True)
    ]
    equal(whole, joined)
    # The state is that of all shards, so that a run can go on with another number of processes.
    assert parts[0].state() == parts[3].state() == batches(Numbers(18), 8, key=0).state()


def test_the_last_batch():
    assert [len(a) for a in labels(batches(Numbers(10), 4))] == [4, 4, 2]
    assert [len(a) for a in labels(batches(Numbers(10), 4, key=0, remainder="drop"))] == [4, 4]
    padded = list(batches(Numbers(10), 4, remainder="pad"))
    assert [batch[2].tolist() for batch in padded] == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert padded[2][1]["label"].tolist() == [8, 9, 0, 0]
    assert padded[2][0].shape == (4, 2, 2, 3)
    assert [batch[1]["label"].tolist() for batch in batches(Numbers(8), 4, remainder="pad")] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_a_broken_image_raises_with_its_name(tmp_path):
    folder = class_folder(tmp_path)
    (folder / "dog" / "1.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(DataError, match=r"dog/1\.jpg is"):
        list(batches(image_folder(folder), 3, crop=CenterCrop(8)))
    loader = batches(image_folder(folder), 3, crop=CenterCrop(8), broken="skip")
    assert [len(labels) for _, labels in loader] == [3, 2, 1]
    assert [name.removeprefix(str(folder)) for name in loader.skipped] == ["/dog/1.jpg"]


def test_broken_images_are_skipped_and_counted():
    source = Broken(10, {1, 5, 9})
    loader = batches(source, 4, broken="skip")
    assert labels(loader) == [[0, 2, 3], [4, 6, 7], [8]]
    assert loader.skipped == {f"example {i}": f"{i}.jpg is damaged" for i in (1, 5, 9)}
    padded = list(batches(source, 4, broken="skip", remainder="pad"))
    assert [batch[2].tolist() for batch in padded] == [[1, 0, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0]]
    # The next readable example of the order takes the place, so that all batches are full.
    loader = batches(source, 4, key=0, broken="skip", remainder="drop")
    order = flat(labels(batches(Numbers(10), 4, key=0)))
    following = [next(i for i in (order + order)[at:] if i not in source.bad) for at in range(8)]
    assert flat(labels(loader)) == following
    assert loader.skipped


def test_a_batch_without_a_readable_image():
    for remainder in ("short", "drop"):
        key = None if remainder == "short" else 0
        with pytest.raises(DataError, match=r"all 2 examples of a batch are broken: .*0\.jpg is damaged"):
            list(batches(Broken(4, {0, 1, 2, 3}), 2, key=key, broken="skip", remainder=remainder))
    first, second = batches(Broken(4, {0, 1}), 2, broken="skip", remainder="pad")
    assert first[2].tolist() == [False, False]
    assert not first[1]["box"].any()
    assert second[1]["label"].tolist() == [2, 3]


def test_examples_of_different_shapes_are_refused():
    source = [(np.zeros((2, 2 + i, 3), np.uint8), 0) for i in range(2)]
    with pytest.raises(
        ShapeError, match=r"examples of one shape, got .*2, 2, 3.* and .*2, 3, 3.*; a crop gives images"
    ):
        list(batches(source, 2))
    assert [image.shape for image, _ in batches(source, 1)] == [(1, 2, 2, 3), (1, 2, 3, 3)]
    assert [image.shape for image, _ in batches(source, 2, crop=CenterCrop(2))] == [(2, 2, 2, 3)]


def test_any_other_error_reaches_the_caller():
    class Failing(Numbers):
        def __getitem__(self, index):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(batches(Failing(4), 2, broken="skip"))


def test_threads_end_with_the_iteration():
    def reading():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("grain")]

    for _ in batches(Numbers(100), 4, workers=3, ahead=4):
        assert reading()
        break
    deadline = time.monotonic() + 10
    while reading() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not reading()


def test_at_most_the_given_number_of_batches_is_read_ahead():
    class Counting(Numbers):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    source = Counting(1000)
    iterator = batches(source, 4, workers=2, ahead=3).epoch(0)
    next(iterator)
    time.sleep(0.1)
    # Three batches of examples, two that are stacked, the one that was returned, and two that are begun.
    assert source.read <= 4 * 8
    iterator.close()


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ArgumentError, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (ArgumentError, {"batch_size": 2.5}, "batch_size must be an integer, got 2.5"),
        (ArgumentError, {"workers": 0}, "workers must be at least 1, got 0"),
        (ArgumentError, {"ahead": 0}, "ahead must be at least 1, got 0"),
        (ArgumentError, {"remainder": "keep"}, "remainder must be one of short, drop, pad, got 'keep'"),
        (ArgumentError, {"broken": "ignore"}, "broken must be one of raise, skip, got 'ignore'"),
        (ArgumentError, {"remainder": "drop"}, 'remainder must be "short" or "pad" without a key'),
        (
            ArgumentError,
            {"shard": (2, 2)},
            r"shard must be \(index, count\) with an index below the count, got \(2, 2\)",
        ),
        (ArgumentError, {"shard": (0, 3)}, "batch_size must be a multiple of the 3 shards, got 4"),
        (ArgumentError, {"shard": (0, 2)}, 'remainder must be "drop" or "pad" for several shards'),
        (ShapeError, {"batch_size": 11, "key": 0, "remainder": "drop"}, "batch_size must be at most the 10 examples"),
    ],
)
def test_arguments_out_of_range(error, options, message):
    with pytest.raises(error, match=message):
        batches(Numbers(10), **({"batch_size": 4} | options))


def test_an_empty_source_is_refused():
    with pytest.raises(DataError, match="source must have at least one example, got 0"):
        batches([], 4)


@pytest.mark.parametrize("batch_size", [7, 8, 9, 20])
def test_batches_of_any_size_are_those_of_the_order(batch_size):
    order = flat(labels(batches(Numbers(43), 1, key=0)))
    for start in range(3):
        expected = [order[at : at + batch_size] for at in range(start * batch_size, 43, batch_size)]
        assert labels(batches(Numbers(43), batch_size, key=0), start=start) == expected


class Failing:
    """Batches whose reading fails before a batch of an epoch."""

    def __init__(self, loader, epoch, step):
        self.loader, self.at = loader, (epoch, step)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return self.epoch(0)

    def epoch(self, number, start=0):
        for step, batch in enumerate(self.loader.epoch(number, start), start):
            if (number, step) == self.at:
                raise OSError("the disk is gone")
            yield batch


def test_a_run_that_fails_within_an_epoch_continues_as_if_it_had_not(photos, tmp_path):
    net = jc.serial(jc.Fn(lambda x: x / 255.0), jc.Conv(2, 3), jc.GlobalAvgPool(), jc.Dense(2))
    options = {"loss": optax.softmax_cross_entropy_with_integer_labels, "epochs": 2, "progress": False}
    optimizer = optax.sgd(0.1, momentum=0.9)

    def loader():
        return batches(photos, 2, key=5, crop=RandomResizedCrop(16), remainder="drop")

    whole = jc.train.fit(net, loader(), None, optimizer, **options)
    with pytest.raises(OSError, match="the disk is gone"):
        jc.train.fit(
            net, Failing(loader(), 1, 2), None, optimizer, folder=tmp_path / "run", checkpoint_every=1, **options
        )
    resumed = jc.train.fit(
        net, loader(), None, optimizer, folder=tmp_path / "run", checkpoint_every=1, resume=True, **options
    )
    jax.tree.map(assert_array_equal, whole.params, resumed.params)
    assert whole.history[-1]["loss"] == resumed.history[-1]["loss"]
