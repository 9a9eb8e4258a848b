"""Arrays in pages of their own."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.ops.memory import copied, give_back, zeros

MANY = 2**23  # elements of float32: 32 MiB
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident():
    """The bytes of this process that are in memory and not in a file."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4), (300, 257)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.bool_])
def test_a_copy_is_aligned_and_in_the_order_of_its_indices(shape, dtype):
    a = np.asfortranarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype))
    copy = copied(a)
    np.testing.assert_array_equal(copy, a, strict=True)
    assert copy.flags.c_contiguous
    assert copy.flags.writeable
    assert copy.ctypes.data % 64 == 0
    assert not np.shares_memory(copy, a)
    np.testing.assert_array_equal(zeros(shape, dtype), np.zeros(shape, dtype), strict=True)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices have their own memory")
@pytest.mark.parametrize("size", [3, 2**20])
def test_the_cpu_backend_shares_it(size):
    a = copied(np.arange(size, dtype=np.float32))
    assert jax.device_put(a).unsafe_buffer_pointer() == a.ctypes.data


@linux_only
def test_memory_is_needed_from_the_first_write_to_the_last_reference():
    before = resident()
    a = zeros((MANY,), np.float32)
    assert resident() - before < a.nbytes // 4
    a[...] = 1
    assert resident() - before > a.nbytes * 3 // 4
    del a
    assert resident() - before < MANY


@linux_only
def test_gaps_between_blocks_are_given_back():
    small = [np.ones(2**13, np.uint8) for _ in range(2**13)]  # 64 MiB, of the C library's heap
    kept, before = small[::64], resident()
    del small
    give_back()
    assert before - resident() > 2**24
    assert all(a.all() for a in kept)
