"""Statistics by layer: every value is on its scale, and values that are on no scale have separate styles."""

import numpy as np
import pytest
from matplotlib import colors

from jaxconv.inspect import figures
from jaxconv.inspect.statistics import LayerStatistics, Recorder

OUTPUTS = ("mean", "std", "zeros", "largest")


def statistics(shape=(), **given):
    """Returns statistics of a layer for each number given; only the first two layers have weights."""
    layers = len(given["std"])
    numbers = {name: np.zeros(layers) for name in OUTPUTS} | {"weight_norm": np.full(layers, np.nan)} | given
    none = np.full(layers, np.nan)
    arrays = {name: np.broadcast_to(a, (*shape, layers)) for name, a in numbers.items()}
    measured = tuple((*OUTPUTS, *(["weight_norm"] if i < 2 else [])) for i in range(layers))
    rest = {name: np.broadcast_to(none, (*shape, layers)) for name in ("gradient_norm", "update_ratio")}
    return LayerStatistics(tuple(map(str, range(layers))), measured, **rest | arrays)


GIVEN = {
    "mean": [-1e-5, 3.0, 0.0],
    "std": [1e-4, 0.0, 30.0],
    "zeros": [0.0, 0.5, 1.0],
    "largest": [1.0, 2.0, np.inf],
    "weight_norm": [1e-3, 2.0, np.nan],
}


def panels(figure):
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


def drawn(ax, layer):
    """Returns the color at a layer's first step: of the last mesh or band that shows there."""
    for patch in ax.patches:
        if patch.get_y() < layer < patch.get_y() + patch.get_height():
            return "hatch" if patch.get_hatch() else patch.get_facecolor()
    for mesh in reversed(ax.collections):
        values = mesh.get_array()
        if not np.ma.getmaskarray(values)[layer, 0]:
            return mesh.cmap(mesh.norm(values[layer, 0]))
    return None


def test_rows_of_all_sizes_differ_from_each_other_and_from_what_is_on_no_scale():
    axes = panels(figures.layer_statistics(statistics((3,), **GIVEN), [0, 5, 10]))
    white, black = colors.to_rgba("white"), colors.to_rgba("black")
    for name, numbers in GIVEN.items():
        ax = axes[name.replace("_", " ")]
        for layer, number in enumerate(numbers):
            got = drawn(ax, layer)
            if name == "weight_norm" and layer == 2:
                assert got == "hatch"
            elif not np.isfinite(number):
                assert got == black
            elif number == 0:
                assert got == white
            else:
                assert got not in (white, black, "hatch", None)
        finite = {tuple(drawn(ax, layer)) for layer, number in enumerate(numbers) if np.isfinite(number)}
        assert len(finite) == np.isfinite(numbers).sum()
    scale = axes["std"].collections[0].norm
    assert isinstance(scale, colors.LogNorm)
    assert (scale.vmin, scale.vmax) == pytest.approx((1e-4, 100))
    assert abs(scale(1e-4) - scale(30.0)) > 0.8
    assert (axes["zeros"].collections[0].norm.vmin, axes["zeros"].collections[0].norm.vmax) == (0, 1)
    mean = axes["mean"].collections[0].norm
    assert (mean.vmin, mean.vmax) == (-10, 10)
    assert mean(-1e-5) < mean(0) - 0.04 < mean(0) == 0.5


def test_a_number_far_below_all_others_does_not_take_their_scale():
    ax = panels(figures.layer_statistics(statistics((2,), std=[1e-30, 1.0, 2.0])))["std"]
    assert ax.collections[0].norm.vmin == pytest.approx(1e-7)
    assert drawn(ax, 0) == ax.collections[0].cmap(0)


def test_bars_mark_what_has_none():
    axes = panels(figures.layer_statistics(statistics(**GIVEN)))
    assert axes["std"].get_xscale() == axes["weight norm"].get_xscale() == "log"
    assert (axes["mean"].get_xscale(), axes["zeros"].get_xscale()) == ("symlog", "linear")
    marks = {
        name: {round(text.get_position()[1]): text.get_text().strip() for text in ax.texts} for name, ax in axes.items()
    }
    assert marks == {
        "mean": {2: "0"},
        "std": {1: "0"},
        "zeros": {0: "0"},
        "largest": {2: "not finite"},
        "weight norm": {},
    }
    hatched = [patch.get_y() for patch in axes["weight norm"].patches if patch.get_hatch()]
    assert hatched == [1.5]
    assert axes["largest"].get_xlabel() == "1 not finite"
    for ax in axes.values():
        low, high = ax.get_xlim()
        widths = np.array([bar.get_width() for bar in ax.patches if not bar.get_hatch()])
        assert all(low <= width <= high for width in widths[np.isfinite(widths) & (widths != 0)])


def test_a_legend_names_the_marks_that_occur():
    def names(figure):
        return [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    assert names(figures.layer_statistics(statistics((2,), **GIVEN))) == ["zero", "not finite", "not measured"]
    assert names(figures.layer_statistics(statistics(**GIVEN))) == ["not measured"]
    ones = {name: [1.0, 1.0] for name in GIVEN}
    assert names(figures.layer_statistics(statistics((2,), **ones))) == []
    assert names(figures.layer_statistics(statistics((2,), **ones | {"zeros": [0.0, 1.0]}))) == ["zero"]


def test_a_recorder_is_drawn_with_its_steps():
    recorder = Recorder()
    for step in (3, 8):
        recorder.add(step, statistics(**GIVEN))
    mesh = panels(figures.layer_statistics(recorder))["std"].collections[0]
    assert sorted(set(mesh.get_coordinates()[..., 0].ravel())) == [3, 8, 13]
