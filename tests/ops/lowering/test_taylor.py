"""Taylor coefficients through each primitive, against derivatives taken one after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet

import jaxconv as jc
from jaxconv.ops.lowering import pool, primitive, resample, strided, traced
from tests.ops.compare import assert_close
from tests.ops.draws import uniform
from tests.ops.transforms import quick_jit

ORDER = 3
OPS = {
    "conv": (functools.partial(jc.conv, stride=2, groups=2), (2, 5, 4, 4), (3, 3, 2, 6)),
    "conv_transpose": (functools.partial(jc.conv_transpose, stride=2), (2, 3, 2, 4), (3, 3, 2, 4)),
    "max_pool": (functools.partial(jc.max_pool, window=2), (2, 5, 4, 3)),
    "max_pool overlapping": (functools.partial(jc.max_pool, window=3, stride=2, padding=1), (2, 5, 4, 3)),
    "max_pool long": (functools.partial(jc.max_pool, window=(9,), stride=2), (2, 12, 3)),
    "max_pool_with_indices": (lambda x: jc.max_pool_with_indices(x, 2)[0], (2, 5, 4, 3)),
    "avg_pool": (functools.partial(jc.avg_pool, window=2), (2, 5, 4, 3)),
    "avg_pool overlapping": (functools.partial(jc.avg_pool, window=3, stride=1, padding=1), (2, 5, 4, 3)),
    # Their gradients are the other primitives.
    "max_pool backward": (jax.grad(lambda x: jnp.sum(jnp.sin(jc.max_pool(x, 2)))), (2, 4, 4, 3)),
    "avg_pool backward": (jax.grad(lambda x: jnp.sum(jnp.sin(jc.avg_pool(x, 2)))), (2, 4, 4, 3)),
}


@pytest.mark.parametrize("name", OPS)
def test_coefficients_are_the_derivatives_along_a_curve(name):
    op, *shapes = OPS[name]
    points, *terms = (
        [uniform(10 * k + i, s).astype(np.float32) for i, s in enumerate(shapes)] for k in range(ORDER + 1)
    )

    def f(*arrays):
        return jnp.sin(op(*arrays))

    def along(t):
        moved = zip(points, *terms, strict=True)
        return f(*(x + t * a + t**2 / 2 * b + t**3 / 6 * c for x, a, b, c in moved))

    @quick_jit
    def everything():
        value, found = jet.jet(f, tuple(points), tuple(zip(*terms, strict=True)))
        curves = [along]
        for _ in range(ORDER):
            curves.append(jax.jacfwd(curves[-1]))
        return [value, *found], [curve(0.0) for curve in curves]

    got, want = everything()
    assert len(got) == ORDER + 1
    for order, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close(g, w, rtol=1e-4, atol=1e-3, what=f"derivative {order}")


def test_every_primitive_has_a_rule():
    ours = {
        p
        for module in (pool, primitive, resample, strided, traced)
        for n, p in vars(module).items()
        if n.endswith("_p")
    }
    assert len(ours) == 11
    assert ours <= set(jet.jet_rules)
