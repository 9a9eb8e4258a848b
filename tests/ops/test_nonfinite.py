"""One element that is not finite, through ops: compiled and eager, alone, in an ensemble, over devices; and pools.

`tests/ops/lowering/test_nonfinite.py` has every form of a convolution.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from tests.ops import oracle
from tests.ops.draws import uniform

KINDS = (np.nan, np.inf, -np.inf)


def numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return uniform(seed, shape, 0.5, 1.5).astype(np.float32)


def changed(x: np.ndarray, at: tuple[int, ...], value: float) -> np.ndarray:
    x = x.copy()
    x[at] = value
    return x


def unbounded(a) -> np.ndarray:
    return ~np.isfinite(np.asarray(a))


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions

# The options, shapes of x and kernel; those that oneDNN does not take too.
CONVS = {
    "groups": ({"groups": 4}, (2, 9, 9, 20), (3, 3, 5, 16)),
    "groups, dilation": ({"groups": 4, "dilation": 2}, (1, 9, 9, 8), (3, 3, 2, 8)),
    "groups, small map": ({"groups": 4}, (1, 2, 3, 20), (3, 3, 5, 16)),
    "one channel": ({"stride": 3, "padding": "VALID"}, (1, 8, 8, 1), (2, 2, 1, 16)),
    "stem": ({"stride": 2, "padding": 3}, (1, 17, 17, 3), (7, 7, 3, 4)),
}


@pytest.mark.parametrize("mode", ["auto", "portable", "exact"])
@pytest.mark.parametrize("name", CONVS, ids=lambda name: name.replace(" ", "-"))
def test_a_pixel_reaches_its_windows_in_its_group(name, mode):
    options, *shapes = CONVS[name]
    x, kernel = (numbers(i, shape) for i, shape in enumerate(shapes))
    groups, channels = options.get("groups", 1), shapes[0][-1]
    at = (0, 1, 1, channels - 1)
    # What depends on the pixel, in a sum of numbers that are all positive.
    pixel = oracle.conv(changed(np.zeros_like(x), at, 1.0), kernel, **options) != 0
    assert pixel.any()
    assert not pixel[..., : -pixel.shape[-1] // groups or None].any()

    def conv(x, kernel):
        return jc.conv(x, kernel, **options)

    with jc.lowering(mode):
        runs = {"jit": jax.jit(conv)} | ({"eager": conv} if mode == "auto" else {})
        for value in KINDS:
            for how, run in runs.items():
                y = run(changed(x, at, value), kernel)
                np.testing.assert_array_equal(unbounded(y), pixel, err_msg=how)
                if np.isinf(value):
                    assert (np.asarray(y)[pixel] == value).all()


def test_half_precision_keeps_it_too():
    options, *shapes = CONVS["groups, dilation"]
    x, kernel = (jnp.asarray(numbers(i, shape), jnp.bfloat16) for i, shape in enumerate(shapes))
    y = jc.conv(x.at[0, 4, 4, 0].set(jnp.nan), kernel, **options)
    assert unbounded(y).any((0, 1, 2)).tolist() == [True] * 2 + [False] * 6


@pytest.mark.parametrize("mode", ["auto", "portable", "exact"])
@pytest.mark.parametrize("members", [3, 20])
def test_a_member_of_an_ensemble_keeps_it_to_itself(members, mode):
    x, kernel, y = (
        numbers(0, (members, 2, 7, 8, 1)),
        numbers(1, (members, 3, 3, 1, 4)),
        numbers(2, (members, 2, 5, 6, 4)),
    )

    def gradients(x, kernel, y):
        out, pullback = jax.vjp(lambda x, kernel: jc.conv(x, kernel, padding="VALID"), x, kernel)
        return out, *pullback(y)

    with jc.lowering(mode):
        run = jax.jit(jax.vmap(gradients))
        for i in range(3):
            arrays = [x, kernel, y]
            arrays[i] = changed(arrays[i], (1,) + (0,) * (arrays[i].ndim - 1), np.nan)
            found = run(*arrays)
            assert any(unbounded(a[1]).any() for a in found)
            assert not any(unbounded(np.delete(a, 1, 0)).any() for a in map(np.asarray, found))


def test_over_devices_a_group_keeps_it():
    """The compiler divides the program: no oneDNN. Nothing is gathered."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    x, kernel = numbers(0, (8, 7, 6, 8)), numbers(1, (3, 3, 2, 8))
    f = jax.jit(lambda x, kernel: jc.conv(x, kernel, groups=4))
    place = functools.partial(jax.device_put, device=NamedSharding(mesh, P("data")))
    bad = place(changed(x, (3, 2, 2, 2), np.nan))
    np.testing.assert_allclose(f(place(x), kernel), oracle.conv(x, kernel, groups=4), rtol=1e-5)
    where = unbounded(f(bad, kernel))
    assert np.argwhere(where.any((1, 2, 3))).tolist() == [[3]]
    assert np.argwhere(where.any((0, 1, 2)))[:, 0].tolist() == [2, 3]
    assert "all-gather" not in f.lower(bad, kernel).compile().as_text()


# ---------------------------------------------------------------------------------------------------------------------
# Pools

POOLS = {
    "side by side": ((8, 6), {"window": (2, 2)}),
    "overlapping": ((7, 8), {"window": (3, 3), "stride": 2, "padding": 1}),
    "stride 1": ((7, 8), {"window": (3, 2), "stride": 1, "padding": ((1, 1), (0, 1))}),
    "long": ((23,), {"window": (11,), "stride": 2, "padding": 3}),
    "long, stride 1": ((23,), {"window": (11,), "stride": 1}),
    "dilation": ((9, 8), {"window": (2, 3), "stride": (1, 2), "dilation": (3, 2)}),
    "ceil mode": ((8, 7), {"window": (3, 3), "stride": 2, "ceil_mode": True}),
    "whole map": ((4, 5), {"window": (4, 5)}),
    "stride above the window": ((9, 9), {"window": (2, 2), "stride": 3}),
}
CHANNELS = 9


def windows_of(size, options) -> np.ndarray:
    """Which element each window sees: booleans ``(*output, *size)``."""
    defaults = {"stride": None, "padding": "VALID", "dilation": 1, "ceil_mode": False}
    out, visits = oracle.visits(np.zeros((1, *size, 1)), **(defaults | options))
    seen = np.zeros((*out, *size), bool)
    for place, real, _ in visits:
        for position in real:
            seen[(*place, *position)] = True
    return seen


def both(op, options):
    """The pool and its gradient for a cotangent: compiled, and where windows overlap eager too."""

    def run(x, cotangent):
        y, pullback = jax.vjp(lambda x: op(x, **options), x)
        return y, pullback(cotangent)[0]

    return {"jit": jax.jit(run)} | ({"eager": run} if options is POOLS["overlapping"][1] else {})


@pytest.mark.parametrize("op", [jc.avg_pool, jc.lp_pool, jc.max_pool], ids=lambda op: op.__name__)
@pytest.mark.parametrize("name", POOLS, ids=lambda name: name.replace(" ", "-"))
def test_pools_keep_it_to_the_windows_that_see_it(name, op):
    size, options = POOLS[name]
    seen = windows_of(size, options)
    out, rank = seen.shape[: len(size)], len(size)
    x, cotangent = numbers(0, (2, *size, CHANNELS)), numbers(1, (2, *out, CHANNELS))
    runs = both(op, options)
    for pixel in ((0,) * rank, tuple(n // 2 for n in size), tuple(n - 1 for n in size)):
        windows = seen[(..., *pixel)]
        for value in KINDS:
            bad = changed(x, (1, *pixel, 4), value)
            want = np.zeros((2, *out, CHANNELS), bool)
            want[1, ..., 4] = windows
            if op is jc.max_pool and value == -np.inf:  # loses to every other element
                want[1, ..., 4] &= seen.reshape(*out, -1).sum(-1) == 1
            moved = np.zeros((2, *size, CHANNELS), bool)
            if op is jc.lp_pool:  # the gradient is x / y for each window: 0 of the others if an inf is among them
                moved[1, ..., 4] = np.isnan(value) & seen[windows].any(0)
                moved[(1, *pixel, 4)] = True
            for how, run in runs.items():
                y, gradient = run(bad, cotangent)
                np.testing.assert_array_equal(unbounded(y), want, err_msg=f"{how}, {value} at {pixel}")
                if np.isnan(value):
                    assert np.isnan(np.asarray(y)[want]).all()
                np.testing.assert_array_equal(unbounded(gradient), moved, err_msg=f"{how}, {value} at {pixel}")
                if op is jc.max_pool and not np.isfinite(value) and value != -np.inf:
                    # It wins its windows, and takes their gradients.
                    taken = np.asarray(gradient)[(1, *pixel, 4)]
                    np.testing.assert_allclose(taken, cotangent[1, ..., 4][windows].sum(), rtol=1e-5)
    for place in ((0,) * rank, tuple(n - 1 for n in out)):
        bad = changed(cotangent, (1, *place, 4), np.nan)
        want = np.zeros((2, *size, CHANNELS), bool)
        want[1, ..., 4] = seen[place]
        if op is jc.max_pool:  # the first of the largest
            inside = np.where(seen[place], x[1, ..., 4], -np.inf)
            want[1, ..., 4] = np.arange(inside.size).reshape(size) == inside.argmax()
        for how, run in runs.items():
            y, gradient = run(x, bad)
            assert not unbounded(y).any()
            np.testing.assert_array_equal(unbounded(gradient), want, err_msg=f"{how}, cotangent at {place}")
