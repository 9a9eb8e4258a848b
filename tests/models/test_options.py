"""What the networks take: factors, rates and stems; and what they refuse."""

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc
from jaxconv.errors import DTypeError

SMALL = (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("shufflenet_v2_x1_0", {"width": 0.5}),
        ("regnet_x_400mf", {"width": 0.5}),
        ("convnext_tiny", {"width": 0.5}),
    ],
)
def test_half_the_width_is_about_a_quarter_of_the_parameters(name, option):
    make = getattr(jc.models, name)
    whole, half = (jc.summary(make(2, **some), SMALL).parameters for some in ({}, option))
    assert 0.2 < half / whole < 0.35
    assert jc.summary(make(2, width=1.0), SMALL).parameters == whole


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "resnet20", "r3d_18", "r2plus1d_18"])
def test_dropout_stands_before_the_scores(name):
    shape = (1, 2, 32, 32, 3) if name.startswith("r3d") or "plus" in name else SMALL
    rows = jc.summary(getattr(jc.models, name)(3, dropout=0.5), shape).rows
    assert [type(row.layer) for row in rows[-2:]] == [jc.Dropout, jc.Dense]
    assert not any(isinstance(row.layer, jc.Dropout) for row in jc.summary(getattr(jc.models, name)(3), shape).rows)


def test_a_stem_for_small_frames_keeps_their_size():
    for name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        rows = jc.inspect.trace(getattr(jc.models, name)(3, small_images=True), (1, 2, 32, 32, 3))
        assert next(row.output.shape for row in rows if row.path == "stem")[1:4] == (2, 32, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jc.models.hed(()), "depths must have at least one block"),
        (lambda: jc.models.resnet(lambda *a: None, ()), "depths must have at least one stage"),
        (lambda: jc.models.cifar_resnet(20.5), "depth must be"),
        (lambda: jc.models.convnet_from_spec("(" * 2000), "at most 100"),
        (lambda: jc.models.efficientnet_b0(head=0), "features must be"),
        (lambda: jc.models.convnext_tiny(width=0.0), "width must be positive"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(jc.ArgumentError, match=message):
        make()


def test_a_mobilenet_without_a_stride_has_nothing_to_dilate():
    rows = [row._replace(stride=1) for row in jc.models.mobilenet.V3_SMALL[:2]]
    net = jc.models.mobilenet_v3(rows, 16, dilate=True)
    assert jc.summary(net, SMALL).parameters > 0


def test_the_auxiliary_head_of_a_segmenter_may_be_narrower():
    wide, narrow = (
        jc.summary(jc.models.fcn_resnet50(2, aux_loss=True, **some), (1, 64, 64, 3)).parameters
        for some in ({}, {"aux_width": 16})
    )
    assert narrow < wide


def test_whole_numbers_are_not_taken_for_normalized_colors():
    net = jc.models.googlenet(2, transform_input=True, aux_logits=False)
    with pytest.raises(DTypeError, match="floating-point"):
        jax.eval_shape(lambda x: net.init(jax.random.key(0), x), jnp.zeros(SMALL, jnp.uint8))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: jc.models.resnet18(width=0.5), "width must be an integer, got 0.5"),
        (lambda: jc.models.vgg11(width=0.5), "width must be an integer, got 0.5"),
        (lambda: jc.models.alexnet(width=0), "width must be at least 1, got 0"),
        (lambda: jc.models.densenet121(width=0.5), "width must be an integer, got 0.5"),
        (lambda: jc.models.resnet18(drop_path=2.0), r"drop_path must be between 0 and 1, got 2\.0"),
        (lambda: jc.models.mobilenet_v2(drop_path=-1), "drop_path must be between 0 and 1, got -"),
        (lambda: jc.models.regnet_y_400mf(drop_path=2), "drop_path must be between 0 and 1, got 2"),
        (lambda: jc.models.r3d_18(drop_path=2), "drop_path must be between 0 and 1, got 2"),
    ],
)
def test_the_option_that_is_wrong_is_named(call, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        call()
