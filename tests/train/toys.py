"""The smallest layers and data that training can be tested on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


@dataclasses.dataclass(frozen=True)
class Linear:
    classes: int = 3

    def init(self, key, x):
        size = int(np.prod(x.shape[1:]))
        kernel = 0.1 * jax.random.normal(key, (size, self.classes))
        return {"dense": {"kernel": kernel, "bias": jnp.zeros(self.classes)}}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        x = x.reshape(x.shape[0], -1)
        return x @ params["dense"]["kernel"] + params["dense"]["bias"], state


@dataclasses.dataclass(frozen=True)
class Centered:
    """A linear layer behind a running mean and a dropout: what has a state and draws random numbers."""

    classes: int = 3
    rate: float = 0.2

    def init(self, key, x):
        params, _ = Linear(self.classes).init(key, x)
        return params, {"norm": {"mean": jnp.zeros(x.shape[1:])}}

    def apply(self, params, state, x, *, train=False, key=None):
        mean = state["norm"]["mean"]
        if train:
            mean = 0.9 * mean + 0.1 * x.mean(0)
        if train and self.rate:
            x = x * jax.random.bernoulli(key, 1 - self.rate, x.shape) / (1 - self.rate)
        logits, _ = Linear(self.classes).apply(params, {}, x - mean)
        return logits, {"norm": {"mean": mean}}


def data(count, *, classes=3, seed=0, size=(4, 2)):
    """Images whose class is the largest of their first pixels."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, *size)).astype(np.float32)
    return images, images.reshape(count, -1)[:, :classes].argmax(1).astype(np.int32)


def assert_same(a, b):
    """Same structure, element types and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
