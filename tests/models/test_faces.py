"""Descriptors and landmarks of faces: what face-api gives in Node, recorded by `tests.record_face_api`."""

import json

import jax
import numpy as np
import pytest

import jaxconv as jc
from experiments import pretrained
from experiments.images import read_image
from tests.experiments.photographs import photograph
from tests.record_face_api import NETS, RECORD, images

COUNTS = {"face_descriptor": (150, 5_607_488), "face_landmarks": (112, 356_840)}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_files(name):
    side, count = COUNTS[name]
    assert jc.summary(getattr(jc.models, name)(), (1, side, side, 3)).parameters == count


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_node_with_its_weights(name):
    try:
        model = getattr(pretrained, name)()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    wanted = np.array(json.loads(RECORD.read_text())[name])
    x = model.preprocess(images(read_image(photograph("astronaut.png")), name))
    y, _ = jax.jit(model.net.apply)(model.params, model.state, x)
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_separable_convolutions_take_keras_names():
    names = ("depthwise_filter", "pointwise_filter", "bias")
    arrays = {f"dense1/conv0/{name}": np.full(1, i) for i, name in enumerate(names)}
    named = pretrained.keras_names(arrays)
    wanted = {"depthwise/vars/0": 0, "pointwise/vars/0": 1, "pointwise/vars/1": 2}
    assert {name: int(array[0]) for name, array in named.items()} == {f"dense1/conv0/{k}": v for k, v in wanted.items()}
