import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.data import DataError, Dataset, split
from jaxconv.errors import ArgumentError, DTypeError, ShapeError


@given(
    labels=st.lists(st.sampled_from([-3, 0, 1, 7]), min_size=2, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
)
def test_split_is_a_stratified_partition(labels, fraction, seed):
    held = round(fraction * len(labels))
    if not 0 < held < len(labels):
        with pytest.raises(ShapeError, match="fraction must leave no part"):
            split(labels, fraction, seed=seed)
        return
    kept, held_out = split(labels, fraction, seed=seed)
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    assert len(held_out) == held
    for label in set(labels):
        share = fraction * labels.count(label)
        assert abs((np.asarray(labels)[held_out] == label).sum() - share) < 1


def test_what_is_left_over_goes_to_the_largest_remainders():
    # Shares of 2.5, 2.25 and 0.25 make 5: two, two and none, and one more for the first.
    labels = np.repeat([4, 5, 6], [10, 9, 1])
    _, held_out = split(labels, 0.25, seed=0)
    assert np.bincount(labels[held_out], minlength=7)[4:].tolist() == [3, 2, 0]


def test_split_is_the_same_everywhere():
    # Recorded once: another platform or another NumPy must give these.
    labels = np.repeat([0, 1], 20)
    assert split(labels, 0.25, seed=0)[1].tolist() == [2, 3, 11, 13, 15, 20, 21, 32, 35, 39]
    assert split(labels, 0.25, seed=1)[1].tolist() == [2, 9, 16, 18, 19, 27, 28, 31, 36, 39]


def test_split_gives_every_example_the_same_chance():
    # 400 splits hold out each of 20 examples about 100 times; 7 standard deviations either way.
    held = np.zeros(20)
    for seed in range(400):
        held[split([0] * 12 + [1] * 8, 0.25, seed=seed)[1]] += 1
    assert abs(held - 100).max() < 7 * np.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("labels", "fraction", "seed", "error", "message"),
    [
        ([[0, 1]], 0.5, 0, ShapeError, r"labels must be \(N,\), got shape \(1, 2\)"),
        ([0.0, 1.0], 0.5, 0, DTypeError, "labels must be integers, got float64"),
        ([0, 1], 0.0, 0, ArgumentError, "fraction must be between 0 and 1, both excluded, got 0.0"),
        ([0, 1], 1, 0, ArgumentError, "got 1"),
        ([0, 1], float("nan"), 0, ArgumentError, "got nan"),
        ([0, 1], 0.5, -1, ArgumentError, "seed must be at least 0, got -1"),
        ([0, 1], 0.5, 0.5, ArgumentError, "seed must be an integer, got 0.5"),
        ([], 0.5, 0, ShapeError, "fraction must leave no part of the 0 labels empty"),
        ([0, 1, 2], 0.1, 0, ShapeError, "fraction must leave no part of the 3 labels empty, got 0.1"),
    ],
)
def test_split_refuses(labels, fraction, seed, error, message):
    with pytest.raises(error, match=message):
        split(labels, fraction, seed=seed)


def parts(**changes):
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.array([0, 1, 1], np.int32)
    arguments = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    return Dataset("stripes", **{**arguments, **changes}, classes=("across", "down"))


def test_a_dataset_is_frozen_and_prints_its_sizes():
    data = parts()
    assert repr(data) == "Dataset('stripes': 3 train, 3 test, 4x4x1, 2 classes)"
    with pytest.raises(AttributeError):
        data.name = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((3, 4, 4), np.uint8)}, r"stripes: train images must be \(N, H, W, C\) uint8"),
        ({"train_images": np.zeros((3, 4, 4, 1))}, r"got \(3, 4, 4, 1\) float64"),
        ({"test_labels": np.zeros((3,), np.int64)}, r"stripes: test labels must be \(N,\) int32, got \(3,\) int64"),
        ({"test_labels": np.zeros((2,), np.int32)}, "stripes: test: 3 images but 2 labels"),
        ({"train_labels": np.array([0, 2, 0], np.int32)}, "train labels: label 1 is 2, expected 0 to 1"),
        ({"train_labels": np.array([0, 0, -1], np.int32)}, "train labels: label 2 is -1, expected 0 to 1"),
        ({"test_images": np.zeros((3, 4, 5, 1), np.uint8)}, r"train images are \(4, 4, 1\), test images \(4, 5, 1\)"),
    ],
)
def test_a_dataset_whose_parts_do_not_fit_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        parts(**changes)
