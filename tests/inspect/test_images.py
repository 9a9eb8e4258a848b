"""Colors, spectra, regularizers: against NumPy, and back and forth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import images as im

KEY = jax.random.key(0)


def uniform(*shape, low=0.05, high=0.95):
    return jax.random.uniform(KEY, shape, minval=low, maxval=high)


def test_images_are_checked():
    assert im.as_images(np.full((1, 2, 2, 3), 51, np.uint8)).max() == pytest.approx(0.2)
    assert im.as_images(np.ones((1, 2, 2, 3), np.float64)).dtype == jnp.float32
    for x, error, message in [
        (np.ones((2, 2, 3)), jc.ShapeError, r"y must have shape \(batch, height, width, 3\), got \(2, 2, 3\)"),
        (np.ones((1, 2, 2, 1)), jc.ShapeError, r"y must have shape \(batch, height, width, 3\), got \(1, 2, 2, 1\)"),
        (np.ones((0, 2, 2, 3)), jc.ShapeError, r"got \(0, 2, 2, 3\)"),
        (np.full((1, 2, 2, 3), 128.0), jc.ArgumentError, r"y must have values in \[0, 1\], got values from 128 to 128"),
        (np.full((1, 2, 2, 3), np.nan), jc.ArgumentError, r"y must have values in \[0, 1\], got values from nan"),
        (np.ones((1, 2, 2, 3), int), jc.DTypeError, "y must be uint8 or floating, got int"),
    ]:
        with pytest.raises(error, match=message):
            im.as_images(x, "y", channels=3)
    with pytest.raises(jc.ShapeError, match=r"x must have shape \(batch, height, width, channels\), got \(2, 2\)"):
        im.as_images(np.ones((2, 2)))


# --- Color ------------------------------------------------------------------------------------------------------------


def test_covariance_weighs_images_alike():
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 4, 3)), rng.random((2, 3, 3)) / 2
    pa, pb = a.reshape(-1, 3), b.reshape(-1, 3)
    mean = (pa.mean(0) + pb.mean(0)) / 2
    want = ((pa - mean).T @ (pa - mean) / len(pa) + (pb - mean).T @ (pb - mean) / len(pb)) / 2
    assert_allclose(im.color_covariance([a, b]), want, rtol=1e-5)
    with pytest.raises(jc.ShapeError, match="images must have shapes"):
        im.color_covariance([a, b[..., :2]])
    with pytest.raises(jc.ShapeError, match="images must have shapes"):
        im.color_covariance([])


def test_photographs_are_what_the_docstring_says():
    data = pytest.importorskip("skimage.data")
    sample = pytest.importorskip("sklearn.datasets").load_sample_image
    # The stereo pair is read from its file: `stereo_motorcycle` wants a download.
    motorcycle = pytest.importorskip("skimage.io").imread(f"{data.__path__[0]}/motorcycle_left.png")
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), motorcycle, data.rocket()]
    photographs += [sample("china.jpg"), sample("flower.jpg")]
    assert_allclose(im.color_covariance(photographs), im.PHOTOGRAPHS, atol=5.1e-5)


def test_color_matrix_gives_noise_the_covariance():
    matrix = im.color_matrix(im.PHOTOGRAPHS)
    largest = np.linalg.eigvalsh(im.PHOTOGRAPHS)[-1]
    assert_allclose(matrix @ matrix.T * largest, im.PHOTOGRAPHS, rtol=1e-6)
    noise = np.random.default_rng(0).standard_normal((200_000, 3)) @ matrix.T
    assert_allclose(np.cov(noise.T) * largest, im.PHOTOGRAPHS, rtol=0.02)
    # Brightness first.
    assert (matrix[:, 0] > 0).all()
    assert np.linalg.norm(matrix[:, 0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("error", "covariance", "message"),
    [
        (jc.ShapeError, np.ones((2, 3)), "a symmetric matrix"),
        (jc.ShapeError, [[1.0, 0.5], [0.2, 1.0]], "a symmetric matrix"),
        (jc.ShapeError, [1.0], "a symmetric matrix"),
        (jc.ArgumentError, np.ones((2, 2)), "positive definite"),
    ],
)
def test_other_matrices_are_refused(error, covariance, message):
    with pytest.raises(error, match=f"covariance must be {message}"):
        im.color_matrix(covariance)


# --- Parameterizations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fourier", [True, False])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 9, 3), (2, 5, 6, 1)])
def test_numbers_and_images_there_and_back(fourier, bounded, shape):
    p = im.Parameterization(fourier=fourier, bounded=bounded)
    x = uniform(*shape)
    z = jax.jit(p.encode)(x)
    assert z.shape == ((*shape[:2], shape[2] // 2 + 1, shape[3], 2) if fourier else shape)
    assert_allclose(jax.jit(p.decode, static_argnums=1)(z, shape[1:3]), x, atol=2e-5)


def test_bounded_images_stay_in_range():
    p = im.Parameterization()
    x = p.decode(100 * p.noise(KEY, (1, 8, 8, 3)), (8, 8))
    assert 0 <= x.min() < x.max() <= 1
    assert_allclose(p.decode(p.encode(jnp.ones((1, 4, 4, 3))), (4, 4)), 0.999, rtol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_a_spectrum_of_noise_falls_as_asked(decay):
    p = im.Parameterization(decay=decay, covariance=None, bounded=False)
    x = np.asarray(p.decode(p.noise(KEY, (64, 32, 32, 1), std=0.5**0.5), (32, 32))) - 0.5
    # An image is real, so of the numbers at frequencies that are their own mirror a half is lost.
    assert 0.75 < x.std() < 1.05
    power = np.square(np.abs(np.fft.rfft2(x[..., 0]))).mean(axis=0)
    near, far = power[2, 2], power[8, 8]
    assert near / far == pytest.approx(16**decay, rel=0.5)


def test_colors_of_noise_vary_as_those_of_photographs():
    p = im.Parameterization(fourier=False, bounded=False)
    x = p.decode(p.noise(KEY, (1, 200, 200, 3), std=1.0), (200, 200)).reshape(-1, 3)
    d = np.sqrt(np.diag(im.PHOTOGRAPHS))
    assert_allclose(np.corrcoef(x.T), im.PHOTOGRAPHS / np.outer(d, d), atol=0.01)


def test_covariance_must_fit_the_channels():
    with pytest.raises(jc.ShapeError, match=r"covariance must be \(1, 1\) for these images, got \(3, 3\)"):
        im.Parameterization(covariance=im.PHOTOGRAPHS).encode(uniform(1, 4, 4, 1))
    two = im.Parameterization(covariance=((1.0, 0.5), (0.5, 1.0)))
    assert_allclose(two.decode(two.encode(uniform(1, 4, 4, 2)), (4, 4)), uniform(1, 4, 4, 2), atol=1e-5)


def test_a_covariance_may_be_an_array_and_is_checked_at_the_door():
    images = [np.random.default_rng(0).uniform(0, 1, (9, 9, 3))]
    covariance = im.color_covariance(images)
    given, lists = im.Parameterization(covariance=covariance), im.Parameterization(covariance=covariance.tolist())
    assert given == lists
    assert hash(given) == hash(lists)
    assert_allclose(given.decode(given.encode(uniform(1, 4, 4, 3)), (4, 4)), uniform(1, 4, 4, 3), atol=1e-5)
    with pytest.raises(jc.ArgumentError, match="covariance must be a matrix, \"photographs\" or None, got 'photos'"):
        im.Parameterization(covariance="photos")
    with pytest.raises(jc.ArgumentError, match="covariance must be positive definite"):
        im.Parameterization(covariance=np.ones((2, 2)))


def test_begin_takes_images_or_a_shape():
    p = im.PIXELS
    z, shape = im.begin(KEY, uniform(2, 4, 4, 3), p)
    assert shape == (2, 4, 4, 3)
    assert_allclose(p.decode(z, (4, 4)), uniform(2, 4, 4, 3), rtol=1e-5)
    z, shape = im.begin(KEY, (2, 4, 4, 3), p)
    assert shape == z.shape == (2, 4, 4, 3)
    assert 0.005 < z.std() < 0.02
    with pytest.raises(jc.ShapeError, match="x must be images or a shape"):
        im.begin(KEY, (4, 4, 3), p)
    with pytest.raises(jc.ArgumentError, match="x must be at least 1, got 0"):
        im.begin(KEY, (0, 4, 4, 3), p)


# --- Regularizers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_total_variation_is_numpys(beta):
    x = np.asarray(uniform(2, 4, 5, 3))
    down = np.diff(x, axis=1, append=x[:, -1:])
    right = np.diff(x, axis=2, append=x[:, :, -1:])
    want = ((down**2 + right**2) ** (beta / 2)).mean(axis=(1, 2, 3))
    assert_allclose(im.total_variation(x, beta=beta), want, rtol=1e-5)
    gradient = jax.grad(lambda x: im.total_variation(x, beta=beta).sum())
    assert_allclose(gradient(jnp.full((1, 3, 3, 1), 0.5)), 0)
    assert np.isfinite(gradient(x)).all()


def test_alpha_norm_is_numpys():
    x = np.asarray(uniform(2, 4, 5, 3))
    assert_allclose(im.alpha_norm(x, alpha=4.0), (np.abs(2 * x - 1) ** 4).mean(axis=(1, 2, 3)), rtol=1e-5)
    assert_allclose(jax.grad(lambda x: im.alpha_norm(x, alpha=1.5).sum())(jnp.full((1, 2, 2, 1), 0.5)), 0)


@pytest.mark.parametrize("size", [8, 64])
def test_nan_is_no_image_of_any_size(size):
    image = jnp.full((1, size, size, 3), 0.5).at[0, 3, 3, 0].set(jnp.nan)
    with pytest.raises(jc.ArgumentError, match=r"x must have values in \[0, 1\], got values from nan to nan"):
        im.as_images(image)


def test_a_list_is_no_shape():
    with pytest.raises(jc.ArgumentError, match=r"a shape as a tuple, got the list \[1, 16, 16, 3\]"):
        im.begin(jax.random.key(0), [1, 16, 16, 3], im.Parameterization())
