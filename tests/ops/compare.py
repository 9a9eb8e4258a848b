"""How two results are compared."""

import jax
import numpy as np
from numpy.testing import assert_allclose


def assert_close(got, want, *, rtol=1e-5, atol=1e-5, what=""):
    """Same shape, and values within ``atol`` of the largest of them and ``rtol``."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, wanted {want.shape}"
    finite = np.abs(want[np.isfinite(want)])
    assert_allclose(got, want, rtol=rtol, atol=atol * max(1.0, finite.max(initial=0.0)), err_msg=what)


def value_and_pullback(function, args, cotangent):
    """The value of ``function`` and its gradients for this cotangent, compiled once."""

    @jax.jit
    def both(args, cotangent):
        out, pullback = jax.vjp(function, *args)
        return out, pullback(cotangent.astype(out.dtype))

    return both(tuple(args), np.asarray(cotangent, np.float32))


def assert_gradient(gradient, moved, direction, cotangent, what=""):
    """Checks the gradient of a linear map by one value of it.

    A linear map has ``<map(u), y> == <u, gradient>`` for all ``u``: one random ``u`` finds a wrong gradient.

    Args:
      gradient: what came back for the cotangent ``y``.
      moved: the oracle's ``map(u)``.
      direction: ``u``.
      cotangent: ``y``.
      what: names the argument in the message.
    """
    assert np.shape(gradient) == np.shape(direction), what
    left = np.sum(moved * cotangent)
    right = np.sum(np.asarray(gradient, np.float64) * direction)
    scale = np.linalg.norm(moved) * np.linalg.norm(cotangent) + 1
    assert abs(left - right) <= 1e-5 * scale, f"gradient of {what}: <map(u), y> is {left}, <u, gradient> is {right}"
