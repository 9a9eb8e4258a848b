"""Defaults that differ between libraries: an error where the file says another, a warning where it says nothing."""

import functools
import io
import json
import warnings
import zipfile

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.weights import WeightsError, from_keras, from_torch, read
from tests.weights.checks import assert_same

h5py = pytest.importorskip("h5py")

ARRAYS = {
    "layers/conv2d/vars/0": np.ones((1, 1, 2, 3), np.float32),
    "layers/conv2d/vars/1": np.zeros(3, np.float32),
    **{f"layers/batch_normalization{i}/vars/{j}": np.ones(3, np.float32) for i in ("", "_1") for j in range(4)},
    **{f"layers/layer_normalization/vars/{j}": np.ones(3, np.float32) for j in range(2)},
}


def net(first=1e-3, second=1e-3, last=1e-3):
    norms = jc.BatchNorm(eps=first), jc.BatchNorm(eps=second), jc.LayerNorm(eps=last)
    return jc.serial(jc.Conv(3, 1), norms[0], jax.nn.relu, norms[1], norms[2])


def layer(name, **config):
    return {"module": "keras.layers", "class_name": name, "config": {"name": name.lower(), **config}}


def config(first=1e-3, second=1e-3, last=1e-3):
    inner = layer("Sequential", layers=[layer("BatchNormalization", epsilon=second)])
    layers = [layer("Conv2D"), layer("BatchNormalization", epsilon=first, momentum=0.9), inner]
    return layer("Sequential", layers=[*layers, layer("LayerNormalization", epsilon=last, axis=[-1])])


def hdf5(attribute=None):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in ARRAYS.items():
            file[name] = array
        if attribute is not None:
            file.attrs["model_config"] = attribute
    return content.getvalue()


def keras(path, config, content=None, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        file.writestr("model.weights.h5", hdf5() if content is None else content)
    return path


def test_a_keras_file_is_read_as_its_weights(tmp_path):
    path = keras(tmp_path / "a.keras", config())
    assert_same(read(path), ARRAYS)
    assert_same(read(path.rename(tmp_path / "model")), ARRAYS)
    keras(tmp_path / "b.keras", config(), b"", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"b\.keras: it is damaged, truncated"):
        read(tmp_path / "b.keras")
    keras(tmp_path / "c.keras", config(), bytes(2**23), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"c\.keras: its arrays take 8388608 bytes, .* too many"):
        read(tmp_path / "c.keras")


@pytest.mark.parametrize("values", [(), (1e-5, 1e-3, 1e-6)])
def test_where_the_file_says_the_same_there_is_no_word(tmp_path, values):
    path = keras(tmp_path / "a.keras", config(*values))
    jax.tree.map(np.testing.assert_array_equal, from_keras(net(*values), path), from_keras(net(), ARRAYS))
    (tmp_path / "a.h5").write_bytes(hdf5(json.dumps(config(*values))))
    from_keras(net(*values), tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            (1e-5,),
            (),
            r"1 must have the eps of .* in the file, 0.001, got 1e-05: give BatchNorm\(eps=0.001\)$",
        ),
        ((), (1e-5, 1e-5), r"1 must have .* in the file, 1e-05, got 0.001"),
        ((1e-5, 1e-5), (1e-5,), r"3 must have .* in the file, 0.001, got 1e-05"),
        ((1e-3, 1e-3, 1e-5), (), r"4 must have .* got 1e-05: give LayerNorm\(eps=0.001\)$"),
        ((), ("1e-3", [1e-3]), r"1 must have .* in the file, nan, got 0.001"),
    ],
)
def test_where_the_file_says_another_it_is_an_error(tmp_path, ours, theirs, message):
    (tmp_path / "a.h5").write_bytes(hdf5(json.dumps(config(*theirs))))
    for path in (keras(tmp_path / "a.keras", config(*theirs)), tmp_path / "a.h5"):
        with pytest.raises(WeightsError, match=message) as caught:
            from_keras(net(*ours), path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3"])
def test_a_configuration_that_is_none(tmp_path, text):
    path = keras(tmp_path / "a.keras", text)
    if text == "3":
        from_keras(net(), path)
    else:
        with pytest.raises(WeightsError, match=r"a\.keras: it is damaged"):
            from_keras(net(), path)


def test_where_nothing_is_said_a_default_is_warned_of(tmp_path):
    (tmp_path / "a.weights.h5").write_bytes(hdf5())
    for source in (ARRAYS, tmp_path / "a.weights.h5", keras(tmp_path / "a.keras", layer("Mine"))):
        with pytest.warns(UserWarning, match="eps is jaxconv's default") as caught:
            from_keras(net(1e-5, 1e-5, 1e-5), source)
        messages = [str(warning.message) for warning in caught]
        assert messages[0].startswith("1, 3: eps is jaxconv's default 1e-05, Keras's is 0.001")
        assert "give BatchNorm(eps=0.001)" in messages[0]
        assert messages[1].startswith("4: eps is")
        assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_keras(net(1.001e-5, 1e-3, 1e-6), ARRAYS)


@pytest.mark.parametrize(
    ("function", "library", "message"),
    [
        (jax.nn.gelu, "torch", r"^act: torch\.nn\.GELU is exact by default"),
        (jax.nn.gelu, "keras", r"^act: Keras's gelu is exact by default"),
        (jax.nn.leaky_relu, "keras", r"^act: keras\.layers\.LeakyReLU has a negative_slope of 0\.3"),
        (jax.nn.leaky_relu, "torch", None),
        (jax.nn.relu, "keras", None),
        (functools.partial(jax.nn.gelu, approximate=True), "torch", None),
        (functools.partial(jax.nn.leaky_relu, negative_slope=0.01), "keras", None),
    ],
)
def test_functions_whose_default_differs(function, library, message):
    arrays = {"torch": {"fc.weight": np.ones((3, 2)), "fc.bias": np.ones(3)},
              "keras": {"fc/vars/0": np.ones((2, 3)), "fc/vars/1": np.ones(3)}}[library]  # fmt: skip
    read = {"torch": from_torch, "keras": from_keras}[library]
    of = jc.serial(fc=jc.Dense(3), act=function)
    if message is None:
        read(of, arrays)
    else:
        with pytest.warns(UserWarning, match=message):
            read(of, arrays)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_a_file_of_keras_gives_its_values_at_a_small_variance(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    kl = keras.layers
    first, second = kl.BatchNormalization(), kl.BatchNormalization(epsilon=2e-3)
    rows = kl.Input((4, 4, 2)), kl.Conv2D(3, 1), first, kl.ReLU(), second, kl.LayerNormalization()
    model = keras.Sequential(rows)
    for at in (1, 3):
        gamma, beta, mean, var = model.layers[at].get_weights()
        model.layers[at].set_weights([gamma, beta, mean, np.full_like(var, 1e-3)])
    model.save(tmp_path / "a.keras")
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    y, _ = net(1e-3, 2e-3).apply(*from_keras(net(1e-3, 2e-3), tmp_path / "a.keras"), x)
    np.testing.assert_allclose(y, np.asarray(model(x)), rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match=r"3 must have .* 0\.002, got 0\.001"):
        from_keras(net(), tmp_path / "a.keras")
