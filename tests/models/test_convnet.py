"""Networks written in the lecture's notation."""

import jax
import pytest

import jaxconv as jc
from jaxconv.models import convnet_from_spec

RELU = jc.Fn(jax.nn.relu)


FLAT = jc.Flatten(channels_first=True)


def layers(spec, **options):
    return [layer for _, layer in convnet_from_spec(spec, **options).children]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("FC", [FLAT, jc.Dense(128)]),
        ("CONV-RELU-POOL", [jc.Conv(32), RELU, jc.MaxPool(2), FLAT]),
        ("CONV64-NORM-RELU-POOL3", [jc.Conv(64), jc.BatchNorm(), RELU, jc.MaxPool(3), FLAT]),
        ("[CONV-POOL]*2-CONV", [jc.Conv(32), jc.MaxPool(2), jc.Conv(64), jc.MaxPool(2), jc.Conv(128), FLAT]),
        ("(FC10-RELU)*2", [FLAT, jc.Dense(10), RELU, jc.Dense(10), RELU]),
        ("[ (CONV8 - RELU) * 2 - POOL ] * 1", [jc.Conv(8), RELU, jc.Conv(8), RELU, jc.MaxPool(2), FLAT]),
        ("CONV*2-(RELU)*0-FC", [jc.Conv(32), jc.Conv(32), FLAT, jc.Dense(128)]),
        ("((CONV))", [jc.Conv(32), FLAT]),
    ],
)
def test_a_spec_is_the_row_of_layers_that_it_says(spec, wanted):
    assert layers(spec) == [*wanted, jc.Dense(10)]


def test_the_lectures_line_has_its_numbers():
    n, m, k = 3, 2, 2
    found = layers(f"[(CONV-RELU)*{n}-POOL]*{m}-(FC-RELU)*{k}", classes=7, width=8, hidden=16, window=5)
    assert [layer for layer in found if isinstance(layer, jc.Conv)] == [jc.Conv(8, 5)] * n + [jc.Conv(16, 5)] * n
    assert found.count(jc.MaxPool(2)) == m
    assert found.count(jc.Dense(16)) == k
    assert found.count(RELU) == n * m + k
    assert found[-1] == jc.Dense(7)


def test_it_runs_and_its_layers_are_named_by_position():
    net = convnet_from_spec("[(CONV4-NORM-RELU)*2-POOL]*2-FC8-RELU", 3)
    params, state = jax.eval_shape(lambda key: net.init(key, (2, 12, 9, 1)), jax.random.key(0))
    assert sorted(params, key=lambda name: (len(name), name)) == [
        "0",
        "1",
        "3",
        "4",
        "7",
        "8",
        "10",
        "11",
        "15",
        "scores",
    ]
    assert set(state) == {"1", "4", "8", "11"}
    assert params["15"]["kernel"].shape == (3 * 2 * 4, 8)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "got an early end"),
        ("CONV-", "got an early end"),
        ("[CONV", "got an early end"),
        ("CONV*", r"got '\*' where that"),
        ("[(CONV-RELU]*2", r"got '\]\*2' where that"),
        ("CONV)", r"got '\)' where that"),
        ("()", r"got '\)' where that"),
        ("CONV RELU", "got 'RELU' where that"),
        ("CONV*N", r"got '\*N' where that"),
        ("CONV-?", r"got '\?' where that"),
        ("3CONV", "got '3CONV' where that"),
        ("CONV²", "got '²' where that"),
        ("CONV-TANH", "spec must consist of CONV, NORM, RELU, POOL and FC, got TANH"),
        ("conv", "spec must consist of CONV, NORM, RELU, POOL and FC, got conv"),
        ("RELU6", "spec must consist of CONV, NORM, RELU, POOL and FC, got RELU6"),
        ("FC-CONV", "spec must have its fully connected layers last, got CONV after FC"),
        ("FC-RELU-POOL", "spec must have its fully connected layers last, got POOL after FC"),
        ("CONV0", "features must be at least 1, got 0"),
        ("POOL0", "window"),
    ],
)
def test_a_spec_that_says_nothing_is_refused(spec, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        convnet_from_spec(spec)


def test_the_lectures_softmax_is_the_scores():
    assert layers("CONV-RELU-FC-RELU-SOFTMAX") == layers("CONV-RELU-(FC-RELU)*1,SOFTMAX") == layers("CONV-RELU-FC-RELU")


def test_a_perhaps_is_refused():
    with pytest.raises(jc.ArgumentError, match=r"write POOL in place of POOL\?, or omit it"):
        convnet_from_spec("[(CONV-RELU)*2-POOL?]*3-FC")


def test_a_spec_goes_elsewhere():
    with pytest.raises(jc.ArgumentError, match=r"classes must be an integer, .* for a spec there is convnet_from_spec"):
        jc.models.convnet("(CONV-RELU)*2-FC")
