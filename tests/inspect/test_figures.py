"""Figures hold what they were given, and refuse what they cannot draw."""

import jax
import numpy as np
import pytest
from matplotlib import colors

import jaxconv as jc
from jaxconv import ShapeError
from jaxconv.inspect import figures
from tests.nets import ready


def pictures(figure):
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_images_are_drawn_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    figure = figures.images(images, list("abcde"), columns=2)
    np.testing.assert_array_equal(pictures(figure), images)
    assert [ax.get_title() for ax in figure.axes if ax.images] == list("abcde")


def test_filters_share_one_scale_with_zero_in_gray():
    kernel = np.zeros((3, 3, 1, 2))
    kernel[0, 0, 0, 0], kernel[1, 1, 0, 1] = 2.0, -1.0
    first, second = pictures(figures.filters(kernel))
    assert first[0, 0] == 1.0
    assert second[1, 1] == 0.25
    assert first[2, 2] == second[2, 2] == 0.5


def test_filters_of_inner_layers_have_a_picture_for_each_pair_of_channels():
    assert len(pictures(figures.filters(np.ones((3, 3, 2, 5))))) == 10
    assert len(pictures(figures.filters(np.zeros((3, 3, 3, 5))))) == 5


def test_filters_of_one_dimension_are_strips_and_of_three_are_slices():
    strip = np.random.default_rng(0).uniform(-1, 1, (5, 3, 2))
    drawn = pictures(figures.filters(strip))
    assert len(drawn) == 2
    np.testing.assert_allclose(drawn[1], strip[..., 1].T / np.abs(strip).max() / 2 + 0.5)
    block = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5, 1, 2))
    drawn = pictures(figures.filters(block))
    assert [a.shape for a in drawn] == [(4, 17)] * 2
    np.testing.assert_allclose(drawn[1][:, 6:11], block[1, ..., 0, 1] / np.abs(block).max() / 2 + 0.5)
    assert (drawn[1][:, [5, 11]] == 1).all()


def test_a_mosaic_holds_images_of_any_size():
    wide, tall, bytes_ = np.zeros((2, 4, 3)), np.full((8, 4, 1), 0.5), np.full((2, 2, 3), 51, np.uint8)
    (ax,) = figures.mosaic([[wide, tall], [tall], [bytes_]], ["a", "b", "c"], cell=16).axes
    sheet = np.asarray(ax.images[0].get_array())
    assert sheet.shape == (51, 34, 3)
    assert (sheet[:, :, 0] == 0).sum() == 8 * 16
    assert (sheet[:, :, 0] == 0.5).sum() == 2 * 16 * 8
    assert (sheet[4:12, :16] == 0).all()
    np.testing.assert_allclose(sheet[34:50, :16], 0.2, rtol=1e-6)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]


def test_activation_maps_have_a_row_for_each_layer_with_maps():
    maps = {"conv": np.arange(32.0).reshape(4, 4, 2), "pool": np.ones((2, 2, 3)), "scores": np.ones(10)}
    figure = figures.activation_maps(maps, most=2)
    drawn = pictures(figure)
    assert [a.shape for a in drawn] == [(4, 4), (4, 4), (2, 2), (2, 2)]
    np.testing.assert_array_equal(drawn[1], maps["conv"][..., 1])
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["conv\n4x4x2", "pool\n2x2x3"]


def test_learning_curves_draw_what_the_history_has():
    history = [{"epoch": 1, "loss": 2.0, "validation_loss": 2.5}, {"epoch": 2, "loss": 1.0, "validation_loss": 1.5}]
    (loss,) = figures.learning_curves(history).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0, 1.0], [2.5, 1.5]]
    _, accuracy = figures.learning_curves([row | {"validation_accuracy": 0.5} for row in history]).axes
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.5, 0.5]]


def test_confusion_matrix_writes_each_count():
    axes = figures.confusion_matrix([[3, 1], [0, 4]], ["cat", "dog"]).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "3", "4"]


def test_a_notebook_shows_a_figure_by_itself():
    figure = figures.images(np.zeros((1, 4, 4, 3)))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_images_may_have_different_sizes():
    some = [np.zeros((3, 4, 1)), np.ones((5, 2, 3))]
    assert [a.shape for a in pictures(figures.images(some))] == [(3, 4), (5, 2, 3)]


@pytest.mark.parametrize(
    ("shape", "rows", "columns"), [((3, 3, 64, 32), 8, 12), ((3, 3, 2, 5), 2, 5), ((3, 3, 1, 200), 12, 8)]
)
def test_filters_are_drawn_up_to_a_number(shape, rows, columns):
    assert len(pictures(figures.filters(np.ones(shape)))) == rows * columns
    assert len(pictures(figures.filters(np.ones(shape), most=4))) == 4


def test_patches_have_a_row_for_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    net = jc.serial(jc.Conv(3))
    params, state, _ = ready(net, (1, 8, 8, 3))
    top = jc.inspect.top_patches(
        net, params, state, images, "0", k=2, channels=[2, 0], preprocess=lambda x: x.astype("float32") / 255
    )
    figure = figures.patches(top)
    drawn = pictures(figure)
    for i, line in enumerate(top.patches):
        for j, patch in enumerate(line):
            np.testing.assert_array_equal(drawn[2 * i + j], patch)
    assert [ax.get_title() for ax in figure.axes] == [f"{score:.3g}" for score in top.scores.ravel()]
    assert [ax.get_ylabel() for ax in figure.axes] == ["channel 2", "", "channel 0", ""]


def test_neighbors_are_framed_by_label():
    database = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    figure = figures.neighbors(
        database[:2], database, [[3, 2], [1, 0]], query_labels=[0, 1], labels=[0, 1, 1, 0], classes=["cat", "dog"]
    )
    assert [int(a[0, 0]) for a in pictures(figure)] == [0, 3, 2, 1, 1, 0]
    assert [ax.get_title() for ax in figure.axes] == ["cat", "cat", "dog", "dog", "dog", "cat"]
    frames = [ax.spines["top"].get_edgecolor() for ax in figure.axes]
    green, red = (colors.to_rgba(name) for name in ("tab:green", "tab:red"))
    assert [frames[i] for i in (1, 2, 4, 5)] == [green, red, green, red]
    assert not figure.axes[0].spines["top"].get_visible()


def test_fields_are_drawn_where_they_are():
    figure = figures.fields(np.zeros((10, 20, 3)), [((2, 5), (3, 9)), ((-4, 6), (15, 22))], ["a", "b"])
    ax = figure.axes[0]
    assert [patch.get_bbox().bounds for patch in ax.patches] == [(2.5, 1.5, 6, 3), (14.5, -4.5, 7, 10)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_xlim()[1] > 21.5
    assert ax.get_ylim()[1] < -4.5


@pytest.mark.parametrize(("low", "map_name", "ends"), [(0, "inferno", (0, 1)), (-2, "blue and red", (-1, 1))])
def test_heat_maps_lie_over_the_whole_image(low, map_name, ends):
    heat = np.zeros((20, 20), np.float32)
    heat[0, :4], heat[0, 4], heat[0, 5] = 4, low, 1000
    # The one position of 400 that is far above all others is no measure.
    strength = np.minimum(np.abs(heat) / np.percentile(np.abs(heat), 99), 1)
    figure = figures.heat_maps(np.zeros((1, 8, 6, 1)), heat[None], ["cat"])
    image, over = figure.axes[0].images
    assert tuple(over.get_extent()) == tuple(image.get_extent()) == (-0.5, 5.5, 7.5, -0.5)
    assert (over.get_cmap().name, over.get_clim()) == (map_name, ends)
    np.testing.assert_allclose(over.get_alpha(), 0.7 * np.sqrt(strength))
    np.testing.assert_allclose(over.get_array(), np.sign(heat) * strength)
    assert strength[0, 0] == 1
    assert np.sign(over.get_array()[0, 4]) == np.sign(low)


@pytest.mark.parametrize(("value", "strength"), [(0, 0), (3, 1)])
def test_heat_maps_of_one_position_or_of_none(value, strength):
    heat = np.zeros((1, 20, 20))
    heat[0, 3, 4] = value
    over = figures.heat_maps(np.zeros((1, 8, 6, 1)), heat).axes[0].images[1]
    assert over.get_array()[3, 4] == strength
    assert over.get_array().sum() == strength


def test_layer_statistics_of_one_step_and_of_several():
    net = jc.serial(fc=jc.Dense(2), relu=jax.nn.relu)
    params, state, x = ready(net, (4, 3))
    one = jc.inspect.layer_statistics(net, params, state, x, grads=params)
    figure = figures.layer_statistics(one)
    names = ["mean", "std", "zeros", "largest", "weight norm", "gradient norm"]
    assert [ax.get_title() for ax in figure.axes] == names
    np.testing.assert_allclose([bar.get_width() for bar in figure.axes[0].patches], one.mean)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["fc", "relu"]
    several = jax.tree.map(lambda a: np.stack([a, 2 * a]), one)
    figure = figures.layer_statistics(several, [0, 10])
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == names
    np.testing.assert_allclose(panels[1].collections[0].get_array(), np.asarray(several.std).T)
    assert figures.layer_statistics(jax.tree.map(lambda a: a[:1], several), [7])
    with pytest.raises(ShapeError, match=r"steps must be one for each of the statistics' steps, \(2,\), got 3"):
        figures.layer_statistics(several, [0, 1, 2])
    with pytest.raises(ShapeError, match=r"statistics must have arrays .* got \(1, 2, 2\)"):
        figures.layer_statistics(jax.tree.map(lambda a: a[None], several))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("every", [False, True])
def test_layer_statistics_leave_out_what_is_not_finite(several, every):
    net = jc.serial(fc=jc.Dense(2), relu=jax.nn.relu, out=jc.Dense(2))
    params, state, x = ready(net, (4, 3))
    zero = {name: jax.tree.map(np.zeros_like, own) if every or name == "fc" else own for name, own in params.items()}
    one = jc.inspect.layer_statistics(net, zero, state, x, updates=params)
    figure = figures.layer_statistics(jax.tree.map(lambda a: np.stack([a, a]), one) if several else one)
    under = {ax.get_title(): ax.get_xlabel() for ax in figure.axes if ax.get_title()}
    count = (2 if every else 1) * (2 if several else 1)
    assert under.pop("update ratio") == ("step, " if several else "") + f"{count} not finite"
    assert set(under.values()) == {"step" if several else ""}
    figure.canvas.draw()


def test_scatter_has_a_color_for_each_label():
    points = np.arange(10.0).reshape(5, 2)
    ax = figures.scatter(points, [1, 0, 1, 1, 2], ["cat", "dog", "owl"]).axes[0]
    np.testing.assert_array_equal(ax.collections[1].get_offsets(), points[[0, 2, 3]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["cat", "dog", "owl"]
    assert figures.scatter(points).axes[0].get_legend() is None
    many = figures.scatter(np.zeros((30, 2)), np.arange(30)).axes[0]
    assert len({tuple(c.get_facecolor()[0]) for c in many.collections}) == 30


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (jc.ShapeError, lambda: figures.images(np.ones((2, 4, 4))), r"images must have shape .* got \(2, 4, 4\)"),
        (jc.ShapeError, lambda: figures.images(np.ones((2, 4, 4, 2))), r"images must have shape"),
        (jc.ShapeError, lambda: figures.images([]), r"images must have shape"),
        (
            jc.ShapeError,
            lambda: figures.images([np.ones((4, 4, 1)), np.ones((4, 5))]),
            r"images must .* got \(4, 4, 1\) \(4, 5\)",
        ),
        (
            jc.ArgumentError,
            lambda: figures.images(np.full((2, 4, 4, 1), 255.0)),
            r"images must be uint8 or .* float64 from 255.0 to 255.0",
        ),
        (
            jc.ArgumentError,
            lambda: figures.images(np.full((2, 4, 4, 1), np.nan)),
            r"images must be uint8 or floats in \[0, 1\], got .* nan",
        ),
        (
            jc.ArgumentError,
            lambda: figures.images(np.full((2, 4, 4, 1), -1)),
            r"images must be uint8 or .* got int64 from -1 to -1",
        ),
        (
            jc.ShapeError,
            lambda: figures.images(np.ones((2, 4, 4, 1)), ["a"]),
            r"titles must be one for each of the 2 images, got 1",
        ),
        (jc.ShapeError, lambda: figures.fields(np.ones((4, 4)), []), r"image must have shape"),
        (
            jc.ShapeError,
            lambda: figures.fields(np.ones((4, 4, 1)), [(0, 1)]),
            r"boxes must have shape \(count, 2, 2\), .* got \(1, 2\)",
        ),
        (
            jc.ShapeError,
            lambda: figures.fields(np.ones((4, 4, 1)), np.ones((2, 2, 2)), ["a"]),
            r"labels must .* the 2 boxes, got 1",
        ),
        (
            jc.ShapeError,
            lambda: figures.heat_maps(np.ones((2, 4, 4, 1)), np.ones((3, 4, 4))),
            r"maps must have shape \(2, h, w\)",
        ),
        (
            jc.ArgumentError,
            lambda: figures.heat_maps(np.ones((1, 4, 4, 1)), np.full((1, 2, 2), np.inf)),
            r"maps must be finite, got 4",
        ),
        (
            jc.ShapeError,
            lambda: figures.heat_maps(np.ones((1, 4, 4, 1)), np.ones((1, 2, 2)), []),
            r"titles must be one for each",
        ),
        (
            jc.ArgumentError,
            lambda: figures.neighbors(np.ones((1, 4, 4, 1)), np.ones((2, 4, 4, 1)), [[2]]),
            r"indices must be from 0 to 1",
        ),
        (
            jc.ShapeError,
            lambda: figures.neighbors(np.ones((1, 4, 4, 1)), np.ones((2, 4, 4, 1)), [0]),
            r"indices must have shape \(1, k",
        ),
        (
            jc.ArgumentError,
            lambda: figures.neighbors(np.ones((1, 4, 4, 1)), np.ones((2, 4, 4, 1)), [[0]], labels=[0, 1]),
            r"query_labels and labels must both be given",
        ),
        (jc.ShapeError, lambda: figures.scatter(np.ones((3, 3))), r"points must have shape \(count, 2\), got \(3, 3\)"),
        (
            jc.ShapeError,
            lambda: figures.scatter(np.ones((3, 2)), [0, 1]),
            r"labels must have shape \(3,\), .* got \(2,\)",
        ),
        (
            jc.ArgumentError,
            lambda: figures.scatter(np.ones((2, 2)), [0, 2], ["a", "b"]),
            r"labels must be from 0 to 1, .* got 0 to 2",
        ),
        (jc.ShapeError, lambda: figures.filters(np.ones((3, 3))), r"kernel must have shape .* got \(3, 3\)"),
        (
            jc.ShapeError,
            lambda: figures.filters(np.ones((3, 3, 0, 2))),
            r"kernel must have shape .* got \(3, 3, 0, 2\)",
        ),
        (
            jc.ShapeError,
            lambda: figures.mosaic([], []),
            "labels must be one for each row, of at least one row, got 0 for 0",
        ),
        (
            jc.ShapeError,
            lambda: figures.mosaic([[np.ones((2, 2, 3))]], []),
            "labels must be one for each row, .* got 0 for 1",
        ),
        (jc.ShapeError, lambda: figures.mosaic([[np.ones((2, 2, 2))]], ["a"]), "rows must have shape"),
        (jc.ShapeError, lambda: figures.activation_maps({"scores": np.ones(10)}), r"maps must have .* got \[\(10,\)\]"),
        (
            jc.ShapeError,
            lambda: figures.confusion_matrix(np.ones((2, 3)), ["a", "b"]),
            r"counts must have shape \(2, 2\)",
        ),
        (jc.ArgumentError, lambda: figures.learning_curves([]), r"history must have at least one epoch"),
    ],
)
def test_what_cannot_be_drawn_is_named(error, call, message):
    with pytest.raises(error, match=message):
        call()
