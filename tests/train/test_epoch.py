import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.train import TrainState
from jaxconv.train.epoch import Recipe, epoch_order, program
from jaxconv.train.sources import Arrays
from tests.train.toys import Centered, assert_same, cross_entropy, data

KEY = jax.random.key(3)


@settings(max_examples=6)
@given(count=st.integers(1, 40), data=st.data())
def test_order_sees_every_image(count, data):
    batch = data.draw(st.integers(1, count))
    order = np.asarray(epoch_order(KEY, 0, count, batch))
    assert order.shape == (-(-count // batch), batch)
    seen, times = np.unique(order, return_counts=True)
    np.testing.assert_array_equal(seen, np.arange(count))
    assert times.max() <= 2
    assert order.size - count < batch
    # No image twice in a batch, but where the last has to reach round.
    assert all(len(set(row)) == batch for row in order[:-1])


def test_order_is_a_function_of_key_and_epoch():
    orders = [epoch_order(KEY, epoch, 20, 4) for epoch in (0, 1, 0)] + [epoch_order(jax.random.key(4), 0, 20, 4)]
    assert_same(orders[0], orders[2])
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != orders[3]).any()


def prepare(net, images, labels, optimizer, batch_size, scan, **options):
    made = program(Recipe(net, cross_entropy, optimizer, **options))
    train_state = TrainState.create(net, optimizer, KEY, images)
    totals = made.new_totals(jax.eval_shape(made.step, train_state, images, labels)[1])
    return made, (train_state, totals), Arrays(images, labels, batch_size, scan=scan)


def run(made, carry, source, epoch=0, on_step=lambda carry, step: None):
    return source.run(made, carry, epoch=epoch, start=0, stop=None, on_step=on_step)


def test_scan_equals_loop():
    results, calls = [], []

    def augment(key, x):
        return x + 0.1 * jax.random.uniform(key, (1,))

    for scan in (False, True):
        made, carry, source = prepare(Centered(), *data(22), optax.adam(0.05), 5, scan, augment=augment)
        totals = carry[1]
        carry = run(made, carry, source, on_step=lambda carry, step: calls.append(step))
        assert carry[1]["steps"] == 5
        assert totals["steps"].is_deleted()
        results.append(carry)
    (loop, loop_totals), (scan, scan_totals) = results
    assert calls == [1, 2, 3, 4, 5, 5], "the scan has nothing to say between steps"
    assert loop.step == scan.step == 5
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, (loop.params, loop.state, loop_totals), (scan.params, scan.state, scan_totals))


@pytest.mark.parametrize("scan", [False, True])
def test_the_first_bad_step_is_kept(scan):
    images, labels = data(22)
    images[17] = np.inf
    made, carry, source = prepare(Centered(rate=0.0), images, labels, optax.sgd(0.1), 5, scan)
    expected = np.argwhere(np.asarray(epoch_order(KEY, 1, 22, 5)) == 17)[0, 0]
    # The state's key is the second half of the key: the order that is expected is of the whole one.
    carry = dataclasses.replace(carry[0], key=jax.random.key(3)), carry[1]
    _, totals = run(made, carry, source, epoch=1)
    assert totals["bad"] == expected > 0
    assert 17 in source.indices(KEY, 1, int(totals["bad"]))


@pytest.mark.parametrize("scan", [False, True])
def test_donates_the_train_state(scan):
    made, (train_state, totals), source = prepare(Centered(rate=0.0), *data(8), optax.adam(0.05), 4, scan)
    run(made, (train_state, totals), source)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(train_state.params))
    assert not any(array.is_deleted() for array in (source.inputs, source.targets))


def test_equal_recipes_share_what_is_compiled():
    optimizer = optax.sgd(0.1)
    one, same = (program(Recipe(Centered(), cross_entropy, optimizer)) for _ in range(2))
    assert one is same
    assert program(Recipe(Centered(), cross_entropy, optax.sgd(0.1))) is not one
    assert program(Recipe(Centered(4), cross_entropy, optimizer)) is not one

    class Unhashable(Centered):
        __hash__ = None

    assert program(Recipe(Unhashable(), cross_entropy, optimizer)) is not None
