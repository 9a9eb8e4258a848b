"""The all-convolutional net: the paper's table of parameters, its sizes, and its arguments."""

import pytest

import jaxconv as jc
from jaxconv.inspect.trace import trace
from tests.models.shapes import by_shapes

SHAPE = (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("base", "reduce", "millions"),
    [
        ("A", "pool", 0.9),
        ("A", "stride", 0.9),
        ("A", "conv_pool", 1.28),
        ("A", "conv", 1.28),
        ("B", "pool", 1.0),
        ("B", "stride", 1.0),
        ("B", "conv_pool", 1.35),
        ("B", "conv", 1.35),
        ("C", "conv_pool", 1.4),
        ("C", "conv", 1.4),
    ],
)
def test_counts_are_about_the_papers(base, reduce, millions):
    """The paper rounds up; its 1.3 million for base C with a pool or a stride are 0.95 by its own table of layers."""
    count = jc.summary(jc.models.allconv(base, reduce=reduce), SHAPE).parameters / 1e6
    assert 0.88 * millions <= count <= millions


@pytest.mark.parametrize("reduce", ["pool", "stride", "conv_pool", "conv"])
@pytest.mark.parametrize("base", ["A", "B", "C"])
def test_means_are_over_six_by_six_positions(base, reduce):
    rows = {row.path: row for row in trace(jc.models.allconv(base, reduce=reduce), SHAPE)}
    assert rows["stage1"].output.shape == (1, 16, 16, 96)
    assert rows["stage2"].output.shape == (1, 8, 8, 192)
    assert rows["head"].output.shape == (1, 6, 6, 10)
    assert rows["mean"].output.shape == (1, 10)


def test_all_cnn_has_nothing_but_convolutions_and_one_mean():
    rows = jc.summary(jc.models.all_cnn_c(), SHAPE).rows
    kinds = {type(row.layer) for row in rows if not hasattr(row.layer, "children")}
    assert kinds == {jc.Conv, jc.Fn, jc.Dropout, jc.GlobalAvgPool}
    windows = [(row.layer.window, row.layer.stride) for row in rows if isinstance(row.layer, jc.Conv)]
    assert windows == [(3, 1), (3, 1), (3, 2), (3, 1), (3, 1), (3, 2), (3, 1), (1, 1), (1, 1)]


def test_arguments_that_are_none_of_the_papers_are_refused():
    with pytest.raises(jc.ArgumentError, match=r"^base must be one of 'A', 'B', 'C', got 'D'$"):
        jc.models.allconv("D")
    ways = "'pool', 'stride', 'conv_pool', 'conv'"
    with pytest.raises(jc.ArgumentError, match=rf"^reduce must be one of {ways}, got 'max'$"):
        jc.models.all_cnn_c(reduce="max")


def test_width_classes_and_channels_are_arguments_and_dropout_draws_in_training_only():
    net = jc.models.all_cnn_a(5, width=4)
    y, train = by_shapes(net, (2, 16, 16, 1))
    assert y.shape == (2, 5)
    with pytest.raises(jc.MissingKeyError, match=r"dropout0 \(Dropout\)"):
        train()
    quiet = jc.models.all_cnn_a(5, width=4, input_dropout=0.0, dropout=0.0)
    assert by_shapes(quiet, (2, 16, 16, 1))[1]().shape == (2, 5)
