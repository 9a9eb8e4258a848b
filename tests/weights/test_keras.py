"""Keras's names and orders: what ``save_weights`` of Keras 3.15 wrote for such a model, and what does not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.weights import WeightsError, from_keras
from tests.nets import normal

relu = jax.nn.relu
NET = jc.serial(
    jc.Conv(4),
    relu,
    jc.BatchNorm(scale=False, eps=1e-3),
    jc.Dropout(0.5),
    jc.ConvTranspose(6, 2, stride=2),
    jc.LayerNorm(eps=1e-3),
    jc.GroupNorm(2, eps=1e-3),
    jc.serial(jc.Conv(4, 3, groups=2, padding="VALID"), relu, jc.Conv(2, 1, bias=False)),
    jc.Flatten(),
    jc.Dense(3),
    relu,
    jc.Dense(2),
)
SHAPE = (2, 4, 4, 3)
# keras.Sequential of the same layers, compiled with "sgd", in the order of the file.
SHAPES = {
    "layers/batch_normalization/vars/0": (4,),
    "layers/batch_normalization/vars/1": (4,),
    "layers/batch_normalization/vars/2": (4,),
    "layers/conv2d/vars/0": (3, 3, 3, 4),
    "layers/conv2d/vars/1": (4,),
    "layers/conv2d_transpose/vars/0": (2, 2, 6, 4),
    "layers/conv2d_transpose/vars/1": (6,),
    "layers/dense/vars/0": (72, 3),
    "layers/dense/vars/1": (3,),
    "layers/dense_1/vars/0": (3, 2),
    "layers/dense_1/vars/1": (2,),
    "layers/dropout/seed_generator/vars/0": (2,),
    "layers/group_normalization/vars/0": (6,),
    "layers/group_normalization/vars/1": (6,),
    "layers/layer_normalization/vars/0": (6,),
    "layers/layer_normalization/vars/1": (6,),
    "layers/sequential/layers/conv2d/vars/0": (3, 3, 3, 4),
    "layers/sequential/layers/conv2d/vars/1": (4,),
    "layers/sequential/layers/conv2d_1/vars/0": (1, 1, 4, 2),
    "optimizer/vars/0": (),
    "optimizer/vars/1": (),
}
ARRAYS = {name: normal(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
ARRAYS["layers/batch_normalization/vars/2"] = abs(ARRAYS["layers/batch_normalization/vars/2"])


@pytest.mark.parametrize("x", [None, SHAPE], ids=["without x", "with x"])
def test_each_kind_of_layer_has_its_rule(x):
    params, state = from_keras(NET, ARRAYS, x)
    places = {
        "layers/conv2d/vars/0": params["0"]["kernel"],
        "layers/conv2d/vars/1": params["0"]["bias"],
        "layers/batch_normalization/vars/0": params["2"]["bias"],
        "layers/batch_normalization/vars/1": state["2"]["mean"],
        "layers/batch_normalization/vars/2": state["2"]["var"],
        "layers/conv2d_transpose/vars/0": params["4"]["kernel"],
        "layers/layer_normalization/vars/0": params["5"]["scale"],
        "layers/layer_normalization/vars/1": params["5"]["bias"],
        "layers/group_normalization/vars/0": params["6"]["scale"],
        "layers/sequential/layers/conv2d/vars/0": params["7"]["0"]["kernel"],
        "layers/sequential/layers/conv2d_1/vars/0": params["7"]["2"]["kernel"],
        "layers/dense/vars/0": params["9"]["kernel"],
        "layers/dense_1/vars/0": params["11"]["kernel"],
        "layers/dense_1/vars/1": params["11"]["bias"],
    }
    for name, array in places.items():
        assert_array_equal(array, ARRAYS[name], err_msg=name)
    wanted = jax.eval_shape(lambda key: NET.init(key, SHAPE), jax.random.key(0))
    assert jax.tree.map(jnp.shape, (params, state)) == jax.tree.map(jnp.shape, wanted)


def test_names_are_attributes_and_what_has_none_stands_at_its_parents_level():
    net = jc.serial(
        jc.inline(jc.serial(jc.Conv(2), jc.Conv(3))),
        head=jc.serial(relu, jc.inline(jc.Dense(4))),
        last=jc.residual(jc.serial(fc=jc.Dense(4)), jc.Dense(4), name="skip"),
    )
    shapes = {
        "layers/conv2d/vars/0": (3, 3, 3, 2),
        "layers/conv2d/vars/1": (2,),
        "layers/conv2d_1/vars/0": (3, 3, 2, 3),
        "layers/conv2d_1/vars/1": (3,),
        **{
            f"{name}/vars/{i}": shape
            for name in ("head", "last/fc", "last/skip")
            for i, shape in ((0, (3, 4)), (1, (4,)))
        },
    }
    arrays = {name: normal(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    params, _ = from_keras(net, arrays)
    assert_array_equal(params["1"]["kernel"], arrays["layers/conv2d_1/vars/0"])
    assert_array_equal(params["head"]["kernel"], arrays["head/vars/0"])
    assert_array_equal(params["last"]["fc"]["kernel"], arrays["last/fc/vars/0"])
    assert_array_equal(params["last"]["skip"]["bias"], arrays["last/skip/vars/1"])


DEPTHWISE = jc.serial(
    jc.Conv(4, 3),
    jc.Conv(8, 3, groups=4),
    jc.PReLU(shared=False),
    jc.Conv(8, 3, groups=4),
    jc.Conv(8, 3, groups=8, bias=False, padding="VALID"),
    jc.PReLU(),
    jc.GlobalAvgPool(),
    jc.Dense(3),
    jc.PReLU(shared=False),
    named=jc.serial(jc.Dense(4), jc.PReLU(shared=False)),
)
# keras.Sequential of Conv2D, DepthwiseConv2D with depth_multiplier=2, PReLU, Conv2D with groups=4, ... in Keras 3.15.
DEPTHWISE_SHAPES = {
    "layers/conv2d/vars/0": (3, 3, 4, 4),
    "layers/conv2d/vars/1": (4,),
    "layers/depthwise_conv2d/vars/0": (3, 3, 4, 2),
    "layers/depthwise_conv2d/vars/1": (8,),
    "layers/p_re_lu/vars/0": (1, 1, 8),
    "layers/conv2d_1/vars/0": (3, 3, 2, 8),
    "layers/conv2d_1/vars/1": (8,),
    "layers/depthwise_conv2d_1/vars/0": (3, 3, 8, 1),
    "layers/p_re_lu_1/vars/0": (1, 1, 1),
    "layers/dense/vars/0": (8, 3),
    "layers/dense/vars/1": (3,),
    "layers/p_re_lu_2/vars/0": (3,),
    "named/layers/dense/vars/0": (3, 4),
    "named/layers/dense/vars/1": (4,),
    "named/layers/p_re_lu/vars/0": (4,),
}


@pytest.mark.parametrize("x", [None, (2, 6, 6, 4)], ids=["without x", "with x"])
def test_depthwise_kernels_and_shared_slopes_lose_axes(x):
    arrays = {name: normal(shape, seed) for seed, (name, shape) in enumerate(DEPTHWISE_SHAPES.items())}
    params, _ = from_keras(DEPTHWISE, arrays, x)
    assert_array_equal(params["1"]["kernel"], arrays["layers/depthwise_conv2d/vars/0"].reshape(3, 3, 1, 8))
    assert_array_equal(params["1"]["bias"], arrays["layers/depthwise_conv2d/vars/1"])
    assert_array_equal(params["2"]["scale"], arrays["layers/p_re_lu/vars/0"][0, 0])
    assert_array_equal(params["3"]["kernel"], arrays["layers/conv2d_1/vars/0"])
    assert_array_equal(params["4"]["kernel"][:, :, 0], arrays["layers/depthwise_conv2d_1/vars/0"][..., 0])
    assert_array_equal(params["5"]["scale"], arrays["layers/p_re_lu_1/vars/0"][0, 0])
    assert_array_equal(params["named"]["1"]["scale"], arrays["named/layers/p_re_lu/vars/0"])


def test_depthwise_layers_that_do_not_fit():
    net = jc.serial(jc.Conv(8, 3, groups=4, bias=False))
    refused(
        r"no place in the net:\n  layers/depthwise_conv2d/vars/0 \(3, 3, 8, 1\) .*\n"
        r"places that no tensor fills:\n  layers/conv2d/vars/0 \(3, 3, \?, 8\)",
        {"layers/depthwise_conv2d/vars/0": np.ones((3, 3, 8, 1))},
        net=net,
    )
    refused(
        r"a/vars/0 must have shape \(\?,\), got \(4, 4, 8\)$",
        {"a/vars/0": np.ones((4, 4, 8))},
        net=jc.serial(a=jc.PReLU(shared=False)),
    )
    refused(
        r"a/vars/0 must have shape \(1,\), got \(8,\)$", {"a/vars/0": np.ones((1, 1, 8))}, net=jc.serial(a=jc.PReLU())
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("named", [False, True], ids=["in a row", "attributes"])
def test_depthwise_layers_and_slopes_give_keras_numbers(tmp_path, monkeypatch, named):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    random = keras.initializers.RandomNormal(seed=1)
    options = {"bias_initializer": random, "padding": "same"}
    layers = {
        "stem": keras.layers.Conv2D(4, 3, **options),
        "depthwise": keras.layers.DepthwiseConv2D(3, depth_multiplier=2, **options),
        "each": keras.layers.PReLU(random, shared_axes=[1, 2]),
        "grouped": keras.layers.Conv2D(8, 3, groups=4, **options),
        "thin": keras.layers.DepthwiseConv2D(3, use_bias=False),
        "one": keras.layers.PReLU(random, shared_axes=[1, 2, 3]),
        "pool": keras.layers.GlobalAveragePooling2D(),
        "fc": keras.layers.Dense(3),
        "last": keras.layers.PReLU(random),
    }

    class Named(keras.Model):
        def __init__(self):
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

        def call(self, x):
            for name in layers:
                x = getattr(self, name)(x)
            return x

    model = Named() if named else keras.Sequential(list(layers.values()))
    x = normal((2, 6, 6, 4), 0)
    wanted = np.asarray(model(x))
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    ours = [layer for _, layer in DEPTHWISE.children[:-1]]
    net = jc.serial(**dict(zip(layers, ours, strict=True))) if named else jc.serial(*ours)
    # Of attributes Keras writes those after "layers" in the alphabet as if they were in a row.
    after = {"layers/conv2d": "stem", "layers/depthwise_conv2d_1": "thin", "layers/p_re_lu_1": "one"}
    y, _ = net.apply(*from_keras(net, path, rename=after if named else None), x)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_a_file_is_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        for name, array in ARRAYS.items():
            file[name] = array
    read, given = from_keras(NET, path), from_keras(NET, ARRAYS)
    jax.tree.map(assert_array_equal, read, given)


def test_convolutions_are_numbered_by_their_rank():
    arrays = {"layers/conv1d/vars/0": normal((3, 2, 4), 0), "layers/conv1d_1/vars/0": normal((3, 4, 5), 1)}
    params, _ = from_keras(jc.serial(jc.Conv(4, (3,), bias=False), relu, jc.Conv(5, (3,), bias=False)), arrays)
    assert_array_equal(params["2"]["kernel"], arrays["layers/conv1d_1/vars/0"])


def test_rename_moves_and_drops():
    moved = {f"model/{name}": array for name, array in ARRAYS.items()} | {"metrics/vars/0": np.zeros(())}
    got = from_keras(NET, moved, rename={"model/": "", "metrics/": None})
    jax.tree.map(assert_array_equal, got, from_keras(NET, ARRAYS))


def test_the_source_is_copied():
    for _ in range(20):
        arrays = {"vars/0": np.ones((64, 64), np.float32), "vars/1": np.ones(64, np.float32)}
        params, _ = from_keras(jc.Dense(64), arrays)
        for array in arrays.values():
            array[:] = 7
        assert_array_equal(params["kernel"], 1)
        assert_array_equal(params["bias"], 1)


# --- What does not fit ------------------------------------------------------------------------------------------------


def refused(match, arrays, x=None, net=NET):
    with pytest.raises(WeightsError, match=match):
        from_keras(net, arrays, x)


def test_a_missing_and_an_extra_array_are_listed_with_the_nearest():
    arrays = dict(ARRAYS)
    arrays["layers/dense_2/vars/0"] = arrays.pop("layers/dense_1/vars/0")
    refused(
        re.escape(
            "tensors that have no place in the net:\n  layers/dense_2/vars/0 (3, 2) (nearest: layers/dense_1/vars/0)\n"
            "places that no tensor fills:\n  layers/dense_1/vars/0 (?, 2) (nearest: layers/dense_2/vars/0)"
        ),
        arrays,
    )


@pytest.mark.parametrize(("x", "wanted"), [(None, r"\(\?, 3\)"), (SHAPE, r"\(72, 3\)")], ids=["without x", "with x"])
def test_a_wrong_shape_is_named(x, wanted):
    arrays = ARRAYS | {"layers/dense/vars/0": np.ones((3, 72), np.float32)}
    refused(rf"layers/dense/vars/0 must have shape {wanted}, got \(3, 72\)", arrays, x)


def test_a_number_that_is_not_finite_is_refused():
    refused(
        "layers/conv2d/vars/1 has values that are not finite", ARRAYS | {"layers/conv2d/vars/1": np.full(4, np.nan)}
    )


def test_a_layer_without_a_rule_is_named():
    refused(
        r"^body\.1 must be a layer that Keras has too, got LayerScale$",
        {},
        net=jc.serial(body=jc.serial(relu, jc.LayerScale())),
    )


def test_repeated_layers_are_refused():
    refused(
        "^body must be made by serial, since Keras has no repeat, got repeat$",
        {},
        net=jc.serial(body=jc.repeat(jc.Dense(2), 3)),
    )


def test_an_array_that_keras_has_not_is_named():
    class Weighing:
        children = (("fc", jc.Dense(2)),)

        def init(self, key, x):
            return {"weight": jnp.ones(()), "fc": jc.Dense(2).init(key, x)[0]}, {}

        def apply(self, params, state, x, *, train=False, key=None):
            return x, state

    arrays = {"fc/vars/0": np.ones((2, 2)), "fc/vars/1": np.ones(2)}
    refused(r"places that no tensor fills:\n  params/weight \(\)$", arrays, (1, 2), Weighing())
