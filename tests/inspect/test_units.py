"""Filters, receptive fields of units, and what excites them most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import activations, filters, receptive_field, top_patches, unit_field
from tests.nets import ready

SHAPE = (1, 12, 10, 1)


def small():
    return jc.serial(
        conv=jc.Conv(3),
        relu=jax.nn.relu,
        pool=jc.MaxPool(2),
        block=jc.serial(conv=jc.Conv(2, (3, 5), stride=(1, 2))),
        flatten=jc.Flatten(),
        scores=jc.Dense(4),
    )


@pytest.fixture(scope="module")
def made():
    net = small()
    params, state, _ = ready(net, SHAPE)
    images = np.random.default_rng(1).integers(0, 256, (11, *SHAPE[1:]), np.uint8)
    return net, params, state, images


def scaled(images):
    return images.astype(jnp.float32) / 255


# --- Filters ----------------------------------------------------------------------------------------------------------


def test_filters_are_the_kernels():
    net = jc.serial(
        stem=jc.Conv(4),
        body=jc.remat(jc.serial(jc.Dense(2), jc.mixed_precision(jc.ConvTranspose(5)))),
        again=jc.repeat(jc.Conv(5), 3),
    )
    params, _, _ = ready(net, (1, 6, 6, 2))
    assert filters(net, params, "stem") is params["stem"]["kernel"]
    assert filters(net, params, "body.1") is params["body"]["1"]["kernel"]
    assert filters(net, params, "again").shape == (3, 3, 3, 5, 5)
    with pytest.raises(
        jc.PathError, match=r"must name a layer whose kernel has a window, one of 'stem', 'body\.1', .*, got 'body\.0'"
    ):
        filters(net, params, "body.0")
    with pytest.raises(jc.PathError, match="path must name a layer of net, got 'stam': nearest are 'stem'"):
        filters(net, params, "stam")
    with pytest.raises(jc.ParameterError, match="params must have a kernel with a window at 'stem', got none"):
        filters(net, {}, "stem")


# --- Fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "position"),
    [("conv", (0, 9)), ("pool", (5, 0)), ("block.conv", (2, 1)), ("block", (0, 2)), ("scores", ())],
)
def test_a_unit_sees_what_its_gradient_reaches(path, position, made):
    net, params, state, _ = made
    positive = jax.tree.map(np.abs, params)
    x = np.random.default_rng(0).uniform(1, 2, SHAPE).astype(np.float32)

    def unit(x):
        return activations(net, positive, state, x, paths=[path])[1][path][(0, *position)].sum()

    # A max pool passes the gradient of one position: so all are tried by a change instead.
    seen = np.zeros(SHAPE[1:3], bool)
    many = np.repeat(x, 120, 0)
    for i, at in enumerate(np.ndindex(*SHAPE[1:3])):
        many[i, *at] = 100
    reached = jax.jit(jax.vmap(lambda x: unit(x[None])))(many) != unit(x)
    for i, at in enumerate(np.ndindex(*SHAPE[1:3])):
        seen[at] = reached[i]
    rows, columns = np.nonzero(seen)
    want = ((rows.min(), rows.max() + 1), (columns.min(), columns.max() + 1))
    assert unit_field(net, SHAPE, path, position) == want
    assert seen.sum() == np.prod([high - low for low, high in want])


def test_fields_with_their_padding_and_with_fractions():
    net = jc.serial(jc.Conv(2), jc.Resize(9), jc.Conv(2))
    assert unit_field(net, (1, 6, 6, 1), "0", (0, 5), clip=False) == ((-1, 2), (4, 7))
    size, stride, offset = receptive_field(net, (1, 6, 6, 1))["2"][0]
    start = offset + 4 * stride
    (low, high), _ = unit_field(net, (1, 6, 6, 1), "2", (4, 4), clip=False)
    assert low <= start < low + 1
    assert high - 1 < start + size <= high
    assert unit_field(jc.serial(jc.Conv(2, (3,))), jnp.ones((1, 9, 2)), "0", [4]) == ((3, 6),)


@pytest.mark.parametrize(
    ("error", "path", "position", "message"),
    [
        (
            jc.ArgumentError,
            "pool",
            (6, 0),
            r"position must be inside the feature map of 'pool', of size \(6, 5\), got \(6, 0\)",
        ),
        (
            jc.ArgumentError,
            "pool",
            (-1, 0),
            r"position must be inside the feature map of 'pool', of size \(6, 5\), got \(-1, 0\)",
        ),
        (
            jc.ArgumentError,
            "pool",
            (1,),
            r"position must be inside the feature map of 'pool', of size \(6, 5\), got \(1,\)",
        ),
        (jc.ArgumentError, "pool", (1.0, 0), r"position must be an integer, got 1.0"),
        (
            jc.ArgumentError,
            "scores",
            (0, 0),
            r"position must be inside the feature map of 'scores', of size \(\), got \(0, 0\)",
        ),
        (jc.PathError, "blok", (0, 0), "path must name a layer of net, got 'blok': nearest are 'block'"),
    ],
)
def test_wrong_positions_are_named(error, path, position, message):
    with pytest.raises(error, match=message):
        unit_field(small(), SHAPE, path, position)


def test_a_layer_that_does_not_tell_what_it_sees_is_named():
    net = jc.serial(jc.Conv(2), lambda x: x - x.mean((1, 2), keepdims=True), jc.Conv(2), jc.parallel(jnp.sin, jnp.cos))
    with pytest.raises(
        jc.PathError,
        match="path must name a layer with a known receptive field, got '2'",
    ):
        unit_field(net, SHAPE, "2", (0, 0))
    with pytest.raises(jc.ShapeError, match="path '3' must name a layer that returns one array, got"):
        unit_field(net, SHAPE, "3", (0, 0))


# --- Top patches ------------------------------------------------------------------------------------------------------


def test_a_planted_pattern_is_the_top_patch():
    rng = np.random.default_rng(0)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.float32)
    bar = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0]], np.float32)
    kernel = np.stack([2 * cross - 1, 2 * bar - 1], -1)[:, :, None]
    images = rng.uniform(0, 0.3, (20, 9, 9, 1)).astype(np.float32)
    planted = {3: (2, 5), 17: (6, 1)}
    for image, (i, j) in planted.items():
        images[image, i : i + 3, j : j + 3, 0] = cross
    images[8, 1:4, 1:4, 0] = bar
    net = jc.serial(conv=jc.Conv(2, padding="VALID", bias=False))
    top = top_patches(net, {"conv": {"kernel": kernel}}, {}, images, "conv", k=2, batch_size=6)
    assert_array_equal(top.images[0], [3, 17])
    assert_array_equal(top.positions[0], [[2, 5], [6, 1]])
    for patch in top.patches[0]:
        assert_array_equal(patch[..., 0], cross)
    assert_array_equal(top.patches[1][0][..., 0], bar)
    assert top.images[1][0] == 8
    assert_allclose(top.scores[:, 0], [5, 3], rtol=1e-6)


@pytest.mark.parametrize("path", ["conv", "pool", "block.conv", "scores"])
@pytest.mark.parametrize(("batch_size", "device"), [(4, False), (4, True), (100, False)])
def test_top_patches_are_those_of_all_activations(path, batch_size, device, made):
    net, params, state, images = made
    given = jnp.asarray(images) if device else images
    top = top_patches(net, params, state, given, path, k=3, batch_size=batch_size, preprocess=scaled)
    every = np.asarray(activations(net, params, state, scaled(images), paths=[path])[1][path])
    for c, channel in enumerate(top.channels):
        a = every[..., channel]
        best = a.reshape(len(a), -1).max(1)
        order = np.argsort(-best, kind="stable")[:3]
        assert_array_equal(top.images[c], order)
        assert_allclose(top.scores[c], best[order], rtol=1e-4)
        for r, image in enumerate(order):
            position = tuple(top.positions[c, r])
            assert_allclose(a[(image, *position)], best[image], rtol=1e-4)
            box = unit_field(net, SHAPE, path, position)
            assert_array_equal(top.boxes[c, r], box)
            assert_array_equal(top.patches[c][r], images[(image, *(slice(*ends) for ends in box))])


def test_channels_can_be_chosen(made):
    net, params, state, images = made
    every, some = (
        top_patches(net, params, state, images, "conv", k=2, batch_size=4, preprocess=scaled, channels=channels)
        for channels in (None, [2, 0])
    )
    assert_array_equal(some.channels, [2, 0])
    assert_array_equal(some.scores, every.scores[[2, 0]])
    assert_array_equal(some.boxes, every.boxes[[2, 0]])


def test_a_unit_that_sees_only_padding_does_not_count():
    net = jc.serial(jc.Conv(1, 1, padding=2))
    params = {"0": {"kernel": -jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}}
    top = top_patches(net, params, {}, np.full((2, 3, 3, 1), 0.5, np.float32), "0", k=2)
    assert_allclose(top.scores, [[-0.5, -0.5]])
    assert [patch.shape for patch in top.patches[0]] == [(1, 1, 1)] * 2


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (jc.ArgumentError, {"k": 12}, "k must be at most the number of images, 11, got 12"),
        (jc.ArgumentError, {"k": 0}, "k must be at least 1, got 0"),
        (jc.ArgumentError, {"channels": [3]}, r"channels must be from 0 to 2 for 'conv', got \[3\]"),
        (jc.ArgumentError, {"channels": [-1]}, r"channels must be from 0 to 2 for 'conv', got \[-1\]"),
        (jc.ArgumentError, {"channels": []}, r"channels must be from 0 to 2 for 'conv', got \[\]"),
        (jc.PathError, {"path": "cnv"}, "path must name a layer of net, got 'cnv': nearest are 'conv'"),
        (
            jc.ShapeError,
            {"preprocess": lambda x: scaled(x)[:, 1:]},
            r"preprocess must keep the images' size \(12, 10\), got \(11, 10\)",
        ),
        (jc.ShapeError, {"preprocess": lambda x: scaled(x)[..., [0, 0]]}, r"conv \(Conv\): kernel"),
        (
            jc.DTypeError,
            {"preprocess": None},
            r"^images must have an element type .*, got uint8: pass preprocess=, .*\(conv \(Conv\): x must be a float",
        ),
        (
            jc.DTypeError,
            {"preprocess": lambda x: x + 1},
            r"^conv \(Conv\): x must be a floating-point array, got uint8",
        ),
        (
            jc.ArgumentError,
            {"channels": 3},
            r"channels must be a sequence of channels, such as \[3\] or range\(3\), got 3",
        ),
        (jc.ArgumentError, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(error, changes, message, made):
    net, params, state, images = made
    options = {"path": "conv", "k": 2, "preprocess": scaled} | changes
    with pytest.raises(error, match=message):
        top_patches(net, params, state, images, **options)


def test_inside_a_repeat_is_refused():
    net = jc.serial(jc.repeat(jc.serial(jc.Conv(1)), 2))
    params, state, x = ready(net, SHAPE)
    with pytest.raises(jc.PathError, match=r"path must name a layer outside of repeat, got '0\.0'"):
        top_patches(net, params, state, x, "0.0", k=1)
    assert top_patches(net, params, state, x, "0", k=1).boxes.shape == (1, 1, 2, 2)


class Counted:
    """A data set on disk, say, of which each image that is read is counted."""

    def __init__(self, images):
        self.images, self.read, self.shape = images, [], images.shape
        self.ndim, self.dtype = images.ndim, images.dtype

    def __len__(self):
        return len(self.images)

    def __getitem__(self, at):
        if isinstance(at, int):
            self.read.append(at)
        return self.images[at]


def test_patches_keep_no_image_and_each_is_read_once(made):
    net, params, state, images = made
    counted = Counted(images)
    top = top_patches(net, params, state, counted, "conv", k=4, preprocess=scaled, batch_size=4)
    assert sorted(counted.read) == np.unique(top.images).tolist()
    assert all(patch.base is None for line in top.patches for patch in line)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_win_nothing(bad, made):
    net, params, state, images = made
    floats = jnp.asarray(scaled(images)).at[3, 5, 5].set(bad)
    with pytest.raises(
        FloatingPointError, match=r"path 'conv' must have finite activations, got inf or NaN in channels \[0, 1, 2"
    ):
        top_patches(net, params, state, floats, "conv", k=2)


def test_the_networks_output_has_filters_and_patches(made):
    net, params, state, images = made
    output, scores = (top_patches(net, params, state, images, path, k=2, preprocess=scaled) for path in ("", "scores"))
    assert_array_equal(output.scores, scores.scores)
    lone = jc.Conv(3)
    params, _, _ = ready(lone, SHAPE)
    assert filters(lone, params, "") is params["kernel"]
    with pytest.raises(jc.ShapeError, match=r"path '' must name .* for 11 images"):
        top_patches(
            jc.serial(lone), {"0": params}, {}, images, "", k=2, preprocess=lambda x: scaled(x)[1:], batch_size=11
        )


def test_a_dense_layer_in_a_repeat_has_no_filters():
    net = jc.serial(flat=jc.Flatten(), twice=jc.repeat(jc.serial(fc=jc.Dense(12)), 3))
    params, _, _ = ready(net, (1, 2, 2, 3))
    with pytest.raises(jc.ParameterError, match=r"must have a kernel with a window at 'twice\.fc'"):
        filters(net, params, "twice.fc")


def test_a_position_is_a_sequence():
    with pytest.raises(
        jc.ArgumentError, match=r"position must be a sequence of ints, one for each axis .* of '0', got 3"
    ):
        unit_field(jc.serial(jc.Conv(2)), (1, 8, 8, 3), "0", 3)


@pytest.mark.parametrize("pad", [{"pad_mode": "circular"}, {}], ids=["conv", "pad"])
def test_circular_padding_is_seen_from_the_other_side(pad):
    row = [jc.Conv(1, 5, **pad)] if pad else [jc.Pad(2, mode="circular"), jc.Conv(1, 5, padding="VALID")]
    net = jc.serial(*row, last=jc.Conv(1, 3))
    params, state, x = ready(net, (1, 13, 13, 1))
    seen = jax.jacobian(lambda x: net.apply(params, state, x)[0][0, :, :, 0])(x)[..., 0, :, :, 0] != 0
    for position in ((0, 0), (1, 6), (12, 3)):
        inside = np.zeros((13, 13), bool)
        inside[tuple(slice(*span) for span in unit_field(net, x.shape, "last", position))] = True
        assert not (np.asarray(seen[position]) & ~inside).any()
    assert seen[0, 0, -1, -1]
