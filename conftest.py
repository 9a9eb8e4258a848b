"""What every docstring example may use without importing it."""

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, jc=jc)
