"""Concept activation vectors, on activations whose directions are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import concept_vector, tcav
from tests.nets import normal

SHAPE = (6, 6, 3)


@pytest.fixture(scope="module")
def made():
    """The score of class 0 grows with red and falls with green; blue plays no role."""
    net = jc.serial(conv=jc.Conv(3, 1, bias=False), relu=jax.nn.relu, pool=jc.GlobalAvgPool(), scores=jc.Dense(2))
    params = {
        "conv": {"kernel": jnp.eye(3)[None, None]},
        "scores": {"kernel": jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), "bias": jnp.zeros(2)},
    }
    return net, params, {}


def images(count, seed, color=None):
    x = np.abs(normal((count, *SHAPE), seed))
    if color is not None:
        x[..., color] += 3
    return x


@pytest.mark.parametrize(("color", "score"), [(0, 1.0), (1, 0.0)])
def test_the_sign_of_a_concept_is_found(color, score, made):
    found = tcav(
        *made, images(12, 0), 0, concept=images(8, 1, color), others=images(48, 2), path="relu", runs=12, batch_size=5
    )
    assert found.score == score
    assert found.accuracies.min() > 0.95
    assert found.p_value < 0.05


def test_a_concept_without_a_role_is_like_chance(made):
    found = tcav(*made, images(12, 0), 0, concept=images(8, 1, 2), others=images(200, 2), path="relu", runs=12)
    assert found.accuracies.min() > 0.95
    assert found.p_value > 0.01


def test_the_direction_is_that_of_the_concept(made):
    found = concept_vector(*made, images(30, 1, 2), images(30, 2), path="conv")
    assert found.vector.shape == SHAPE
    assert found.accuracy == 1.0
    assert_allclose(np.linalg.norm(found.vector), 1, rtol=1e-5)
    by_color = found.vector.mean((0, 1))
    assert by_color[2] > 10 * np.abs(by_color[:2]).max()


def test_images_of_one_distribution_are_classified_by_chance(made):
    found = concept_vector(*made, images(60, 1), images(60, 2), path="conv")
    assert 0.3 < found.accuracy < 0.7


def test_pixels_may_be_preprocessed(made):
    pixels = [np.uint8(np.clip(images(n, seed, color) * 30, 0, 255)) for n, seed, color in ((9, 1, 0), (40, 2, None))]
    scale = lambda x: x / 30  # noqa: E731
    found = tcav(*made, pixels[1][:5], 0, concept=pixels[0], others=pixels[1], path="relu", runs=2, preprocess=scale)
    assert found.score == 1
    with pytest.raises(jc.DTypeError, match="pass preprocess="):
        concept_vector(*made, *pixels, path="relu")


def test_welch_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    from jaxconv.inspect.concepts import _welch

    a, b = normal((9,), 1), normal((14,), 2) * 3 + 0.5
    assert_allclose(_welch(a, b), stats.ttest_ind(a, b, equal_var=False).pvalue, rtol=1e-4)
    assert _welch(np.ones(3), np.ones(3)) == 1
    assert _welch(np.ones(3), np.zeros(3)) == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "rely"}, jc.PathError, "path must name a layer of net, got 'rely'"),
        ({"concept": images(2, 1)}, jc.ShapeError, "concept must have at least 3 images, and others twice as many"),
        ({"others": images(9, 1)}, jc.ShapeError, "twice as many, got 8 and 9"),
        ({"runs": 1}, jc.ArgumentError, "runs must be at least 2, got 1"),
        ({"ridge": 0.0}, jc.ArgumentError, "ridge must be positive, got 0.0"),
        ({"concept": np.zeros((0, *SHAPE))}, jc.ShapeError, "concept must be an array with at least one item"),
        ({"others": np.full((20, *SHAPE), np.nan, np.float32)}, FloatingPointError, "finite activations on others"),
        (
            {"concept": np.ones((4, *SHAPE), np.float32), "others": np.ones((20, *SHAPE), np.float32)},
            jc.ArgumentError,
            "concept and others must have different activations",
        ),
    ],
)
def test_wrong_arguments_are_named(change, error, message, made):
    options = {"concept": images(8, 1), "others": images(20, 2), "path": "relu"} | change
    with pytest.raises(error, match=message):
        tcav(*made, images(4, 0), 0, **options)
