import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.train import TrainState
from jaxconv.train.epoch import epoch_order, looped_epoch, new_totals, scanned_epoch
from jaxconv.train.step import raw_step
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


def prepare(net, images, labels, optimizer, **options):
    step = raw_step(net, cross_entropy, optimizer, **options)
    train_state = TrainState.create(net, optimizer, KEY, images)
    totals = new_totals(jax.eval_shape(step, train_state, images, labels)[1])
    return step, (train_state, totals), jnp.asarray(images), jnp.asarray(labels)


def test_scan_equals_loop():
    results, calls = [], []

    def augment(key, x):
        return x + 0.1 * jax.random.uniform(key, (1,))

    for make in (looped_epoch, scanned_epoch):
        step, carry, *arrays = prepare(Centered(), *data(22), optax.adam(0.05), augment=augment)
        run, totals = make(step), carry[1]
        carry = run(carry, *arrays, epoch_order(KEY, 0, 22, 5), calls.append)
        assert carry[1]["steps"] == 5
        assert totals["steps"].is_deleted()
        results.append(carry)
    (loop, loop_totals), (scan, scan_totals) = results
    assert len(calls) == 5, "the scan has nothing to say between steps"
    assert loop.step == scan.step == 5
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, (loop.params, loop.state, loop_totals), (scan.params, scan.state, scan_totals))


@pytest.mark.parametrize("make", [looped_epoch, scanned_epoch])
def test_the_first_bad_step_is_kept(make):
    images, labels = data(22)
    images[17] = np.inf
    step, carry, *arrays = prepare(Centered(rate=0.0), images, labels, optax.sgd(0.1))
    order = epoch_order(KEY, 1, 22, 5)
    expected = np.argwhere(np.asarray(order) == 17)[0, 0]
    _, totals = make(step)(carry, *arrays, order)
    assert totals["bad"] == expected > 0


@pytest.mark.parametrize("make", [looped_epoch, scanned_epoch])
def test_donates_the_train_state(make):
    step, (train_state, totals), *arrays = prepare(Centered(rate=0.0), *data(8), optax.adam(0.05))
    make(step)((train_state, totals), *arrays, epoch_order(KEY, 0, 8, 4))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(train_state.params))
    assert not any(array.is_deleted() for array in arrays)
