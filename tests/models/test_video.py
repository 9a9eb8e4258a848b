"""Arguments of the networks for video."""

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.models.video import factored, spatial, spatiotemporal, video_resnet
from jaxconv.tree import walk
from tests.nets import ready


def sizes(net, shape):
    rows = jc.inspect.trace(net, shape)
    return [row.output.shape[1:] for row in rows if row.path.startswith("layer") and "." not in row.path]


def test_stages_halve_time_too_unless_their_convolutions_are_of_frames():
    shape = (1, 8, 32, 48, 3)
    halved = [(8, 16, 24, 64), (4, 8, 12, 128), (2, 4, 6, 256), (1, 2, 3, 512)]
    assert sizes(jc.models.r3d_18(), shape) == sizes(jc.models.r2plus1d_18(), shape) == halved
    assert sizes(jc.models.mc3_18(), shape) == [(8, *size[1:]) for size in halved]


def test_a_factored_convolution_has_about_the_parameters_of_the_whole():
    before, features = 64, 128
    x = (1, 2, 4, 4, before)
    whole, halves = (jc.summary(make(before, features, 1), x).parameters for make in (spatiotemporal, factored))
    between = factored(before, features, 1).children[0][1].features
    assert abs(halves - 2 * between - whole) < 9 * before + 3 * features


def test_width_classes_and_input_channels_are_free():
    net = jc.models.r2plus1d_18(7, width=16)
    rows = {row.path: row for row in jc.summary(net, (1, 2, 16, 16, 1)).rows}
    assert rows["stem.0"].output.shape == (1, 2, 8, 8, 11)
    assert rows["stem.0"].parameters == 7 * 7 * 1 * 11
    assert rows["fc"].output.shape == (1, 7)


def test_drop_path_grows_with_depth_and_draws_in_training_only():
    net = video_resnet([spatial, spatial], 3, depths=(1, 2), width=4, drop_path=0.5)
    assert [layer.rate for _, layer in walk(net) if isinstance(layer, jc.DropPath)] == [0.25, 0.5]
    params, state, x = ready(net, (8, 1, 8, 8, 3))
    apply = jax.jit(lambda key: net.apply(params, state, x, train=key is not None, key=key)[0])
    assert np.any(apply(jax.random.key(0)) != apply(jax.random.key(1)))
    assert apply(None).shape == (8, 3)
    with pytest.raises(jc.MissingKeyError, match=r"layer2\.0\.drop_path"):
        jax.eval_shape(lambda p: net.apply(p, state, x, train=True), params)


def test_stages_without_convolutions_are_refused():
    with pytest.raises(jc.ArgumentError, match="convs must be one for each of the 4 stages, got 2"):
        video_resnet([spatial, spatial])


def test_an_image_is_no_video():
    with pytest.raises(jc.ShapeError, match=r"stem\.0 \(Conv\): x must have a batch axis, 3 spatial axes and channels"):
        jc.models.r3d_18().init(jax.random.key(0), (1, 32, 32, 3))
