"""A new type of layer declares its arrays once; everything else reads the declaration."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.layers.base import Leaf, Stored
from jaxconv.weights import WeightsError, from_keras, from_torch, load, save, to_torch


@dataclass(frozen=True, repr=False)
class Scale(Leaf):
    """Multiplies the channels, counts nothing, and is trained with noise."""

    keras: ClassVar[str] = "Rescaling2D"
    training_only: ClassVar[tuple[str, ...]] = ("noise",)
    start: float = 2.0
    noise: float = 0.0

    def stored(self, x=None):
        channels = None if x is None else x.shape[-1]
        gain = Stored("gain", (channels,), self.start, torch="weight", least=0)
        return gain, Stored("offset", (channels,), jax.nn.initializers.normal(), "state")

    def apply(self, params, state, x, *, train=False, key=None):
        entries = self.entries(params, state)
        return x * entries["gain"] + entries["offset"], state


NET = jc.serial(a=jc.repeat(Scale(), 2))
SCALE = jc.serial(Scale())


def test_it_is_initialized_and_counted():
    params, state = NET.init(0, (1, 3))
    assert_array_equal(params["a"]["gain"], np.full((2, 3), 2.0))
    assert state["a"]["offset"].shape == (2, 3)
    assert jc.summary(NET, (1, 3)).parameters == 6
    with pytest.raises(jc.ParameterError, match=r"^0 \(Scale\): state must have an entry 'offset', got none$"):
        SCALE.apply({"0": {"gain": jnp.ones(3)}}, {"0": {}}, jnp.ones((1, 3)))


def test_it_comes_from_torch_and_goes_there():
    tensors = {f"a.{i}.{name}": np.full(3, 1.0 + i, np.float32) for i in range(2) for name in ("weight", "offset")}
    params, state = from_torch(NET, tensors)
    assert_array_equal(params["a"]["gain"], [[1, 1, 1], [2, 2, 2]])
    assert {name: tensor.shape for name, tensor in to_torch(NET, params, state).items()} == dict.fromkeys(tensors, (3,))
    with pytest.raises(WeightsError, match=r"a\.1\.offset must have shape \(3,\), got \(4,\)"):
        from_torch(NET, tensors | {"a.1.offset": np.ones(4, np.float32)})
    with pytest.raises(WeightsError, match=r"^a\.0\.weight must be at least 0, got -1$"):
        from_torch(NET, tensors | {"a.0.weight": np.full(3, -1.0, np.float32)})


def test_it_comes_from_keras():
    arrays = {f"layers/rescaling2d/vars/{i}": np.full(3, i, np.float32) for i in range(2)}
    params, state = from_keras(SCALE, arrays)
    assert_array_equal(params["0"]["gain"], np.zeros(3))
    assert_array_equal(state["0"]["offset"], np.ones(3))


def test_it_is_saved_and_loaded(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "net.safetensors"
    params, state = SCALE.init(0, (1, 3))
    save(path, SCALE, params, state)
    loaded, _ = load(path, jc.serial(Scale(noise=0.5)))
    assert_array_equal(loaded["0"]["gain"], params["0"]["gain"])
    with pytest.raises(WeightsError, match="params/0/gain must be an array of Scale, got none"):
        save(path, SCALE, {"0": {}}, state)
    with pytest.raises(WeightsError, match="must have only arrays that layers of net store, got params/0/bias too"):
        save(path, SCALE, {"0": params["0"] | {"bias": jnp.ones(3)}}, state)
    with pytest.raises(WeightsError, match=r"state/0/offset must have shape \(3,\), got \(2,\)"):
        save(path, SCALE, params, {"0": {"offset": jnp.ones(2)}})
